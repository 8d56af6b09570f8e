use proptest::prelude::*;

use super::*;

fn end(lsn: u64, commit_time: i64) -> Position {
    Position { lsn: Lsn(lsn), commit_time, xid: 7 }
}

fn until() -> impl Strategy<Value = Until> {
    prop_oneof![(0u64..40).prop_map(|lsn| Until::Lsn(Lsn(lsn))), (0i64..400).prop_map(Until::Time)]
}

fn rules() -> impl Strategy<Value = Rules> {
    use prop::collection::btree_set;
    (
        btree_set(prop::option::of(until()), 0..2),
        btree_set((0u64..40).prop_map(Lsn), 0..4),
        btree_set(until(), 0..2),
    )
        .prop_map(|(pauses, skips, skips_until)| Rules { pauses, skips, skips_until })
}

/// Transactions whose commit times rise with their ends, as they mostly do.
fn stream() -> impl Strategy<Value = Vec<Position>> {
    prop::collection::vec((1u64..5, 0i64..20), 1..20).prop_map(|steps| {
        let mut at = end(0, 0);
        let mut ends = Vec::new();
        for (bytes, micros) in steps {
            at = end(at.lsn.0 + bytes, at.commit_time + micros);
            ends.push(at);
        }
        ends
    })
}

/// What is applied and what is skipped, up to the first one that waits.
fn run(rules: &Rules, stream: &[Position], delay: Duration, now: i64) -> (Vec<Lsn>, Vec<Lsn>) {
    let (mut applied, mut skipped) = (Vec::new(), Vec::new());
    for at in stream {
        match rules.verdict(*at, delay, now) {
            Verdict::Apply => applied.push(at.lsn),
            Verdict::Skip => skipped.push(at.lsn),
            Verdict::Wait(_) => break,
        }
    }
    (applied, skipped)
}

const DELAY: Duration = Duration::from_micros(50);

proptest! {
    /// Nothing is given out before its time, whatever else is asked for, and everything is at its time.
    #[test]
    fn a_delay_is_kept_to_the_microsecond(rules in rules(), lsn in 1u64..40, time in 0i64..400, early in 1i64..100) {
        let at = end(lsn, time);
        let before = rules.verdict(at, DELAY, time + 50 - early);
        prop_assert!(matches!(before, Verdict::Wait(_)), "{before:?}");
        let on_time = rules.verdict(at, DELAY, time + 50);
        prop_assert!(!matches!(on_time, Verdict::Wait(Wait::Delayed { .. })), "{on_time:?}");
        prop_assert_eq!(on_time, rules.verdict(at, Duration::ZERO, 0), "a delay only delays");
    }

    /// Nothing behind the place of any pause is given out, and a pause up to a place lets through all before.
    #[test]
    fn a_pause_ends_where_it_says(stream in stream(), places in prop::collection::btree_set(until(), 1..3)) {
        let rules = Rules { pauses: places.iter().copied().map(Some).collect(), ..Rules::default() };
        let (applied, _) = run(&rules, &stream, Duration::ZERO, 0);
        let allowed = |at: &&Position| places.iter().all(|until| until.includes(**at));
        let expected: Vec<Lsn> = stream.iter().take_while(allowed).map(|at| at.lsn).collect();
        prop_assert_eq!(applied, expected);
    }

    /// As time goes on, and whether or not the process starts anew in between, each transaction is given out once, in
    /// order, and skipped or applied as the rules say.
    #[test]
    fn in_pieces_or_at_once_is_the_same(
        mut rules in rules(), stream in stream(), looks in prop::collection::vec(0i64..500, 0..6),
    ) {
        rules.pauses.clear();
        let (mut applied, mut skipped, mut position) = (Vec::new(), Vec::new(), Lsn(0));
        let mut looks = looks;
        looks.sort_unstable();
        looks.push(i64::MAX);
        for now in looks {
            let rest: Vec<Position> = stream.iter().filter(|at| at.lsn > position).copied().collect();
            let (some, others) = run(&rules, &rest, DELAY, now);
            position = some.iter().chain(&others).max().copied().unwrap_or(position);
            applied.extend(some);
            skipped.extend(others);
        }
        prop_assert_eq!((applied, skipped), run(&rules, &stream, Duration::ZERO, 0));
    }

    /// Rules that do not forbid more never hold up or skip what the old ones applied.
    #[test]
    fn what_forbids_no_more_lets_through_what_was(old in rules(), new in rules(), lsn in 1u64..40, time in 0i64..400) {
        let at = end(lsn, time);
        let (before, after) = (old.verdict(at, Duration::ZERO, 0), new.verdict(at, Duration::ZERO, 0));
        if before == Verdict::Apply && after != Verdict::Apply {
            prop_assert!(new.forbid_more_than(&old), "{before:?} became {after:?}");
        }
        prop_assert!(!old.forbid_more_than(&old));
    }
}

#[test]
fn only_the_transaction_that_is_named_is_skipped() {
    let rules = Rules { skips: [Lsn(20)].into(), ..Rules::default() };
    let verdict = |lsn| rules.verdict(end(lsn, 0), Duration::ZERO, 0);
    assert_eq!([19, 20, 21].map(verdict), [Verdict::Apply, Verdict::Skip, Verdict::Apply]);
}

#[test]
fn a_pause_holds_back_what_is_to_be_skipped() {
    let mut rules = Rules { pauses: [None].into(), skips: [Lsn(20)].into(), ..Rules::default() };
    assert!(rules.is_paused());
    assert_eq!(rules.verdict(end(20, 0), Duration::ZERO, 0), Verdict::Wait(Wait::Paused));
    rules.pauses = [Some(Until::Lsn(Lsn(20)))].into();
    assert!(!rules.is_paused());
    assert_eq!(rules.verdict(end(20, 0), Duration::ZERO, 0), Verdict::Skip);
}

#[test]
fn times_are_counted_from_2000() {
    let second = Duration::from_secs(1);
    let epoch = SystemTime::UNIX_EPOCH + POSTGRES_EPOCH;
    assert_eq!(stream_time(epoch + second), 1_000_000);
    assert_eq!(stream_time(epoch - second), -1_000_000);
}
