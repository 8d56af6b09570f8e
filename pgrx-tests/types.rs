//! Every type: its encoding, and that the decoder of `wire` reads what the server shows.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;
    use rsrepl_wire::Encoding::{self, Fixed, Jsonb, Numeric, Send, Text, Varlena};
    use rsrepl_wire::{Element, ElementEncoding, Message, TypeKind, Value, text};

    use crate::decoding_tests::harness::{Reader, Source};

    const SCALARS: &[(&str, Encoding, &[&str])] = &[
        ("bool", Fixed(1), &["t", "f"]),
        ("\"char\"", Fixed(1), &["a"]),
        ("int2", Fixed(2), &["0", "-32768", "32767"]),
        ("int4", Fixed(4), &["0", "-2147483648", "2147483647"]),
        ("int8", Fixed(8), &["0", "-9223372036854775808", "9223372036854775807"]),
        ("float4", Fixed(4), &["1.1", "-0", "NaN", "Infinity", "-Infinity", "1e-45"]),
        ("float8", Fixed(8), &["1.1", "-0", "NaN", "Infinity", "-Infinity", "5e-324"]),
        ("oid", Fixed(4), &["4294967295"]),
        ("xid", Fixed(4), &["4294967295"]),
        ("cid", Fixed(4), &["7"]),
        ("xid8", Fixed(8), &["18446744073709551615"]),
        ("pg_lsn", Fixed(8), &["16/B374D848"]),
        ("money", Fixed(8), &["12.34"]),
        (
            "date",
            Fixed(4),
            &["2000-01-01", "infinity", "-infinity", "0044-03-15 BC", "5874897-12-31"],
        ),
        ("time", Fixed(8), &["00:00", "24:00", "12:34:56.789012"]),
        ("timetz", Fixed(12), &["12:34:56.789012+05:30", "00:00-15:59"]),
        ("timestamp", Fixed(8), &["2000-01-01", "infinity", "-infinity", "0044-03-15 12:00 BC"]),
        ("timestamptz", Fixed(8), &["2026-07-31 12:34:56.789+02", "infinity", "-infinity"]),
        ("interval", Fixed(16), &["1 year -2 mons 3 days -04:05:06.789", "0"]),
        ("uuid", Fixed(16), &["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]),
        ("macaddr", Fixed(6), &["08:00:2b:01:02:03"]),
        ("macaddr8", Fixed(8), &["08:00:2b:01:02:03:04:05"]),
        (
            "numeric",
            Numeric,
            &["0", "0.00", "NaN", "Infinity", "-Infinity", "1e-30", "-123456789012345678901.5"],
        ),
        ("numeric(12,2)", Numeric, &["1.5", "-9999999999.99"]),
        ("text", Varlena, &["", "ä€😀", "with \"quotes\""]),
        ("varchar(3)", Varlena, &["abc"]),
        ("char(5)", Varlena, &["ab", ""]),
        (
            "name",
            Varlena,
            &["", "a name", "012345678901234567890123456789012345678901234567890123456789012"],
        ),
        ("bytea", Varlena, &["", "\\x00ff", "\\xdeadbeef"]),
        ("json", Varlena, &["{\"a\" :  1}"]),
        ("citext", Varlena, &["MiXed"]),
        ("xml", Text, &["<a>b</a>"]),
        ("jsonb", Jsonb, &["{\"b\": [1, null], \"a\": \"x\"}", "null"]),
        ("inet", Send, &["192.168.0.1/24", "::1", "10.0.0.1"]),
        ("cidr", Send, &["10.0.0.0/8", "2001:db8::/32"]),
        ("bit(5)", Send, &["10101"]),
        ("varbit", Send, &["", "101"]),
        ("point", Send, &["(1,2.5)"]),
        ("tsvector", Send, &["'a':1A 'b':2"]),
        ("int4range", Send, &["[1,5)", "empty", "(,)"]),
        ("tstzrange", Send, &["[\"2026-01-01 00:00:00+00\",)"]),
        ("int4multirange", Send, &["{[1,5),[7,9)}"]),
        ("mood", Send, &["sad", "very happy"]),
        ("regclass", Text, &["pg_class"]),
        ("regclass[]", Text, &["{pg_class}"]),
        ("pair", Text, &["(1,\"x y\")"]),
        ("pair[]", Text, &["{\"(1,x)\",NULL}"]),
        ("pair_range", Text, &["[\"(1,a)\",\"(2,b)\"]"]),
        ("mood_range", Text, &["[sad,\"very happy\"]"]),
        ("mood_multirange", Text, &["{[sad,\"very happy\"]}"]),
        ("mood_range[]", Text, &["{\"[sad,\\\"very happy\\\"]\",NULL}"]),
        ("int2vector", Text, &["1 2 3", ""]),
        ("oidvector[]", Text, &["{\"1 2\",NULL}"]),
        ("tsquery", Text, &["'a' & !'b'"]),
        ("pg_snapshot", Text, &["10:20:10,14"]),
        ("hstore", Text, &["\"a\"=>NULL, \"b\"=>\"x\""]),
        ("hstore[]", Text, &["{\"\\\"a\\\"=>\\\"1\\\"\",NULL}"]),
    ];

    const fn array(encoding: ElementEncoding, align: u8) -> Encoding {
        Encoding::Array(Element { encoding, align })
    }

    const TEXTS: Encoding = array(ElementEncoding::Varlena, 4);

    const ARRAYS: &[(&str, Encoding, &[&str])] = &[
        (
            "int4[]",
            array(ElementEncoding::Fixed(4), 4),
            &["{}", "{1,NULL,3}", "{{1,2},{3,4}}", "[0:1]={1,2}"],
        ),
        ("text[]", TEXTS, &["{a,NULL,\"NULL\",\"\",\"with, comma\"}"]),
        ("citext[]", TEXTS, &["{Ab,NULL}"]),
        ("bytea[]", TEXTS, &["{\"\\\\x00ff\",NULL}"]),
        ("numeric[]", array(ElementEncoding::Numeric, 4), &["{1.50,NaN,NULL}"]),
        (
            "timestamptz[]",
            array(ElementEncoding::Fixed(8), 8),
            &["{\"2026-07-31 00:00:00+00\",infinity}"],
        ),
        ("bool[]", array(ElementEncoding::Fixed(1), 1), &["{t,f,NULL}"]),
        (
            "uuid[]",
            array(ElementEncoding::Fixed(16), 1),
            &["{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}"],
        ),
        ("jsonb[]", array(ElementEncoding::Jsonb, 4), &["{\"{\\\"a\\\": [1, 2.50]}\",NULL}"]),
        ("name[]", Send, &["{a,NULL}"]),
        ("inet[]", Send, &["{10.0.0.1,NULL}"]),
        ("int4range[]", Send, &["{\"[1,2)\",NULL}"]),
        ("xml[]", Send, &["{<a/>}"]),
        ("mood[]", Send, &["{sad,NULL}"]),
    ];

    /// Types that not every server is built with.
    const MAY_LACK: &[&str] = &["citext", "citext[]", "hstore", "hstore[]", "xml", "xml[]"];

    fn check(source: &mut Source, types: &[(&str, Encoding, &[&str])]) {
        for (type_name, encoding, values) in types {
            if MAY_LACK.contains(type_name) && !source.has_type(type_name) {
                continue;
            }
            source.run(&format!("DROP TABLE IF EXISTS t; CREATE TABLE t (v {type_name})"));
            for value in *values {
                source.run(&format!("INSERT INTO t VALUES ($v${value}$v$)"));
            }
            let (column, read) = read_values(source);
            assert_eq!(column.encoding, *encoding, "{type_name}");
            if *encoding == Send {
                let send = "SELECT typsend::text FROM pg_type, pg_attribute a
                            WHERE attrelid = 't'::regclass AND attname = 'v'
                              AND pg_type.oid = atttypid";
                let send = source.value(send);
                let sent: Vec<Vec<u8>> = column_of(source, &format!("{send}(v)"));
                assert_eq!(read, sent, "{type_name}");
            }
            assert!(text::is_supported(&column), "{type_name} cannot be read");
            let expected: Vec<String> = column_of(source, "format('%s', v)");
            let show = |value: &Vec<u8>| {
                let mut shown = Vec::new();
                text::write(&mut shown, &column, value).unwrap();
                String::from_utf8(shown).unwrap()
            };
            let shown: Vec<String> = read.iter().map(show).collect();
            assert_eq!(shown, expected, "{type_name}");
        }
    }

    /// An expression for every row, in the order in which they were written.
    fn column_of<T: for<'a> postgres::types::FromSql<'a>>(
        source: &mut Source,
        expression: &str,
    ) -> Vec<T> {
        let sql = format!("SELECT {expression} FROM t ORDER BY ctid");
        source.client.query(&sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    }

    fn read_values(source: &mut Source) -> (rsrepl_wire::Column, Vec<Vec<u8>>) {
        let frames = source.take(&[]);
        let mut table = None;
        let mut values = Vec::new();
        for message in Reader::default().messages(&frames) {
            match message {
                Message::Relation(relation) => table = Some(relation),
                Message::Insert(insert) => {
                    let table = table.as_ref().unwrap();
                    let value = insert.new.values(table).unwrap().next().unwrap().unwrap();
                    let Value::Data(value) = value else { panic!("{value:?}") };
                    values.push(value.to_vec());
                }
                _ => {}
            }
        }
        (table.unwrap().columns.remove(0), values)
    }

    fn source(name: &str) -> Source {
        let mut source = Source::new(name);
        source.run(
            "DO $$ DECLARE name text; BEGIN
                 FOR name IN SELECT e.name FROM pg_available_extensions e WHERE e.name IN ('citext', 'hstore') LOOP
                     EXECUTE 'CREATE EXTENSION ' || name;
                 END LOOP;
             END $$;
             CREATE TYPE mood AS ENUM ('sad', 'very happy');
             CREATE TYPE mood_range AS RANGE (subtype = mood);
             CREATE TYPE pair AS (a int, b text);
             CREATE TYPE pair_range AS RANGE (subtype = pair)",
        );
        source.run(
            "SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC';
             SET extra_float_digits = 1; SET bytea_output = 'hex'; SET lc_monetary = 'C'",
        );
        source
    }

    #[pg_test]
    fn scalars_arrive_exactly() {
        check(&mut source("scalars"), SCALARS);
    }

    #[pg_test]
    fn arrays_arrive_exactly() {
        check(&mut source("arrays"), ARRAYS);
    }

    #[pg_test]
    fn domains_are_their_base_type() {
        let mut source = source("domains");
        source.run(
            "CREATE DOMAIN price AS numeric(8,2); CREATE DOMAIN low AS price CHECK (VALUE < 10);
             CREATE DOMAIN list AS price[]; CREATE TABLE t (v low, w list)",
        );
        source.run("INSERT INTO t VALUES (1.5, '{2.5,NULL}')");
        let frames = source.take(&[]);
        let messages = Reader::default().messages(&frames);
        let Message::Relation(relation) = &messages[1] else { panic!("{messages:?}") };
        let [v, w] = &relation.columns[..] else { panic!("{relation:?}") };
        assert_eq!((v.type_name.as_str(), v.type_schema.as_str()), ("low", "public"));
        assert_eq!((v.base_oid, v.typmod, v.encoding), (1700, (8 << 16) + 2 + 4, Numeric));
        assert_eq!(
            (w.base_oid, w.kind, w.encoding),
            (price_array(&mut source), TypeKind::Array, array(ElementEncoding::Numeric, 4))
        );
        assert_eq!((w.element_oid, w.element_kind), (1700, TypeKind::Base));
        assert_eq!(w.typmod, v.typmod, "the elements' modifier");
        assert_eq!(Reader::default().lines(&frames)[2], "INSERT public.t v=1.50 w={2.50,NULL}");
    }

    fn price_array(source: &mut Source) -> u32 {
        source.value("'price[]'::regtype::oid").parse().unwrap()
    }

    #[pg_test]
    fn types_say_what_they_are() {
        let mut source = source("kinds");
        source
            .run("CREATE TABLE t (a mood, b mood[], c pair, d int4range, e int4multirange, f int)");
        source.run("INSERT INTO t DEFAULT VALUES");
        let frames = source.take(&[]);
        let messages = Reader::default().messages(&frames);
        let Message::Relation(relation) = &messages[1] else { panic!("{messages:?}") };
        let kinds: Vec<TypeKind> = relation.columns.iter().map(|column| column.kind).collect();
        use TypeKind::{Array, Base, Composite, Enum, Multirange, Range};
        assert_eq!(kinds, [Enum, Array, Composite, Range, Multirange, Base]);
        let array = &relation.columns[1];
        assert_eq!((array.type_name.as_str(), array.element_kind), ("_mood", Enum));
        let mood: u32 = source.value("'mood'::regtype::oid").parse().unwrap();
        assert_eq!(array.element_oid, mood);
    }
}
