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
    for table in compare::tables(&mut client) {
        let rows = server.value("postgres", &format!("SELECT count(*) FROM {table}"));
        assert!(table == "bulk" || rows.as_deref() != Some("0"), "{table} is empty");
        // The comparison works on every type, and finds a table equal to itself.
        let same = compare::postgres(&mut client, &mut server.client("postgres"), &table);
        assert!(same.equal(), "{same}");
    }
}
