//! The builds of the kernel object, and what makes the daemon take the other one.

use std::{borrow::Cow, env, fs};

use aya::{include_bytes_aligned, programs::ProgramError};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::error::Error;

/// Names another object to load in the place of the modern build, for tests of one that was just built.
pub const OBJECT_VARIABLE: &str = "GUIDEVANE_OBJECT";
/// The same for the legacy build.
pub const LEGACY_OBJECT_VARIABLE: &str = "GUIDEVANE_LEGACY_OBJECT";

/// A build of the kernel object. Both come from one source and share every map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Build {
    /// Slots change by compare-exchange, gauges are exact, and frames may have several buffers.
    Modern,
    /// For kernels without that (before Linux 5.18; x86-64 has had compare-exchange since 5.12): gauges may drift when
    /// two CPUs change one slot at the same moment, and the recount corrects them.
    Legacy,
}

impl Build {
    /// Its name in `status`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Modern => "modern",
            Self::Legacy => "legacy",
        }
    }

    /// The object: the embedded one, or the one the environment names.
    pub(super) fn object(self) -> Result<Cow<'static, [u8]>, Error> {
        let (variable, embedded): (_, &'static [u8]) = match self {
            Self::Modern => {
                (OBJECT_VARIABLE, include_bytes_aligned!("../../../lb-ebpf/object/guidevane.bpf.o"))
            }
            Self::Legacy => (
                LEGACY_OBJECT_VARIABLE,
                include_bytes_aligned!("../../../lb-ebpf/object/guidevane-legacy.bpf.o"),
            ),
        };
        let Some(path) = env::var_os(variable) else { return Ok(Cow::Borrowed(embedded)) };
        fs::read(path).map(Cow::Owned).map_err(|source| Error::Map { name: variable, source })
    }
}

/// Whether the kernel was asked properly and does not take the program as it is: then it may take another build.
pub(super) fn refused(error: &Error) -> bool {
    let Error::Program { source: ProgramError::LoadError { io_error, .. }, .. } = error else { return false };
    // Without the capabilities it takes none, and says so before it looks at the program.
    io_error.raw_os_error() != Some(Errno::EPERM as i32)
}

/// What the kernel says of a program it refused: the error, and the end of the verifier's log.
pub(super) fn reason(error: &Error) -> String {
    let Error::Program { name, source: ProgramError::LoadError { io_error, verifier_log } } = error else {
        return error.to_string();
    };
    match last_word(&verifier_log.to_string()) {
        Some(said) => format!("program {name}: {said} ({io_error})"),
        None => format!("program {name}: {io_error}"),
    }
}

/// The last line of a verifier's log that is no statistics.
fn last_word(log: &str) -> Option<&str> {
    const STATISTICS: [&str; 3] = ["verification time", "stack depth", "processed"];
    let is_statistics = |line: &&str| STATISTICS.iter().any(|start| line.starts_with(start));
    log.lines().map(str::trim).rfind(|line| !line.is_empty() && !is_statistics(line))
}

#[cfg(test)]
mod tests {
    use super::last_word;

    #[test]
    fn the_verifiers_reason_is_the_line_before_its_statistics() {
        let log = "0: (db) lock *(u64 *)(r1 +0) += r2\nBPF_STX uses reserved fields\nverification time 9 usec\n\
                   stack depth 0+0\nprocessed 0 insns (limit 1000000)\n\n";
        assert_eq!(last_word(log), Some("BPF_STX uses reserved fields"));
        assert_eq!(last_word("processed 0 insns"), None);
        assert_eq!(last_word(""), None);
    }
}
