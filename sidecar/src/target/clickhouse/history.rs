//! `mode = "history"`: each change of the source is a row of its own, and no row ever goes.
//!
//! A row has the columns of the source's table as the change left them, of a DELETE what the source says of the
//! row that went. What the stream does not hold (a TOAST value that an UPDATE did not touch, the columns of a
//! deleted row that are not part of its replica identity) is NULL, or an empty array, and its column is named
//! in `_rsrepl_absent`: it is not looked up, as the row before it has it. So every column is Nullable.
//!
//! What the initial copy brings is `copy` (and `delete`, where it was taken up again: of what changed meanwhile
//! the old row), of no transaction.
//!
//! A change that is sent again has the same version, and becomes the same row: the table is a
//! ReplacingMergeTree of versions, and `FINAL` shows each once (invariant 3).

use rsrepl_wire::{Lsn, OldRow, OldRowKind, ReplicaIdentity, Row, Value, Values};

use super::encode::{Item, end, next};
use super::native::Block;
use super::plan::{ColumnPlan, Layout, Plan};
use super::refuse::refused;
use super::sink::Sink;
use super::types::{ColumnType, Scalar, put_string};
use super::version::Version;
use crate::batch::Operation;
use crate::error::{Error, Kind, Result};

/// Our columns, behind the source's; then come those of old keys.
pub(super) const OWN: &[(&str, ColumnType)] = &[
    ("_rsrepl_version", Version::TYPE),
    ("_rsrepl_operation", ColumnType::Plain(Scalar::LowCardinality)),
    ("_rsrepl_lsn", ColumnType::Plain(Scalar::UInt64)),
    ("_rsrepl_xid", ColumnType::Plain(Scalar::UInt32)),
    ("_rsrepl_commit_time", ColumnType::Plain(Scalar::DateTime64(6))),
    ("_rsrepl_absent", ColumnType::Array(Scalar::String)),
];

/// What is copied is of no transaction.
const COPIED: u32 = 0;

/// What the column of an old key is called, before the name of the column itself.
const OLD_PREFIX: &str = "_rsrepl_old_";

/// Microseconds from 1970 to 2000, where PostgreSQL counts from.
const EPOCH: i64 = 946_684_800_000_000;

/// A column that tells rows apart: its place among the source's, and the name of the one for its old value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OldColumn {
    pub(super) index: usize,
    pub(super) name: String,
}

impl Plan {
    /// The same table, with its history.
    pub(super) fn into_history(mut self) -> Plan {
        for column in &mut self.columns {
            column.ty = nullable(&column.ty);
        }
        let keyed = self.columns.iter().any(|column| column.key);
        let whole = self.relation.replica_identity == ReplicaIdentity::Full;
        let tells_apart = |column: &ColumnPlan| column.key || !keyed && whole;
        let olds = self.columns.iter().enumerate().filter(|(_, column)| tells_apart(column));
        self.old_columns = olds
            .map(|(index, column)| OldColumn {
                index,
                name: format!("{OLD_PREFIX}{}", column.name),
            })
            .collect();
        self.layout = Layout::History;
        self
    }
}

/// The type that may have no value.
pub(super) fn nullable(ty: &ColumnType) -> ColumnType {
    match ty {
        ColumnType::Plain(scalar) => ColumnType::Nullable(scalar.clone()),
        ColumnType::Point(_) => ColumnType::Point(true),
        other => other.clone(),
    }
}

/// Writes the row of a change.
///
/// # Errors
/// [`Kind::Row`]: a value is refused; [`Kind::Frame`]: it cannot be read. The block is no good then.
pub(super) fn put(plan: &Plan, item: &Item, block: &mut Block) -> Result<()> {
    let change = match &item.operation {
        Operation::Insert { new } => {
            let name = if item.transaction.xid == COPIED { "copy" } else { "insert" };
            Change { name, new: Some(new), old: None }
        }
        Operation::Update { old, new } => {
            Change { name: "update", new: Some(new), old: old.as_ref() }
        }
        Operation::Delete { old } => Change { name: "delete", new: None, old: Some(old) },
        Operation::Truncate { .. } => Change { name: "truncate", new: None, old: None },
        Operation::Schema(_) => return Ok(()), // a step of its own, see `session`
    };
    if item.transaction.lsn == Lsn::INVALID {
        return Err(Error::new(Kind::Internal, "a change without its transaction").at(item.lsn));
    }
    let absent = change.columns(plan, item, block)?;
    own_columns(plan, item, change.name, &absent, block);
    change.old_columns(plan, item, block)?;
    block.rows += 1;
    Ok(())
}

/// What a row is made of.
struct Change<'a> {
    name: &'static str,
    new: Option<&'a Row>,
    old: Option<&'a OldRow>,
}

