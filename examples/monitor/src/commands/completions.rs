//! `monitor completions` and `monitor man`: what a shell and `man` know of this program.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, out};

#[derive(Args)]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

#[derive(Args)]
pub struct ManArgs {
    /// Where to put the pages
    dir: PathBuf,
}

pub fn completions(args: CompletionsArgs) -> anyhow::Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "monitor", &mut script);
    out::bytes(&script)?;
    Ok(0)
}

pub fn man(args: ManArgs) -> anyhow::Result<u8> {
    let pages = clap_mangen::generate_to(Cli::command(), &args.dir);
    pages.with_context(|| format!("could not write manual pages to {}", args.dir.display()))?;
    Ok(0)
}
