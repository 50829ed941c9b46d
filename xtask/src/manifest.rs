//! The record beside the committed kernel objects: which sources and which tool chain made them.
//!
//! It covers what reaches the kernel and nothing else, so a change of the user space leaves it alone.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    object_file::{self, Sections},
    toolchain::Identity,
    workspace::{COMMON_CRATE, EBPF_CRATE},
};

const HEADER: &str =
    "# Written by `cargo xtask build-ebpf`, checked by `cargo xtask build-ebpf --check`.\n\n";

/// How the committed objects were made.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Digest of the sources and compiler flags, see [`source_digest`].
    pub source_sha256: String,
    /// The compilers and linkers that made them.
    pub toolchain: Identity,
    /// What was made, by the object's name.
    pub objects: BTreeMap<String, Made>,
}

/// One object, as it was made.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Made {
    /// Digest of the whole file.
    pub sha256: String,
    /// Digests of its program and map sections.
    pub sections: Sections,
}

impl Made {
    /// Describes an object that was just made.
    ///
    /// # Errors
    /// The object is unreadable.
    pub fn describe(object: &[u8]) -> Result<Self> {
        Ok(Self { sha256: object_file::sha256(object), sections: object_file::sections(object)? })
    }

    /// One line for each way in which an object is not this one.
    fn problems(&self, name: &str, object: &[u8]) -> Result<Vec<String>> {
        let mut problems: Vec<_> = object_file::differences(&self.sections, &object_file::sections(object)?)
            .iter()
            .map(|difference| format!("{name} is not the manifest's: section {difference}"))
            .collect();
        if problems.is_empty() && self.sha256 != object_file::sha256(object) {
            problems.push(format!("{name} is not the manifest's, though its sections are"));
        }
        Ok(problems)
    }
}

impl Manifest {
    /// Reads the manifest at `path`.
    ///
    /// # Errors
    /// The file is missing or is no manifest.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| {
            format!(
                "no manifest at {}; run `cargo xtask build-ebpf` and commit lb-ebpf/object",
                path.display()
            )
        })?;
        toml::from_str(&text).with_context(|| format!("{} is no manifest", path.display()))
    }

    /// Writes the manifest to `path`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = toml::to_string(self).context("could not print the manifest")?;
        fs::write(path, format!("{HEADER}{text}"))
            .with_context(|| format!("could not write {}", path.display()))
    }

    /// One line for each way in which the committed objects and their sources disagree with this manifest.
    ///
    /// # Errors
    /// An object is unreadable.
    pub fn problems(&self, source_sha256: &str, objects: &BTreeMap<&str, Vec<u8>>) -> Result<Vec<String>> {
        let mut problems = Vec::new();
        if self.source_sha256 != source_sha256 {
            problems.push("the sources have changed since the objects were built".to_owned());
        }
        for (name, object) in objects {
            match self.objects.get(*name) {
                Some(made) => problems.extend(made.problems(name, object)?),
                None => problems.push(format!("{name} is not in the manifest")),
            }
        }
        let unknown = self.objects.keys().filter(|&name| !objects.contains_key(name.as_str()));
        problems.extend(unknown.map(|name| format!("the manifest has {name}, which is no longer built")));
        Ok(problems)
    }
}

