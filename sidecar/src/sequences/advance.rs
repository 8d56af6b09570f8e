//! What is to be done with one sequence of a target.
//!
//! What counts is the next number that the target would give out: it must lie behind all that the source
//! has given out, in the direction in which both count. `last_value` on the source is behind what its
//! sessions have cached. A target that is further on already is left there: numbers that are left out harm
//! nobody, numbers that come again do. Databases that share the numbers of a sequence have remainders of their own
//! (odd here, even there): the target keeps its. A sequence that cycles has no further on, and is made equal.

use super::read::Sequence;

/// Where a sequence is: its relation's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    pub last_value: i64,
    /// `last_value` was given out; otherwise it is the next.
    pub is_called: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Keep,
    Set(State),
    /// It cannot be set; why, and what to do.
    Refuse(String),
}

pub fn step(source: &Sequence, target: &Sequence) -> Step {
    let missing = |side: &str| {
        let name = &source.name;
        Step::Refuse(format!("may not be read: GRANT SELECT ON SEQUENCE {name} on the {side}"))
    };
    let Some(wanted) = source.state else { return missing("source") };
    let Some(there) = target.state else { return missing("target") };
    if wanted == there {
        return Step::Keep;
    }
    if source.increment.signum() != target.increment.signum() {
        return Step::Refuse(format!(
            "it counts by {} on the source and by {} on the target: ALTER SEQUENCE … INCREMENT",
            source.increment, target.increment
        ));
    }
    let cycles = source.cycles || target.cycles;
    if !cycles && is_beyond(next(there, target.increment), wanted, source.increment) {
        return Step::Keep;
    }
    let (number, is_called) = match cycles {
        true => (i128::from(wanted.last_value), wanted.is_called),
        false => behind(wanted, there, target.increment),
    };
    match i64::try_from(number) {
        Ok(last_value) if (target.min..=target.max).contains(&last_value) => {
            Step::Set(State { last_value, is_called })
        }
        _ => Step::Refuse(format!(
            "{number} is not within the target's {} to {}: ALTER SEQUENCE … AS bigint, MINVALUE or MAXVALUE",
            target.min, target.max
        )),
    }
}

/// Where a target at `there` goes on behind `source` with numbers of its own remainder.
fn behind(source: State, there: State, increment: i64) -> (i128, bool) {
    let (last, increment) = (i128::from(source.last_value), i128::from(increment));
    let ahead = (i128::from(there.last_value) - last) % increment;
    match ahead {
        0 => (last, source.is_called),
        // of the sign of the increment, or one step short of that
        _ if ahead.signum() == increment.signum() => (last + ahead, false),
        _ => (last + ahead + increment, false),
    }
}

/// The next number that would be given out; of one at its end a number that there is not.
fn next(state: State, increment: i64) -> i128 {
    let step = if state.is_called { increment } else { 0 };
    i128::from(state.last_value) + i128::from(step)
}

