//! Changes of one table to rows in `RowBinary`. Pure; CPU only.

use std::vec::IntoIter;

use rsrepl_wire::{Lsn, OldRow, OldRowKind, Row, Value};

use super::convert::Refusal;
use super::plan::{Layout, Plan};
use super::refuse::{refused, without_identity};
use super::toast::{Fill, Known};
use crate::batch::Operation;
use crate::error::{Error, Result};

/// Bytes of one INSERT, after which the next one begins. An INSERT of the server's defaults is one
/// block, and so all or nothing, under 256 MiB of columns in memory.
const INSERT_BYTES: usize = 8 << 20;
/// Rows of one INSERT; one block has at most 1,048,449 by the server's defaults.
const INSERT_ROWS: usize = 500_000;

/// One change of a table; never a TRUNCATE.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// LSN of the change record.
    pub(super) lsn: Lsn,
    /// Never falls from one change to the next in the stream; see `target`.
    pub(super) version: u64,
    /// Counts the changes of the table that have the same LSN.
    pub(super) ordinal: u32,
    pub(super) operation: Operation,
}

/// Rows of one INSERT.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) bytes: Vec<u8>,
    pub(super) rows: usize,
}

impl Chunk {
    fn is_full(&self) -> bool {
        self.bytes.len() >= INSERT_BYTES || self.rows >= INSERT_ROWS
    }
}

/// Encodes the next `left` items, or as many of them as make a full chunk, and lowers `left`.
///
/// # Errors
/// [`crate::error::Kind::Row`]: a value is refused; [`crate::error::Kind::Frame`]: it cannot be read.
pub(super) fn encode(
    plan: &Plan,
    known: &mut Option<Known>,
    items: &mut IntoIter<Item>,
    left: &mut usize,
) -> Result<Chunk> {
    let mut encoder = Encoder {
        plan,
        known,
        chunk: Chunk::default(),
        starts: Vec::new(),
        old_key: Vec::new(),
        new_key: Vec::new(),
    };
    while *left > 0 && !encoder.chunk.is_full() {
        let Some(item) = items.next() else { break };
        *left -= 1;
        match plan.layout {
            Layout::Keyed => encoder.keyed(&item)?,
            Layout::Log => encoder.logged(&item)?,
        }
    }
    Ok(encoder.chunk)
}

struct Encoder<'a> {
    plan: &'a Plan,
    known: &'a mut Option<Known>,
    chunk: Chunk,
    /// Where the columns of the row at hand start; kept only while `known` asks for it.
    starts: Vec<usize>,
    old_key: Vec<u8>,
    new_key: Vec<u8>,
}