/// Digest of everything that decides what the kernel objects are: sources, manifests, lock file, compiler flags.
///
/// Files are taken in the order of their relative paths; path and content are each preceded by their length,
/// so that no two trees share an encoding.
///
/// # Errors
/// A crate of the kernel side is missing or unreadable.
pub fn source_digest(root: &Path, flags: &[&str]) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut add = |part: &[u8]| {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    };
    for path in source_files(root)? {
        let content =
            fs::read(root.join(&path)).with_context(|| format!("could not read {}", path.display()))?;
        add(path.as_os_str().as_encoded_bytes());
        add(&content);
    }
    flags.iter().for_each(|flag| add(flag.as_bytes()));
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The files that reach a kernel object, relative to the root, sorted.
fn source_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = vec![
        Path::new(EBPF_CRATE).join("Cargo.toml"),
        Path::new(EBPF_CRATE).join("Cargo.lock"),
        Path::new(COMMON_CRATE).join("Cargo.toml"),
    ];
    for folder in [EBPF_CRATE, COMMON_CRATE] {
        collect(root, &Path::new(folder).join("src"), &mut files)?;
    }
    files.sort();
    Ok(files)
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let context = || format!("could not list {}", folder.display());
    for entry in fs::read_dir(root.join(folder)).with_context(context)? {
        let entry = entry.with_context(context)?;
        let path = folder.join(entry.file_name());
        if is_test(&path) {
            continue;
        }
        if entry.file_type().with_context(context)?.is_dir() {
            collect(root, &path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// Test modules in files of their own never reach the kernel.
fn is_test(path: &Path) -> bool {
    path.file_stem().is_some_and(|stem| stem == "tests")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: [&str; 1] = ["-Ctarget-cpu=v3"];

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a temporary folder");
        let base = [("lb-ebpf/Cargo.toml", ""), ("lb-ebpf/Cargo.lock", ""), ("lb-common/Cargo.toml", "")];
        let sources = [("lb-ebpf/src/main.rs", "main"), ("lb-common/src/lib.rs", "lib")];
        for (path, content) in base.iter().chain(&sources).chain(files) {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            fs::write(path, content).expect("a file");
        }
        root
    }

    fn digest(files: &[(&str, &str)]) -> String {
        source_digest(tree(files).path(), &FLAGS).expect("a digest")
    }

    #[test]
    fn equal_trees_in_different_places_have_equal_digests() {
        let files = [("lb-common/src/a.rs", "a"), ("lb-common/src/b/c.rs", "c")];
        assert_eq!(digest(&files), digest(&files));
    }

    #[test]
    fn tests_and_user_space_leave_the_digest_alone() {
        for path in [
            "lb-common/src/tests.rs",
            "lb-common/src/flow/tests.rs",
            "lb-common/src/tests/pick.rs",
            "lb-common/tests/maglev.rs",
            "lb-userspace/src/main.rs",
            "lb-ebpf/object/manifest.toml",
        ] {
            assert_eq!(digest(&[(path, "new")]), digest(&[]), "{path} changed the digest");
        }
    }

    #[test]
    fn whatever_reaches_the_kernel_changes_the_digest() {
        for path in [
            "lb-ebpf/src/main.rs",
            "lb-ebpf/Cargo.toml",
            "lb-ebpf/Cargo.lock",
            "lb-common/src/new.rs",
            "lb-common/Cargo.toml",
        ] {
            assert_ne!(digest(&[(path, "new")]), digest(&[]), "{path} left the digest alone");
        }
        let tree = tree(&[]);
        let flags = |flags: &[&str]| source_digest(tree.path(), flags).expect("a digest");
        assert_ne!(flags(&FLAGS), flags(&[]));
    }

    #[test]
    fn moving_text_between_name_and_content_changes_the_digest() {
        assert_ne!(digest(&[("lb-common/src/ab", "c")]), digest(&[("lb-common/src/a", "bc")]),);
    }

    #[test]
    fn a_missing_crate_is_named() {
        let empty = tempfile::tempdir().expect("a temporary folder");
        let error = source_digest(empty.path(), &FLAGS).expect_err("there are no sources");
        assert!(format!("{error:#}").contains("lb-ebpf/src"), "{error:#}");
    }

    fn made(sha256: &str) -> Made {
        Made { sha256: sha256.to_owned(), sections: [("xdp".to_owned(), "22".to_owned())].into() }
    }

    fn toolchain() -> Identity {
        Identity {
            rustc: "rustc 1.96.0".into(),
            llvm: "22.1.8".into(),
            linker: "bpf-linker 0.13.0".into(),
            linker_llvm: "22.1.8".into(),
        }
    }

    #[test]
    fn an_object_too_many_or_too_few_and_changed_sources_are_named() {
        let objects = [("gone".to_owned(), made("11"))].into();
        let manifest = Manifest { source_sha256: "00".into(), toolchain: toolchain(), objects };
        let built = [("new", Vec::new())].into();
        let problems = manifest.problems("01", &built).expect("nothing is unreadable");
        assert_eq!(
            problems,
            [
                "the sources have changed since the objects were built",
                "new is not in the manifest",
                "the manifest has gone, which is no longer built",
            ]
        );
    }

    #[test]
    fn a_manifest_survives_writing_and_reading() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("manifest.toml");
        let manifest = Manifest {
            source_sha256: "00".into(),
            toolchain: toolchain(),
            objects: [("guidevane".to_owned(), made("11"))].into(),
        };
        manifest.write(&path).expect("the manifest is written");
        assert_eq!(Manifest::read(&path).expect("the manifest is read"), manifest);
    }
}
