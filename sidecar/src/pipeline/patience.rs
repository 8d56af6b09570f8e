//! How long a full spool is borne before the connection with the source is given up. Pure.

use std::time::Duration;

use rsrepl_wire::Lsn;

/// With the spool full for so long, the connection is given up until half of it is free: a walsender
/// that cannot send would hold up the primary's shutdown.
const FULL_PATIENCE: Duration = Duration::from_secs(10);

/// It doubles up to this while the same transaction is given up again and again: one that is larger
/// than the spool needs every target to take some of it within that time.
const FULL_PATIENCE_MAX: Duration = Duration::from_secs(600);

/// How long the spool may be full before the connection is given up.
#[derive(Debug)]
pub(super) struct Patience {
    wait: Duration,
    /// Where the stream stood when it was last given up.
    gave_up_at: Option<Lsn>,
}

impl Default for Patience {
    fn default() -> Self {
        Patience { wait: FULL_PATIENCE, gave_up_at: None }
    }
}

impl Patience {
    pub(super) fn wait(&self) -> Duration {
        self.wait
    }

    /// The connection was given up with everything up to `end` received.
    pub(super) fn gave_up(&mut self, end: Lsn) {
        self.wait = match self.gave_up_at == Some(end) {
            true => (self.wait * 2).min(FULL_PATIENCE_MAX),
            false => FULL_PATIENCE,
        };
        self.gave_up_at = Some(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_grows_only_for_what_is_given_up_again() {
        let mut patience = Patience::default();
        patience.gave_up(Lsn(1));
        assert_eq!(patience.wait, FULL_PATIENCE);
        patience.gave_up(Lsn(1));
        assert_eq!(patience.wait, 2 * FULL_PATIENCE);
        for _ in 0..20 {
            patience.gave_up(Lsn(1));
        }
        assert_eq!(patience.wait, FULL_PATIENCE_MAX);
        patience.gave_up(Lsn(2));
        assert_eq!(patience.wait, FULL_PATIENCE);
    }
}
