//! The scripts for the inside of a guest, in real machines with a stand-in for GitHub's runner program.

mod common;
#[path = "../../backend-qemu/tests/common/mod.rs"]
#[expect(dead_code, reason = "machines are tested elsewhere; here they are used")]
mod machine;

use std::sync::{Arc, Mutex};

use common::{PATIENCE, assert_no_violations, rest};
use fake_github::{Conclusion, FakeGitHub, JobRequest, JobView};
use forge_github::{
    guest::{
        JOB_COMPLETED, JOB_STARTED, JobPolicy, JobReport, Monitor, START, WhenUnheard, user_data,
    },
    rest::Call,
};
use futures::TryStreamExt;
use machine::{Fixture, name, until};
use poem::{EndpointExt, Route, Server, handler, listener::TcpListener, web::Data};
use runner_core::{
    Hypervisor, ProcessId, Secret,
    guest::Command,
    hypervisor::{ExitReason, InstanceState, Network},
};
use serde_json::{Value, json};

const RUN: &str = include_str!("guest/run.sh");

/// Fails if anything of the configuration is left for it to find.
const JOB: &str = r#"
echo "a job of $GITHUB_REPOSITORY" >/dev/console
[ ! -e /run/user-data ] || exit 1
! env | grep -q -i jit || exit 1
! grep -q -i -a jitconfig /proc/self/environ || exit 1
"#;

const TOKEN: &str = "of-this-machine";

/// What a monitor heard.
#[derive(Default)]
struct Heard {
    policy: JobPolicy,
    reports: Mutex<Vec<(String, Option<String>, JobReport)>>,
}

#[handler]
async fn hear(request: &poem::Request, body: poem::Body, heard: Data<&Arc<Heard>>) -> String {
    let report = JobReport::parse(&body.into_vec().await.unwrap()).unwrap();
    let verdict = heard.policy.judge(&report);
    let path = request.uri().path().to_owned();
    let authorization = request.header("authorization").map(str::to_owned);
    heard.reports.lock().unwrap().push((path, authorization, report));
    verdict.to_string()
}

