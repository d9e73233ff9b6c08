//! Follows the configuration's file while the service runs: what is good is taken, what is bad is told, and
//! the last good one stays.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use runner_core::{Pool, Profile, event::What, plan::Subject};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::{Interval, MissedTickBehavior},
};

use crate::config::{Changes, Config, ConfigError};

/// How often the file is read. An edit is taken once two readings in a row agree, so that one that is just
/// being written is not.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Where a configuration comes from, and what the command line put in its place.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// The file; the built-in one, if none.
    pub file: Option<PathBuf>,
    /// Instead of `http.listen`.
    pub listen: Option<SocketAddr>,
    /// Instead of `data.dir`.
    pub data: Option<PathBuf>,
    /// Instead of `data.cache`.
    pub cache: Option<PathBuf>,
}

/// The configuration in use, and what is wrong with the one in the file.
#[derive(Debug, Clone)]
pub struct ConfigState {
    /// The kinds of runner on offer.
    pub profiles: Vec<Profile>,
    /// Since when the configuration is in use.
    pub since: Timestamp,
    /// When the file was last refused, and why. None while what it holds is in use.
    pub refused: Option<(Timestamp, String)>,
    /// The keys that were changed and wait for a restart.
    pub restart: Vec<String>,
}

/// A configuration file that is followed.
pub struct Reload {
    source: Source,
    /// What is in use: as the process started with it, and as it is now.
    started: (Config, String),
    current: (Config, String),
    /// What of the profiles waits for a restart.
    waiting: Vec<String>,
    watch: FileWatch,
}

impl Source {
    /// Reads and checks the configuration; also gives its text.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn read(&self) -> Result<(Config, String), ConfigError> {
        match &self.file {
            Some(file) => {
                let text =
                    fs::read_to_string(file).map_err(|e| ConfigError::unreadable(file, &e))?;
                self.parse(text)
            }
            None => self.parse(crate::config::SAMPLE.to_owned()),
        }
    }

    fn parse(&self, text: String) -> Result<(Config, String), ConfigError> {
        let name = Path::new("built-in monitor.toml");
        let mut config = Config::parse(self.file.as_deref().unwrap_or(name), &text)?;
        if let Some(listen) = self.listen {
            config.http.listen = listen;
        }
        if let Some(data) = &self.data {
            config.data_dir.clone_from(data);
        }
        if self.cache.is_some() {
            config.cache_dir.clone_from(&self.cache);
        }
        Ok((config, text))
    }
}

impl ConfigState {
    /// This configuration, from now on.
    pub fn new(config: &Config) -> Self {
        let profiles = config.profiles.clone();
        Self { profiles, since: Timestamp::now(), refused: None, restart: Vec::new() }
    }

    /// What an operator should know, in sentences. Nothing, while all is well.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some((at, error)) = &self.refused {
            warnings.push(format!(
                "the configuration was refused at {at:.0}: {error}; the one of {:.0} stays",
                self.since
            ));
        }
        if !self.restart.is_empty() {
            let keys = self.restart.join(", ");
            warnings.push(format!("restart the service to use the new {keys}"));
        }
        warnings
    }
}

impl Reload {
    /// Follows the file from which `config` with `text` was just read.
    pub fn new(source: Source, config: Config, text: String) -> Self {
        let watch = FileWatch::new(source.file.clone(), text.clone());
        let current = (config, text);
        Self { source, started: current.clone(), current, waiting: Vec::new(), watch }
    }

