//! `monitor serve`: the service.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

use crate::{
    logs::{self, LogFormat},
    reload::Source,
    serve::{self, AtExit},
};

#[derive(Args)]
pub struct ServeArgs {
    /// The configuration; without one, a built-in one with a small Linux
    #[arg(long, env = "MONITOR_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen, instead of where the configuration says
    #[arg(long, env = "MONITOR_LISTEN", value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// The data directory, instead of the configuration's
    #[arg(long, env = "MONITOR_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where to keep what can be had again, instead of where the configuration says
    #[arg(long, env = "MONITOR_CACHE", value_name = "DIR")]
    cache: Option<PathBuf>,
    /// On SIGTERM or Ctrl-C, let jobs end and leave no machine behind, instead of leaving them running
    #[arg(long)]
    drain_on_exit: bool,
    /// What to log, such as `info` or `info,runner_core=debug`
    #[arg(long, env = "MONITOR_LOG", default_value = "info,poem=warn", value_name = "FILTER")]
    log: String,
    /// How log lines look
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
}

pub async fn serve(args: ServeArgs) -> anyhow::Result<u8> {
    let filter = logs::filter(&args.log)?;
    let source =
        Source { file: args.config, listen: args.listen, data: args.data, cache: args.cache };
    let (config, _) = source.read()?;
    logs::start(filter, args.log_format, &config.log, &config.data_dir)?;
    let at_exit = if args.drain_on_exit { AtExit::Drain } else { AtExit::Leave };
    serve::run(source, at_exit).await?;
    Ok(0)
}
