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

/// What the source has of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// None, or one that is being made.
    Nothing,
    Usable,
    /// It is there, and what it has to bring is not.
    Lost,
}

pub(super) async fn found(source: &Source, slot: &str) -> Result<Found> {
    let mut client = ReplicationClient::connect(&source.connection).await?;
    let found = client.slot(slot).await?;
    client.close().await;
    let Some(slot) = found else { return Ok(Found::Nothing) };
    let is_made = slot.confirmed_flush_lsn.is_some_and(|lsn| lsn != Lsn::INVALID);
    let is_lost = slot.wal_status.as_deref() == Some("lost") || slot.restart_lsn.is_none();
    Ok(match (is_made, is_lost) {
        (true, true) => Found::Lost,
        (true, false) => Found::Usable,
        (false, _) => Found::Nothing,
    })
}

/// Drops it, if it is there.
pub(super) async fn drop(source: &Source, slot: &str) -> Result<()> {
    let mut client = ReplicationClient::connect(&source.connection).await?;
    let dropped = match client.slot(slot).await? {
        Some(_) => client.drop_slot_when_free(slot).await,
        None => Ok(()),
    };
    client.close().await;
    dropped
}

/// Slots of syncs of this main slot that nobody uses now.
pub(super) async fn idle(source: &Source) -> Result<Vec<String>> {
    let mut client = ReplicationClient::connect(&source.connection).await?;
    let idle = client.idle_slots().await;
    client.close().await;
    let is_ours = |slot: &String| is_of_sync(slot, &source.slot_name);
    idle.map(|slots| slots.into_iter().filter(is_ours).collect())
}

/// Whether [`named`] gives such names.
fn is_of_sync(slot: &str, main: &str) -> bool {
    let Some((before, end)) = slot.rsplit_once("_sync_") else { return false };
    let numbers = end.split_once('_').is_some_and(|(number, target)| {
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        is_number(number) && is_number(target)
    });
    let is_cut = slot.len() == NAME_MAX && main.starts_with(before);
    numbers && (before == main || is_cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_fits_and_ends_with_what_tells_it_apart() {
        assert_eq!(named("rsrepl", 17, 1), "rsrepl_sync_17_1");
        for (slot, is_it) in [
            ("rsrepl_sync_17_1", true),
            ("rsrepl_sync_17", false),
            ("rsrepl_sync__1", false),
            ("rsrepl_sync_a_1", false),
            ("other_sync_17_1", false),
            ("rsrepl", false),
        ] {
            assert_eq!(is_of_sync(slot, "rsrepl"), is_it, "{slot}");
        }
        let long = "x".repeat(63);
        assert!(is_of_sync(&named(&long, 17, 1), &long));
        let name = named(&long, 1_795_337_000_000, 12);
        assert_eq!((name.len(), name.ends_with("_sync_1795337000000_12")), (63, true));
    }
}
