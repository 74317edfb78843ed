//! What a crash leaves behind. The one that crashes is this test program, started once more.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use super::*;

const DIR: &str = "HOOKLINE_TEST_CRASH_DIR";
const RECORDS: u64 = 200;

/// Does nothing unless started by the tests below: appends, and is gone the moment the last append is acknowledged.
#[tokio::test]
async fn crash_after_the_last_acknowledgement() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let journal = open(Path::new(&dir));
    journal
        .create_topics(&[spec("a", 1, FOREVER)])
        .await
        .expect("made");
    for i in 0..RECORDS {
        append(&*journal, "a", record("k", &format!("value {i}"))).await;
    }
    std::process::abort();
}

fn crashed() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let ended = Command::new(std::env::current_exe().expect("this program"))
        .args([
            "--exact",
            "embedded::tests::crash::crash_after_the_last_acknowledgement",
        ])
        .env(DIR, dir.path())
        .output()
        .expect("started");
    assert!(!ended.status.success(), "it should have crashed");
    dir
}

fn newest_log(dir: &Path) -> PathBuf {
    let logs = fs::read_dir(store_dir(dir)).expect("the store's directory");
    let mut logs: Vec<_> = logs
        .map(|e| e.expect("an entry").path())
        .filter(|p| p.extension().is_some_and(|e| e == "jnl"))
        .collect();
    logs.sort();
    logs.pop().expect("a log file")
}

/// The used part of a log file.
fn used(file: &Path) -> usize {
    let bytes = fs::read(file).expect("readable");
    bytes.iter().rposition(|b| *b != 0).expect("not empty") + 1
}

/// Opens, and checks that a prefix of what was acknowledged is there, and that things go on.
async fn reopen(dir: &Path) -> (usize, Vec<String>) {
    let journal = open(dir);
    let found = values(&*journal, "a", 0).await;
    for (i, (offset, value)) in found.iter().enumerate() {
        assert_eq!((*offset, value), (i as u64, &format!("value {i}")));
    }
    let repairs = journal.repairs();
    let offset = append(&*journal, "a", record("k", "after"))
        .await
        .offset
        .expect("an offset");
    if repairs.is_empty() {
        assert_eq!(offset, found.len() as u64);
    } else {
        assert!(offset > RECORDS, "offsets that were cut are not used again");
    }
    assert_eq!(read_all(&*journal, "a", offset).await.len(), 1);
    journal.close().await;
    let again = open(dir);
    assert!(again.repairs().is_empty(), "mended once");
    assert_eq!(read_all(&*again, "a", 0).await.len(), found.len() + 1);
    again.close().await;
    (found.len(), repairs)
}

#[tokio::test]
async fn everything_acknowledged_survives() {
    let dir = crashed();
    let (found, repairs) = reopen(dir.path()).await;
    assert_eq!((found as u64, repairs), (RECORDS, Vec::new()));
}

#[tokio::test]
async fn a_truncated_log_is_cut_at_a_whole_batch() {
    let dir = crashed();
    let file = newest_log(dir.path());
    let cut = used(&file) - 40;
    let log = OpenOptions::new().write(true).open(&file).expect("opens");
    log.set_len(cut as u64).expect("cut");
    let (found, repairs) = reopen(dir.path()).await;
    assert_eq!(found as u64, RECORDS - 1);
    assert!(
        repairs[0].contains(&file.display().to_string()),
        "{repairs:?}"
    );
    assert!(repairs[0].contains("bytes at the tail"), "{repairs:?}");
}

/// Whoever has read on into the room that was skipped has committed that, or takes what is below for settled: it must not come again.
#[tokio::test]
async fn offsets_that_were_skipped_stay_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let journal = open(dir.path());
    let topics = [spec("full", 1, FOREVER), spec("empty", 2, FOREVER)];
    journal.create_topics(&topics).await.expect("made");
    append(&*journal, "full", record("k", "v")).await;
    journal.close().await;
    let ends = async || {
        let journal = open(dir.path());
        let ends = [
            journal.end("full", 0).await.expect("there"),
            journal.end("empty", 0).await.expect("there"),
            journal.end("empty", 1).await.expect("there"),
        ];
        let repairs = journal.repairs().len();
        journal.close().await;
        (repairs, ends)
    };
    assert_eq!(ends().await, (0, [1, 0, 0]));
    let file = newest_log(dir.path());
    let log = OpenOptions::new().write(true).open(&file).expect("opens");
    let used = used(&file) as u64;
    log.write_all_at(b"\x01 torn", used).expect("written");
    let skipped = [1, 0, 0].map(|end| end + OFFSETS_SKIPPED);
    assert_eq!(ends().await, (1, skipped));
    // Nothing was appended meanwhile.
    assert_eq!(ends().await, (0, skipped));
    // Mended, and then it crashed before the ends were stored.
    fs::write(dir.path().join(SKIPS), "").expect("written");
    let twice = skipped.map(|end| end + OFFSETS_SKIPPED);
    assert_eq!(ends().await, (0, twice));
    assert_eq!(ends().await, (0, twice));
    let journal = open(dir.path());
    let offset = append(&*journal, "full", record("k", "after")).await.offset;
    assert_eq!(offset, Some(twice[0]));
    journal.close().await;
}

#[tokio::test]
async fn garbage_behind_the_log_is_cut() {
    for behind_the_room in [false, true] {
        let dir = crashed();
        let file = newest_log(dir.path());
        if !behind_the_room {
            let log = OpenOptions::new().write(true).open(&file).expect("opens");
            log.set_len(used(&file) as u64).expect("cut");
        }
        let mut log = OpenOptions::new().append(true).open(&file).expect("opens");
        let mut random = fastrand::Rng::with_seed(3);
        let garbage: Vec<u8> = (0..5000).map(|_| random.u8(..)).collect();
        log.write_all(&garbage).expect("written");
        let (found, repairs) = reopen(dir.path()).await;
        assert_eq!((found as u64, repairs.len()), (RECORDS, 1));
    }
}

