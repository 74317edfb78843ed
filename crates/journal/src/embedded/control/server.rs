//! The holder's end of the control socket.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::frame::{self, Answer, Ask, CommittedAnswer, Nothing, Place, Reply, Request, Topics};
use super::{Address, SOCKET};
use crate::embedded::EmbeddedJournal;
use crate::embedded::store::TopicMeta;
use crate::{
    AppendError, Appended, Cleanup, Journal, JournalError, ReadBudget, TopicPartition, TopicSpec,
    append_when_room,
};

/// Connections served at a time; more wait.
const CONNECTIONS_MAX: usize = 256;
/// Appends of a connection whose acknowledgement has not been written.
const APPENDS_MAX: usize = 1024;
/// Bytes after which acknowledgements are written out.
const ACKS_BYTES: usize = 64 * 1024;
const RECORDS_MAX: usize = 1000;
const READ_BYTES: usize = 512 * 1024;

impl EmbeddedJournal {
    /// Serves the control socket until the journal is closed. To be run beside everything else that uses the journal.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub async fn serve_control(self: Arc<Self>) -> Result<(), JournalError> {
        let listener = bind(self.dir()).map_err(|e| JournalError::Failed {
            what: format!("make the control socket in {}", self.dir().display()),
            reason: e.to_string(),
        })?;
        let mut connections = JoinSet::new();
        let mut ended = self.shared.ended.subscribe();
        loop {
            let accepted = tokio::select! {
                _ = ended.wait_for(|ended| *ended) => return Ok(()),
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let connection = connection(self.clone(), stream);
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "the set is owned by this future and ends with it"
                    )]
                    connections.spawn(async move {
                        if let Err(error) = connection.await {
                            tracing::debug!(%error, "a control connection broke");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the control socket accepts nothing for a moment");
                    tokio::time::sleep(super::BUSY_LOOK_EVERY).await;
                }
            }
        }
    }
}

fn bind(dir: &Path) -> io::Result<UnixListener> {
    // Whatever lies there was left by a holder that is gone: the directory is ours.
    remove_socket(dir);
    let address = Address::of(dir)?;
    let listener = UnixListener::bind(&address.path)?;
    fs::set_permissions(dir.join(SOCKET), Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Takes the socket away. Only while the directory is held, else it may be another's.
pub(in crate::embedded) fn remove_socket(dir: &Path) {
    match fs::remove_file(dir.join(SOCKET)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            tracing::debug!(error = %e, "the control socket stays where it is");
        }
        _ => {}
    }
}

/// Both halves of a connection with what is half read and half written.
struct Connection {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    buffer: BytesMut,
    out: BytesMut,
}

impl Connection {
    async fn read(&mut self) -> io::Result<Option<Ask>> {
        match frame::read::<Request>(&mut self.from, &mut self.buffer).await? {
            None => Ok(None),
            Some(Request { ask: Some(ask) }) => Ok(Some(ask)),
            Some(Request { ask: None }) => Err(unexpected()),
        }
    }

    async fn write(&mut self, answer: Answer) -> io::Result<()> {
        frame::put(&mut self.out, &Reply::from(answer));
        frame::flush(&mut self.to, &mut self.out).await
    }
}

fn unexpected() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a frame out of place")
}

async fn connection(journal: Arc<EmbeddedJournal>, stream: UnixStream) -> io::Result<()> {
    // The socket's mode keeps others out; between making it and setting the mode there is a moment in which it does not.
    let owner = fs::metadata(journal.dir().join(SOCKET))?.uid();
    let peer = stream.peer_cred()?.uid();
    if peer != owner && peer != 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let (from, to) = stream.into_split();
    let mut connection = Connection {
        from,
        to,
        buffer: BytesMut::new(),
        out: BytesMut::new(),
    };
    let Some(Ask::Hello(theirs)) =
        tokio::time::timeout(frame::HELLO_TIMEOUT, connection.read()).await??
    else {
        return Err(unexpected());
    };
    connection.write(Answer::Hello(frame::hello())).await?;
    if theirs.version != frame::VERSION {
        return Ok(());
    }
    while let Some(ask) = connection.read().await? {
        let answer = match ask {
            Ask::OpenAppender(name) => return appends(&journal, connection, &name).await,
            Ask::OpenReader(place) => return reads(&journal, connection, place).await,
            ask => call(&journal, ask).await,
        };
        let answer = answer.unwrap_or_else(|e| Answer::Failed(e.into()));
        connection.write(answer).await?;
    }
    Ok(())
}

