//! What the process says about itself: to standard error, to the journal or to a file that stays small.

use std::{
    env,
    fs::{File, OpenOptions},
    io::{self, IsTerminal},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Mutex,
};

use anyhow::{Context, anyhow};
use clap::ValueEnum;
use file_rotate::{ContentLimit, FileRotate, compression::Compression, suffix::AppendCount};
use tracing_subscriber::{
    Layer, Registry, filter::Targets, fmt, fmt::MakeWriter, layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{
    config::{ConfigError, LogConfig, LogTo},
    data_dir,
};

/// How log lines look. The journal has its own way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

type Boxed = Box<dyn Layer<Registry> + Send + Sync>;

/// What to log, such as `info` or `info,runner_core=debug`.
///
/// # Errors
/// For what is no filter.
pub fn filter(text: &str) -> Result<Targets, ConfigError> {
    text.parse().map_err(|error| {
        let problem = format!(
            "--log {text:?} is not a filter ({error}); write it like info,runner_core=debug"
        );
        ConfigError::new("", problem)
    })
}

/// Starts logging what `filter` lets through.
///
/// # Errors
/// For a file or a journal that cannot be written to, or when logging was started before.
pub fn start(
    filter: Targets,
    format: LogFormat,
    config: &LogConfig,
    data_dir: &Path,
) -> anyhow::Result<()> {
    let layer = match config.to {
        LogTo::Auto if leads_to_journal() => {
            journal().unwrap_or_else(|_| lines(format, io::stderr, false))
        }
        LogTo::Auto | LogTo::Stderr => lines(format, io::stderr, wants_colour()),
        LogTo::Journald => journal().context(
            "could not log to the journal; run under systemd, or set to = \"stderr\" in [log]",
        )?,
        LogTo::File => lines(format, Mutex::new(file(config, data_dir)?), false),
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init()
        .map_err(|error| anyhow!("could not start logging: {error}"))
}

fn lines<W>(format: LogFormat, writer: W, ansi: bool) -> Boxed
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = fmt::layer().with_writer(writer);
    match format {
        LogFormat::Human => layer.with_ansi(ansi).boxed(),
        LogFormat::Json => layer.json().boxed(),
    }
}

/// Fields keep their names there, in capitals: `journalctl WORKER=micro-1`.
fn journal() -> io::Result<Boxed> {
    let layer = tracing_journald::layer()?.with_field_prefix(None);
    Ok(layer.with_syslog_identifier("monitor".to_owned()).boxed())
}

/// Lines in it may name what not everybody should know.
fn file(config: &LogConfig, data_dir: &Path) -> anyhow::Result<FileRotate<AppendCount>> {
    let path = config.file.clone().unwrap_or_else(|| data_dir.join("monitor.log"));
    if config.file.is_none() {
        data_dir::make(data_dir)?;
    }
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600);
    // The crate would go on without a file and without a word.
    let _: File = options.open(&path).with_context(|| {
        let shown = path.display();
        format!("could not write to the log file {shown}; choose another as file in [log]")
    })?;
    let limit = ContentLimit::BytesSurpassed(config.max_size);
    let suffix = AppendCount::new(config.keep);
    Ok(FileRotate::new(absolute(path), suffix, limit, Compression::None, Some(options)))
}

fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// Whether standard error is what systemd connected to the journal, as it says by `JOURNAL_STREAM`.
fn leads_to_journal() -> bool {
    let Ok(stderr) = rustix::fs::fstat(io::stderr()) else { return false };
    let own = format!("{}:{}", stderr.st_dev, stderr.st_ino);
    env::var("JOURNAL_STREAM").is_ok_and(|stream| stream == own)
}

/// As <https://no-color.org> has it: any value but an empty one means no colour.
fn wants_colour() -> bool {
    let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !refused && io::stderr().is_terminal()
}
