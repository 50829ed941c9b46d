//! XDP programs of a few instructions, written by hand, that need no compiler and no object file.
//!
//! A veth delivers frames that its peer sends by `XDP_TX` only while it has a program itself (the flush of
//! `XDP_TX` looks for a program, not for NAPI: `veth_xdp_flush` in the kernel's `drivers/net/veth.c`), so the far
//! ends of the balancer's links get one that passes everything.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use super::{BedError, Namespace};

/// Lets the frame through.
pub const XDP_PASS: i32 = 2;
/// Sends the frame back out of its own interface.
pub const XDP_TX: i32 = 3;

/// One instruction, `struct bpf_insn`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u8,
    /// Source register in the high half, destination in the low half.
    pub registers: u8,
    /// Jump distance or offset into memory.
    pub offset: i16,
    /// Constant.
    pub immediate: i32,
}

impl Instruction {
    /// Any instruction: operation, destination and source register, offset, constant.
    pub const fn new(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Self {
        Self { code, registers: source << 4 | destination, offset, immediate }
    }

    /// `r0 = verdict; exit`
    pub const fn verdict(verdict: i32) -> [Self; 2] {
        [Self::new(0xb7, 0, 0, 0, verdict), Self::new(0x95, 0, 0, 0, 0)]
    }
}

/// An attached program; detached when dropped.
#[derive(Debug)]
pub struct Attachment(#[expect(dead_code, reason = "closing it detaches the program")] OwnedFd);

/// Loads a program and attaches it in native mode.
///
/// # Errors
/// The kernel refuses the program, or the interface has one already or no native XDP.
pub fn attach(namespace: &Namespace, index: u32, program: &[Instruction]) -> Result<Attachment, BedError> {
    namespace.run(|| {
        let program = load(program).map_err(|source| BedError::Xdp { action: "load", source })?;
        let link = link(&program, index).map_err(|source| BedError::Xdp { action: "attach", source })?;
        Ok(Attachment(link))
    })
}

/// `BPF_PROG_LOAD`'s part of `union bpf_attr`, as far as it is used.
#[derive(Default)]
#[repr(C)]
struct ProgramLoad {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
}

/// `BPF_LINK_CREATE`'s part of `union bpf_attr`, as far as it is used.
#[derive(Default)]
#[repr(C)]
struct LinkCreate {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

fn load(instructions: &[Instruction]) -> io::Result<OwnedFd> {
    const BPF_PROG_LOAD: i32 = 5;
    const BPF_PROG_TYPE_XDP: u32 = 6;
    let count = u32::try_from(instructions.len()).map_err(io::Error::other)?;
    bpf(
        BPF_PROG_LOAD,
        &ProgramLoad {
            program_type: BPF_PROG_TYPE_XDP,
            instruction_count: count,
            instructions: instructions.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
        },
    )
}

fn link(program: &OwnedFd, interface: u32) -> io::Result<OwnedFd> {
    const BPF_LINK_CREATE: i32 = 28;
    const BPF_XDP: u32 = 37;
    const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
    let program = program.as_raw_fd().cast_unsigned();
    bpf(BPF_LINK_CREATE, &LinkCreate { program, interface, attach_type: BPF_XDP, flags: XDP_FLAGS_DRV_MODE })
}

/// The commands above answer with a new descriptor.
fn bpf<Attributes>(command: i32, attributes: &Attributes) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads `size_of::<Attributes>()` bytes, takes the rest as zero, and the pointers inside
    // lead to memory that the caller borrows for the length of the call.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<Attributes>()) };
    let descriptor = i32::try_from(answer).map_err(io::Error::other)?;
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
