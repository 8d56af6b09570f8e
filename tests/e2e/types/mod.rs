//! Every type that a column can have arrives: those of a fresh database of the server, whatever its
//! version, and those that users make.
//!
//! | module | subject |
//! |---|---|
//! | `catalog` | the types, asked of the server |
//! | `edges` | values of each |
//! | `document` | what `docs/type-mapping.md` says that they become |
//! | `tables` | a table for each type, with an array of it and domains over both |
//! | `equal` | comparing the tables on all systems |
//! | `users` | types that users make |

mod catalog;
mod document;
mod edges;
mod equal;
mod tables;
mod users;

use std::time::Duration;

use document::Document;
use edges::Book;
use equal::NATIVE;
use rsrepl_tests::config::Target;
use rsrepl_tests::rig::{DATABASE, Rig};

/// Some seconds on a machine that does nothing else.
const LIMIT: Duration = Duration::from_secs(300);

/// A ClickHouse target beside the usual one, which here has only strings where types do not hold
/// everything.
fn rig(name: &str) -> Rig {
    let mut rig = Rig::new(name, "");
    rig.configure(|config| {
        config.clickhouse[0].options = "unrepresentable = \"string\"".to_owned();
        let native = config.clickhouse[0].connection.replace(DATABASE, NATIVE);
        config.clickhouse.push(Target {
            options: "unrepresentable = \"null\"".to_owned(),
            ..Target::new(NATIVE, native)
        });
    });
    rig
}

/// As [`Rig::settle`], for the second ClickHouse target too.
fn settle(rig: &Rig) {
    rig.settle(LIMIT);
    rig.settle_clickhouse(NATIVE, LIMIT);
}

/// Starts the sidecar, and has rows there afterwards, which come in the stream; or before, and they are copied.
fn fill(rig: &mut Rig, copied: bool, rows: &str) {
    if copied {
        rig.configure(|config| config.copy = "data = true\nchunk_size = \"64KiB\"".to_owned());
        rig.execute(rows);
        rig.sidecar.launch();
        rig.sidecar.wait_ready(LIMIT);
    } else {
        rig.run();
        rig.execute(rows);
    }
    settle(rig);
}

#[test]
fn every_type_of_the_server_arrives() {
    walk("walk", false);
}

#[test]
fn every_type_of_the_server_is_copied() {
    walk("copied", true);
}

fn walk(name: &str, copied: bool) {
    let mut rig = rig(name);
    let types = catalog::types(&mut rig.source.client("postgres"));
    let (tables, rows) = tables::make(&rig, &types, &Book::read());
    assert!(tables.len() > 80, "{} tables", tables.len());
    fill(&mut rig, copied, &rows);
    // some of the values go once more, on the way of changes
    rig.execute(&tables.iter().map(|table| table.changes()).collect::<String>());
    settle(&rig);
    equal::check(&rig, &tables, &Document::read());
    // the preflight, which asks the catalogs, comes to the same types as the plugin
    rig.sidecar.terminate();
    let output = rig.sidecar.command("check");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
