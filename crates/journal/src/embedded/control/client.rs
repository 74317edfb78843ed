//! The other commands' end of the control socket.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use bytes::BytesMut;
use parking_lot::Mutex;
use prost::Message;
use tokio::net::UnixStream;
use tokio::sync::Notify;

use super::Address;
use super::frame::{
    self, Answer, AppendAsk, Ask, CommittedAsk, Hello, Nothing, Place, Reply, Request, Specs,
};
use crate::embedded::store::{self, TopicMeta};
use crate::{
    AppendError, AppendRefused, Appended, Appender, Batch, Committed, GroupSpec, Journal,
    JournalError, Member, OnAppended, ReadBudget, ReadError, Reader, Record, StoredRecord,
    TopicInfo, TopicPartition, TopicSpec,
};

/// How long a call may take; the holder may be busy sorting.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Appends that wait for their acknowledgement, and their bytes.
const APPENDS_MAX: usize = 1024;
const APPEND_BYTES_MAX: usize = 16 * 1024 * 1024;
const WRITE_BYTES: usize = 64 * 1024;
const READ_BYTES: usize = 64 * 1024;

/// A journal that another process has open, used through its control socket. Everything but joining groups.
#[derive(Debug)]
pub struct RemoteJournal {
    dir: PathBuf,
}

impl RemoteJournal {
    /// Makes sure that the process that has `dir` open answers.
    ///
    /// # Errors
    /// When it does not, or is another version of the program.
    pub async fn connect(dir: impl Into<PathBuf>) -> Result<Self, JournalError> {
        let journal = Self { dir: dir.into() };
        journal.connection().await?;
        Ok(journal)
    }

    fn failed(&self, error: &io::Error) -> JournalError {
        JournalError::Failed {
            what: format!(
                "reach the process that has {} open through its control socket",
                self.dir.display()
            ),
            reason: error.to_string(),
        }
    }

    async fn connection(&self) -> Result<Connection, JournalError> {
        let connecting = async {
            let address = Address::of(&self.dir)?;
            let mut connection = Connection {
                stream: UnixStream::connect(&address.path).await?,
                buffer: BytesMut::new(),
                out: BytesMut::new(),
            };
            connection.put(Ask::Hello(frame::hello()));
            let answer = connection.read().await?;
            check_hello(answer)?;
            Ok(connection)
        };
        match tokio::time::timeout(frame::HELLO_TIMEOUT, connecting).await {
            Ok(connection) => connection.map_err(|e| self.failed(&e)),
            Err(_) => Err(self.timeout("connect", frame::HELLO_TIMEOUT)),
        }
    }

    fn timeout(&self, what: &str, waited: Duration) -> JournalError {
        let dir = self.dir.display();
        let what = format!("{what} through the process that has {dir} open");
        JournalError::Timeout { what, waited }
    }

    async fn call(&self, what: &str, ask: Ask) -> Result<Answer, JournalError> {
        let mut connection = self.connection().await?;
        connection.put(ask);
        match tokio::time::timeout(CALL_TIMEOUT, connection.read()).await {
            Ok(Ok(Answer::Failed(failure))) => Err(failure.into()),
            Ok(answer) => answer.map_err(|e| self.failed(&e)),
            Err(_) => Err(self.timeout(what, CALL_TIMEOUT)),
        }
    }

    fn unexpected(&self) -> JournalError {
        self.failed(&out_of_place())
    }

    async fn done(&self, what: &str, ask: Ask) -> Result<(), JournalError> {
        match self.call(what, ask).await? {
            Answer::Done(_) => Ok(()),
            _ => Err(self.unexpected()),
        }
    }

    async fn offset(&self, what: &str, ask: Ask) -> Result<u64, JournalError> {
        match self.call(what, ask).await? {
            Answer::Offset(offset) => Ok(offset),
            _ => Err(self.unexpected()),
        }
    }
}

fn check_hello(answer: Answer) -> io::Result<()> {
    match answer {
        Answer::Hello(Hello { version, .. }) if version == frame::VERSION => Ok(()),
        Answer::Hello(Hello { pid, .. }) => Err(io::Error::other(format!(
            "process {pid} is another version of this program: use the same one, or stop it"
        ))),
        _ => Err(out_of_place()),
    }
}

fn out_of_place() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "an answer out of place")
}

fn place(topic: &str, partition: u32, offset: u64) -> Place {
    Place {
        topic: topic.to_owned(),
        partition,
        offset,
    }
}

/// A connection for calls or for a reader.
struct Connection {
    stream: UnixStream,
    buffer: BytesMut,
    out: BytesMut,
}

impl Connection {
    fn put(&mut self, ask: Ask) {
        frame::put(&mut self.out, &Request::from(ask));
    }