/// A machine, a GitHub and a monitor that it reaches.
struct World {
    machine: Fixture,
    github: FakeGitHub,
    heard: Arc<Heard>,
    monitor: Monitor,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl World {
    async fn new(policy: JobPolicy) -> Option<Self> {
        let machine = Fixture::new().await?;
        let github = FakeGitHub::builder().ghes().start().await.unwrap();
        github.organisation("octo");
        github.repository("octo", "hello");
        let heard = Arc::new(Heard { policy, ..Heard::default() });
        let acceptor = poem::listener::Listener::into_acceptor(TcpListener::bind("127.0.0.1:0"));
        let acceptor = acceptor.await.unwrap();
        let address = poem::listener::Acceptor::local_addr(&acceptor)[0].clone();
        let port = address.as_socket_addr().unwrap().port();
        let route = Route::new().at("/github/:what", poem::post(hear)).data(heard.clone());
        let server = tokio::spawn(async move {
            Server::new_with_acceptor(acceptor).run(route).await.unwrap();
        });
        let monitor = Monitor {
            // As QEMU's network calls the host.
            url: format!("http://10.0.2.2:{port}/github").parse().unwrap(),
            token: Secret::new(TOKEN.to_owned()),
            when_unheard: WhenUnheard::Refuse,
        };
        Some(Self { machine, github, heard, monitor, server })
    }

    async fn register(&self) -> Secret<String> {
        let path = "/orgs/octo/actions/runners/generate-jitconfig";
        let body = json!({ "name": "linux-1", "runner_group_id": 1, "labels": ["linux"] });
        let call = Call { body: Some(body), ..Call::post(path) };
        let answer = rest(&self.github).call(call).await.unwrap();
        let answer: Value = answer.json("register").unwrap();
        Secret::new(answer["encoded_jit_config"].as_str().unwrap().to_owned())
    }

    /// Boots a machine with this user data, and has it start as its image would.
    async fn start(&self, user_data: Secret<String>) {
        let mut spec = self.machine.spec(1);
        spec.user_data = Some(user_data);
        spec.network = Network::Open;
        self.machine.hypervisor().create(&spec).await.unwrap();
        let guest = self.machine.ready(1).await;
        let server = self.github.web_url().replace("127.0.0.1", "10.0.2.2");
        let files = [
            ("/opt/hooks/start.sh", START),
            ("/opt/hooks/job-started.sh", JOB_STARTED),
            ("/opt/hooks/job-completed.sh", JOB_COMPLETED),
            ("/opt/actions-runner/run.sh", RUN),
            ("/opt/actions-runner/job.sh", JOB),
            ("/opt/actions-runner/server", &server),
        ];
        for (path, content) in files {
            guest.write_file(path, content.as_bytes(), 0o755).await.unwrap();
        }
        let script = "until [ -e /run/settled ]; do sleep 0.1; done; exec /opt/hooks/start.sh >/dev/console 2>&1";
        let command = Command::new(["/bin/sh", "-c", script]);
        guest.spawn(&ProcessId::new("start").unwrap(), &command).await.unwrap();
    }

    /// Waits until the machine has switched itself off. Gives what it said.
    async fn stopped(&self) -> String {
        let mut reason = None;
        until("it switches itself off", async || {
            let all = self.machine.hypervisor().instances().await.unwrap();
            if let InstanceState::Stopped(why) = &all[0].state {
                reason = Some(why.clone());
            }
            reason.is_some()
        })
        .await;
        assert_eq!(reason, Some(ExitReason::GuestShutdown));
        let console = self.machine.hypervisor().console(&name(1), false).await.unwrap();
        let pieces: Vec<_> = console.try_collect().await.unwrap();
        String::from_utf8_lossy(&pieces.concat()).into_owned()
    }

    fn job(&self) -> JobView {
        self.github.jobs().remove(0)
    }

    fn reports(&self) -> Vec<(String, Option<String>, JobReport)> {
        self.heard.reports.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn a_machine_takes_its_secret_runs_one_job_and_switches_itself_off() {
    let Some(world) = World::new(JobPolicy::default()).await else {
        return;
    };
    let jit = world.register().await;
    for _ in 0..2 {
        let mut request = JobRequest::new("octo/hello", ["linux"]);
        request.workflow = "it's \"CI\" = $(reboot) é".to_owned();
        world.github.enqueue(request).unwrap();
    }
    world.start(user_data(&jit, Some(&world.monitor)).unwrap()).await;
    let console = world.stopped().await;
    assert_eq!(world.job().conclusion, Some(Conclusion::Success), "{console}");
    assert_eq!(world.github.jobs()[1].runner, None, "one job, and no more");
    assert!(world.github.runners().is_empty());
    assert!(console.contains("a job of octo/hello"), "{console}");
    assert!(console.contains("runner: the job is over"), "{console}");
    for secret in [jit.expose(), TOKEN] {
        assert!(!console.contains(secret));
    }
    let reports = world.reports();
    let authorization = Some(format!("Bearer {TOKEN}"));
    let [started, completed] = &reports[..] else { panic!("{reports:?}") };
    assert_eq!((&*started.0, &started.1), ("/github/job-started", &authorization));
    assert_eq!((&*completed.0, &completed.1), ("/github/job-completed", &authorization));
    let report = &started.2;
    assert_eq!((&*report.repository, &*report.event), ("octo/hello", "push"));
    assert_eq!((&*report.reference, &*report.actor), ("refs/heads/main", "mona"));
    assert_eq!(report.workflow, "it's \"CI\" = $(reboot) é");
    assert_eq!(report.run, world.job().run.to_string());
    assert_no_violations(&world.github);
}

#[tokio::test]
async fn a_job_that_is_refused_runs_no_step_and_its_machine_ends_all_the_same() {
    let policy = JobPolicy { events: ["schedule".to_owned()].into(), ..JobPolicy::default() };
    let Some(world) = World::new(policy).await else {
        return;
    };
    let jit = world.register().await;
    world.github.enqueue(JobRequest::new("octo/hello", ["linux"])).unwrap();
    world.start(user_data(&jit, Some(&world.monitor)).unwrap()).await;
    let console = world.stopped().await;
    assert_eq!(world.job().conclusion, Some(Conclusion::Failure), "{console}");
    let words = "This job is refused:  event \"push\" may not use this runner";
    assert!(console.contains(words), "{console}");
    assert!(!console.contains("a job of octo/hello"), "{console}");
    assert_eq!(world.reports().len(), 2);
}

#[tokio::test]
async fn a_machine_whose_registration_is_gone_switches_itself_off() {
    let Some(world) = World::new(JobPolicy::default()).await else {
        return;
    };
    let jit = world.register().await;
    let runner = world.github.runners()[0].id;
    let path = format!("/orgs/octo/actions/runners/{runner}");
    let call = Call { method: http::Method::DELETE, ..Call::get(path) };
    rest(&world.github).call(call).await.unwrap();
    // Without a monitor, the configuration is all there is.
    world.start(user_data(&jit, None).unwrap()).await;
    let console = tokio::time::timeout(PATIENCE, world.stopped()).await.unwrap();
    assert!(console.contains("The runner registration has been deleted"), "{console}");
    assert!(console.contains("error: the runner program failed"), "{console}");
}

#[tokio::test]
async fn a_machine_with_nonsense_for_user_data_says_so_and_switches_itself_off() {
    let Some(world) = World::new(JobPolicy::default()).await else {
        return;
    };
    world.start(Secret::new("#cloud-config\n{}\n".to_owned())).await;
    let console = world.stopped().await;
    assert!(console.contains("error: the user data is neither"), "{console}");
}
