//! `rsrepl.decode_frame(bytea)`: a frame as rows that a person can read. `sql/decode.sql` makes columns
//! of the objects built here.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use bytes::Bytes;
use pgrx::prelude::*;
use rsrepl_wire::text::{self, oid};
use rsrepl_wire::{Encoding, Frame, Lsn, Message, OldRow, OldRowKind, Relation, TypeKind};
use serde_json::{Map, Value, json};

use super::json::to_ascii;
use super::row::{hex, row_json};

/// Relations that a backend remembers; when there would be more, it starts anew.
const RELATIONS_MAX: usize = 1024;
/// Bytes of names and columns in them, likewise.
const RELATIONS_BYTES_MAX: usize = 16 << 20;

thread_local! {
    /// A relation is described once per decoding session, so what earlier frames said is needed for
    /// the later ones that this backend is shown.
    static RELATIONS: RefCell<Relations> = RefCell::default();
    /// Those of transactions in progress, which hold in these only.
    static STREAMED: RefCell<Relations> = RefCell::default();
}

/// One JSON object per message, with the columns of `rsrepl.decode_frame`. Nothing is returned of a
/// frame that is not right from end to end.
#[pg_extern(strict)]
pub(super) fn decode_frame_messages(frame: &[u8]) -> SetOfIterator<'static, String> {
    match decode(Bytes::copy_from_slice(frame)) {
        Ok(rows) => SetOfIterator::new(rows),
        Err(error) => {
            ereport!(
                ERROR,
                PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
                format!("rsrepl.decode_frame: {error}")
            );
        }
    }
}

#[derive(Default)]
struct Relations {
    known: HashMap<u32, Rc<Relation>>,
    bytes: usize,
}

impl Relations {
    fn remember(&mut self, relation: Relation) {
        let strings = |column: &rsrepl_wire::Column| {
            column.name.len() + column.type_schema.len() + column.type_name.len()
        };
        let bytes = relation.schema.len()
            + relation.name.len()
            + relation.columns.iter().map(strings).sum::<usize>()
            + relation.columns.len() * size_of::<rsrepl_wire::Column>();
        self.bytes = self.bytes.saturating_add(bytes);
        if self.known.len() >= RELATIONS_MAX || self.bytes > RELATIONS_BYTES_MAX {
            self.known.clear();
            self.bytes = bytes;
        }
        self.known.insert(relation.oid, Rc::new(relation));
    }
}

fn decode(bytes: Bytes) -> Result<Vec<String>, String> {
    let frame = Frame::parse(bytes).map_err(|error| error.to_string())?;
    let relations = if frame.streams() { &STREAMED } else { &RELATIONS };
    relations.with_borrow_mut(|relations| rows(&frame, relations))
}

fn rows(frame: &Frame, relations: &mut Relations) -> Result<Vec<String>, String> {
    let mut rows = Vec::new();
    let mut xid = frame.xid();
    for (index, message) in frame.messages().enumerate() {
        pgrx::check_for_interrupts!();
        let position = index + 1;
        let message = message.map_err(|error| format!("message {position}: {error}"))?;
        if let Message::Begin(begin) = &message {
            xid = begin.xid;
        }
        let mut row = describe(&message, relations)
            .map_err(|error| format!("message {position}: {error}"))?;
        if let Value::Object(columns) = &mut row {
            columns.insert("position".into(), json!(position));
            // xid 0 stands for none
            columns.insert("xid".into(), json!((xid != 0).then(|| xid.to_string())));
            if frame.streams() {
                let detail = columns.entry("detail").or_insert_with(|| json!({}));
                if let Value::Object(detail) = detail {
                    detail.insert("stream".into(), json!(true));
                }
            }
        }
        rows.push(to_ascii(&row));
        if let Message::Relation(relation) = message {
            relations.remember(relation);
        }
    }
    Ok(rows)
}

/// An object of all columns but `position` and `xid`, which are the frame's to say.
fn describe(message: &Message, relations: &Relations) -> Result<Value, String> {
    Ok(match message {
        Message::Begin(begin) => json!({
            "kind": "begin",
            "lsn": lsn(begin.final_lsn),
            "detail": {
                "end_lsn": begin.end_lsn.to_string(),
                "commit_time": time(begin.commit_time)?,
                "origin": (!begin.origin.is_empty()).then_some(&begin.origin),
            },
        }),
        Message::Commit(commit) => json!({
            "kind": "commit",
            "lsn": lsn(commit.final_lsn),
            "detail": {
                "end_lsn": commit.end_lsn.to_string(),
                "commit_time": time(commit.commit_time)?,
            },
        }),
        Message::StreamCommit(commit) => json!({
            "kind": "stream commit",
            "lsn": lsn(commit.begin.final_lsn),
            "detail": {
                "size": commit.size,
                "end_lsn": commit.begin.end_lsn.to_string(),
                "commit_time": time(commit.begin.commit_time)?,
                "origin": (!commit.begin.origin.is_empty()).then_some(&commit.begin.origin),
            },
        }),
        Message::StreamAbort(abort) => json!({
            "kind": "stream abort",
            "lsn": lsn(abort.lsn),
            "detail": {
                "aborted_xid": abort.xid.to_string(),
                "frame": abort.place.frame,
                "offset": abort.place.offset,
            },
        }),
        Message::Relation(relation) => json!({
            "kind": "relation",
            "relation": relation.to_string(),
            "detail": relation_json(relation),
        }),
        Message::Insert(insert) => Change::new("insert", insert.lsn, insert.relation, relations)
            .with_new(&insert.new)?
            .json(),
        Message::Update(update) => Change::new("update", update.lsn, update.relation, relations)
            .with_old(update.old.as_ref())?
            .with_new(&update.new)?
            .json(),
        Message::Delete(delete) => Change::new("delete", delete.lsn, delete.relation, relations)
            .with_old(Some(&delete.old))?
            .json(),
        Message::Truncate(truncate) => {
            let names: Vec<_> =
                truncate.relations.iter().map(|oid| relation_name(*oid, relations)).collect();
            json!({
                "kind": "truncate",
                "lsn": lsn(truncate.lsn),
                "relation": names.join(", "),
                "detail": {
                    "relations": names,
                    "cascade": truncate.cascade,
                    "restart_identity": truncate.restart_identity,
                },
            })
        }
        Message::Logical(logical) => json!({
            "kind": "message",
            "lsn": lsn(logical.lsn),
            "detail": {
                "transactional": logical.transactional,
                "prefix": logical.prefix,
                "content": hex(&logical.content),
            },
        }),
    })
}