    /// Writes what was put, and reads the next answer. Cancel safe.
    async fn read(&mut self) -> io::Result<Answer> {
        frame::flush(&mut self.stream, &mut self.out).await?;
        let reply: Option<Reply> = frame::read(&mut self.stream, &mut self.buffer).await?;
        match reply {
            Some(Reply {
                answer: Some(answer),
            }) => Ok(answer),
            Some(_) => Err(out_of_place()),
            None => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }
}

#[async_trait::async_trait]
impl Journal for RemoteJournal {
    async fn appender(&self, name: &str) -> Result<Arc<dyn Appender>, JournalError> {
        // Two threads of its own carry it, as appending must neither wait nor need a runtime.
        let (dir, name) = (self.dir.clone(), name.to_owned());
        let opened = tokio::task::spawn_blocking(move || RemoteAppender::open(&dir, name)).await;
        let opened = opened.unwrap_or_else(|e| Err(io::Error::other(e)));
        Ok(Arc::new(opened.map_err(|e| self.failed(&e))?))
    }

    async fn reader(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        budget: ReadBudget,
    ) -> Result<Box<dyn Reader>, JournalError> {
        let mut connection = self.connection().await?;
        connection.put(Ask::OpenReader(place(topic, partition, from)));
        match tokio::time::timeout(CALL_TIMEOUT, connection.read()).await {
            Ok(Ok(Answer::Done(_))) => {}
            Ok(Ok(Answer::Failed(failure))) => return Err(failure.into()),
            Ok(Ok(_)) => return Err(self.unexpected()),
            Ok(Err(error)) => return Err(self.failed(&error)),
            Err(_) => return Err(self.timeout("read", CALL_TIMEOUT)),
        }
        connection.put(Ask::Credit(budget.bytes.max(1) as u64));
        Ok(Box::new(RemoteReader {
            connection,
            topic: topic.to_owned(),
            partition,
            position: from,
            waiting: VecDeque::new(),
            next: from,
            credit: 0,
            ended: None,
        }))
    }

    async fn start(&self, topic: &str, partition: u32) -> Result<u64, JournalError> {
        let ask = Ask::Start(place(topic, partition, 0));
        self.offset("ask for a start", ask).await
    }

    async fn end(&self, topic: &str, partition: u32) -> Result<u64, JournalError> {
        let ask = Ask::End(place(topic, partition, 0));
        self.offset("ask for an end", ask).await
    }

    async fn delete_records(
        &self,
        topic: &str,
        partition: u32,
        before: u64,
    ) -> Result<(), JournalError> {
        let ask = Ask::DeleteBefore(place(topic, partition, before));
        self.done("delete records", ask).await
    }

    async fn join(&self, group: GroupSpec) -> Result<Box<dyn Member>, JournalError> {
        Err(JournalError::Failed {
            what: format!("join group {}", group.group),
            reason: format!(
                "the embedded engine shares partitions within one process only, and another has {} open: run all roles in that \
                 one, or use engine = \"kafka\"",
                self.dir.display()
            ),
        })
    }

