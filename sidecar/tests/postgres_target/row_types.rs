//! What a session keeps of the tables it has written.

use rsrepl_sidecar::target::Target;
use rsrepl_wire::ReplicaIdentity;

use crate::stream::{Stream, int, int_column, key, relation, text, text_column};
use crate::{Apply, Standby};

/// Composite types that stand for the rows of a set.
const ROW_TYPES: &str =
    "SELECT count(*) FROM pg_type WHERE typname ~ '^rsrepl_row' AND typtype = 'c'";

/// As long as a session lasts, the stream may describe a table anew any number of times.
#[tokio::test]
async fn a_table_that_is_altered_has_one_row_type() {
    let standby = Standby::new(
        "row_types",
        "CREATE TABLE t (id int PRIMARY KEY, a text);
         CREATE TABLE u (id int PRIMARY KEY, a text)",
    );
    let mut target = standby.target();
    target.open(&standby.source()).await.unwrap();
    let mut stream = Stream::after(1000);
    for round in 0..6 {
        let mut columns = vec![key(int_column("id"))];
        // the column is there in every second round
        columns.extend((round % 2 == 0).then(|| text_column("a")));
        let tables =
            ["t", "u"].map(|name| relation(name, ReplicaIdentity::Default, columns.clone()));
        for id in 0..20 {
            let row = [int(round * 100 + id), text("a")];
            for table in &tables {
                stream.insert(table, &row[..columns.len()]);
            }
        }
        target.apply(stream.commit()).await.unwrap();
    }
    assert_eq!(standby.rows("SELECT count(*), count(a) FROM t JOIN u USING (id, a)"), "(60,60)");
    assert_eq!(standby.rows(ROW_TYPES), "(2)");
}

/// A batch that fails in company is rolled back, and the session goes on.
#[tokio::test]
async fn what_is_rolled_back_leaves_no_row_types() {
    let standby = Standby::new(
        "row_types_back",
        "CREATE TABLE t (id int PRIMARY KEY, a text); CREATE TABLE names (name text PRIMARY KEY);
         CREATE TABLE u (id int PRIMARY KEY, a text);
         CREATE FUNCTION name_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF TG_OP = 'INSERT' THEN INSERT INTO public.names VALUES (NEW.a);
             ELSE DELETE FROM public.names WHERE name = OLD.a; END IF; RETURN NULL; END $$;
         CREATE TRIGGER n AFTER INSERT OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION name_it();
         CREATE TRIGGER n AFTER INSERT OR DELETE ON u FOR EACH ROW EXECUTE FUNCTION name_it();
         ALTER TABLE t ENABLE ALWAYS TRIGGER n; ALTER TABLE u ENABLE ALWAYS TRIGGER n",
    );
    let mut options = standby.options();
    (options.workers, options.batches) = (2, 64);
    let mut target = rsrepl_sidecar::target::postgres::PostgresTarget::new(options);
    target.open(&standby.source()).await.unwrap();
    let columns = || vec![key(int_column("id")), text_column("a")];
    let tables = ["t", "u"].map(|name| relation(name, ReplicaIdentity::Default, columns()));
    let mut stream = Stream::after(1000);
    let mut batches = Vec::new();
    for round in 0..200 {
        // a name goes from one table to the other: only the trigger knows
        let (here, there) = (&tables[round % 2], &tables[(round + 1) % 2]);
        if round > 0 {
            for id in 0..20 {
                stream.delete(there, &[int(id), crate::stream::V::Null]);
            }
            batches.push(stream.commit());
        }
        for id in 0..20 {
            stream.insert(here, &[int(id), text(&format!("name {id}"))]);
        }
        batches.push(stream.commit());
    }
    crate::beside::apply_all(&mut target, batches).await;
    // one for each table and session
    let types: u32 = standby.rows(ROW_TYPES).trim_matches(['(', ')']).parse().unwrap();
    assert!(types <= 4, "{types}");
}
