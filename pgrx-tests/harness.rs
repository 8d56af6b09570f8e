//! A database with a slot of this plugin, and its frames as lines that a test can compare.

use std::collections::HashMap;
use std::process::Command;

use bytes::Bytes;
use pgrx::prelude::*;
use postgres::{Client, Config, NoTls};
use rsrepl_wire::{Frame, Message, OldRowKind, Relation, Row, Value, text};

/// Options of the plugin, by name.
pub(super) type Options<'a> = &'a [(&'a str, &'a str)];

pub(super) struct Source {
    pub(super) client: Client,
    pub(super) database: String,
}

/// What PostgreSQL said of a statement that failed.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) message: String,
    pub(super) hint: String,
}

/// Only reads: `Spi::get_one` would take a transaction id, and a new slot waits until all older
/// transactions have ended.
fn query(sql: &str) -> String {
    Spi::connect(|client| client.select(sql, Some(1), &[])?.first().get_one()).unwrap().unwrap()
}

fn setting(name: &str) -> String {
    query(&format!("SELECT current_setting('{name}')"))
}

/// How to reach a database of the server that runs the test.
pub(super) fn config(database: &str) -> Config {
    let mut config = Config::new();
    config
        .host(&setting("unix_socket_directories"))
        .port(setting("port").parse().unwrap())
        .user(&query("SELECT current_user::text"))
        .dbname(database);
    config
}

pub(super) fn connect(database: &str) -> Client {
    config(database).connect(NoTls).unwrap()
}

impl Source {
    /// A new database called `name`, which is also the name of its slot.
    pub(super) fn new(name: &str) -> Source {
        Source::with(name, "")
    }

    /// `database_options` as in CREATE DATABASE.
    pub(super) fn with(name: &str, database_options: &str) -> Source {
        let database = format!("rsrepl_{name}");
        let mut admin = connect("postgres");
        admin.batch_execute(&format!("CREATE DATABASE {database} {database_options}")).unwrap();
        let mut source = Source { client: connect(&database), database };
        let create = "SELECT pg_create_logical_replication_slot($1, 'rsrepl')";
        source.client.execute(create, &[&source.database]).unwrap();
        source
    }

    /// Runs statements; several in one string are one transaction unless they say otherwise.
    pub(super) fn run(&mut self, sql: &str) {
        if let Err(error) = self.client.batch_execute(sql) {
            panic!("{sql}: {error:?}");
        }
    }

    pub(super) fn value(&mut self, sql: &str) -> String {
        self.client.query_one(&format!("SELECT ({sql})::text"), &[]).unwrap().get(0)
    }

    /// The server's major version.
    pub(super) fn major(&mut self) -> u32 {
        let number = self.value("current_setting('server_version_num')");
        number.parse::<u32>().unwrap() / 10_000
    }