    async fn committed(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Option<Committed>>, JournalError> {
        let ask = Ask::Committed(CommittedAsk {
            group: group.to_owned(),
            partitions: partitions.iter().map(Into::into).collect(),
        });
        match self.call("ask for positions", ask).await? {
            Answer::Committed(answer) if answer.positions.len() == partitions.len() => {
                Ok(answer.positions.into_iter().map(Into::into).collect())
            }
            _ => Err(self.unexpected()),
        }
    }

    async fn create_topics(&self, topics: &[TopicSpec]) -> Result<(), JournalError> {
        // Ids are given out by the holder.
        let forms = topics
            .iter()
            .map(|spec| (spec.name.clone(), TopicMeta::from_spec(0, spec)));
        let ask = Ask::CreateTopics(Specs {
            topics: forms.collect(),
        });
        self.done("make topics", ask).await
    }

    async fn topics(&self) -> Result<BTreeMap<String, TopicInfo>, JournalError> {
        match self.call("list topics", Ask::Topics(Nothing {})).await? {
            Answer::Topics(found) => Ok(found
                .topics
                .into_iter()
                .map(|(name, form)| (name, form.into()))
                .collect()),
            _ => Err(self.unexpected()),
        }
    }

    async fn healthy(&self) -> bool {
        let answer = self.call("ask for health", Ask::Healthy(Nothing {})).await;
        matches!(answer, Ok(Answer::Healthy(true)))
    }
}

struct RemoteReader {
    connection: Connection,
    topic: String,
    partition: u32,
    position: u64,
    /// Records that came and were not taken yet, and what lies behind the last of them.
    waiting: VecDeque<StoredRecord>,
    next: u64,
    /// Bytes that came with them, to be given back as credit when they are taken.
    credit: u64,
    ended: Option<ReadError>,
}

impl RemoteReader {
    fn failed(&self, reason: &io::Error) -> ReadError {
        ReadError::Failed {
            topic: self.topic.clone(),
            partition: self.partition,
            reason: format!("the process that has the journal open is gone or broke off: {reason}"),
        }
    }
}

#[async_trait::async_trait]
impl Reader for RemoteReader {
    async fn next(&mut self, max: usize) -> Result<Batch, ReadError> {
        loop {
            if !self.waiting.is_empty() || self.next > self.position {
                let take = max.max(1).min(self.waiting.len());
                let records: Vec<_> = self.waiting.drain(..take).collect();
                let next = self.waiting.front().map_or(self.next, |r| r.offset);
                if self.waiting.is_empty() && self.credit > 0 {
                    // Goes out when the next answer is waited for.
                    self.connection.put(Ask::Credit(self.credit));
                    self.credit = 0;
                }
                self.position = next;
                return Ok(Batch { records, next });
            }
            if let Some(ended) = &self.ended {
                return Err(ended.clone());
            }
            match self.connection.read().await {
                Ok(Answer::Records(came)) => {
                    self.credit += came.encoded_len() as u64 + 16;
                    self.next = came.next;
                    self.waiting = came.records.into_iter().map(Into::into).collect();
                }
                Ok(Answer::Failed(failure)) => self.ended = Some(failure.into()),
                Ok(_) => self.ended = Some(self.failed(&out_of_place())),
                Err(error) => self.ended = Some(self.failed(&error)),
            }
        }
    }

    fn position(&self) -> u64 {
        self.position
    }
}

struct Pending {
    topic: String,
    bytes: usize,
    done: OnAppended,
}

#[derive(Default)]
struct Flight {
    /// `None` once nothing more is taken on.
    to_writer: Option<SyncSender<BytesMut>>,
    pending: HashMap<u64, Pending>,
    bytes: usize,
    next_number: u64,
    failed: Option<String>,
}

impl Flight {
    fn full(&self) -> bool {
        self.failed.is_none()
            && (self.pending.len() >= APPENDS_MAX || self.bytes >= APPEND_BYTES_MAX)
    }
}

#[derive(Default)]
struct InFlight {
    flight: Mutex<Flight>,
    room: Notify,
}

impl InFlight {
    /// Tells the fate of one append. A failure of the engine ends the appender.
    fn land(&self, number: u64, fate: Result<Appended, AppendError>) {
        let mut flight = self.flight.lock();
        match &fate {
            Err(AppendError::Failed { reason, .. }) => {
                flight.failed.get_or_insert_with(|| reason.clone());
            }
            Err(error @ AppendError::Closed) => {
                flight.failed.get_or_insert_with(|| error.to_string());
            }
            _ => {}
        }
        let landed = flight.pending.remove(&number);
        if let Some(pending) = &landed {
            flight.bytes -= pending.bytes;
        }
        drop(flight);
        self.room.notify_waiters();
        if let Some(pending) = landed {
            (pending.done)(fate);
        }
    }

