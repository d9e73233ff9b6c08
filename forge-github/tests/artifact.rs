//! Artifact proof against the fake GitHub, whose files are at another host that notices credentials.

mod common;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use common::{assert_no_violations, http, rest};
use fake_github::{Conclusion, FakeGitHub, Fault, FaultRule, JobRequest};
use forge_github::{
    RepositoryName,
    artifact::{
        Claim, NoProof, NonceDirectory, Proof, Prover, ProverConfig, Refusal, RepositoryPolicy,
    },
};
use runner_core::Clock;
use tempfile::TempDir;
use uuid::Uuid;

struct World {
    github: FakeGitHub,
    nonces: TempDir,
    config: ProverConfig,
}

impl World {
    async fn new() -> Self {
        let github = FakeGitHub::builder().ghes().start().await.unwrap();
        github.repository("octo", "hello");
        github.repository("octo", "hello-evil");
        let policy = RepositoryPolicy {
            most_workers: 4,
            events: ["push", "pull_request"].map(str::to_owned).into(),
            forks: false,
        };
        let repositories = BTreeMap::from([("octo/hello".parse().unwrap(), policy)]);
        let nonces = tempfile::tempdir().unwrap();
        Self { github, nonces, config: ProverConfig::new(repositories) }
    }

    fn policy(&mut self) -> &mut RepositoryPolicy {
        self.config.repositories.values_mut().next().unwrap()
    }

    fn prover(&self) -> Prover {
        Prover::new(
            self.config.clone(),
            rest(&self.github),
            http(),
            Arc::new(NonceDirectory::new(self.nonces.path().join("used"))),
            Clock::system(),
        )
    }

    /// A run in progress, whose first job is over and whose second waits, and a claim about it.
    fn claim(&self, request: JobRequest) -> Claim {
        let repository: RepositoryName = request.repository.parse().unwrap();
        let first = self.github.enqueue(request.clone()).unwrap();
        self.github.complete(first.id, Conclusion::Success).unwrap();
        self.github.enqueue(JobRequest { run: Some(first.run), ..request }).unwrap();
        Claim { unique_id: Uuid::new_v4(), repository, run: u64::try_from(first.run).unwrap() }
    }

    /// The same, with the artifact that goes with it.
    fn proven(&self, addition: &str) -> Claim {
        let claim = self.claim(hello());
        self.upload(&claim, &statement(&claim, addition));
        claim
    }

    fn upload(&self, claim: &Claim, text: &str) -> i64 {
        let name = format!("servo-ci-runners_{}", claim.unique_id);
        let run = i64::try_from(claim.run).unwrap();
        self.github.artifact(run, &name, &[("proof.txt", text.as_bytes())]).unwrap()
    }

    async fn prove(&self, claim: &Claim) -> Result<Proof, NoProof> {
        self.prover().prove(claim, 0).await
    }

    async fn refusal(&self, claim: &Claim) -> Refusal {
        match self.prove(claim).await {
            Err(NoProof::Refused(refusal)) => refusal,
            other => panic!("{other:?}"),
        }
    }
}

fn hello() -> JobRequest {
    JobRequest::new("octo/hello", ["linux"])
}

fn statement(claim: &Claim, addition: &str) -> String {
    let Claim { unique_id, repository, run } = claim;
    format!("unique_id={unique_id}\nqualified_repo={repository}\nrun_id={run}\n{addition}\n")
}

#[tokio::test]
async fn a_true_claim_is_proven_once_also_after_a_restart() {
    let world = World::new().await;
    let claim = world.proven("self_hosted_image_name=linux\nself_hosted_runner_count=3");
    let proof = world.prove(&claim).await.unwrap();
    assert_eq!((proof.profile.as_ref().unwrap().as_str(), proof.count), ("linux", 3));
    assert_eq!((&*proof.event, proof.is_fork, &proof.claim), ("push", false, &claim));
    assert_eq!(proof.actor.as_deref(), Some("mona"));
    assert_eq!(world.refusal(&claim).await, Refusal::Used);
    assert_no_violations(&world.github);
}

#[tokio::test]
async fn of_many_at_once_one_is_believed() {
    let world = World::new().await;
    let claim = world.proven("");
    let prover = world.prover();
    let all = futures::future::join_all((0..8).map(|_| prover.prove(&claim, 0))).await;
    assert_eq!(all.iter().filter(|proof| proof.is_ok()).count(), 1, "{all:?}");
}

#[tokio::test]
async fn only_repositories_named_in_full_may_ask_and_github_is_not_asked_about_others() {
    let world = World::new().await;
    let claim = world.claim(JobRequest::new("octo/hello-evil", ["linux"]));
    world.upload(&claim, &statement(&claim, ""));
    assert_eq!(world.refusal(&claim).await, Refusal::Repository(claim.repository.clone()));
    assert_eq!(world.github.calls().len(), 0);
    // Another's run under an allowed name.
    let claim = Claim { repository: "octo/hello".parse().unwrap(), ..claim };
    assert_eq!(world.refusal(&claim).await, Refusal::NoRun);
}

#[tokio::test]
async fn the_run_must_be_in_progress() {
    let world = World::new().await;
    let job = world.github.enqueue(hello()).unwrap();
    let run = u64::try_from(job.run).unwrap();
    let claim = Claim { unique_id: Uuid::new_v4(), repository: "octo/hello".parse().unwrap(), run };
    world.upload(&claim, &statement(&claim, ""));
    assert_eq!(world.refusal(&claim).await, Refusal::NotInProgress("queued".to_owned()));
    world.github.complete(job.id, Conclusion::Success).unwrap();
    assert_eq!(world.refusal(&claim).await, Refusal::NotInProgress("completed".to_owned()));
    let unknown = Claim { run: 999_999, ..claim };
    assert_eq!(world.refusal(&unknown).await, Refusal::NoRun);
}