async fn call(journal: &EmbeddedJournal, ask: Ask) -> Result<Answer, JournalError> {
    Ok(match ask {
        Ask::Start(at) => Answer::Offset(journal.start(&at.topic, at.partition).await?),
        Ask::End(at) => Answer::Offset(journal.end(&at.topic, at.partition).await?),
        Ask::DeleteBefore(at) => {
            let deleted = journal.delete_records(&at.topic, at.partition, at.offset);
            deleted.await?;
            Answer::Done(Nothing {})
        }
        Ask::Committed(asked) => {
            let partitions: Vec<_> = asked
                .partitions
                .into_iter()
                .map(
                    |Place {
                         topic, partition, ..
                     }| TopicPartition { topic, partition },
                )
                .collect();
            let found = journal.committed(&asked.group, &partitions).await?;
            let positions = found.into_iter().map(Into::into).collect();
            Answer::Committed(CommittedAnswer { positions })
        }
        Ask::CreateTopics(specs) => {
            let specs: Vec<_> = specs.topics.into_iter().map(spec).collect();
            journal.create_topics(&specs).await?;
            Answer::Done(Nothing {})
        }
        Ask::Topics(_) => {
            let topics = journal.topics().await?;
            let topics = topics.iter().map(|(n, t)| (n.clone(), t.into())).collect();
            Answer::Topics(Topics { topics })
        }
        Ask::Healthy(_) => Answer::Healthy(journal.healthy().await),
        Ask::Hello(_)
        | Ask::OpenAppender(_)
        | Ask::Append(_)
        | Ask::OpenReader(_)
        | Ask::Credit(_) => {
            return Err(JournalError::Failed {
                what: "control".to_owned(),
                reason: unexpected().to_string(),
            });
        }
    })
}

fn spec((name, meta): (String, TopicMeta)) -> TopicSpec {
    let retention = meta.retention();
    TopicSpec {
        name,
        partitions: meta.partitions,
        replication: u16::try_from(meta.replication).unwrap_or(u16::MAX),
        cleanup: if meta.compact {
            Cleanup::Compact
        } else {
            Cleanup::Delete { retention }
        },
        append_time: meta.append_time,
        max_record_bytes: usize::try_from(meta.max_record_bytes).unwrap_or(usize::MAX),
        settings: meta.settings,
    }
}

type Fate = (u64, Result<Appended, AppendError>);

/// Takes appends one after the other, and writes their fates as they come.
async fn appends(journal: &EmbeddedJournal, connection: Connection, name: &str) -> io::Result<()> {
    let Connection {
        mut from,
        to,
        mut buffer,
        out,
    } = connection;
    let appender = match journal.appender(name).await {
        Ok(appender) => appender,
        Err(error) => return Err(io::Error::other(error)),
    };
    let (tell, told) = mpsc::channel::<Fate>(APPENDS_MAX);
    let reading = async move {
        while let Some(request) = frame::read::<Request>(&mut from, &mut buffer).await? {
            let Some(Ask::Append(ask)) = request.ask else {
                return Err(unexpected());
            };
            // Nobody reads the fates any more: the other end is gone.
            let Ok(room) = tell.clone().reserve_owned().await else {
                return Ok(());
            };
            let number = ask.number;
            let record = ask.body.unwrap_or_default().into();
            let done = Box::new(move |fate| drop(room.send((number, fate))));
            let taken = append_when_room(&*appender, &ask.topic, ask.partition, record, done);
            if let Err(error) = taken.await
                && tell.send((number, Err(error))).await.is_err()
            {
                return Ok(());
            }
        }
        Ok(())
    };
    let (read, written) = tokio::join!(reading, acknowledge(to, out, told));
    read.and(written)
}

async fn acknowledge(
    mut to: OwnedWriteHalf,
    mut out: BytesMut,
    mut told: mpsc::Receiver<Fate>,
) -> io::Result<()> {
    while let Some((number, fate)) = told.recv().await {
        frame::put(&mut out, &Reply::appended(number, fate));
        while out.len() < ACKS_BYTES
            && let Ok((number, fate)) = told.try_recv()
        {
            frame::put(&mut out, &Reply::appended(number, fate));
        }
        frame::flush(&mut to, &mut out).await?;
    }
    Ok(())
}

/// Sends records as far as the other end gave credit for.
async fn reads(
    journal: &EmbeddedJournal,
    mut connection: Connection,
    place: Place,
) -> io::Result<()> {
    let budget = ReadBudget::of(READ_BYTES);
    let opened = journal.reader(&place.topic, place.partition, place.offset, budget);
    let mut reader = match opened.await {
        Ok(reader) => reader,
        Err(error) => return connection.write(Answer::Failed(error.into())).await,
    };
    connection.write(Answer::Done(Nothing {})).await?;
    let mut credit: u64 = 0;
    loop {
        let batch = tokio::select! {
            ask = connection.read() => match ask? {
                Some(Ask::Credit(more)) => {
                    credit = credit.saturating_add(more);
                    continue;
                }
                Some(_) => return Err(unexpected()),
                None => return Ok(()),
            },
            batch = reader.next(RECORDS_MAX), if credit > 0 => batch,
        };
        match batch {
            Ok(batch) => {
                let answer = Reply::from(Answer::Records(batch.into()));
                let before = connection.out.len();
                frame::put(&mut connection.out, &answer);
                let bytes = (connection.out.len() - before) as u64;
                credit = credit.saturating_sub(bytes);
                frame::flush(&mut connection.to, &mut connection.out).await?;
            }
            Err(error) => return connection.write(Answer::Failed(error.into())).await,
        }
    }
}