/// `next` lies behind all that a source at `state` has given out, in the direction of `increment`.
fn is_beyond(next: i128, state: State, increment: i64) -> bool {
    let distance = (next - i128::from(state.last_value)) * i128::from(increment.signum());
    distance > 0 || distance == 0 && !state.is_called
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sequence(increment: i64, last_value: i64, is_called: bool) -> Sequence {
        Sequence {
            oid: 1,
            name: "public.s".into(),
            increment,
            min: -1000,
            max: 1000,
            cycles: false,
            replicated: true,
            state: Some(State { last_value, is_called }),
        }
    }

    fn set(last_value: i64, is_called: bool) -> Step {
        Step::Set(State { last_value, is_called })
    }

    #[test]
    fn the_target_goes_on_behind_the_source() {
        let fresh = sequence(1, 1, false);
        assert_eq!(step(&sequence(1, 7, true), &fresh), set(7, true));
        // never used, but restarted elsewhere
        assert_eq!(step(&sequence(1, 500, false), &fresh), set(500, false));
        assert_eq!(step(&fresh, &fresh), Step::Keep);
        // never back
        assert_eq!(step(&fresh, &sequence(1, 7, true)), Step::Keep);
        assert_eq!(step(&sequence(1, 7, true), &sequence(1, 8, false)), Step::Keep);
        assert_eq!(step(&sequence(1, 7, true), &sequence(1, 7, false)), set(7, true));
        // downwards the smaller number is further on
        let down = sequence(-1, -1, false);
        assert_eq!(step(&sequence(-1, -7, true), &down), set(-7, true));
        assert_eq!(step(&down, &sequence(-1, -7, true)), Step::Keep);
        // other steps: between two numbers of the source is beyond the first
        assert_eq!(step(&sequence(10, 100, true), &sequence(1, 104, true)), Step::Keep);
        assert_eq!(step(&sequence(1, 104, true), &sequence(10, 90, true)), set(110, false));
        // odd on the source, even on the target
        assert_eq!(step(&sequence(2, 7, true), &sequence(2, 2, false)), set(8, false));
        assert_eq!(step(&sequence(-2, -7, true), &sequence(-2, -2, false)), set(-8, false));
        assert_eq!(step(&sequence(2, 7, true), &sequence(2, 1, false)), set(7, true));
    }

    #[test]
    fn what_cannot_be_set_says_why() {
        let why = |source: &Sequence, target: &Sequence| match step(source, target) {
            Step::Refuse(why) => why,
            other => panic!("{other:?}"),
        };
        let fresh = sequence(1, 1, false);
        assert!(why(&sequence(-1, 7, true), &fresh).contains("INCREMENT"));
        assert!(why(&sequence(1, 1001, true), &fresh).contains("AS bigint"));
        let hidden = Sequence { state: None, ..sequence(1, 1, true) };
        assert!(why(&hidden, &fresh).contains("GRANT SELECT ON SEQUENCE public.s on the source"));
        assert!(why(&fresh, &hidden).contains("on the target"));
        // there is nothing to set, so nothing is in the way
        assert_eq!(step(&fresh, &sequence(1, 1000, true)), Step::Keep);
    }

    #[test]
    fn a_cycle_is_followed() {
        let cycles = |sequence: Sequence| Sequence { cycles: true, ..sequence };
        let (low, high) = (cycles(sequence(1, 3, true)), cycles(sequence(1, 999, true)));
        assert_eq!(step(&low, &high), set(3, true));
        assert_eq!(step(&high, &low), set(999, true));
    }

    proptest! {
        /// What the source gave out, at any time, the target does not give out afterwards.
        #[test]
        fn no_number_comes_again(
            up: bool,
            by in (1i64..20, 1i64..20),
            starts in (-50i64..50, -50i64..50),
            given in (0i64..40, 0i64..40),
        ) {
            let sign = if up { 1 } else { -1 };
            let make = |by: i64, start: i64, given: i64| match given {
                0 => sequence(sign * by, start, false),
                given => sequence(sign * by, start + sign * by * (given - 1), true),
            };
            let (source, target) = (make(by.0, starts.0, given.0), make(by.1, starts.1, given.1));
            let after = match step(&source, &target) {
                Step::Keep => target.state.unwrap(),
                Step::Set(state) => state,
                Step::Refuse(why) => panic!("{why}"),
            };
            let next = next(after, target.increment);
            for number in 0..given.0 {
                let number = starts.0 + sign * by.0 * number;
                prop_assert!((next - i128::from(number)) * i128::from(sign) > 0, "{number} again");
            }
            let before = super::next(target.state.unwrap(), target.increment);
            prop_assert!((next - before) * i128::from(sign) >= 0, "back from {before}");
            // nor what another database with its own remainder gives out
            prop_assert!((next - before) % i128::from(by.1) == 0, "{before}, then {next}");
        }
    }
}
