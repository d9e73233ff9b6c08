//! The runner programs in the images of profiles: which version each has, and until when GitHub takes it.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use forge_github::{
    Client,
    downloads::{RunnerVersion, Versions},
};
use jiff::Timestamp;
use runner_core::{ProfileName, Status, error::chain};

use crate::{data_dir, remote::Program};

/// How often GitHub is asked what it offers.
const ASK_EVERY: Duration = Duration::from_secs(6 * 3600);
/// How soon again, when it could not tell.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// What is known of them. Nothing is asked, where no profile says what its image has.
pub(super) struct Programs {
    /// What GitHub offered, and when: it does not say when it released a version.
    file: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What the configuration says.
    versions: BTreeMap<ProfileName, RunnerVersion>,
    seen: Versions,
    /// When the image in use was built.
    built_at: BTreeMap<ProfileName, Timestamp>,
    /// What was told the operator last.
    told: BTreeMap<ProfileName, String>,
}

impl Programs {
    /// Those of `versions`, with what was seen before, in `directory`. What cannot be read is begun anew: then
    /// the deadline comes from the age of the image.
    pub fn open(versions: BTreeMap<ProfileName, RunnerVersion>, directory: &Path) -> Self {
        let file = directory.join("runner-versions.json");
        let seen = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                let path = file.display();
                tracing::warn!(%path, %error, "What is known of runner programs is damaged, and begins anew.");
                Versions::default()
            }),
            Err(_) => Versions::default(),
        };
        Self { file, state: Mutex::new(State { versions, seen, ..State::default() }) }
    }

    /// Takes on what an edited configuration says.
    pub fn configure(&self, versions: BTreeMap<ProfileName, RunnerVersion>) {
        self.state().versions = versions;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks GitHub again and again what it offers.
    pub async fn attend(&self, client: &Client) {
        loop {
            if self.state().versions.is_empty() {
                tokio::time::sleep(ASK_AGAIN).await;
                continue;
            }
            let pause = match client.runner_programs().await {
                Ok(offered) => {
                    let seen = {
                        let mut state = self.state();
                        state.seen.seen(&offered, Timestamp::now());
                        state.seen.clone()
                    };
                    if let Err(error) = self.keep(&seen) {
                        let path = self.file.display();
                        tracing::warn!(%path, %error, "What is known of runner programs cannot be kept.");
                    }
                    ASK_EVERY
                }
                Err(error) => {
                    // The forge's own health tells of what concerns more than this.
                    tracing::debug!(
                        error = chain(&error),
                        "GitHub does not tell its runner programs."
                    );
                    ASK_AGAIN
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    fn keep(&self, seen: &Versions) -> io::Result<()> {
        let directory = self.file.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(directory)?;
        data_dir::replace(&self.file, &serde_json::to_vec(seen)?)
    }

    /// Takes in which images are in use.
    pub fn follow(&self, status: &Status) {
        let mut state = self.state();
        for image in &status.images {
            let profile = &image.recipe.profile;
            let at = state.built_at.entry(profile.clone()).or_insert(image.built_at);
            *at = image.built_at.max(*at);
        }
    }

    /// Each of them, as it is now.
    pub fn all(&self, now: Timestamp) -> BTreeMap<ProfileName, Program> {
        let state = self.state();
        let each = state.versions.iter();
        each.map(|(profile, version)| (profile.clone(), state.program(profile, *version, now)))
            .collect()
    }

    /// What the operator should be told since this was last asked: once when there are a few days left, and
    /// once when there are none.
    pub fn news(&self, now: Timestamp) -> Vec<String> {
        let mut state = self.state();
        let mut news = Vec::new();
        for (profile, version) in state.versions.clone() {
            let program = state.program(&profile, version, now);
            let Some(warning) = program.warning else {
                state.told.remove(&profile);
                continue;
            };
            let is_over = program.refused_from.is_some_and(|from| from <= now);
            let kind = format!("{version} {is_over}");
            if state.told.insert(profile.clone(), kind.clone()) != Some(kind) {
                news.push(format!("profile {profile}: {warning}"));
            }
        }
        news
    }
}

impl State {
    fn program(&self, profile: &ProfileName, version: RunnerVersion, now: Timestamp) -> Program {
        let deadline = self.seen.deadline(version, self.built_at.get(profile).copied());
        Program {
            version: version.to_string(),
            newest: self.seen.newest().map(|newest| newest.to_string()),
            refused_from: deadline.map(|deadline| deadline.refused_from),
            warning: deadline.and_then(|deadline| deadline.warning(now)),
        }
    }
}