impl Encoder<'_> {
    fn keyed(&mut self, item: &Item) -> Result<()> {
        match &item.operation {
            Operation::Insert { new } => self.upsert(item, None, new),
            Operation::Update { old, new } => self.upsert(item, old.as_ref(), new),
            Operation::Delete { old } => {
                self.tombstone(item, &old.row)?;
                if let Some(known) = self.known.as_mut() {
                    self.old_key.clear();
                    put_key(self.plan, item, &old.row, None, &mut self.old_key)?;
                    known.forget(&self.old_key);
                }
                Ok(())
            }
            Operation::Truncate { .. } => Ok(()), // a step of its own, see `write`
        }
    }

    /// A new version of a row, and the end of the one under its old key.
    fn upsert(&mut self, item: &Item, old: Option<&OldRow>, new: &Row) -> Result<()> {
        let plan = self.plan;
        let moved = match old {
            Some(old) => {
                self.old_key.clear();
                put_key(plan, item, &old.row, None, &mut self.old_key)?;
                self.new_key.clear();
                put_key(plan, item, new, Some(&old.row), &mut self.new_key)?;
                self.old_key != self.new_key
            }
            None => false,
        };
        if old.is_none() && self.known.is_some() {
            self.new_key.clear();
            put_key(plan, item, new, None, &mut self.new_key)?;
        }
        // before the new row: of two rows that ClickHouse takes for the same key (-0.0 and 0.0) the
        // last one of a version wins
        if moved && let Some(old) = old {
            self.tombstone(item, &old.row)?;
        }
        let start = self.chunk.bytes.len();
        if self.columns(item, new, old, moved)? {
            self.chunk.bytes.extend_from_slice(&item.version.to_le_bytes());
            self.chunk.bytes.push(0);
            self.chunk.rows += 1;
            if let Some(known) = self.known.as_mut() {
                known.remember(&self.new_key, &self.chunk.bytes, &self.starts);
            }
        } else {
            self.chunk.bytes.truncate(start);
        }
        if moved && let Some(known) = self.known.as_mut() {
            known.forget(&self.old_key);
        }
        Ok(())
    }

    /// The columns of a new row. False: the row is not needed, as a later change that is already in
    /// the table has ended it.
    fn columns(
        &mut self,
        item: &Item,
        new: &Row,
        old: Option<&OldRow>,
        moved: bool,
    ) -> Result<bool> {
        let plan = self.plan;
        let whole = old.is_some_and(|old| old.kind == OldRowKind::Full);
        let mut olds = old.map(|old| old.row.values(&plan.relation)).transpose()?;
        let mut news = new.values(&plan.relation)?;
        self.starts.clear();
        for (index, (target, column)) in plan.columns.iter().zip(&plan.relation.columns).enumerate()
        {
            let mut value = next(&mut news)?;
            let old = olds.as_mut().map(next).transpose()?;
            // an old key has its key columns only
            if value == Value::Unchanged && (whole || target.key) {
                value = old.unwrap_or(value);
            }
            if let Some(known) = self.known.as_ref() {
                self.starts.push(self.chunk.bytes.len());
                if value == Value::Unchanged {
                    let old_key = moved.then_some(self.old_key.as_slice());
                    match known.find(old_key, &self.new_key, index, item.lsn) {
                        Fill::Value(bytes) => self.chunk.bytes.extend_from_slice(bytes),
                        Fill::Dominated => return Ok(false),
                        Fill::Missing => {
                            return Err(refused(plan, item, new, index, value, Refusal::Absent));
                        }
                    }
                    continue;
                }
            }
            target
                .put(&mut self.chunk.bytes, column, value)
                .map_err(|refusal| refused(plan, item, new, index, value, refusal))?;
        }
        end(news)?;
        Ok(true)
    }

    /// The end of the row under the key in `old`.
    fn tombstone(&mut self, item: &Item, old: &Row) -> Result<()> {
        let plan = self.plan;
        let mut values = old.values(&plan.relation)?;
        for (index, (target, column)) in plan.columns.iter().zip(&plan.relation.columns).enumerate()
        {
            let value = next(&mut values)?;
            if target.key {
                target
                    .put(&mut self.chunk.bytes, column, value)
                    .map_err(|refusal| refused(plan, item, old, index, value, refusal))?;
            } else {
                target.ty.put_default(&mut self.chunk.bytes);
            }
        }
        end(values)?;
        self.chunk.bytes.extend_from_slice(&item.version.to_le_bytes());
        self.chunk.bytes.push(1);
        self.chunk.rows += 1;
        Ok(())
    }

    /// A table without a key: what went, and what came.
    fn logged(&mut self, item: &Item) -> Result<()> {
        match &item.operation {
            Operation::Insert { new } => self.entry(item, new, None, 1),
            Operation::Update { old: Some(old), new } if old.kind == OldRowKind::Full => {
                self.entry(item, &old.row, None, -1)?;
                self.entry(item, new, Some(old), 1)
            }
            Operation::Delete { old } if old.kind == OldRowKind::Full => {
                self.entry(item, &old.row, None, -1)
            }
            Operation::Update { .. } | Operation::Delete { .. } => {
                Err(without_identity(self.plan, item.lsn))
            }
            Operation::Truncate { .. } => Ok(()),
        }
    }

    fn entry(&mut self, item: &Item, row: &Row, whole: Option<&OldRow>, sign: i8) -> Result<()> {
        self.columns(item, row, whole, false)?;
        let out = &mut self.chunk.bytes;
        out.extend_from_slice(&item.lsn.0.to_le_bytes());
        out.extend_from_slice(&item.ordinal.to_le_bytes());
        out.extend_from_slice(&sign.to_le_bytes());
        self.chunk.rows += 1;
        Ok(())
    }
}

