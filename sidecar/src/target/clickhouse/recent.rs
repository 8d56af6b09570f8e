//! What is known of a table's rows that are on their way into it.
//!
//! An UPDATE that leaves values out (see `toast`) may be of a row that the table does not show yet. It
//! need not be stored first when its values are remembered here, nor does any other row when it is known
//! that this one is not among them: so a row that is updated again and again does not make a part for
//! each batch. One group is filled while the one before is being stored, hence two generations.

use std::collections::HashMap;

use bytes::Bytes;

/// Bytes of values that are remembered of one generation of a table; twice as many with those that were
/// asked for. A batch may add what it holds itself.
const VALUE_BYTES_MAX: usize = 4 << 20;
/// Rows that are known of one generation of a table.
const ROWS_MAX: usize = 50_000;
/// Groups without an UPDATE that leaves values out, after which nothing is remembered any more.
const QUIET_MAX: u32 = 16;

/// The columns of a key in `RowBinary`.
pub(super) type Key = Box<[u8]>;

/// Of [`Recent::columns`], in their order, in `RowBinary`; `None`: not remembered, or deleted.
type Values = Option<Vec<Bytes>>;

/// See the module's documentation. Nothing is remembered before there are `columns`.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// Indexes of the columns that updates have left out, in order.
    columns: Vec<usize>,
    filling: Generation,
    storing: Generation,
    /// Groups since an update left values out.
    quiet: u32,
}

/// The rows of a group.
#[derive(Debug, Default)]
struct Generation {
    /// As the last change has left them.
    rows: HashMap<Key, Values>,
    /// Of the values.
    bytes: usize,
    /// There are rows that are not in `rows`.
    unknown: bool,
}

/// What has to be in the table before rows of it can be looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Needs {
    Nothing,
    /// The group before.
    Before,
    Everything,
}

impl Recent {
    pub(super) fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// Whether the rows that are written now are to be noted.
    pub(super) fn is_noting(&self) -> bool {
        !self.columns.is_empty() && !self.filling.unknown
    }

    /// A row was written and not noted.
    pub(super) fn not_noted(&mut self) {
        self.filling = Generation { unknown: true, ..Generation::default() };
    }

    /// An update has left this column out.
    pub(super) fn left_out(&mut self, column: usize) {
        self.quiet = 0;
        if let Err(place) = self.columns.binary_search(&column) {
            self.columns.insert(place, column);
            self.filling.forget_values();
            self.storing.forget_values();
        }
    }

    /// The values of a row as the changes so far have left it; `None`: not on its way into the table, as
    /// far as is known.
    pub(super) fn find(&self, key: &[u8]) -> Option<Option<&[Bytes]>> {
        let values = self.filling.rows.get(key).or_else(|| self.storing.rows.get(key));
        values.map(Option::as_deref)
    }

    pub(super) fn remembers(&self, key: &[u8]) -> bool {
        !self.filling.unknown && matches!(self.find(key), Some(Some(_)))
    }

    /// Whether there is room for the values of one more row.
    pub(super) fn has_room(&self) -> bool {
        self.filling.bytes < VALUE_BYTES_MAX
    }

    /// The same for one that was asked for: it may be asked for again.
    pub(super) fn has_room_for_asked(&self) -> bool {
        self.filling.bytes < 2 * VALUE_BYTES_MAX
    }

    /// Takes note of a row that is written, or of its end.
    pub(super) fn note(&mut self, key: &[u8], values: Values) {
        let Generation { rows, bytes, .. } = &mut self.filling;
        *bytes += size(&values);
        match rows.get_mut(key) {
            Some(before) => {
                *bytes -= size(before);
                *before = values;
            }
            None => drop(rows.insert(key.into(), values)),
        }
    }

    /// Keeps to the limits, at the end of a batch.
    pub(super) fn settle(&mut self) {
        if self.filling.rows.len() > ROWS_MAX {
            self.not_noted();
        } else if self.filling.bytes > 2 * VALUE_BYTES_MAX {
            self.filling.forget_values();
        }
    }

