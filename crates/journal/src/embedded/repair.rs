//! Judges the storage engine's log before the engine reads it.
//!
//! The engine itself cuts an unfinished batch without a word, and refuses to start at a batch whose checksum is wrong. Here each batch is
//! checked first: damage at the tail is cut and reported; damage with whole batches behind it loses only the damaged bytes (the
//! file as it was is kept in `damaged/`). What was cut was either never acknowledged or broken by something else than a crash.
//!
//! A log file is a row of batches and then zeros (room made in advance). A batch: tag 1, item count (4), sequence (8); the items: tag 2,
//! kind (1), compression (1), keyspace (8), lengths of key (2), value (4) and stored value (4), key, stored value; or tag 4,
//! keyspace (8); then tag 3, checksum of the items (8), trailer (4). Numbers are little-endian.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

const TRAILER: [u8; 4] = *b"FJL\x03";
const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const CHUNK: usize = 64 * 1024;
/// The engine numbers batches one by one; between two in the log there are few that went elsewhere.
const SEQUENCE_STEP_MAX: u64 = 1 << 20;
const SEQUENCE_MAX: u64 = 1 << 62;

/// What was wrong with a log file, and what was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Repair {
    file: PathBuf,
    at: u64,
    bytes: u64,
    /// Records and marks in the damaged batches, where their heads can still be read.
    items: u64,
    batches_behind: u64,
    problem: &'static str,
}

impl std::fmt::Display for Repair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            file,
            at,
            bytes,
            items,
            batches_behind,
            problem,
        } = self;
        let file = file.display();
        write!(f, "{file}: {problem} at byte {at}; ")?;
        if *batches_behind == 0 {
            write!(f, "cut {bytes} bytes at the tail")?;
        } else {
            write!(
                f,
                "took out {bytes} bytes and kept {batches_behind} whole batches behind them (the file as it was is in damaged/)"
            )?;
        }
        write!(f, ", at most {items} records and marks known of")
    }
}

/// Checks all log files in `dir` and mends those that are damaged; `first` is done before any is changed.
pub(super) fn mend(
    dir: &Path,
    keep_in: &Path,
    first: impl FnOnce() -> io::Result<()>,
) -> io::Result<Vec<Repair>> {
    let mut first = Some(first);
    let mut repairs = Vec::new();
    for file in log_files(dir)? {
        let mut reader = Checker::open(&file)?;
        let Some(damage) = reader.first_damage()? else {
            continue;
        };
        if let Some(first) = first.take() {
            first()?;
        }
        repairs.push(mend_file(&file, &damage, keep_in)?);
    }
    Ok(repairs)
}

fn log_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "jnl") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Where the first batch that is not whole begins.
struct Damage {
    at: u64,
    items: u64,
    problem: &'static str,
}

enum Next {
    Whole,
    Clean,
    Broken { items: u64, problem: &'static str },
}

struct Checker<R> {
    from: R,
    /// Bytes of the whole input, and how many were taken.
    length: u64,
    at: u64,
    sequence: Option<u64>,
}

impl Checker<BufReader<File>> {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok(Self {
            from: BufReader::with_capacity(CHUNK, file),
            length,
            at: 0,
            sequence: None,
        })
    }
}

impl<R: BufRead> Checker<R> {
    fn first_damage(&mut self) -> io::Result<Option<Damage>> {
        loop {
            let at = self.at;
            match self.batch()? {
                Next::Whole => {}
                Next::Clean => return Ok(None),
                Next::Broken { items, problem } => return Ok(Some(Damage { at, items, problem })),
            }
        }
    }

    /// Takes one batch. After anything but [`Next::Whole`] the position means nothing.
    fn batch(&mut self) -> io::Result<Next> {
        let broken = |items, problem| Ok(Next::Broken { items, problem });
        let Some([tag]) = self.take::<1>()? else {
            return Ok(Next::Clean);
        };
        if tag == 0 {
            return if self.only_zeros()? {
                Ok(Next::Clean)
            } else {
                broken(0, "bytes that are no batch")
            };
        }
        if tag != START {
            return broken(0, "bytes that are no batch");
        }
        let (Some(count), Some(sequence)) = (self.take::<4>()?, self.take::<8>()?) else {
            return broken(0, "an unfinished batch");
        };
        let sequence = u64::from_le_bytes(sequence);
        let follows = |last: u64| sequence > last && sequence - last < SEQUENCE_STEP_MAX;
        // The checksum does not cover the sequence; that it rises, and slowly, is all that can be checked.
        if sequence >= SEQUENCE_MAX || !self.sequence.is_none_or(follows) {
            return broken(0, "a batch with a wrong sequence");
        }
        let count = u32::from_le_bytes(count);
        // A count is believed as far as the file could hold that many items.
        let believed = u64::from(count).min(self.left() / 9);
        let mut hash = Xxh3::default();
        for _ in 0..count {
            if !self.item(&mut hash)? {
                return broken(believed, "an unfinished or damaged batch");
            }
        }
        let Some([END]) = self.take::<1>()? else {
            return broken(believed, "a batch without its end");
        };
        match (self.take::<8>()?, self.take::<4>()?) {
            (Some(sum), Some(TRAILER)) if u64::from_le_bytes(sum) == hash.digest() => {
                self.sequence = Some(sequence);
                Ok(Next::Whole)
            }
            _ => broken(believed, "a batch with a wrong checksum"),
        }
    }