/// Appends the key columns of a row, one after the other; what is unchanged TOAST in it (a long text may
/// be, also in a key) comes from the row before, which the source then sends along.
pub(super) fn put_key(
    plan: &Plan,
    item: &Item,
    row: &Row,
    before: Option<&Row>,
    out: &mut Vec<u8>,
) -> Result<()> {
    let mut values = row.values(&plan.relation)?;
    let mut olds = before.map(|row| row.values(&plan.relation)).transpose()?;
    for (index, (target, column)) in plan.columns.iter().zip(&plan.relation.columns).enumerate() {
        let mut value = next(&mut values)?;
        let old = olds.as_mut().map(next).transpose()?;
        if target.key {
            if value == Value::Unchanged {
                value = old.unwrap_or(value);
            }
            target
                .put(out, column, value)
                .map_err(|refusal| refused(plan, item, row, index, value, refusal))?;
        }
    }
    Ok(())
}

fn next<'a>(values: &mut rsrepl_wire::Values<'a>) -> Result<Value<'a>> {
    // as many values as columns come, or an error
    values.next().unwrap_or(Ok(Value::Null)).map_err(Error::from)
}

fn end(mut values: rsrepl_wire::Values<'_>) -> Result<()> {
    values.next().map_or(Ok(()), |extra| extra.map(|_| ()).map_err(Error::from))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rsrepl_wire::{
        Column, Encoding, Frame, FrameWriter, Message, Relation, ReplicaIdentity, RowShape,
        TypeKind,
    };

    use super::super::convert::DateRange;
    use super::super::policy::Policies;
    use super::*;

    fn text(name: &str, key: bool) -> Column {
        Column {
            name: name.into(),
            key,
            not_null: true,
            generated: false,
            type_oid: 25,
            base_oid: 25,
            typmod: -1,
            kind: TypeKind::Base,
            element_oid: 0,
            element_kind: TypeKind::Base,
            type_schema: "pg_catalog".into(),
            type_name: "text".into(),
            encoding: Encoding::Varlena,
        }
    }

    #[test]
    fn a_toasted_key_that_does_not_change_is_the_old_one() {
        let relation = Arc::new(Relation {
            oid: 1,
            schema: "public".into(),
            name: "t".into(),
            replica_identity: ReplicaIdentity::Default,
            columns: vec![text("k", true), text("v", false)],
        });
        let plan =
            Plan::new("ch", &relation, "t".into(), &Policies::default(), DateRange::WIDE).unwrap();
        let mut writer = FrameWriter::new();
        writer.start(Lsn(1), 7);
        let shape = |nulls, unchanged| RowShape { columns: 2, nulls, unchanged };
        writer.update_with_old(
            Lsn(1),
            1,
            OldRowKind::Key,
            shape(true, false),
            |row| {
                row.variable(b"key");
                row.null();
            },
            shape(false, true),
            |row| {
                row.unchanged();
                row.variable(b"new");
            },
        );
        let frame = Frame::parse(bytes::Bytes::copy_from_slice(writer.finish())).unwrap();
        let operation = match frame.messages().next() {
            Some(Ok(Message::Update(m))) => Operation::Update { old: m.old, new: m.new },
            other => panic!("{other:?}"),
        };
        let mut items = vec![Item { lsn: Lsn(1), version: 1, ordinal: 0, operation }].into_iter();
        let limit = super::super::toast::LookupLimit::default();
        let lookup = super::super::toast::plan_lookup(&plan, items.as_slice(), &limit).unwrap();
        assert!(matches!(lookup, (1, None)), "nothing has to be read back: {lookup:?}");
        let chunk = encode(&plan, &mut None, &mut items, &mut 1).unwrap();
        assert_eq!(chunk.rows, 1, "the row, and no tombstone");
        assert_eq!(chunk.bytes, b"\x03key\x03new\x01\0\0\0\0\0\0\0\0");
    }
}
