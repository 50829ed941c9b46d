//! A driver of NVIDIA GPUs that tests script: the stand-in library, a copy for each test with its script beside it.

use std::{
    fs,
    path::{Path, PathBuf},
};

#[path = "../nvml-standin/src/script.rs"]
mod script;

pub use script::{Event, Gpu, Instance, Process, Script, VARIABLE};

/// The library that `cargo build` makes of the workspace member.
const LIBRARY: &str = "libguidevane_nvml_standin.so";

/// A driver with its GPUs; gone when dropped.
#[derive(Debug)]
pub struct Standin {
    folder: tempfile::TempDir,
    script: Script,
}

impl Standin {
    /// A driver as the script says.
    ///
    /// # Panics
    /// The library has not been built, or cannot be copied.
    pub fn new(script: Script) -> Self {
        let standin = Self { folder: tempfile::tempdir().expect("a temporary folder"), script };
        let built = built();
        fs::copy(&built, standin.library())
            .unwrap_or_else(|error| panic!("copy {}: {error}", built.display()));
        standin.write();
        standin
    }

    /// A driver of some GPUs of which each has one busy process: `pid` on its own.
    ///
    /// # Panics
    /// As [`Standin::new`].
    pub fn with_servers(pids: &[u32]) -> Self {
        let gpu = |pid: &u32| Gpu {
            utilization: 40,
            processes: vec![Process { pid: *pid, time: 40 }],
            ..Gpu::default()
        };
        Self::new(Script { gpus: pids.iter().map(gpu).collect(), ..Script::default() })
    }

    /// The library to load.
    pub fn library(&self) -> PathBuf {
        self.folder.path().join("libnvidia-ml.so")
    }

    /// The UUID of a GPU.
    ///
    /// # Panics
    /// There is no such GPU.
    pub fn uuid(&self, gpu: usize) -> String {
        self.script.uuid(gpu).expect("a GPU of the script")
    }

    /// Changes the script; the library sees it at its next call.
    ///
    /// # Panics
    /// The file cannot be written.
    pub fn change(&mut self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script);
        self.write();
    }

    fn write(&self) {
        let text = toml::to_string(&self.script).expect("a script is a table");
        let (aside, path) =
            (self.folder.path().join("new"), self.library().with_extension(script::BESIDE_EXTENSION));
        fs::write(&aside, text).expect("write the script");
        fs::rename(aside, path).expect("put the script in its place");
    }
}

fn built() -> PathBuf {
    let own = std::env::current_exe().expect("a process knows its own program");
    let found =
        own.ancestors().skip(1).take(2).map(|folder| folder.join(LIBRARY)).find(|path| Path::is_file(path));
    found.unwrap_or_else(|| panic!("no {LIBRARY} beside {}: run `cargo build --workspace`", own.display()))
}
