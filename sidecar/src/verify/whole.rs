//! A table without a key: its rows cannot be told apart, so it is compared when nobody writes to it.
//!
//! It is read again and again, first on the source and then on the target. Equal sums are equal. Other sums
//! count when both sides were the same, version by version, in two attempts that follow each other: what
//! the target had more in the first would have gone from the source by the second, and from the target with it.

use super::key::Range;
use super::postgres::wal_end;
use super::scan::Scan;
use super::sides::Sides;
use super::view::Sum;
use super::visible;
use crate::error::Result;

/// How often it is read, in the hope that nobody writes to it meanwhile.
const ATTEMPTS: u32 = 4;

/// What an attempt saw. With the hashes of their versions behind those of their values, where there are any.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Attempt {
    here: Sum,
    there: Sum,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Equal,
    Unequal,
    Again,
}

/// `shows`: the source showed in this attempt all that the target had in the last.
fn judge(last: Option<&Attempt>, now: &Attempt, profile: usize, shows: bool) -> Verdict {
    let here = now.here.of_profile(profile);
    let is_equal = |there: &Sum| there.of_profile(0) == here;
    if is_equal(&now.there) || last.is_some_and(|last| is_equal(&last.there)) {
        return Verdict::Equal;
    }
    match last {
        Some(last) if shows && last == now => Verdict::Unequal,
        _ => Verdict::Again,
    }
}

impl Scan<'_> {
    pub(super) async fn whole(&mut self) -> Result<()> {
        let Sides { table, source, pace, .. } = self.sides;
        let mut open: Vec<(usize, Option<Attempt>)> =
            self.open().into_iter().map(|target| (target, None)).collect();
        let (mut horizon, mut rows) = (0, 0);
        for _ in 0..ATTEMPTS {
            if open.is_empty() {
                break;
            }
            let shows = source.visibility.reaches(&source.look, horizon).await?;
            let here = self.sides.here().sum(&Range::default()).await?;
            rows = here.rows;
            pace.keep(rows).await;
            let end = wal_end(&source.look).await?;
            let mut again = Vec::new();
            for (target, last) in open {
                let there = match self.whole_of(target, end).await {
                    Ok(there) => there,
                    Err(error) => {
                        self.fail(target, &error.to_string());
                        continue;
                    }
                };
                let now = Attempt { here: here.clone(), there };
                match judge(last.as_ref(), &now, self.sides.profile(target), shows) {
                    Verdict::Equal => {}
                    Verdict::Again => again.push((target, Some(now))),
                    Verdict::Unequal if table.scope.is_partial() => self.fail(
                        target,
                        "it differs, has no key, and not all of its operations are published",
                    ),
                    Verdict::Unequal => self.unequal(target, here.rows, now.there.rows),
                }
            }
            open = again;
            horizon = visible::horizon(&source.look).await?;
        }
        for (target, _) in open {
            self.fail(
                target,
                "it has no key, and is written to: it can be compared while nobody writes",
            );
        }
        self.count(rows, 1);
        Ok(())
    }

    async fn whole_of(&self, target: usize, end: rsrepl_wire::Lsn) -> Result<Sum> {
        let (Some(view), Some(target)) = (self.sides.there(target), self.sides.targets.get(target))
        else {
            return Ok(Sum::default());
        };
        target.wait_for(end, async || Ok(false)).await?;
        view.sum(&Range::default()).await
    }

    fn unequal(&mut self, target: usize, here: u64, there: u64) {
        let tally = self.desks.get_mut(target).and_then(|d| d.tallies.get_mut(self.number));
        if let Some(tally) = tally {
            tally.unequal = Some((here, there));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_differs_when_neither_side_has_moved() {
        let sum = |rows, values, versions| Sum { rows, hashes: vec![values, versions] };
        let (empty, one, other) = (sum(0, 0, 0), sum(1, 5, 7), sum(1, 5, 8));
        let attempt =
            |here: &Sum, there: &Sum| Attempt { here: here.clone(), there: there.clone() };
        let judge = |last: &Attempt, now: &Attempt| judge(Some(last), now, 0, true);
        assert_eq!(super::judge(None, &attempt(&one, &empty), 0, true), Verdict::Again);
        // other versions of the same values
        assert_eq!(super::judge(None, &attempt(&one, &other), 0, true), Verdict::Equal);
        let short_lived = [attempt(&empty, &one), attempt(&empty, &other)];
        assert_eq!(
            judge(&short_lived[0], &short_lived[1]),
            Verdict::Again,
            "a row that comes and goes"
        );
        assert_eq!(judge(&short_lived[0], &short_lived[0]), Verdict::Unequal);
        let late = super::judge(Some(&short_lived[0]), &short_lived[0], 0, false);
        assert_eq!(late, Verdict::Again, "a commit that waits");
        assert_eq!(judge(&short_lived[0], &attempt(&one, &empty)), Verdict::Equal, "it was late");
    }
}
