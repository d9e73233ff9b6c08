//! Artifact proof: a workflow without any secret shows that it is what it says it is, by an artifact that only
//! it can have uploaded.
//!
//! The workflow uploads an artifact named after a UUID of its own making, with who it is and what it wants,
//! and tells us where. [`Prover::prove`] asks GitHub: is it a run of an allowed repository, of an allowed
//! event, from no fork, in progress now, and does this artifact of it say the same? So a workflow can
//! reserve runners in pull requests, which have no secrets. The scheme is that of Servo's runner monitor
//! (<https://github.com/servo/ci-runners>), whose workflows it takes as they are.
//!
//! A proof is good **once**. Whoever answers a request that was proven before does so from the reservation
//! of that id, not by another proof.
//!
//! **Invariant:** the artifact is fetched from another host, which never sees a credential of ours.

mod archive;
mod claim;
mod nonce;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::header;
use jiff::Timestamp;
use runner_core::{Clock, Error, ProfileName, Result};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use url::Url;

use self::{archive::MOST_ARCHIVE_BYTES, claim::Statement};
pub use self::{
    claim::Claim,
    nonce::{NonceDirectory, NonceStore},
};
use crate::{
    rest::{Call, Rest},
    scope::RepositoryName,
};

/// GitHub's clock and ours may differ by this much.
const CLOCK_DIFFERENCE: Duration = Duration::from_secs(60);

/// What can be chosen.
#[derive(Debug, Clone)]
pub struct ProverConfig {
    /// Who may ask, and for what. A repository is meant by its whole name.
    pub repositories: BTreeMap<RepositoryName, RepositoryPolicy>,
    /// What the artifact's name begins with; the UUID follows.
    pub prefix: String,
    /// How old the artifact may be.
    pub longest_age: Duration,
    /// How long the other host may take for it.
    pub fetch_timeout: Duration,
}

impl ProverConfig {
    /// Servo's name and age, `servo-ci-runners_` and 300 s; and 10 s to fetch.
    pub fn new(repositories: BTreeMap<RepositoryName, RepositoryPolicy>) -> Self {
        Self {
            repositories,
            prefix: "servo-ci-runners_".to_owned(),
            longest_age: Duration::from_secs(300),
            fetch_timeout: Duration::from_secs(10),
        }
    }
}

/// What a repository's workflows may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryPolicy {
    /// The most workers that it may have reserved at one time.
    pub most_workers: u32,
    /// The events whose runs may ask, such as `push`. Empty: any.
    pub events: BTreeSet<String>,
    /// Whether runs for a fork's commits may ask: the fork's owner decides what they do.
    pub forks: bool,
}

/// What was proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Who asks.
    pub claim: Claim,
    /// What it wants, if it says.
    pub profile: Option<ProfileName>,
    /// How many of it.
    pub count: u32,
    /// What started the run.
    pub event: String,
    /// Who did.
    pub actor: Option<String>,
    /// Which attempt of the run this is.
    pub attempt: u32,
    /// Whether it runs a fork's commit.
    pub is_fork: bool,
}

/// Why nothing was proven.
#[derive(Debug, thiserror::Error)]
pub enum NoProof {
    /// The claim does not hold. It may be told to whoever made it.
    #[error("{0}")]
    Refused(Refusal),
    /// It could not be found out for now. The proof is not used, unless writing that down failed.
    #[error("the claim could not be checked")]
    Failed(#[from] Error),
}

impl From<Refusal> for NoProof {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What is wrong with a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// A parameter is not what it should be.
    Malformed(String),
    /// The repository may not ask.
    Repository(RepositoryName),
    /// There is no such run, or it belongs to another repository.
    NoRun,
    /// The run is not in progress, but this.
    NotInProgress(String),
    /// Runs of this event may not ask.
    Event(String),
    /// Runs for forks may not ask.
    Fork,
    /// The run has no artifact of that name.
    NoArtifact,
    /// The artifact is too old, or dated in the future.
    Age,
    /// The artifact is not what it should be.
    Archive(String),
    /// The artifact says something other than the request.
    Mismatch,
    /// More workers than the repository may have.
    TooMany {
        /// How many it wants.
        wanted: u32,
        /// How many it has.
        held: u32,
        /// How many it may have.
        most: u32,
    },
    /// The proof has been used.
    Used,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(rule) => f.write_str(rule),
            Self::Repository(name) => write!(f, "repository {name} may not reserve runners here"),
            Self::NoRun => f.write_str("the repository has no such run"),
            Self::NotInProgress(status) => write!(f, "the run is {status}, not in progress"),
            Self::Event(event) => write!(f, "runs of event {event} may not reserve runners"),
            Self::Fork => f.write_str("runs for forks may not reserve runners"),
            Self::NoArtifact => f.write_str("the run has no artifact of that name"),
            Self::Age => f.write_str("the artifact is too old, or from the future"),
            Self::Archive(what) => write!(f, "the artifact is not what it should be: {what}"),
            Self::Mismatch => f.write_str("the artifact says something other than the request"),
            Self::TooMany { wanted, held, most } => write!(
                f,
                "{wanted} runners are wanted, the repository has {held}, and may have {most} at a time"
            ),
            Self::Used => f.write_str("the artifact has been used"),
        }
    }
}

