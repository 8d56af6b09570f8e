//! A table in ranges of its key, some of them at the same time.

use std::cell::RefCell;
use std::pin::pin;

use futures_util::{Stream, TryStreamExt, stream};

use super::key::{Key, Range};
use super::lists::Listed;
use super::pace::RANGE_ROWS;
use super::scan::Scan;
use super::sides::{Compared, LANES, Sides};
use super::view::Part;
use crate::error::{Error, Kind, Result};

/// The ranges of a table with their numbers, each when its end is known.
fn walk(sides: Sides<'_>, first: Option<Key>) -> impl Stream<Item = Result<(usize, Range)>> {
    let rows = sides.pace.range_rows();
    let begin = Some((0, Range { after: None, upto: first }));
    stream::try_unfold(begin, move |state| async move {
        let Some((number, range)) = state else { return Ok(None) };
        sides.marks.mark(&sides.source.look).await?;
        let next = match &range.upto {
            None => None,
            Some(last) => {
                let table = &sides.table.source;
                let end = table.boundary(&sides.source.look, Some(last), rows).await?;
                Some((number + 1, Range { after: Some(last.clone()), upto: end }))
            }
        };
        Ok(Some(((number, range), next)))
    })
}

impl Sides<'_> {
    /// Sums, and lists where these do not say what differs.
    async fn examine(self, range: Range, targets: &[usize]) -> Result<(Range, Compared)> {
        let mut compared = self.compare(&range, targets).await?;
        let listed = self.list(&Part::Range(&range), &compared.to_list).await?;
        compared.found.extend(listed);
        Ok((range, compared))
    }
}

impl Scan<'_> {
    /// `first`: the end of the first one.
    pub(super) async fn ranges(&mut self, first: Option<Key>) -> Result<()> {
        let sides = self.sides;
        let open = RefCell::new(self.open());
        let examine = |(number, range): (usize, Range)| {
            let targets = open.borrow().clone();
            // a lane is free again when the range before the last has been taken
            async move { sides.on_lane(number % LANES).examine(range, &targets).await }
        };
        let mut ranges = pin!(walk(sides, first).map_ok(examine).try_buffered(LANES));
        while let Some((range, compared)) = ranges.try_next().await? {
            self.count(compared.rows, 1);
            self.suspect(compared.found).await;
            for target in compared.to_cut {
                self.cut(target, &range).await?;
            }
            let still = self.open();
            if still.is_empty() {
                break;
            }
            open.replace(still);
        }
        Ok(())
    }

    /// Goes over a range of one target in parts that the target's own keys make.
    async fn cut(&mut self, target: usize, range: &Range) -> Result<()> {
        let mut rest = range.clone();
        loop {
            match self.cut_off(target, &rest).await {
                Ok((found, end)) => {
                    self.suspect(found).await;
                    let Some(end) = end.filter(|_| self.open().contains(&target)) else {
                        return Ok(());
                    };
                    rest.after = Some(end);
                }
                Err(error) if error.kind() == Kind::Connection => return Err(error),
                // a key of the target that the source cannot read, for one
                Err(error) => {
                    self.fail(target, &error.to_string());
                    return Ok(());
                }
            }
        }
    }

    /// Lists the first part of a range; and where the rest begins.
    async fn cut_off(
        &self,
        target: usize,
        rest: &Range,
    ) -> Result<(Vec<(usize, Result<Listed>)>, Option<Key>)> {
        let sides = self.sides.on_lane(LANES);
        let there = sides.there(target);
        let there =
            there.ok_or_else(|| Error::new(Kind::Internal, "a target that is not there"))?;
        let end = there.boundary(rest, RANGE_ROWS).await?;
        let upto = end.clone().or_else(|| rest.upto.clone());
        let part = Range { after: rest.after.clone(), upto };
        Ok((sides.list(&Part::Range(&part), &[target]).await?, end))
    }
}
