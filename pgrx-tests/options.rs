//! Every fault in the options is an error that names the option.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::decoding_tests::harness::{Options, Source};

    #[pg_test]
    fn faulty_options_are_named() {
        let mut source = Source::new("options");
        let faults: &[(Options, &str)] = &[
            (&[("compression", "on")], "unknown option \"compression\" of output plugin rsrepl"),
            (&[("Messages", "on")], "unknown option \"Messages\" of output plugin rsrepl"),
            (&[("messages", "perhaps")], "option \"messages\" cannot be \"perhaps\""),
            (&[("messages", "")], "option \"messages\" needs a value"),
            (&[("format_version", "1")], "option \"format_version\" cannot be \"1\""),
            (&[("format_version", "one")], "option \"format_version\" cannot be \"one\""),
            (&[("origin", "local")], "option \"origin\" cannot be \"local\""),
            (&[("publications", "")], "option \"publications\" needs a value"),
            (&[("publications", "a,,b")], "option \"publications\" cannot be \"a,,b\""),
            (&[("publications", "\"a")], "option \"publications\" cannot be \"\"a\""),
            (&[("origin", "any"), ("origin", "none")], "option \"origin\" is given twice"),
        ];
        for (options, message) in faults {
            assert_eq!(source.refusal(options).message, *message);
        }
        let hint = source.refusal(&[("compression", "on")]).hint;
        let known = "format_version, publications, messages, origin, streaming, combine, rewrites";
        assert!(hint.contains(known), "{hint}");
    }

    #[pg_test]
    fn valid_options_are_taken() {
        let mut source = Source::new("valid_options");
        source.run("CREATE TABLE t (id int PRIMARY KEY)");
        source.run("CREATE PUBLICATION \"Odd, name\" FOR TABLE t; CREATE PUBLICATION plain");
        source.run("INSERT INTO t VALUES (1)");
        let options: Options = &[
            ("format_version", "3"),
            ("messages", "off"),
            ("origin", "none"),
            ("publications", " PLAIN , \"Odd, name\""),
        ];
        assert_eq!(source.changes(options), ["INSERT public.t id=1"]);
    }

    #[pg_test]
    fn another_client_encoding_is_refused_with_the_way_out() {
        let mut source = Source::new("client_encoding");
        source.run("CREATE TABLE t (a jsonb); INSERT INTO t VALUES ('\"ä\"')");
        source.run("SET client_encoding = 'LATIN1'");
        let refusal = source.refusal(&[]);
        assert_eq!(refusal.message, "rsrepl needs client_encoding UTF8, it is LATIN1");
        assert!(refusal.hint.contains("SET client_encoding = 'UTF8'"));
        source.run("SET client_encoding = 'UTF8'");
        assert_eq!(source.changes(&[]), ["INSERT public.t a=\"ä\""]);
    }
}
