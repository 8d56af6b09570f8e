use std::sync::Arc;

use rsrepl_sidecar::error::{Decision, Error, Kind};
use rsrepl_sidecar::target::Target;
use rsrepl_wire::{Relation, ReplicaIdentity};

use crate::stream::{Stream, V, int, int_column, key, relation, text, text_column};
use crate::{Apply, Standby};

const SCHEMA: &str = "\
CREATE TABLE t (id int PRIMARY KEY, a text CHECK (a <> 'bad'));
CREATE TABLE unkeyed (x int);
INSERT INTO t VALUES (1, 'one'), (2, 'two');";

fn table() -> Arc<Relation> {
    relation("t", ReplicaIdentity::Default, vec![key(int_column("id")), text_column("a")])
}

/// Applies `faulty` alone, and again after so many good rows that it goes by sets.
async fn refused(database: &str, faulty: impl Fn(&mut Stream)) -> Vec<Error> {
    let standby = Standby::new(database, SCHEMA);
    let mut errors = Vec::new();
    for others in [0, 100] {
        let mut target = standby.target();
        target.open(&standby.source()).await.unwrap();
        let mut stream = Stream::after(1000);
        (0..others).for_each(|i| stream.insert(&table(), &[int(1000 + i), text("good")]));
        let before = stream.lsn();
        faulty(&mut stream);
        let error = target.apply(stream.commit()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Row, "{error}");
        assert_eq!(error.decision(), Decision::Stop);
        assert_eq!(error.lsn().map(|lsn| lsn.0), Some(before.0 + 8), "{error}");
        assert_eq!(standby.rows("SELECT * FROM t ORDER BY id"), "(1,one);(2,two)");
        assert_eq!(standby.rows("SELECT applied_lsn FROM rsrepl.positions"), "(0/0)");
        errors.push(error);
    }
    errors
}

fn assert_says(errors: &[Error], words: &[&str]) {
    for error in errors {
        let text = error.to_string();
        for word in words {
            assert!(text.contains(word), "{word:?} is not in: {text}");
        }
    }
}

#[tokio::test]
async fn a_key_that_is_taken() {
    let errors = refused("taken", |stream| stream.insert(&table(), &[int(2), text("x")])).await;
    assert_says(&errors, &["target standby", "insert into public.t (id)=(2)", "23505"]);
}

#[tokio::test]
async fn a_value_that_a_check_refuses() {
    let errors = refused("checked", |s| s.update(&table(), None, &[int(1), text("bad")])).await;
    assert_says(&errors, &["update of public.t (id)=(1)", "23514"]);
}

#[tokio::test]
async fn a_row_that_is_not_there() {
    let errors = refused("gone_update", |s| s.update(&table(), None, &[int(9), text("x")])).await;
    assert_says(&errors, &["update of public.t (id)=(9)", "0 rows", "differs from the source"]);
    let errors = refused("gone_delete", |s| s.delete(&table(), &[int(9), V::Null])).await;
    assert_says(&errors, &["delete from public.t (id)=(9)", "0 rows"]);
}

#[tokio::test]
async fn a_row_that_nothing_identifies() {
    let unkeyed = relation("unkeyed", ReplicaIdentity::Nothing, vec![int_column("x")]);
    let errors = refused("nameless", |stream| stream.delete(&unkeyed, &[V::Null])).await;
    assert_says(&errors, &["public.unkeyed", "REPLICA IDENTITY FULL"]);
}

#[tokio::test]
async fn a_zero_byte_in_a_text() {
    let errors = refused("zero", |s| s.insert(&table(), &[int(5), text("a\0b")])).await;
    assert_says(&errors, &["(id)=(5)", "column a:", "22021"]);
}
