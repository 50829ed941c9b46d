//! `guidevane completions` and `guidevane man`: what shells and man make of the grammar.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Command};
use clap_complete::Shell;

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Folder to write a page for each command to, which must exist
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn completions(mut grammar: Command, args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut grammar, "guidevane", &mut script);
    super::print(&String::from_utf8(script)?)
}

pub(super) fn man(grammar: Command, args: &ManArgs) -> anyhow::Result<()> {
    if let Some(folder) = &args.dir {
        return clap_mangen::generate_to(grammar, folder)
            .with_context(|| format!("write manual pages to {}", folder.display()));
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(grammar).render(&mut page)?;
    super::print(&String::from_utf8(page)?)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::{ManArgs, man};
    use crate::cli::Cli;

    #[test]
    fn every_command_has_a_manual_page() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        man(Cli::command(), &ManArgs { dir: Some(folder.path().to_owned()) }).expect("write the pages");
        for name in
            ["guidevane", "guidevane-run", "guidevane-agent", "guidevane-decap", "guidevane-backends-drain"]
        {
            let page = std::fs::read_to_string(folder.path().join(format!("{name}.1")));
            let page = page.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(page.contains(".SH SYNOPSIS"), "{name}: {page}");
        }
    }
}
