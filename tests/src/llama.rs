//! Real llama.cpp servers, as `cargo xtask setup --peers` installs them.

use std::{
    io,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use crate::bed::Namespace;

/// The model of 3 million parameters.
pub const FAST: &str = "fast.gguf";

/// The model of 86 million parameters, some twenty times as slow.
pub const SLOW: &str = "slow.gguf";

/// The folder of the server and its models, if it is installed.
pub fn installed() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?.join("target/peers/llama.cpp");
    folder.join(SLOW).is_file().then_some(folder)
}

/// A server in a process of its own, on one thread, with four slots; killed when dropped.
#[derive(Debug)]
pub struct Llama(Child);

impl Llama {
    /// Starts one from the `folder` of [`installed`]; it answers once its model is loaded.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(namespace: &Namespace, folder: &Path, model: &str, port: u16) -> io::Result<Self> {
        let programs = folder.join("bin");
        let mut command = namespace.command(programs.join("llama-server"));
        command.env("LD_LIBRARY_PATH", &programs);
        command.arg("--model").arg(folder.join(model));
        command.args(["--host", "0.0.0.0", "--port", &port.to_string()]);
        command.args(["--threads", "1", "--threads-batch", "1", "--parallel", "4", "--ctx-size", "8192"]);
        command.args(["--gpu-layers", "0", "--cache-ram", "0", "--metrics", "--no-webui", "--log-disable"]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().map(Self)
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Llama {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
