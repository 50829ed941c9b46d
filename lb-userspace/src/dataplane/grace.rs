//! Grace periods: when it returns, no program that was running before is still running.

use std::io;

use super::error::Error;

/// Waits for every XDP program that may have read what was just replaced.
///
/// `MEMBARRIER_CMD_GLOBAL` waits for an RCU grace period, and XDP programs run in read-side sections:
/// <https://github.com/torvalds/linux/blob/v6.12/kernel/sched/membarrier.c#L593>. Some milliseconds.
///
/// # Errors
///
/// When the kernel has no `membarrier`, or runs with `nohz_full`, where this command is refused.
pub fn wait() -> Result<(), Error> {
    // SAFETY: the call takes plain numbers and touches no memory.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result == 0 {
        return Ok(());
    }
    Err(Error::System { call: "membarrier", source: io::Error::last_os_error() })
}
