//! The decapsulating program: loaded, told what to accept, attached, and its counters read.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
};

use aya::{
    Ebpf, TestRun as _, TestRunOptions, include_bytes_aligned,
    maps::{HashMap, LpmTrie, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues, lpm_trie::Key},
    programs::{Xdp, xdp::XdpLinkId},
};
use lb_common::decap::{Count, Host, Reason};

use super::{Mode, Prefix};
use crate::{
    config::XdpMode,
    dataplane::{
        Error,
        attach::{self, Attachment, Port},
    },
    net::interface::Interface,
};

/// The kernel object as built from `lb-ebpf`.
static OBJECT: &[u8] = include_bytes_aligned!("../../../lb-ebpf/object/guidevane-decap.bpf.o");

/// Names another object to load, for tests of one that was just built.
pub const OBJECT_VARIABLE: &str = "GUIDEVANE_DECAP_OBJECT";

/// Which frames the program is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    /// Of several buffers too, as jumbo frames are (Linux 5.18 and later).
    MultiBuffer,
    /// Of one piece.
    OnePiece,
}

impl Frames {
    const fn program(self) -> &'static str {
        match self {
            Self::MultiBuffer => "decap",
            Self::OnePiece => "decap_linear",
        }
    }
}

/// A map's key, value and count as aya reads them.
type Words = [u32; 5];
type Counted = [u64; 2];

/// What became of packets, over all CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reasons that came up.
    pub reasons: BTreeMap<Reason, u64>,
    /// Inner packets by their destination.
    pub vips: BTreeMap<IpAddr, Count>,
    /// Inner packets to destinations beyond the [`lb_common::decap::MAX_VIPS`] first ones.
    pub others: Count,
}

/// The program, loaded; detached when dropped.
pub struct Kernel {
    ebpf: Ebpf,
    program: &'static str,
    link: Option<XdpLinkId>,
}

/// How the program came to be attached.
#[derive(Debug)]
pub struct Attached {
    /// In the driver or in the stack.
    pub mode: XdpMode,
    /// Why not in the driver, where that was tried.
    pub fallback: Option<Error>,
}

impl Kernel {
    /// Loads the program for the frames that this kernel has; it accepts nothing yet.
    ///
    /// # Errors
    ///
    /// The kernel does not take it, see [`Error`].
    pub fn load() -> Result<Self, Error> {
        // Whatever ails both is said of the one that asks for less.
        Self::load_for(Frames::MultiBuffer).or_else(|_| Self::load_for(Frames::OnePiece))
    }

    /// Loads the program for the given frames.
    ///
    /// # Errors
    ///
    /// See [`Kernel::load`].
    pub fn load_for(frames: Frames) -> Result<Self, Error> {
        let mut ebpf = Ebpf::load(&object()?)?;
        let program = frames.program();
        xdp(&mut ebpf, program)?.load().map_err(|source| Error::Program { name: program, source })?;
        let mut kernel = Self { ebpf, program, link: None };
        let mut vips: PerCpuHashMap<&mut MapData, Words, Counted> = kernel.map_mut("VIPS")?;
        let none = vec![Counted::default(); cpus()?];
        vips.insert(Host::OTHERS.0, PerCpuValues::try_from(none).map_err(system("count the CPUs"))?, 0)
            .map_err(map_error("VIPS"))?;
        Ok(kernel)
    }

    /// Makes these the outer destinations that end here, and no others.
    ///
    /// # Errors
    ///
    /// A map cannot be written, for one because there are more than it holds.
    pub fn set_locals(&mut self, locals: &BTreeSet<IpAddr>) -> Result<(), Error> {
        const NAME: &str = "LOCALS";
        let wanted: BTreeSet<Words> = locals.iter().map(|&address| Host::from(address).0).collect();
        let mut map: HashMap<&mut MapData, Words, u32> = self.map_mut(NAME)?;
        let there: BTreeSet<Words> = map.keys().collect::<Result<_, _>>().map_err(map_error(NAME))?;
        for gone in there.difference(&wanted) {
            map.remove(gone).map_err(map_error(NAME))?;
        }
        for new in wanted.difference(&there) {
            map.insert(new, 1, 0).map_err(map_error(NAME))?;
        }
        Ok(())
    }

    /// Accepts outer sources in these prefixes as well.
    ///
    /// # Errors
    ///
    /// A map cannot be written, for one because there are more than it holds.
    pub fn accept(&mut self, prefixes: &[Prefix]) -> Result<(), Error> {
        let mut map: LpmTrie<&mut MapData, Words, u32> = self.map_mut("SOURCES")?;
        for prefix in prefixes {
            let key = Key::new(Host::prefix(prefix.bits()), Host::from(prefix.network()).0);
            map.insert(&key, 1, 0).map_err(map_error("SOURCES"))?;
        }
        Ok(())
    }

