//! GitLab's jobs in real machines, from the queue at GitLab to the machine's end, by a pool.

#[expect(dead_code, reason = "other tests use the rest of the common parts")]
mod common;
#[path = "../../backend-qemu/tests/common/mod.rs"]
#[expect(dead_code, reason = "other tests use the rest of the common parts")]
mod qemu;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use backend_qemu::{ImageConfig, ImageStore, QemuHypervisor};
use fake_gitlab::{
    FakeGitLab, JobId, JobSpec, JobView, Place, ProjectId, RunnerSpec, Status, Variable,
};
use forge_gitlab::{GitlabForge, ProfileConfig};
use runner_core::{
    Clock, EventLog, Forge, ForgeName, Hypervisor, OwnerId, Pace, Pool, PoolParts, Profile,
    Resources, Secret, Store,
    access::{Names, Rules},
    hypervisor::Network,
};
use tempfile::TempDir;

trait WithCache {
    /// A cache of these paths, from before and for after the job.
    fn with_cache<const N: usize>(self, key: &str, paths: [&str; N]) -> Self;
}

impl WithCache for JobSpec {
    fn with_cache<const N: usize>(mut self, key: &str, paths: [&str; N]) -> Self {
        self.cache.push(fake_gitlab::Cache::new(key, paths));
        self
    }
}

struct World {
    gitlab: FakeGitLab,
    project: ProjectId,
    strangers: ProjectId,
    hypervisor: Arc<QemuHypervisor>,
    pool: Pool,
    // Dropped last: the machines go with it.
    _machines: qemu::Fixture,
    _directory: TempDir,
}

impl World {
    async fn new() -> Option<Self> {
        let mut machines = qemu::Fixture::new().await?;
        machines.close().await;
        let gitlab = FakeGitLab::start().await.unwrap();
        let project = gitlab.project("acme/infra/app");
        let strangers = gitlab.project("others/app");
        let (_, token) = gitlab.runner(RunnerSpec::tagged(Place::Instance, ["linux"]));

        let directory = TempDir::new().unwrap();
        let mut config = common::config(&gitlab, &directory);
        config.builds_dir = "/work/builds".to_owned();
        config.limits.trace_bytes = 16 << 20;
        let mut profile = ProfileConfig::new(qemu::profile());
        profile.token = Some(Secret::new(token));
        profile.access = Rules {
            deny: Names::default(),
            allow: Names { projects_in_groups: vec!["acme".to_owned()], ..Names::default() },
        };
        config.profiles.push(profile);

        let hypervisor = Arc::new(QemuHypervisor::open(machines.config.clone()).await.unwrap());
        let cache = qemu::parts::shared_cache();
        let images = ImageConfig::new(cache.join("test-images"), cache);
        let forge = GitlabForge::open(config, Clock::system()).await.unwrap();
        let name = ForgeName::new("gitlab").unwrap();
        let resources = Resources { vcpus: 1, memory_mib: 192, ..Resources::default() };
        let store = Store::in_memory().unwrap();
        let mut profile = Profile::new(name.clone(), qemu::micro::recipe(), resources);
        (profile.min_idle, profile.max, profile.network) = (0, 2, Network::Restricted);
        let pool = Pool::start(PoolParts {
            hypervisor: hypervisor.clone(),
            forges: BTreeMap::from([(name, Arc::new(forge) as Arc<dyn Forge>)]),
            builder: Arc::new(ImageStore::open(images).await.unwrap()),
            events: EventLog::open(store.clone()).await.unwrap(),
            store,
            owner: OwnerId::new("tests").unwrap(),
            profiles: vec![profile],
            pace: Pace::default(),
            clock: Clock::system(),
        })
        .await
        .unwrap();
        Some(Self {
            gitlab,
            project,
            strangers,
            hypervisor,
            pool,
            _machines: machines,
            _directory: directory,
        })
    }

    fn pipeline<const N: usize>(&self, project: ProjectId, jobs: [JobSpec; N]) -> Vec<JobId> {
        let jobs = jobs.map(|job| common::without_sources(job.tags(["linux"])));
        self.gitlab.pipeline(self.gitlab.admin(), project, jobs).1
    }

