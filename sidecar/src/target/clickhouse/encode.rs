//! Changes of one table to rows of a block. Pure; CPU only.

use std::vec::IntoIter;

use bytes::Bytes;
use rsrepl_wire::{Lsn, OldRow, OldRowKind, Row, Value};

use super::convert::Refusal;
use super::history;
use super::native::Block;
use super::plan::{ColumnPlan, Layout, Plan};
use super::refuse::{refused, without_identity};
use super::sink::Sink;
use super::toast::{Fill, Known};
use super::version::Version;
use crate::batch::{Operation, Position};
use crate::error::{Error, Result};

/// Bytes of values, and rows, after which a block is sent; the next rows go into another block of the
/// INSERT.
const BLOCK_BYTES: usize = 4 << 20;
pub(super) const BLOCK_ROWS: usize = 40_000;
/// Rows between two looks at the size of a block. Their size is bounded by that of their frames, but for
/// values that were read back: with those, every row is looked at.
const LOOK_EVERY: usize = 64;

/// One change of a table; never a TRUNCATE.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// LSN of the change record.
    pub(super) lsn: Lsn,
    pub(super) version: Version,
    /// Of the transaction; not set where nobody asks for it.
    pub(super) transaction: Position,
    pub(super) operation: Operation,
}

/// Encodes the next `left` items, or as many of them as fill the block, and lowers `left`: to nothing
/// before a row that has to be looked up.
///
/// # Errors
/// [`crate::error::Kind::Row`]: a value is refused; [`crate::error::Kind::Frame`]: it cannot be read.
/// Nothing in the block is good then.
pub(super) fn encode(
    plan: &Plan,
    known: &mut Known,
    items: &mut IntoIter<Item>,
    left: &mut usize,
    block: &mut Block,
) -> Result<()> {
    let notes = known.recent.is_noting();
    if !notes {
        known.recent.not_noted();
    }
    let look_every = if notes { 1 } else { LOOK_EVERY };
    let mut encoder = Encoder {
        plan,
        known,
        notes,
        block,
        kept: Vec::new(),
        remembers: false,
        old_key: Vec::new(),
        new_key: Vec::new(),
    };
    while *left > 0 && !is_full(encoder.block) {
        for _ in 0..look_every.min(*left) {
            let Some(item) = items.as_slice().first() else { break };
            let written = match plan.layout {
                Layout::Keyed => encoder.keyed(item)?,
                Layout::Log => encoder.logged(item)?,
                Layout::History => {
                    history::put(plan, item, encoder.block)?;
                    Written::Done
                }
            };
            if written == Written::NotYet {
                *left = 0;
                return Ok(());
            }
            items.next();
            *left -= 1;
        }
    }
    Ok(())
}

/// Whether a change has been seen to.
#[derive(PartialEq, Eq)]
enum Written {
    Done,
    /// A row has to be looked up first; nothing of the change is in the block.
    NotYet,
}

/// Enough has gathered to be sent.
pub(super) fn is_full(block: &Block) -> bool {
    block.rows >= BLOCK_ROWS || block.bytes() >= BLOCK_BYTES
}

/// What becomes of a new row.
#[derive(PartialEq, Eq)]
enum Outlook {
    Needed,
    /// A later change that is already in the table has ended it.
    Dominated,
    /// It has to be looked up first.
    Unknown,
}

struct Encoder<'a> {
    plan: &'a Plan,
    known: &'a mut Known,
    /// What is written is to be noted in `known`.
    notes: bool,
    block: &'a mut Block,
    /// The values of the row at hand, when they are to be remembered.
    kept: Vec<Bytes>,
    remembers: bool,
    old_key: Vec<u8>,
    new_key: Vec<u8>,
}

