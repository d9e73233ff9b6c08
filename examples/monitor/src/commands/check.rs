//! `monitor check`: whether a configuration would be taken.

use std::path::PathBuf;

use clap::Args;

use super::out;
use crate::config::Config;

#[derive(Args)]
pub struct CheckArgs {
    /// The configuration
    #[arg(long, env = "MONITOR_CONFIG", value_name = "FILE")]
    config: PathBuf,
}

pub fn check(args: CheckArgs) -> anyhow::Result<u8> {
    let config = Config::read(&args.config)?;
    out::line(format!("{} is valid", args.config.display()))?;
    out::line(format!("listens on {}://{}", config.http.scheme(), config.http.listen))?;
    out::line(format!("keeps its data in {}", config.data_dir.display()))?;
    for github in &config.githubs {
        out::line(format!("registers runners as {} at {}", github.name, github.url))?;
    }
    for gitlab in &config.gitlabs {
        out::line(format!("takes jobs as {} from {}", gitlab.name, gitlab.url))?;
    }
    for profile in &config.profiles {
        let resources = &profile.resources;
        out::line(format!(
            "profile {}: {} to {} machines, each with {} vCPUs and {} MiB",
            profile.name, profile.min_idle, profile.max, resources.vcpus, resources.memory_mib
        ))?;
    }
    Ok(0)
}
