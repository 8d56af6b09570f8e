//! Rows of one table on their way into one INSERT.

use std::sync::Arc;

use super::client::{INSERT_BYTES_MAX, INSERT_ROWS_MAX, Insert, Server};
use super::failure::Attempt;
use super::native::Block;
use super::toast::Known;
use super::write::Table;
use crate::error::Result;

/// The way into one table, kept from batch to batch.
#[derive(Default)]
pub(super) struct Inlet {
    /// What `known` is about; an altered table is another one.
    pub(super) table: Option<Arc<Table>>,
    /// What is under way.
    pub(super) insertion: Option<Insertion>,
    pub(super) known: Known,
}

impl Inlet {
    /// Takes out what is to be stored; what comes next belongs to another group.
    pub(super) fn next_group(&mut self) -> Option<Insertion> {
        self.known.recent.next_group();
        self.insertion.take()
    }
}

/// Sends its rows as they come; they are in the table once it has ended.
pub(super) struct Insertion {
    pub(super) table: Arc<Table>,
    /// What has not been sent; the request begins with the first full block.
    pub(super) block: Block,
    insert: Option<Insert>,
    /// Rows that have been sent.
    sent: usize,
    /// Their bytes.
    sent_bytes: usize,
}

impl Insertion {
    pub(super) fn new(table: Arc<Table>) -> Self {
        let block = Block::new(table.plan.written_columns());
        Insertion { table, block, insert: None, sent: 0, sent_bytes: 0 }
    }

    /// More rows would not be one block on the server, or would be more than it should hold in memory.
    pub(super) fn is_full(&self) -> bool {
        self.sent + self.block.rows >= INSERT_ROWS_MAX
            || self.sent_bytes + self.block.bytes() >= INSERT_BYTES_MAX
    }

    /// Sends what has gathered.
    pub(super) async fn send(&mut self, server: &Server) -> Result<()> {
        if self.block.rows == 0 {
            return Ok(());
        }
        let table = &self.table;
        let insert = self.insert.get_or_insert_with(|| {
            let columns = table.plan.written_columns();
            let nothing = Block::new(columns).into_pieces().concat();
            server.begin_insert(&table.insert, nothing.into())
        });
        self.sent += self.block.rows;
        self.sent_bytes += self.block.bytes();
        for piece in self.block.take().into_pieces() {
            insert.send(Attempt::Insert(&table.plan.name), piece).await?;
        }
        Ok(())
    }

    /// Sends the rest, and waits until all of it is in the table. What comes next is another INSERT.
    pub(super) async fn end(&mut self, server: &Server) -> Result<()> {
        self.send(server).await?;
        (self.sent, self.sent_bytes) = (0, 0);
        match self.insert.take() {
            Some(insert) => insert.end(Attempt::Insert(&self.table.plan.name)).await,
            None => Ok(()),
        }
    }
}
