//! PostgreSQL plans by what it found when it last looked at a table. It looks by itself, but may take many minutes to come to it after much has
//! come in, and until then sorts all rows of a project for a page of them. SQLite has been told what to think once and for all.

use sqlx::{Executor as _, Row as _};

use super::{Dialect, Store, StoreError};

/// Tables of which a quarter or more has come in since PostgreSQL last looked.
const GROWN: &str = "SELECT relname::text FROM pg_stat_user_tables WHERE n_mod_since_analyze > 500 + n_live_tup / 4 AND relid IN \
     ('attempts'::regclass, 'deliveries'::regclass, 'activities'::regclass, 'statistics'::regclass, 'segments'::regclass)";

impl Store {
    /// Has it look at tables that have grown much since it last did.
    pub(crate) async fn analyze(&self) -> Result<(), StoreError> {
        if self.dialect == Dialect::Sqlite {
            return Ok(());
        }
        let pool = self.pool().await?;
        for grown in sqlx::query(GROWN).fetch_all(pool).await? {
            let table: String = grown.try_get(0)?;
            pool.execute(format!("ANALYZE {table}").as_str()).await?;
        }
        Ok(())
    }
}