    /// Attaches the program to an interface.
    ///
    /// # Errors
    ///
    /// [`Error::Attach`] with the kernel's reason, and the way out where one is known.
    pub fn attach(&mut self, interface: &Interface, mode: Mode) -> Result<Attached, Error> {
        let native = match mode {
            Mode::Generic => None,
            Mode::Native | Mode::Auto => Some(self.attach_port(interface, false)),
        };
        match native {
            Some(Ok(())) => Ok(Attached { mode: XdpMode::Native, fallback: None }),
            Some(Err(refused)) if mode == Mode::Native => Err(refused),
            other => {
                self.attach_port(interface, true)?;
                Ok(Attached { mode: XdpMode::Generic, fallback: other.and_then(Result::err) })
            }
        }
    }

    fn attach_port(&mut self, interface: &Interface, generic: bool) -> Result<(), Error> {
        let port = Port { name: interface.name.clone(), index: interface.index, generic };
        if let Attachment::Owned(link) = attach::attach(self.program_mut()?, &port, None)? {
            self.link = Some(link);
        }
        Ok(())
    }

    /// Detaches the program; the counts can still be read.
    ///
    /// # Errors
    ///
    /// [`Error::Program`]: the kernel does not let go of it.
    pub fn detach(&mut self) -> Result<(), Error> {
        let Some(link) = self.link.take() else { return Ok(()) };
        let name = self.program;
        self.program_mut()?.detach(link).map_err(|source| Error::Program { name, source })
    }

    /// What became of packets so far.
    ///
    /// # Errors
    ///
    /// [`Error::MapInfo`]: a map cannot be read.
    pub fn counts(&self) -> Result<Counts, Error> {
        let mut counts = Counts::default();
        let map: PerCpuArray<&MapData, u64> = self.map("REASONS")?;
        for &reason in Reason::ALL {
            let values = map.get(&(reason as u32), 0).map_err(map_error("REASONS"))?;
            let packets: u64 = values.iter().sum();
            if packets > 0 {
                counts.reasons.insert(reason, packets);
            }
        }
        let map: PerCpuHashMap<&MapData, Words, Counted> = self.map("VIPS")?;
        for entry in &map {
            let (host, values) = entry.map_err(map_error("VIPS"))?;
            let count = values.iter().fold(Count::default(), |sum, [packets, bytes]| Count {
                packets: sum.packets + packets,
                bytes: sum.bytes + bytes,
            });
            match Host(host).address() {
                Some(address) => drop(counts.vips.insert(address, count)),
                None => counts.others = count,
            }
        }
        Ok(counts)
    }

    /// Runs the program on a frame, as if it had come in on the loopback interface of this network namespace,
    /// and gives the kernel's verdict with the frame as it was left.
    ///
    /// # Errors
    ///
    /// [`Error::Program`]: the kernel refuses.
    pub fn test_run(&mut self, frame: &[u8]) -> Result<(u32, Vec<u8>), Error> {
        let name = self.program;
        let mut out = vec![0; frame.len()];
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::default() };
        let result =
            self.program_mut()?.test_run(options).map_err(|source| Error::Program { name, source })?;
        out.truncate(result.data_size_out as usize);
        Ok((result.return_value, out))
    }

    fn program_mut(&mut self) -> Result<&mut Xdp, Error> {
        xdp(&mut self.ebpf, self.program)
    }

    fn map<'a, M>(&'a self, name: &'static str) -> Result<M, Error>
    where
        M: TryFrom<&'a aya::maps::Map, Error = MapError>,
    {
        self.ebpf.map(name).ok_or(Error::Missing(name))?.try_into().map_err(map_error(name))
    }

    fn map_mut<'a, M>(&'a mut self, name: &'static str) -> Result<M, Error>
    where
        M: TryFrom<&'a mut aya::maps::Map, Error = MapError>,
    {
        self.ebpf.map_mut(name).ok_or(Error::Missing(name))?.try_into().map_err(map_error(name))
    }
}

fn object() -> Result<Cow<'static, [u8]>, Error> {
    let Some(path) = std::env::var_os(OBJECT_VARIABLE) else { return Ok(Cow::Borrowed(OBJECT)) };
    fs::read(path).map(Cow::Owned).map_err(|source| Error::Map { name: OBJECT_VARIABLE, source })
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, Error> {
    ebpf.program_mut(name)
        .ok_or(Error::Missing(name))?
        .try_into()
        .map_err(|source| Error::Program { name, source })
}

fn cpus() -> Result<usize, Error> {
    aya::util::nr_cpus().map_err(|(_, source)| Error::System { call: "count the CPUs", source })
}

fn system(call: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::System { call, source }
}

fn map_error(name: &'static str) -> impl Fn(MapError) -> Error {
    move |source| Error::MapInfo { name, source }
}
