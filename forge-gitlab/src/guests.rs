//! GitLab as a forge whose jobs are *pulled*: each machine is a runner of its own at GitLab, and GitLab's own
//! program in the guest takes the job and runs it.
//!
//! For operators who want sources, caches, artifacts and services exactly as `gitlab-runner` does them. What
//! it costs: access rules cannot be enforced, as nobody here sees a job before it runs; and which jobs wait
//! is known for a project's runners alone, so that for a group or an instance only machines that are kept
//! idle serve.
//!
//! A runner is made for one machine, with the machine's name in its description, and removed with it. Its
//! token is in the guest, where the job may find it: so a runner is paused at GitLab as soon as it is seen to
//! have a job, and the token is good for nothing more.

use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use runner_core::{
    Clock, Error, Forge, JobId, Label, OwnerId, ProfileName, Result, RunnerId, Secret, WorkerName,
    error::chain,
    forge::{
        ForgeCapabilities, QueuedJob, Registration, Runner as Listed, RunnerSpec, RunnerStatus,
    },
};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::{
    admin::{self, Admin},
    client::Client,
    config::{GitlabConfig, Place, ProfileConfig},
    error::failed,
    guest,
};

/// How many runners are looked at in full at a time.
const AT_ONCE: usize = 8;

/// One GitLab, whose jobs run by `gitlab-runner run-single` in guests that start with
/// [`guest::START`](crate::guest::START).
///
/// It keeps nothing on disk: what there is, GitLab lists.
#[derive(Clone)]
pub struct GitlabGuests(Arc<Inner>);

struct Inner {
    config: GitlabConfig,
    admin: Admin,
    clock: Clock,
    /// One runner is made at a time, to its end: a call that was dropped half-way may still make one.
    making: Mutex<()>,
}

/// What a runner is at.
enum At {
    /// It has had no job yet.
    Waiting,
    Job(JobId),
    /// It has had its job.
    Over,
}

impl GitlabGuests {
    /// A forge for these profiles. GitLab need not be there.
    ///
    /// # Errors
    /// `Invalid` for a configuration that cannot work or is not safe: among others, without administration,
    /// or with access rules, tokens or image rules, which cannot be heeded here.
    pub fn new(config: GitlabConfig, clock: Clock) -> Result<Self> {
        config.check()?;
        let Some(administration) = config.administration.clone() else {
            let reason = "name what it takes to create runners: each machine has one of its own";
            return Err(Error::invalid("administration", reason));
        };
        let refuse = |what: String| {
            let reason =
                "jobs are taken in the guest, and seen here only when they run: leave it out";
            Err(Error::invalid(what, reason))
        };
        if !config.access.is_empty() {
            return refuse("access".to_owned());
        }
        if !config.images.is_empty() {
            return refuse("images".to_owned());
        }
        for profile in &config.profiles {
            for (is_set, field) in [
                (!profile.access.is_empty(), "access"),
                (profile.token.is_some(), "token"),
                (profile.gateway, "gateway"),
            ] {
                if is_set {
                    return refuse(format!("{field} of profile {}", profile.profile));
                }
            }
        }
        let client = Client::new(&config)?;
        let (admin, making) = (Admin::new(client, administration), Mutex::default());
        Ok(Self(Arc::new(Inner { admin, config, clock, making })))
    }
}

impl Inner {
    async fn register(&self, spec: &RunnerSpec) -> Result<Registration> {
        let profile = self.profile(&spec.profile)?;
        let _making = self.making.lock().await;
        // Also what a register left that was dropped, or whose answer was lost.
        for (id, ..) in self.ours(Some(&spec.name)).await? {
            self.remove(id).await?;
        }
        let wanted = admin::wanted(profile, &description(&spec.name, &self.config.owner));
        let note = format!("owner={} profile={}", self.config.owner, spec.profile);
        let made = self.admin.create(wanted, &note).await?;
        let user_data = guest::user_data(&self.config.url, &Secret::new(made.token))?;
        Ok(Registration { id: number(made.id), secret: Some(user_data) })
    }

    fn profile(&self, name: &ProfileName) -> Result<&ProfileConfig> {
        let served = self.config.profiles.iter().find(|profile| profile.profile == *name);
        let served = served.filter(|profile| profile.exposed);
        served.filter(|_| self.admin.exposes()).ok_or_else(|| {
            Error::invalid(format!("profile {name}"), "it is not on offer at this GitLab")
        })
    }

    /// Ours of this name, or of any: number and name, and whether it may have a job.
    async fn ours(&self, name: Option<&WorkerName>) -> Result<Vec<(u64, WorkerName, Value)>> {
        let runners = self.admin.runners().await?.into_iter();
        let ours = runners.filter_map(|runner| {
            let worker = worker(runner["description"].as_str()?, &self.config.owner)?;
            let wanted = name.is_none_or(|name| *name == worker);
            wanted.then_some((runner["id"].as_u64()?, worker, runner))
        });
        Ok(ours.collect())
    }

