//! Which fault comes when. The seed decides, and nothing else.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Who {
    Sidecar,
    Source,
    Standby,
    ClickHouse,
}

/// What a fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// SIGKILL; it is started again.
    Kill,
    /// SIGSTOP; later SIGCONT.
    Freeze,
    /// All connections with the sidecar are closed.
    Cut,
    /// Nothing gets through them, and they stay open.
    Stall,
    /// They are closed, and no others are let in.
    Refuse,
    /// The sidecar hears that they have ended; what it says still arrives.
    HalfCloseSidecar,
    /// The server hears that they have ended; what it says still arrives.
    HalfCloseServer,
    /// Some kilobytes a second get through.
    Slow,
    /// Frames of changes get wrong bits. Of the source only.
    Spoil,
    /// The sidecar does not hear any more what a target has done, or the source what the sidecar confirms; then the
    /// sidecar is killed. So it dies between a commit of the target and the knowledge of it, and between a spool that is
    /// written and a slot that knows it.
    KillUnheard,
    /// The sidecar's clock jumps by hours, and back.
    ClockJump,
    /// The disk of the sidecar's spool has no room. With a spool on disk only.
    DiskFull,
    /// The sidecar is killed, and garbage stands behind the end of its spool. With a spool on disk only.
    TornTail,
}

/// A fault and when it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// After this quiet time.
    pub pause: Duration,
    /// To, or on the connections to.
    pub who: Who,
    /// What happens.
    pub kind: Kind,
    /// How long it lasts, or the time until what was killed is started again.
    pub lasts: Duration,
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} for {:?}, after {:?}", self.kind, self.who, self.lasts, self.pause)
    }
}

/// Faults that strike a process.
const OF_PROCESSES: [Kind; 2] = [Kind::Kill, Kind::Freeze];

/// Faults that strike connections.
const OF_CONNECTIONS: [Kind; 6] = [
    Kind::Cut,
    Kind::Stall,
    Kind::Refuse,
    Kind::HalfCloseSidecar,
    Kind::HalfCloseServer,
    Kind::Slow,
];

/// Whether the sidecar of this seed has its spool on disk.
pub fn is_spooled(seed: u64) -> bool {
    !seed.is_multiple_of(2)
}

/// Each fault there is, once.
pub fn all(spooled: bool) -> Vec<(Who, Kind)> {
    let servers = [Who::Source, Who::Standby, Who::ClickHouse];
    let processes = [Who::Sidecar].into_iter().chain(servers);
    let of_processes = processes.flat_map(|who| OF_PROCESSES.map(|kind| (who, kind)));
    let of_connections = servers.into_iter().flat_map(|who| OF_CONNECTIONS.map(|kind| (who, kind)));
    let unheard = servers.into_iter().map(|who| (who, Kind::KillUnheard));
    let others = [(Who::Source, Kind::Spoil), (Who::Sidecar, Kind::ClockJump)];
    let of_a_spool = [Kind::DiskFull, Kind::TornTail].map(|kind| (Who::Sidecar, kind));
    let of_a_spool = of_a_spool.into_iter().filter(|_| spooled);
    of_processes.chain(of_connections).chain(unheard).chain(others).chain(of_a_spool).collect()
}

/// So many faults. They are dealt like cards: none comes again before all others have come.
pub fn plan(seed: u64, faults: usize) -> Vec<Planned> {
    let mut rng = Rng::with_seed(seed);
    let mut deck = Vec::new();
    let mut plan = Vec::new();
    while plan.len() < faults {
        if deck.is_empty() {
            deck = all(is_spooled(seed));
            rng.shuffle(&mut deck);
        }
        let Some((who, kind)) = deck.pop() else { break };
        plan.push(Planned {
            pause: millis(&mut rng, 200, 2_500),
            who,
            kind,
            lasts: lasts(&mut rng, kind),
        });
    }
    plan
}

/// One in eight outlasts the patience of somebody: `wal_sender_timeout`, which the test sets, and attempts of a target.
fn lasts(rng: &mut Rng, kind: Kind) -> Duration {
    let long = rng.u32(0..8) == 0;
    match kind {
        Kind::Cut | Kind::HalfCloseSidecar | Kind::HalfCloseServer | Kind::TornTail => {
            Duration::ZERO
        }
        _ if long => millis(rng, 7_000, 12_000),
        _ => millis(rng, 100, 3_000),
    }
}

fn millis(rng: &mut Rng, from: u64, to: u64) -> Duration {
    Duration::from_millis(rng.u64(from..to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_decides() {
        assert_eq!(plan(7, 60), plan(7, 60));
        assert_eq!(plan(7, 60)[..10], plan(7, 10));
        assert_ne!(plan(7, 60), plan(8, 60));
    }

    #[test]
    fn every_fault_comes_once_before_one_comes_again() {
        for (seed, every) in [(1, 33), (2, 31)] {
            assert_eq!(all(is_spooled(seed)).len(), every);
            for faults in plan(seed, 2 * every).chunks(every) {
                let mut dealt: Vec<_> =
                    faults.iter().map(|fault| (fault.who, fault.kind)).collect();
                dealt.sort();
                dealt.dedup();
                assert_eq!(dealt.len(), every);
            }
        }
    }
}
