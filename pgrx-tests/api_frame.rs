//! `rsrepl.decode_frame`: what it shows, and that bytes from outside are an ERROR and nothing worse.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use super::*;
    use rsrepl_wire::{
        Begin, Column, Commit, Element, ElementEncoding, Encoding, FrameWriter, Lsn, OldRowKind,
        Relation, ReplicaIdentity, RowShape, TypeKind,
    };

    const INTS: Encoding =
        Encoding::Array(Element { encoding: ElementEncoding::Fixed(4), align: 4 });

    fn one(query: &str) -> String {
        let value = Spi::get_one::<String>(query);
        value.unwrap_or_else(|error| panic!("{query}: {error}")).unwrap_or_default()
    }

    fn bytea(bytes: &[u8]) -> String {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("'\\x{digits}'::bytea")
    }

    /// Of each frame its rows, one per line, or the ERROR; the transaction lives on after it.
    fn decode_all(frames: &[Vec<u8>]) -> Vec<String> {
        if one("SELECT to_regproc('public.api_decode')::text").is_empty() {
            Spi::run(
                "CREATE FUNCTION public.api_decode(frame bytea) RETURNS text LANGUAGE plpgsql AS $$ \
                 BEGIN RETURN (SELECT string_agg(concat_ws('|', position, lsn, xid, kind, relation, \
                 coalesce(old::text, '-'), coalesce(new::text, '-'), coalesce(detail::text, '-')), \
                 E'\n' ORDER BY position) FROM rsrepl.decode_frame(frame)); \
                 EXCEPTION WHEN OTHERS THEN RETURN 'ERROR ' || SQLERRM; END $$",
            )
            .unwrap();
        }
        let frames: Vec<_> = frames.iter().map(|frame| bytea(frame)).collect();
        Spi::get_one::<Vec<String>>(&format!(
            "SELECT array_agg(public.api_decode(frame) ORDER BY n) \
             FROM unnest(ARRAY[{}]) WITH ORDINALITY AS f (frame, n)",
            frames.join(", ")
        ))
        .unwrap()
        .unwrap()
    }

    fn decode(frame: &[u8]) -> String {
        decode_all(&[frame.to_vec()]).remove(0)
    }

    fn column(name: &str, type_name: &str, encoding: Encoding) -> Column {
        let oid = one(&format!("SELECT '{type_name}'::regtype::oid::text")).parse().unwrap();
        let of = |what: &str| one(&format!("SELECT {what} FROM pg_type WHERE oid = {oid}"));
        let base_oid = match of("typtype::text").as_str() {
            "d" => of("typbasetype::text").parse().unwrap(),
            _ => oid,
        };
        let element_oid =
            if of("typname::text").starts_with('_') { of("typelem::text") } else { "0".into() };
        Column {
            name: name.into(),
            number: 1, // see `relation`
            key: name == "id",
            not_null: name == "id",
            generated: false,
            type_oid: oid,
            base_oid,
            typmod: -1,
            kind: if element_oid == "0" { TypeKind::Base } else { TypeKind::Array },
            element_oid: element_oid.parse().unwrap(),
            element_kind: TypeKind::Base,
            type_schema: of("typnamespace::regnamespace::text"),
            type_name: of("typname::text"),
            encoding,
        }
    }

    fn relation(oid: u32, columns: Vec<Column>) -> Relation {
        Relation {
            oid,
            schema: "public".into(),
            name: "tàble".into(),
            replica_identity: ReplicaIdentity::Default,
            columns: (1..).zip(columns).map(|(number, c)| Column { number, ..c }).collect(),
        }
    }

    /// A frame with one relation and one insert of one value.
    fn insert_of(column: Column, value: &[u8]) -> Vec<u8> {
        let fixed = matches!(column.encoding, Encoding::Fixed(_));
        let mut writer = FrameWriter::new();
        writer.start(Lsn(1), 1);
        writer.relation(&relation(16385, vec![column]));
        let shape = RowShape { columns: 1, nulls: false, unchanged: false };
        writer.insert(Lsn(1), 16385, shape, |row| {
            if fixed { row.fixed(value) } else { row.variable(value) }
        });
        writer.finish().to_vec()
    }

    /// What `decode_frame` shows of one value.
    fn shown(column: Column, value: &[u8]) -> String {
        let rows = decode(&insert_of(column, value));
        rows.split_once('\n').map_or(rows.clone(), |(_, insert)| insert.to_owned())
    }

    fn send(function: &str, literal: &str) -> Vec<u8> {
        Spi::get_one::<Vec<u8>>(&format!("SELECT {function}({literal})")).unwrap().unwrap()
    }

    fn transaction() -> Vec<u8> {
        let (final_lsn, end_lsn) = (Lsn(0x1_0000_0900), Lsn(0x1_0000_0950));
        let commit_time = 86_400_000_001;
        let mut writer = FrameWriter::new();
        writer.start(Lsn(0x1_0000_0500), 7);
        writer.begin(&Begin { xid: 7, final_lsn, end_lsn, commit_time, origin: "o".into() });
        writer.relation(&relation(
            16385,
            vec![column("id", "int4", Encoding::Fixed(4)), column("b", "text", Encoding::Varlena)],
        ));
        let shape = RowShape { columns: 2, nulls: true, unchanged: true };
        writer.insert(Lsn(0x1_0000_0500), 16385, shape, |row| {
            row.fixed(&1i32.to_le_bytes());
            row.variable("h\u{e9}\u{1F600}".as_bytes());
        });
        writer.update_with_old(
            Lsn(0x1_0000_0600),
            16385,
            OldRowKind::Key,
            shape,
            |row| {
                row.fixed(&1i32.to_le_bytes());
                row.null();
            },
            shape,
            |row| {
                row.fixed(&2i32.to_le_bytes());
                row.unchanged();
            },
        );
        writer.delete(Lsn(0x1_0000_0700), 16385, OldRowKind::Full, shape, |row| {
            row.fixed(&2i32.to_le_bytes());
            row.null();
        });
        writer.truncate(Lsn(0x1_0000_0800), true, false, &[16385, 16999]);
        writer.logical(Lsn(0x1_0000_0810), true, "p", b"\x00\xff");
        writer.commit(&Commit { final_lsn, end_lsn, commit_time });
        writer.finish().to_vec()
    }

    #[pg_test]
    fn api_decode_shows_every_message() {
        // the settings of the session do not matter
        Spi::run("SET LOCAL datestyle = 'German'; SET LOCAL timezone = 'Asia/Tokyo'").unwrap();
        let rows = decode(&transaction());
        let rows: Vec<_> = rows.lines().collect();
        let time = r#""commit_time": "2000-01-02 00:00:00.000001+00""#;
        assert_eq!(
            rows[0],
            format!(r#"1|1/900|7|begin|-|-|{{"origin": "o", "end_lsn": "1/950", {time}}}"#)
        );
        assert!(rows[1].starts_with(r#"2|7|relation|public.tàble|-|-|{"oid": 16385, "columns": [{"key": true, "kind": "b", "name": "id", "type": "pg_catalog.int4""#), "{}", rows[1]);
        assert_eq!(rows[2], r#"3|1/500|7|insert|public.tàble|-|{"b": "hé😀", "id": "1"}|-"#);
        assert_eq!(
            rows[3],
            r#"4|1/600|7|update|public.tàble|{"id": "1"}|{"id": "2"}|{"old": "key", "new_unchanged": ["b"]}"#
        );
        assert_eq!(
            rows[4],
            r#"5|1/700|7|delete|public.tàble|{"b": null, "id": "2"}|-|{"old": "full"}"#
        );
        assert_eq!(
            rows[5],
            r#"6|1/800|7|truncate|public.tàble, 16999|-|-|{"cascade": true, "relations": ["public.tàble", "16999"], "restart_identity": false}"#
        );
        assert_eq!(
            rows[6],
            r#"7|1/810|7|message|-|-|{"prefix": "p", "content": "\\x00ff", "transactional": true}"#
        );
        assert_eq!(rows[7], format!(r#"8|1/900|7|commit|-|-|{{"end_lsn": "1/950", {time}}}"#));
    }

    /// A relation is described once per decoding session.
    #[pg_test]
    fn api_decode_remembers_relations() {
        let mut writer = FrameWriter::new();
        let shape = RowShape { columns: 1, nulls: false, unchanged: false };
        writer.start(Lsn(1), 1);
        writer.insert(Lsn(1), 16400, shape, |row| row.fixed(&5i32.to_le_bytes()));
        let insert = writer.finish().to_vec();
        let unknown = decode(&insert);
        assert!(
            unknown.starts_with(r#"1|0/1|1|insert|16400|-|-|{"note": "the columns are not"#),
            "{unknown}"
        );
        assert!(unknown.ends_with(r#""new_bytes": "\\x0005000000"}"#), "{unknown}");
        writer.start(Lsn(1), 1);
        writer.relation(&relation(16400, vec![column("id", "int4", Encoding::Fixed(4))]));
        decode(writer.finish());
        assert_eq!(decode(&insert), r#"1|0/1|1|insert|public.tàble|-|{"id": "5"}|-"#);
    }

    /// Types that only the server knows go through its own functions.
    #[pg_test]
    fn api_decode_asks_the_server_for_types_it_does_not_know() {
        let expected = r#"2|0/1|1|insert|public.tàble|-|{"q": "'a' & 'b'"}|-"#;
        let query = send("tsquerysend", "'a & b'::tsquery");
        assert_eq!(shown(column("q", "tsquery", Encoding::Send), &query), expected);
        let expected = r#"2|0/1|1|insert|public.tàble|-|{"q": "{'a','b'}"}|-"#;
        let queries = send("array_send", "ARRAY['a'::tsquery, 'b']");
        assert_eq!(shown(column("q", "tsquery[]", Encoding::Send), &queries), expected);
        // bytes that its receive function refuses are an ERROR
        let error = shown(column("q", "tsquery", Encoding::Send), &[0xFF; 4]);
        assert!(error.starts_with("ERROR "), "{error}");
        let error = shown(column("q", "tsquery", Encoding::Send), &[query, vec![0]].concat());
        assert!(error.contains("1 bytes left over"), "{error}");
    }

    /// A CHECK of a domain would run with the rights of whoever looks at the frame.
    #[pg_test]
    fn api_decode_runs_no_check_of_a_domain() {
        Spi::run("CREATE DOMAIN public.trap AS tsquery").unwrap();
        let query = send("tsquerysend", "'a'::tsquery");
        let queries = send("array_send", "ARRAY['a'::public.trap]");
        Spi::run("ALTER DOMAIN public.trap ADD CHECK (1 / (numnode(VALUE) - 1) > 0)").unwrap();
        assert_eq!(
            shown(column("q", "public.trap", Encoding::Send), &query),
            r#"2|0/1|1|insert|public.tàble|-|{"q": "'a'"}|-"#
        );
        let rows = shown(column("q", "public.trap[]", Encoding::Send), &queries);
        assert!(rows.ends_with(r#"|{"new_bytes": ["q"]}"#), "{rows}");
    }

    /// The oid of a frame from another database is another type here.
    #[pg_test]
    fn api_decode_compares_names_before_it_trusts_an_oid() {
        let query = send("tsquerysend", "'a'::tsquery");
        let other = Column { type_name: "other".into(), ..column("q", "tsquery", Encoding::Send) };
        let rows = shown(other, &query);
        assert!(rows.ends_with(r#"|{"new_bytes": ["q"]}"#), "{rows}");
        let gone = Column {
            type_oid: 4_000_000_000,
            base_oid: 4_000_000_000,
            ..column("q", "tsquery", Encoding::Send)
        };
        let rows = shown(gone, &query);
        assert!(rows.ends_with(r#"|{"new_bytes": ["q"]}"#), "{rows}");
    }

    #[pg_test]
    fn api_decode_refuses_what_is_not_a_frame() {
        let good = transaction();
        assert_eq!(
            decode(b""),
            "ERROR rsrepl.decode_frame: truncated: format version needs 1 more bytes (at byte 0 of the frame)"
        );
        let cut = (1..good.len()).map(|len| good[..len].to_vec());
        let flipped = (0..good.len()).map(|at| {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            bad
        });
        let errors = decode_all(&cut.chain(flipped).collect::<Vec<_>>());
        assert_eq!(errors.len(), 2 * good.len() - 1);
        for (index, error) in errors.iter().enumerate() {
            assert!(error.starts_with("ERROR rsrepl.decode_frame: "), "{index}: {error}");
        }
        let mut newer = good;
        newer[0] = 99;
        assert!(decode(&newer).contains("format version 99"), "{}", decode(&newer));
    }

    #[pg_test]
    fn api_decode_refuses_values_that_are_none() {
        for (type_name, encoding, value) in [
            ("numeric", Encoding::Numeric, &[0x00, 0x00, 0x01][..]),
            ("int4", Encoding::Fixed(8), &[0; 8]),
            ("timestamptz", Encoding::Fixed(8), &(i64::MAX - 1).to_le_bytes()),
            ("text", Encoding::Varlena, &[0xFF, 0xFE]),
            ("int4[]", Encoding::Send, &[0xFF; 12]),
            ("jsonb", Encoding::Send, &[9, b'1']),
            ("int4[]", INTS, &[0xFF; 12]),
            ("jsonb", Encoding::Jsonb, &[1, 0, 0, 0x40]),
        ] {
            let error = shown(column("v", type_name, encoding), value);
            assert!(
                error.starts_with(
                    "ERROR rsrepl.decode_frame: message 2: new row of public.tàble: column \"v\": "
                ),
                "{type_name}: {error}"
            );
        }
    }

    /// Random bytes as values of every encoding: rows or an ERROR, and a backend that goes on.
    #[pg_test]
    fn api_decode_survives_random_values() {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let types = [
            ("numeric", Encoding::Numeric),
            ("text", Encoding::Varlena),
            ("bytea", Encoding::Varlena),
            ("interval", Encoding::Fixed(16)),
            ("timestamptz", Encoding::Fixed(8)),
            ("tsquery", Encoding::Send),
            ("tsquery[]", Encoding::Send),
            ("pg_snapshot", Encoding::Send),
            ("int4[]", Encoding::Send),
            ("int4[]", INTS),
            ("jsonb", Encoding::Jsonb),
            ("inet", Encoding::Send),
            ("xml", Encoding::Text),
        ];
        let mut frames = Vec::new();
        for (type_name, encoding) in types {
            let column = column("v", type_name, encoding);
            for _ in 0..100 {
                let len = match encoding {
                    Encoding::Fixed(width) => u64::from(width),
                    _ => random() % 24,
                };
                // small bytes, so that lengths and counts in them are often plausible
                let mask = if random() & 1 == 0 { 0x03 } else { 0xFF };
                let value: Vec<u8> = (0..len).map(|_| (random() >> 24) as u8 & mask).collect();
                frames.push(insert_of(column.clone(), &value));
            }
        }
        let shown = decode_all(&frames);
        let errors = shown.iter().filter(|rows| rows.starts_with("ERROR ")).count();
        let rows = shown.len() - errors;
        assert!(rows > 100 && errors > 100, "{rows} rows, {errors} errors");
    }
}
