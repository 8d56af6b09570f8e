//! Slots of syncs on the source.

use std::time::SystemTime;

use rsrepl_wire::Lsn;

use crate::config::Source;
use crate::error::Result;
use crate::source::ReplicationClient;

/// Bytes of a name on the source (`NAMEDATALEN` less its end).
const NAME_MAX: usize = 63;

/// A name that no slot has had: of the main stream's, the time, and the target's place in the configuration, as no
/// two targets may choose the same at the same time.
pub(super) fn name(main: &str, target: usize) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // a millisecond is as short as two syncs of one target can be apart
    named(main, now.as_millis(), target)
}

fn named(main: &str, number: u128, target: usize) -> String {
    let end = format!("_sync_{number}_{target}");
    let room = NAME_MAX.saturating_sub(end.len());
    // names of slots are ASCII
    format!("{}{end}", main.get(..room).unwrap_or(main))
}

/// Whether it is there and can still be read.
pub(super) async fn is_usable(source: &Source, slot: &str) -> Result<bool> {
    let mut client = ReplicationClient::connect(&source.connection).await?;
    let found = client.slot(slot).await?;
    client.close().await;
    let lost = |status: Option<String>| status.as_deref() == Some("lost");
    Ok(found.is_some_and(|slot| {
        slot.confirmed_flush_lsn.is_some_and(|lsn| lsn != Lsn::INVALID) && !lost(slot.wal_status)
    }))
}

/// Drops it, if it is there.
pub(super) async fn drop(source: &Source, slot: &str) -> Result<()> {
    let mut client = ReplicationClient::connect(&source.connection).await?;
    let dropped = match client.slot(slot).await? {
        Some(_) => client.drop_slot(slot).await,
        None => Ok(()),
    };
    client.close().await;
    dropped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_fits_and_ends_with_what_tells_it_apart() {
        assert_eq!(named("rsrepl", 17, 1), "rsrepl_sync_17_1");
        let long = "x".repeat(63);
        let name = named(&long, 1_795_337_000_000, 12);
        assert_eq!((name.len(), name.ends_with("_sync_1795337000000_12")), (63, true));
    }
}