/// Checks claims.
pub struct Prover {
    config: ProverConfig,
    rest: Arc<dyn Rest>,
    http: reqwest::Client,
    nonces: Arc<dyn NonceStore>,
    clock: Clock,
}

#[derive(Debug, Deserialize)]
struct Run {
    id: u64,
    status: Option<String>,
    event: String,
    #[serde(default)]
    run_attempt: u32,
    repository: Repository,
    head_repository: Option<Repository>,
    actor: Option<Actor>,
}

#[derive(Debug, Deserialize)]
struct Repository {
    id: u64,
    full_name: String,
}

#[derive(Debug, Deserialize)]
struct Actor {
    login: String,
}

#[derive(Debug, Deserialize)]
struct Artifacts {
    artifacts: Vec<Artifact>,
}

#[derive(Debug, Deserialize)]
struct Artifact {
    id: u64,
    name: String,
    size_in_bytes: u64,
    expired: bool,
    created_at: Option<Timestamp>,
    digest: Option<String>,
    workflow_run: Option<ArtifactRun>,
}

#[derive(Debug, Deserialize)]
struct ArtifactRun {
    id: Option<u64>,
}

impl Prover {
    /// `rest` needs the permission "Actions: read" on the repositories. `http` fetches from the other host;
    /// it must not follow redirects, and must add no credentials of its own.
    pub fn new(
        config: ProverConfig,
        rest: Arc<dyn Rest>,
        http: reqwest::Client,
        nonces: Arc<dyn NonceStore>,
        clock: Clock,
    ) -> Self {
        Self { config, rest, http, nonces, clock }
    }

    /// Checks `claim` of a repository for which `held` workers are reserved already, and uses the proof up.
    /// Three calls of GitHub, one of the other host; a claim that is refused early costs fewer, or none.
    ///
    /// # Errors
    /// [`NoProof::Refused`] for good, [`NoProof::Failed`] for now.
    ///
    /// # Cancel safety
    /// May be dropped at any moment. Only at the very end the proof may be used up then.
    pub async fn prove(&self, claim: &Claim, held: u32) -> Result<Proof, NoProof> {
        let policy = self
            .config
            .repositories
            .get(&claim.repository)
            .ok_or_else(|| Refusal::Repository(claim.repository.clone()))?;
        if self.nonces.is_used(&claim.unique_id).await? {
            return Err(Refusal::Used.into());
        }
        let run = self.run(claim).await?;
        let is_fork = check_run(&run, claim, policy)?;
        let artifact = self.artifact(claim).await?;
        let statement = Statement::parse(&archive::read(&artifact).map_err(Refusal::Archive)?)?;
        if statement.claim != *claim {
            return Err(Refusal::Mismatch.into());
        }
        let (wanted, most) = (statement.count, policy.most_workers);
        if held.checked_add(wanted).is_none_or(|all| all > most) {
            return Err(Refusal::TooMany { wanted, held, most }.into());
        }
        if !self.nonces.use_up(&claim.unique_id).await? {
            return Err(Refusal::Used.into());
        }
        Ok(Proof {
            claim: claim.clone(),
            profile: statement.profile,
            count: statement.count,
            event: run.event,
            actor: run.actor.map(|actor| actor.login),
            attempt: run.run_attempt,
            is_fork,
        })
    }

    async fn run(&self, claim: &Claim) -> Result<Run, NoProof> {
        let path = format!("/repos/{}/actions/runs/{}", claim.repository, claim.run);
        let answer = self.rest.call(Call::get(path)).await;
        let answer = answer.map_err(|error| missing(error, Refusal::NoRun))?;
        if answer.status.is_redirection() {
            // A repository that was renamed: its name is another's to take.
            return Err(Refusal::NoRun.into());
        }
        Ok(answer.json(&format!("read run {} of {}", claim.run, claim.repository))?)
    }

