//! The random workload itself, on a server without any replication.

use rsrepl_tests::compare;
use rsrepl_tests::postgres::Postgres;
use rsrepl_tests::scratch::Scratch;
use rsrepl_tests::workload::{Workload, schema};

/// What the generator says PostgreSQL accepts, and it leaves rows in every table.
#[test]
fn workload_is_valid_and_reaches_every_table() {
    let scratch = Scratch::new("workload");
    let server = Postgres::start(&scratch, "server", "deadlock_timeout = 10ms");
    server.execute("postgres", &schema::statements());
    server.execute("postgres", schema::FIRST_ROWS);
    let clients = (0..3).map(|_| server.client("postgres")).collect();
    let workload = Workload::start(7, 1_500, clients);
    let progress = workload.progress.clone();
    workload.join();
    assert!(progress.total() > 1_500, "nothing was rolled back");
    let mut client = server.client("postgres");
    let mut empty = Vec::new();
    for table in compare::tables(&mut client) {
        let rows = server.value("postgres", &format!("SELECT count(*) FROM {table}"));
        if rows.as_deref() == Some("0") {
            empty.push(table.clone());
        }
        // The comparison works on every type, and finds a table equal to itself.
        let same = compare::postgres(&mut client, &mut server.client("postgres"), &table);
        assert!(same.equal(), "{same}");
    }
    // `bulk` is filled by hand; of the others a TRUNCATE may just have emptied one or two.
    assert!(empty.len() <= 3, "many tables are empty: {empty:?}");
}
