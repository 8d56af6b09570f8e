//! Databases that are not UTF-8.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::decoding_tests::harness::Source;

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

    #[pg_test]
    fn bytes_of_no_encoding_are_refused_not_guessed() {
        let options = "ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'";
        let mut source = Source::with("sql_ascii", options);
        source.run("CREATE TABLE t (a text); INSERT INTO t VALUES ('plain')");
        assert_eq!(source.changes(&[]), ["INSERT public.t a=plain"]);
        source.run("INSERT INTO t VALUES (E'\\xe4')");
        let refusal = source.refusal(&[]);
        assert!(refusal.message.contains("invalid byte sequence"), "{}", refusal.message);
    }
}
