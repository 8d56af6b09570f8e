//! What is known of each table that rows are written to, by its oid on the source and by its name on the
//! server: pure.
//!
//! A table has a place, which is the same until it or another one is forgotten.

use std::collections::HashMap;

pub(super) struct Tables<T> {
    known: Vec<T>,
    by_oid: HashMap<u32, usize>,
    by_name: HashMap<String, usize>,
}

impl<T> Default for Tables<T> {
    fn default() -> Self {
        Tables { known: Vec::new(), by_oid: HashMap::new(), by_name: HashMap::new() }
    }
}

impl<T> Tables<T> {
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    pub(super) fn at(&self, place: usize) -> Option<&T> {
        self.known.get(place)
    }

    pub(super) fn of(&mut self, oid: u32) -> Option<(usize, &mut T)> {
        let place = *self.by_oid.get(&oid)?;
        Some((place, self.known.get_mut(place)?))
    }

    pub(super) fn named(&self, name: &str) -> Option<&T> {
        self.known.get(*self.by_name.get(name)?)
    }

    /// In the place of what was known of the table of that name.
    pub(super) fn put(&mut self, oid: u32, name: String, what: T) -> usize {
        let place = *self.by_name.entry(name).or_insert(self.known.len());
        self.by_oid.insert(oid, place);
        match self.known.get_mut(place) {
            Some(known) => *known = what,
            None => self.known.push(what),
        }
        place
    }

    /// The last table takes the place of the one that is forgotten.
    pub(super) fn forget(&mut self, oid: u32) {
        let Some(place) = self.by_oid.get(&oid).copied() else { return };
        self.by_oid.retain(|_, at| *at != place);
        self.by_name.retain(|_, at| *at != place);
        self.known.swap_remove(place);
        let last = self.known.len();
        for at in self.by_oid.values_mut().chain(self.by_name.values_mut()) {
            if *at == last {
                *at = place;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::Tables;

    proptest! {
        /// What is found is what was put there last, and there is no more than that.
        #[test]
        fn what_is_forgotten_takes_no_room(
            steps in prop::collection::vec((0u32..6, any::<bool>()), 0..100),
        ) {
            let (mut tables, mut expected) = (Tables::default(), HashMap::new());
            for (step, (oid, puts)) in steps.into_iter().enumerate() {
                if puts {
                    tables.put(oid, format!("t{oid}"), step);
                    expected.insert(oid, step);
                } else {
                    tables.forget(oid);
                    expected.remove(&oid);
                }
                prop_assert_eq!(tables.len(), expected.len());
                for oid in 0..6 {
                    let known = expected.get(&oid).copied();
                    prop_assert_eq!(tables.of(oid).map(|(_, what)| *what), known);
                    prop_assert_eq!(tables.named(&format!("t{oid}")).copied(), known);
                    let place = tables.of(oid).map(|(place, _)| place);
                    prop_assert_eq!(place.and_then(|place| tables.at(place)).copied(), known);
                }
            }
        }
    }
}
