//! From where the stream may start (invariant 10). Pure; the rule behind it is in the documentation
//! of the module above.

use rsrepl_wire::Lsn;

use super::client::SourceInfo;
use super::slot::SlotInfo;
use crate::error::{Error, Kind, Result};

/// The output plugin that our slots have.
pub const PLUGIN: &str = "rsrepl";

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

/// Whether a target that stands at `position` misses nothing and has seen nothing that the source has
/// not. `confirmed` is the slot's `confirmed_flush_lsn`, `wal_end` the highest LSN that the source is
/// known to have reached. A target without a position ([`Lsn::INVALID`]) begins where the slot is.
///
/// # Errors
/// [`Kind::Identity`], of this target alone: the others go on.
pub fn verify_position(
    slot: &str,
    target: &str,
    position: Lsn,
    confirmed: Lsn,
    wal_end: Lsn,
) -> Result<()> {
    if position == Lsn::INVALID {
        return Ok(());
    }
    if position < confirmed {
        return Err(gap(slot, target, position, confirmed));
    }
    if position > wal_end {
        return Err(from_the_future(target, position, wal_end));
    }
    Ok(())
}

/// Whether the source, which is `standby` in recovery, still has what was received from it in this process, up to
/// `reached`. It has flushed everything before it sends it, so one whose WAL ends before was restored from a backup, or
/// is a copy.
///
/// # Errors
/// [`Kind::Identity`]; [`Kind::Connection`] of a standby, which may yet get there, or give way to the right server.
pub fn verify_present(reached: Lsn, wal_end: Lsn, standby: bool) -> Result<()> {
    if reached <= wal_end {
        return Ok(());
    }
    let kind = if standby { Kind::Connection } else { Kind::Identity };
    let message = format!(
        "the source's WAL ends at {wal_end}, and {reached} was received from it: it is not the source it was"
    );
    Err(Error::new(kind, message).hint(match standby {
        true => "it is a standby that is behind: connect to the primary",
        false => {
            "it was restored from a backup, or is another server. Point the connection string at the right one and \
             restart the sidecar; if there is none any more, load the targets anew (with confirm = \"spooled\", behind \
             removing the folder `log` of spool.dir)"
        }
    }))
}

/// Whether the slot still gives all that comes behind `end`, where the spool ends. `ours` is what this process has
/// confirmed to it: that all targets have, also where the source was still sending it again. Without an end
/// ([`Lsn::INVALID`]) the stream begins where the slot is.
///
/// # Errors
/// [`Kind::Identity`].
pub fn verify_resume(slot: &str, end: Lsn, confirmed: Lsn, ours: Lsn) -> Result<()> {
    if end == Lsn::INVALID || confirmed <= end.max(ours) {
        return Ok(());
    }
    let message = format!(
        "slot {slot} was moved to {confirmed} by somebody else, changes after {} are missing",
        end.max(ours)
    );
    Err(Error::new(Kind::Identity, message)
        .hint("let only one sidecar use the slot; load the targets anew and restart"))
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
        "the slot was advanced or created anew, or the target restored from an older backup, \
         or (with confirm = \"spooled\") the spool that had the rest is gone or in another folder: \
         put that back, or forget the target's position and load the target anew",
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
        "the source was restored from a backup, or is another server: forget the target's position and load the target \
         anew; or point the connection string at the right server and restart the sidecar",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::SourceIdentity;

    fn source() -> SourceInfo {
        let (database, slot) = ("d".to_owned(), "s".to_owned());
        SourceInfo {
            identity: SourceIdentity { system_id: 1, timeline: 1, database, slot, ancestors: None },
            wal_end: Lsn(1000),
            server_version: "15".into(),
        }
    }

    #[test]
    fn transactions_in_progress_are_whole_on_15() {
        let streams = |version: &str| {
            SourceInfo { server_version: version.into(), ..source() }.streams_whole()
        };
        assert!(streams("15.20 (Debian 15.20-0+deb12u1)") && streams("15beta1"));
        assert!(!streams("16.14") && !streams("18.4 (x)") && !streams("") && !streams("devel"));
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

    #[test]
    fn a_gap_and_a_future_stop_the_target() {
        let verify = |position| verify_position("s", "a", Lsn(position), Lsn(100), Lsn(1000));
        for good in [0, 100, 500, 1000] {
            verify(good).unwrap();
        }
        let error = verify(99).unwrap_err();
        assert_eq!(error.kind(), Kind::Identity);
        assert!(error.to_string().contains("the target stands at 0/63"), "{error}");
        let error = verify(1001).unwrap_err();
        assert_eq!(error.kind(), Kind::Identity);
        assert!(error.to_string().contains("WAL ends at 0/3E8"), "{error}");
    }

    #[test]
    fn a_source_does_not_go_back() {
        verify_present(Lsn::INVALID, Lsn(100), false).unwrap();
        verify_present(Lsn(100), Lsn(100), false).unwrap();
        for (standby, kind) in [(false, Kind::Identity), (true, Kind::Connection)] {
            let error = verify_present(Lsn(101), Lsn(100), standby).unwrap_err();
            assert_eq!(error.kind(), kind);
            assert!(error.to_string().contains("ends at 0/64, and 0/65 was received"), "{error}");
        }
    }

    #[test]
    fn a_slot_may_have_been_moved_by_us_alone() {
        let verify = |end, ours| verify_resume("s", Lsn(end), Lsn(100), Lsn(ours));
        // nothing received yet; all of it received; confirmed while it came again
        for (end, ours) in [(0, 0), (100, 0), (150, 60), (40, 100), (40, 120)] {
            verify(end, ours).unwrap();
        }
        for (end, ours) in [(99, 0), (40, 99)] {
            let error = verify(end, ours).unwrap_err();
            assert_eq!(error.kind(), Kind::Identity);
            assert!(error.to_string().contains("after 0/63 are missing"), "{error}");
        }
    }

    #[test]
    fn a_slot_that_is_not_ours_is_refused() {
        let refused = |change: fn(&mut SlotInfo)| {
            let mut slot = slot();
            change(&mut slot);
            verify_slot(&source(), &slot, PLUGIN).unwrap_err()
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