    async fn at(&self, id: u64) -> Result<At> {
        let doing = format!("list the jobs of runner {id}");
        let jobs = match self.admin.list(&doing, &format!("runners/{id}/jobs")).await {
            Err(Error::NotFound { .. }) => return Ok(At::Over),
            jobs => jobs?,
        };
        let over = |job: &Value| {
            let over = ["success", "failed", "canceled", "skipped"];
            job["status"].as_str().is_some_and(|status| over.contains(&status))
        };
        match jobs.iter().find(|job| !over(job)).and_then(|job| job["id"].as_u64()) {
            Some(job) => Ok(At::Job(JobId::new(job.to_string())?)),
            None if jobs.is_empty() => Ok(At::Waiting),
            None => Ok(At::Over),
        }
    }

    /// Keeps GitLab from giving it a job. False if there is no such runner.
    async fn pause(&self, id: u64) -> Result<bool> {
        self.admin.change(id, &json!({ "paused": true })).await
    }

    /// Removes a runner that has no job.
    async fn remove(&self, id: u64) -> Result<()> {
        // First this, so that none comes between the look and the removal.
        if !self.pause(id).await? {
            return Ok(());
        }
        match self.at(id).await? {
            At::Job(_) => Err(Error::busy(format!("runner {id}"))),
            At::Waiting | At::Over => self.admin.delete(id).await,
        }
    }

    async fn look(&self, (id, name, runner): (u64, WorkerName, Value)) -> Result<Listed> {
        let contacted = runner["status"] != "never_contacted";
        let status = match if contacted { self.at(id).await? } else { At::Over } {
            At::Waiting => RunnerStatus::Idle,
            At::Over => RunnerStatus::Offline,
            At::Job(job) => {
                // Its token is of no more use, whatever the job does with it. If this fails, the next look
                // tries again.
                if runner["paused"] != true
                    && let Err(error) = self.pause(id).await
                {
                    tracing::warn!(
                        runner = id,
                        error = chain(&error),
                        "A runner could not be paused."
                    );
                }
                RunnerStatus::Busy(Some(job))
            }
        };
        Ok(Listed { id: number(id), name, status, reserved_for: None })
    }

    /// The profile that serves jobs with these tags.
    fn serving(&self, tags: &[&str]) -> Option<&ProfileConfig> {
        let offered = |profile: &&ProfileConfig| {
            let has = |tag: &&str| profile.tags.iter().any(|own: &Label| own.as_str() == *tag);
            profile.exposed
                && if tags.is_empty() { profile.run_untagged } else { tags.iter().all(has) }
        };
        self.config.profiles.iter().find(offered)
    }
}

fn number(id: u64) -> RunnerId {
    RunnerId::new(id.to_string()).expect("digits are a valid id")
}

/// What a runner of ours is called at GitLab.
fn description(worker: &WorkerName, owner: &OwnerId) -> String {
    format!("{worker} (of {owner})")
}

/// None for a runner that is not ours.
fn worker(description: &str, owner: &OwnerId) -> Option<WorkerName> {
    let rest = description.strip_suffix(')')?.strip_suffix(owner.as_str())?;
    WorkerName::new(rest.strip_suffix(" (of ")?).ok()
}

#[async_trait]
impl Forge for GitlabGuests {
    fn capabilities(&self) -> ForgeCapabilities {
        ForgeCapabilities { guest_pulls: true, ..ForgeCapabilities::default() }
    }

    async fn register(&self, spec: &RunnerSpec) -> Result<Registration> {
        let (inner, spec) = (self.0.clone(), spec.clone());
        let registered = tokio::spawn(async move { inner.register(&spec).await });
        registered.await.map_err(|panic| failed("register a runner", panic))?
    }

    async fn deregister(&self, id: &RunnerId) -> Result<()> {
        match id.as_str().parse() {
            Ok(id) => self.0.remove(id).await,
            // None of ours.
            Err(_) => Ok(()),
        }
    }

    async fn runners(&self) -> Result<Vec<Listed>> {
        let ours = self.0.ours(None).await?;
        stream::iter(ours).map(|one| self.0.look(one)).buffered(AT_ONCE).try_collect().await
    }

    /// Those of the project; none for a group or an instance, whose queues GitLab tells nobody.
    async fn queued_jobs(&self) -> Result<Vec<QueuedJob>> {
        let Place::Project(project) = self.0.admin.place() else { return Ok(Vec::new()) };
        let path = format!("projects/{project}/jobs?scope[]=pending");
        let mut jobs = self.0.admin.list("list the jobs that wait", &path).await?;
        jobs.reverse();
        let queued = jobs.iter().filter_map(|job| {
            let tags = job["tag_list"].as_array().into_iter().flatten();
            let tags: Vec<&str> = tags.filter_map(Value::as_str).collect();
            let queued_at = job["created_at"].as_str().and_then(|at| at.parse::<Timestamp>().ok());
            Some(QueuedJob {
                id: JobId::new(job["id"].as_u64()?.to_string()).ok()?,
                profile: Some(self.0.serving(&tags)?.profile.clone()),
                labels: Default::default(),
                reserved_for: None,
                queued_at: queued_at.unwrap_or_else(|| self.0.clock.now()),
            })
        });
        Ok(queued.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_tells_ours_from_others() {
        let [owner, other] = ["pool", "my-pool"].map(|id| OwnerId::new(id).unwrap());
        let name = WorkerName::new("linux-7").unwrap();
        assert_eq!(worker(&description(&name, &owner), &owner), Some(name.clone()));
        assert_eq!(worker(&description(&name, &other), &owner), None);
        assert_eq!(worker("linux-7", &owner), None);
        assert_eq!(worker("a b (of pool)", &owner), None);
    }
}
