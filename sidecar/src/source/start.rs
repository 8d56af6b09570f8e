//! From where the stream may start (invariant 10). Pure; the rule behind it is in the documentation
//! of the module above.

use rsrepl_wire::Lsn;

use super::client::SourceInfo;
use super::slot::SlotInfo;
use crate::error::{Error, Kind, Result};

/// The output plugin that our slots have.
pub const PLUGIN: &str = "rsrepl";

/// Where to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// For `START_REPLICATION`: the lowest position of all targets, never below the slot's.
    pub lsn: Lsn,
    /// Targets that had no position. They begin at `confirmed_flush_lsn`, which is to be stored as
    /// their position before anything is confirmed.
    pub new_targets: Vec<String>,
    /// The position that the new targets begin with.
    pub confirmed_flush_lsn: Lsn,
}

/// Whether the slot is one that we can read: of `plugin`, in our database, still valid.
///
/// # Errors
/// [`Kind::Setup`] for somebody else's slot, [`Kind::Identity`] for an invalidated one,
/// [`Kind::Connection`] for one in use.
pub fn verify_slot(source: &SourceInfo, slot: &SlotInfo, plugin: &str) -> Result<Lsn> {
    let name = &slot.name;
    let ours = &source.identity.database;
    match (&slot.plugin, &slot.database) {
        (Some(found), _) if found != plugin => {
            return Err(Error::new(
                Kind::Setup,
                format!("slot \"{name}\" belongs to the output plugin {found}, not to {plugin}"),
            )
            .hint("choose another slot_name"));
        }
        (Some(_), Some(database)) if database != ours => {
            return Err(Error::new(
                Kind::Setup,
                format!("slot \"{name}\" belongs to the database {database}, not to {ours}"),
            )
            .hint("choose another slot_name, or connect to that database"));
        }
        (Some(_), Some(_)) => {}
        _ => {
            return Err(Error::new(Kind::Setup, format!("slot \"{name}\" is a physical slot"))
                .hint("choose another slot_name"));
        }
    }
    if slot.wal_status.as_deref() == Some("lost") || slot.restart_lsn.is_none() {
        return Err(Error::new(
            Kind::Identity,
            format!("slot \"{name}\" was invalidated: the source has removed WAL that it needs"),
        )
        .hint(
            "drop the slot, let the sidecar create a new one and load the targets anew; \
             raise max_slot_wal_keep_size on the source",
        ));
    }
    if let Some(pid) = slot.active_pid {
        return Err(Error::new(
            Kind::Connection,
            format!("slot \"{name}\" is in use by PID {pid}"),
        )
        .hint("end that consumer, or give the sidecar another slot"));
    }
    // a logical slot without one has not been created to its end yet
    slot.confirmed_flush_lsn.ok_or_else(|| {
        Error::new(Kind::Connection, format!("slot \"{name}\" is still being created"))
    })
}

/// Finds the start for all `targets` (name and stored position, [`Lsn::INVALID`] for none), or the
/// gap that forbids one. `slot` is `None` when there is none; a new one may then be created only if
/// no target has a position yet, and `Ok(None)` says so.
///
/// # Errors
/// Those of [`verify_slot`]; [`Kind::Identity`] when a target's position is not between the slot's
/// and the end of the source's WAL.
pub fn verify_start(
    source: &SourceInfo,
    slot: Option<&SlotInfo>,
    targets: &[(&str, Lsn)],
) -> Result<Option<Start>> {
    let known = targets.iter().filter(|(_, position)| *position != Lsn::INVALID);
    let Some(slot) = slot else {
        return match known.clone().next() {
            None => Ok(None),
            Some((target, position)) => Err(no_slot(source, target, *position)),
        };
    };
    let confirmed = verify_slot(source, slot, PLUGIN)?;
    let mut lsn = None;
    for (target, position) in known {
        if *position < confirmed {
            return Err(gap(&slot.name, target, *position, confirmed));
        }
        if *position > source.wal_end {
            return Err(from_the_future(target, *position, source.wal_end));
        }
        lsn = Some(lsn.unwrap_or(*position).min(*position));
    }
    let new_targets: Vec<String> = targets
        .iter()
        .filter(|(_, position)| *position == Lsn::INVALID)
        .map(|(target, _)| (*target).to_owned())
        .collect();
    let lsn = lsn.filter(|_| new_targets.is_empty()).unwrap_or(confirmed);
    Ok(Some(Start { lsn, new_targets, confirmed_flush_lsn: confirmed }))
}

fn no_slot(source: &SourceInfo, target: &str, position: Lsn) -> Error {
    let name = &source.identity.slot;
    Error::new(
        Kind::Identity,
        format!("slot \"{name}\" does not exist, but target {target} has read from it"),
    )
    .at(position)
    .hint(
        "a new slot would begin now and leave a gap: correct slot_name, or forget the target's \
         position and load the target anew",
    )
}

