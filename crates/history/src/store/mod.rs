//! The SQL store: a view of the topics that people can ask. SQLite, or PostgreSQL by URL; what is said to both is the same.
//!
//! The store owns the offsets: rows and the offset up to which they go move in one transaction, which compares the offset and the lease it
//! was read under before it moves them. So a record is in the store once, however often it was read and by whomever; and the store may be
//! deleted, as what the topics still have comes back.

mod activities;
mod analyze;
mod lease;
mod query;
mod retention;
mod rows;
mod segments;
mod statistics;
mod summary;
mod write;

pub use activities::{ActivityEnd, ActivityFilter, ActivityPage, Wanted};
pub use query::{AttemptFilter, AttemptPage, DeliveryView, Place, RunView, StatusFilter};
pub use statistics::{Figures, Interval, Latency, Step, WebhookStatistics};
pub use summary::{AttemptSummary, OutcomeCounts};

pub(crate) use lease::Lease;
pub(crate) use statistics::MINUTES_KEPT;
pub(crate) use write::{Batch, Read, WriteError};

use std::sync::Arc;
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions, AnyRow};
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{Any, AnyPool, ConnectOptions as _, Executor, Transaction};
use tokio::sync::{Mutex, OnceCell, OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::timeout;

/// The migrations in their order. One that was released is never changed.
const MIGRATIONS: [(i64, &str, &str); 5] = [
    (
        1,
        "attempts",
        include_str!("../../migrations/0001_attempts.sql"),
    ),
    (
        2,
        "activities",
        include_str!("../../migrations/0002_activities.sql"),
    ),
    (
        3,
        "statistics",
        include_str!("../../migrations/0003_statistics.sql"),
    ),
    (4, "lists", include_str!("../../migrations/0004_lists.sql")),
    (
        5,
        "segments",
        include_str!("../../migrations/0005_segments.sql"),
    ),
];
/// The last of them.
const VERSION: i64 = MIGRATIONS[MIGRATIONS.len() - 1].0;
/// What a migration does besides with SQLite. The other database keeps statistics of its own.
const MIGRATIONS_SQLITE: [(i64, &str); 2] = [
    (4, include_str!("../../migrations/0004_lists_sqlite.sql")),
    (5, include_str!("../../migrations/0005_segments_sqlite.sql")),
];

/// How long a question waits for a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long the answer to a question may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Transactions at the same time. SQLite has one writer anyway.
const WRITERS_POSTGRES: usize = 4;
/// Questions at the same time, besides.
const READERS: u32 = 4;
/// As many for who fills the store: leases and retention, which ask for little at a time. With SQLite they wait for who writes anyway, and another
/// connection would come to hold a whole cache and the large statements, too: 12 MiB.
const READERS_FILLING_POSTGRES: u32 = 1;

/// Settings of each SQLite connection. What a crash of the machine takes away is read again from the topics, so that not every transaction
/// has to wait for the disk.
const PRAGMAS: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA busy_timeout = 10000; \
     PRAGMA journal_size_limit = 67108864; PRAGMA wal_autocheckpoint = 8000; PRAGMA cache_size = -4000; PRAGMA temp_store = MEMORY;";

/// The one connection of who fills it: the more of the pages stay that a transaction changes, the fewer are written twice.
const PRAGMA_FILLING: &str = "PRAGMA cache_size = -8000;";

/// Settings of each connection of who only reads. SQLite's file is opened so already.
const PRAGMAS_READER: &str =
    "PRAGMA busy_timeout = 10000; PRAGMA cache_size = -4000; PRAGMA temp_store = MEMORY;";
const READ_ONLY_POSTGRES: &str = "SET default_transaction_read_only = on";

/// What may be done with the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Anything; its tables are made and brought to this version.
    All,
    /// The same, by who hardly reads it.
    Filling,
    /// It is read as it is.
    Reading,
}

