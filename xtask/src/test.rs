//! `test`: every test of the workspace, the privileged ones included, and what they need first.

use std::{env, ffi::OsString, fs, path::Path, process::Command};

use anyhow::Result;

use crate::{
    build_ebpf::fresh_is_current,
    object_file,
    process::{cargo_bin, find_program, root_runner, run as run_command},
    setup, workspace,
};

/// Tests load this kernel object instead of the committed one.
const OBJECT: &str = "GUIDEVANE_OBJECT";
/// Tests that have a long form run it when this is set.
const FULL: &str = "GUIDEVANE_FULL";
/// Cases of a property test in a full run; the library's default is 256.
const FULL_CASES: &str = "4096";

/// Arguments of `test`.
#[derive(clap::Args)]
pub struct Args {
    /// Run long forms of tests and many more cases of property tests
    #[arg(long)]
    full: bool,
    /// Run only tests whose name contains one of these
    filters: Vec<String>,
}

/// Which tests to run.
#[derive(Clone, Copy)]
enum Selection {
    All,
    /// Those that load the kernel object are all among these.
    Privileged,
}

/// Runs the verb.
///
/// # Errors
/// A tool is missing, the build fails or a test does.
pub fn run(args: &Args) -> Result<()> {
    setup::test_tools()?;
    let runner = Runner::new(args)?;
    // Tests start the binaries of other packages, which no test run builds by itself.
    run_command(runner.cargo().args(["build", "--workspace", "--locked", "--bins"]))?;
    // Examples in the documentation come first: what the tests say is to be the last word.
    run_command(runner.cargo().args(["test", "--workspace", "--locked", "--doc"]).args(&args.filters))?;
    runner.run(Selection::All, args)?;
    let root = workspace::root();
    let fresh = workspace::fresh_object(&root);
    if fresh_is_current(&root)? && differs(&fresh, &workspace::committed_object(&root))? {
        eprintln!("once more with the object built here: {}", fresh.display());
        let runner = Runner { object: Some(fresh.into()), ..runner };
        runner.run(Selection::Privileged, args)?;
    }
    Ok(())
}

struct Runner {
    nextest: bool,
    full: bool,
    /// Starts test programs as root when cargo itself is not.
    wrapper: Option<(String, &'static str)>,
    object: Option<OsString>,
}

impl Runner {
    fn new(args: &Args) -> Result<Self> {
        let nextest = find_program("cargo-nextest", cargo_bin().as_slice()).is_some();
        Ok(Self { nextest, full: args.full, wrapper: root_runner("test")?, object: None })
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

    fn cargo(&self) -> Command {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(workspace::root());
        if self.full {
            cargo.env(FULL, "1").env("PROPTEST_CASES", FULL_CASES);
        }
        if let Some(object) = &self.object {
            cargo.env(OBJECT, object);
        }
        if let Some((name, value)) = &self.wrapper {
            cargo.env(name, value);
        }
        cargo
    }
}

/// Whether there is an object built here that is not the committed one.
fn differs(fresh: &Path, committed: &Path) -> Result<bool> {
    let (Ok(fresh), Ok(committed)) = (fs::read(fresh), fs::read(committed)) else { return Ok(false) };
    let sections = |object: &[u8]| object_file::sections(object);
    Ok(!object_file::differences(&sections(&fresh)?, &sections(&committed)?).is_empty())
}