impl Encoder<'_> {
    fn keyed(&mut self, item: &Item) -> Result<Written> {
        match &item.operation {
            Operation::Insert { new } => self.upsert(item, None, new),
            Operation::Update { old, new } => self.upsert(item, old.as_ref(), new),
            Operation::Delete { old } => {
                self.tombstone(item, &old.row)?;
                if self.notes {
                    self.old_key.clear();
                    put_key(self.plan, item, &old.row, None, &mut self.old_key)?;
                    self.known.recent.note(&self.old_key, None);
                }
                Ok(Written::Done)
            }
            // steps of their own, see `session`
            Operation::Truncate { .. } | Operation::Schema(_) => Ok(Written::Done),
        }
    }

    /// A new version of a row, and the end of the one under its old key.
    fn upsert(&mut self, item: &Item, old: Option<&OldRow>, new: &Row) -> Result<Written> {
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
        if old.is_none() && self.notes {
            self.new_key.clear();
            put_key(plan, item, new, None, &mut self.new_key)?;
        }
        let outlook = self.outlook(item, new, old, moved)?;
        if outlook == Outlook::Unknown {
            return Ok(Written::NotYet);
        }
        // before the new row: of two rows that ClickHouse takes for the same key (-0.0 and 0.0) the
        // last one of a version wins
        if moved && let Some(old) = old {
            self.tombstone(item, &old.row)?;
        }
        if outlook == Outlook::Needed {
            self.columns(item, new, old, moved)?;
            self.version(item.version, 0);
            if self.notes {
                let values = self.remembers.then(|| std::mem::take(&mut self.kept));
                self.known.recent.note(&self.new_key, values);
            }
        }
        if moved && self.notes {
            self.known.recent.note(&self.old_key, None);
        }
        Ok(Written::Done)
    }

    /// Whether the values that the stream leaves out are known.
    fn outlook(
        &self,
        item: &Item,
        new: &Row,
        old: Option<&OldRow>,
        moved: bool,
    ) -> Result<Outlook> {
        let plan = self.plan;
        let update = matches!(item.operation, Operation::Update { .. });
        if !self.notes || !update || !new.may_have_unchanged() {
            return Ok(Outlook::Needed);
        }
        let old_key = moved.then_some(self.old_key.as_slice());
        let mut outlook = Outlook::Needed;
        for (index, (target, value)) in
            plan.columns.iter().zip(new.values(&plan.relation)?).enumerate()
        {
            if value? == Value::Unchanged && !comes_with(old, target) {
                match self.known.find(old_key, &self.new_key, index, item) {
                    Fill::Unknown => return Ok(Outlook::Unknown),
                    Fill::Dominated => outlook = Outlook::Dominated,
                    Fill::Value(_) | Fill::Missing => {}
                }
            }
        }
        Ok(outlook)
    }

    /// The columns of a new row.
    fn columns(&mut self, item: &Item, new: &Row, old: Option<&OldRow>, moved: bool) -> Result<()> {
        let plan = self.plan;
        let known = &*self.known;
        let old_key = moved.then_some(self.old_key.as_slice());
        self.remembers = self.notes && known.remembers(&self.new_key);
        self.kept.clear();
        let mut olds = old.map(|old| old.row.values(&plan.relation)).transpose()?;
        let mut news = new.values(&plan.relation)?;
        for (index, ((target, column), to)) in
            plan.columns.iter().zip(&plan.relation.columns).zip(&mut self.block.columns).enumerate()
        {
            let mut value = next(&mut news)?;
            let before = olds.as_mut().map(next).transpose()?;
            if value == Value::Unchanged && comes_with(old, target) {
                value = before.unwrap_or(value);
            }
            let refuse = |refusal| refused(plan, item, new, index, value, refusal);
            let keeps = self.remembers && known.recent.columns().contains(&index);
            if self.notes && value == Value::Unchanged {
                let Fill::Value(bytes) = known.find(old_key, &self.new_key, index, item) else {
                    return Err(refuse(Refusal::Absent));
                };
                target.ty.put_row_binary(to, bytes).ok_or_else(|| refuse(Refusal::Absent))?;
                if keeps {
                    self.kept.push(bytes.clone());
                }
                continue;
            }
            target.put(to, column, value).map_err(refuse)?;
            if keeps {
                let mut kept = Vec::new();
                target.put(&mut kept, column, value).map_err(refuse)?;
                self.kept.push(kept.into());
            }
        }
        end(news)
    }

    /// The end of the row under the key in `old`.
    fn tombstone(&mut self, item: &Item, old: &Row) -> Result<()> {
        let plan = self.plan;
        let mut values = old.values(&plan.relation)?;
        for (index, ((target, column), to)) in
            plan.columns.iter().zip(&plan.relation.columns).zip(&mut self.block.columns).enumerate()
        {
            let value = next(&mut values)?;
            if target.key {
                target
                    .put(to, column, value)
                    .map_err(|refusal| refused(plan, item, old, index, value, refusal))?;
            } else {
                target.ty.put_default(to);
            }
        }
        end(values)?;
        self.version(item.version, 1);
        Ok(())
    }

    /// Our columns of a keyed table.
    fn version(&mut self, version: Version, deleted: u8) {
        self.own([&version.to_bytes(), &[deleted]]);
    }

    /// The columns behind the source's, which end the row.
    fn own<const N: usize>(&mut self, values: [&[u8]; N]) {
        let own = self.block.columns.iter_mut().skip(self.plan.columns.len());
        for (to, value) in own.zip(values) {
            to.value(false).extend_from_slice(value);
        }
        self.block.rows += 1;
    }

    /// A table without a key: what went, and what came.
    fn logged(&mut self, item: &Item) -> Result<Written> {
        match &item.operation {
            Operation::Insert { new } => self.entry(item, new, None, 1)?,
            Operation::Update { old: Some(old), new } if old.kind == OldRowKind::Full => {
                self.entry(item, &old.row, None, -1)?;
                self.entry(item, new, Some(old), 1)?;
            }
            Operation::Delete { old } if old.kind == OldRowKind::Full => {
                self.entry(item, &old.row, None, -1)?;
            }
            Operation::Update { .. } | Operation::Delete { .. } => {
                return Err(without_identity(self.plan, item));
            }
            Operation::Truncate { .. } | Operation::Schema(_) => {}
        }
        Ok(Written::Done)
    }

    fn entry(&mut self, item: &Item, row: &Row, whole: Option<&OldRow>, sign: i8) -> Result<()> {
        self.columns(item, row, whole, false)?;
        self.own([&item.version.to_bytes(), &sign.to_le_bytes()]);
        Ok(())
    }
}

