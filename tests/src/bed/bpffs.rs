//! A bpffs mount of the bed's own, so that no pin of another process is in the way.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{BedError, Prefix};

/// Root's own, and gone after a restart.
pub const FOLDER: &str = "/run";

/// A mounted bpffs that is unmounted, with every pin in it, when this value is dropped.
#[derive(Debug)]
pub struct Bpffs(PathBuf);

impl Bpffs {
    /// Mounts a new bpffs under a name of this bed.
    ///
    /// # Errors
    /// The process is not root's.
    pub fn in_bed(prefix: &Prefix) -> Result<Self, BedError> {
        let path = Path::new(FOLDER).join(prefix.name("bpffs"));
        fs::create_dir(&path).map_err(|source| BedError::Path {
            action: "create",
            path: path.clone(),
            source,
        })?;
        let created = Self(path.clone());
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("bpffs"), &path, Some("bpf"), flags, Some("mode=0700")).map_err(|errno| {
            BedError::Path { action: "mount a bpffs at", path, source: io::Error::from(errno) }
        })?;
        Ok(created)
    }

    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// Unmounts and removes; what is already gone is passed over.
pub fn remove(path: &Path) {
    let _not_mounted = umount2(path, MntFlags::MNT_DETACH);
    let _gone = fs::remove_dir(path);
}