    /// The next content of the file.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn changed(&mut self) -> Edit {
        self.watch.changed().await
    }

    /// What is in use.
    pub fn config(&self) -> &Config {
        &self.current.0
    }

    /// The content of the file as it is now, waited for or not.
    pub async fn now(&mut self) -> Edit {
        self.watch.now().await
    }

    /// Takes an edit, all of it or nothing, and says so in the event log and in `told`.
    pub async fn take(&mut self, edit: Edit, pool: &Pool, told: &watch::Sender<Arc<ConfigState>>) {
        let note = |text: String| {
            pool.events().record(Timestamp::now(), Subject::Pool, What::Note { text });
        };
        let mut state = ConfigState::clone(&told.borrow());
        match self.apply(edit, pool).await {
            Ok(changes) => {
                let was_refused = state.refused.take().is_some();
                if !changes.is_empty() || was_refused {
                    note(format!("the configuration was taken: {changes}"));
                }
                state.since = Timestamp::now();
                state.profiles.clone_from(&self.current.0.profiles);
                let (started, current) = (&self.started, &self.current);
                let all = Changes::between((&started.0, &started.1), (&current.0, &current.1));
                state.restart = all.restart;
                state.restart.extend(self.waiting.iter().cloned());
            }
            Err(error) => {
                // Again and again the same is no news.
                if state.refused.as_ref().is_none_or(|(_, before)| *before != error) {
                    tracing::error!("The configuration was refused: {error}");
                    note(format!(
                        "the configuration was refused, and the one of {:.0} stays: {error}",
                        state.since
                    ));
                    state.refused = Some((Timestamp::now(), error));
                }
            }
        }
        told.send_replace(Arc::new(state));
    }

    async fn apply(&mut self, edit: Edit, pool: &Pool) -> Result<Changes, String> {
        let refuse = |error: ConfigError| error.to_string();
        let file = self.source.file.clone().unwrap_or_default();
        let text = edit.0.map_err(|error| refuse(ConfigError::unreadable(&file, &error)))?;
        let (mut config, text) = self.source.parse(text).map_err(refuse)?;
        if let Some(capacity) = &pool.status().capacity {
            config.check_fit(capacity).map_err(refuse)?;
        }
        let current = (&self.current.0, self.current.1.as_str());
        let waiting = config.hold_back(&self.started.0);
        let mut changes = Changes::between(current, (&config, &text));
        let news = waiting.iter().filter(|key| !self.waiting.contains(key)).cloned();
        changes.restart.extend(news);
        if config.profiles != self.current.0.profiles {
            let offered = pool.offer(config.profiles.clone()).await;
            offered.map_err(|error| runner_core::error::chain(&error))?;
        }
        self.current = (config, text);
        self.waiting = waiting;
        Ok(changes)
    }
}

/// What a file holds now, or why it cannot be read.
pub struct Edit(Result<String, io::Error>);

/// Reads a file again and again. Whatever an editor does to save (write, rename over, swap a link), its
/// content is what counts.
struct FileWatch {
    file: Option<PathBuf>,
    /// What was told last.
    told: Result<String, io::ErrorKind>,
    /// What was read last, when it is not what was told.
    seen: Option<Result<String, io::ErrorKind>>,
    tick: Interval,
}

impl FileWatch {
    fn new(file: Option<PathBuf>, text: String) -> Self {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { file, told: Ok(text), seen: None, tick }
    }

    async fn changed(&mut self) -> Edit {
        let Some(file) = self.file.clone() else { return std::future::pending().await };
        loop {
            self.tick.tick().await;
            let read = read(file.clone()).await;
            let key = key(&read);
            if key == self.told {
                self.seen = None;
            } else if self.seen.as_ref() == Some(&key) {
                (self.told, self.seen) = (key, None);
                return Edit(read);
            } else {
                self.seen = Some(key);
            }
        }
    }

    async fn now(&mut self) -> Edit {
        let Some(file) = self.file.clone() else {
            return Edit(Ok(crate::config::SAMPLE.to_owned()));
        };
        let read = read(file).await;
        (self.told, self.seen) = (key(&read), None);
        Edit(read)
    }
}

async fn read(file: PathBuf) -> io::Result<String> {
    let read = tokio::task::spawn_blocking(move || fs::read_to_string(file)).await;
    read.unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn key(read: &io::Result<String>) -> Result<String, io::ErrorKind> {
    match read {
        Ok(text) => Ok(text.clone()),
        Err(error) => Err(error.kind()),
    }
}

/// SIGHUP: take the file as it is now.
pub struct Hangup(Signal);

impl Hangup {
    /// Listens from now on.
    ///
    /// # Errors
    /// When that is refused.
    pub fn listen() -> io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    /// The next one.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn next(&mut self) {
        self.0.recv().await;
    }
}
