//! The PostgreSQL target against a real server.
//!
//! | module | subject |
//! |---|---|
//! | `stream` | batches as the assembler gives them |
//! | `exactly_once` | positions, crashes, a second sidecar, the wrong source |
//! | `copy` | what is recorded of an initial copy |
//! | `durable` | when it is told that something is on disk |
//! | `crashes` | a server killed between a commit and its flush |
//! | `beside` | several writers, and what makes their batches wait for each other |
//! | `effects` | what arrives is what the stream says, in every way of applying it |
//! | `keys` | keys of several columns and of every kind, rows of every size |
//! | `refusals` | what a target refuses names the row, and nothing of it stays |
//! | `evolve` | tables that change |
//! | `columns` | types and kinds of columns that need care |
//! | `types` | every type, as a real server and the real plugin wrote it |
//! | `identity` | identity columns of the target |
//! | `origin` | the replication origin of a session |
//! | `row_types` | what a session keeps of tables |
//! | `preflight` | what `check` finds |
//! | `syncs` | what is recorded of tables that are copied anew |

mod beside;
mod columns;
mod copy;
mod crashes;
mod durable;
mod effects;
mod evolve;
mod exactly_once;
mod identity;
mod keys;
mod origin;
mod preflight;
mod refusals;
mod row_types;
mod stream;
mod syncs;
mod types;

use std::sync::{Arc, Mutex, PoisonError, Weak};

use rsrepl_sidecar::batch::Batch;
use rsrepl_sidecar::config::MissingRows;
use rsrepl_sidecar::error::Result;
use rsrepl_sidecar::target::postgres::{PostgresOptions, PostgresTarget};
use rsrepl_sidecar::target::{Event, SourceIdentity, Target};
use rsrepl_tests::postgres::Postgres;
use rsrepl_tests::scratch::Scratch;

/// Has batches applied one at a time.
trait Apply: Target {
    async fn apply(&mut self, batch: Batch) -> Result<()> {
        self.submit(batch);
        while self.next().await? != Event::Applied {}
        Ok(())
    }
}

impl Apply for PostgresTarget {}

/// One server for all tests that run at the same time; it ends with the last of them.
struct Server {
    postgres: Postgres,
    _scratch: Scratch,
}

static SERVER: Mutex<Weak<Server>> = Mutex::new(Weak::new());

/// Runs something that blocks, the harness, on a thread that drives no tasks.
fn blocking<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// A database of its own for one test.
struct Standby {
    server: Arc<Server>,
    database: String,
}

impl Standby {
    fn new(database: &str, schema: &str) -> Standby {
        blocking(|| Standby::create(database, schema))
    }

    fn create(database: &str, schema: &str) -> Standby {
        let mut shared = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
        let server = shared.upgrade().unwrap_or_else(|| {
            let scratch = Scratch::new("pg-target");
            let postgres = Postgres::start(&scratch, "standby", "");
            Arc::new(Server { postgres, _scratch: scratch })
        });
        *shared = Arc::downgrade(&server);
        drop(shared);
        server.postgres.execute("postgres", &format!("CREATE DATABASE {database}"));
        server.postgres.execute(database, schema);
        Standby { server, database: database.to_owned() }
    }

    fn options(&self) -> PostgresOptions {
        options_for(&self.server.postgres.conninfo(&self.database))
    }

    fn target(&self) -> PostgresTarget {
        PostgresTarget::new(self.options())
    }

    fn execute(&self, statements: &str) {
        blocking(|| self.server.postgres.execute(&self.database, statements));
    }

    /// The rows of a query, each as PostgreSQL writes a row as text, joined by `;`.
    fn rows(&self, query: &str) -> String {
        let all = format!("SELECT string_agg(r::text, ';') FROM ({query}) AS r");
        blocking(|| self.server.postgres.value(&self.database, &all)).unwrap_or_default()
    }

    /// Not every server has values of the type xml.
    fn has_libxml(&self) -> bool {
        let built = "SELECT 1 FROM pg_config WHERE name = 'CONFIGURE' AND setting ~ 'with-libxml'";
        !self.rows(built).is_empty()
    }

    fn source(&self) -> SourceIdentity {
        // origins belong to the whole server
        source_for(&format!("slot_{}", self.database))
    }
}

fn options_for(conninfo: &str) -> PostgresOptions {
    PostgresOptions {
        name: "standby".to_owned(),
        connection: rsrepl_sidecar::tls::parse(conninfo).unwrap(),
        schema_changes: rsrepl_sidecar::schema::Policy::default(),
        workers: 1,
        batches: 2,
        missing_rows: MissingRows::Error,
        creates: None,
    }
}

fn source_for(slot: &str) -> SourceIdentity {
    SourceIdentity {
        system_id: 7_100_000_000_000_000_000,
        timeline: 1,
        database: "shop".to_owned(),
        slot: slot.to_owned(),
        ancestors: None,
    }
}
