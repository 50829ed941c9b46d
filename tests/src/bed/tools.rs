//! The two commands of the distribution that the bed calls, and settings under `/proc/sys`.

use std::{
    fs,
    io::{self, Write as _},
    process::{Command, Output, Stdio},
};

use super::{BedError, Namespace};

/// The path of `iproute2`'s command, found through `PATH`.
pub const IP: &str = "ip";

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Result<(), BedError> {
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let output =
        child.and_then(std::process::Child::wait_with_output).map_err(|error| failed(command, error))?;
    success(command, &output)
}

/// Runs `ip -batch` inside the namespace with one command a line.
pub fn ip_batch(namespace: &Namespace, lines: &[String]) -> Result<(), BedError> {
    let mut command = namespace.command(IP);
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let output = (|| {
        let mut child = command.spawn()?;
        let mut input = child.stdin.take().expect("standard input is piped");
        input.write_all((lines.join("\n") + "\n").as_bytes())?;
        drop(input);
        child.wait_with_output()
    })();
    let output = output.map_err(|error| failed(&command, error))?;
    success(&command, &output).map_err(|error| match error {
        BedError::Command { message, .. } => {
            BedError::Command { command: format!("ip -batch in {}", namespace.name()), message }
        }
        other => other,
    })
}

/// Makes frames on this interface look as on a wire: whole checksums, no frames above the MTU.
///
/// A frame that leaves an XDP program has lost the note that its checksum is still to be filled in, which veth
/// writes where a network card would fill it in.
pub fn disable_offloads(namespace: &Namespace, interface: &str) -> Result<(), BedError> {
    let features = ["tx", "off", "tso", "off", "gso", "off", "gro", "off"];
    run(namespace.command("ethtool").arg("-K").arg(interface).args(features))
}

/// Writes settings, names relative to `/proc/sys/net`, inside the namespace.
pub fn sysctls(namespace: &Namespace, settings: &[(&str, &str)]) -> Result<(), BedError> {
    namespace.run(|| {
        for (name, value) in settings {
            let path = std::path::Path::new("/proc/sys/net").join(name);
            fs::write(&path, value).map_err(|source| BedError::Path { action: "write", path, source })?;
        }
        Ok(())
    })
}

fn success(command: &Command, output: &Output) -> Result<(), BedError> {
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(BedError::Command { command: display(command), message })
}

fn failed(command: &Command, error: io::Error) -> BedError {
    let tool = command.get_program().to_string_lossy().into_owned();
    if error.kind() == io::ErrorKind::NotFound {
        let package = if tool == IP { "iproute2" } else { "ethtool" };
        return BedError::MissingTool { tool, package };
    }
    BedError::Command { command: display(command), message: error.to_string() }
}

fn display(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
