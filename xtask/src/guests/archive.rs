//! Packages of any Debian release, unpacked into a folder and never installed.
//!
//! The mirror is the one that this machine's own apt is configured with; other releases lie beside its own on it.
//! apt checks every signature. It works on package lists of its own here: lists of another release in the system's
//! would offer its packages as upgrades, and only root may write those.

use std::{
    ffi::OsString,
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::process::{find_program, output, run_quietly};

/// The keys of the Debian archive, from the package `debian-archive-keyring`, which apt itself depends on.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The architecture of every guest.
const ARCHITECTURE: &str = "amd64";
/// Written last, with what was asked for: a folder without it is not complete.
const STAMP: &str = "complete";

/// What to unpack.
#[derive(Clone, Copy, Debug)]
pub enum Wanted {
    /// These packages and everything they depend on, the C library included.
    WithDependencies(&'static [&'static str]),
    /// What this metapackage depends on at present, alone.
    Behind(&'static str),
}

impl fmt::Display for Wanted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WithDependencies(packages) => {
                write!(formatter, "{} with dependencies", packages.join(" and "))
            }
            Self::Behind(metapackage) => write!(formatter, "the package behind {metapackage}"),
        }
    }
}

/// Makes sure that a folder holds packages of a release, and gives the root of their file system.
///
/// What is there already is kept as long as it is what is asked for.
///
/// # Errors
/// This machine's apt knows no Debian mirror, or the packages cannot be had from it.
pub fn unpacked(folder: &Path, release: &str, wanted: Wanted) -> Result<PathBuf> {
    let root = folder.join("root");
    let stamp = format!("{release}: {wanted}");
    if fs::read_to_string(folder.join(STAMP)).is_ok_and(|found| found == stamp) {
        return Ok(root);
    }
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("could not remove {}", folder.display()))?;
    }
    eprintln!("fetching from Debian's {release}: {wanted}");
    let apt = Apt::new(&folder.join("apt"), release)?;
    fs::create_dir_all(&root)?;
    let context = || format!("could not get {wanted} from Debian's {release}");
    for package in apt.download(wanted).with_context(context)? {
        run_quietly(Command::new("dpkg-deb").arg("--extract").arg(package).arg(&root))?;
    }
    fs::remove_dir_all(&apt.folder)?;
    fs::write(folder.join(STAMP), stamp)?;
    Ok(root)
}

/// An apt that knows one release and believes that nothing is installed.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn new(folder: &Path, release: &str) -> Result<Self> {
        let apt = Self { folder: folder.to_path_buf() };
        for inner in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(folder.join(inner))?;
        }
        let mirror = mirror()?;
        let source = format!("deb [arch={ARCHITECTURE} signed-by={KEYRING}] {mirror} {release} main\n");
        fs::write(folder.join("sources.list"), source)?;
        fs::write(folder.join("status"), "")?;
        run_quietly(apt.command("apt-get").arg("update"))?;
        Ok(apt)
    }

    /// The downloaded packages.
    fn download(&self, wanted: Wanted) -> Result<Vec<PathBuf>> {
        let archives = self.folder.join("archives");
        let mut get = self.command("apt-get");
        match wanted {
            Wanted::WithDependencies(packages) => {
                get.args(["install", "--download-only", "--yes", "--no-install-recommends"]).args(packages);
            }
            Wanted::Behind(metapackage) => {
                get.arg("download").arg(self.dependency(metapackage)?).current_dir(&archives);
            }
        }
        run_quietly(&mut get)?;
        let files = fs::read_dir(&archives)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        let packages = files.into_iter().filter(|path| path.extension().is_some_and(|name| name == "deb"));
        Ok(packages.collect())
    }

    fn dependency(&self, metapackage: &str) -> Result<String> {
        let listed = output(self.command("apt-cache").args(["depends", "--important", metapackage]));
        let listed = listed.with_context(|| format!("there is no package {metapackage}"))?;
        let package = listed.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(package.with_context(|| format!("{metapackage} depends on nothing"))?.to_owned())
    }

    /// The machine's own settings, a proxy for example, hold except for these.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).env("DEBIAN_FRONTEND", "noninteractive");
        let mut set = |name: &str, value: OsString| {
            let mut setting = OsString::from(format!("{name}="));
            setting.push(value);
            command.arg("--option").arg(setting);
        };
        for (name, inside) in [
            ("Dir::Etc::SourceList", "sources.list"),
            ("Dir::State::Lists", "lists"),
            ("Dir::State::Status", "status"),
            ("Dir::Cache::Archives", "archives"),
        ] {
            set(name, self.folder.join(inside).into());
        }
        for (name, value) in [
            ("Dir::Etc::SourceParts", "/dev/null"),
            ("Dir::Cache::PkgCache", ""),
            ("Dir::Cache::SrcPkgCache", ""),
            ("APT::Architecture", ARCHITECTURE),
            ("APT::Architectures", ARCHITECTURE),
            ("Acquire::Languages", "none"),
            // apt's own user may not be able to enter this checkout.
            ("APT::Sandbox::User", "root"),
            ("Quiet", "2"),
        ] {
            set(name, value.into());
        }
        command
    }
}

/// The address of the Debian archive among this machine's package sources.
fn mirror() -> Result<String> {
    if find_program("apt-get", &[]).is_none() || !Path::new(KEYRING).is_file() {
        bail!("older kernels come from Debian's archive, by apt and with {KEYRING}; this machine lacks them");
    }
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)", "Created-By: Packages"]);
    let listed = output(&mut command).unwrap_or_default();
    match archive_among(&listed) {
        Some(mirror) => Ok(mirror.to_owned()),
        None => bail!(
            "no Debian archive among apt's package sources, from which older kernels come (or apt does not know \
             yet: `apt-get update`)"
        ),
    }
}

/// The first that is the archive itself, not its security updates or another publisher's.
fn archive_among(listed: &str) -> Option<&str> {
    listed.lines().find_map(|line| line.strip_prefix("Debian|Debian|"))
}

#[cfg(test)]
mod tests {
    use super::archive_among;

    #[test]
    fn the_mirror_is_the_debian_archive_itself() {
        let listed = "Other|Other|http://a.example/debian/\n\
                      Debian|Debian-Security|http://b.example/security/\n\
                      Debian|Debian|http://b.example/debian/\n\
                      Debian|Debian|http://c.example/debian/";
        assert_eq!(archive_among(listed), Some("http://b.example/debian/"));
        assert_eq!(archive_among("Ubuntu|Ubuntu|http://d.example/ubuntu/\n||http://e.example/"), None);
    }
}
