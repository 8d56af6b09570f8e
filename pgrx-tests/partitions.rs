//! Partitions come under their own name.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::decoding_tests::harness::Source;

    #[pg_test]
    fn changes_name_the_leaf() {
        let mut source = Source::new("partitions");
        source.run(
            "CREATE TABLE p (id int PRIMARY KEY, a text) PARTITION BY RANGE (id);
             CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
             CREATE TABLE p2 (a text, junk int, id int NOT NULL);
             ALTER TABLE p2 DROP junk;
             ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (10) TO (20)",
        );
        source.run("INSERT INTO p VALUES (1, 'x'), (11, 'y')");
        source.run("UPDATE p SET id = 12 WHERE id = 1");
        source.run("DELETE FROM p WHERE id = 11; TRUNCATE p");
        let mut lines = source.lines(&[]);
        lines.retain(|line| line != "BEGIN" && line != "COMMIT");
        let expected = [
            "RELATION public.p1 d (id int4 key, a text)",
            "INSERT public.p1 id=1 a=x",
            "RELATION public.p2 d (a text, id int4 key)",
            "INSERT public.p2 a=y id=11",
            "DELETE public.p1 id=1 a=NULL (key)",
            "INSERT public.p2 a=x id=12",
            "DELETE public.p2 a=NULL id=11 (key)",
            "TRUNCATE public.p1 public.p2",
        ];
        assert_eq!(lines, expected);
    }

    #[pg_test]
    fn changes_name_the_root_and_have_its_columns() {
        let mut source = Source::new("partitions_root");
        source.run(
            "CREATE SCHEMA away;
             CREATE TABLE p (id int, a text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
             CREATE TABLE away.p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
             CREATE TABLE p2 (a text, junk int, id int NOT NULL); ALTER TABLE p2 DROP junk;
             ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (10) TO (20);
             ALTER TABLE p2 REPLICA IDENTITY FULL;
             CREATE PUBLICATION q FOR TABLE p WITH (publish_via_partition_root)",
        );
        source.run("INSERT INTO p VALUES (1, 'x'), (11, 'y')");
        source.run("UPDATE p SET id = 12 WHERE id = 1");
        source.run("ALTER TABLE p REPLICA IDENTITY FULL");
        source.run("UPDATE p SET a = 'z' WHERE id = 12; TRUNCATE p2; TRUNCATE p");
        let mut lines = source.lines(&[("publications", "q")]);
        lines.retain(|line| line != "BEGIN" && line != "COMMIT");
        let described = "RELATION public.p d (id int4 key, a text)";
        let expected = [
            described,
            "INSERT public.p id=1 a=x",
            described, // for each of its partitions
            "INSERT public.p id=11 a=y",
            "DELETE public.p id=1 a=NULL (key)",
            "INSERT public.p id=12 a=x",
            "RELATION public.p f (id int4 key, a text)",
            "UPDATE public.p id=12 a=z (full id=12 a=x)",
            "RELATION public.p f (id int4 key, a text)",
            "TRUNCATE public.p",
        ];
        assert_eq!(lines, expected);
    }

    #[pg_test]
    fn an_inheritance_child_is_a_table_of_its_own() {
        let mut source = Source::new("inheritance");
        source.run("CREATE TABLE a (id int); CREATE TABLE b (x int) INHERITS (a)");
        source.run("INSERT INTO b VALUES (1, 2); TRUNCATE a");
        assert_eq!(source.changes(&[]), ["INSERT public.b id=1 x=2", "TRUNCATE public.a public.b"]);
    }
}
