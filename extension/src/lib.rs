//! The PostgreSQL side of rsrepl.
//!
//! | module | subject |
//! |---|---|
//! | `plugin` | the logical-decoding output plugin |
//! | `api` | what `CREATE EXTENSION rsrepl` installs: functions behind the views in `sql/` |
//! | `seal` | tells messages of the event triggers from those of anybody |
//! | `compat` | what differs between PostgreSQL's major versions |

mod api;
mod compat;
mod plugin;
mod seal;

use pgrx::prelude::*;

#[cfg(any(test, feature = "pg_test"))]
#[path = "../../pgrx-tests/mod.rs"]
mod decoding_tests;

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
        let mut options = vec![
            "wal_level = logical",
            "fsync = off", // a database per test is many files to sync at the end
            "max_replication_slots = 80",
            "max_wal_senders = 20",
            "max_prepared_transactions = 10",
        ];
        if knows_output_plugin_libraries() {
            options.push("output_plugin_libraries = 'pgoutput, test_decoding, rsrepl'");
        }
        options
    }

    /// Minors before 15.19 do not start with a setting that they do not know.
    fn knows_output_plugin_libraries() -> bool {
        let label = format!("pg{}", pgrx::pg_sys::get_pg_major_version_num());
        let server = pgrx_pg_config::Pgrx::from_config()
            .and_then(|pgrx| pgrx.get(&label)?.postmaster_path())
            .expect("cargo pgrx init has been run for the tested version");
        let described = std::process::Command::new(server).arg("--describe-config").output();
        let described = described.expect("the server describes its settings").stdout;
        String::from_utf8_lossy(&described)
            .lines()
            .any(|line| line.starts_with("output_plugin_libraries\t"))
    }
}