/// Whether an unchanged value of the column is in the old row: an old key has its key columns only.
fn comes_with(old: Option<&OldRow>, target: &ColumnPlan) -> bool {
    target.key || old.is_some_and(|old| old.kind == OldRowKind::Full)
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

pub(super) fn next<'a>(values: &mut rsrepl_wire::Values<'a>) -> Result<Value<'a>> {
    // as many values as columns come, or an error
    values.next().unwrap_or(Ok(Value::Null)).map_err(Error::from)
}

pub(super) fn end(mut values: rsrepl_wire::Values<'_>) -> Result<()> {
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
    use super::super::lookup_limit::LookupLimit;
    use super::super::policy::Policies;
    use super::super::toast::plan_lookup;
    use super::*;

    fn text(number: u16, name: &str, key: bool) -> Column {
        Column {
            name: name.into(),
            number,
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
            columns: vec![text(1, "k", true), text(2, "v", false)],
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
        let mut items = vec![Item {
            lsn: Lsn(1),
            version: Version(1),
            transaction: Position::default(),
            operation,
        }]
        .into_iter();
        let limit = LookupLimit::default();
        let mut known = Known::default();
        let lookup = plan_lookup(&plan, items.as_slice(), &limit, &mut known.recent).unwrap();
        assert!(matches!(lookup, (1, None)), "nothing has to be read back: {lookup:?}");
        let mut block = Block::new(plan.written_columns());
        encode(&plan, &mut known, &mut items, &mut 1, &mut block).unwrap();
        assert_eq!(block.rows, 1, "the row, and no tombstone");
        let sent = block.into_pieces().concat();
        for value in [b"\x01k\x06String\x03key", b"\x01v\x06String\x03new"] {
            assert!(sent.windows(value.len()).any(|part| part == value), "{sent:?}");
        }
    }
}
