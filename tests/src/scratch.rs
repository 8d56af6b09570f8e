//! A folder for the servers of one test, and ports that nobody uses.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

use tempfile::TempDir;

/// A folder below the temporary one, since a server that runs as another user cannot reach a home.
/// Goes away when dropped, unless [`Scratch::keep`] was called or the environment says `KEEP=1`.
pub struct Scratch {
    dir: TempDir,
}

impl Scratch {
    /// Makes a folder that every user may enter.
    pub fn new(name: &str) -> Scratch {
        let mut dir = tempfile::Builder::new()
            .prefix(&format!("rsrepl-{name}."))
            .tempdir()
            .expect("make a scratch folder");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        if std::env::var("KEEP").is_ok_and(|v| v == "1") {
            dir.disable_cleanup(true);
        }
        Scratch { dir }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A path inside of the folder.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Leaves the folder where it is.
    pub fn keep(&mut self) {
        self.dir.disable_cleanup(true);
    }
}

/// A loopback port that is free now. It lies below the range that the kernel gives to outgoing
/// connections, so that it stays free while a server restarts; two calls in a process never agree.
pub fn free_port() -> u16 {
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 18_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Different processes begin in different places.
    let origin = (std::process::id() as u16).wrapping_mul(131);
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + origin.wrapping_add(step) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}
