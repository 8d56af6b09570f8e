//! Waiting for something that another process brings about.

use std::thread;
use std::time::{Duration, Instant};

/// The pause between two looks.
const POLL: Duration = Duration::from_millis(25);

/// Waits until `condition` holds; panics with `what` after `limit`.
pub fn until(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    value(limit, what, || condition().then_some(()));
}

/// Waits until `look` finds something, and returns it; panics with `what` after `limit`.
pub fn value<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(POLL);
    }
}

/// Asserts that `condition` goes on to hold for `period`.
pub fn stays(period: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while start.elapsed() < period {
        assert!(condition(), "after {:?} no longer: {what}", start.elapsed());
        thread::sleep(POLL);
    }
}