#[tokio::test]
async fn the_event_must_be_allowed() {
    let world = World::new().await;
    let mut request = hello();
    request.event = "issue_comment".to_owned();
    let claim = world.claim(request);
    world.upload(&claim, &statement(&claim, ""));
    assert_eq!(world.refusal(&claim).await, Refusal::Event("issue_comment".to_owned()));
}

#[tokio::test]
async fn a_fork_is_refused_unless_forks_are_allowed() {
    let mut world = World::new().await;
    world.github.repository("stranger", "hello");
    let mut request = hello();
    request.event = "pull_request".to_owned();
    request.fork = Some("stranger/hello".to_owned());
    let claim = world.claim(request);
    world.upload(&claim, &statement(&claim, ""));
    assert_eq!(world.refusal(&claim).await, Refusal::Fork);
    world.policy().forks = true;
    assert!(world.prove(&claim).await.unwrap().is_fork);
    assert_no_violations(&world.github);
}

#[tokio::test]
async fn the_artifact_must_be_there_and_young() {
    let world = World::new().await;
    let claim = world.claim(hello());
    assert_eq!(world.refusal(&claim).await, Refusal::NoArtifact);
    // One whose name only begins as it should.
    let name = format!("servo-ci-runners_{}x", claim.unique_id);
    let run = i64::try_from(claim.run).unwrap();
    world.github.artifact(run, &name, &[("a", b"")]).unwrap();
    assert_eq!(world.refusal(&claim).await, Refusal::NoArtifact);
    world.github.advance(Duration::from_secs(600));
    world.upload(&claim, &statement(&claim, ""));
    assert_eq!(world.refusal(&claim).await, Refusal::Age);
}

#[tokio::test]
async fn an_artifact_is_found_among_hundreds() {
    let world = World::new().await;
    let claim = world.proven("");
    let run = i64::try_from(claim.run).unwrap();
    for n in 0..150 {
        world.github.artifact(run, &format!("log-{n}"), &[("a", b"")]).unwrap();
    }
    world.prove(&claim).await.unwrap();
}

#[tokio::test]
async fn the_artifact_must_say_the_same_as_the_request() {
    let world = World::new().await;
    let claim = world.claim(hello());
    let other = Claim { unique_id: Uuid::new_v4(), ..claim.clone() };
    world.upload(&claim, &statement(&other, ""));
    assert_eq!(world.refusal(&claim).await, Refusal::Mismatch);
    // The newest of one name counts.
    world.upload(&claim, &statement(&claim, ""));
    world.prove(&claim).await.unwrap();
}

#[tokio::test]
async fn a_repository_has_no_more_workers_than_it_may() {
    let world = World::new().await;
    let claim = world.proven("self_hosted_runner_count=5");
    let refusal = Refusal::TooMany { wanted: 5, held: 0, most: 4 };
    assert_eq!(world.refusal(&claim).await, refusal);
    let claim = world.proven("self_hosted_runner_count=2");
    let held = world.prover().prove(&claim, 3).await;
    let refusal = Refusal::TooMany { wanted: 2, held: 3, most: 4 };
    assert!(matches!(held, Err(NoProof::Refused(found)) if found == refusal));
    // It was not used up by that.
    world.prover().prove(&claim, 2).await.unwrap();
    let claim = world.proven(&format!("self_hosted_runner_count={}", u32::MAX));
    assert!(world.prover().prove(&claim, 1).await.is_err());
}

#[tokio::test]
async fn a_hostile_archive_is_refused() {
    let world = World::new().await;
    let claim = world.claim(hello());
    let run = i64::try_from(claim.run).unwrap();
    let name = format!("servo-ci-runners_{}", claim.unique_id);
    let text = statement(&claim, "");
    let all: [&[(&str, &[u8])]; 4] = [
        &[("../../etc/cron.d/evil", text.as_bytes())],
        &[("a", text.as_bytes()), ("b", b"")],
        &[("bomb", &vec![b'\n'; 16 << 20])],
        &[],
    ];
    for files in all {
        world.github.artifact(run, &name, files).unwrap();
        let refusal = world.refusal(&claim).await;
        assert!(matches!(refusal, Refusal::Archive(_)), "{refusal:?}");
    }
    world.github.artifact_archive(run, &name, vec![0; 1 << 20]).unwrap();
    assert!(matches!(world.refusal(&claim).await, Refusal::Archive(_)));
    world.upload(&claim, &text);
    world.prove(&claim).await.unwrap();
    assert_no_violations(&world.github);
}

#[tokio::test]
async fn what_cannot_be_found_out_is_neither_proven_nor_used_up() {
    let mut world = World::new().await;
    world.config.fetch_timeout = Duration::from_millis(300);
    let claim = world.proven("");
    let faults = [
        ("*/actions/runs/*", Fault::Status { status: 502, retry_after: None, message: None }),
        ("*/actions/runs/*", Fault::Html { status: 200 }),
        ("*/artifacts?*", Fault::Garbage),
        ("*/zip", Fault::Reset),
        ("*/files/*", Fault::Hang),
        ("*/files/*", Fault::Truncated),
        ("*/files/*", Fault::Status { status: 403, retry_after: None, message: None }),
    ];
    for (path, fault) in faults {
        world.github.fault(FaultRule::always(fault.clone()).path(path));
        let result = world.prove(&claim).await;
        assert!(matches!(result, Err(NoProof::Failed(_))), "{path} {fault:?}: {result:?}");
        world.github.clear_faults();
    }
    world.prove(&claim).await.unwrap();
}
