//! The PostgreSQL side of rsrepl.
//!
//! | module | subject |
//! |---|---|
//! | `plugin` | the logical-decoding output plugin |
//! | `api` | what `CREATE EXTENSION rsrepl` installs: functions behind the views in `sql/` |
//! | `compat` | what differs between PostgreSQL's major versions |

mod api;
mod compat;
mod plugin;

use pgrx::prelude::*;

::pgrx::pg_module_magic!(name, version);

/// The version of the loaded library, e.g. `0.1.0`.
#[pg_extern(stable, parallel_safe)]
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Required by `cargo pgrx test` at the root of the crate.
#[cfg(test)]
pub mod pg_test {
    pub fn setup(_options: Vec<&str>) {}

    #[must_use]
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec![
            "wal_level = logical",
            "max_replication_slots = 40",
            "output_plugin_libraries = 'pgoutput, test_decoding, rsrepl'",
        ]
    }
}
