//! A small file system.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::process;

/// A file system of a given size, in memory, while this lives.
pub struct Tmpfs(PathBuf);

/// Something that takes all the room of one, while this lives.
pub struct Full(PathBuf);

impl Tmpfs {
    /// Mounts one; `size` as mount(8) has it. `None`: that takes root and the right to mount.
    pub fn mount(at: PathBuf, size: &str) -> Option<Tmpfs> {
        process::server_user()?;
        fs::create_dir_all(&at).expect("make the mount point");
        let options = format!("size={size},mode=700");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "none"]).arg(&at);
        mount.status().is_ok_and(|status| status.success()).then_some(Tmpfs(at))
    }

    /// Takes all the room that is left.
    pub fn fill(&self) -> Full {
        let file = self.0.join("filler");
        // it ends with the error that there is no more room
        let _ = Command::new("dd")
            .args(["if=/dev/zero", "bs=64k", "status=none"])
            .arg(format!("of={}", file.display()))
            .stderr(std::process::Stdio::null())
            .status();
        Full(file)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // what still has it open ends on its own
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
