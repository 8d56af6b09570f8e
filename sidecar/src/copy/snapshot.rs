//! A snapshot of the source that several sessions read under, and the LSN that it stands for.

use rsrepl_wire::Lsn;
use tracing::warn;

use crate::error::Result;
use crate::source::{PLUGIN, ReplicationClient};

/// An exported snapshot: it lasts as long as this session, which does nothing else, or until it is ended.
pub(super) struct Exported {
    client: ReplicationClient,
    /// The slot of the pipeline, when it was created with it.
    created: Option<String>,
    /// A slot that ends with this session.
    temporary: Option<String>,
    name: String,
    pub(super) lsn: Lsn,
}

/// What reads under a snapshot need of it. (Its session cannot be shared.)
#[derive(Clone, Debug)]
pub(super) struct Taken {
    /// For `SET TRANSACTION SNAPSHOT`.
    pub(super) name: String,
    /// Exactly what commits before it is visible.
    pub(super) lsn: Lsn,
}

impl Exported {
    pub(super) fn taken(&self) -> Taken {
        Taken { name: self.name.clone(), lsn: self.lsn }
    }

    /// Creates the slot of the pipeline, whose stream begins where the snapshot is. Waits for the
    /// transactions that are running now to end.
    pub(super) async fn with_slot(mut client: ReplicationClient, slot: &str) -> Result<Self> {
        let (lsn, name) = client.create_slot_and_export(slot, PLUGIN, false).await?;
        Ok(Exported { client, created: Some(slot.to_owned()), temporary: None, name, lsn })
    }

    /// The same where the slot is there already: of a slot that ends with this session.
    pub(super) async fn of_now(mut client: ReplicationClient) -> Result<Self> {
        let slot = format!("rsrepl_copy_{}", client.backend_pid());
        let (lsn, name) = client.create_slot_and_export(&slot, PLUGIN, true).await?;
        Ok(Exported { client, created: None, temporary: Some(slot), name, lsn })
    }

    /// Ends the snapshot, which any command does, and holds nothing up any more. The session goes on, and with it
    /// its lock on the copy.
    pub(super) async fn end(&mut self) -> Result<()> {
        match self.temporary.take() {
            Some(slot) => self.client.drop_slot(&slot).await,
            None => self.client.show("wal_level").await.map(drop),
        }
    }

    /// Nothing was recorded anywhere under this snapshot: a slot that was created with it would only keep WAL.
    pub(super) async fn take_back(mut self) {
        if let Some(slot) = self.created.take()
            && let Err(error) = self.client.drop_slot(&slot).await
        {
            warn!(%error, slot, "the slot of a copy that has not begun is left, and keeps WAL");
        }
        self.release().await;
    }

    pub(super) async fn release(self) {
        self.client.close().await;
    }
}
