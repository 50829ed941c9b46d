//! Finds the compiler and linker for the kernel side.
//!
//! Building `core` for the BPF target takes the standard library's sources and unstable flags: rustup's nightly
//! with `rust-src`, or Debian's compiler with `rust-web-src`. Finding is kept apart from choosing.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use serde::{Deserialize, Serialize};

use crate::process::{cargo_bin, find_program, output, outside_cargo};

/// Debian's compiler and cargo; beside a rustup they are not the first in `PATH`.
const DEBIAN_BIN: &str = "/usr/bin";

/// A tool chain in the words that make two builds comparable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// First line of `rustc --version --verbose`.
    pub rustc: String,
    /// Version of the LLVM inside the compiler.
    pub llvm: String,
    /// First line of `bpf-linker --version`.
    pub linker: String,
    /// Version of the LLVM that the linker runs, which generates the code; "built in" when it cannot be asked.
    pub linker_llvm: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rustc, llvm, linker, linker_llvm } = self;
        write!(formatter, "{rustc} with LLVM {llvm} and {linker} with LLVM {linker_llvm}")
    }
}

/// Where a compiler comes from, in order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// `rustup run nightly`.
    RustupNightly,
    /// The distribution's packages.
    Debian,
}

/// A compiler found on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiler {
    /// Its origin, which decides how it is called.
    pub source: Source,
    /// First line of its version.
    pub version: String,
    /// Version of its LLVM.
    pub llvm: String,
    /// Sources of the standard library, `None` when not installed.
    pub std_sources: Option<PathBuf>,
}

/// The BPF linker found on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linker {
    /// The program.
    pub path: PathBuf,
    /// First line of its version.
    pub version: String,
    /// Version of its LLVM where that is a shared library.
    pub llvm: Option<String>,
}

/// What this machine has.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// All compilers found, the preferred first.
    pub compilers: Vec<Compiler>,
    /// The linker, if any.
    pub linker: Option<Linker>,
}

/// A compiler and linker that work together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    /// The compiler.
    pub compiler: Compiler,
    /// Its standard library's sources.
    pub std_sources: PathBuf,
    /// The linker.
    pub linker: Linker,
}

impl Toolchain {
    /// What this tool chain is called in the manifest.
    pub fn identity(&self) -> Identity {
        Identity {
            rustc: self.compiler.version.clone(),
            llvm: self.compiler.llvm.clone(),
            linker: self.linker.version.clone(),
            linker_llvm: self.linker.llvm.clone().unwrap_or_else(|| "built in".to_owned()),
        }
    }

    /// A cargo that builds with this compiler; the linker is first in its `PATH`.
    pub fn cargo(&self) -> Command {
        let mut cargo = program(self.compiler.source, "cargo");
        if self.compiler.source == Source::Debian {
            cargo.env("RUSTC", Path::new(DEBIAN_BIN).join("rustc")).env("RUSTC_BOOTSTRAP", "1");
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let linker_folder = self.linker.path.parent().map(Path::to_path_buf);
        if let Ok(path) = std::env::join_paths(linker_folder.into_iter().chain(std::env::split_paths(&path)))
        {
            cargo.env("PATH", path);
        }
        cargo
    }
}

/// All tool chains that can build the kernel side, the preferred first, or why there is none, a reason a line.
///
/// # Errors
/// The reasons why nothing found can build it.
pub fn usable(environment: &Environment) -> Result<Vec<Toolchain>, Vec<String>> {
    let Some(linker) = &environment.linker else {
        return Err(vec!["bpf-linker is not installed".to_owned()]);
    };
    let mut usable = Vec::new();
    let mut reasons = Vec::new();
    for compiler in &environment.compilers {
        match fits(compiler, linker) {
            Ok(toolchain) => usable.push(toolchain),
            Err(reason) => reasons.push(format!("{}: {reason}", compiler.version)),
        }
    }
    if environment.compilers.is_empty() {
        reasons.push("neither rustup's nightly nor the distribution's rustc is installed".to_owned());
    }
    if usable.is_empty() { Err(reasons) } else { Ok(usable) }
}

fn fits(compiler: &Compiler, linker: &Linker) -> Result<Toolchain, String> {
    let Some(std_sources) = compiler.std_sources.clone() else {
        return Err("the sources of the standard library (rust-src) are not installed".to_owned());
    };
    // The linker reads the compiler's bitcode, and LLVM reads that of older releases only.
    if let Some(llvm) = &linker.llvm
        && numbers(llvm) < numbers(&compiler.llvm)
    {
        return Err(format!("its LLVM {} is newer than bpf-linker's {llvm}", compiler.llvm));
    }
    Ok(Toolchain { compiler: compiler.clone(), std_sources, linker: linker.clone() })
}

fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map_while(|part| part.parse().ok()).collect()
}

/// Looks at this machine.
pub fn probe() -> Environment {
    let compilers = [Source::RustupNightly, Source::Debian].into_iter().filter_map(compiler).collect();
    Environment { compilers, linker: linker() }
}

