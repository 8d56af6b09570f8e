//! Publications as pgoutput of this very server applies them: the same changes, in the same order, for the
//! scenarios of `tests/data/publications.sql`.

#[pgrx::pg_schema]
mod tests {
    use std::collections::HashMap;

    use pgrx::prelude::*;

    use crate::decoding_tests::harness::{Reader, Source};
    use crate::decoding_tests::receiver::Receiver;
    use crate::decoding_tests::scenario::{self, PUBLICATIONS};

    /// Makes every transaction one that is sent in parts, and what it does a part of it.
    const PADDING: &str =
        "INSERT INTO public.padding SELECT repeat('x', 1000) FROM generate_series(1, 100);";

    /// Everything that was done, as both plugins tell it.
    struct Told {
        rsrepl: Vec<String>,
        pgoutput: Vec<String>,
    }

    fn tell(source: &mut Source, padding: &str, streaming: bool) -> Told {
        let scenarios = scenario::parse(PUBLICATIONS);
        source.run("CREATE TABLE public.padding (x text)");
        for scenario in &scenarios {
            source.run(&format!("CREATE SCHEMA {0}; SET search_path = {0}", scenario.name));
            source.run(&scenario.both);
            source.run(&scenario.source);
        }
        let names =
            source.value("SELECT string_agg(quote_ident(pubname), ',') FROM pg_publication");
        // only what comes from here on
        source.run("SELECT pg_drop_replication_slot(current_database())");
        source.run(
            "SELECT pg_create_logical_replication_slot(current_database(), 'rsrepl');
             SELECT pg_create_logical_replication_slot(current_database() || '_pgoutput', 'pgoutput')",
        );
        for scenario in &scenarios {
            source.run(&format!("SET search_path = {}", scenario.name));
            for work in &scenario.work {
                match work.starts_with("BEGIN") {
                    true => source.run(&work.replacen("BEGIN;", &format!("BEGIN; {padding}"), 1)),
                    false => source.run(&format!("{padding} {work} ; {padding}")),
                }
            }
        }
        source.run("RESET search_path; SET logical_decoding_work_mem = '64kB'");
        let rsrepl = match streaming {
            false => Reader::default().lines(&source.peek(&[("publications", &names)])),
            true => {
                let mut receiver = Receiver::default();
                for frame in source.peek(&[("publications", &names), ("streaming", "on")]) {
                    receiver.take(&frame);
                }
                assert!(receiver.commits > 50, "{} were streamed", receiver.commits);
                receiver.lines
            }
        };
        let pgoutput = source
            .client
            .query(
                "SELECT data FROM pg_logical_slot_peek_binary_changes(current_database() || '_pgoutput',
                   NULL, NULL, 'proto_version', '1', 'publication_names', $1)",
                &[&names],
            )
            .unwrap();
        source.run("SELECT pg_drop_replication_slot(current_database() || '_pgoutput')");
        let mut reader = Pgoutput::default();
        let pgoutput = pgoutput.iter().filter_map(|row| reader.line(row.get(0))).collect();
        let mut told = Told { rsrepl, pgoutput };
        told.rsrepl.retain(|line| !line.starts_with("RELATION"));
        // how much there is of an old row is a matter of the partition's identity, not of the root's
        for line in &mut told.rsrepl {
            *line = line.replace("(full ", "(").replace("(key ", "(");
            *line = line.trim_end_matches(" (full)").trim_end_matches(" (key)").to_owned();
        }
        told
    }

    fn compare(told: &Told) {
        for (number, pair) in told.rsrepl.iter().zip(&told.pgoutput).enumerate() {
            let before = &told.pgoutput[number.saturating_sub(5)..number];
            assert_eq!(pair.0, pair.1, "behind {before:#?}");
        }
        assert_eq!(told.rsrepl.len(), told.pgoutput.len());
    }

    #[pg_test]
    fn the_same_changes_as_pgoutput() {
        let mut source = Source::new("pgoutput");
        let told = tell(&mut source, "", false);
        compare(&told);
        let named = |name: &str| told.rsrepl.iter().any(|line| line.contains(&format!(" {name}.")));
        let names: Vec<_> = scenario::parse(PUBLICATIONS).into_iter().map(|s| s.name).collect();
        let unseen: Vec<_> = names.iter().filter(|name| !named(name)).collect();
        assert_eq!(unseen, ["publish_nothing"]);
        assert!(names.len() > 40);
    }

    #[pg_test]
    fn the_same_changes_as_pgoutput_when_streamed() {
        let mut source = Source::new("pgoutput_streamed");
        if source.loses_tables_when_streaming() {
            return;
        }
        let mut told = tell(&mut source, PADDING, true);
        // nothing is streamed of a transaction of which nothing is wanted: their frames come all the same
        told.rsrepl.retain(|line| line != "BEGIN" && line != "COMMIT");
        told.pgoutput.retain(|line| line != "BEGIN" && line != "COMMIT");
        compare(&told);
    }

    /// Reads pgoutput's messages, version 1, into the lines of [`Reader`].
    #[derive(Default)]
    struct Pgoutput {
        /// Name and columns.
        relations: HashMap<u32, (String, Vec<String>)>,
    }

    struct Bytes<'a>(&'a [u8]);

    impl<'a> Bytes<'a> {
        fn take(&mut self, count: usize) -> &'a [u8] {
            let (taken, rest) = self.0.split_at(count);
            self.0 = rest;
            taken
        }

        fn byte(&mut self) -> u8 {
            self.take(1)[0]
        }

        fn short(&mut self) -> usize {
            usize::from(u16::from_be_bytes(self.take(2).try_into().unwrap()))
        }

        fn word(&mut self) -> u32 {
            u32::from_be_bytes(self.take(4).try_into().unwrap())
        }

        fn text(&mut self) -> String {
            let len = self.0.iter().position(|byte| *byte == 0).unwrap();
            let text = String::from_utf8(self.take(len).to_vec()).unwrap();
            self.byte();
            text
        }
    }

    impl Pgoutput {
        fn line(&mut self, message: &[u8]) -> Option<String> {
            let mut bytes = Bytes(message);
            Some(match bytes.byte() {
                b'B' => "BEGIN".into(),
                b'C' => "COMMIT".into(),
                b'R' => {
                    self.relation(&mut bytes);
                    return None;
                }
                b'Y' | b'O' => return None,
                b'I' => {
                    let oid = bytes.word();
                    format!("INSERT {}", self.row(oid, &mut bytes).1)
                }
                b'U' => {
                    let oid = bytes.word();
                    let (kind, first) = self.row(oid, &mut bytes);
                    match kind {
                        b'N' => format!("UPDATE {first}"),
                        _ => {
                            let old = first.split_once(' ').map_or("", |(_, row)| row).to_owned();
                            format!("UPDATE {} ({old})", self.row(oid, &mut bytes).1)
                        }
                    }
                }
                b'D' => {
                    let oid = bytes.word();
                    format!("DELETE {}", self.row(oid, &mut bytes).1)
                }
                b'T' => {
                    let (count, how) = (bytes.word(), bytes.byte());
                    let names: Vec<_> =
                        (0..count).map(|_| self.relations[&bytes.word()].0.clone()).collect();
                    let cascade = if how & 1 != 0 { " cascade" } else { "" };
                    let restart = if how & 2 != 0 { " restart identity" } else { "" };
                    format!("TRUNCATE {}{cascade}{restart}", names.join(" "))
                }
                kind => panic!("message {}", char::from(kind)),
            })
        }

        fn relation(&mut self, bytes: &mut Bytes<'_>) {
            let oid = bytes.word();
            let name = format!("{}.{}", bytes.text(), bytes.text());
            bytes.byte();
            let count = bytes.short();
            let column = |_| {
                bytes.byte();
                let name = bytes.text();
                bytes.take(8);
                name
            };
            let columns = (0..count).map(column).collect();
            self.relations.insert(oid, (name, columns));
        }

        fn row(&self, relation: u32, bytes: &mut Bytes<'_>) -> (u8, String) {
            let kind = bytes.byte();
            let (name, columns) = &self.relations[&relation];
            let mut line = name.clone();
            assert_eq!(bytes.short(), columns.len());
            for column in columns {
                let shown = match bytes.byte() {
                    b'n' => "NULL".into(),
                    b'u' => "UNCHANGED".into(),
                    _ => {
                        let len = bytes.word() as usize;
                        String::from_utf8(bytes.take(len).to_vec()).unwrap()
                    }
                };
                let shown =
                    if shown.len() > 100 { format!("{} bytes", shown.len()) } else { shown };
                line.push_str(&format!(" {column}={shown}"));
            }
            (kind, line)
        }
    }
}