#[tokio::test]
async fn a_flipped_bit_in_the_last_batch_costs_that_batch() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..5 {
        let dir = crashed();
        let file = newest_log(dir.path());
        let mut bytes = fs::read(&file).expect("readable");
        let end = used(&file);
        // The last batch is longer than this: head 13, item 23 and more, end 13.
        let at = end - random.usize(1..50);
        bytes[at] ^= 1 << random.u8(0..8);
        fs::write(&file, &bytes).expect("written");
        let (found, repairs) = reopen(dir.path()).await;
        assert_eq!(found as u64, RECORDS - 1, "byte {at} of {end}, seed {seed}");
        assert_eq!(repairs.len(), 1, "byte {at} of {end}, seed {seed}");
    }
}

#[tokio::test]
async fn damage_in_the_middle_costs_only_what_is_damaged() {
    let dir = crashed();
    let file = newest_log(dir.path());
    let mut bytes = fs::read(&file).expect("readable");
    let needle = b"value 100";
    let at = bytes
        .windows(needle.len())
        .position(|w| w == needle)
        .expect("stored as it is");
    bytes[at] ^= 1;
    fs::write(&file, &bytes).expect("written");
    let journal = open(dir.path());
    let offsets: Vec<u64> = read_all(&*journal, "a", 0)
        .await
        .iter()
        .map(|r| r.offset)
        .collect();
    let expected: Vec<u64> = (0..RECORDS).filter(|o| *o != 100).collect();
    assert_eq!(offsets, expected);
    assert!(journal.repairs()[0].contains("kept 99 whole batches"));
    assert!(dir.path().join("damaged").exists());
}

const STREAM_DIR: &str = "HOOKLINE_TEST_STREAM_DIR";
const STREAM_VALUE_BYTES: usize = 3000;
/// Enough that the store has gone through several log files.
const STREAM_RECORDS: u64 = 48_000;
const STREAM_KEPT: u64 = 10_000;

fn stream_value(i: u64) -> String {
    format!("{i:0width$}", width = STREAM_VALUE_BYTES)
}

/// Does nothing unless started by the test below: appends without end, deletes behind itself, and says how far it is.
#[tokio::test]
async fn stream_until_killed() {
    let Some(dir) = std::env::var_os(STREAM_DIR) else {
        return;
    };
    let dir = Path::new(&dir);
    let journal = EmbeddedJournal::open(EmbeddedConfig::new(dir, clock())).expect("opens");
    journal
        .create_topics(&[spec("a", 1, FOREVER)])
        .await
        .expect("made");
    let appender = journal.appender("test").await.expect("an appender");
    let mut i = journal.end("a", 0).await.expect("an end");
    let said = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(dir.join("acknowledged"))
        .expect("opens");
    let said = Arc::new(said);
    loop {
        let said = said.clone();
        let done = Box::new(move |fate: Result<Appended, AppendError>| {
            let offset = fate.expect("stored").offset.expect("an offset");
            // In one write, so that being killed leaves the old number or the new one.
            said.write_all_at(&offset.to_le_bytes(), 0).expect("said");
        });
        append_when_room(&*appender, "a", 0, record("k", &stream_value(i)), done)
            .await
            .expect("taken");
        i += 1;
        let end = journal.end("a", 0).await.expect("an end");
        if i % 1000 == 0 && end > STREAM_KEPT {
            journal
                .delete_records("a", 0, end - STREAM_KEPT)
                .await
                .expect("deleted");
        }
    }
}

fn acknowledged(dir: &Path) -> Option<u64> {
    let said = fs::read(dir.join("acknowledged")).ok()?;
    said.first_chunk::<8>().map(|b| u64::from_le_bytes(*b))
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_by_killing_it_at_full_speed() {
    let dir = tempfile::tempdir().expect("a directory");
    for round in 1..=3 {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "embedded::tests::crash::stream_until_killed"])
            .env(STREAM_DIR, dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("started");
        let waiting = async {
            while acknowledged(dir.path()).is_none_or(|a| a < STREAM_RECORDS * round / 3) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let reached = tokio::time::timeout(Duration::from_secs(60), waiting).await;
        child.kill().expect("killed");
        child.wait().expect("ended");
        reached.expect("far enough in time");
        let acknowledged = acknowledged(dir.path()).expect("said");
        let journal = open(dir.path());
        let start = journal.start("a", 0).await.expect("a start");
        assert!(start + STREAM_KEPT <= acknowledged + 1);
        let found = read_all(&*journal, "a", start).await;
        let mut expected = start;
        for record in &found {
            // A repair skips offsets, but only behind everything that was acknowledged.
            if record.offset != expected {
                assert!(expected > acknowledged, "{expected} is missing");
                break;
            }
            assert_eq!(record.offset, expected);
            expected += 1;
        }
        assert!(expected > acknowledged, "{acknowledged} was acknowledged");
        let values_start = found.first().expect("some").value.as_ref();
        assert_eq!(
            values_start.map(|v| v.as_ref().to_vec()),
            Some(stream_value(start).into_bytes())
        );
        journal.housekeep_now().await.expect("freed");
        journal.close().await;
        if !journal.repairs().is_empty() {
            // Offsets have jumped, so the next round's numbers no longer match.
            break;
        }
    }
}