fn program(source: Source, name: &str) -> Command {
    match source {
        Source::RustupNightly => {
            let mut rustup = outside_cargo("rustup");
            rustup.args(["run", "nightly", name]);
            rustup
        }
        Source::Debian => outside_cargo(Path::new(DEBIAN_BIN).join(name)),
    }
}

fn compiler(source: Source) -> Option<Compiler> {
    output(program(source, "cargo").arg("--version"))?;
    let verbose = output(program(source, "rustc").args(["--version", "--verbose"]))?;
    let sysroot = output(program(source, "rustc").args(["--print", "sysroot"]))?;
    let version = verbose.lines().next()?.to_owned();
    let llvm = verbose.lines().find_map(|line| line.strip_prefix("LLVM version: "))?.to_owned();
    let library = Path::new(&sysroot).join("lib/rustlib/src/rust");
    let std_sources = library.join("library/core/src/lib.rs").is_file().then_some(library);
    Some(Compiler { source, version, llvm, std_sources })
}

fn linker() -> Option<Linker> {
    let path = find_program("bpf-linker", &cargo_bin().into_iter().collect::<Vec<_>>())?;
    let version = output(Command::new(&path).arg("--version"))?;
    let llvm = linker_llvm(&path);
    Some(Linker { path, version, llvm })
}

/// The version of the LLVM library that the linker loads, from the `llvm-config` installed with it.
fn linker_llvm(linker: &Path) -> Option<String> {
    let libraries = output(Command::new("ldd").arg(linker))?;
    let library = libraries
        .lines()
        .find_map(|line| line.trim().strip_prefix("libLLVM").and_then(|rest| rest.split(" => ").nth(1)))?;
    let library = Path::new(library.split(" (").next()?);
    output(Command::new(library.parent()?.parent()?.join("bin/llvm-config")).arg("--version"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiler(source: Source, llvm: &str, std_sources: bool) -> Compiler {
        let std_sources = std_sources.then(|| PathBuf::from("/library"));
        Compiler { source, version: format!("rustc of {source:?}"), llvm: llvm.to_owned(), std_sources }
    }

    fn linker(llvm: Option<&str>) -> Option<Linker> {
        let llvm = llvm.map(str::to_owned);
        Some(Linker { path: "/bin/bpf-linker".into(), version: "bpf-linker 0.13.0".into(), llvm })
    }

    fn sources(environment: &Environment) -> Vec<Source> {
        let usable = usable(environment).unwrap_or_else(|reasons| panic!("nothing usable: {reasons:?}"));
        usable.iter().map(|toolchain| toolchain.compiler.source).collect()
    }

    fn reasons(environment: &Environment) -> String {
        usable(environment).expect_err("nothing is usable").join("; ")
    }

    #[test]
    fn nightly_with_sources_comes_before_the_distribution() {
        let compilers =
            vec![compiler(Source::RustupNightly, "22.1.2", true), compiler(Source::Debian, "22.1.8", true)];
        let environment = Environment { compilers, linker: linker(Some("22.1.8")) };
        assert_eq!(sources(&environment), [Source::RustupNightly, Source::Debian]);
    }

    #[test]
    fn nightly_without_sources_gives_way_to_the_distribution() {
        let compilers =
            vec![compiler(Source::RustupNightly, "22.1.2", false), compiler(Source::Debian, "22.1.8", true)];
        let environment = Environment { compilers, linker: linker(Some("22.1.8")) };
        assert_eq!(sources(&environment), [Source::Debian]);
    }

    #[test]
    fn a_compiler_newer_than_the_linkers_llvm_is_passed_over() {
        let compilers =
            vec![compiler(Source::RustupNightly, "23.0.0", true), compiler(Source::Debian, "22.1.8", true)];
        let environment = Environment { compilers, linker: linker(Some("22.1.8")) };
        assert_eq!(sources(&environment), [Source::Debian]);
        let older = Environment { linker: linker(Some("22.1.2")), ..environment };
        assert!(reasons(&older).contains("its LLVM 22.1.8 is newer than bpf-linker's 22.1.2"));
    }

    #[test]
    fn a_linker_with_llvm_built_in_is_tried() {
        let compilers = vec![compiler(Source::RustupNightly, "23.0.0", true)];
        let environment = Environment { compilers, linker: linker(None) };
        assert_eq!(sources(&environment), [Source::RustupNightly]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let compilers = || vec![compiler(Source::Debian, "22.1.8", false)];
        for (environment, expected) in [
            (Environment { compilers: compilers(), linker: None }, "bpf-linker is not installed"),
            (Environment { compilers: vec![], linker: linker(None) }, "neither rustup's nightly"),
            (Environment { compilers: compilers(), linker: linker(None) }, "rust-src"),
        ] {
            assert!(reasons(&environment).contains(expected), "{} lacks {expected}", reasons(&environment));
        }
    }
}
