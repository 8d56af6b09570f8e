//! How many keys one look-up asks for: so many that large values do not fill the memory (invariant 6).

use std::sync::atomic::{AtomicUsize, Ordering};

/// Keys of a table's first look-up, and of the largest one.
const KEYS_FIRST: usize = 32;
const KEYS_MAX: usize = 8192;
/// Bytes that a look-up should bring; its size follows this.
const VALUE_BYTES_TARGET: usize = 8 << 20;

/// Keys in one look-up of a table.
#[derive(Debug)]
pub(super) struct LookupLimit(AtomicUsize);

impl Default for LookupLimit {
    fn default() -> Self {
        LookupLimit(AtomicUsize::new(KEYS_FIRST))
    }
}

impl LookupLimit {
    pub(super) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// What the last look-up brought. One writer serves a table, so nothing is lost between reading and
    /// storing.
    pub(super) fn learn(&self, rows: usize, bytes: usize) {
        if rows == 0 {
            return;
        }
        let limit = self.get();
        let fitting = rows.saturating_mul(VALUE_BYTES_TARGET) / bytes.max(1);
        // a few rows say little of many; of a row that moves two keys are asked for, and one is there
        let most = if 2 * rows >= limit { 2 * limit } else { limit };
        self.0.store(fitting.min(most).clamp(1, KEYS_MAX), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The limit after that many look-ups of `keys`, or of as many as it allows, with values of `size`.
    fn after(limit: &LookupLimit, times: usize, keys: usize, size: usize) -> usize {
        for _ in 0..times {
            let rows = keys.min(limit.get());
            limit.learn(rows, rows * size);
        }
        limit.get()
    }

    #[test]
    fn a_look_up_brings_what_it_should() {
        let limit = LookupLimit::default();
        assert_eq!(after(&limit, 3, usize::MAX, 100), 8 * KEYS_FIRST);
        assert_eq!(after(&limit, 20, usize::MAX, 100), KEYS_MAX);
        assert_eq!(after(&limit, 1, usize::MAX, 1 << 20), 8);
        assert_eq!(after(&limit, 1, usize::MAX, 100 << 20), 1);
        assert_eq!(after(&limit, 4, usize::MAX, 1 << 10), 16);
    }

    #[test]
    fn a_few_keys_do_not_raise_it() {
        let limit = LookupLimit::default();
        assert_eq!(after(&limit, 20, 1, 100), KEYS_FIRST);
        assert_eq!(after(&limit, 20, 1, 200_000), KEYS_FIRST);
        assert_eq!(after(&limit, 1, 1, 1 << 20), 8, "nor do they hide that values are large");
        limit.learn(0, 0);
        assert_eq!(limit.get(), 8);
    }
}
