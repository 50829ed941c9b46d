//! The kernels that guests run: Debian's, as its releases ship them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::archive::{Wanted, unpacked};

/// A kernel that is tested.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// Its series, as in the first two parts of `uname -r`.
    pub series: &'static str,
    /// The Debian release that it comes with.
    release: &'static str,
}

/// All of them, the oldest first.
pub const KERNELS: [Kernel; 3] = [
    // No fetching atomics (5.12) and no multi-buffer XDP (5.18).
    Kernel { series: "5.10", release: "bullseye" },
    Kernel { series: "6.1", release: "bookworm" },
    Kernel { series: "6.12", release: "trixie" },
];

/// Depends on the release's kernel for virtual machines: the same code with fewer drivers.
const METAPACKAGE: &str = "linux-image-cloud-amd64";

/// What the test bed needs of the kernel, each after what it needs itself.
const MODULES: [&str; 4] = ["net/llc/llc", "net/802/stp", "net/bridge/bridge", "drivers/net/veth"];

/// A kernel with its modules, ready to boot.
pub struct Image {
    /// The compressed kernel.
    pub kernel: PathBuf,
    /// Modules in the order of loading: name and content.
    pub modules: Vec<(String, Vec<u8>)>,
}

impl Kernel {
    /// Gets the kernel if it is not there yet; `unxz` decompresses modules.
    ///
    /// # Errors
    /// It cannot be had, or the package is not as expected.
    pub fn image(&self, folder: &Path, unxz: &Path) -> Result<Image> {
        let root = unpacked(&folder.join(self.series), self.release, Wanted::Behind(METAPACKAGE))?;
        let boot = root.join("boot");
        let (kernel, version) =
            kernel_in(&boot).with_context(|| format!("no kernel in {}", boot.display()))?;
        // Newer releases have them below `usr`.
        let folders =
            ["lib/modules", "usr/lib/modules"].map(|lib| root.join(lib).join(&version).join("kernel"));
        let modules = folders.iter().find(|folder| folder.is_dir());
        let modules = modules.with_context(|| format!("no modules of {version} in {}", root.display()))?;
        let read = |path: &&str| {
            let name = path.rsplit('/').next().unwrap_or(path);
            Ok((format!("{name}.ko"), module(&modules.join(path), unxz)?))
        };
        Ok(Image { kernel, modules: MODULES.iter().map(read).collect::<Result<_>>()? })
    }
}

fn kernel_in(boot: &Path) -> Option<(PathBuf, String)> {
    fs::read_dir(boot).ok()?.flatten().find_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        Some((entry.path(), name.strip_prefix("vmlinuz-")?.to_owned()))
    })
}

/// A module, decompressed: guests load it by plain `insmod`.
fn module(path: &Path, unxz: &Path) -> Result<Vec<u8>> {
    let plain = path.with_extension("ko");
    if plain.is_file() {
        return fs::read(&plain).with_context(|| format!("could not read {}", plain.display()));
    }
    let compressed = path.with_extension("ko.xz");
    let output = Command::new(unxz).args(["unxz", "-c"]).arg(&compressed).output()?;
    if !output.status.success() {
        bail!("could not decompress {}: {}", compressed.display(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.stdout)
}
