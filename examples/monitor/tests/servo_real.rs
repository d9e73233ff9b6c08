//! What users of Servo's monitor complained of, on the real `monitor serve` with real QEMU machines that run GitHub's
//! jobs: those whose complaint needs nothing that only machines on paper do. Each test walks through several, over one
//! service, as machines take their time to boot.

mod real;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use fake_github::{Conclusion, FakeGitHub, Fault, FaultRule, JobRequest, JobStatus};
use real::{
    Monitor, TOKEN,
    gate::{Gate, runner_archive},
};
use reqwest::Method;
use serde_json::Value;
use tokio::runtime::Runtime;

/// A GitHub with the organisation `acme`, whose `acme/widgets` may reserve, and the service, whose image is not built.
struct World {
    github: FakeGitHub,
    gate: Gate,
    monitor: Monitor,
    runtime: Runtime,
}

/// What was answered.
struct Answer {
    status: u16,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {}", self.text))
    }

    fn is_something(&self) -> bool {
        self.status == 200 && !self.json().is_null()
    }
}

impl World {
    fn new() -> Option<Self> {
        let mut monitor = Monitor::new()?;
        let runtime = Runtime::new().unwrap();
        let github = runtime.block_on(FakeGitHub::builder().ghes().start()).unwrap();
        github.organisation("acme");
        github.repository("acme", "widgets");
        let token = github.classic_token("mona", &["repo", "admin:org"]);
        let gate = Gate::new();
        let dir = monitor.dir.path();
        fs::write(dir.join("token"), &token).unwrap();
        let server = github.web_url().replace("127.0.0.1", "10.0.2.2");
        let sha256 = runner_archive(&dir.join("runner.tar"), &server, &gate);
        let url = github.web_url();
        let sections = format!(
            "[servo]\nreserve_timeout = \"10m\"\nqueue_timeout = \"10m\"\n\
             repositories = [{{ name = \"acme/widgets\", most = 2, events = [\"push\"] }}]\n\
             [[github]]\nname = \"github\"\nurl = \"{url}/acme\"\ntoken = {{ file = \"token\" }}\n\
             list_every = \"250ms\"\nlist_quietly_every = \"500ms\"\n\
             repositories = [\"acme/widgets\"]\npoll_every = \"500ms\"\n\
             [[profile]]\nforge = \"github\"\n"
        );
        let image = format!(
            "image = {{ kind = \"micro\", files = \"runner.tar\", sha256 = \"{sha256}\" }}"
        );
        monitor.config = monitor
            .config
            .replace("[[profile]]\n", &sections)
            .replace("image = { kind = \"micro\" }", &image);
        monitor.start();
        Some(Self { github, gate, monitor, runtime })
    }

    fn until(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        self.monitor.eventually(what, || is_so(self).then_some(()));
    }

    fn ask(&self, method: Method, path: &str) -> Answer {
        let (status, body) = self.monitor.ask(method, path, None).expect("an answer");
        Answer { status, text: String::from_utf8(body).unwrap() }
    }

    fn post(&self, path: &str) -> Answer {
        self.ask(Method::POST, path)
    }

    fn release(&self, id: &str) {
        assert_eq!(self.ask(Method::DELETE, &format!("/api/v2/reservations/{id}")).status, 204);
        self.until("nothing is reserved", |world| {
            world
                .monitor
                .get("/api/v2/reservations")
                .is_some_and(|held| held == Value::Array(vec![]))
        });
        self.monitor.idle("micro");
    }

    /// A run in progress: its first job is over, and its second waits for a label that nobody has.
    fn run(&self, change: impl Fn(&mut JobRequest)) -> i64 {
        let mut request = JobRequest::new("acme/widgets", ["nobody-has-this"]);
        change(&mut request);
        let first = self.github.enqueue(request.clone()).unwrap();
        self.github.complete(first.id, Conclusion::Success).unwrap();
        request.run = Some(first.run);
        self.github.enqueue(request).unwrap();
        first.run
    }

    fn upload(&self, run: i64, id: &str, count: u32) {
        let text = format!(
            "unique_id={id}\nself_hosted_image_name=micro\nself_hosted_runner_count={count}\n\
             qualified_repo=acme/widgets\nrun_id={run}\n"
        );
        let files = [("tmp.XyZ", text.as_bytes())];
        self.github.artifact(run, &format!("servo-ci-runners_{id}"), &files).unwrap();
    }

    /// The names of the runners that GitHub marked for a reservation.
    fn marked(&self, id: &str) -> Vec<String> {
        let label = format!("reserved-for:{id}");
        let runners = self.github.runners().into_iter();
        runners.filter(|runner| runner.labels.contains(&label)).map(|runner| runner.name).collect()
    }