    pub(super) fn needs<'a>(&self, keys: impl Iterator<Item = &'a Key>) -> Needs {
        let needs = |key: &Key| {
            if self.filling.may_have(key) {
                Needs::Everything
            } else if self.storing.may_have(key) {
                Needs::Before
            } else {
                Needs::Nothing
            }
        };
        keys.map(needs).max().unwrap_or(Needs::Nothing)
    }

    /// The group is full; the next one begins, and the one before has been stored.
    pub(super) fn next_group(&mut self) {
        self.storing = std::mem::take(&mut self.filling);
        self.quiet = self.quiet.saturating_add(1);
        if self.quiet > QUIET_MAX && !self.columns.is_empty() {
            self.columns.clear();
            self.storing = Generation { unknown: true, ..Generation::default() };
        }
    }

    pub(super) fn before_is_stored(&mut self) {
        self.storing = Generation::default();
    }

    pub(super) fn everything_is_stored(&mut self) {
        self.filling = Generation::default();
        self.before_is_stored();
    }
}

impl Generation {
    fn may_have(&self, key: &Key) -> bool {
        self.unknown || self.rows.contains_key(key)
    }

    fn forget_values(&mut self) {
        self.rows.values_mut().for_each(|values| *values = None);
        self.bytes = 0;
    }
}

fn size(values: &Values) -> usize {
    values.iter().flatten().map(|value| size_of::<Bytes>() + value.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> Key {
        [n].into()
    }

    fn values(len: usize) -> Values {
        Some(vec![vec![0; len].into()])
    }

    fn needs(recent: &Recent, n: u8) -> Needs {
        recent.needs([key(n)].iter())
    }

    #[test]
    fn a_row_is_on_its_way_until_its_group_is_stored() {
        let mut recent = Recent::default();
        assert!(!recent.is_noting());
        recent.not_noted();
        assert_eq!(needs(&recent, 1), Needs::Everything);
        recent.left_out(3);
        recent.everything_is_stored();
        assert!(recent.is_noting());
        recent.note(&key(1), values(1));
        recent.note(&key(2), None);
        assert_eq!([1, 2, 3].map(|n| needs(&recent, n)), {
            [Needs::Everything, Needs::Everything, Needs::Nothing]
        });
        assert_eq!([1, 2, 3].map(|n| recent.remembers(&key(n))), [true, false, false]);
        recent.next_group();
        assert_eq!(needs(&recent, 1), Needs::Before);
        assert!(recent.remembers(&key(1)));
        recent.note(&key(1), None);
        assert!(!recent.remembers(&key(1)), "the later one counts");
        recent.next_group();
        assert_eq!([1, 2].map(|n| needs(&recent, n)), [Needs::Before, Needs::Nothing]);
    }

    #[test]
    fn memory_is_bounded() {
        let mut recent = Recent::default();
        recent.left_out(0);
        recent.note(&key(1), values(VALUE_BYTES_MAX));
        assert!(!recent.has_room());
        recent.note(&key(1), values(1));
        assert!(recent.has_room());
        recent.note(&key(1), values(2 * VALUE_BYTES_MAX));
        recent.settle();
        assert!(recent.has_room() && !recent.remembers(&key(1)));
        assert_eq!([1, 2].map(|n| needs(&recent, n)), [Needs::Everything, Needs::Nothing]);
        for n in 0..=ROWS_MAX {
            recent.note(&n.to_le_bytes(), None);
        }
        recent.settle();
        assert!(recent.filling.rows.is_empty());
        assert_eq!(needs(&recent, 2), Needs::Everything);
    }

    #[test]
    fn a_column_that_was_never_left_out_is_not_remembered() {
        let mut recent = Recent::default();
        recent.left_out(5);
        recent.note(&key(1), values(1));
        recent.left_out(5);
        assert!(recent.remembers(&key(1)));
        recent.left_out(2);
        assert!(!recent.remembers(&key(1)));
        assert_eq!(recent.columns(), [2, 5]);
        for _ in 0..=QUIET_MAX {
            recent.next_group();
        }
        assert!(recent.columns().is_empty());
        assert_eq!(needs(&recent, 1), Needs::Before);
    }
}
