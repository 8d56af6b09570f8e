//! The net effect of the changes of one table on each key.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use rsrepl_wire::{DecodeError, OldRow, Relation, Row, Value};

use super::Image;
use crate::batch::{Change, Operation};

/// What the changes of one table come to.
#[derive(Debug)]
pub enum Effect {
    /// Three sets, applied in the order of the fields.
    Sets(Net),
    /// The changes must be applied one by one, as they came.
    InOrder,
}

/// The net effect on each key. No key is in more than one of `deletes` and `updates`.
#[derive(Debug, Default)]
pub struct Net {
    /// Rows whose key columns name a row as it was before the batch.
    pub deletes: Vec<Row>,
    pub updates: Vec<NetUpdate>,
    pub inserts: Vec<Image>,
}

/// One row that was there before the batch, and still is.
#[derive(Debug)]
pub struct NetUpdate {
    /// Its key columns name the row as it was before the batch; other columns say nothing.
    pub locator: Row,
    /// The key columns of `image` differ from those of `locator`.
    pub key_changed: bool,
    /// What becomes of it. Unchanged columns keep the value that the target has.
    pub image: Image,
}

/// The bytes of a row's key columns, joined.
type Key = Bytes;

/// A row that the batch has touched.
struct Slot {
    /// Its key before the batch and a row that has it; `None` when the batch inserted the row.
    original: Option<(Key, Row)>,
    key: Key,
    /// `None` once it is deleted.
    image: Option<Image>,
}

/// What the batch knows of a key at this point of the stream.
#[derive(Clone, Copy)]
enum Holder {
    Slot(usize),
    /// No row has this key now.
    Vacant,
}

/// A change that no source can have made to the rows as the batch left them, or a key that cannot be
/// read: not for sets. Applied in order, it shows as the error it is.
struct Irregular;

/// Reduces the changes of one table. Inserts alone are one set, whether there is a key or not.
pub fn net(relation: &Relation, changes: &[Change]) -> Result<Effect, DecodeError> {
    if changes.iter().all(|change| matches!(change.operation, Operation::Insert { .. })) {
        let inserts = changes.iter().filter_map(|change| match &change.operation {
            Operation::Insert { new } => Some(Image::Row(new.clone())),
            _ => None,
        });
        return Ok(Effect::Sets(Net { inserts: inserts.collect(), ..Net::default() }));
    }
    if !relation.columns.iter().any(|column| column.key) {
        return Ok(Effect::InOrder);
    }
    let mut reduction = Reduction::new(relation, changes.len());
    for change in changes {
        let step = match &change.operation {
            Operation::Insert { new } => reduction.insert(new)?,
            Operation::Update { old, new } => reduction.update(old.as_ref(), new)?,
            Operation::Delete { old } => reduction.delete(old)?,
            Operation::Truncate { .. } => Err(Irregular),
        };
        if let Err(Irregular) = step {
            return Ok(Effect::InOrder);
        }
    }
    Ok(reduction.finish().map_or(Effect::InOrder, Effect::Sets))
}

type Step = Result<Result<(), Irregular>, DecodeError>;

struct Reduction<'a> {
    relation: &'a Relation,
    slots: Vec<Slot>,
    holders: HashMap<Key, Holder>,
}

impl<'a> Reduction<'a> {
    fn new(relation: &'a Relation, changes: usize) -> Self {
        Reduction { relation, slots: Vec::new(), holders: HashMap::with_capacity(changes) }
    }

    /// The key of `row`; where it is unchanged TOAST, of `older`. The flag: some column is unchanged.
    fn key(&self, row: &Row, older: Option<&Row>) -> Result<(Option<Key>, bool), DecodeError> {
        let mut older = older.map(|row| row.values(self.relation)).transpose()?;
        let mut key = KeyBuilder::default();
        let mut unchanged = false;
        for (column, value) in self.relation.columns.iter().zip(row.values(self.relation)?) {
            let value = value?;
            let old_value = older.as_mut().and_then(Iterator::next).transpose()?;
            unchanged |= value == Value::Unchanged;
            if column.key {
                match (value, old_value) {
                    (Value::Data(data), _) | (Value::Unchanged, Some(Value::Data(data))) => {
                        key.push(data);
                    }
                    _ => return Ok((None, unchanged)),
                }
            }
        }
        Ok((Some(key.finish()), unchanged))
    }

