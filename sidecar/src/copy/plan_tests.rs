//! That chunks are the whole table, each page once, whatever was copied before.

use std::sync::Arc;

use proptest::prelude::*;
use rsrepl_wire::{Column, Encoding, Lsn, Relation, ReplicaIdentity, TypeKind};

use super::*;

/// Beyond every leaf of these tests.
const FAR: u32 = 100_000;

/// How often each of some pages is in `pages`: around all ends, and far behind.
fn held(all: &[Pages]) -> impl Iterator<Item = (u32, usize)> + '_ {
    let probes =
        all.iter().flat_map(|p| [p.first, p.first.saturating_sub(1), p.end.unwrap_or(FAR)]);
    let probes = probes.chain([0, FAR, u32::MAX - 1]);
    probes.map(|page| {
        let has = |p: &&Pages| p.first <= page && p.end.is_none_or(|end| page < end);
        (page, all.iter().filter(has).count())
    })
}

/// Ranges that do not overlap, out of neighbouring ones of which some are left out.
fn recorded() -> impl Strategy<Value = Vec<Pages>> {
    let steps = proptest::collection::vec((1..50u32, any::<bool>()), 0..12);
    (steps, any::<bool>()).prop_map(|(steps, open)| {
        let mut first = 0;
        let mut found = Vec::new();
        for (len, taken) in steps {
            found.extend(taken.then_some(Pages { first, end: Some(first + len) }));
            first += len;
        }
        found.extend(open.then_some(Pages { first, end: None }));
        found
    })
}

proptest! {
    #[test]
    fn each_page_is_copied_once(
        recorded in recorded().prop_shuffle(),
        pages in 0..600u32,
        chunk in 0..70u32,
    ) {
        let gaps = gaps(recorded.iter().copied(), pages, chunk);
        for gap in &gaps {
            prop_assert!(gap.end.is_none_or(|end| gap.first < end), "{gap:?} is empty");
            prop_assert!(
                gap.end.is_none_or(|end| end - gap.first <= chunk.max(1) || gap.first >= pages),
                "{gap:?} is too large"
            );
        }
        let all: Vec<Pages> = recorded.into_iter().chain(gaps).collect();
        for (page, times) in held(&all) {
            prop_assert_eq!(times, 1, "page {} of {:?}", page, all);
        }
    }

    #[test]
    fn a_round_after_a_round_has_nothing_left(pages in 0..600u32, grown in 0..600u32, chunk in 1..70 * PAGE) {
        let mut records = Records { caught_up: at(10), chunks: Vec::new() };
        let leaf = leaf(7, pages);
        records.chunks = needs(&leaf, &records, at(10), chunk)
            .into_iter()
            .map(|need| record(7, need.pages, 10))
            .collect();
        prop_assert!(needs(&leaf, &records, at(10), chunk).is_empty());
        // later, all of it again, and nothing but it
        let later = needs(&super::Leaf { pages: pages + grown, ..leaf }, &records, at(20), chunk);
        prop_assert_eq!(later.len(), records.chunks.len());
        prop_assert!(later.iter().all(|need| need.since == Some(at(10))));
    }
}

/// Bytes of a page.
const PAGE: u64 = 8192;

#[test]
fn large_values_make_small_chunks() {
    let slim = leaf(7, 1000);
    let wide = Leaf { bytes: 1000 * slim.bytes, ..slim.clone() };
    let none = Records { caught_up: at(0), chunks: Vec::new() };
    assert_eq!(needs(&slim, &none, at(10), 1000 * PAGE).len(), 1);
    assert_eq!(needs(&wide, &none, at(10), 1000 * PAGE).len(), 1000);
    assert_eq!(needs(&Leaf { bytes: u64::MAX, ..slim }, &none, at(10), 1).len(), 1000);
    assert_eq!(needs(&leaf(8, 0), &none, at(10), 1).len(), 1);
}

fn at(lsn: u64) -> Snapshot {
    Snapshot { lsn: Lsn(lsn), xmin: lsn * 100 }
}

fn leaf(oid: u32, pages: u32) -> Leaf {
    Leaf {
        oid,
        schema: "s".into(),
        name: format!("t{oid}"),
        filenode: oid,
        pages,
        bytes: u64::from(pages) * PAGE,
        attributes: Vec::new(),
        shape: "shape".into(),
    }
}

