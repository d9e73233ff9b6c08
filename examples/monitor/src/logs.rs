//! What the process says about itself, on standard error.

use std::{
    env,
    io::{self, IsTerminal},
};

use anyhow::anyhow;
use clap::ValueEnum;
use tracing_subscriber::{
    Layer, filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt,
};

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// Starts logging what `filter` lets through, such as `info` or `info,runner_core=debug`.
///
/// # Errors
/// For a filter that cannot be read, or when logging was started before.
pub fn start(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter: Targets = filter.parse().map_err(|error| {
        anyhow!("--log {filter:?} is not a filter ({error}); write it like info,runner_core=debug")
    })?;
    let layer = fmt::layer().with_writer(io::stderr);
    let layer = match format {
        LogFormat::Human => layer.with_ansi(wants_colour()).with_filter(filter).boxed(),
        LogFormat::Json => layer.json().with_filter(filter).boxed(),
    };
    tracing_subscriber::registry()
        .with(layer)
        .try_init()
        .map_err(|error| anyhow!("could not start logging: {error}"))
}

/// As <https://no-color.org> has it: any value but an empty one means no colour.
fn wants_colour() -> bool {
    let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !refused && io::stderr().is_terminal()
}