/// The row of an insert, update or delete, as it is put together.
struct Change {
    relation: Option<Rc<Relation>>,
    row: Map<String, Value>,
    detail: Map<String, Value>,
}

impl Change {
    fn new(kind: &str, at: Lsn, relation_oid: u32, relations: &Relations) -> Self {
        let relation = relations.known.get(&relation_oid).cloned();
        let mut row = Map::new();
        row.insert("kind".into(), json!(kind));
        row.insert("lsn".into(), lsn(at));
        row.insert("relation".into(), json!(relation_name(relation_oid, relations)));
        let mut detail = Map::new();
        if relation.is_none() {
            let note = "the columns are not known: this backend was not shown the frame that \
                        describes the relation";
            detail.insert("note".into(), json!(note));
        }
        Change { relation, row, detail }
    }

    fn with_old(mut self, old: Option<&OldRow>) -> Result<Self, String> {
        let Some(old) = old else { return Ok(self) };
        let kind = match old.kind {
            OldRowKind::Key => "key",
            OldRowKind::Full => "full",
            OldRowKind::None => "none",
        };
        self.detail.insert("old".into(), json!(kind));
        match old.kind {
            OldRowKind::None => Ok(self), // a row of nulls that says nothing
            _ => self.side("old", &old.row, old.kind == OldRowKind::Key),
        }
    }

    fn with_new(self, row: &rsrepl_wire::Row) -> Result<Self, String> {
        self.side("new", row, false)
    }

    fn side(mut self, name: &str, row: &rsrepl_wire::Row, key_only: bool) -> Result<Self, String> {
        let Some(relation) = &self.relation else {
            self.detail.insert(format!("{name}_bytes"), json!(hex(&row.0)));
            return Ok(self);
        };
        let shown = row_json(row, relation, key_only)
            .map_err(|error| format!("{name} row of {relation}: {error}"))?;
        self.row.insert(name.into(), Value::Object(shown.values));
        for (list, columns) in [("unchanged", shown.unchanged), ("bytes", shown.bytes)] {
            if !columns.is_empty() {
                self.detail.insert(format!("{name}_{list}"), json!(columns));
            }
        }
        Ok(self)
    }

    fn json(mut self) -> Value {
        if !self.detail.is_empty() {
            self.row.insert("detail".into(), Value::Object(self.detail));
        }
        Value::Object(self.row)
    }
}

fn relation_name(oid: u32, relations: &Relations) -> String {
    relations.known.get(&oid).map_or_else(|| oid.to_string(), |relation| relation.to_string())
}

fn encoding_name(encoding: Encoding) -> String {
    match encoding {
        Encoding::Fixed(width) => format!("fixed {width}"),
        Encoding::Varlena => "varlena".into(),
        Encoding::Numeric => "numeric".into(),
        Encoding::Jsonb => "jsonb".into(),
        Encoding::Array(element) => {
            format!(
                "array of {}, aligned to {}",
                encoding_name(element.encoding.into()),
                element.align
            )
        }
        Encoding::Send => "send".into(),
        Encoding::Text => "text".into(),
    }
}

fn relation_json(relation: &Relation) -> Value {
    let column = |column: &rsrepl_wire::Column| {
        json!({
            "name": column.name,
            "number": column.number,
            "type": format!("{}.{}", column.type_schema, column.type_name),
            "type_oid": column.type_oid,
            "base_oid": column.base_oid,
            "typmod": column.typmod,
            "kind": char::from(column.kind.to_byte()).to_string(),
            "key": column.key,
            "not_null": column.not_null,
            "generated": column.generated,
            "encoding": encoding_name(column.encoding),
        })
    };
    json!({
        "oid": relation.oid,
        "replica_identity": char::from(relation.replica_identity.to_byte()).to_string(),
        "columns": relation.columns.iter().map(column).collect::<Vec<_>>(),
    })
}

fn lsn(lsn: Lsn) -> Value {
    json!(lsn.to_string())
}

/// A commit time as `timestamptz` writes it, in UTC.
fn time(micros: i64) -> Result<String, String> {
    let timestamptz = text::Type {
        oid: oid::TIMESTAMPTZ,
        kind: TypeKind::Base,
        element_oid: 0,
        element_kind: TypeKind::Base,
    };
    let mut out = Vec::new();
    text::write_as(&mut out, Encoding::Send, &timestamptz, &micros.to_be_bytes())
        .map_err(|error| format!("commit time: {error}"))?;
    String::from_utf8(out).map_err(|error| error.to_string())
}
