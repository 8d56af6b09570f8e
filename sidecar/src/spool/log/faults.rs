//! Writing and synchronizing, which fail in tests when they are told to.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A disk that fails when it is told to, for tests.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Failing(#[cfg(test)] pub(in super::super) std::sync::Arc<Faults>);

#[cfg(test)]
#[derive(Debug, Default)]
pub(in super::super) struct Faults {
    /// Bytes that may still be written; then the disk is full, until there are more.
    pub(in super::super) full: std::sync::Mutex<Option<u64>>,
    /// The next `fdatasync` fails.
    pub(in super::super) sync: std::sync::atomic::AtomicBool,
    /// The next `fdatasync` panics.
    pub(in super::super) panic: std::sync::atomic::AtomicBool,
    /// No file can be removed.
    pub(in super::super) remove: std::sync::atomic::AtomicBool,
    /// `fdatasync` waits until this is false.
    pub(in super::super) slow: std::sync::atomic::AtomicBool,
}

impl Failing {
    pub(super) fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        self.room(bytes.len())?;
        file.write_all_at(bytes, at)
    }

    #[cfg(not(test))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "tests have a disk that fills up"
    )]
    pub(super) fn room(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "tests have a disk that fails")]
    pub(super) fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "tests have a disk that fails")]
    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    #[cfg(test)]
    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        if self.0.remove.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        std::fs::remove_file(path)
    }

    #[cfg(test)]
    pub(super) fn room(&self, bytes: usize) -> io::Result<()> {
        if let Some(left) = &mut *self.0.full.lock().unwrap() {
            let rest = left.checked_sub(bytes as u64);
            *left = rest.ok_or(io::ErrorKind::StorageFull)?;
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn sync(&self, file: &File) -> io::Result<()> {
        use std::sync::atomic::Ordering;
        while self.0.slow.load(Ordering::Relaxed) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert!(!self.0.panic.swap(false, Ordering::Relaxed), "it was told to");
        if self.0.sync.swap(false, Ordering::Relaxed) {
            return Err(io::ErrorKind::Other.into());
        }
        file.sync_data()
    }
}
