//! Dead letters: what was skipped, as lines of JSON in a file of its target's.
//!
//! One line for each change, and one with the operation `commit` behind those of a transaction: with it the transaction
//! is there whole. The position of the target passes the transaction only when its lines are on disk; so after a
//! crash in between, the same lines are there twice (same `lsn`, same `number`), and never not at all.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rsrepl_wire::text::{self, oid};
use rsrepl_wire::{Encoding, Lsn, OldRow, OldRowKind, Relation, Row, TypeKind, Value as Cell};
use serde_json::{Map, Value, json};

use crate::batch::{Change, Operation, Position};
use crate::error::{Error, Kind, Result};
use crate::schema::What;

/// A part of a transaction that is skipped.
#[derive(Clone, Debug)]
pub enum Letter {
    /// `number`: of the change in its transaction, from 1 on.
    Change { transaction: Position, number: u64, change: Change },
    /// The transaction ends, and had so many changes.
    End { transaction: Position, changes: u64 },
}

/// The file of one target. Nothing is made before there is something to write.
#[derive(Debug)]
pub struct Letters {
    target: String,
    path: PathBuf,
    file: Option<File>,
    /// Written, and perhaps not on disk.
    dirty: bool,
    /// Transactions that are whole in the file, and maybe not on disk.
    ended: Vec<Key>,
    /// Those that are on disk, and that the target has not passed: when it fails behind them, they come again, and are
    /// not written again.
    kept: BTreeSet<Key>,
}

/// What tells transactions apart, also those of two timelines: end, xid, commit time.
type Key = (Lsn, u32, i64);

fn key(transaction: &Position) -> Key {
    (transaction.lsn, transaction.xid, transaction.commit_time)
}

impl Letter {
    fn transaction(&self) -> &Position {
        match self {
            Letter::Change { transaction, .. } | Letter::End { transaction, .. } => transaction,
        }
    }
}

