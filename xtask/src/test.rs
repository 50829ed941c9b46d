//! `test`: every test of the workspace, the privileged ones included, and what they need first.

use std::{env, fs, path::Path, process::Command};

use anyhow::Result;

use crate::{
    build_ebpf::fresh_is_current,
    guests, object_file,
    objects::{OBJECTS, Object},
    process::{cargo_bin, find_program, root_runner, run as run_command},
    setup, workspace,
};

/// Tests that have a long form run it when this is set.
const FULL: &str = "GUIDEVANE_FULL";
/// Cases of a property test in a full run; the library's default is 256.
const FULL_CASES: &str = "4096";

/// Arguments of `test`.
#[derive(clap::Args)]
pub struct Args {
    /// Run long forms of tests and many more cases of property tests, and test older kernels under emulation
    #[arg(long)]
    full: bool,
    /// Run only tests whose name contains one of these
    filters: Vec<String>,
}

/// Which tests to run.
#[derive(Clone, Copy)]
enum Selection {
    All,
    /// Those that load a kernel object are all among these.
    Privileged,
}

/// Runs the verb.
///
/// # Errors
/// A tool is missing, the build fails or a test does.
pub fn run(args: &Args) -> Result<()> {
    setup::test_tools()?;
    let runner = Runner::new(args)?;
    // Tests start the binaries of other packages, and load a library, which no test run builds by itself.
    run_command(runner.cargo().args(["build", "--workspace", "--locked", "--bins", "--lib"]))?;
    // Examples in the documentation come first: what the tests say is to be the last word.
    run_command(runner.cargo().args(["test", "--workspace", "--locked", "--doc"]).args(&args.filters))?;
    runner.run(Selection::All, args)?;
    let root = workspace::root();
    if fresh_is_current(&root)? && any_differs(&root)? {
        eprintln!("once more with the objects built here: {}", workspace::fresh_objects(&root).display());
        Runner { fresh: true, ..runner.clone() }.run(Selection::Privileged, args)?;
    }
    if args.full && args.filters.is_empty() {
        runner.legacy(&root)?;
        guests::usual()?;
    }
    Ok(())
}

#[derive(Clone)]
struct Runner {
    nextest: bool,
    full: bool,
    /// Starts test programs as root when cargo itself is not.
    wrapper: Option<(String, &'static str)>,
    /// Tests load the objects built here instead of the committed ones.
    fresh: bool,
}

impl Runner {
    fn new(args: &Args) -> Result<Self> {
        let nextest = find_program("cargo-nextest", cargo_bin().as_slice()).is_some();
        Ok(Self { nextest, full: args.full, wrapper: root_runner("test")?, fresh: false })
    }

    fn run(&self, selection: Selection, args: &Args) -> Result<()> {
        let mut cargo = self.cargo();
        if self.nextest {
            let which = match selection {
                Selection::All => "all",
                Selection::Privileged => "only",
            };
            cargo.args(["nextest", "run", "--workspace", "--locked", "--run-ignored", which]);
            cargo.arg("--no-tests=pass").args(&args.filters);
        } else {
            let which = match selection {
                Selection::All => "--include-ignored",
                Selection::Privileged => "--ignored",
            };
            cargo.args(["test", "--workspace", "--locked", "--lib", "--bins", "--tests", "--"]);
            cargo.args([which, "--test-threads=1"]).args(&args.filters);
        }
        run_command(&mut cargo)
    }

    /// Runs the packet tests with the build for older kernels, which this one would not take by itself.
    ///
    /// Gauges are not exact there when CPUs change one flow at the same moment: all else must hold.
    fn legacy(&self, root: &Path) -> Result<()> {
        eprintln!("packet by packet with the build for older kernels");
        let [modern, legacy, ..] = OBJECTS;
        let mut cargo = self.cargo();
        cargo.env(modern.variable, legacy.committed(root));
        cargo.args(["test", "--locked", "--package", "guidevane-tests", "--test", "packets", "--"]);
        cargo.args(["--include-ignored", "--test-threads=1", "--skip", "cores_that_change_the_same_flows"]);
        run_command(&mut cargo)
    }

    fn cargo(&self) -> Command {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        let root = workspace::root();
        cargo.current_dir(&root);
        if self.full {
            cargo.env(FULL, "1").env("PROPTEST_CASES", FULL_CASES);
        }
        if self.fresh {
            cargo.envs(OBJECTS.iter().map(|object| (object.variable, object.fresh(&root))));
        }
        if let Some((name, value)) = &self.wrapper {
            cargo.env(name, value);
        }
        cargo
    }
}

/// Whether an object built here is not the committed one.
fn any_differs(root: &Path) -> Result<bool> {
    OBJECTS.iter().try_fold(false, |any, object| Ok(any || differs(root, object)?))
}

fn differs(root: &Path, object: &Object) -> Result<bool> {
    let (Ok(fresh), Ok(committed)) = (fs::read(object.fresh(root)), fs::read(object.committed(root))) else {
        return Ok(false);
    };
    let sections = |object: &[u8]| object_file::sections(object);
    Ok(!object_file::differences(&sections(&fresh)?, &sections(&committed)?).is_empty())
}