    async fn over(&self, job: JobId) -> JobView {
        let limit = Duration::from_secs(300);
        let over = tokio::time::timeout(limit, self.gitlab.until_over(job)).await;
        over.unwrap_or_else(|_| panic!("in vain: {:?}", self.gitlab.job_view(job))).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_run_in_machines_of_their_own() {
    let Some(world) = World::new().await else { return };

    // A job that access rules refuse: no machine is made for it.
    let refused = world.pipeline(world.strangers, [JobSpec::new("refused", ["true"])])[0];
    let refused = world.over(refused).await;
    assert!(refused.log().contains("no rule allows it"), "{}", refused.log());
    assert!(world.hypervisor.instances().await.unwrap().is_empty());

    let build = JobSpec::new(
        "build",
        [
            "uname -s; id -u; pwd",
            "echo plain=$PLAIN; cat $FILE; echo secret=$SECRET",
            "mkdir -p out deps && echo made-here >out/file && echo fetched >deps/f",
        ],
    )
    .stage("build")
    .after(["echo after=$CI_JOB_STATUS"])
    .artifacts(["out/"])
    .with_cache("deps-$CI_PROJECT_ID", ["deps"])
    .variable(Variable::new("PLAIN", "p"))
    .variable(Variable::file("FILE", "content\n"))
    .variable(Variable::masked("SECRET", "hunter2!!"));
    let test =
        JobSpec::new("test", ["cat out/file deps/f", "test ! -e /tmp/mark", "touch /tmp/mark"])
            .stage("test")
            .needs(["build"])
            .with_cache("deps-$CI_PROJECT_ID", ["deps"]);
    let late = JobSpec::new("late", ["echo begun", "sleep 1000"])
        .stage("build")
        .timeout(Duration::from_secs(5));
    let talk = JobSpec::new("talk", ["seq 1 900000", "test ! -e /tmp/mark", "touch /tmp/mark"])
        .stage("build");
    let long = JobSpec::new("long", ["echo begun", "sleep 1000"])
        .stage("build")
        .after(["echo cleared $CI_JOB_STATUS"]);
    let jobs = world.pipeline(world.project, [build, test, late, talk, long]);

    let build = world.over(jobs[0]).await;
    let log = build.log();
    assert_eq!(build.status, Status::Success, "{log}");
    let expected = [
        "\nLinux\n0\n/work/builds/acme/infra/app\n",
        "plain=p\ncontent\nsecret=[MASKED]\n",
        "after=success",
    ];
    for expected in expected {
        assert!(log.contains(expected), "{expected:?} in {log}");
    }
    assert!(!log.contains("hunter2!!"), "{log}");

    world.gitlab.watch(jobs[4], true);
    let begun = world.gitlab.until_job(jobs[4], |job| job.log().contains("\nbegun"));
    tokio::time::timeout(Duration::from_secs(300), begun).await.unwrap().unwrap();
    world.gitlab.cancel(jobs[4]);

    let test = world.over(jobs[1]).await;
    assert_eq!(test.status, Status::Success, "{}", test.log());
    assert!(test.log().contains("\nmade-here\nfetched\n"), "{}", test.log());
    let late = world.over(jobs[2]).await;
    assert_eq!(late.failure_reason.as_deref(), Some("job_execution_timeout"), "{}", late.log());
    let talk = world.over(jobs[3]).await;
    assert_eq!(talk.status, Status::Success);
    let expected: String = (1..=900_000).map(|n| format!("{n}\n")).collect();
    assert!(talk.log().contains(&expected) && !talk.trace_is_wrong, "{} bytes", talk.trace.len());
    let long = world.over(jobs[4]).await;
    assert_eq!(long.status, Status::Canceled, "{}", long.log());
    assert!(long.log().contains("cleared canceled"), "{}", long.log());

    // Each had a machine of its own, and the refused one had none.
    let logs = [build, test, late, talk, long].map(|job| job.log());
    for number in 1..=5 {
        let machine = format!("Running on linux-{number},");
        assert_eq!(logs.iter().filter(|log| log.contains(&machine)).count(), 1, "{machine}");
    }
    tokio::time::timeout(Duration::from_secs(60), world.pool.drain()).await.unwrap().unwrap();
    assert!(world.hypervisor.instances().await.unwrap().is_empty());
    let violations = world.gitlab.violations();
    assert!(violations.is_empty(), "{violations:#?}");
}