    /// Takes an item; false where there is none or its lengths cannot be.
    fn item(&mut self, hash: &mut Xxh3) -> io::Result<bool> {
        let Some([tag]) = self.take::<1>()? else {
            return Ok(false);
        };
        hash.update(&[tag]);
        match tag {
            CLEAR => {
                let Some(keyspace) = self.take::<8>()? else {
                    return Ok(false);
                };
                hash.update(&keyspace);
                Ok(true)
            }
            ITEM => {
                let Some(head) = self.take::<20>()? else {
                    return Ok(false);
                };
                let [
                    kind,
                    compression,
                    _,
                    _,
                    _,
                    _,
                    _,
                    _,
                    _,
                    _,
                    k0,
                    k1,
                    v0,
                    v1,
                    v2,
                    v3,
                    s0,
                    s1,
                    s2,
                    s3,
                ] = head;
                hash.update(&head);
                let value = u32::from_le_bytes([v0, v1, v2, v3]);
                let stored = u32::from_le_bytes([s0, s1, s2, s3]);
                // This build writes plain values only; the engine trusts these three blindly, so nothing else may get through to it.
                if kind > 2 || compression != 0 || value != stored {
                    return Ok(false);
                }
                let length = u64::from(u16::from_le_bytes([k0, k1])) + u64::from(stored);
                self.pass(length, hash)
            }
            _ => Ok(false),
        }
    }

    fn left(&self) -> u64 {
        self.length.saturating_sub(self.at)
    }

    fn take<const N: usize>(&mut self) -> io::Result<Option<[u8; N]>> {
        if self.left() < N as u64 {
            return Ok(None);
        }
        let mut bytes = [0; N];
        self.from.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(Some(bytes))
    }

    fn pass(&mut self, length: u64, hash: &mut Xxh3) -> io::Result<bool> {
        if self.left() < length {
            return Ok(false);
        }
        let mut left = length;
        while left > 0 {
            let chunk = self.from.fill_buf()?;
            let take = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let Some(bytes) = chunk.get(..take).filter(|b| !b.is_empty()) else {
                return Ok(false);
            };
            hash.update(bytes);
            self.from.consume(take);
            left -= take as u64;
            self.at += take as u64;
        }
        Ok(true)
    }

    fn only_zeros(&mut self) -> io::Result<bool> {
        loop {
            let chunk = self.from.fill_buf()?;
            if chunk.is_empty() {
                return Ok(true);
            }
            if chunk.iter().any(|b| *b != 0) {
                return Ok(false);
            }
            let length = chunk.len();
            self.from.consume(length);
        }
    }
}

/// A run of whole batches behind damage.
struct Run {
    from: usize,
    to: usize,
    batches: u64,
}

fn mend_file(path: &Path, damage: &Damage, keep_in: &Path) -> io::Result<Repair> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    file.seek(SeekFrom::Start(damage.at))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let used = tail
        .iter()
        .rposition(|b| *b != 0)
        .map_or(0, |last| last + 1);
    tail.truncate(used);
    let runs = whole_runs(&tail);
    let kept: usize = runs.iter().map(|r| r.to - r.from).sum();
    if runs.is_empty() {
        file.set_len(damage.at)?;
        file.sync_all()?;
    } else {
        keep_whole_runs(path, damage.at, &tail, &runs, keep_in)?;
    }
    Ok(Repair {
        file: path.to_owned(),
        at: damage.at,
        bytes: (used - kept) as u64,
        items: damage.items,
        batches_behind: runs.iter().map(|r| r.batches).sum(),
        problem: damage.problem,
    })
}

/// Finds the batches behind the damage that `tail` begins with.
fn whole_runs(tail: &[u8]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut at = 1;
    while let Some(rest) = tail.get(at..).filter(|r| !r.is_empty()) {
        match whole_batch(rest) {
            Some(length) => {
                match runs.last_mut().filter(|r| r.to == at) {
                    Some(run) => (run.to, run.batches) = (at + length, run.batches + 1),
                    None => runs.push(Run {
                        from: at,
                        to: at + length,
                        batches: 1,
                    }),
                }
                at += length;
            }
            None => at += 1,
        }
    }
    runs
}

/// The length of the batch that `bytes` begin with, where it is whole and not empty.
fn whole_batch(bytes: &[u8]) -> Option<usize> {
    let [START, c0, c1, c2, c3, ..] = bytes else {
        return None;
    };
    // Nobody writes empty batches, but damaged bytes may look like one.
    if [*c0, *c1, *c2, *c3] == [0; 4] {
        return None;
    }
    let mut checker = Checker {
        from: bytes,
        length: bytes.len() as u64,
        at: 0,
        sequence: None,
    };
    match checker.batch() {
        Ok(Next::Whole) => usize::try_from(checker.at).ok(),
        _ => None,
    }
}

