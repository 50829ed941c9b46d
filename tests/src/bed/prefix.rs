//! Names that tell whose they are, so that what a dead process left can be found and nothing else is touched.

use std::{
    fmt, fs,
    path::Path,
    process,
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
};

use super::{bpffs, namespace};

const MARK: &str = "gv";

/// The first part of the name of everything in one bed: `gv<process>-<instance>`.
#[derive(Clone, Debug)]
pub struct Prefix(String);

impl Prefix {
    /// A prefix that no other bed has. The first one of a process also sweeps what dead processes left.
    pub fn new() -> Self {
        static SWEEP: Once = Once::new();
        static INSTANCES: AtomicU32 = AtomicU32::new(0);
        SWEEP.call_once(sweep);
        Self(format!("{MARK}{}-{}", process::id(), INSTANCES.fetch_add(1, Ordering::Relaxed)))
    }

    /// The name of one thing in the bed.
    pub fn name(&self, role: &str) -> String {
        format!("{self}-{role}")
    }
}

impl Default for Prefix {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Removes namespaces and mounts whose process is gone, as the first [`Prefix`] of a process does.
///
/// Another process may do the same at the same time, so what is already gone is passed over.
pub fn sweep() {
    for name in stale(Path::new(namespace::FOLDER)) {
        namespace::remove(&name);
    }
    for name in stale(Path::new(bpffs::FOLDER)) {
        bpffs::remove(&Path::new(bpffs::FOLDER).join(name));
    }
}

fn stale(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| owner(name).is_some_and(|process| !is_alive(process))).collect()
}

/// The process in a name made by [`Prefix::name`], `None` for every other name.
fn owner(name: &str) -> Option<u32> {
    let mut parts = name.strip_prefix(MARK)?.splitn(3, '-');
    let process = parts.next()?.parse().ok()?;
    let _instance: u32 = parts.next()?.parse().ok()?;
    parts.next().map(|_role| process)
}

fn is_alive(process: u32) -> bool {
    Path::new("/proc").join(process.to_string()).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_process() {
        assert_eq!(owner(&Prefix::new().name("server-3")), Some(process::id()));
    }

    #[test]
    fn two_beds_never_share_a_name() {
        assert_ne!(Prefix::new().name("client"), Prefix::new().name("client"));
    }

    #[test]
    fn foreign_names_have_no_owner() {
        for name in
            ["client", "gv", "gv-0-client", "gv12", "gv12-client", "gv12-0", "gvx-0-client", "xgv1-0-a"]
        {
            assert_eq!(owner(name), None, "{name}");
        }
    }

    #[test]
    fn this_process_is_alive() {
        assert!(is_alive(process::id()));
        assert!(!is_alive(u32::MAX));
    }
}
