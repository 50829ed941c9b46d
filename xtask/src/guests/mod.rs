//! `guests`: the project's own programs and tests on Debian's older kernels, under software emulation.
//!
//! A guest is a kernel and a file system in memory with the binaries built here, the libraries they load and a list of
//! jobs. Everything else it takes comes from Debian's archive and lies in `target/guests`; nothing is installed.

mod archive;
mod boot;
mod initramfs;
mod jobs;
mod kernel;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use boot::{Emulator, Report};
use initramfs::Initramfs;
use jobs::Job;
use kernel::{KERNELS, Kernel};

use crate::{objects::OBJECTS, workspace};

/// The first process of every guest.
const INIT: &str = include_str!("init.sh");
/// Lines of a failed job that are shown; the verifier's reason is in its last ones.
const TAIL: usize = 60;
/// Far above what a guest takes on a busy machine, in seconds.
const PATIENCE: u64 = 1800;

/// Arguments of `guests`.
#[derive(clap::Args)]
pub struct Args {
    /// Boot only this kernel: 5.10, 6.1 or 6.12
    #[arg(long)]
    kernel: Option<String>,
    /// Only load the kernel object and show what the verifier says
    #[arg(long)]
    load: bool,
    /// Use this kernel object, for every build of it; implies --load
    #[arg(long, value_name = "FILE")]
    object: Option<PathBuf>,
    /// Run only these jobs
    #[arg(long = "job", value_name = "NAME", conflicts_with_all = ["load", "object"])]
    jobs: Vec<String>,
    /// Seconds after which a guest is ended
    #[arg(long, default_value_t = PATIENCE)]
    timeout: u64,
    /// Lines of a failed job to show
    #[arg(long, default_value_t = TAIL)]
    tail: usize,
}

/// Runs the usual jobs on every kernel, where this machine can.
///
/// # Errors
/// See [`run`].
pub fn usual() -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        eprintln!("no guests: they are x86-64, and their programs are built as for this machine");
        return Ok(());
    }
    run(&Args::default())
}

/// Runs the verb.
///
/// # Errors
/// A guest cannot be made, or a job in one fails.
pub fn run(args: &Args) -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        bail!("guests are x86-64, and their programs are built as for this machine");
    }
    let kernels: Vec<Kernel> = match &args.kernel {
        None => KERNELS.to_vec(),
        Some(series) => KERNELS.into_iter().filter(|kernel| kernel.series == series).collect(),
    };
    if kernels.is_empty() {
        bail!("no such kernel; there are {}", KERNELS.map(|kernel| kernel.series).join(", "));
    }
    let jobs = if args.load || args.object.is_some() { vec![jobs::LOAD] } else { jobs::named(&args.jobs)? };
    let root = workspace::root();
    let folder = root.join("target/guests");
    let emulator = Emulator::get(&folder)?;
    let guest = Guest { folder: &folder, jobs: &jobs, object: args.object.as_deref() };
    let programs = jobs::programs(&jobs)?;
    let mut failed = Vec::new();
    for kernel in kernels {
        let image = kernel.image(&folder, &emulator.busybox())?;
        let initramfs = guest.initramfs(&kernel, &emulator, &programs, &image.modules)?;
        eprintln!("booting {}", image.kernel.display());
        let report = emulator.boot(&image.kernel, &initramfs, Duration::from_secs(args.timeout))?;
        fs::write(folder.join(kernel.series).join("console.log"), &report.console)?;
        if !judge(kernel, &jobs, &report, args.tail) {
            failed.push(kernel.series);
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!("failed on {}; the consoles are in {}/*/console.log", failed.join(", "), folder.display());
}

impl Default for Args {
    fn default() -> Self {
        Self { kernel: None, load: false, object: None, jobs: Vec::new(), timeout: PATIENCE, tail: TAIL }
    }
}

/// What the guests of one run share.
struct Guest<'a> {
    folder: &'a Path,
    jobs: &'a [Job],
    object: Option<&'a Path>,
}

impl Guest<'_> {
    fn initramfs(
        &self,
        kernel: &Kernel,
        emulator: &Emulator,
        programs: &[(String, PathBuf)],
        modules: &[(String, Vec<u8>)],
    ) -> Result<PathBuf> {
        let mut guest = Initramfs::new(self.folder);
        guest.add_program("/bin/busybox", &emulator.busybox())?;
        for mount in ["proc", "sys", "dev", "run", "tmp", "sbin", "usr/bin", "usr/sbin"] {
            guest.add_directory(mount);
        }
        for (path, program) in programs {
            guest.add_program(path, program)?;
        }
        for (name, content) in modules {
            guest.add_file(format!("/modules/{name}"), content);
        }
        let order: Vec<&str> = modules.iter().map(|(name, _)| name.as_str()).collect();
        guest.add_file("/modules/order", order.join("\n").as_bytes());
        // Tests read the committed objects from where they lie here.
        let root = workspace::root();
        for path in OBJECTS.map(|object| object.committed(&root)) {
            let content = fs::read(&path).with_context(|| format!("could not read {}", path.display()))?;
            guest.add_file(path, &content);
        }
        let mut environment = String::new();
        if let Some(object) = self.object {
            let content = fs::read(object).with_context(|| format!("could not read {}", object.display()))?;
            guest.add_file("/object.o", &content);
            environment = OBJECTS.iter().map(|object| format!("{}=/object.o ", object.variable)).collect();
        }
        let lines: String =
            self.jobs.iter().map(|job| format!("{}\t{environment}{}\n", job.name, job.command())).collect();
        guest.add_file("/jobs", lines.as_bytes());
        guest.add_script("/init", INIT);
        let path = self.folder.join(kernel.series).join("initramfs.cpio");
        fs::write(&path, guest.finish()).with_context(|| format!("could not write {}", path.display()))?;
        Ok(path)
    }
}

/// Prints how a guest's jobs ended; whether all went well.
fn judge(kernel: Kernel, jobs: &[Job], report: &Report, tail: usize) -> bool {
    let series = kernel.series;
    let Some(version) = &report.kernel else {
        println!("{series}: did not come up\n{}", last_lines(&report.console, tail));
        return false;
    };
    let mut passed = report.outcomes.len() == jobs.len() && report.done;
    for outcome in &report.outcomes {
        let took = outcome.took.as_secs_f32();
        match outcome.status {
            Some(0) => println!("{version}: {} passed in {took:.1} s", outcome.name),
            status => {
                passed = false;
                let how = status.map_or("the guest died in it".to_owned(), |code| format!("status {code}"));
                println!("{version}: {} FAILED ({how})\n{}", outcome.name, last_lines(&outcome.output, tail));
            }
        }
    }
    if !report.done {
        println!("{version}: the guest did not reach its end\n{}", last_lines(&report.console, tail));
    }
    passed
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
