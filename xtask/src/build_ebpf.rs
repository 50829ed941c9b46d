//! `build-ebpf`: the kernel object from source, and the proof that the committed one is not stale.
//!
//! Only plain `build-ebpf` writes what is committed; `--check` and `--compare` never do.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    manifest::{Manifest, source_digest},
    object_file,
    process::{cargo_home, run as run_command},
    toolchain::{self, Toolchain},
    workspace::{self, EBPF_CRATE},
};

const BINARY: &str = "guidevane-ebpf";
/// Little endian, as every host and DPU that the project runs on.
const TARGET: &str = "bpfel-unknown-none";
const REMEDY: &str = "run `cargo xtask build-ebpf` and commit lb-ebpf/object";

/// Compiler flags that decide the code; part of the source digest.
const FLAGS: [&str; 4] = [
    // Compare-exchange and fetching add need the v3 instruction set.
    "-Ctarget-cpu=v3",
    // The BTF is made from the debug information.
    "-Cdebuginfo=2",
    "-Clink-arg=--btf",
    // Only tracing programs read the architecture; fixed, so that every build host makes the same object.
    "--cfg=bpf_target_arch=\"x86_64\"",
];

/// Arguments of `build-ebpf`.
#[derive(clap::Args)]
pub struct Args {
    /// Fail when the committed object is not made from the sources as they are; needs no eBPF tool chain
    #[arg(long, conflicts_with = "compare")]
    check: bool,
    /// Rebuild into target/bpf and compare with the committed object if the tool chain is the same
    #[arg(long)]
    compare: bool,
}

/// Runs the verb.
///
/// # Errors
/// There is no tool chain, the build fails, or the committed object is stale or differs.
pub fn run(args: &Args) -> Result<()> {
    let root = workspace::root();
    match args {
        Args { check: true, .. } => check(&root),
        Args { compare: true, .. } => compare(&root),
        _ => build_committed(&root),
    }
}

fn check(root: &Path) -> Result<()> {
    let manifest = Manifest::read(&workspace::manifest(root))?;
    let problems =
        manifest.problems(&source_digest(root, &FLAGS)?, &read(&workspace::committed_object(root))?)?;
    if !problems.is_empty() {
        bail!("the committed kernel object is stale: {}; {REMEDY}", problems.join("; "));
    }
    println!("the committed kernel object is up to date");
    Ok(())
}

fn build_committed(root: &Path) -> Result<()> {
    let usable = usable_toolchains()?;
    let toolchain = &usable[0];
    let source = source_digest(root, &FLAGS)?;
    let object = build(root, toolchain)?;
    let manifest = Manifest::describe(&object, source, toolchain.identity())?;
    let path = workspace::committed_object(root);
    write(&path, &object)?;
    manifest.write(&workspace::manifest(root))?;
    println!("wrote {} ({} bytes)", path.display(), object.len());
    Ok(())
}

fn compare(root: &Path) -> Result<()> {
    let manifest = Manifest::read(&workspace::manifest(root))?;
    let usable = usable_toolchains()?;
    let same = usable.iter().find(|toolchain| toolchain.identity() == manifest.toolchain);
    let object = build(root, same.unwrap_or(&usable[0]))?;
    if same.is_none() {
        let own = usable[0].identity();
        println!(
            "comparison skipped: the committed object is from {}, this machine has {own}",
            manifest.toolchain
        );
        return Ok(());
    }
    let committed = object_file::sections(&read(&workspace::committed_object(root))?)?;
    let differences = object_file::differences(&committed, &object_file::sections(&object)?);
    if !differences.is_empty() {
        bail!("a rebuild differs from the committed kernel object: {}; {REMEDY}", differences.join("; "));
    }
    println!("a rebuild agrees with the committed kernel object");
    Ok(())
}

fn usable_toolchains() -> Result<Vec<Toolchain>> {
    toolchain::usable(&toolchain::probe()).map_err(|reasons| {
        anyhow::anyhow!("no eBPF tool chain: {}; `cargo xtask setup` installs one", reasons.join("; "))
    })
}

/// Tells the sources that the object at [`workspace::fresh_object`] was built from.
fn sources_of_fresh(root: &Path) -> PathBuf {
    workspace::fresh_object(root).with_extension("sources")
}

/// Whether the object at [`workspace::fresh_object`] was built from the sources as they are now.
///
/// # Errors
/// The sources cannot be read.
pub fn fresh_is_current(root: &Path) -> Result<bool> {
    let Ok(digest) = fs::read_to_string(sources_of_fresh(root)) else { return Ok(false) };
    Ok(digest == source_digest(root, &FLAGS)?)
}

/// Builds, strips and leaves the result at [`workspace::fresh_object`].
fn build(root: &Path, toolchain: &Toolchain) -> Result<Vec<u8>> {
    let crate_folder = root.join(EBPF_CRATE);
    let target_folder = root.join("target/bpf/build");
    let mut fetch = toolchain.cargo();
    run_command(fetch.current_dir(&crate_folder).args(["fetch", "--locked"]))?;
    let mut cargo = toolchain.cargo();
    cargo.current_dir(&crate_folder).args(["build", "--locked", "--release", "-Zbuild-std=core"]);
    cargo.args(["--bin", BINARY, "--target", TARGET, "--target-dir"]).arg(&target_folder);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", encoded_flags(root, toolchain));
    run_command(&mut cargo)?;
    let object = object_file::strip(&read(&target_folder.join(TARGET).join("release").join(BINARY))?)?;
    write(&workspace::fresh_object(root), &object)?;
    write(&sources_of_fresh(root), source_digest(root, &FLAGS)?.as_bytes())?;
    Ok(object)
}

/// The flags in the form that allows spaces inside, with the machine's paths mapped away:
/// they would reach the object through the line information in its BTF.
fn encoded_flags(root: &Path, toolchain: &Toolchain) -> String {
    const SEPARATOR: &str = "\u{1f}";
    let mut flags: Vec<String> = FLAGS.iter().map(|&flag| flag.to_owned()).collect();
    let mut remap =
        |from: &Path, to: &str| flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    remap(root, ".");
    remap(&toolchain.std_sources, "rust");
    if let Ok(real) = toolchain.std_sources.canonicalize() {
        remap(&real, "rust");
    }
    for registry in registries() {
        remap(&registry, "registry");
    }
    flags.join(SEPARATOR)
}

/// The folders into which cargo unpacks dependencies, one a registry.
fn registries() -> Vec<PathBuf> {
    let Some(home) = cargo_home() else { return Vec::new() };
    let Ok(entries) = fs::read_dir(home.join("registry/src")) else { return Vec::new() };
    let mut folders: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    folders.sort();
    folders
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("could not read {}; {REMEDY}", path.display()))
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    let context = || format!("could not write {}", path.display());
    fs::create_dir_all(path.parent().expect("a file lies in a folder")).with_context(context)?;
    fs::write(path, content).with_context(context)
}
