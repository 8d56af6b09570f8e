//! What works a batch comes to.

use super::*;
use crate::assemble::tests::relation;
use crate::schema::{Message, What};

fn row(relation: &Arc<Relation>, end_lsn: u64) -> Change {
    Change {
        lsn: Lsn(end_lsn - 1),
        end_lsn: Lsn(end_lsn),
        relation: Arc::clone(relation),
        operation: Operation::Insert { new: rsrepl_wire::Row(bytes::Bytes::new()) },
    }
}

fn told(table: &Table, end_lsn: u64, relation: &Arc<Relation>) -> Change {
    let what = What::Is(table.clone());
    let message = Message { command: "ALTER TABLE".into(), what, rewrite: false };
    Change { operation: Operation::Schema(Arc::new(message)), ..row(relation, end_lsn) }
}

fn batch(changes: Vec<Change>, commit: Option<u64>) -> Batch {
    let commit = commit.map(|lsn| Position { lsn: Lsn(lsn), commit_time: 9, xid: 7 });
    Batch { changes, commit, full: true, ..Batch::default() }
}

/// Each work as: from, rows, whether it is a schema change, where it commits.
fn shape(works: &[Work]) -> Vec<(u64, usize, bool, Option<u64>)> {
    let rows = |work: &Work| work.plan.tables.iter().map(|table| table.changes.len()).sum();
    let shape =
        |w: &Work| (w.from.0, rows(w), w.schema.is_some(), w.commit.map(|commit| commit.lsn.0));
    works.iter().map(shape).collect()
}

#[test]
fn a_change_of_a_table_is_between_the_rows_around_it() {
    let old = Arc::new(relation("t"));
    let mut altered = (*old).clone();
    altered.columns[0].name = "key".into();
    let new = Arc::new(altered.clone());
    let table = Table::of_relation(&altered);
    let mut schemas = Schemas::new([]);
    let changes = vec![
        row(&old, 10),
        row(&old, 20),
        row(&old, 30),
        told(&table, 30, &old),
        row(&new, 30),
        row(&new, 40),
    ];
    let works = schemas.works(batch(changes, Some(40)), Lsn(5));
    let expected = [
        (5, 2, false, Some(20)),
        (20, 1, false, None),
        (20, 0, true, None),
        (20, 1, false, Some(30)),
        (30, 1, false, Some(40)),
    ];
    assert_eq!(shape(&works), expected);
    assert_eq!(
        works.iter().map(|w| w.last).collect::<Vec<_>>(),
        [false, false, false, false, true]
    );
    assert_eq!(works[4].commit.map(|commit| commit.xid), Some(7), "the batch's own end");
    let epochs: Vec<_> = works.iter().map(|work| work.epoch).collect();
    assert_eq!(epochs, [0, 0, 1, 1, 1]);
    assert_eq!(works[0].seeds.len(), 1);
    // nothing of it is news
    let works = schemas.works(batch(vec![row(&new, 50)], Some(50)), Lsn(40));
    assert_eq!(shape(&works), [(40, 1, false, Some(50))]);
    assert!(works[0].seeds.is_empty());
}

#[test]
fn a_row_of_another_shape_shows_the_change() {
    let old = Arc::new(relation("t"));
    let mut altered = (*old).clone();
    altered.name = "u".into();
    let new = Arc::new(altered);
    let mut schemas = Schemas::new([Table::of_relation(&old)]);
    let changes = vec![row(&old, 10), row(&new, 20), row(&new, 20)];
    let works = schemas.works(batch(changes, None), Lsn(5));
    assert_eq!(shape(&works), [(5, 1, false, Some(10)), (10, 0, true, None), (10, 2, false, None)]);
    assert!(works.iter().all(|work| work.seeds.is_empty()));
}

#[test]
fn a_batch_that_ends_with_the_change_ends_with_it() {
    let old = Arc::new(relation("t"));
    let table = Table { name: "u".into(), ..Table::of_relation(&old) };
    let mut schemas = Schemas::new([Table::of_relation(&old)]);
    let works = schemas.works(batch(vec![told(&table, 10, &old)], Some(10)), Lsn(5));
    assert_eq!(shape(&works), [(5, 0, true, Some(10))]);
    let works = schemas.works(batch(Vec::new(), Some(20)), Lsn(10));
    assert_eq!(shape(&works), [(10, 0, false, Some(20))]);
}
