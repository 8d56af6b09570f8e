//! Whose spool it is: `spool.json`, replaced as a whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rsrepl_wire::Lsn;
use serde::{Deserialize, Serialize};

use super::branch::Branch;
use super::record::FORMAT;
use super::segment::sync_names;
use crate::error::{Error, Kind, Result};
use crate::target::SourceIdentity;

const NAME: &str = "spool.json";

/// What is told of a spool beside its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Meta {
    pub(super) format: u32,
    pub(super) system_id: u64,
    pub(super) database: String,
    pub(super) slot: String,
    pub(super) timeline: u32,
    /// Timelines before that one, and the byte positions where they were left.
    pub(super) history: Vec<(u32, u64)>,
    /// Every target has been seen to miss nothing that is before the spool.
    pub(in super::super) accepted: bool,
}

impl Meta {
    /// Of a spool that goes on with this source.
    pub(in super::super) fn new(identity: &SourceIdentity, before: Option<&Meta>) -> Meta {
        let now = Branch::of(identity);
        let branch = match before {
            // what was known of a timeline stays known
            Some(before) if before.timeline == now.timeline && !now.is_known() => before.branch(),
            _ => now,
        };
        Meta {
            format: FORMAT,
            system_id: identity.system_id,
            database: identity.database.clone(),
            slot: identity.slot.clone(),
            timeline: branch.timeline,
            history: branch.history.iter().map(|(timeline, end)| (*timeline, end.0)).collect(),
            accepted: before.is_some_and(|meta| meta.accepted),
        }
    }

    fn branch(&self) -> Branch {
        let history = self.history.iter().map(|(timeline, end)| (*timeline, Lsn(*end))).collect();
        Branch { timeline: self.timeline, history }
    }

    /// The same, accepted.
    pub(in super::super) fn accepted(&self) -> Meta {
        Meta { accepted: true, ..self.clone() }
    }

    /// `None`: there is no spool yet.
    pub(super) fn read(dir: &Path) -> Result<Option<Meta>> {
        let path = dir.join(NAME);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                let what = format!("{} cannot be read", path.display());
                return Err(Error::new(Kind::Disk, what).because(error));
            }
        };
        // the rest of another format may have another shape
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let unreadable = |error| {
            let what = format!("{} is damaged", path.display());
            Error::new(Kind::Identity, what).because(error).hint(super::LOST)
        };
        let Format { format } = serde_json::from_slice(&text).map_err(unreadable)?;
        if format != FORMAT {
            return Err(newer(dir, format));
        }
        serde_json::from_slice(&text).map(Some).map_err(unreadable)
    }

    /// Durable when it returns.
    pub(in super::super) fn write(&self, dir: &Path) -> io::Result<()> {
        let temporary = dir.join(format!("{NAME}.new"));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file: File = options.open(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        fs::rename(&temporary, dir.join(NAME))?;
        sync_names(dir)
    }

    /// Whether what ends at `end` here is what `now` has, as far as timelines tell, and where it goes on from there.
    ///
    /// # Errors
    /// [`Kind::Identity`].
    pub(in super::super) fn verify(
        &self,
        dir: &Path,
        end: Lsn,
        now: &SourceIdentity,
    ) -> Result<()> {
        let dir = dir.display();
        let refuse = |what: String| Err(Error::new(Kind::Identity, what));
        if (self.system_id, &self.database, &self.slot) != (now.system_id, &now.database, &now.slot)
        {
            return refuse(format!(
                "the spool in {dir} is of another source: of system {} database {} slot {}, and this is \
                 system {} database {} slot {}",
                self.system_id, self.database, self.slot, now.system_id, now.database, now.slot
            ))
            .map_err(|error| error.hint(
                "point source.connection_string and slot_name at the source that it is of, or spool.dir at another folder",
            ));
        }
        if now.timeline < self.timeline {
            return refuse(format!(
                "the spool in {dir} is of timeline {}, and the source is on timeline {}: it is not the primary any more",
                self.timeline, now.timeline
            ))
            .map_err(|error| error.hint("point source.connection_string at the server that was promoted"));
        }
        if let Some(parting) = self.branch().parting(&Branch::of(now))
            && end > parting
        {
            return refuse(format!(
                "the spool in {dir} goes to {end} on timeline {}, which the source left at {parting}: \
                 it may have transactions that the source does not have any more",
                self.timeline
            ))
            .map_err(|error| error.hint(super::RESYNC));
        }
        Ok(())
    }
}

/// A spool that a later version wrote.
#[cold]
pub(super) fn newer(dir: &Path, format: u32) -> Error {
    let what = format!(
        "the spool in {} has format {format}, and this version of rsrepl knows format {FORMAT}",
        dir.display()
    );
    Error::new(Kind::Config, what).hint(
        "run the version that wrote it; to change versions, let that one apply everything first (all targets' lag is 0), \
         stop it, and remove the folder `log` of spool.dir",
    )
}
