//! Updates of a set: one statement for all of one shape.

use std::collections::BTreeMap;
use std::sync::Arc;

use rsrepl_wire::{DecodeError, Value};

use super::super::catalog::TargetTable;
use super::super::rows;
use super::super::sql::Shape;
use super::super::table::StatementKey;
use super::{Failure, SET_BYTES, SET_MIN, Sets, flags};
use crate::plan::NetUpdate;

impl Sets<'_> {
    pub(super) async fn update(&mut self, updates: &[NetUpdate<'_>]) -> Result<(), Failure> {
        for (shape, updates) in self.by_shape(updates)? {
            self.update_all(&shape, &updates).await?;
        }
        Ok(())
    }

    /// All updates of one shape are one statement. Updates that leave different columns unchanged
    /// never share one: nothing is overwritten that did not come.
    fn by_shape<'n>(
        &self,
        updates: &'n [NetUpdate<'n>],
    ) -> Result<BTreeMap<Shape, Vec<&'n NetUpdate<'n>>>, DecodeError> {
        let mut shapes = BTreeMap::<Shape, Vec<&NetUpdate<'_>>>::new();
        let mut whole = [Vec::new(), Vec::new()];
        for update in updates {
            if !update.image.may_have_unchanged() {
                let [kept, changed] = &mut whole;
                if update.key_changed { changed } else { kept }.push(update);
                continue;
            }
            let mut present = Vec::with_capacity(self.relation.columns.len());
            update.image.for_each(self.relation, |_, value| {
                present.push(value != Value::Unchanged);
                Ok::<(), DecodeError>(())
            })?;
            let shape = Shape { present, key_changed: update.key_changed };
            shapes.entry(shape).or_default().push(update);
        }
        for (updates, key_changed) in whole.into_iter().zip([false, true]) {
            if !updates.is_empty() {
                let present = vec![true; self.relation.columns.len()];
                shapes.entry(Shape { present, key_changed }).or_default().extend(updates);
            }
        }
        Ok(shapes)
    }

    async fn update_all(
        &mut self,
        shape: &Shape,
        updates: &[&NetUpdate<'_>],
    ) -> Result<(), Failure> {
        let fit = Arc::clone(&self.table.fit);
        let row_type = match &self.row_type {
            Some(row_type) if updates.len() >= SET_MIN && is_for_sets(shape, &fit) => {
                Arc::clone(row_type)
            }
            _ => return self.singly(updates, |table, update| rows::of_update(table, update)).await,
        };
        let given = flags(fit.columns.len(), shape.given(&fit).map(|(index, _)| index));
        let statement = StatementKey::UpdateSet(shape.clone());
        let mut array = [row_type.array()];
        for update in updates {
            if update.image.size() > SET_BYTES {
                self.singly(&[update], |table, update| rows::of_update(table, update)).await?;
                continue;
            }
            let [rows] = &mut array;
            row_type
                .put(rows, self.relation, Some(update.locator), &update.image, &given)
                .map_err(|error| self.unsent(error))?;
            if rows.size() >= SET_BYTES {
                self.send(statement.clone(), &mut array).await?;
            }
        }
        self.send(statement, &mut array).await
    }
}

/// Whether one statement can say what becomes of many rows: where a column changes that UPDATE may not set,
/// rows are replaced, one by one. (Where it only could, the statement finds the rows in which it did not.)
fn is_for_sets(shape: &Shape, fit: &TargetTable) -> bool {
    !shape.replaces(fit) && shape.set(fit).next().is_some()
}
