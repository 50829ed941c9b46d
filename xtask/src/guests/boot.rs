//! Boots a guest under software emulation and follows its console.

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::archive::{Wanted, unpacked};

/// Starts every line that the guest's first process says of itself.
const MARK: &str = "@guest ";
/// The emulator comes with its own C library, so its release need not be this machine's.
const RELEASE: &str = "trixie";
const PACKAGES: [&str; 2] = ["qemu-system-x86", "busybox-static"];
/// Where packages of [`RELEASE`] have their libraries, the loader among them.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// Enough for the file system, which lies in memory, and for the maps of a small flow table.
const MEMORY_MIB: u32 = 3072;
/// As gauges are per flow and counters per CPU, one CPU would hide faults.
const CPUS: u32 = 2;

/// The emulator and the guest's shell.
pub struct Emulator {
    root: PathBuf,
}

/// How a job in a guest ended.
pub struct Outcome {
    /// The job's name.
    pub name: String,
    /// Its exit status; none when the guest ended first.
    pub status: Option<i32>,
    /// How long it took, as seen from here.
    pub took: Duration,
    /// What it printed.
    pub output: String,
}

/// What came of a guest.
#[derive(Default)]
pub struct Report {
    /// The kernel's `uname -r`, once it was up.
    pub kernel: Option<String>,
    /// Jobs in order.
    pub outcomes: Vec<Outcome>,
    /// Whether it ran all of them to their ends.
    pub done: bool,
    /// Everything on the console.
    pub console: String,
}

impl Emulator {
    /// Gets the emulator if it is not there yet.
    ///
    /// # Errors
    /// It cannot be had.
    pub fn get(folder: &Path) -> Result<Self> {
        let root = unpacked(&folder.join("emulator"), RELEASE, Wanted::WithDependencies(&PACKAGES))?;
        Ok(Self { root })
    }

    /// A static busybox, for guests and for this machine.
    pub fn busybox(&self) -> PathBuf {
        self.root.join("usr/bin/busybox")
    }

    /// Boots a guest and follows it to its end, or until `patience` is over.
    ///
    /// # Errors
    /// The emulator cannot be started; whatever the guest does is in the report.
    pub fn boot(&self, kernel: &Path, initramfs: &Path, patience: Duration) -> Result<Report> {
        let mut child = self.command(kernel, initramfs).spawn().context("could not start the emulator")?;
        let console = child.stdout.take().expect("standard output is piped");
        let report = follow(console, Instant::now() + patience);
        end(&mut child)?;
        let mut report = report;
        if report.kernel.is_none() {
            let mut said = String::new();
            child.stderr.take().expect("standard error is piped").read_to_string(&mut said)?;
            if report.console.is_empty() && !said.is_empty() {
                bail!("the emulator does not start: {}", said.trim());
            }
            report.console.push_str(&said);
        }
        Ok(report)
    }

    fn command(&self, kernel: &Path, initramfs: &Path) -> Command {
        let libraries = self.root.join(LIBRARIES);
        let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(&libraries).arg(self.root.join("usr/bin/qemu-system-x86_64"));
        for firmware in ["usr/share/qemu", "usr/share/seabios"] {
            command.arg("-L").arg(self.root.join(firmware));
        }
        command.args(["-machine", "q35", "-cpu", "max", "-accel", "tcg,thread=multi"]);
        command.args(["-m", &MEMORY_MIB.to_string(), "-smp", &CPUS.to_string()]);
        command.args([
            "-display",
            "none",
            "-monitor",
            "none",
            "-serial",
            "stdio",
            "-nic",
            "none",
            "-no-reboot",
        ]);
        command.arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs);
        command.args(["-append", "console=ttyS0 quiet panic=-1"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// Ends the emulator, unless it has ended.
fn end(child: &mut Child) -> Result<()> {
    if child.try_wait()?.is_none() {
        child.kill()?;
    }
    child.wait()?;
    Ok(())
}

fn follow(console: impl Read + Send + 'static, until: Instant) -> Report {
    let (send, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
            if send.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
    let mut report = Report::default();
    let mut began = Instant::now();
    loop {
        match lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(line) => report.take(&plain(&line), &mut began),
            Err(RecvTimeoutError::Disconnected) => return report,
            Err(RecvTimeoutError::Timeout) => {
                report.console.push_str("\n(the guest's time is over)\n");
                return report;
            }
        }
    }
}

impl Report {
    /// Takes one line of the console.
    fn take(&mut self, line: &str, began: &mut Instant) {
        let _infallible = writeln!(self.console, "{line}");
        let Some(said) = line.strip_prefix(MARK) else {
            if let Some(running) = self.outcomes.last_mut().filter(|outcome| outcome.status.is_none()) {
                let _infallible = writeln!(running.output, "{line}");
            }
            return;
        };
        match said.split_once(' ').unwrap_or((said, "")) {
            ("booted", kernel) => self.kernel = Some(kernel.to_owned()),
            ("begin", name) => {
                *began = Instant::now();
                let (took, output) = (Duration::ZERO, String::new());
                self.outcomes.push(Outcome { name: name.to_owned(), status: None, took, output });
            }
            ("end", rest) => {
                if let Some(running) = self.outcomes.last_mut() {
                    running.took = began.elapsed();
                    running.status = rest.split(' ').next().and_then(|status| status.parse().ok());
                }
            }
            ("done", _) => self.done = true,
            _ => {}
        }
    }
}

/// A line of the console without what firmware and kernel send to move a terminal's cursor.
fn plain(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '\u{1b}' => {
                let _sequence = characters.find(char::is_ascii_alphabetic);
            }
            '\r' | '\0' => {}
            character => text.push(character),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::follow;

    fn report(console: &'static str) -> super::Report {
        follow(console.as_bytes(), Instant::now() + Duration::from_secs(60))
    }

    #[test]
    fn a_console_tells_how_each_job_ended() {
        let report = report(
            "\u{1b}[2JSeaBIOS\r\n@guest booted 5.10.0\r\n@guest begin load\r\nfine\r\n\r\n@guest end 0 load\r\n\
             @guest begin test\r\nnot fine\r\n@guest end 101 test\r\n@guest done\r\n",
        );
        assert_eq!(report.kernel.as_deref(), Some("5.10.0"));
        let seen: Vec<_> =
            report.outcomes.iter().map(|job| (job.name.as_str(), job.status, job.output.trim())).collect();
        assert_eq!(seen, [("load", Some(0), "fine"), ("test", Some(101), "not fine")]);
        assert!(report.done && report.console.starts_with("SeaBIOS\n"), "{}", report.console);
    }

    #[test]
    fn a_guest_that_dies_leaves_its_job_without_a_status() {
        let report = report("@guest booted 6.1\n@guest begin load\nKernel panic");
        assert!(!report.done);
        assert_eq!(report.outcomes[0].status, None);
        assert_eq!(report.outcomes[0].output, "Kernel panic\n");
    }
}