    /// Whether the server itself loses sight of tables in transactions in progress: minors up to 16.14 and
    /// 18.4 go by what a rolled back subtransaction did to the catalogs. Seen with pgoutput.
    pub(super) fn loses_tables_when_streaming(&mut self) -> bool {
        self.run(
            "SET logical_decoding_work_mem = '64kB'; CREATE TABLE seen (i int PRIMARY KEY);
             CREATE PUBLICATION seen FOR TABLE seen",
        );
        self.run(
            "SELECT pg_create_logical_replication_slot(current_database() || '_seen', 'pgoutput')",
        );
        self.run(
            "BEGIN; SAVEPOINT s; ALTER PUBLICATION seen DROP TABLE seen; ROLLBACK TO s;
             CREATE TABLE seen_too (i int); INSERT INTO seen SELECT generate_series(1, 3000);
             ALTER PUBLICATION seen DROP TABLE seen; COMMIT",
        );
        let rows = self.value(
            "(SELECT count(*) FROM pg_logical_slot_peek_binary_changes(
                 current_database() || '_seen', NULL, NULL,
                 'proto_version', '2', 'publication_names', 'seen', 'streaming', 'on')
              WHERE get_byte(data, 0) = ascii('I'))",
        );
        self.run("SELECT pg_drop_replication_slot(current_database() || '_seen')");
        self.run("DROP PUBLICATION seen; DROP TABLE seen, seen_too");
        rows != "3000"
    }

    /// Whether the server was built with a type: it may lack libxml, or contrib.
    pub(super) fn has_type(&mut self, name: &str) -> bool {
        let value = if name.starts_with("xml") { "'<a/>'::xml" } else { "'{}'::regtype" };
        self.client.batch_execute(&format!("SELECT {}", value.replace("{}", name))).is_ok()
    }

    /// The frames that wait in the slot, which stay there.
    pub(super) fn peek(&mut self, options: Options) -> Vec<Bytes> {
        self.fetch("peek", options).unwrap()
    }

    /// The frames that wait in the slot, which moves on.
    pub(super) fn take(&mut self, options: Options) -> Vec<Bytes> {
        self.fetch("get", options).unwrap()
    }

    /// Why the slot cannot be read with these options.
    pub(super) fn refusal(&mut self, options: Options) -> Refusal {
        let error = self.fetch("peek", options).expect_err("this should have been refused");
        let error = error.as_db_error().expect("an error of the server");
        Refusal {
            message: error.message().to_owned(),
            hint: error.hint().unwrap_or_default().to_owned(),
        }
    }

    fn fetch(&mut self, how: &str, options: Options) -> Result<Vec<Bytes>, postgres::Error> {
        let options: Vec<&str> = options.iter().flat_map(|(name, value)| [*name, *value]).collect();
        let sql = format!(
            "SELECT data FROM pg_logical_slot_{how}_binary_changes($1, NULL, NULL, VARIADIC $2)"
        );
        let rows = self.client.query(&sql, &[&self.database, &options])?;
        Ok(rows.iter().map(|row| Bytes::from(row.get::<_, Vec<u8>>(0))).collect())
    }

    /// Every message as a line; the slot moves on.
    pub(super) fn lines(&mut self, options: Options) -> Vec<String> {
        let frames = self.take(options);
        Reader::default().lines(&frames)
    }

    /// As [`Self::lines`], without what is around the changes.
    pub(super) fn changes(&mut self, options: Options) -> Vec<String> {
        let around = ["BEGIN", "COMMIT", "RELATION"];
        let mut lines = self.lines(options);
        lines.retain(|line| !around.iter().any(|word| line.starts_with(word)));
        lines
    }

    /// `pg_recvlogical` on the slot until it has seen everything up to now; what it received.
    pub(super) fn receive(&mut self, options: Options) -> Vec<u8> {
        let bin = self.value("SELECT setting FROM pg_config WHERE name = 'BINDIR'");
        let user = self.value("current_user");
        let end = self.value("pg_current_wal_insert_lsn()");
        let mut command = Command::new(format!("{bin}/pg_recvlogical"));
        command
            .args(["--host", &setting("unix_socket_directories"), "--port", &setting("port")])
            .args(["--username", &user, "--dbname", &self.database, "--slot", &self.database])
            .args(["--start", "--file", "-", "--no-loop", "--endpos", &end]);
        for (name, value) in options {
            command.args(["--option", &format!("{name}={value}")]);
        }
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "pg_recvlogical: {said}");
        output.stdout
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // a slot that is left behind would keep WAL; when it cannot be dropped the test has failed
        let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
                    WHERE slot_name = $1";
        let _ = self.client.execute(drop, &[&self.database]);
    }
}

/// Reads frames as a consumer would: remembers the tables, and checks that transactions are whole.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) relations: HashMap<u32, Relation>,
    in_transaction: bool,
}

impl Reader {
    pub(super) fn messages(&mut self, frames: &[Bytes]) -> Vec<Message> {
        let mut all = Vec::new();
        for bytes in frames {
            let frame = Frame::parse(bytes.clone()).unwrap();
            let alone = frame.xid() == 0;
            assert!(!(alone && self.in_transaction), "a lone message inside of a transaction");
            assert_eq!(frame.begins(), !alone && !self.in_transaction);
            self.in_transaction = !alone && !frame.commits();
            let messages: Vec<Message> = frame.messages().map(Result::unwrap).collect();
            assert!(!messages.is_empty(), "an empty frame");
            all.extend(messages);
        }
        assert!(!self.in_transaction, "a transaction without a commit");
        all
    }

    pub(super) fn lines(&mut self, frames: &[Bytes]) -> Vec<String> {
        let messages = self.messages(frames);
        messages.into_iter().map(|message| self.line(message)).collect()
    }

