//! `build-ebpf`: the kernel objects from source, and the proof that the committed ones are not stale.
//!
//! Only plain `build-ebpf` writes what is committed; `--check` and `--compare` never do.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    manifest::{Made, Manifest, source_digest},
    object_file,
    objects::{OBJECTS, Object},
    process::{cargo_home, run as run_command},
    toolchain::{self, Toolchain},
    workspace::{self, EBPF_CRATE},
};

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
    // Only tracing programs read the architecture; fixed, so that every build host makes the same objects.
    "--cfg=bpf_target_arch=\"x86_64\"",
];

/// Arguments of `build-ebpf`.
#[derive(clap::Args)]
pub struct Args {
    /// Fail when the committed objects are not made from the sources as they are; needs no eBPF tool chain
    #[arg(long, conflicts_with = "compare")]
    check: bool,
    /// Rebuild into target/bpf and compare with the committed objects if the tool chain is the same
    #[arg(long)]
    compare: bool,
}

/// Runs the verb.
///
/// # Errors
/// There is no tool chain, the build fails, or a committed object is stale or differs.
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
    let problems = manifest.problems(&source_digest(root, &FLAGS)?, &committed(root)?)?;
    if !problems.is_empty() {
        bail!("the committed kernel objects are stale: {}; {REMEDY}", problems.join("; "));
    }
    println!("the committed kernel objects are up to date");
    Ok(())
}

fn build_committed(root: &Path) -> Result<()> {
    let usable = usable_toolchains()?;
    let toolchain = &usable[0];
    let source_sha256 = source_digest(root, &FLAGS)?;
    let fresh = build(root, toolchain)?;
    let mut objects = BTreeMap::new();
    for object in OBJECTS {
        let content = &fresh[object.name];
        let path = object.committed(root);
        objects.insert(object.name.to_owned(), Made::describe(content)?);
        write(&path, content)?;
        println!("wrote {} ({} bytes)", path.display(), content.len());
    }
    Manifest { source_sha256, toolchain: toolchain.identity(), objects }.write(&workspace::manifest(root))
}

fn compare(root: &Path) -> Result<()> {
    let manifest = Manifest::read(&workspace::manifest(root))?;
    let usable = usable_toolchains()?;
    let same = usable.iter().find(|toolchain| toolchain.identity() == manifest.toolchain);
    let fresh = build(root, same.unwrap_or(&usable[0]))?;
    if same.is_none() {
        let own = usable[0].identity();
        println!(
            "comparison skipped: the committed objects are from {}, this machine has {own}",
            manifest.toolchain
        );
        return Ok(());
    }
    let mut differences = Vec::new();
    for (name, committed) in committed(root)? {
        let committed = object_file::sections(&committed)?;
        let fresh = object_file::sections(&fresh[name])?;
        let lines = object_file::differences(&committed, &fresh);
        differences.extend(lines.iter().map(|line| format!("{name}: {line}")));
    }
    if !differences.is_empty() {
        // Symbols carry the path of the checkout, and LLVM's inlining follows their order: a few instructions may
        // differ. Stale objects are `--check`'s to find; `cargo xtask test` tests both when they differ.
        println!(
            "a rebuild differs from the committed kernel objects: {}; both are tested",
            differences.join("; ")
        );
        return Ok(());
    }
    println!("a rebuild agrees with the committed kernel objects");
    Ok(())
}

fn usable_toolchains() -> Result<Vec<Toolchain>> {
    toolchain::usable(&toolchain::probe()).map_err(|reasons| {
        anyhow::anyhow!("no eBPF tool chain: {}; `cargo xtask setup` installs one", reasons.join("; "))
    })
}

/// Tells the sources that the objects in [`workspace::fresh_objects`] were built from.
fn sources_of_fresh(root: &Path) -> PathBuf {
    workspace::fresh_objects(root).join("sources")
}

/// Whether the objects in [`workspace::fresh_objects`] were built from the sources as they are now.
///
/// # Errors
/// The sources cannot be read.
pub fn fresh_is_current(root: &Path) -> Result<bool> {
    let Ok(digest) = fs::read_to_string(sources_of_fresh(root)) else { return Ok(false) };
    Ok(digest == source_digest(root, &FLAGS)?)
}

/// Builds an object that is not committed, and gives where it lies.
///
/// # Errors
/// There is no tool chain or the build fails.
pub fn build_object(root: &Path, object: &Object) -> Result<PathBuf> {
    let toolchain = &usable_toolchains()?[0];
    fetch(root, toolchain)?;
    let path = object.fresh(root);
    write(&path, &build_one(root, toolchain, object)?)?;
    Ok(path)
}

/// The committed objects, by name.
fn committed(root: &Path) -> Result<BTreeMap<&'static str, Vec<u8>>> {
    OBJECTS.iter().map(|object| Ok((object.name, read(&object.committed(root))?))).collect()
}

/// Builds all objects, strips them and leaves them in [`workspace::fresh_objects`]; gives them by name.
fn build(root: &Path, toolchain: &Toolchain) -> Result<BTreeMap<&'static str, Vec<u8>>> {
    fetch(root, toolchain)?;
    let mut objects = BTreeMap::new();
    for object in OBJECTS {
        objects.insert(object.name, build_one(root, toolchain, &object)?);
    }
    for object in OBJECTS {
        write(&object.fresh(root), &objects[object.name])?;
    }
    write(&sources_of_fresh(root), source_digest(root, &FLAGS)?.as_bytes())?;
    Ok(objects)
}

fn fetch(root: &Path, toolchain: &Toolchain) -> Result<()> {
    let mut fetch = toolchain.cargo();
    run_command(fetch.current_dir(root.join(EBPF_CRATE)).args(["fetch", "--locked"]))
}

fn build_one(root: &Path, toolchain: &Toolchain, object: &Object) -> Result<Vec<u8>> {
    let target_folder = root.join("target/bpf/build");
    let mut cargo = toolchain.cargo();
    cargo.current_dir(root.join(EBPF_CRATE)).args(["build", "--locked", "--release", "-Zbuild-std=core"]);
    cargo.args(["--bin", object.binary, "--features", &object.features.join(",")]);
    cargo.args(["--target", TARGET, "--target-dir"]).arg(&target_folder);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", encoded_flags(root, toolchain));
    run_command(&mut cargo)?;
    object_file::strip(&read(&target_folder.join(TARGET).join("release").join(object.binary))?)
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
    // Whole at any time: tests that run side by side each build what they load.
    let part = path.with_extension(format!("{}.part", process::id()));
    fs::write(&part, content).and_then(|()| fs::rename(&part, path)).with_context(context)
}
