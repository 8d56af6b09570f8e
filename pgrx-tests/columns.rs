//! Dropped, added and generated columns.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::decoding_tests::harness::Source;

    #[pg_test]
    fn dropped_columns_are_skipped() {
        let mut source = Source::new("columns_dropped");
        source.run("CREATE TABLE t (x text, id int PRIMARY KEY, y bigint, a text, z int)");
        source.run("INSERT INTO t VALUES ('x', 1, 2, 'a', 3)");
        source.run("ALTER TABLE t DROP x, DROP y, DROP z");
        source.run("INSERT INTO t VALUES (2, 'b')");
        source.run("UPDATE t SET a = 'c'; DELETE FROM t WHERE id = 1");
        let mut lines = source.lines(&[]);
        lines.retain(|line| line != "BEGIN" && line != "COMMIT");
        let expected = [
            "RELATION public.t d (x text, id int4 key, y int8, a text, z int4)",
            "INSERT public.t x=x id=1 y=2 a=a z=3",
            "RELATION public.t d (id int4 key, a text)",
            "INSERT public.t id=2 a=b",
            "UPDATE public.t id=1 a=c",
            "UPDATE public.t id=2 a=c",
            "DELETE public.t id=1 a=NULL (key)",
        ];
        assert_eq!(lines, expected);
    }

    #[pg_test]
    fn columns_younger_than_the_row_have_their_default() {
        let mut source = Source::new("columns_added");
        source.run("CREATE TABLE t (a int); ALTER TABLE t REPLICA IDENTITY FULL");
        source.run("INSERT INTO t VALUES (1), (2)");
        source.run(
            "ALTER TABLE t ADD i int DEFAULT 7, ADD s text DEFAULT 'seven', ADD n text,
                           ADD q numeric DEFAULT 7.5, ADD j jsonb DEFAULT '{\"a\": 7}',
                           ADD u uuid DEFAULT '77777777-7777-7777-7777-777777777777',
                           ADD m name DEFAULT 'seven', ADD d bool DEFAULT true",
        );
        source.run("ALTER TABLE t DROP i");
        source.run("DELETE FROM t WHERE a = 1; UPDATE t SET n = 'n'");
        let young = "s=seven n=NULL q=7.5 j={\"a\": 7} u=77777777-7777-7777-7777-777777777777 \
                     m=seven d=t";
        let changes = source.changes(&[]);
        assert_eq!(changes[2], format!("DELETE public.t a=1 {young} (full)"));
        let new = young.replace("NULL", "n");
        assert_eq!(changes[3], format!("UPDATE public.t a=2 {new} (full a=2 {young})"));
    }

    /// Neighbours without padding between them go out as one; nulls, padding, dropped and younger
    /// columns come between.
    #[pg_test]
    fn columns_of_fixed_width_in_any_order() {
        let mut source = Source::new("columns_fixed");
        source.run(
            "CREATE TABLE t (a bool, b int2, c int4, d int8, e uuid, f int4, g bool, h int8, i int8,
                             j \"char\", k int4, l int4, s text, m int4, n int8, o int4, p int2);
             ALTER TABLE t REPLICA IDENTITY FULL",
        );
        let uuid = "77777777-7777-7777-7777-777777777777";
        source.run(&format!(
            "INSERT INTO t VALUES (true, 2, 3, 4, '{uuid}', 6, false, 8, 9, 'j', 11, 12, 's', 13,
                                   14, 15, 16)"
        ));
        source.run("INSERT INTO t (c, d, h, i, s, n, o, p) VALUES (3, 4, 8, 9, '', 14, 15, 16)");
        source.run("ALTER TABLE t DROP d, DROP i, ADD q int8 DEFAULT 17, ADD r int8 DEFAULT 18");
        source.run("DELETE FROM t");
        let some = |d: &str, i: &str, rest: &str| {
            format!(
                "public.t a=t b=2 c=3{d} e={uuid} f=6 g=f h=8{i} j=j k=11 l=12 s=s m=13 n=14 o=15 \
                 p=16{rest}"
            )
        };
        let null = |d: &str, i: &str, rest: &str| {
            format!(
                "public.t a=NULL b=NULL c=3{d} e=NULL f=NULL g=NULL h=8{i} j=NULL k=NULL l=NULL s= \
                 m=NULL n=14 o=15 p=16{rest}"
            )
        };
        let expected = [
            format!("INSERT {}", some(" d=4", " i=9", "")),
            format!("INSERT {}", null(" d=4", " i=9", "")),
            format!("DELETE {}", some("", "", " q=17 r=18 (full)")),
            format!("DELETE {}", null("", "", " q=17 r=18 (full)")),
        ];
        assert_eq!(source.changes(&[]), expected);
    }

    #[pg_test]
    fn generated_columns_come_as_stored() {
        let mut source = Source::new("columns_generated");
        source.run(
            "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                             a int, b int GENERATED ALWAYS AS (a * 2) STORED)",
        );
        source.run("INSERT INTO t (a) VALUES (21); UPDATE t SET a = 4");
        let expected = [
            "BEGIN",
            "RELATION public.t d (id int4 key, a int4, b int4 generated)",
            "INSERT public.t id=1 a=21 b=42",
            "UPDATE public.t id=1 a=4 b=8",
            "COMMIT",
        ];
        assert_eq!(source.lines(&[]), expected);
    }

    #[pg_test]
    fn alignment_and_nulls_in_every_mixture() {
        let mut source = Source::new("columns_mixture");
        source.run(
            "CREATE TABLE t (a \"char\", b int8, c text, d bool, e int2, f float8, g text, h bool,
                             i name, j int4, k macaddr, l timetz, m text, n \"char\", o uuid)",
        );
        let values = [
            "'a'",
            "2",
            "'cc'",
            "true",
            "5",
            "6.5",
            "repeat('g', 200)",
            "false",
            "'iii'",
            "10",
            "'01:02:03:04:05:06'",
            "'12:13:14+01'",
            "''",
            "'n'",
            "'00000000-0000-0000-0000-00000000000f'",
        ];
        // each row has another set of nulls: bit i of the mask makes column i null
        for mask in [0u32, 1, 2, 0x5555, 0x2AAA, 0x7FFF, 0x0F0F, 0x4001, 0x3FFE, 0x1248] {
            let row: Vec<&str> = values
                .iter()
                .enumerate()
                .map(|(i, value)| if mask & (1 << i) != 0 { "NULL" } else { value })
                .collect();
            source.run(&format!("INSERT INTO t VALUES ({})", row.join(", ")));
        }
        let shown = source.value(
            "SELECT string_agg('INSERT public.t ' || line, '|' ORDER BY ctid) FROM (
                 SELECT t.ctid, string_agg(c.name || '=' || coalesce(c.value, 'NULL'), ' '
                                           ORDER BY c.at) AS line
                 FROM t, unnest('{a,b,c,d,e,f,g,h,i,j,k,l,m,n,o}'::text[],
                                ARRAY[a::text, b::text, c, left(d::text, 1), e::text, f::text,
                                      length(g) || ' bytes', left(h::text, 1), i::text, j::text,
                                      k::text, l::text, m, n::text, o::text])
                         WITH ORDINALITY AS c (name, value, at)
                 GROUP BY t.ctid) AS rows",
        );
        let expected: Vec<&str> = shown.split('|').collect();
        assert_eq!(expected.len(), 10);
        assert_eq!(source.changes(&[]), expected);
    }
}
