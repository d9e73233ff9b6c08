//! What is asked of a forge while it works, beside what the pool asks: by whoever operates it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError},
};

use runner_core::{JobId, ProfileName, Result};
use url::Url;

use crate::{
    config::GitlabConfig,
    forge::{GitlabForge, Health, end},
    job::LiveJob,
    terms::Terms,
    update::{Reason, Verdict},
};

/// For whom no jobs are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Paused {
    all: bool,
    profiles: BTreeSet<ProfileName>,
}

impl Paused {
    pub(crate) fn holds(&self, profile: &ProfileName) -> bool {
        self.all || self.profiles.contains(profile)
    }
}

/// A job in hand, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobPage {
    /// What its pipeline calls it.
    pub title: String,
    /// The full path of its project.
    pub project: String,
    /// Where it is seen.
    pub page: Url,
}

impl GitlabForge {
    /// Stops asking for jobs, or goes on. Those in hand are not affected; a question that GitLab holds already
    /// may still bring one.
    pub fn pause(&self, paused: bool) {
        self.inner.paused.send_modify(|now| now.all = paused);
    }

    /// Stops asking for jobs of these profiles, and goes on with those of all others. As with
    /// [`pause`](Self::pause), which goes before it, jobs in hand are not affected.
    pub fn pause_profiles(&self, profiles: BTreeSet<ProfileName>) {
        self.inner.paused.send_if_modified(|now| {
            let changes = now.profiles != profiles;
            now.profiles = profiles;
            changes
        });
    }

    /// Takes on what an operator changed meanwhile: the rules of access and of images, the administration, and
    /// the profiles. Jobs in hand are not affected. The rest of `config` counts from the next
    /// [`open`](Self::open) on.
    ///
    /// # Errors
    /// As [`GitlabConfig::check`]: then nothing changes. `Backend` when a token that is kept cannot be read.
    pub fn change(&self, config: &GitlabConfig) -> Result<()> {
        config.check()?;
        let inner = &self.inner;
        let terms = Terms::new(config)?;
        inner.tokens.take_named(&inner.config, &terms.profiles)?;
        inner.terms.send_replace(Arc::new(terms));
        inner.tokens.look_again();
        self.background.ask_for_all();
        Ok(())
    }

    /// Ends the jobs that wait here for a machine, as nobody will make one: `why`, in words.
    ///
    /// # Errors
    /// `Backend` when an end cannot be written down.
    pub fn turn_away(&self, why: &str) -> Result<()> {
        let waiting: Vec<Arc<LiveJob>> =
            self.inner.state().waiting().into_iter().cloned().collect();
        for job in waiting {
            job.change(|progress, text| {
                // It may have been given to a worker in this moment.
                if progress.worker.is_none() && progress.verdict.is_none() {
                    let verdict =
                        Verdict::Failed { reason: Reason::RunnerInterrupted, exit_code: None };
                    end(progress, text, verdict, Some(why));
                }
            })?;
        }
        self.inner.hint.hint();
        Ok(())
    }

    /// Returns once GitLab knows of the end of every job that is over.
    ///
    /// # Cancel safety
    /// Cancel safe: whoever opens the same directory goes on telling.
    pub async fn told(&self) {
        let mut changes = self.inner.hint.changes();
        loop {
            let jobs: Vec<Arc<LiveJob>> = self.inner.state().jobs.values().cloned().collect();
            if !jobs.iter().any(|job| job.progress().verdict.is_some()) {
                return;
            }
            changes.next().await;
        }
    }

    /// What an operator should be told since this was last asked, in sentences.
    pub fn news(&self) -> Vec<String> {
        self.inner.news.take()
    }

    /// Where people find a job in hand. From memory, at once.
    pub fn job(&self, id: &JobId) -> Option<JobPage> {
        let job = self.inner.state().jobs.get(&id.as_str().parse().ok()?)?.clone();
        let project = job.payload.requester().project?.to_owned();
        let mut page = self.inner.config.url.clone();
        page.path_segments_mut().ok()?.pop_if_empty().extend(project.split('/')).extend([
            "-",
            "jobs",
            id.as_str(),
        ]);
        let title = job.payload.given("CI_JOB_NAME").unwrap_or(id.as_str()).to_owned();
        Some(JobPage { title, project, page })
    }

    /// How it is going with each profile's runner at GitLab.
    pub fn health(&self) -> BTreeMap<ProfileName, Health> {
        let health = self.inner.health.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let terms = self.inner.terms();
        let offered = terms.profiles.iter().map(|profile| &profile.profile);
        offered
            .filter(|name| terms.offers(name))
            .map(|name| (name.clone(), health.get(name).cloned().unwrap_or(Health::Unregistered)))
            .collect()
    }
}
