use std::sync::Arc;
use std::time::Duration;

use rsrepl_sidecar::error::{Decision, Error, Kind};
use rsrepl_sidecar::target::Target;
use rsrepl_wire::{Relation, ReplicaIdentity};

use crate::stream::{Stream, V, int, int_column, key, relation, text, text_column};
use crate::{Apply, Standby};

/// For what takes a moment.
const LIMIT: Duration = Duration::from_secs(60);

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

/// Each piece is read before the next is written: what is sent with a warning, the error, and what follows it when
/// the transaction, which has much to take back, is aborted.
#[tokio::test]
async fn an_error_that_comes_in_pieces() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t VALUES (1, 'one');
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE WARNING 'a first piece';
            FOR n IN 1..100 LOOP EXECUTE format('CREATE TABLE public.made_%s (a text)', n); END LOOP;
            RAISE check_violation;
        END $$;
        CREATE TRIGGER refuse BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION refuse();
        ALTER TABLE t ENABLE ALWAYS TRIGGER refuse";
    let standby = Standby::new("pieces", schema);
    for inserts in [1, 100] {
        let mut target = standby.target();
        target.open(&standby.source()).await.unwrap();
        let mut stream = Stream::after(1000);
        // the statement for the rows behind it is prepared while the answer is on its way
        stream.delete(&table(), &[int(1), V::Null]);
        (0..inserts).for_each(|i| stream.insert(&table(), &[int(1000 + i), text("good")]));
        let refused = tokio::time::timeout(LIMIT, target.apply(stream.commit())).await;
        let error = refused.expect("it does not hang").unwrap_err();
        assert_says(&[error], &["delete from public.t (id)=(1)", "23514"]);
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
