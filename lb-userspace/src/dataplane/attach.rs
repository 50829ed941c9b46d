//! Attaching the program to interfaces, and replacing an earlier daemon's without missing a packet.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::programs::{
    ProgramError, Xdp,
    links::{FdLink, PinnedLink},
    xdp::{XdpError, XdpLink, XdpLinkId, XdpMode},
};

use super::error::Error;

/// Where to attach, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The interface's name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// In the kernel's generic path: only when asked for, since it is slower.
    pub generic: bool,
}

impl Port {
    const fn mode(&self) -> &'static str {
        if self.generic { "generic" } else { "native" }
    }
}

/// The program on an interface, for as long as this lives, or longer when pinned.
pub enum Attachment {
    /// Ends with the daemon.
    Owned(XdpLinkId),
    /// Stays behind.
    Pinned(PinnedLink),
}

/// Attaches `program` to `port`; with a directory to pin to, takes the place of the program whose link is
/// pinned there.
///
/// # Errors
///
/// With the kernel's reason, and the way out where one is known.
pub fn attach(program: &mut Xdp, port: &Port, pin: Option<&Path>) -> Result<Attachment, Error> {
    let Some(directory) = pin else {
        return fresh(program, port).map(Attachment::Owned);
    };
    let path = directory.join(format!("link-{}", port.name));
    if path.exists() {
        return replace(program, port, &path).map(Attachment::Pinned);
    }
    let id = fresh(program, port)?;
    let pinned = program
        .take_link(id)
        .map_err(|error| pin_error(&path, &error.to_string()))
        .and_then(|link| FdLink::try_from(link).map_err(|error| pin_error(&path, &error.to_string())))
        .and_then(|link| link.pin(&path).map_err(|error| pin_error(&path, &error.to_string())))?;
    Ok(Attachment::Pinned(pinned))
}

fn pin_error(path: &Path, reason: &str) -> Error {
    Error::Pin { path: path.to_path_buf(), reason: reason.to_owned() }
}

fn fresh(program: &mut Xdp, port: &Port) -> Result<XdpLinkId, Error> {
    let mode = if port.generic { XdpMode::Skb } else { XdpMode::Driver };
    program.attach_to_if_index(port.index, mode).map_err(|error| Error::Attach {
        interface: port.name.clone(),
        mode: port.mode(),
        reason: explain(&error, port),
    })
}

/// Puts the program into a pinned link. The link is bound to the interface it was made for.
fn replace(program: &mut Xdp, port: &Port, path: &PathBuf) -> Result<PinnedLink, Error> {
    let refuse = |reason: String| Error::Attach { interface: port.name.clone(), mode: port.mode(), reason };
    let pinned = PinnedLink::from_pin(path).map_err(|error| refuse(error.to_string()))?;
    let link = XdpLink::try_from(FdLink::from(pinned)).map_err(|error| refuse(error.to_string()))?;
    let id = program.attach_to_link(link).map_err(|error| refuse(error.to_string()))?;
    // The pin itself was never removed; the descriptor goes back into it.
    program.take_link(id).map_err(|error| refuse(error.to_string()))?;
    PinnedLink::from_pin(path).map_err(|error| refuse(error.to_string()))
}

/// What the kernel said, with what can be done about it.
fn explain(error: &ProgramError, port: &Port) -> String {
    let code = match error {
        ProgramError::SyscallError(call) => call.io_error.raw_os_error(),
        ProgramError::XdpError(XdpError::NetlinkError(error)) => error.raw_os_error(),
        _ => None,
    };
    let advice = match code {
        Some(libc::EBUSY | libc::EEXIST) => {
            format!("another XDP program is there; remove it with `ip link set dev {} xdp off`", port.name)
        }
        Some(libc::EOPNOTSUPP) if !port.generic => {
            "its driver has no native XDP; ask for `mode = \"generic\"` and accept that it is slower"
                .to_owned()
        }
        Some(libc::EPERM) => "CAP_NET_ADMIN and CAP_BPF are needed".to_owned(),
        Some(libc::EINVAL | libc::ERANGE) => {
            "an MTU above about 3,500 bytes, or LRO, is a common cause: see `ip link` and `ethtool -k`"
                .to_owned()
        }
        _ => String::new(),
    };
    let said = io_reason(error);
    if advice.is_empty() { said } else { format!("{said}: {advice}") }
}

fn io_reason(error: &ProgramError) -> String {
    let cause: Option<&io::Error> = match error {
        ProgramError::SyscallError(call) => Some(&call.io_error),
        _ => None,
    };
    cause.map_or_else(|| error.to_string(), ToString::to_string)
}

/// Removes the pins of links whose interfaces are no longer wanted, and so detaches them.
///
/// # Errors
///
/// When the directory cannot be read or a pin not removed.
pub fn forget_others(directory: &Path, ports: &[Port]) -> Result<(), Error> {
    let refuse = |error: io::Error| pin_error(directory, &error.to_string());
    for entry in fs::read_dir(directory).map_err(refuse)? {
        let entry = entry.map_err(refuse)?;
        let name = entry.file_name();
        let Some(interface) = name.to_str().and_then(|name| name.strip_prefix("link-")) else { continue };
        if ports.iter().all(|port| port.name != interface) {
            fs::remove_file(entry.path()).map_err(refuse)?;
        }
    }
    Ok(())
}
