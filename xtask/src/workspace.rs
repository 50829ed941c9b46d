//! Where things lie in the checkout.

use std::path::{Path, PathBuf};

/// Path of the kernel side's crate, relative to the root.
pub const EBPF_CRATE: &str = "lb-ebpf";
/// Path of the crate shared by both sides, relative to the root.
pub const COMMON_CRATE: &str = "lb-common";

/// The root of the checkout that this program was built from.
pub fn root() -> PathBuf {
    let own_crate = Path::new(env!("CARGO_MANIFEST_DIR"));
    own_crate.parent().expect("the crate lies in the workspace root").to_path_buf()
}

/// The record of how the committed objects were made.
pub fn manifest(root: &Path) -> PathBuf {
    root.join(EBPF_CRATE).join("object/manifest.toml")
}

/// The folder in which fresh objects are left for tests; never committed.
pub fn fresh_objects(root: &Path) -> PathBuf {
    root.join("target/bpf")
}

/// The folder of the real programs that tests put beside or behind Guidevane; never committed.
pub fn peers(root: &Path) -> PathBuf {
    root.join("target/peers")
}
