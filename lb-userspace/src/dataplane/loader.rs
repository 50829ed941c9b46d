//! Loading the kernel object, or adopting what an earlier daemon pinned.
//!
//! When it adopts, sizes, seed and tick rate come from `META`, never from the configuration.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd as _, unix::fs::DirBuilderExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use aya::{
    Ebpf, EbpfLoader, TestRun as _, TestRunOptions,
    maps::Map,
    programs::{ProgramInfo, TestRunResult, Xdp},
};
use lb_common::{
    address::Address,
    index::BUCKETS,
    layout::{self, LAYOUT, Meta, PORT_SETS, TABLE_LINES, VIP_IDS},
    siphash::Key,
    slot::{MAX_BACKENDS, age_shift},
    table::WAYS,
};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use rand::Rng as _;
use sha2::{Digest as _, Sha256};
use tracing::warn;

use super::{
    adoption::{adoptable, sets, shapes},
    build::{self, Build},
    clock::{self, Clock},
    error::Error,
    mapping::{Element, Elements},
};

/// Seconds without a heartbeat after which the kernel drops corrections.
pub(super) const STALE_SECONDS: u32 = 2;

/// The steering program.
const PROGRAM: &str = "guidevane";

/// How to load.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to pin, and to adopt from; nothing is pinned without it.
    pub pin: Option<PathBuf>,
    /// Slots of the flow table, a power of two.
    pub flow_slots: u32,
    /// Source addresses of one-armed `nat`, IPv4 first: each has a slot of the flow table for every port.
    pub nat_sources: Vec<Address>,
}

/// The maps, mapped.
pub struct Maps {
    /// `META`.
    pub meta: Elements<Meta>,
    /// `CONTROL`.
    pub control: Elements<layout::Control>,
    /// `VIP_INDEX`.
    pub vip_index: Elements<u64>,
    /// `REAL_INDEX`.
    pub real_index: Elements<u64>,
    /// `VIPS`.
    pub vips: Elements<layout::Vip>,
    /// `BACKENDS`.
    pub backends: Elements<layout::Backend>,
    /// `LOADS`.
    pub loads: Elements<layout::Load>,
    /// `TOTALS`.
    pub totals: Elements<layout::Total>,
    /// `PROGRESS`.
    pub progress: Elements<layout::Histogram>,
    /// `TABLE`.
    pub table: Elements<[u16; layout::TABLE_LINE]>,
    /// `FLOWS`.
    pub flows: Elements<[u64; WAYS]>,
    /// `FLOW_INFO`.
    pub flow_info: Elements<layout::FlowInfo>,
    /// `SOURCES`.
    pub sources: Elements<Address>,
}

/// What is loaded in the kernel.
pub struct Kernel {
    /// Programs and the maps that are read by system call.
    pub ebpf: Ebpf,
    /// The maps that are mapped.
    pub maps: Arc<Maps>,
    /// What the maps were made for.
    pub meta: Meta,
    /// Whether the maps were there before.
    pub adopted: bool,
    /// Which build of the object the kernel took.
    pub build: Build,
    /// SHA-256 of the object, in hexadecimal.
    pub sha256: String,
    /// Keeps others off the pins for as long as this lives.
    _lock: Option<Flock<File>>,
}

impl Kernel {
    /// Loads or adopts, with the first build of the object that the kernel takes; returns the clock with it.
    ///
    /// # Errors
    ///
    /// See [`Error`]; what was pinned before stays as it was.
    pub fn load(options: &Options) -> Result<(Self, Clock), Error> {
        let modern = match Self::load_build(options, Build::Modern) {
            Err(error) if build::refused(&error) => error,
            other => return other,
        };
        warn!("the kernel refuses the modern build, trying the legacy one: {}", build::reason(&modern));
        Self::load_build(options, Build::Legacy)
            .map_err(|legacy| Error::Refused { reason: build::reason(&modern), legacy: Box::new(legacy) })
    }

    /// Loads or adopts with one build.
    ///
    /// # Errors
    ///
    /// See [`Error`]; what was pinned before stays as it was.
    pub fn load_build(options: &Options, build: Build) -> Result<(Self, Clock), Error> {
        let Some(pin) = &options.pin else { return Self::load_for(options, build, None, None) };
        make_directory(pin)?;
        let lock = lock(pin)?;
        let adopted = adoptable(pin, &options.nat_sources)?;
        let loaded = Self::load_for(options, build, adopted, Some(lock));
        if loaded.is_err() && adopted.is_none() {
            // What a failed load pinned is in nobody's use.
            remove_pins(pin, &fresh(options, 0))?;
        }
        loaded
    }

