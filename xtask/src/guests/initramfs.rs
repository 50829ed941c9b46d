//! The file system that a guest starts with: a `cpio` archive in the form "newc".
//!
//! The kernel's description of it: <https://docs.kernel.org/driver-api/early-userspace/buffer-format.html>.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::process::output;

const MAGIC: &str = "070701";
/// Headers and contents start at multiples of this many bytes.
const ALIGNMENT: usize = 4;
/// The name that ends an archive.
const TRAILER: &str = "TRAILER!!!";

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const PLAIN: u32 = 0o100_644;

/// An archive being written.
pub struct Initramfs {
    archive: Vec<u8>,
    entries: BTreeSet<PathBuf>,
    /// Where stripped programs are made.
    scratch: PathBuf,
}

impl Initramfs {
    /// An empty one; `scratch` is a folder to work in.
    pub fn new(scratch: &Path) -> Self {
        Self { archive: Vec::new(), entries: BTreeSet::new(), scratch: scratch.to_path_buf() }
    }

    /// Adds a program with the shared libraries that it loads, at the paths where it looks for them.
    ///
    /// # Errors
    /// It cannot be read, or a library of it is not found.
    pub fn add_program(&mut self, path: impl AsRef<Path>, program: &Path) -> Result<()> {
        let content = self.stripped(program)?;
        self.add(path.as_ref(), PROGRAM, &content);
        for library in libraries(program)? {
            if !self.contains(&library) {
                let content =
                    fs::read(&library).with_context(|| format!("could not read {}", library.display()))?;
                self.add(&library, PROGRAM, &content);
            }
        }
        Ok(())
    }

    /// Adds a script that can be started.
    pub fn add_script(&mut self, path: impl AsRef<Path>, content: &str) {
        self.add(path.as_ref(), PROGRAM, content.as_bytes());
    }

    /// Adds a plain file.
    pub fn add_file(&mut self, path: impl AsRef<Path>, content: &[u8]) {
        self.add(path.as_ref(), PLAIN, content);
    }

    /// Adds a directory and those above it.
    pub fn add_directory(&mut self, path: impl AsRef<Path>) {
        let path = relative(path.as_ref());
        for above in path.ancestors().collect::<Vec<_>>().into_iter().rev() {
            if !above.as_os_str().is_empty() && !self.entries.contains(above) {
                self.entry(above, DIRECTORY, &[]);
            }
        }
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(Path::new(TRAILER), 0, &[]);
        self.archive
    }

    /// A program without its debug information, which is most of it and useless in a guest.
    fn stripped(&self, program: &Path) -> Result<Vec<u8>> {
        let copy = self.scratch.join("stripped");
        fs::create_dir_all(&self.scratch)?;
        let strip = output(Command::new("strip").arg("-o").arg(&copy).arg(program));
        let path = strip.map_or(program, |_| &copy);
        fs::read(path).with_context(|| format!("could not read {}", path.display()))
    }

    fn contains(&self, path: &Path) -> bool {
        self.entries.contains(relative(path))
    }

    fn add(&mut self, path: &Path, mode: u32, content: &[u8]) {
        let path = relative(path);
        if let Some(parent) = path.parent() {
            self.add_directory(parent);
        }
        self.entry(path, mode, content);
    }

    fn entry(&mut self, path: &Path, mode: u32, content: &[u8]) {
        let name = path.to_str().expect("paths in a guest are plain text");
        self.entries.insert(path.to_path_buf());
        let (inode, links) = (self.entries.len(), 1);
        // Owner and group are root, every time and device number is 0, and there is no checksum.
        let header = format!(
            "{MAGIC}{inode:08x}{mode:08x}{0:08x}{0:08x}{links:08x}{0:08x}{size:08x}{0:08x}{0:08x}{0:08x}{0:08x}{length:08x}{0:08x}",
            0,
            size = content.len(),
            length = name.len() + 1,
        );
        self.archive.extend_from_slice(header.as_bytes());
        self.archive.extend_from_slice(name.as_bytes());
        self.archive.push(0);
        self.align();
        self.archive.extend_from_slice(content);
        self.align();
    }

    fn align(&mut self) {
        self.archive.resize(self.archive.len().next_multiple_of(ALIGNMENT), 0);
    }
}

/// Archives name everything from the root, without the slash.
fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// The shared libraries of a program and the loader that it starts with; none when it is static.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let Some(listed) = output(Command::new("ldd").arg(program)) else { return Ok(Vec::new()) };
    let mut libraries = Vec::new();
    for line in listed.lines() {
        let place = line.split_once(" => ").map_or(line, |(_, place)| place).trim();
        if place == "not found" {
            bail!("{} needs a library that is not there: {}", program.display(), line.trim());
        }
        // The kernel's own page has no file.
        if let Some(path) = place.split(" (").next().filter(|path| path.starts_with('/')) {
            libraries.push(PathBuf::from(path));
        }
    }
    Ok(libraries)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Initramfs;

    #[test]
    fn a_directory_comes_before_what_is_in_it_and_only_once() {
        let mut guest = Initramfs::new(Path::new("unused"));
        guest.add_file("/a/b/one", b"1");
        guest.add_file("/a/b/two", b"22");
        guest.add_script("init", "#!/bin/sh\n");
        let archive = guest.finish();
        let names = ["a\0", "a/b\0", "a/b/one\0", "a/b/two\0", "init\0", "TRAILER!!!\0"];
        let text = String::from_utf8(archive).expect("the contents are text");
        let place =
            |name: &&str| text.find(*name).unwrap_or_else(|| panic!("{name:?} is not in the archive"));
        assert!(names.iter().map(place).is_sorted(), "in another order: {text}");
        assert_eq!(text.matches(super::MAGIC).count(), names.len());
        assert!(text.len().is_multiple_of(super::ALIGNMENT));
    }
}
