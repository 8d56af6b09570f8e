//! Databases that are not UTF-8.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use rsrepl_wire::{Message, Value};

    use crate::decoding_tests::harness::{Reader, Source};

    #[pg_test]
    fn everything_is_utf8_on_the_wire() {
        let options = "ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'";
        let mut source = Source::with("latin1", options);
        source.run(
            "CREATE TYPE \"größe\" AS ENUM ('groß');
             CREATE TABLE \"tä\" (\"ö\" text, n name, c char(3), j json, b jsonb, e \"größe\",
                                x text[], y bytea)",
        );
        source.run(
            "INSERT INTO \"tä\" VALUES ('äöü', 'ñ', 'é', '\"ß\"', '\"ß\"', 'groß', '{ä,ö}', '\\xe4');
             INSERT INTO \"tä\" (\"ö\") VALUES (repeat('ä', 6000));
             SELECT pg_logical_emit_message(true, 'prä', 'x')",
        );
        let expected = [
            "BEGIN",
            "RELATION public.tä d (ö text, n name, c bpchar, j json, b jsonb, e größe, x _text, \
             y bytea)",
            "INSERT public.tä ö=äöü n=ñ c=é   j=\"ß\" b=\"ß\" e=groß x={ä,ö} y=\\xe4",
            "INSERT public.tä ö=12000 bytes n=NULL c=NULL j=NULL b=NULL e=NULL x=NULL y=NULL",
            "MESSAGE in transaction prä: x",
            "COMMIT",
        ];
        assert_eq!(source.lines(&[("messages", "on")]), expected);
    }

    #[pg_test]
    fn a_warning_about_a_table_of_any_name_stops_nothing() {
        let options = "ENCODING 'EUC_JP' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'";
        let mut source = Source::with("euc_jp", options);
        source.run("CREATE TABLE \"表\" (a int); INSERT INTO \"表\" VALUES (1)");
        source.run("DELETE FROM \"表\"");
        let expected = ["INSERT public.表 a=1", "DELETE public.表 a=NULL (nothing)"];
        assert_eq!(source.changes(&[]), expected);
    }

    /// Longer than what is converted at a time, with characters across every border.
    #[pg_test]
    fn long_texts_are_converted_whole() {
        let options = "ENCODING 'EUC_JP' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'";
        let mut source = Source::with("euc_jp_long", options);
        source.run("CREATE TABLE t (a text); ALTER TABLE t ALTER a SET STORAGE EXTERNAL");
        source.run("INSERT INTO t SELECT repeat('a', i) || repeat('表', 100000) FROM generate_series(0, 2) i");
        let texts = values(&mut source, &[]);
        let expected = (0..3).map(|i| "a".repeat(i) + &"表".repeat(100_000));
        assert!(texts.into_iter().eq(expected));
    }

    #[pg_test]
    fn bytes_of_no_encoding_are_refused_not_guessed() {
        let mut source = sql_ascii("sql_ascii");
        source.run("CREATE TABLE t (a text, \"B\" text[])");
        source.run("INSERT INTO t VALUES ('plain', '{plain}'), ('ä', '{ä}')");
        let expected = ["INSERT public.t a=plain B={plain}", "INSERT public.t a=ä B={ä}"];
        assert_eq!(source.changes(&[]), expected);
        source.run("INSERT INTO t VALUES (E'\\xe4')");
        let refusal = source.refusal(&[]);
        let says =
            "column \"a\" of table \"public.t\" has text without a UTF-8 form: byte 0 (0xe4)";
        assert!(refusal.message.contains(says), "{}", refusal.message);
        assert!(refusal.hint.contains("source.encoding"), "{}", refusal.hint);
        assert!(refusal.hint.contains("source.invalid_text"), "{}", refusal.hint);
        // the same place again, with a policy
        source.take(&[("invalid_text", "replace")]);
        source.run("INSERT INTO t VALUES (NULL, ARRAY['x', NULL, E'y\\xe4'])");
        let refusal = source.refusal(&[]);
        assert!(
            refusal.message.contains("column \"B\" of table \"public.t\""),
            "{}",
            refusal.message
        );
    }

    const EVERY_KIND: &str = "
        CREATE TYPE mood AS ENUM (E'gro\\xdf'); CREATE TYPE pair AS (a int, b text);
        CREATE DOMAIN word AS text;
        CREATE TABLE t (v varchar, c char(3), n name, j json, b jsonb, e mood, ae mood[], p pair,
            w word, x text[], aw word[], s tsvector, i int4range, y bytea)";
    const ROW: &str = "INSERT INTO t VALUES (E'\\xe4b', E'\\xe4', E'\\xe4', E'\"\\xe4\"', E'\"\\xe4\"',
        E'gro\\xdf', ARRAY[E'gro\\xdf'::mood], ROW(1, E'\\xe4'), E'\\xe4', ARRAY['a', NULL, E'\\xe4'],
        ARRAY[E'\\xe4'::word], to_tsvector('simple', E'b'), '[1,2)', '\\xe4')";

    fn shown(of_a: &str, of_o: &str) -> String {
        format!(
            "INSERT public.t v={of_a}b c={of_a}   n={of_a} j=\"{of_a}\" b=\"{of_a}\" e=gro{of_o} \
             ae={{gro{of_o}}} p=(1,{of_a}) w={of_a} x={{a,NULL,{of_a}}} aw={{{of_a}}} s='b':1 i=[1,2) y=\\xe4"
        )
    }

    #[pg_test]
    fn what_is_invalid_is_replaced_when_asked_for() {
        let mut source = sql_ascii("sql_ascii_replace");
        source.run(EVERY_KIND);
        source.run(ROW);
        let changes = source.changes(&[("invalid_text", "replace")]);
        assert_eq!(changes, [shown("\u{FFFD}", "\u{FFFD}")]);
    }

    #[pg_test]
    fn a_declared_encoding_is_converted_names_too() {
        let mut source = sql_ascii("sql_ascii_declared");
        source.run(EVERY_KIND);
        source.run(ROW);
        assert_eq!(source.changes(&[("encoding", "latin1")]), [shown("ä", "ß")]);
        source.run("DO $$ BEGIN EXECUTE convert_from('\\x435245415445205441424c452022e42220286120696e7429', 'SQL_ASCII'); END $$");
        source.run("DO $$ BEGIN EXECUTE convert_from('\\x494e5345525420494e544f2022e4222056414c55455320283129', 'SQL_ASCII'); END $$");
        let refusal = source.refusal(&[("invalid_text", "replace")]);
        assert!(refusal.message.contains("the name \"\\xe4\""), "{}", refusal.message);
        assert_eq!(source.changes(&[("encoding", "LATIN1")]), ["INSERT public.ä a=1"]);
        // 0x81 stands for nothing in WIN1252
        source.run("INSERT INTO t (v) VALUES (E'\\x80\\x81')");
        let refusal = source.refusal(&[("encoding", "WIN1252")]);
        assert!(
            refusal.message.contains("byte 1 (0x81) is not valid in WIN1252"),
            "{}",
            refusal.message
        );
        let options = [("encoding", "WIN1252"), ("invalid_text", "replace")];
        assert!(source.changes(&options)[0].starts_with("INSERT public.t v=€\u{FFFD} "));
    }

    #[pg_test]
    fn encodings_that_mean_nothing_are_refused() {
        let mut utf8 = Source::new("utf8_declared");
        utf8.run("CREATE TABLE t (a text)");
        let refusal = utf8.refusal(&[("encoding", "LATIN1")]);
        assert!(
            refusal.message.contains("is not for a database that is UTF8"),
            "{}",
            refusal.message
        );
        for (option, value) in [("encoding", "SQL_ASCII"), ("encoding", "x"), ("invalid_text", "x")]
        {
            let refusal = utf8.refusal(&[(option, value)]);
            assert!(refusal.message.contains("cannot be"), "{}", refusal.message);
        }
    }

    fn sql_ascii(name: &str) -> Source {
        Source::with(name, "ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    }

    /// The first column of every row.
    fn values(source: &mut Source, options: &[(&str, &str)]) -> Vec<String> {
        let frames = source.take(options);
        let mut relations = std::collections::HashMap::new();
        let mut values = Vec::new();
        for message in Reader::default().messages(&frames) {
            match message {
                Message::Relation(relation) => _ = relations.insert(relation.oid, relation),
                Message::Insert(insert) => {
                    let relation = &relations[&insert.relation];
                    let value = insert.new.values(relation).unwrap().next().unwrap().unwrap();
                    let Value::Data(value) = value else { panic!("{value:?}") };
                    values.push(String::from_utf8(value.to_vec()).unwrap());
                }
                _ => {}
            }
        }
        values
    }
}