/// Which database it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Sqlite,
    Postgres,
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The URL names no store.
    #[error("history.url: must be sqlite://FILE or postgres://USER@HOST/DATABASE")]
    Url(#[source] sqlx::Error),
    /// The database does not answer, or says no.
    #[error("the history store did not answer as it should")]
    Database(#[from] sqlx::Error),
    /// It takes too long.
    #[error(
        "the history store did not answer in time; ask for less, for instance with `from` and `to`"
    )]
    Late,
    /// Its tables cannot be brought to this version.
    #[error(
        "the tables of the history store cannot be brought to this version; one that a newer version made needs that version, or another history.url"
    )]
    Migrate(#[from] MigrateError),
    /// It holds what another system wrote.
    #[error(
        "the history store holds what topic {found} says, not {wanted}: name another store in history.url, or delete this one"
    )]
    Foreign {
        /// A topic that it was read from.
        found: String,
        /// A topic of this system.
        wanted: String,
    },
    /// Who only reads makes no tables.
    #[error("the history store {0}")]
    Unready(&'static str),
    /// What is in it cannot be read.
    #[error("{what} in the history store cannot be read")]
    Damaged {
        /// What.
        what: &'static str,
    },
}

/// The right to begin a transaction that writes; given back when dropped. Who waits for one takes up no memory for what it is to write.
pub(crate) struct Turn<'a> {
    _permit: SemaphorePermit<'a>,
}

/// The SQL store.
pub struct Store {
    pool: AnyPool,
    dialect: Dialect,
    used: Use,
    migrated: OnceCell<()>,
    writers: Semaphore,
    large_batches: Arc<Semaphore>,
    inserts: rows::Inserts,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL may hold a password.
        f.debug_struct("Store")
            .field("dialect", &self.dialect)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// The store at this URL. Nothing is asked of it yet: it need not be there.
    ///
    /// # Errors
    /// When the URL is none of a store.
    pub fn new(url: &str) -> Result<Self, StoreError> {
        Self::open(url, Use::All)
    }

    /// The same for whoever fills it and asks little of it besides: with fewer connections, as each holds memory.
    ///
    /// # Errors
    /// When the URL is none of a store.
    pub fn filled(url: &str) -> Result<Self, StoreError> {
        Self::open(url, Use::Filling)
    }

    /// The store at this URL, to be read beside those who write it: nothing is made where there is none, and nothing is changed.
    ///
    /// # Errors
    /// When the URL is none of a store.
    pub fn reader(url: &str) -> Result<Self, StoreError> {
        Self::open(url, Use::Reading)
    }

