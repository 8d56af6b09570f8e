//! Random DDL among rows, in savepoints and functions: what is told is what the rows have.

#[pgrx::pg_schema]
mod tests {
    use std::collections::HashMap;

    use pgrx::prelude::*;
    use rsrepl_wire::Message;

    use crate::decoding_tests::harness::{Options, Reader, Source};
    use crate::decoding_tests::receiver::compare;

    const REWRITES: Options = &[("rewrites", "on")];

    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.0 >> 33) % limit
        }
    }

    /// One statement about one of three tables; columns come and go by numbers that are used once.
    fn statement(random: &mut Random, count: &mut u64) -> String {
        let table = format!("t{}", random.below(3));
        *count += 1;
        let rows = random.below(30) + 1;
        match random.below(10) {
            0 => format!("ALTER TABLE {table} ADD COLUMN c{count} int DEFAULT {count}"),
            1 => format!("ALTER TABLE {table} ADD COLUMN c{count} text DEFAULT clock_timestamp()"),
            2 => format!(
                "ALTER TABLE {table} RENAME COLUMN v TO w{count}; ALTER TABLE {table} RENAME w{count} TO v"
            ),
            3 => {
                format!("ALTER TABLE {table} DROP COLUMN v; ALTER TABLE {table} ADD COLUMN v text")
            }
            4 => format!("ALTER TABLE {table} ALTER id TYPE bigint USING id + 1"),
            5 => format!("ALTER TABLE {table} ALTER id TYPE int"),
            6 => format!(
                "DO $$ BEGIN ALTER TABLE {table} ADD COLUMN c{count} int; INSERT INTO {table} (id) VALUES (1); \
                 EXCEPTION WHEN division_by_zero THEN NULL; END $$"
            ),
            _ => format!(
                "INSERT INTO {table} (id, v) SELECT i, repeat('x', 50) FROM generate_series(1, {rows}) i"
            ),
        }
    }

    fn transaction(random: &mut Random, count: &mut u64) -> Vec<String> {
        let mut statements = vec!["BEGIN".to_owned()];
        let mut savepoints = 0;
        for _ in 0..random.below(12) + 1 {
            match random.below(8) {
                0 => {
                    savepoints += 1;
                    statements.push(format!("SAVEPOINT s{savepoints}"));
                }
                1 if savepoints > 0 => {
                    let how = ["ROLLBACK TO", "ROLLBACK TO", "RELEASE"][random.below(3) as usize];
                    statements.push(format!("{how} s{savepoints}"));
                    savepoints -= u64::from(how == "RELEASE");
                }
                _ => statements.push(statement(random, count)),
            }
        }
        statements.push(if random.below(6) == 0 { "ROLLBACK" } else { "COMMIT" }.to_owned());
        statements
    }

    type Columns = Vec<(u64, String)>;

    /// What is known of a table.
    #[derive(Default)]
    struct Known {
        told: Columns,
        shown: Columns,
        rows: usize,
        /// Rows that have to come again before it is told of again.
        again: Option<usize>,
    }

    #[derive(Default)]
    struct Model {
        tables: HashMap<u64, Known>,
        rewritten: usize,
    }

    impl Model {
        fn take(&mut self, message: &Message) {
            match message {
                Message::Logical(message) => {
                    let change: serde_json::Value =
                        serde_json::from_slice(&message.content).unwrap();
                    let table = &change["table"];
                    let known = self.tables.entry(table["oid"].as_u64().unwrap()).or_default();
                    if let Some(expected) = known.again.take() {
                        assert_eq!(known.rows, expected, "{change}");
                        self.rewritten += 1;
                    }
                    let columns = table["columns"].as_array().unwrap();
                    let name = |c: &serde_json::Value| c["name"].as_str().unwrap().to_owned();
                    known.told =
                        columns.iter().map(|c| (c["number"].as_u64().unwrap(), name(c))).collect();
                    if change["rewrite"] == true {
                        known.again = Some(std::mem::take(&mut known.rows));
                    }
                }
                Message::Relation(relation) => {
                    let known = self.tables.entry(relation.oid.into()).or_default();
                    let columns = relation.columns.iter();
                    known.shown = columns.map(|c| (c.number.into(), c.name.clone())).collect();
                }
                Message::Insert(insert) => {
                    let known = self.tables.get_mut(&insert.relation.into()).unwrap();
                    assert_eq!(known.shown, known.told, "a row before its table was told of");
                    known.rows += 1;
                }
                _ => {}
            }
        }
    }

    #[pg_test]
    fn what_is_told_is_what_the_rows_have() {
        let mut source = Source::new("schema_random");
        source.run("CREATE EXTENSION rsrepl; SET logical_decoding_work_mem = '64kB'");
        (0..3).for_each(|n| source.run(&format!("CREATE TABLE t{n} (id int, v text)")));
        let (mut random, mut count, mut model) = (Random(7), 0, Model::default());
        for _ in 0..12 {
            for _ in 0..8 {
                let statements = transaction(&mut random, &mut count);
                statements.iter().for_each(|sql| source.run(sql));
            }
            let frames = source.peek(REWRITES);
            // each session describes the tables anew
            Reader::default().messages(&frames).iter().for_each(|message| model.take(message));
            compare(&mut source, REWRITES);
        }
        assert!(model.rewritten > 20, "{} rewrites", model.rewritten);
        for n in 0..3 {
            let oid = source.value(&format!("'t{n}'::regclass::oid")).parse().unwrap();
            let rows = source.value(&format!("SELECT count(*) FROM t{n}"));
            assert_eq!(model.tables[&oid].rows.to_string(), rows);
        }
    }
}