impl Letters {
    /// In `dir`; slot and target make the file's name.
    pub fn new(dir: &Path, slot: &str, target: &str) -> Letters {
        let path = dir.join(format!("{slot}.{target}.jsonl"));
        Letters {
            target: target.to_owned(),
            path,
            file: None,
            dirty: false,
            ended: Vec::new(),
            kept: BTreeSet::new(),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The transaction is on disk already, whole.
    pub fn has(&self, transaction: &Position) -> bool {
        self.kept.contains(&key(transaction))
    }

    /// The target is behind everything up to here: it does not come again.
    pub fn passed(&mut self, position: Lsn) {
        self.kept.retain(|(lsn, ..)| *lsn > position);
    }

    /// Appends lines, but of what it [has](Self::has). They are safe once they are [synced](Self::sync).
    ///
    /// # Errors
    /// [`Kind::Disk`]; [`Kind::Frame`]: a row cannot be decoded.
    pub fn write(&mut self, letters: &[Letter]) -> Result<()> {
        let mut lines = Vec::new();
        let mut ended = Vec::new();
        for letter in letters.iter().filter(|letter| !self.has(letter.transaction())) {
            if let Letter::End { transaction, .. } = letter {
                ended.push(key(transaction));
            }
            let line = line(&self.target, letter)?;
            serde_json::to_writer(&mut lines, &line).map_err(|error| self.failed(error.into()))?;
            lines.push(b'\n');
        }
        if lines.is_empty() {
            return Ok(());
        }
        let file = match self.file.take() {
            Some(file) => Ok(file),
            None => open(&self.path),
        };
        let written = file.and_then(|mut file| file.write_all(&lines).map(|()| file));
        // after an error the file is opened anew, and a line that was torn is ended there
        self.file = Some(written.map_err(|error| self.failed(error))?);
        self.dirty = true;
        self.ended.append(&mut ended);
        Ok(())
    }

    /// Once it returns, everything written is on disk.
    ///
    /// # Errors
    /// [`Kind::Disk`].
    pub async fn sync(&mut self) -> Result<()> {
        if !self.dirty {
            return Ok(());
        }
        // what an earlier handle failed to bring to disk, a later one does not tell of
        let Some(file) = self.file.take() else {
            return Err(self.failed(io::Error::other("it was not written")));
        };
        let synced = tokio::task::spawn_blocking(move || file.sync_data().map(|()| file)).await;
        let synced = synced.map_err(io::Error::other).and_then(|synced| synced);
        self.file = Some(synced.map_err(|error| self.failed(error))?);
        self.dirty = false;
        self.kept.extend(self.ended.drain(..));
        Ok(())
    }

    /// The transactions that were being written come again.
    pub fn restart(&mut self) {
        (self.file, self.dirty) = (None, false);
        self.ended.clear();
    }

    #[cold]
    fn failed(&self, error: io::Error) -> Error {
        let what = format!(
            "target {}: what is skipped cannot be written to {}",
            self.target,
            self.path.display()
        );
        Error::new(Kind::Disk, what).because(error).hint(
            "make room there, or set dead_letters to another folder; until then nothing is skipped",
        )
    }
}

fn open(path: &Path) -> io::Result<File> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    if !dir.is_dir() {
        made?;
    }
    let is_new = !path.exists();
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    if is_new {
        File::open(dir)?.sync_all()?;
    }
    if file.metadata()?.len() > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

fn line(target: &str, letter: &Letter) -> Result<Value> {
    let (Letter::Change { transaction, .. } | Letter::End { transaction, .. }) = letter;
    let mut line = json!({
        "target": target,
        "lsn": transaction.lsn.to_string(),
        "xid": transaction.xid,
        "commit_time": time_text(transaction.commit_time),
    });
    match letter {
        Letter::End { changes, .. } => {
            line["operation"] = "commit".into();
            line["changes"] = (*changes).into();
        }
        Letter::Change { number, change, .. } => {
            line["number"] = (*number).into();
            line["schema"] = change.relation.schema.as_str().into();
            line["table"] = change.relation.name.as_str().into();
            describe(&mut line, change)?;
        }
    }
    Ok(line)
}

fn describe(line: &mut Value, change: &Change) -> Result<()> {
    let relation = &change.relation;
    let row = |row: &Row, keys: bool| row_text(relation, row, keys).map_err(|e| e.at(change.lsn));
    let operation = match &change.operation {
        Operation::Insert { new } => {
            (line["key"], line["new"]) = (row(new, true)?, row(new, false)?);
            "insert"
        }
        Operation::Update { old, new } => {
            line["key"] = row(old.as_ref().map_or(new, |old| &old.row), true)?;
            line["new"] = row(new, false)?;
            if let Some(old) = old {
                line["old"] = old_text(relation, old, change.lsn)?;
            }
            "update"
        }
        Operation::Delete { old } => {
            (line["key"], line["old"]) =
                (row(&old.row, true)?, old_text(relation, old, change.lsn)?);
            "delete"
        }
        Operation::Truncate { restart_identity, .. } => {
            line["restart_identity"] = (*restart_identity).into();
            "truncate"
        }
        Operation::Schema(message) => {
            line["command"] = message.command.as_str().into();
            line["dropped"] = matches!(message.what, What::Dropped(_)).into();
            "schema"
        }
    };
    line["operation"] = operation.into();
    Ok(())
}

/// What is known of the row as it was.
fn old_text(relation: &Relation, old: &OldRow, lsn: Lsn) -> Result<Value> {
    row_text(relation, &old.row, old.kind != OldRowKind::Full).map_err(|error| error.at(lsn))
}

/// The columns with their values; `keys`: those of the replica identity.
fn row_text(relation: &Relation, row: &Row, keys: bool) -> Result<Value> {
    let mut object = Map::new();
    for (column, value) in relation.columns.iter().zip(row.values(relation)?) {
        if keys && !column.key {
            continue;
        }
        let value = match value? {
            Cell::Null => Value::Null,
            Cell::Unchanged => json!({ "unchanged": true }),
            Cell::Data(data) => {
                let mut written = Vec::new();
                match text::write(&mut written, column, data) {
                    Ok(()) => String::from_utf8_lossy(&written).into_owned().into(),
                    // of a type that only its own server can show: what its send function gave
                    Err(_) => json!({ "bytes": hex(data) }),
                }
            }
        };
        object.insert(column.name.clone(), value);
    }
    Ok(Value::Object(object))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A time of the stream as PostgreSQL shows a `timestamptz` in UTC.
pub fn time_text(micros: i64) -> String {
    let ty = text::Type {
        oid: oid::TIMESTAMPTZ,
        kind: TypeKind::Base,
        element_oid: 0,
        element_kind: TypeKind::Base,
    };
    let mut out = Vec::new();
    match text::write_as(&mut out, Encoding::Fixed(8), &ty, &micros.to_le_bytes()) {
        Ok(()) => String::from_utf8_lossy(&out).into_owned(),
        Err(_) => micros.to_string(),
    }
}

#[cfg(test)]
#[path = "letters_tests.rs"]
mod tests;
