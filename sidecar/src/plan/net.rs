//! The net effect of the changes of one table on each key.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use rsrepl_wire::{DecodeError, OldRow, Relation, Row};

use super::Image;
use super::key::{Key, KeyColumns};
use crate::batch::{Change, Operation};

/// What the changes of one table come to.
#[derive(Debug)]
pub enum Effect<'c> {
    /// Three sets, applied in the order of the fields.
    Sets(Net<'c>),
    /// The changes must be applied one by one, as they came.
    InOrder,
}

/// The net effect on each key. No key is in more than one of `deletes` and `updates`.
#[derive(Debug, Default)]
pub struct Net<'c> {
    /// Rows whose key columns name a row as it was before the batch.
    pub deletes: Vec<&'c Row>,
    pub updates: Vec<NetUpdate<'c>>,
    pub inserts: Vec<Image<'c>>,
}

impl Net<'_> {
    /// Rows of the three sets.
    pub fn rows(&self) -> usize {
        self.deletes.len() + self.updates.len() + self.inserts.len()
    }
}

/// One row that was there before the batch, and still is.
#[derive(Debug)]
pub struct NetUpdate<'c> {
    /// Its key columns name the row as it was before the batch; other columns say nothing.
    pub locator: &'c Row,
    /// The key columns of `image` differ from those of `locator`.
    pub key_changed: bool,
    /// What becomes of it. Unchanged columns keep the value that the target has.
    pub image: Image<'c>,
}

/// A row that the batch has touched.
struct Slot<'c> {
    /// Its key before the batch and a row that has it; `None` when the batch inserted the row.
    original: Option<(Key<'c>, &'c Row)>,
    key: Key<'c>,
    /// `None` once it is deleted.
    image: Option<Image<'c>>,
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
pub fn net<'c>(relation: &'c Relation, changes: &'c [Change]) -> Result<Effect<'c>, DecodeError> {
    if changes.iter().all(|change| matches!(change.operation, Operation::Insert { .. })) {
        let inserts = changes.iter().filter_map(|change| match &change.operation {
            Operation::Insert { new } => Some(Image::Row(new)),
            _ => None,
        });
        return Ok(Effect::Sets(Net { inserts: inserts.collect(), ..Net::default() }));
    }
    let Some(keys) = KeyColumns::of(relation) else { return Ok(Effect::InOrder) };
    let mut reduction = Reduction {
        relation,
        keys: &keys,
        slots: Vec::with_capacity(changes.len()),
        holders: HashMap::with_capacity(changes.len()),
    };
    for change in changes {
        let step = match &change.operation {
            Operation::Insert { new } => reduction.insert(new)?,
            Operation::Update { old, new } => reduction.update(old.as_ref(), new)?,
            Operation::Delete { old } => reduction.delete(old)?,
            Operation::Truncate { .. } | Operation::Schema(_) => Err(Irregular),
        };
        if let Err(Irregular) = step {
            return Ok(Effect::InOrder);
        }
    }
    Ok(reduction.finish().map_or(Effect::InOrder, Effect::Sets))
}

type Step = Result<Result<(), Irregular>, DecodeError>;

struct Reduction<'c, 'k> {
    relation: &'c Relation,
    keys: &'k KeyColumns,
    slots: Vec<Slot<'c>>,
    holders: HashMap<Key<'c>, Holder>,
}

impl<'c> Reduction<'c, '_> {
    fn insert(&mut self, new: &'c Row) -> Step {
        let Some(key) = self.keys.read(self.relation, new, None)? else {
            return Ok(Err(Irregular));
        };
        let slot = Slot { original: None, key: key.clone(), image: Some(Image::Row(new)) };
        match self.holders.insert(key, Holder::Slot(self.slots.len())) {
            Some(Holder::Slot(_)) => Ok(Err(Irregular)),
            Some(Holder::Vacant) | None => {
                self.slots.push(slot);
                Ok(Ok(()))
            }
        }
    }

    /// The slot that has `key` now; one that the batch has not touched yet is taken up with `row` as
    /// what names it.
    fn find(&mut self, key: Key<'c>, row: &'c Row) -> Option<usize> {
        match self.holders.entry(key) {
            Entry::Occupied(entry) => match entry.get() {
                Holder::Slot(at) => Some(*at),
                Holder::Vacant => None,
            },
            Entry::Vacant(entry) => {
                let (key, at) = (entry.key().clone(), self.slots.len());
                entry.insert(Holder::Slot(at));
                self.slots.push(Slot { original: Some((key.clone(), row)), key, image: None });
                Some(at)
            }
        }
    }

    fn update(&mut self, old: Option<&'c OldRow>, new: &'c Row) -> Step {
        let old_row = old.map(|old| &old.row);
        let Some(key) = self.keys.read(self.relation, new, old_row)? else {
            return Ok(Err(Irregular));
        };
        let old_key = match old_row {
            Some(row) => match self.keys.read(self.relation, row, None)? {
                Some(key) => key,
                None => return Ok(Err(Irregular)),
            },
            None => key.clone(),
        };
        let moved = old_key != key;
        if moved && matches!(self.holders.get(&key), Some(Holder::Slot(_))) {
            return Ok(Err(Irregular));
        }
        let Some(at) = self.find(old_key.clone(), old_row.unwrap_or(new)) else {
            return Ok(Err(Irregular));
        };
        if moved {
            self.holders.insert(old_key, Holder::Vacant);
            self.holders.insert(key.clone(), Holder::Slot(at));
        }
        if let Some(slot) = self.slots.get_mut(at) {
            slot.key = key;
            slot.image = Some(match slot.image.take() {
                Some(older) if new.may_have_unchanged() => older.updated(self.relation, new)?,
                _ => Image::Row(new),
            });
        }
        Ok(Ok(()))
    }

    fn delete(&mut self, old: &'c OldRow) -> Step {
        let Some(key) = self.keys.read(self.relation, &old.row, None)? else {
            return Ok(Err(Irregular));
        };
        let Some(at) = self.find(key.clone(), &old.row) else { return Ok(Err(Irregular)) };
        if let Some(slot) = self.slots.get_mut(at) {
            slot.image = None;
        }
        self.holders.insert(key, Holder::Vacant);
        Ok(Ok(()))
    }

    /// `None` when a row moves to the key that another updated row had before the batch: which of the
    /// two is meant would depend on the order of the statements.
    fn finish(self) -> Option<Net<'c>> {
        if self.moves_onto_another() {
            return None;
        }
        let mut net = Net::default();
        for slot in self.slots {
            match (slot.original, slot.image) {
                (Some((original, locator)), Some(image)) => {
                    let key_changed = original != slot.key;
                    net.updates.push(NetUpdate { locator, key_changed, image });
                }
                (Some((_, locator)), None) => net.deletes.push(locator),
                (None, Some(image)) => net.inserts.push(image),
                (None, None) => {}
            }
        }
        Some(net)
    }

    fn moves_onto_another(&self) -> bool {
        let updated = self.slots.iter().filter(|slot| slot.image.is_some());
        let updated = updated.filter_map(|slot| Some((&slot.original.as_ref()?.0, &slot.key)));
        let moved: HashSet<&Key<'_>> =
            updated.clone().filter(|(original, key)| original != key).map(|(_, key)| key).collect();
        !moved.is_empty() && updated.clone().any(|(original, _)| moved.contains(original))
    }
}