    /// Runs a job with this label, and gives the runner that had it.
    fn job(&self, label: &str) -> String {
        let queued = self.github.enqueue(JobRequest::new("acme/widgets", [label])).unwrap();
        self.until("the job is over", |world| {
            world.github.job(queued.id).unwrap().status == JobStatus::Completed
        });
        let job = self.github.job(queued.id).unwrap();
        assert_eq!(job.conclusion, Some(Conclusion::Success));
        job.runner.unwrap()
    }

    /// Nothing is left of a runner's worker: no machine, no file, no record, no registration.
    fn gone(&self, runner: &str) {
        let worker = runner.split('_').next().unwrap().to_owned();
        self.until("its machine, files, record and registration are gone", |world| {
            let (machines, records) = (world.monitor.directories(), world.monitor.records());
            !machines.iter().chain(&records).any(|name| *name == worker)
                && !world.github.runners().iter().any(|other| other.name == runner)
        });
    }
}

fn uuid() -> String {
    uuid::Uuid::new_v4().to_string()
}

fn select(id: &str, run: i64) -> String {
    format!("/select-runner?unique_id={id}&qualified_repo=acme/widgets&run_id={run}")
}

fn asked(path: &str, id: &str) -> String {
    format!("{path}?unique_id={id}&qualified_repo=acme/widgets&run_id=7")
}

