//! `monitor gitlab-runner-config`: what the official `gitlab-runner` needs to serve in place of this service.

use std::path::PathBuf;

use clap::Args;

use super::{WrongUse, out};
use crate::{compose, config::GitlabConfig, reload::Source};

#[derive(Args)]
pub struct GitlabRunnerConfigArgs {
    /// Which GitLab of the configuration; not needed where there is one only
    forge: Option<String>,
    /// What that runner is to run jobs with, such as shell or custom
    #[arg(long, default_value = "custom")]
    executor: String,
    /// The configuration
    #[arg(long, env = "MONITOR_CONFIG", value_name = "FILE")]
    config: PathBuf,
    /// The data directory, instead of the configuration's
    #[arg(long, env = "MONITOR_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
}

pub fn gitlab_runner_config(args: GitlabRunnerConfigArgs) -> anyhow::Result<u8> {
    let source = Source { file: Some(args.config), data: args.data, ..Source::default() };
    let (config, _) = source.read()?;
    let section = choose(&config.gitlabs, args.forge.as_deref())?;
    let text = compose::gitlab_config_toml(section, &config.data_dir, &args.executor)?;
    out::line(text.trim_end())?;
    Ok(0)
}

fn choose<'a>(all: &'a [GitlabConfig], name: Option<&str>) -> Result<&'a GitlabConfig, WrongUse> {
    let names: Vec<&str> = all.iter().map(|gitlab| gitlab.name.as_str()).collect();
    let names = names.join(", ");
    match (name, all) {
        (_, []) => Err(WrongUse("the configuration has no [[gitlab]]".to_owned())),
        (None, [only]) => Ok(only),
        (None, _) => Err(WrongUse(format!("name one of its GitLabs: {names}"))),
        (Some(name), _) => {
            all.iter().find(|gitlab| gitlab.name.as_str() == name).ok_or_else(|| {
                WrongUse(format!("the configuration has no GitLab {name:?}; it has {names}"))
            })
        }
    }
}