    fn open(url: &str, used: Use) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        let dialect = match url.split_once("://") {
            Some(("sqlite", _)) => Dialect::Sqlite,
            _ => Dialect::Postgres,
        };
        let url = match dialect {
            Dialect::Sqlite => sqlite_url(url, used),
            Dialect::Postgres => url.to_owned(),
        };
        let options: AnyConnectOptions = url.parse().map_err(StoreError::Url)?;
        let options = options.disable_statement_logging();
        let writers = match dialect {
            Dialect::Sqlite => 1,
            Dialect::Postgres => WRITERS_POSTGRES,
        };
        let readers = match (used, dialect) {
            (Use::Filling, Dialect::Sqlite) => 0,
            (Use::Filling, Dialect::Postgres) => READERS_FILLING_POSTGRES,
            (Use::All | Use::Reading, _) => READERS,
        };
        let connections = readers + u32::try_from(writers).unwrap_or(1);
        let pool = AnyPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(CONNECT_WITHIN)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    let settings = match (dialect, used) {
                        (Dialect::Sqlite, Use::All | Use::Filling) => PRAGMAS,
                        (Dialect::Sqlite, Use::Reading) => PRAGMAS_READER,
                        (Dialect::Postgres, Use::Reading) => READ_ONLY_POSTGRES,
                        (Dialect::Postgres, Use::All | Use::Filling) => return Ok(()),
                    };
                    connection.execute(settings).await?;
                    if (dialect, used) == (Dialect::Sqlite, Use::Filling) {
                        connection.execute(PRAGMA_FILLING).await?;
                    }
                    Ok(())
                })
            })
            .connect_lazy_with(options);
        Ok(Self {
            pool,
            dialect,
            used,
            migrated: OnceCell::new(),
            writers: Semaphore::new(writers),
            // One more is collected while others are written.
            large_batches: Arc::new(Semaphore::new(writers + 1)),
            inserts: rows::Inserts::new(dialect),
        })
    }

    /// Its connections, once the tables are there.
    async fn pool(&self) -> Result<&AnyPool, StoreError> {
        self.migrated
            .get_or_try_init(|| async {
                match self.used {
                    Use::Filling => self.migrate().await,
                    // Somebody waits for an answer; who fills it goes on with that.
                    Use::All => {
                        let done = timeout(ANSWER_WITHIN, self.migrate()).await;
                        done.map_err(|_| StoreError::Late)?
                    }
                    Use::Reading => self.ready().await,
                }
            })
            .await?;
        Ok(&self.pool)
    }

    /// Brings its tables to this version, unless that was done before.
    pub(crate) async fn tables(&self) -> Result<(), StoreError> {
        self.pool().await.map(|_| ())
    }

    /// Brings its tables to this version. Others may do the same now: those of this process wait here, and what another process has done meanwhile
    /// is not done again. (PostgreSQL has a lock for that, SQLite has none.)
    async fn migrate(&self) -> Result<(), StoreError> {
        static ONE_BY_ONE: Mutex<()> = Mutex::const_new(());
        let _turn = ONE_BY_ONE.lock().await;
        loop {
            let before = timeout(ANSWER_WITHIN, self.version()).await;
            let before = before.map_err(|_| StoreError::Late)?.unwrap_or_default();
            if before.is_some_and(|before| before < VERSION) {
                tracing::info!(
                    "the tables of the history store are brought to this version; where there is much in them this takes minutes"
                );
            }
            match migrator(self.dialect, MIGRATIONS.len())
                .run(&self.pool)
                .await
            {
                Err(_) if self.version().await.unwrap_or_default() > before => {}
                result => return Ok(result?),
            }
        }
    }

    /// The last migration that its tables have seen.
    async fn version(&self) -> Result<Option<i64>, sqlx::Error> {
        let asked = sqlx::query("SELECT MAX(version) FROM _sqlx_migrations");
        sqlx::Row::try_get(&asked.fetch_one(&self.pool).await?, 0)
    }

    /// Whether its tables are those of this version.
    async fn ready(&self) -> Result<(), StoreError> {
        let version = self.version().await.map_err(|error| match &error {
            // No such file; no such table, which is all that can be wrong with the statement.
            sqlx::Error::Database(said)
                if matches!(said.code().as_deref(), Some("14" | "1" | "42P01")) =>
            {
                StoreError::Unready("is not there yet: a process with the role `history` makes it")
            }
            _ => StoreError::Database(error),
        })?;
        match version.unwrap_or(0).cmp(&VERSION) {
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Less => Err(StoreError::Unready(
                "has the tables of an older version: a process of this version with the role `history` brings them to it",
            )),
            std::cmp::Ordering::Greater => Err(StoreError::Unready(
                "has the tables of a newer version: read it with that version",
            )),
        }
    }

    /// A transaction whose statements all see the store as it is at the first.
    async fn moment(&self) -> Result<Transaction<'static, Any>, StoreError> {
        let mut moment = self.pool().await?.begin().await?;
        if self.dialect == Dialect::Postgres {
            let settings = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY";
            moment.execute(settings).await?;
        }
        Ok(moment)
    }

    /// Waits until another transaction may write.
    pub(crate) async fn turn(&self) -> Turn<'_> {
        let permit = self.writers.acquire().await;
        Turn {
            _permit: permit.expect("nobody closes it"),
        }
    }

    /// Waits until another batch may take up much memory.
    pub(crate) async fn large_batch(&self) -> OwnedSemaphorePermit {
        let permit = Arc::clone(&self.large_batches).acquire_owned().await;
        permit.expect("nobody closes it")
    }

    /// How many attempts there are.
    #[cfg(test)]
    pub(crate) async fn count(&self) -> Result<u64, StoreError> {
        let pool = self.pool().await?;
        let row = sqlx::query("SELECT COUNT(*) FROM attempts")
            .fetch_one(pool)
            .await?;
        Ok(unsigned(sqlx::Row::try_get(&row, 0)?))
    }

    /// Ends its connections.
    #[cfg(test)]
    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }
}

