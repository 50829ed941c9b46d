//! What `setup --peers` installs: real programs that tests put beside or behind Guidevane.
//!
//! One module owns one peer. All of it lies under `target/peers`, so `cargo clean` removes it; a peer that is there
//! already is left as it is. Versions are pinned with their digests: a test's figures depend on them.

mod gguf;
mod llama;

use anyhow::{Context as _, Result};

use crate::workspace;

/// Installs every peer.
///
/// # Errors
/// One cannot be downloaded or written; the message has the peer and the remedy.
pub fn install() -> Result<()> {
    let folder = workspace::peers(&workspace::root());
    llama::install(&folder.join("llama.cpp")).context("could not install llama.cpp's server")
}