fn record(leaf: u32, pages: Pages, lsn: u64) -> ChunkRecord {
    let shape = "shape".to_owned();
    ChunkRecord { table: 1, shape, leaf, filenode: leaf, pages, snapshot: at(lsn) }
}

fn table(leaves: Vec<Leaf>, key: bool) -> Arc<CopiedTable> {
    let column = Column {
        name: "id".into(),
        number: 1,
        key,
        not_null: true,
        generated: false,
        type_oid: 23,
        base_oid: 23,
        typmod: -1,
        kind: TypeKind::Base,
        element_oid: 0,
        element_kind: TypeKind::Base,
        type_schema: "pg_catalog".into(),
        type_name: "int4".into(),
        encoding: Encoding::Fixed(4),
    };
    let relation = Relation {
        oid: 1,
        schema: "s".into(),
        name: "t".into(),
        replica_identity: ReplicaIdentity::Default,
        columns: vec![column],
    };
    Arc::new(CopiedTable {
        relation: Arc::new(relation),
        leaves,
        filter: None,
        whole: true,
        changes: true,
    })
}

const ALL: Pages = Pages { first: 0, end: None };

#[test]
fn what_cannot_be_gone_on_with_starts_over() {
    let good = table(vec![leaf(7, 10), leaf(8, 10)], true);
    let why = |table: &CopiedTable, record: ChunkRecord, now| starts_over(table, &[&record], now);
    assert_eq!(why(&good, record(7, ALL, 10), at(20)), None);
    assert_eq!(why(&table(vec![leaf(7, 10)], false), record(7, ALL, 20), at(20)), None);
    // what is gone between two rounds would not be told
    let inserts = CopiedTable { changes: false, ..CopiedTable::clone(&good) };
    assert!(why(&inserts, record(7, ALL, 10), at(20)).is_some_and(|why| why.contains("published")));
    let later = Snapshot { lsn: Lsn(20), xmin: 1000 + (1 << 31) };
    for (table, record, now, part) in [
        (table(vec![leaf(7, 10)], false), record(7, ALL, 10), at(20), "no key"),
        (good.clone(), ChunkRecord { shape: "x".into(), ..record(7, ALL, 10) }, at(20), "columns"),
        // what ClickHouse says of a chunk that this very round has begun
        (good.clone(), ChunkRecord { shape: "".into(), ..record(7, ALL, 20) }, at(20), "columns"),
        (good.clone(), record(9, ALL, 10), at(20), "partition"),
        (good.clone(), ChunkRecord { filenode: 70, ..record(7, ALL, 10) }, at(20), "rewritten"),
        (good.clone(), record(7, ALL, 10), later, "transactions"),
    ] {
        let why = why(&table, record, now).unwrap_or_default();
        assert!(why.contains(part), "{why}");
    }
}

#[test]
fn large_tables_come_first_then_what_is_there_and_then_what_has_no_key() {
    let tables = [
        table(vec![leaf(1, 5)], true),
        table(vec![leaf(2, 50), leaf(3, 20)], true),
        table(vec![leaf(4, 0)], true),
        table(vec![leaf(5, 90)], false),
    ];
    let work = |table, leaf, first, end, since| Work {
        table,
        leaf,
        need: Need { pages: Pages { first, end }, since },
        targets: vec![0],
    };
    let sorted = vec![
        work(1, 0, 0, Some(20), None),
        work(1, 0, 20, Some(40), None),
        work(1, 1, 0, None, None),
        work(1, 0, 40, None, None),
        work(0, 0, 0, None, None),
        work(2, 0, 0, None, None),
        work(1, 1, 5, None, Some(at(1))),
        work(3, 0, 0, None, None),
    ];
    let mut works: Vec<Work> = sorted.iter().rev().cloned().collect();
    sort(&mut works, &tables);
    assert_eq!(works, sorted);
}

#[test]
fn pages_are_conditions() {
    let condition = |first, end| Pages { first, end }.condition();
    assert_eq!(condition(0, None), "true");
    assert_eq!(
        condition(8, Some(16)),
        "ctid OPERATOR(pg_catalog.>=) '(8,0)'::pg_catalog.tid AND \
         ctid OPERATOR(pg_catalog.<) '(16,0)'::pg_catalog.tid"
    );
    assert_eq!(condition(8, None), "ctid OPERATOR(pg_catalog.>=) '(8,0)'::pg_catalog.tid");
}
