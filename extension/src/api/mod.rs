//! What `CREATE EXTENSION rsrepl` installs beside the output plugin.
//!
//! | module | subject |
//! |---|---|
//! | [`report`] | checks what a sidecar reports, before SQL stores it |
//! | [`json`] | JSON as it crosses from Rust to SQL, in any database encoding |
//!
//! Tables, views and whatever SQL can say are in `sql/` at the top of the repository; their order is
//! below. Functions here do what SQL cannot, and only SQL calls them.

mod json;
mod report;

use pgrx::prelude::*;

extension_sql_file!("../../../sql/schema.sql", name = "schema", bootstrap);
extension_sql_file!(
    "../../../sql/reports.sql",
    name = "reports",
    requires = ["schema", report::checked_report]
);
extension_sql_file!("../../../sql/views.sql", name = "views", requires = ["reports"]);
extension_sql_file!(
    "../../../sql/health.sql",
    name = "health",
    requires = ["views", rsrepl::version]
);
extension_sql_file!("../../../sql/grants.sql", name = "grants", finalize);