    pub(super) fn line(&mut self, message: Message) -> String {
        match message {
            Message::Begin(begin) if begin.origin.is_empty() => "BEGIN".into(),
            Message::Begin(begin) => format!("BEGIN from {}", begin.origin),
            Message::Commit(_) => "COMMIT".into(),
            Message::StreamCommit(_) | Message::StreamAbort(_) => {
                unreachable!("in whole transactions")
            }
            Message::Relation(relation) => {
                let line = describe(&relation);
                self.relations.insert(relation.oid, relation);
                line
            }
            Message::Insert(insert) => {
                format!("INSERT {}", self.row(insert.relation, &insert.new))
            }
            Message::Update(update) => {
                let old = update.old.map(|old| {
                    let row = self.row(update.relation, &old.row);
                    let row = row.split_once(' ').map_or("", |(_, row)| row).to_owned();
                    format!(" ({} {row})", kind(old.kind))
                });
                let new = self.row(update.relation, &update.new);
                format!("UPDATE {new}{}", old.unwrap_or_default())
            }
            Message::Delete(delete) => {
                let row = self.row(delete.relation, &delete.old.row);
                format!("DELETE {row} ({})", kind(delete.old.kind))
            }
            Message::Truncate(truncate) => {
                let name = |oid: &u32| self.relations[oid].to_string();
                let names: Vec<String> = truncate.relations.iter().map(name).collect();
                let cascade = if truncate.cascade { " cascade" } else { "" };
                let restart = if truncate.restart_identity { " restart identity" } else { "" };
                format!("TRUNCATE {}{cascade}{restart}", names.join(" "))
            }
            Message::Logical(message) if message.prefix == "rsrepl.schema" => {
                assert!(message.transactional);
                schema_change(std::str::from_utf8(&message.content).unwrap())
            }
            Message::Logical(message) => {
                let how = if message.transactional { "in transaction" } else { "alone" };
                let content = String::from_utf8_lossy(&message.content);
                format!("MESSAGE {how} {}: {content}", message.prefix)
            }
        }
    }

    fn row(&self, relation: u32, row: &Row) -> String {
        let relation = &self.relations[&relation];
        let mut line = relation.to_string();
        for (column, value) in relation.columns.iter().zip(row.values(relation).unwrap()) {
            let mut shown = Vec::new();
            match value.unwrap() {
                Value::Null => shown.extend(b"NULL"),
                Value::Unchanged => shown.extend(b"UNCHANGED"),
                Value::Data(value) => text::write(&mut shown, column, value).unwrap(),
            }
            let mut shown = String::from_utf8(shown).unwrap();
            if shown.len() > 100 {
                shown = format!("{} bytes", shown.len());
            }
            line.push_str(&format!(" {}={shown}", column.name));
        }
        row.validate(relation).unwrap();
        line
    }
}

fn kind(kind: OldRowKind) -> &'static str {
    match kind {
        OldRowKind::Key => "key",
        OldRowKind::Full => "full",
        OldRowKind::None => "nothing",
    }
}

/// `RELATION public.t d (id int4 key, a text)`.
fn describe(relation: &Relation) -> String {
    let columns: Vec<String> = relation
        .columns
        .iter()
        .map(|column| {
            let key = if column.key { " key" } else { "" };
            let generated = if column.generated { " generated" } else { "" };
            format!("{} {}{key}{generated}", column.name, column.type_name)
        })
        .collect();
    let identity = char::from(relation.replica_identity.to_byte());
    format!("RELATION {relation} {identity} ({})", columns.join(", "))
}

/// `ALTER TABLE r public.t (1 id integer not null; 2 a text = 'x' missing x) key id`, of the content of a
/// message of a schema change.
pub(super) fn schema_change(content: &str) -> String {
    let change: serde_json::Value = serde_json::from_str(content).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    assert_eq!(change["version"], 1);
    let command = text(&change["command"]);
    if let Some(dropped) = change.get("dropped") {
        assert!(dropped["oid"].as_u64().unwrap() > 16_000);
        return format!("{command} {}.{} gone", text(&dropped["schema"]), text(&dropped["name"]));
    }
    let table = &change["table"];
    let columns: Vec<String> = table["columns"].as_array().unwrap().iter().map(column).collect();
    let key: Vec<String> = table["primary_key"].as_array().unwrap().iter().map(text).collect();
    let mut line = format!(
        "{command} {} {}.{} ({})",
        text(&table["kind"]),
        text(&table["schema"]),
        text(&table["name"]),
        columns.join("; "),
    );
    if !key.is_empty() {
        line.push_str(&format!(" key {}", key.join(",")));
    }
    if table["replica_identity"] != "d" {
        line.push_str(&format!(" identity {}", text(&table["replica_identity"])));
    }
    for (set, word) in
        [(!table["rows"].as_bool().unwrap(), " no rows"), (change["rewrite"] == true, " rewrite")]
    {
        line.push_str(if set { word } else { "" });
    }
    line
}

fn column(column: &serde_json::Value) -> String {
    let mut line = format!(
        "{} {} {}",
        column["number"],
        column["name"].as_str().unwrap(),
        column["type"].as_str().unwrap()
    );
    if column["not_null"] == true {
        line.push_str(" not null");
    }
    for (key, word) in [
        ("default", "="),
        ("missing", "missing"),
        ("generated", "generated"),
        ("identity", "identity"),
        ("collation", "collate"),
    ] {
        if let Some(value) = column[key].as_str().filter(|value| !value.is_empty()) {
            line.push_str(&format!(" {word} {value}"));
        }
    }
    line
}