    fn insert(&mut self, new: &Row) -> Step {
        let (Some(key), _) = self.key(new, None)? else { return Ok(Err(Irregular)) };
        if let Some(Holder::Slot(_)) = self.holders.get(&key) {
            return Ok(Err(Irregular));
        }
        self.holders.insert(key.clone(), Holder::Slot(self.slots.len()));
        self.slots.push(Slot { original: None, key, image: Some(Image::Row(new.clone())) });
        Ok(Ok(()))
    }

    /// The slot that has `key` now; one that the batch has not touched yet is taken up with `row` as
    /// what names it.
    fn find(&mut self, key: &Key, row: &Row) -> Option<usize> {
        match self.holders.get(key) {
            Some(Holder::Slot(at)) => Some(*at),
            Some(Holder::Vacant) => None,
            None => {
                self.slots.push(Slot {
                    original: Some((key.clone(), row.clone())),
                    key: key.clone(),
                    image: None,
                });
                Some(self.slots.len() - 1)
            }
        }
    }

    fn update(&mut self, old: Option<&OldRow>, new: &Row) -> Step {
        let old_row = old.map(|old| &old.row);
        let (Some(key), unchanged) = self.key(new, old_row)? else { return Ok(Err(Irregular)) };
        let old_key = match old_row {
            Some(row) => match self.key(row, None)? {
                (Some(key), _) => key,
                (None, _) => return Ok(Err(Irregular)),
            },
            None => key.clone(),
        };
        if old_key != key && matches!(self.holders.get(&key), Some(Holder::Slot(_))) {
            return Ok(Err(Irregular));
        }
        let Some(at) = self.find(&old_key, old_row.unwrap_or(new)) else {
            return Ok(Err(Irregular));
        };
        self.holders.insert(old_key, Holder::Vacant);
        self.holders.insert(key.clone(), Holder::Slot(at));
        if let Some(slot) = self.slots.get_mut(at) {
            slot.key = key;
            slot.image = Some(match slot.image.take() {
                Some(older) if unchanged => older.updated(self.relation, new)?,
                _ => Image::Row(new.clone()),
            });
        }
        Ok(Ok(()))
    }

    fn delete(&mut self, old: &OldRow) -> Step {
        let (Some(key), _) = self.key(&old.row, None)? else { return Ok(Err(Irregular)) };
        let Some(at) = self.find(&key, &old.row) else { return Ok(Err(Irregular)) };
        if let Some(slot) = self.slots.get_mut(at) {
            slot.image = None;
        }
        self.holders.insert(key, Holder::Vacant);
        Ok(Ok(()))
    }

    /// `None` when a row moves to the key that another updated row had before the batch: which of the
    /// two is meant would depend on the order of the statements.
    fn finish(self) -> Option<Net> {
        let mut net = Net::default();
        let mut updated = HashSet::new();
        let mut moved = Vec::new();
        for slot in self.slots {
            match (slot.original, slot.image) {
                (Some((original, locator)), Some(image)) => {
                    let key_changed = original != slot.key;
                    if key_changed {
                        moved.push(slot.key);
                    }
                    updated.insert(original);
                    net.updates.push(NetUpdate { locator, key_changed, image });
                }
                (Some((_, locator)), None) => net.deletes.push(locator),
                (None, Some(image)) => net.inserts.push(image),
                (None, None) => {}
            }
        }
        moved.iter().all(|key| !updated.contains(key)).then_some(net)
    }
}

/// Joins key columns so that different columns never join to the same bytes.
#[derive(Default)]
struct KeyBuilder {
    first: Option<Vec<u8>>,
    joined: Vec<u8>,
}

impl KeyBuilder {
    fn push(&mut self, data: &[u8]) {
        match self.first.take() {
            None if self.joined.is_empty() => self.first = Some(data.to_vec()),
            first => {
                for part in first.as_deref().into_iter().chain([data]) {
                    self.joined.extend_from_slice(&(part.len() as u64).to_le_bytes());
                    self.joined.extend_from_slice(part);
                }
            }
        }
    }

    fn finish(self) -> Key {
        Bytes::from(self.first.unwrap_or(self.joined))
    }
}