    /// Nothing more will be heard.
    fn lose(&self, reason: &str) {
        let mut flight = self.flight.lock();
        flight.failed.get_or_insert_with(|| reason.to_owned());
        flight.to_writer = None;
        let mut lost: Vec<_> = flight.pending.drain().collect();
        drop(flight);
        self.room.notify_waiters();
        lost.sort_by_key(|(number, _)| *number);
        for (_, pending) in lost {
            (pending.done)(Err(AppendError::Failed {
                topic: pending.topic,
                reason: reason.to_owned(),
            }));
        }
    }
}

/// Appends over a connection of its own, carried by two threads. Dropping it sends what was handed over, and the threads end by themselves.
struct RemoteAppender {
    in_flight: Arc<InFlight>,
}

impl RemoteAppender {
    fn open(dir: &Path, name: String) -> io::Result<Self> {
        let address = Address::of(dir)?;
        let mut stream = BlockingStream::connect(&address.path)?;
        stream.set_read_timeout(Some(frame::HELLO_TIMEOUT))?;
        let mut out = BytesMut::new();
        frame::put(&mut out, &Request::from(Ask::Hello(frame::hello())));
        frame::put(&mut out, &Request::from(Ask::OpenAppender(name)));
        stream.write_all(&out)?;
        let mut buffer = BytesMut::new();
        let hello = read_blocking(&mut stream, &mut buffer)?.ok_or_else(out_of_place)?;
        check_hello(hello)?;
        stream.set_read_timeout(None)?;
        // As many as may be pending, so that handing one over never waits.
        let (to_writer, from_appender) = sync_channel(APPENDS_MAX);
        let in_flight = Arc::new(InFlight::default());
        in_flight.flight.lock().to_writer = Some(to_writer);
        let writing = stream.try_clone()?;
        std::thread::Builder::new()
            .name("hookline-remote-w".to_owned())
            .spawn(move || write_appends(&from_appender, writing))?;
        let reading = in_flight.clone();
        std::thread::Builder::new()
            .name("hookline-remote-r".to_owned())
            .spawn(move || read_fates(&reading, stream, buffer))?;
        Ok(Self { in_flight })
    }
}

impl Drop for RemoteAppender {
    fn drop(&mut self) {
        self.in_flight.flight.lock().to_writer = None;
    }
}

fn write_appends(appends: &Receiver<BytesMut>, mut stream: BlockingStream) {
    while let Ok(mut out) = appends.recv() {
        while out.len() < WRITE_BYTES
            && let Ok(more) = appends.try_recv()
        {
            out.extend_from_slice(&more);
        }
        if let Err(error) = stream.write_all(&out) {
            // The reading side sees it, too, and tells everybody.
            tracing::debug!(%error, "appending through the control socket broke off");
            break;
        }
    }
    // The holder stores what has arrived, tells, and closes.
    drop(stream.shutdown(Shutdown::Write));
}

fn read_fates(in_flight: &InFlight, mut stream: BlockingStream, mut buffer: BytesMut) {
    let reason = loop {
        match read_blocking(&mut stream, &mut buffer) {
            Ok(Some(Answer::Appended(answer))) => {
                let fate = match answer.failure {
                    Some(failure) => Err(failure.into()),
                    None => Ok(Appended {
                        offset: answer.offset,
                        timestamp_ms: answer.timestamp_ms,
                    }),
                };
                in_flight.land(answer.number, fate);
            }
            Ok(Some(_)) => break out_of_place().to_string(),
            Ok(None) => break "it closed the connection".to_owned(),
            Err(error) => break error.to_string(),
        }
    };
    in_flight.lose(&format!(
        "the process that has the journal open is gone or broke off, so it is unknown whether this was stored: {reason}"
    ));
}

fn read_blocking(stream: &mut BlockingStream, buffer: &mut BytesMut) -> io::Result<Option<Answer>> {
    let mut chunk = vec![0; READ_BYTES];
    loop {
        if let Some(reply) = frame::take::<Reply>(buffer)? {
            return reply.answer.map(Some).ok_or_else(out_of_place);
        }
        let read = stream.read(&mut chunk)?;
        if read == 0 {
            return Ok(None);
        }
        buffer.extend_from_slice(chunk.get(..read).unwrap_or_default());
    }
}

#[async_trait::async_trait]
impl Appender for RemoteAppender {
    fn append(
        &self,
        topic: &str,
        partition: u32,
        record: Record,
        done: OnAppended,
    ) -> Result<(), AppendRefused> {
        let mut flight = self.in_flight.flight.lock();
        if flight.full() {
            let record = Box::new(record);
            return Err(AppendRefused::Full { record, done });
        }
        let topic = topic.to_owned();
        let (None, Some(to_writer)) = (&flight.failed, flight.to_writer.clone()) else {
            let reason = flight.failed.clone().unwrap_or_default();
            return Err(AppendRefused::Failed(AppendError::Failed { topic, reason }));
        };
        let number = flight.next_number;
        let bytes = store::record_bytes(&record);
        if bytes > APPEND_BYTES_MAX {
            return Err(AppendRefused::Failed(AppendError::TooLarge {
                topic,
                bytes,
            }));
        }
        let mut out = BytesMut::new();
        let ask = Ask::Append(AppendAsk {
            number,
            topic: topic.clone(),
            partition,
            body: Some(record.into()),
        });
        frame::put(&mut out, &Request::from(ask));
        // Under the lock, so that records leave in the order of the calls.
        if to_writer.try_send(out).is_err() {
            let reason =
                "the connection to the process that has the journal open broke off".to_owned();
            flight.failed = Some(reason.clone());
            return Err(AppendRefused::Failed(AppendError::Failed { topic, reason }));
        }
        flight.next_number += 1;
        flight.bytes += bytes;
        flight
            .pending
            .insert(number, Pending { topic, bytes, done });
        Ok(())
    }

    async fn room(&self) {
        let room = self.in_flight.room.notified();
        tokio::pin!(room);
        room.as_mut().enable();
        if self.in_flight.flight.lock().full() {
            room.await;
        }
    }
}
