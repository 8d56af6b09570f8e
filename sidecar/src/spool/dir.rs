//! The folder of the spool's files, `spool.dir`.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use super::file::FrameFile;
use crate::error::Result;

/// File systems that are in memory, by `statfs(2)`: tmpfs and ramfs.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// Where a folder lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Medium {
    /// Its files take memory.
    pub in_memory: bool,
    /// Bytes that are left for us.
    pub free: u64,
}

/// A file without a name, for reading and writing.
pub(super) fn unnamed(dir: &Path) -> io::Result<File> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    if !dir.is_dir() {
        made?;
    }
    let path = dir.join(format!("{}-{:016x}", std::process::id(), rand::random::<u64>()));
    // new: nothing that somebody else has put there is followed or written to
    let file =
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

/// Finds out whether files can be made in `dir` and written to, and where it lies if that can be known.
///
/// # Errors
/// [`Kind::Disk`](crate::error::Kind::Disk).
pub fn check_dir(dir: &Path) -> Result<Option<Medium>> {
    let mut file = FrameFile::create(dir, &Arc::default())?;
    file.append(&[0; 4096])?;
    file.settle()?;
    Ok(medium(dir).ok())
}

fn medium(dir: &Path) -> io::Result<Medium> {
    let found = rustix::fs::statfs(dir)?;
    // types differ between platforms; a type is 32 bits, sometimes signed
    let kind = u64::from(found.f_type as u32);
    let free = found.f_bavail.saturating_mul(found.f_bsize as u64);
    Ok(Medium { in_memory: IN_MEMORY.contains(&kind), free })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn a_folder_that_cannot_be_used_is_said() {
        let dir = std::env::temp_dir().join(format!("rsrepl-dir-{:016x}", rand::random::<u64>()));
        fs::write(&dir, "not a folder").unwrap();
        let error = check_dir(&dir).unwrap_err();
        assert_eq!(error.kind(), Kind::Disk);
        assert!(error.to_string().contains(&*dir.to_string_lossy()), "{error}");
        assert!(error.to_string().contains("spool.dir"), "{error}");
        fs::remove_file(&dir).unwrap();
    }

    /// What `statfs` says is what the table of mounts does.
    #[test]
    fn what_is_in_memory_is_known() {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let mounts: Vec<(&str, &str)> = mounts
            .lines()
            .filter_map(|line| {
                let mut fields = line.split(' ').skip(1);
                Some((fields.next()?, fields.next()?))
            })
            .collect();
        let kinds = |path| mounts.iter().filter(move |(at, _)| *at == path).map(|(_, kind)| *kind);
        let in_memory = |path: &str| medium(Path::new(path)).unwrap().in_memory;
        assert!(!in_memory("/proc"));
        if kinds("/dev/shm").next() == Some("tmpfs") {
            assert!(in_memory("/dev/shm"), "{mounts:?}");
        }
        if kinds("/").next() == Some("ext4") {
            assert!(!in_memory("/"), "{mounts:?}");
        }
    }
}