    /// The archive that belongs to the claim.
    async fn artifact(&self, claim: &Claim) -> Result<Bytes, NoProof> {
        let Claim { repository, run, unique_id } = claim;
        let name = format!("{}{unique_id}", self.config.prefix);
        let query: String = url::form_urlencoded::byte_serialize(name.as_bytes()).collect();
        let path =
            format!("/repos/{repository}/actions/runs/{run}/artifacts?per_page=100&name={query}");
        let answer = self.rest.call(Call::get(path)).await;
        let answer = answer.map_err(|error| missing(error, Refusal::NoArtifact))?;
        let list: Artifacts = answer.json(&format!("list the artifacts of run {run}"))?;
        // Another attempt of the run may have left one of the same name.
        let artifact = list
            .artifacts
            .into_iter()
            .filter(|artifact| {
                let its_run = artifact.workflow_run.as_ref().and_then(|run| run.id);
                artifact.name == name && !artifact.expired && its_run.is_none_or(|id| id == *run)
            })
            .max_by_key(|artifact| (artifact.created_at, artifact.id))
            .ok_or(Refusal::NoArtifact)?;
        self.check_age(artifact.created_at)?;
        if artifact.size_in_bytes > MOST_ARCHIVE_BYTES {
            return Err(too_large());
        }
        let path = format!("/repos/{repository}/actions/artifacts/{}/zip", artifact.id);
        let answer = self.rest.call(Call::get(path)).await;
        let answer = answer.map_err(|error| missing(error, Refusal::NoArtifact))?;
        let location = answer.headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
        let location = location
            .and_then(|text| Url::parse(text).ok())
            .ok_or_else(|| self.failed("find an artifact", "GitHub did not say where it is"))?;
        let archive = self.fetch(location).await?;
        if let Some(digest) = artifact.digest
            && digest != format!("sha256:{}", hexadecimal(&Sha256::digest(&archive)))
        {
            return Err(self
                .failed("fetch an artifact", "it is not the one that was uploaded")
                .into());
        }
        Ok(archive)
    }

    fn check_age(&self, created_at: Option<Timestamp>) -> Result<(), Refusal> {
        let now = self.clock.now();
        let young = created_at.is_some_and(|at| {
            at <= now + CLOCK_DIFFERENCE && now <= at + self.config.longest_age + CLOCK_DIFFERENCE
        });
        if young { Ok(()) } else { Err(Refusal::Age) }
    }

    /// Reads no more than it may, whatever is sent. No header but what HTTP needs goes there.
    async fn fetch(&self, location: Url) -> Result<Bytes, NoProof> {
        let failed = |error: reqwest::Error| {
            // Without the address: it is good for a minute, for anyone.
            self.failed("fetch an artifact", error.without_url())
        };
        let request = self.http.get(location).timeout(self.config.fetch_timeout);
        let mut response = request.send().await.map_err(failed)?;
        if response.status() != http::StatusCode::OK {
            let status = format!("the other host answered {}", response.status());
            return Err(self.failed("fetch an artifact", status).into());
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            body.extend_from_slice(&chunk);
            if body.len() as u64 > MOST_ARCHIVE_BYTES {
                return Err(too_large());
            }
        }
        Ok(body.freeze())
    }

    fn failed(
        &self,
        doing: &str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        Error::backend("github", doing, source)
    }
}

/// Whether the run is for a fork, if it may ask at all.
fn check_run(run: &Run, claim: &Claim, policy: &RepositoryPolicy) -> Result<bool, Refusal> {
    let its_repository = RepositoryName::new(run.repository.full_name.clone());
    if run.id != claim.run || its_repository.ok().as_ref() != Some(&claim.repository) {
        return Err(Refusal::NoRun);
    }
    let status = run.status.as_deref().unwrap_or("unknown");
    if status != "in_progress" {
        return Err(Refusal::NotInProgress(status.to_owned()));
    }
    if !policy.events.is_empty() && !policy.events.contains(&run.event) {
        return Err(Refusal::Event(run.event.clone()));
    }
    // A fork that was deleted meanwhile was one.
    let head = run.head_repository.as_ref().map(|head| head.id);
    let is_fork = head != Some(run.repository.id);
    if is_fork && !policy.forks {
        return Err(Refusal::Fork);
    }
    Ok(is_fork)
}

fn missing(error: Error, refusal: Refusal) -> NoProof {
    if error.is_not_found() { refusal.into() } else { error.into() }
}

fn too_large() -> NoProof {
    Refusal::Archive(format!("it is larger than {MOST_ARCHIVE_BYTES} bytes")).into()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_github_shows_under_another_name_is_another_run() {
        let claim =
            Claim::parse("6bd7a3a6-8d29-4d4e-9a0e-0a2f3f1b7c55", "octo/hello", "7").unwrap();
        let policy = RepositoryPolicy { most_workers: 1, events: BTreeSet::new(), forks: false };
        let check = |id, name: &str, head| {
            let repository = |id, name: &str| Repository { id, full_name: name.to_owned() };
            let run = Run {
                id,
                status: Some("in_progress".to_owned()),
                event: "push".to_owned(),
                run_attempt: 1,
                repository: repository(1, name),
                head_repository: head,
                actor: None,
            };
            check_run(&run, &claim, &policy)
        };
        let own = || Some(Repository { id: 1, full_name: "octo/hello".to_owned() });
        assert_eq!(check(7, "Octo/Hello", own()), Ok(false));
        assert_eq!(check(8, "octo/hello", own()), Err(Refusal::NoRun));
        assert_eq!(check(7, "octo/hello-renamed", own()), Err(Refusal::NoRun));
        // A fork that was deleted.
        assert_eq!(check(7, "octo/hello", None), Err(Refusal::Fork));
    }
}
