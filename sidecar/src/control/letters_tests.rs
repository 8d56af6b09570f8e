use bytes::Bytes;
use rsrepl_wire::{Column, ReplicaIdentity, RowWriter};
use std::sync::Arc;

use super::*;

fn column(name: &str, number: u16, type_oid: u32, encoding: Encoding) -> Column {
    Column {
        name: name.into(),
        number,
        key: number == 1,
        not_null: number == 1,
        generated: false,
        type_oid,
        base_oid: type_oid,
        typmod: -1,
        kind: TypeKind::Base,
        element_oid: 0,
        element_kind: TypeKind::Base,
        type_schema: "pg_catalog".into(),
        type_name: "t".into(),
        encoding,
    }
}

fn relation() -> Arc<Relation> {
    Arc::new(Relation {
        oid: 1,
        schema: "public".into(),
        name: "t".into(),
        replica_identity: ReplicaIdentity::Default,
        columns: vec![
            column("id", 1, oid::INT4, Encoding::Fixed(4)),
            column("v", 2, oid::TEXT, Encoding::Varlena),
            column("big", 3, oid::TEXT, Encoding::Varlena),
            // of a type that is not known here
            column("odd", 4, 4_000_000, Encoding::Send),
        ],
    })
}

fn row(write: impl FnOnce(&mut RowWriter<'_>)) -> Row {
    let mut bytes = Vec::new();
    write(&mut RowWriter::new(&mut bytes, 4, true, true));
    Row(Bytes::from(bytes))
}

fn letters(name: &str) -> Letters {
    let dir = std::env::temp_dir().join(format!("rsrepl-{name}-{:016x}", rand::random::<u64>()));
    Letters::new(&dir, "slot", "target")
}

fn read(letters: &Letters) -> Vec<Value> {
    let text = fs::read_to_string(letters.path()).unwrap();
    assert!(text.ends_with('\n'));
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn remove(letters: &Letters) {
    fs::remove_dir_all(letters.path().parent().unwrap()).unwrap();
}

const AT: Position = Position { lsn: Lsn(0x30), commit_time: 1_500_000, xid: 7 };

fn changes() -> Vec<Letter> {
    let id = 5i32.to_le_bytes();
    let whole = row(|row| {
        row.fixed(&id);
        row.variable("a\"\n".as_bytes());
        row.unchanged();
        row.variable(&[0xab, 1]);
    });
    let key = row(|row| {
        row.fixed(&id);
        row.null();
        row.null();
        row.null();
    });
    let old = OldRow { kind: OldRowKind::Key, row: key };
    let operations = [
        Operation::Insert { new: whole.clone() },
        Operation::Update { old: Some(old.clone()), new: whole },
        Operation::Delete { old },
        Operation::Truncate { restart_identity: true, parted: false },
    ];
    let letter = |(number, operation)| {
        let change = Change { lsn: Lsn(0x20), end_lsn: AT.lsn, relation: relation(), operation };
        Letter::Change { transaction: AT, number, change }
    };
    (1..).zip(operations).map(letter).collect()
}

#[tokio::test]
async fn a_line_has_all_that_is_known_of_a_change() {
    let mut letters = letters("letters");
    letters.write(&changes()).unwrap();
    letters.write(&[Letter::End { transaction: AT, changes: 4 }]).unwrap();
    letters.sync().await.unwrap();
    let lines = read(&letters);
    let mode = fs::metadata(letters.path()).unwrap().permissions().mode();
    remove(&letters);
    assert_eq!(mode & 0o777, 0o600);
    let new =
        json!({"id": "5", "v": "a\"\n", "big": {"unchanged": true}, "odd": {"bytes": "ab01"}});
    let key = json!({"id": "5"});
    let of = |operation: &str| {
        json!({"target": "target", "lsn": "0/30", "xid": 7, "commit_time": "2000-01-01 00:00:01.5+00",
            "operation": operation})
    };
    let change = |operation: &str, number: u64, more: Value| {
        let mut line = of(operation);
        (line["number"], line["schema"], line["table"]) =
            (number.into(), "public".into(), "t".into());
        line.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        line
    };
    let mut end = of("commit");
    end["changes"] = 4.into();
    assert_eq!(
        lines,
        [
            change("insert", 1, json!({"key": key, "new": new})),
            change("update", 2, json!({"key": key, "new": new, "old": key})),
            change("delete", 3, json!({"key": key, "old": key})),
            change("truncate", 4, json!({"restart_identity": true})),
            end,
        ]
    );
}

#[tokio::test]
async fn a_torn_line_harms_no_other() {
    let mut letters = letters("torn");
    letters.write(&changes()[..1]).unwrap();
    letters.sync().await.unwrap();
    let mut file = OpenOptions::new().append(true).open(letters.path()).unwrap();
    file.write_all(b"{\"lsn\": \"0/3").unwrap();
    letters.restart();
    letters.write(&changes()[1..2]).unwrap();
    letters.sync().await.unwrap();
    let operations: Vec<_> = read(&letters).iter().map(|line| line["operation"].clone()).collect();
    remove(&letters);
    assert_eq!(operations, ["insert", "update"]);
}

#[test]
fn nobody_leads_us_to_another_file() {
    let mut letters = letters("link");
    let dir = letters.path().parent().unwrap().to_owned();
    fs::create_dir_all(&dir).unwrap();
    std::os::unix::fs::symlink(dir.join("other"), letters.path()).unwrap();
    let error = letters.write(&changes()).expect_err("a link");
    assert_eq!(error.kind(), Kind::Disk);
    assert!(!dir.join("other").exists());
    remove(&letters);
}

/// A target that fails behind a transaction that was skipped has it come again, at each attempt.
#[tokio::test]
async fn what_is_on_disk_is_not_written_again() {
    let mut letters = letters("again");
    let whole = || [changes(), vec![Letter::End { transaction: AT, changes: 4 }]].concat();
    // not whole, or not on disk: it comes again, and is written again
    letters.write(&changes()).unwrap();
    letters.sync().await.unwrap();
    letters.restart();
    letters.write(&whole()).unwrap();
    letters.restart();
    assert!(!letters.has(&AT));
    for _ in 0..3 {
        letters.write(&whole()).unwrap();
        letters.sync().await.unwrap();
        letters.restart();
        assert!(letters.has(&AT));
    }
    assert_eq!(read(&letters).len(), 4 + 5 + 5);
    // another one of the same end
    let other = Position { commit_time: 9, ..AT };
    letters.write(&[Letter::End { transaction: other, changes: 0 }]).unwrap();
    letters.sync().await.unwrap();
    assert_eq!(read(&letters).len(), 15);
    letters.passed(AT.lsn);
    assert!(!letters.has(&AT) && !letters.has(&other), "it is behind them");
    remove(&letters);
}