/// Brings tables to where so many migrations lead.
fn migrator(dialect: Dialect, count: usize) -> Migrator {
    let besides = |version: i64| {
        let of_this = MIGRATIONS_SQLITE.iter().find(|(of, _)| *of == version);
        of_this.filter(|_| dialect == Dialect::Sqlite)
    };
    let migrations = MIGRATIONS.iter().take(count).map(|(version, name, sql)| {
        let sql = match besides(*version) {
            Some((_, more)) => format!("{sql}{more}").into(),
            None => (*sql).into(),
        };
        Migration::new(*version, (*name).into(), MigrationType::Simple, sql, false)
    });
    Migrator {
        migrations: migrations.collect::<Vec<_>>().into(),
        ..Migrator::DEFAULT
    }
}

/// The file is made where there is none, unless it is only read. What means something in a URL is written so that it means itself.
fn sqlite_url(url: &str, used: Use) -> String {
    let (path, query) = match url.split_once('?') {
        Some((path, query)) => (path, format!("{query}&")),
        None => (url, String::new()),
    };
    let path = path
        .replace('%', "%25")
        .replace('#', "%23")
        .replace(' ', "%20");
    match used {
        Use::All | Use::Filling if query.contains("mode=") => format!("{path}?{query}"),
        Use::All | Use::Filling => format!("{path}?{query}mode=rwc"),
        Use::Reading => {
            let others = query.split('&').filter(|pair| !pair.starts_with("mode="));
            let others: Vec<_> = others.collect();
            format!("{path}?{}mode=ro", others.join("&"))
        }
    }
}

/// A statement and what is bound to it. Both databases know `$1`.
#[derive(Default)]
struct Statement {
    text: String,
    arguments: Vec<Argument>,
}

/// A value that is bound.
#[derive(Clone)]
enum Argument {
    Number(i64),
    Text(String),
}

impl Statement {
    fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            arguments: Vec::new(),
        }
    }

    fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn argument(&mut self, argument: Argument) {
        self.arguments.push(argument);
        self.text.push_str(&format!("${}", self.arguments.len()));
    }

    fn number(&mut self, number: i64) {
        self.argument(Argument::Number(number));
    }

    fn text(&mut self, text: &str) {
        self.argument(Argument::Text(text.to_owned()));
    }

    async fn fetch<'e>(
        &'e self,
        from: impl Executor<'e, Database = Any>,
    ) -> Result<Vec<AnyRow>, StoreError> {
        self.fetch_within(from, ANSWER_WITHIN).await
    }

    async fn fetch_within<'e>(
        &'e self,
        from: impl Executor<'e, Database = Any>,
        within: Duration,
    ) -> Result<Vec<AnyRow>, StoreError> {
        let mut query = sqlx::query(&self.text);
        for argument in &self.arguments {
            query = match argument {
                Argument::Number(number) => query.bind(*number),
                Argument::Text(text) => query.bind(text.as_str()),
            };
        }
        let rows = timeout(within, query.fetch_all(from)).await;
        Ok(rows.map_err(|_| StoreError::Late)??)
    }
}

/// Offsets and epochs as SQL has them: 63 bits.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests;
