//! What is made of a file that may be replaced while it is in use: a token, certificates.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use super::SourceError;

/// How often the file is looked at: tokens are renewed every few minutes, and before they expire.
const LOOK: Duration = Duration::from_secs(1);

/// Longest file that is read; a bundle of all the web's authorities is a quarter of it.
const MAX_BYTES: u64 = 1 << 20;

/// What changes when a file is written or replaced.
#[derive(Clone, Copy, PartialEq)]
struct Stamp {
    modified: SystemTime,
    file: (u64, u64),
    len: u64,
}

/// A `T` made of the file's content by `make`.
pub(super) struct Watched<T> {
    path: PathBuf,
    make: fn(&[u8]) -> io::Result<T>,
    made: Option<(T, Stamp)>,
    looked: Option<Instant>,
}

impl<T: Clone> Watched<T> {
    /// Reads nothing yet.
    pub(super) fn new(path: PathBuf, make: fn(&[u8]) -> io::Result<T>) -> Self {
        Self { path, make, made: None, looked: None }
    }

    /// What the file says at `now`, give or take a second.
    pub(super) fn get(&mut self, now: Instant) -> Result<T, SourceError> {
        if let (Some((made, _)), Some(looked)) = (&self.made, self.looked)
            && now.saturating_duration_since(looked) < LOOK
        {
            return Ok(made.clone());
        }
        match self.read() {
            Ok((made, stamp)) => {
                self.looked = Some(now);
                self.made = Some((made.clone(), stamp));
                Ok(made)
            }
            Err(source) => {
                self.made = None;
                Err(SourceError::File { path: self.path.clone(), source })
            }
        }
    }

    fn read(&self) -> io::Result<(T, Stamp)> {
        let about = fs::metadata(&self.path)?;
        let stamp = Stamp { modified: about.modified()?, file: (about.dev(), about.ino()), len: about.len() };
        if let Some((made, known)) = &self.made
            && *known == stamp
        {
            return Ok((made.clone(), stamp));
        }
        let mut content = Vec::new();
        File::open(&self.path)?.take(MAX_BYTES).read_to_end(&mut content)?;
        Ok(((self.make)(&content)?, stamp))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io, path::Path, time::Instant};

    use super::{LOOK, Watched};

    fn text(content: &[u8]) -> io::Result<String> {
        String::from_utf8(content.to_vec()).map_err(io::Error::other)
    }

    /// As Kubernetes does: another file under the same name.
    fn replace(path: &Path, content: &[u8]) {
        let other = path.with_extension("new");
        fs::write(&other, content).expect("write");
        fs::rename(&other, path).expect("rename");
    }

    #[test]
    fn a_file_is_read_again_when_it_was_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        let mut watched = Watched::new(path.clone(), text);
        let mut now = Instant::now();
        let mut get = |seconds: u32| {
            now += LOOK * seconds;
            watched.get(now).map_err(|error| error.to_string())
        };
        let missing = get(0).expect_err("it is not there");
        assert!(missing.starts_with(&format!("read {}: No such file", path.display())), "{missing}");

        fs::write(&path, "one").expect("write");
        assert_eq!(get(0).as_deref(), Ok("one"));
        replace(&path, b"two");
        assert_eq!(get(0).as_deref(), Ok("one"), "it looks too often");
        assert_eq!(get(1).as_deref(), Ok("two"));
        assert_eq!(get(1).as_deref(), Ok("two"));

        replace(&path, b"\xff");
        for seconds in [1, 0] {
            let bad = get(seconds).expect_err("not UTF-8");
            assert!(bad.contains("invalid utf-8"), "{bad}");
        }
        replace(&path, b"three");
        assert_eq!(get(0).as_deref(), Ok("three"));
        fs::remove_file(&path).expect("remove");
        get(1).expect_err("it is gone");
    }
}