fn gap(slot: &str, target: &str, position: Lsn, confirmed: Lsn) -> Error {
    Error::new(
        Kind::Identity,
        format!(
            "the source cannot send all that target {target} lacks: the target stands at {position}, \
             slot \"{slot}\" gives nothing below {confirmed}"
        ),
    )
    .hint(
        "the slot was advanced or created anew, or the target restored from an older backup: \
         forget the target's position and load the target anew",
    )
}

fn from_the_future(target: &str, position: Lsn, wal_end: Lsn) -> Error {
    Error::new(
        Kind::Identity,
        format!(
            "target {target} stands at {position}, but the source's WAL ends at {wal_end}: \
             the target has seen what the source does not have"
        ),
    )
    .hint(
        "the source was restored from a backup, or is another server: \
         forget the target's position and load the target anew",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::SourceIdentity;

    fn source() -> SourceInfo {
        let (database, slot) = ("d".to_owned(), "s".to_owned());
        SourceInfo {
            identity: SourceIdentity { system_id: 1, timeline: 1, database, slot },
            wal_end: Lsn(1000),
            server_version: "15".into(),
        }
    }

    fn slot() -> SlotInfo {
        SlotInfo {
            name: "s".into(),
            plugin: Some(PLUGIN.into()),
            database: Some("d".into()),
            active_pid: None,
            restart_lsn: Some(Lsn(50)),
            confirmed_flush_lsn: Some(Lsn(100)),
            wal_status: Some("reserved".into()),
            two_phase: false,
        }
    }

    fn start(targets: &[(&str, u64)]) -> Result<Option<Start>> {
        let targets: Vec<_> = targets.iter().map(|(name, lsn)| (*name, Lsn(*lsn))).collect();
        verify_start(&source(), Some(&slot()), &targets)
    }

    #[test]
    fn the_lowest_position_is_the_start() {
        let start = start(&[("a", 300), ("b", 200), ("c", 1000)]).unwrap().unwrap();
        assert_eq!(start.lsn, Lsn(200));
        assert!(start.new_targets.is_empty());
    }

    #[test]
    fn a_new_target_begins_where_the_slot_is() {
        let start = start(&[("a", 300), ("b", 0)]).unwrap().unwrap();
        assert_eq!(start.lsn, Lsn(100));
        assert_eq!(start.new_targets, ["b"]);
        assert_eq!(start.confirmed_flush_lsn, Lsn(100));
    }

    #[test]
    fn a_gap_and_a_future_stop_the_stream() {
        assert_eq!(start(&[("a", 100)]).unwrap().unwrap().lsn, Lsn(100));
        let error = start(&[("b", 300), ("a", 99)]).unwrap_err();
        assert_eq!(error.kind(), Kind::Identity);
        assert!(error.to_string().contains("the target stands at 0/63"), "{error}");
        let error = start(&[("a", 1001), ("b", 0)]).unwrap_err();
        assert_eq!(error.kind(), Kind::Identity);
        assert!(error.to_string().contains("WAL ends at 0/3E8"), "{error}");
    }

    #[test]
    fn a_slot_is_created_only_for_new_targets() {
        assert_eq!(verify_start(&source(), None, &[("a", Lsn::INVALID)]).unwrap(), None);
        let error = verify_start(&source(), None, &[("a", Lsn(0)), ("b", Lsn(5))]).unwrap_err();
        assert_eq!(error.kind(), Kind::Identity);
        assert!(error.to_string().contains("target b"), "{error}");
    }

    #[test]
    fn a_slot_that_is_not_ours_is_refused() {
        let refused = |change: fn(&mut SlotInfo)| {
            let mut slot = slot();
            change(&mut slot);
            verify_start(&source(), Some(&slot), &[("a", Lsn(500))]).unwrap_err()
        };
        type Case = (fn(&mut SlotInfo), Kind, &'static str);
        let cases: [Case; 7] = [
            (|s| s.plugin = Some("pgoutput".into()), Kind::Setup, "pgoutput"),
            (|s| s.database = Some("other".into()), Kind::Setup, "other"),
            (|s| (s.plugin, s.database) = (None, None), Kind::Setup, "physical"),
            (|s| s.wal_status = Some("lost".into()), Kind::Identity, "invalidated"),
            (|s| s.restart_lsn = None, Kind::Identity, "invalidated"),
            (|s| s.active_pid = Some(77), Kind::Connection, "PID 77"),
            (|s| s.confirmed_flush_lsn = None, Kind::Connection, "being created"),
        ];
        for (change, kind, part) in cases {
            let error = refused(change);
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