impl Change<'_> {
    /// Writes the source's columns; gives the places of those that the stream does not hold.
    fn columns(&self, plan: &Plan, item: &Item, block: &mut Block) -> Result<Vec<usize>> {
        let mut absent = Vec::new();
        let mut news = values(plan, self.new)?;
        let mut olds = values(plan, self.old.map(|old| &old.row))?;
        for (index, ((target, column), to)) in
            plan.columns.iter().zip(&plan.relation.columns).zip(&mut block.columns).enumerate()
        {
            let (new, old) = (next_of(&mut news)?, next_of(&mut olds)?);
            let old = old.filter(|_| self.old_has(target));
            let value = new.filter(|value| *value != Value::Unchanged).or(old);
            let Some(value) = value.filter(|value| *value != Value::Unchanged) else {
                target.ty.put_default(to);
                // a TRUNCATE has no row at all
                if self.new.is_some() || self.old.is_some() {
                    absent.push(index);
                }
                continue;
            };
            let row = self.new.or(self.old.map(|old| &old.row));
            target.put(to, column, value).map_err(|refusal| match row {
                Some(row) => refused(plan, item, row, index, value, refusal),
                None => Error::new(Kind::Internal, "a value without a row"),
            })?;
        }
        [news, olds].into_iter().flatten().try_for_each(end)?;
        Ok(absent)
    }

    /// Whether the old row, if there is one, says something of a column.
    fn old_has(&self, target: &ColumnPlan) -> bool {
        self.old.is_some_and(|old| match old.kind {
            OldRowKind::Full => true,
            OldRowKind::Key => target.key,
            OldRowKind::None => false,
        })
    }

    /// Writes the old values of what tells rows apart, when an UPDATE has changed any.
    fn old_columns(&self, plan: &Plan, item: &Item, block: &mut Block) -> Result<()> {
        let moved = match (self.new, self.old) {
            (Some(new), Some(old)) if self.moves(plan, new, old)? => Some(old),
            _ => None,
        };
        let mut olds = values(plan, moved.map(|old| &old.row))?;
        let places = plan.columns.len() + OWN.len();
        let mut sinks = block.columns.iter_mut().skip(places);
        let mut old_columns = plan.old_columns.iter().peekable();
        for (index, (target, column)) in plan.columns.iter().zip(&plan.relation.columns).enumerate()
        {
            let value = next_of(&mut olds)?;
            if old_columns.next_if(|old| old.index == index).is_none() {
                continue;
            }
            let Some(to) = sinks.next() else { break };
            match (value, moved) {
                (Some(value), Some(old)) => target
                    .put(to, column, value)
                    .map_err(|refusal| refused(plan, item, &old.row, index, value, refusal))?,
                _ => target.ty.put_default(to),
            }
        }
        Ok(())
    }

    fn moves(&self, plan: &Plan, new: &Row, old: &OldRow) -> Result<bool> {
        let news = new.values(&plan.relation)?;
        let olds = old.row.values(&plan.relation)?;
        let mut places = plan.old_columns.iter().peekable();
        for (index, (new, old)) in news.zip(olds).enumerate() {
            let (new, old) = (new?, old?);
            let tells_apart = places.next_if(|place| place.index == index).is_some();
            if tells_apart && new != Value::Unchanged && new != old {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn own_columns(plan: &Plan, item: &Item, operation: &str, absent: &[usize], block: &mut Block) {
    let mut own = block.columns.iter_mut().skip(plan.columns.len());
    let mut fixed = |bytes: &[u8]| {
        if let Some(to) = own.next() {
            to.value(false).extend_from_slice(bytes);
        }
    };
    let transaction = item.transaction;
    let mut name = Vec::with_capacity(operation.len() + 1);
    put_string(&mut name, operation.as_bytes());
    fixed(&item.version.to_bytes());
    fixed(&name);
    fixed(&item.lsn.0.to_le_bytes());
    fixed(&transaction.xid.to_le_bytes());
    fixed(&transaction.commit_time.saturating_add(EPOCH).to_le_bytes());
    if let Some(to) = own.next() {
        let names = absent.iter().filter_map(|index| plan.columns.get(*index));
        to.array(absent.len());
        names.for_each(|column| put_string(to.value(true), column.name.as_bytes()));
    }
}

fn values<'a>(plan: &'a Plan, row: Option<&'a Row>) -> Result<Option<Values<'a>>> {
    Ok(row.map(|row| row.values(&plan.relation)).transpose()?)
}

fn next_of<'a>(values: &mut Option<Values<'a>>) -> Result<Option<Value<'a>>> {
    values.as_mut().map(next).transpose()
}
