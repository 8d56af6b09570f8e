//! How far the copy is, for whoever shows it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::plan::Work;
use super::{Chunk, CopiedTable, Written};

/// Shared by the stage and those who look; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    tables: BTreeMap<u32, TableProgress>,
    chunks: u64,
}

/// One table, over all targets together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableProgress {
    /// `schema.name` on the source.
    pub name: String,
    /// Chunks that are still to be written, each once for each target.
    pub left: u64,
    /// Since the start of the process: chunks, rows and bytes written.
    pub chunks: u64,
    pub rows: u64,
    pub bytes: u64,
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, State> {
        // plain data: a panic elsewhere cannot have left it half-changed in a way that matters
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is left to be done, but for what is planned from here on.
    pub(super) fn nothing_left(&self) {
        self.lock().tables.values_mut().for_each(|table| table.left = 0);
    }

    pub(super) fn planned(&self, tables: &[Arc<CopiedTable>], works: &[Work]) {
        let mut state = self.lock();
        for (place, table) in tables.iter().enumerate() {
            let of_table = works.iter().filter(|work| work.table == place);
            let entry = state.tables.entry(table.relation.oid).or_default();
            entry.name = table.relation.to_string();
            entry.left = of_table.map(|work| work.targets.len() as u64).sum();
        }
    }

    pub(super) fn written(&self, chunk: &Chunk, written: Written) {
        let mut state = self.lock();
        state.chunks += 1;
        let table = state.tables.entry(chunk.table.relation.oid).or_default();
        table.left = table.left.saturating_sub(1);
        table.chunks += 1;
        table.rows += written.rows;
        table.bytes += written.bytes;
    }

    /// Chunks written since the start of the process, over all targets.
    pub fn chunks(&self) -> u64 {
        self.lock().chunks
    }

    /// All tables.
    pub fn tables(&self) -> Vec<TableProgress> {
        self.lock().tables.values().cloned().collect()
    }
}