/// Puts a file without the damaged bytes in the place of the damaged one. At any moment one of the two stands there.
fn keep_whole_runs(
    path: &Path,
    at: u64,
    tail: &[u8],
    runs: &[Run],
    keep_in: &Path,
) -> io::Result<()> {
    fs::create_dir_all(keep_in)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = (0..u32::MAX)
        .map(|n| keep_in.join(format!("{name}.{n}")))
        .find(|p| !p.exists())
        .ok_or(io::ErrorKind::AlreadyExists)?;
    let mended = path.with_extension("mended");
    let mut out = File::create(&mended)?;
    io::copy(&mut File::open(path)?.take(at), &mut out)?;
    for run in runs {
        out.write_all(tail.get(run.from..run.to).unwrap_or_default())?;
    }
    out.sync_all()?;
    fs::hard_link(path, &aside)?;
    fs::rename(&mended, path)?;
    for dir in [path.parent(), aside.parent()].into_iter().flatten() {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(sequence: u64, values: &[&[u8]]) -> Vec<u8> {
        let mut items = Vec::new();
        for value in values {
            items.extend([ITEM, 0, 0]);
            items.extend(5_u64.to_le_bytes());
            items.extend(1_u16.to_le_bytes());
            for _ in 0..2 {
                items.extend((value.len() as u32).to_le_bytes());
            }
            items.push(b'k');
            items.extend_from_slice(value);
        }
        let mut hash = Xxh3::default();
        hash.update(&items);
        let mut bytes = vec![START];
        bytes.extend((values.len() as u32).to_le_bytes());
        bytes.extend(sequence.to_le_bytes());
        bytes.extend(&items);
        bytes.push(END);
        bytes.extend(hash.digest().to_le_bytes());
        bytes.extend(TRAILER);
        bytes
    }

    fn mended(bytes: &[u8]) -> (Vec<Repair>, Vec<u8>) {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("3.jnl");
        fs::write(&file, bytes).expect("written");
        let repairs = mend(dir.path(), &dir.path().join("damaged"), || Ok(())).expect("mended");
        if repairs.iter().any(|r| r.batches_behind > 0) {
            let aside = fs::read(dir.path().join("damaged/3.jnl.0")).expect("kept");
            assert_eq!(aside, bytes);
        }
        (repairs, fs::read(&file).expect("read"))
    }

    #[test]
    fn whole_files_are_left_alone() {
        let mut bytes = [batch(1, &[b"a", b"b"]), batch(2, &[&[7; 100_000]])].concat();
        assert_eq!(mended(&bytes), (Vec::new(), bytes.clone()));
        bytes.resize(bytes.len() + 300_000, 0);
        assert_eq!(mended(&bytes), (Vec::new(), bytes.clone()));
        assert_eq!(mended(b""), (Vec::new(), Vec::new()));
    }

    #[test]
    fn a_damaged_tail_is_cut_wherever_it_breaks() {
        let first = batch(8, &[b"first"]);
        let second = batch(9, &[b"second", b"and another"]);
        let whole = [first.clone(), second].concat();
        for cut in first.len() + 1..whole.len() {
            for padding in [0, 5000] {
                let mut bytes = whole[..cut].to_vec();
                bytes.resize(cut + padding, 0);
                let (repairs, left) = mended(&bytes);
                assert_eq!(repairs.len(), 1, "cut at {cut}");
                assert_eq!(left, first, "cut at {cut}");
            }
        }
        for at in first.len()..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                // A sequence that is a little too high cannot be told from a right one, and does no harm.
                let sequence = first.len() + 5..first.len() + 8;
                if sequence.contains(&at) && bytes[at] > whole[at] {
                    continue;
                }
                let (repairs, left) = mended(&bytes);
                assert_eq!(repairs.len(), 1, "flip of bit {bit} at {at}");
                assert_eq!(left, first, "flip of bit {bit} at {at}");
            }
        }
    }

    #[test]
    fn whole_batches_behind_damage_are_kept() {
        let (a, b) = (batch(1, &[b"a"]), batch(2, &[b"b"]));
        let c = [batch(3, &[b"c", b"\x01\x01\x01"]), batch(4, &[b"\x01\x00"])].concat();
        let mut bytes = [a.clone(), b, c.clone()].concat();
        bytes[a.len() + 36] ^= 4;
        bytes.resize(bytes.len() + 1000, 0);
        let (repairs, left) = mended(&bytes);
        assert_eq!(left, [a, c].concat());
        assert_eq!(repairs[0].batches_behind, 2);
        assert!(repairs[0].to_string().contains("kept 2 whole batches"));
    }

    #[test]
    fn garbage_behind_the_room_made_in_advance_is_cut() {
        let whole = batch(1, &[b"x"]);
        let mut bytes = whole.clone();
        bytes.resize(bytes.len() + 10_000, 0);
        bytes.extend(b"garbage \x01\x00\x00\x00\x00");
        let (repairs, left) = mended(&bytes);
        assert_eq!((repairs.len(), left), (1, whole));
    }
}
