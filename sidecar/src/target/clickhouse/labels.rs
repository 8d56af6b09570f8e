//! The labels of an `Enum8` or `Enum16` that the user has chosen, and their numbers.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// At least one label; no two have one number. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Labels(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    by_number: BTreeMap<i16, String>,
    by_name: HashMap<Box<[u8]>, i16>,
}

impl Labels {
    /// `None`: there is none, or a label or a number comes twice.
    pub(super) fn new(pairs: Vec<(String, i16)>) -> Option<Labels> {
        let count = pairs.len();
        let by_name: HashMap<Box<[u8]>, i16> =
            pairs.iter().map(|(name, number)| (name.as_bytes().into(), *number)).collect();
        let by_number: BTreeMap<i16, String> = pairs.into_iter().map(|(a, b)| (b, a)).collect();
        let unique = by_name.len() == count && by_number.len() == count && count > 0;
        unique.then(|| Labels(Arc::new(Inner { by_number, by_name })))
    }

    /// The lowest number: ClickHouse's default.
    pub(super) fn first(&self) -> i16 {
        self.0.by_number.keys().next().copied().unwrap_or_default()
    }

    #[inline]
    pub(super) fn number(&self, label: &[u8]) -> Option<i16> {
        self.0.by_name.get(label).copied()
    }

    /// All numbers are those of an `Enum8`.
    pub(super) fn fit_a_byte(&self) -> bool {
        self.0.by_number.keys().all(|number| i8::try_from(*number).is_ok())
    }
}

impl PartialEq for Labels {
    fn eq(&self, other: &Self) -> bool {
        self.0.by_number == other.0.by_number
    }
}

impl Eq for Labels {}

impl Hash for Labels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.by_number.hash(state);
    }
}

impl fmt::Display for Labels {
    /// `'a' = 1, 'b' = 2`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (number, label)) in self.0.by_number.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{} = {number}", super::ddl::literal(label))?;
        }
        Ok(())
    }
}
