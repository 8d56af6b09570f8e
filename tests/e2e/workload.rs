//! The random workload itself, on a server without any replication.

use std::time::Duration;

use rsrepl_tests::compare;
use rsrepl_tests::postgres::Postgres;
use rsrepl_tests::scratch::Scratch;
use rsrepl_tests::wait;
use rsrepl_tests::workload::{Workload, schema};

/// How long after a session has ended its statistics may take to show.
const STATISTICS_LIMIT: Duration = Duration::from_secs(10);

/// What the generator says PostgreSQL accepts, and it writes to every table.
#[test]
fn workload_is_valid_and_reaches_every_table() {
    let scratch = Scratch::new("workload");
    let server = Postgres::start(&scratch, "server", "deadlock_timeout = 10ms");
    server.execute("postgres", &schema::statements());
    server.execute("postgres", schema::FIRST_ROWS);
    server.execute("postgres", "SELECT pg_stat_reset()");
    let clients = (0..3).map(|_| server.client("postgres")).collect();
    let workload = Workload::start(7, 1_500, clients);
    let progress = workload.progress.clone();
    workload.join();
    assert!(progress.total() > 1_500, "nothing was rolled back");
    let mut client = server.client("postgres");
    for table in compare::tables(&mut client) {
        // The comparison works on every type, and finds a table equal to itself.
        let same = compare::postgres(&mut client, &mut server.client("postgres"), &table);
        assert!(same.equal(), "{same}");
    }
    // Not whether there are rows: a TRUNCATE … CASCADE may just have emptied several. `bulk` is filled by hand.
    let unreached = "SELECT string_agg(c.relname, ' ' ORDER BY c.relname) FROM pg_class c \
        JOIN pg_stat_user_tables s ON s.relid = c.oid \
        WHERE c.relkind = 'r' AND c.relname <> 'bulk' AND s.n_tup_ins + s.n_tup_upd = 0";
    wait::until(STATISTICS_LIMIT, "every table was written to", || {
        server.value("postgres", unreached).is_none()
    });
}
