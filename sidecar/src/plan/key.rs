//! The key of a row: the bytes of its key columns. The source tells rows apart by them as well: an old key
//! is the stored one, byte for byte.

use std::hash::{Hash, Hasher};
use std::rc::Rc;

use rsrepl_wire::{DecodeError, Relation, Row, Value};

/// The bytes of a row's key columns.
#[derive(Clone, Debug)]
pub enum Key<'c> {
    /// One column: a part of the row.
    Column(&'c [u8]),
    /// Several, joined so that different ones never join to the same bytes.
    Joined(Rc<[u8]>),
}

impl Key<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Key::Column(bytes) => bytes,
            Key::Joined(bytes) => bytes,
        }
    }
}

impl PartialEq for Key<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Key<'_> {}

impl Hash for Key<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes().hash(state);
    }
}

/// Indexes of a relation's key columns, at least one.
pub struct KeyColumns(Vec<usize>);

impl KeyColumns {
    /// `None` when nothing identifies a row.
    pub fn of(relation: &Relation) -> Option<KeyColumns> {
        let columns = relation.columns.iter().enumerate();
        let keys: Vec<usize> =
            columns.filter_map(|(index, column)| column.key.then_some(index)).collect();
        (!keys.is_empty()).then_some(KeyColumns(keys))
    }

    /// The key of `row`; where it is unchanged TOAST, of `older`. What comes after the key is not read.
    /// `None` when a part of it is not there.
    pub fn read<'c>(
        &self,
        relation: &'c Relation,
        row: &'c Row,
        older: Option<&'c Row>,
    ) -> Result<Option<Key<'c>>, DecodeError> {
        let mut values = row.values(relation)?;
        let mut joined = Vec::new();
        let mut next = 0;
        for &index in &self.0 {
            let value = values.nth(index - next).transpose()?;
            next = index + 1;
            let data = match (value, older) {
                (Some(Value::Data(data)), _) => data,
                (Some(Value::Unchanged), Some(older)) => {
                    match older.values(relation)?.nth(index).transpose()? {
                        Some(Value::Data(data)) => data,
                        _ => return Ok(None),
                    }
                }
                _ => return Ok(None),
            };
            if let [_] = self.0[..] {
                return Ok(Some(Key::Column(data)));
            }
            joined.extend_from_slice(&(data.len() as u64).to_le_bytes());
            joined.extend_from_slice(data);
        }
        Ok(Some(Key::Joined(joined.into())))
    }
}