    fn load_for(
        options: &Options,
        build: Build,
        adopted: Option<Meta>,
        lock: Option<Flock<File>>,
    ) -> Result<(Self, Clock), Error> {
        let object = build.object()?;
        let meta = match adopted {
            Some(meta) => meta,
            None => fresh(options, tick_rate(&object)?),
        };
        let mut ebpf = load_object(&object, &meta, options.pin.as_deref())?;
        let maps = Arc::new(Maps::open(&ebpf, &meta)?);
        if adopted.is_none() {
            maps.meta.write(0, &meta);
        }
        let clock_map = element_map(&ebpf, "CLOCK", 1)?;
        load_program(&mut ebpf, "clock")?;
        load_program(&mut ebpf, PROGRAM)?;
        let sha256 = Sha256::digest(&object).iter().map(|byte| format!("{byte:02x}")).collect();
        let kernel = Self { ebpf, maps, meta, adopted: adopted.is_some(), build, sha256, _lock: lock };
        let clock = Clock::anchored(meta.hz, || kernel.sample(), clock_map)?;
        Ok((kernel, clock))
    }

    /// The steering program.
    ///
    /// # Errors
    ///
    /// When the object has none.
    pub fn program(&mut self) -> Result<&mut Xdp, Error> {
        xdp(&mut self.ebpf, PROGRAM)
    }

    /// Runs the `clock` program once.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn sample(&self) -> Result<(), Error> {
        let program = self.ebpf.program("clock").ok_or(Error::Missing("program clock"))?;
        let program: &Xdp = program.try_into().map_err(|source| Error::Program { name: "clock", source })?;
        clock::run(program)
    }

    /// Runs the steering program on a frame, as if it had come in on the loopback interface of this
    /// network namespace, and gives the verdict with the frame as it was left.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn test_run(&self, frame: &[u8], repeat: u32) -> Result<(TestRunResult, Vec<u8>), Error> {
        self.test_run_of(PROGRAM, frame, repeat)
    }

    /// Likewise, any program of the object that is loaded. The verdict and the frame are the last repeat's.
    ///
    /// # Errors
    ///
    /// When the object has no such program, or the kernel refuses.
    pub fn test_run_of(
        &self,
        name: &'static str,
        frame: &[u8],
        repeat: u32,
    ) -> Result<(TestRunResult, Vec<u8>), Error> {
        let program = self.ebpf.program(name).ok_or(Error::Missing(name))?;
        let program: &Xdp = program.try_into().map_err(|source| Error::Program { name, source })?;
        let mut out = vec![0; frame.len() + 256];
        let result = program
            .test_run(TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut out),
                repeat,
                ..TestRunOptions::default()
            })
            .map_err(|source| Error::Program { name, source })?;
        out.truncate(result.data_size_out as usize);
        Ok((result, out))
    }

    /// Loads a program of the object that the daemon itself has no use for, and gives what the kernel says of it.
    ///
    /// # Errors
    ///
    /// When the object has no such program, or the kernel refuses.
    pub fn load_other(&mut self, name: &'static str) -> Result<ProgramInfo, Error> {
        load_program(&mut self.ebpf, name)?;
        xdp(&mut self.ebpf, name)?.info().map_err(|source| Error::Program { name, source })
    }

    /// Instructions the verifier walked to accept the steering program.
    ///
    /// # Errors
    ///
    /// When the kernel does not tell (before Linux 5.16).
    pub fn verified_instructions(&mut self) -> Result<u32, Error> {
        let info = self.program()?.info().map_err(|source| Error::Program { name: PROGRAM, source })?;
        info.verified_instruction_count().ok_or(Error::Missing("count of verified instructions"))
    }
}

/// Learns the tick rate from the object's `clock` program, with every map as small as it gets.
fn tick_rate(object: &[u8]) -> Result<u32, Error> {
    let mut loader = EbpfLoader::new();
    const LARGE: [&str; 10] = [
        "FLOWS",
        "FLOW_INFO",
        "TABLE",
        "VIPS",
        "BACKENDS",
        "LOADS",
        "TOTALS",
        "PROGRESS",
        "TRAFFIC",
        "EVENTS",
    ];
    for map in LARGE {
        loader.map_max_entries(map, 1);
    }
    let mut ebpf = loader.load(object)?;
    let map = element_map(&ebpf, "CLOCK", 1)?;
    load_program(&mut ebpf, "clock")?;
    let program = xdp(&mut ebpf, "clock")?;
    clock::learn(program, &map)
}

