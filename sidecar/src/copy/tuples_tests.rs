use proptest::prelude::*;
use rsrepl_wire::text::oid;
use rsrepl_wire::{Column, Encoding, Relation, ReplicaIdentity, TypeKind, Value};

use super::*;

type Cells = Vec<Option<Vec<u8>>>;

fn relation(columns: usize) -> Relation {
    let column = |number: usize| Column {
        name: format!("c{number}"),
        number: number as u16,
        key: false,
        not_null: false,
        generated: false,
        type_oid: oid::BYTEA,
        base_oid: oid::BYTEA,
        typmod: -1,
        kind: TypeKind::Base,
        element_oid: 0,
        element_kind: TypeKind::Base,
        type_schema: "pg_catalog".into(),
        type_name: "bytea".into(),
        encoding: Encoding::Send,
    };
    Relation {
        oid: 1,
        schema: "public".into(),
        name: "t".into(),
        replica_identity: ReplicaIdentity::Default,
        columns: (1..=columns).map(column).collect(),
    }
}

/// What a server sends.
fn sent(rows: &[Cells]) -> Vec<u8> {
    let mut out = SIGNATURE.to_vec();
    out.extend_from_slice(&[0; 8]);
    for row in rows {
        out.extend_from_slice(&(row.len() as i16).to_be_bytes());
        for cell in row {
            match cell {
                Some(value) => {
                    out.extend_from_slice(&(value.len() as i32).to_be_bytes());
                    out.extend_from_slice(value);
                }
                None => out.extend_from_slice(&(-1i32).to_be_bytes()),
            }
        }
    }
    out.extend_from_slice(&(-1i16).to_be_bytes());
    out
}

fn cells(row: &Row, relation: &Relation) -> Cells {
    let cell = |value: Value<'_>| match value {
        Value::Data(value) => Some(value.to_vec()),
        Value::Null => None,
        Value::Unchanged => panic!("a row that is whole"),
    };
    row.values(relation).unwrap().map(|value| cell(value.unwrap())).collect()
}

/// Pieces of these lengths, again and again.
fn pieces<'a>(mut bytes: &'a [u8], lengths: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    lengths.iter().cycle().map_while(move |len| {
        let (piece, rest) = bytes.split_at((*len).min(bytes.len()));
        let ended = bytes.is_empty();
        bytes = rest;
        (!ended).then_some(piece)
    })
}

fn rows() -> impl Strategy<Value = (usize, Vec<Cells>)> {
    let long = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..40),
        1 => prop::collection::vec(any::<u8>(), 100..400),
    ];
    let cell = prop::option::weighted(0.8, long);
    (0usize..20).prop_flat_map(move |columns| {
        let row = prop::collection::vec(cell.clone(), columns);
        (Just(columns), prop::collection::vec(row, 0..30))
    })
}

proptest! {
    /// However the bytes are cut, and whenever the rows are taken.
    #[test]
    fn rows_are_those_of_the_server(
        (columns, rows) in rows(),
        lengths in prop::collection::vec(1usize..300, 1..10),
        take_at in 1usize..1000,
    ) {
        let (relation, bytes) = (relation(columns), sent(&rows));
        let (mut tuples, mut found) = (Tuples::new(columns), Vec::new());
        for piece in pieces(&bytes, &lengths) {
            tuples.push(piece).unwrap();
            if tuples.bytes() >= take_at {
                found.extend(tuples.take());
            }
        }
        tuples.finish().unwrap();
        prop_assert_eq!(tuples.len(), rows.len() - found.len());
        found.extend(tuples.take());
        prop_assert_eq!(tuples.len(), 0);
        let found: Vec<Cells> = found.iter().map(|row| cells(row, &relation)).collect();
        prop_assert_eq!(found, rows);
    }

    /// What is cut off is never taken for the end.
    #[test]
    fn a_cut_copy_is_none((columns, rows) in rows(), at in any::<prop::sample::Index>()) {
        let bytes = sent(&rows);
        let mut tuples = Tuples::new(columns);
        tuples.push(&bytes[..at.index(bytes.len())]).unwrap();
        prop_assert!(tuples.finish().is_err());
    }

    /// Damage is an error or other rows, and takes no more memory than what came.
    #[test]
    fn hostile_bytes_do_no_harm(
        (columns, rows) in rows(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        lengths in prop::collection::vec(1usize..300, 1..10),
    ) {
        let (relation, mut bytes) = (relation(columns), sent(&rows));
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let mut tuples = Tuples::new(columns);
        for piece in pieces(&bytes, &lengths) {
            if tuples.push(piece).is_err() {
                break;
            }
        }
        // a field of four bytes at least is one byte and a bit of a row
        prop_assert!(tuples.rows.len() + tuples.rest.len() <= 2 * bytes.len() + 8);
        for row in tuples.take() {
            row.validate(&relation).unwrap();
        }
    }
}

#[test]
fn what_no_server_sends_is_refused() {
    let header = || sent(&[])[..SIGNATURE.len() + 8].to_vec();
    let with = |more: &[&[u8]]| [header(), more.concat()].concat();
    let mut oids = header();
    oids[SIGNATURE.len() + 1] = 1;
    let mut long = header();
    long[SIGNATURE.len() + 4] = 0xFF;
    for (bad, why) in [
        (b"PGCOPX".to_vec(), "PGCOPY"),
        (oids, "flags"),
        (long, "header"),
        (with(&[&[0, 3]]), "3 fields"),
        (with(&[&[0xFF, 0xFE]]), "-2 fields"),
        (with(&[&[0, 2], &(-2i32).to_be_bytes()]), "-2 bytes"),
        (with(&[&[0, 2], &i32::MAX.to_be_bytes()]), "2147483647 bytes"),
        (with(&[&[0xFF, 0xFF], &[0]]), "behind"),
    ] {
        let error = Tuples::new(2).push(&bad).expect_err(why);
        assert_eq!(error.kind(), Kind::Frame);
        assert!(error.to_string().contains(why), "{why}: {error}");
    }
    // an extension is passed over
    let mut tuples = Tuples::new(1);
    let mut extended = header();
    *extended.last_mut().unwrap() = 2;
    tuples.push(&[extended, vec![9, 9, 0, 1, 0, 0, 0, 1, b'x', 0xFF, 0xFF]].concat()).unwrap();
    tuples.finish().unwrap();
    assert_eq!(cells(&tuples.take().next().unwrap(), &relation(1)), [Some(b"x".to_vec())]);
}

/// One byte at a time, as nobody sends it: a large value is not gone over again and again.
#[test]
fn a_large_value_in_small_pieces_takes_its_time_once() {
    let value = vec![7u8; 4 << 20];
    let bytes = sent(&[vec![Some(value.clone())]]);
    let mut tuples = Tuples::new(1);
    for piece in bytes.chunks(3) {
        tuples.push(piece).unwrap();
    }
    tuples.finish().unwrap();
    assert!(tuples.rest.capacity() <= KEPT_MAX, "the room of a large value is given back");
    assert_eq!(cells(&tuples.take().next().unwrap(), &relation(1)), [Some(value)]);
}