/// Looks at the dashboard all the time, and counts how often it was there.
fn watch(world: &World) -> (Arc<AtomicBool>, Arc<AtomicU32>, tokio::task::JoinHandle<()>) {
    monitor::http::tls::prepare();
    let (over, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let (told, count, url) =
        (over.clone(), seen.clone(), format!("{}/dashboard.json", world.monitor.url()));
    let watching = world.runtime.spawn(async move {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        while !told.load(Ordering::Relaxed) {
            let answer = client.get(&url).send().await.unwrap();
            assert_eq!(answer.status().as_u16(), 200);
            let told: Value = answer.json().await.unwrap();
            assert!(told["profile_runner_counts"]["micro"].is_object(), "{told}");
            count.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    (over, seen, watching)
}

#[test]
fn complaints_2_7_9_10_13_and_16_of_requests_and_the_queue() {
    let Some(world) = World::new() else { return };
    // 7: others' runners are called as no filter expects.
    let token = world.github.classic_token("mona", &["repo", "admin:org"]);
    let url = format!("{}/orgs/acme/actions/runners/generate-jitconfig", world.github.api_url());
    monitor::http::tls::prepare();
    let client = reqwest::Client::builder().no_proxy().user_agent("somebody").build().unwrap();
    for name in ["micro", "micro-", "micro-1", "micro-1_", "MICRO-1_x", "a b", "micro-9_monitor-0"]
    {
        let wish = serde_json::json!({
            "name": name, "runner_group_id": 1, "labels": ["x64"], "work_folder": "_work",
        });
        let made = client.post(&url).bearer_auth(&token).json(&wish).send();
        assert_eq!(world.runtime.block_on(made).unwrap().status().as_u16(), 201, "{name}");
    }
    world.monitor.idle("micro");
    let (over, seen, watching) = watch(&world);
    // 16: among hundreds; 10: with a count that is not allowed, once, for one repository and event.
    let run = world.run(|_| ());
    let (id, greedy) = (uuid(), uuid());
    world.upload(run, &greedy, 99);
    world.upload(run, &id, 1);
    for _ in 0..120 {
        world.upload(run, &uuid(), 1);
    }
    let refused = world.post(&select(&greedy, run));
    assert_eq!(refused.status, 409, "{}", refused.text);
    let taken = world.post(&select(&id, run));
    assert!(taken.is_something(), "{}: {}", taken.status, taken.text);
    let marked = world.marked(&id);
    let number = taken.json()[0]["id"].as_u64().unwrap();
    assert_eq!(marked.len(), 1, "it is marked when it is answered");
    assert!(marked[0].starts_with(&format!("micro-{number}_")), "{marked:?}: it is the one");
    let evil = uuid();
    let evil =
        format!("/select-runner?unique_id={evil}&qualified_repo=acme/widgets-evil&run_id={run}");
    let refused = world.post(&evil);
    assert!(refused.status == 403 && refused.text.contains("widgets-evil"), "{}", refused.text);
    // 9: whoever waits keeps its place, and nothing is forgotten before it is had.
    let next = uuid();
    let token = world.post(&asked("/profile/micro/enqueue/2", &next));
    assert_eq!(token.status, 200, "{}", token.text);
    let late = uuid();
    assert_eq!(world.post(&asked("/profile/micro/enqueue", &late)).status, 200);
    let take = format!("/take/{next}?token={}", token.text);
    let waits = world.post(&take);
    assert_eq!((waits.status, &*waits.text), (503, ""));
    assert_eq!(world.ask(Method::DELETE, &format!("/api/v2/reservations/{id}")).status, 204);
    world.until("the large one is served before the small one", |world| {
        world.post(&take).json_if_ok().is_some_and(|told| told.as_array().map(Vec::len) == Some(2))
    });
    assert_eq!(world.ask(Method::DELETE, &format!("/api/v2/reservations/{late}")).status, 204);
    world.release(&next);
    let again = world.post(&select(&id, run));
    assert!(again.status == 403 && again.text.contains("used"), "{}", again.text);
    let other = world.run(|request| request.event = "issue_comment".to_owned());
    let id = uuid();
    world.upload(other, &id, 1);
    let refused = world.post(&select(&id, other));
    assert!(refused.status == 403 && refused.text.contains("issue_comment"), "{}", refused.text);
    // 2: a request that takes long holds up nobody.
    let id = uuid();
    world.upload(run, &id, 1);
    let asks = |world: &World| {
        let calls = world.github.calls().into_iter();
        calls.filter(|call| call.path.contains("/artifacts")).count()
    };
    let before = asks(&world);
    world.github.fault(FaultRule::always(Fault::Hang).path("*/artifacts*"));
    let (url, hanging) = (format!("{}{}", world.monitor.url(), select(&id, run)), uuid());
    let patient = world.runtime.spawn(async move {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        client.post(url).send().await.map(|answer| answer.status().as_u16())
    });
    world.until("it is asked for", |world| asks(world) > before);
    world.until("others are served meanwhile", |world| {
        world.post(&asked("/profile/micro/take", &hanging)).is_something()
    });
    assert!(!patient.is_finished());
    world.github.clear_faults();
    let status = world.runtime.block_on(patient).unwrap().unwrap();
    assert!(matches!(status, 200 | 503), "{status}");
    // 13: all the while, the dashboard was there.
    over.store(true, Ordering::Relaxed);
    world.runtime.block_on(watching).unwrap();
    assert!(seen.load(Ordering::Relaxed) > 10);
    let said = world.monitor.said();
    assert!(!said.contains("panicked") && !said.contains(TOKEN), "{said}");
}

impl Answer {
    fn json_if_ok(&self) -> Option<Value> {
        (self.status == 200).then(|| self.json())
    }
}

#[test]
fn complaints_1_4_11_12_14_and_15_of_machines_and_their_jobs() {
    let Some(mut world) = World::new() else { return };
    // 12: while the image is being built, a place waits and is not refused.
    let id = uuid();
    let token = world.post(&asked("/profile/micro/enqueue", &id));
    assert_eq!(token.status, 200, "{}", token.text);
    let take = format!("/take/{id}?token={}", token.text);
    let waits = world.post(&take);
    assert_eq!((waits.status, &*waits.text), (503, ""));
    world.until("it is served", |world| world.post(&take).is_something());
    world.release(&id);
    // 4: no answer of GitHub's ends a job that runs; 1: nor does one end the service.
    let queued = world.github.enqueue(JobRequest::new("acme/widgets", ["micro"])).unwrap();
    world.until("a job runs", |world| {
        world.github.job(queued.id).unwrap().status == JobStatus::InProgress
    });
    let busy = world.github.job(queued.id).unwrap().runner.unwrap();
    let machine = busy.split('_').next().unwrap().to_owned();
    for fault in [
        Fault::Garbage,
        Fault::ShortList,
        Fault::Reset,
        Fault::Html { status: 200 },
        Fault::Status { status: 500, retry_after: None, message: None },
    ] {
        let lists = |world: &World| {
            let calls = world.github.calls().into_iter();
            calls.filter(|call| call.path.contains("/actions/runners")).count()
        };
        let before = lists(&world);
        world.github.fault(FaultRule::always(fault).path("*/actions/runners?*"));
        world.until("GitHub is asked again", |world| lists(world) >= before + 3);
        world.github.clear_faults();
        assert!(world.monitor.directories().contains(&machine), "its machine is there");
    }
    assert!(world.monitor.is_up());
    world.gate.set(true);
    world.until("the job ends", |world| {
        world.github.job(queued.id).unwrap().status == JobStatus::Completed
    });
    assert_eq!(world.github.job(queued.id).unwrap().conclusion, Some(Conclusion::Success));
    // 14 and 15: nothing of it is left, and its place is filled.
    world.gone(&busy);
    world.monitor.idle("micro");
    // 11: a job that is run again gets a fresh machine under the same label.
    let id = uuid();
    assert!(world.post(&asked("/profile/micro/take", &id)).is_something());
    let label = format!("reserved-for:{id}");
    let first = world.job(&label);
    world.gone(&first);
    let second = world.job(&label);
    assert_ne!(first, second);
    world.gone(&second);
    assert!(!world.monitor.said().contains("panicked"), "{}", world.monitor.said());
}