fn fresh(options: &Options, hz: u32) -> Meta {
    let mut random = rand::rng();
    Meta {
        layout: LAYOUT,
        key: Key { k0: random.random(), k1: random.random() },
        flow_sets: options.flow_slots / WAYS as u32,
        table_lines: TABLE_LINES as u32,
        hz,
        age_shift: age_shift(hz),
        port_sets: options.nat_sources.len() as u32 * PORT_SETS,
        reserved: [0; 5],
    }
}

fn load_object(object: &[u8], meta: &Meta, pin: Option<&Path>) -> Result<Ebpf, Error> {
    let (mask, stale) = (meta.flow_sets - 1, meta.hz * STALE_SECONDS);
    let mut loader = EbpfLoader::new();
    loader
        .override_global("KEY0", &meta.key.k0, true)
        .override_global("KEY1", &meta.key.k1, true)
        .override_global("SET_MASK", &mask, true)
        .override_global("AGE_SHIFT", &meta.age_shift, true)
        .override_global("STALE_AFTER", &stale, true)
        .map_max_entries("FLOWS", sets(meta))
        .map_max_entries("FLOW_INFO", sets(meta) * WAYS as u32)
        .map_max_entries("TABLE", meta.table_lines);
    for (name, ..) in shapes(meta) {
        if let Some(directory) = pin {
            loader.map_pin_path(name, directory.join(name));
        }
    }
    Ok(loader.load(object)?)
}

fn load_program(ebpf: &mut Ebpf, name: &'static str) -> Result<(), Error> {
    xdp(ebpf, name)?.load().map_err(|source| Error::Program { name, source })
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, Error> {
    ebpf.program_mut(name)
        .ok_or(Error::Missing(name))?
        .try_into()
        .map_err(|source| Error::Program { name, source })
}

/// Makes sure that no other daemon works on the pins in a directory.
fn lock(directory: &Path) -> Result<Flock<File>, Error> {
    let refuse = |reason: String| Error::Pin { path: directory.to_path_buf(), reason };
    let file = File::open(directory).map_err(|error| refuse(error.to_string()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        Errno::EWOULDBLOCK => {
            Error::Adopt { path: directory.to_path_buf(), reason: "another guidevane works on it".to_owned() }
        }
        error => refuse(error.to_string()),
    })
}

/// Removes the pins of maps from a directory, and the directory if nothing else is left in it.
///
/// # Errors
///
/// When a pin cannot be removed.
pub fn remove_pins(directory: &Path, meta: &Meta) -> Result<(), Error> {
    for (name, ..) in shapes(meta) {
        let path = directory.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::Pin { path, reason: error.to_string() });
            }
            _ => {}
        }
    }
    // Others may keep their pins in it.
    let _ = fs::remove_dir(directory);
    Ok(())
}

fn make_directory(path: &Path) -> Result<(), Error> {
    /// Flow data and the seed are for the daemon's group alone.
    const MODE: u32 = 0o750;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(MODE)
        .create(path)
        .map_err(|error| Error::Pin { path: path.to_path_buf(), reason: error.to_string() })
}

impl Maps {
    fn open(ebpf: &Ebpf, meta: &Meta) -> Result<Self, Error> {
        let sets = sets(meta) as usize;
        Ok(Self {
            meta: element_map(ebpf, "META", 1)?,
            control: element_map(ebpf, "CONTROL", 1)?,
            vip_index: element_map(ebpf, "VIP_INDEX", 2 * BUCKETS as usize)?,
            real_index: element_map(ebpf, "REAL_INDEX", 2 * BUCKETS as usize)?,
            vips: element_map(ebpf, "VIPS", 2 * VIP_IDS)?,
            backends: element_map(ebpf, "BACKENDS", MAX_BACKENDS)?,
            loads: element_map(ebpf, "LOADS", MAX_BACKENDS)?,
            totals: element_map(ebpf, "TOTALS", VIP_IDS)?,
            progress: element_map(ebpf, "PROGRESS", MAX_BACKENDS)?,
            table: element_map(ebpf, "TABLE", meta.table_lines as usize)?,
            flows: element_map(ebpf, "FLOWS", sets)?,
            flow_info: element_map(ebpf, "FLOW_INFO", sets * WAYS)?,
            sources: element_map(ebpf, "SOURCES", layout::MAX_SOURCES)?,
        })
    }
}

fn element_map<T: Element>(ebpf: &Ebpf, name: &'static str, count: usize) -> Result<Elements<T>, Error> {
    let Some(Map::Array(data)) = ebpf.map(name) else { return Err(Error::Missing(name)) };
    Elements::map(data.fd().as_fd(), count).map_err(|source: io::Error| Error::Map { name, source })
}
