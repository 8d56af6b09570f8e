//! What `CREATE EXTENSION rsrepl` installs beside the output plugin.
//!
//! | module | subject |
//! |---|---|
//! | [`report`] | checks what a sidecar reports, before SQL stores it |
//! | [`frame`] | `rsrepl.decode_frame`: the messages of a frame |
//! | [`row`] | the rows in them |
//! | [`schema_change`] | the seal of the event triggers' messages |
//! | [`json`] | JSON as it crosses from Rust to SQL, in any database encoding |
//!
//! Tables, views and whatever SQL can say are in `sql/` at the top of the repository; their order is
//! below. Functions here do what SQL cannot, and only SQL calls them.

mod frame;
mod json;
mod report;
mod row;
mod schema_change;

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
extension_sql_file!(
    "../../../sql/decode.sql",
    name = "decode",
    requires = ["schema", frame::decode_frame_messages]
);
extension_sql_file!(
    "../../../sql/schema_changes.sql",
    name = "schema_changes",
    requires = ["schema", schema_change::seal_schema_change]
);
extension_sql_file!("../../../sql/grants.sql", name = "grants", finalize);

#[cfg(any(test, feature = "pg_test"))]
#[path = "../../../pgrx-tests/api_frame.rs"]
mod frame_tests;
#[cfg(any(test, feature = "pg_test"))]
#[path = "../../../pgrx-tests/api_report.rs"]
mod report_tests;
