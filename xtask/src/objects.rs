//! The kernel objects: what each is built from, and where it lies.
//!
//! Building, checking and testing go over this table; nothing else names an object.

use std::path::{Path, PathBuf};

use crate::workspace::{self, EBPF_CRATE};

/// A kernel object, built from one binary of the kernel side's crate.
#[derive(Clone, Copy)]
pub struct Object {
    /// Its name in the manifest, and its file's.
    pub name: &'static str,
    /// The binary in the crate.
    pub binary: &'static str,
    /// The features that it is built with.
    pub features: &'static [&'static str],
    /// Tests load the object that this environment variable names instead of the committed one.
    pub variable: &'static str,
}

/// The packet path with programs around it that time it; never committed.
pub const BENCH: Object = Object {
    name: "guidevane-bench",
    binary: "guidevane-ebpf",
    features: &["bench"],
    variable: "GUIDEVANE_OBJECT",
};

/// All that are committed.
pub const OBJECTS: [Object; 3] = [
    Object { name: "guidevane", binary: "guidevane-ebpf", features: &[], variable: "GUIDEVANE_OBJECT" },
    Object {
        name: "guidevane-legacy",
        binary: "guidevane-ebpf",
        features: &["legacy"],
        variable: "GUIDEVANE_LEGACY_OBJECT",
    },
    Object {
        name: "guidevane-decap",
        binary: "guidevane-decap",
        features: &[],
        variable: "GUIDEVANE_DECAP_OBJECT",
    },
];

impl Object {
    /// Where it is committed.
    pub fn committed(&self, root: &Path) -> PathBuf {
        root.join(EBPF_CRATE).join("object").join(self.file_name())
    }

    /// Where a fresh one is left for tests; never committed.
    pub fn fresh(&self, root: &Path) -> PathBuf {
        workspace::fresh_objects(root).join(self.file_name())
    }

    fn file_name(&self) -> String {
        format!("{}.bpf.o", self.name)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::OBJECTS;

    #[test]
    fn no_two_objects_share_a_file_or_a_variable() {
        let names: HashSet<_> = OBJECTS.iter().map(|object| object.name).collect();
        let variables: HashSet<_> = OBJECTS.iter().map(|object| object.variable).collect();
        assert_eq!((names.len(), variables.len()), (OBJECTS.len(), OBJECTS.len()));
    }
}
