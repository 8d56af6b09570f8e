//! Exponential backoff with jitter.

use std::time::Duration;

use rand::RngExt;

use crate::config::Retry;

/// A stopped target is looked at this often: its owner may have mended what stopped it.
pub const STOPPED_RETRY: Duration = Duration::from_secs(30);

/// Counts failures in a row.
#[derive(Debug)]
pub struct Backoff {
    policy: Retry,
    failures: u32,
}

impl Backoff {
    pub fn new(policy: Retry) -> Self {
        Backoff { policy, failures: 0 }
    }

    /// Something succeeded.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Notes a failure and gives the wait before the next attempt; `None` once `max_attempts` have
    /// failed.
    pub fn failed(&mut self) -> Option<Duration> {
        self.failures = self.failures.saturating_add(1);
        if self.policy.max_attempts.is_some_and(|max| self.failures >= max) {
            return None;
        }
        let doublings = (self.failures - 1).min(31);
        let wait = self.policy.backoff.saturating_mul(1 << doublings).min(self.policy.max_backoff);
        // between half and the whole of it, so that many sidecars do not come back at once
        Some(wait.mul_f64(rand::rng().random_range(0.5..=1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_stay_bounded_and_end() {
        let policy = Retry {
            max_attempts: Some(8),
            backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(1),
        };
        let mut backoff = Backoff::new(policy);
        for attempt in 0..7u32 {
            let full = Duration::from_millis(100 << attempt).min(Duration::from_secs(1));
            let wait = backoff.failed().expect("under max_attempts");
            assert!(wait >= full / 2 && wait <= full, "attempt {attempt}: {wait:?}");
        }
        assert_eq!(backoff.failed(), None);
        backoff.reset();
        assert!(backoff.failed().is_some());
    }

    #[test]
    fn endless_failures_do_not_overflow() {
        let mut backoff = Backoff::new(Retry {
            max_attempts: None,
            backoff: Duration::from_millis(200),
            max_backoff: Duration::from_secs(30),
        });
        for _ in 0..100 {
            assert!(backoff.failed().is_some_and(|wait| wait <= Duration::from_secs(30)));
        }
    }
}
