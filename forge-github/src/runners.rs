//! Runners as GitHub's REST interface has them: registered, listed, found by name, removed, labelled.

use std::time::Duration;

use http::{Method, StatusCode};
use runner_core::Secret;
use serde::{Deserialize, Serialize};

use crate::{
    budget::{Call, Cost, Priority},
    client::Client,
    error::{Answer, ApiError},
    list::{self, Item},
    wire::read,
};

/// After how long without a connection GitHub removes a single-use runner by itself. Others, of which we make none,
/// have 14 days.
pub const FORGETS_AFTER: Duration = Duration::from_secs(24 * 3600);

/// A runner as GitHub reports it, as far as it matters here. What GitHub adds is passed over.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct GithubRunner {
    /// GitHub's number of it. Never given twice.
    pub id: u64,
    /// Its name, owner mark included.
    pub name: String,
    /// `online` or `offline`.
    pub status: String,
    /// Whether it has a job.
    pub busy: bool,
    /// What it offers to jobs.
    pub labels: Vec<RunnerLabel>,
    /// The version of the runner program that connected, where GitHub tells.
    #[serde(default)]
    pub version: Option<String>,
}

/// A label of a runner.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RunnerLabel {
    /// The label; GitHub may have changed its case.
    pub name: String,
}

impl GithubRunner {
    /// Whether it is connected.
    pub fn is_online(&self) -> bool {
        self.status == "online"
    }
}

impl Item for GithubRunner {
    const LIST: &'static str = "runners";
    fn number(&self) -> u64 {
        self.id
    }
}

/// What registering gave.
pub struct Minted {
    /// GitHub's number of the runner.
    pub id: u64,
    /// The runner as GitHub reports it at its birth, where it does.
    pub runner: Option<GithubRunner>,
    /// What the guest passes to the runner program: `run.sh --jitconfig`.
    pub jit_config: Secret<String>,
}

#[derive(Serialize)]
struct AskJit<'a> {
    name: &'a str,
    runner_group_id: u64,
    labels: &'a [String],
    work_folder: &'a str,
}

#[derive(Deserialize)]
struct SentJit {
    runner: GithubRunner,
    encoded_jit_config: String,
}

#[derive(Serialize)]
struct AskLabels<'a> {
    labels: &'a [String],
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "that they are there says that it is GitHub who answered")]
struct SentLabels {
    labels: Vec<RunnerLabel>,
}

/// How a removal went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removal {
    Removed,
    /// It has a job.
    Busy,
    /// GitHub knows of none, or does not let us see it.
    Unknown,
}

impl Client {
    fn runners_path(&self) -> String {
        format!("{}/actions/runners", self.place().scope().path())
    }

    /// Every runner of the scope, ours or not.
    pub(crate) async fn runners(&self, priority: Priority) -> Answer<Vec<GithubRunner>> {
        list::whole(self, &self.runners_path(), priority).await
    }

    /// Every runner of exactly this name: one at most, as far as GitHub keeps its word.
    pub(crate) async fn runners_named(&self, name: &str) -> Answer<Vec<GithubRunner>> {
        // A marked name consists of characters that mean themselves in a query.
        let path = format!("{}?name={name}", self.runners_path());
        let mut found: Vec<GithubRunner> = list::whole(self, &path, Priority::Provision).await?;
        // A server that does not know the parameter lists them all.
        found.retain(|runner| runner.name == name);
        Ok(found)
    }

    /// Registers a runner that takes one job. None if its name is taken.
    pub(crate) async fn mint(
        &self,
        name: &str,
        group: u64,
        labels: &[String],
    ) -> Answer<Option<Minted>> {
        let path = format!("{}/generate-jitconfig", self.runners_path());
        let call = Call { priority: Priority::Provision, cost: Cost::Mint };
        let ask = AskJit { name, runner_group_id: group, labels, work_folder: "_work" };
        let body = match self.change(Method::POST, &path, Some(&ask), call).await {
            Err(error) if error.status() == Some(StatusCode::CONFLICT) => return Ok(None),
            body => body?,
        };
        let sent: SentJit = read(&body, "the runner's configuration")?;
        if sent.runner.name != name || sent.encoded_jit_config.is_empty() {
            return Err(ApiError::nonsense("GitHub sent the configuration of another runner"));
        }
        Ok(Some(Minted {
            id: sent.runner.id,
            runner: Some(sent.runner),
            jit_config: Secret::new(sent.encoded_jit_config),
        }))
    }

    /// Removes a runner that has no job. GitHub itself decides whether it has one.
    pub(crate) async fn remove_runner(&self, id: u64) -> Answer<Removal> {
        let path = format!("{}/{id}", self.runners_path());
        let call = Call { priority: Priority::Running, cost: Cost::Change };
        match self.change::<()>(Method::DELETE, &path, None, call).await {
            // GitHub has nothing to say then. A page says nothing of the runner, whatever its status is.
            Ok(body) if body.is_empty() => Ok(Removal::Removed),
            Ok(_) => {
                Err(ApiError::nonsense("a page came in place of GitHub's word that it is removed"))
            }
            Err(error) => match error {
                ApiError::Status(said) if said.from_github => match said.status {
                    StatusCode::NOT_FOUND => Ok(Removal::Unknown),
                    StatusCode::UNPROCESSABLE_ENTITY => Ok(Removal::Busy),
                    _ => Err(ApiError::Status(said)),
                },
                error => Err(error),
            },
        }
    }

    /// What a runner is like now. None if GitHub knows of none, or does not let us see it.
    pub(crate) async fn runner(&self, id: u64) -> Answer<Option<GithubRunner>> {
        let path = format!("{}/{id}", self.runners_path());
        match self.get(&path, Priority::Provision, "the runner").await {
            Err(ApiError::Status(said))
                if said.from_github && said.status == StatusCode::NOT_FOUND =>
            {
                Ok(None)
            }
            runner => runner.map(Some),
        }
    }

    /// Gives a runner these labels in place of those it has. False if there is no such runner.
    pub(crate) async fn set_labels(&self, id: u64, labels: &[String]) -> Answer<bool> {
        let path = format!("{}/{id}/labels", self.runners_path());
        let call = Call { priority: Priority::Running, cost: Cost::Change };
        match self.change(Method::PUT, &path, Some(&AskLabels { labels }), call).await {
            Ok(body) => read(&body, "the runner's labels").map(|_: SentLabels| true),
            Err(ApiError::Status(said))
                if said.from_github && said.status == StatusCode::NOT_FOUND =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}
