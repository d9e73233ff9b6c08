//! The real `monitor serve` on real QEMU, with a GitHub over real HTTP: a job's whole life, and what may go
//! wrong in it.

mod real;

use std::{fs, net::TcpListener, sync::Arc};

use fake_github::{
    Conclusion, FakeGitHub, Fault, FaultRule, JobRequest, JobStatus, JobView, Scope, WebhookFaults,
};
use real::{
    Monitor,
    gate::{Gate, runner_archive},
    sorted,
};
use tokio::runtime::Runtime;

const WEBHOOK_SECRET: &str = "planted-webhook-secret-77ab";

/// Where the deliveries go.
const PATH: &str = "/api/v2/forges/github/webhook";

/// In `[[github]]`.
const ASKING: &str = "repositories = [\"acme/widgets\"]\npoll_every = \"500ms\"";

/// In the address where runners are registered; and where a scale set's are.
const MINT: &str = "/generate-jitconfig";
const MINT_OF_SET: &str = "/generatejitconfig";

/// What the names of somebody else's runners begin with.
const ELSEWHERE: &str = "elsewhere-";

/// A GitHub with the organisation `acme`, and a service that runs the jobs of `acme/widgets`.
struct World {
    github: Arc<FakeGitHub>,
    scope: Scope,
    token: String,
    gate: Gate,
    monitor: Monitor,
    runtime: Runtime,
}

impl World {
    /// With these lines in `[[github]]`, and these in the profile.
    fn new(github: &str, profile: &str) -> Option<Self> {
        Self::with("", github, profile)
    }

    /// With these sections beside them.
    fn with(sections: &str, github: &str, profile: &str) -> Option<Self> {
        let mut monitor = Monitor::new()?;
        let runtime = Runtime::new().unwrap();
        let fake = runtime.block_on(FakeGitHub::builder().ghes().start()).unwrap();
        let scope = fake.organisation("acme");
        fake.repository("acme", "widgets");
        let token = fake.classic_token("mona", &["repo", "admin:org"]);
        let gate = Gate::new();
        let dir = monitor.dir.path();
        fs::write(dir.join("token"), &token).unwrap();
        fs::write(dir.join("webhook"), WEBHOOK_SECRET).unwrap();
        let server = fake.web_url().replace("127.0.0.1", "10.0.2.2");
        let sha256 = runner_archive(&dir.join("runner.tar"), &server, &gate);
        let url = fake.web_url();
        let section = format!(
            "{sections}[[github]]\nname = \"github\"\nurl = \"{url}/acme\"\ntoken = {{ file = \"token\" }}\n\
             list_every = \"250ms\"\nlist_quietly_every = \"1s\"\n{github}\n[[profile]]\n\
             forge = \"github\"\n{profile}\n"
        );
        let image = format!(
            "image = {{ kind = \"micro\", files = \"runner.tar\", sha256 = \"{sha256}\" }}"
        );
        monitor.config = monitor
            .config
            .replace("[[profile]]\n", &section)
            .replace("image = { kind = \"micro\" }", &image)
            .replace("min_idle = 1", "min_idle = 0");
        monitor.start();
        Some(Self { github: Arc::new(fake), scope, token, gate, monitor, runtime })
    }

    /// With deliveries, and nobody who asks but once at the start.
    fn hearing(profile: &str) -> Option<Self> {
        Self::hearing_and("sweep_every = \"1h\"", profile)
    }

    fn hearing_and(github: &str, profile: &str) -> Option<Self> {
        let world = Self::new(
            &format!(
                "webhook = [{{ file = \"webhook\" }}]\nrepositories = [\"acme/widgets\"]\n\
                 poll_every = \"1h\"\n{github}"
            ),
            profile,
        )?;
        let url = format!("{}{PATH}", world.monitor.url());
        world.github.hook(&world.scope, &url, WEBHOOK_SECRET);
        world.until("the webhook is relied upon", |world| world.relies_on("webhook"));
        Some(world)
    }

    fn asking(profile: &str) -> Option<Self> {
        Self::new(ASKING, profile)
    }

    /// Asking, with machines that ask before their jobs begin whether these rules let them.
    fn judging(rules: &str) -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // As QEMU's network calls the host.
        let guests =
            format!("[guests]\nlisten = \"127.0.0.1:{port}\"\nurl = \"http://10.0.2.2:{port}\"\n");
        Self::with(&guests, ASKING, rules)
    }

    fn until(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        self.monitor.eventually(what, || is_so(self).then_some(()));
    }

    /// What `/metrics` says of a series, if it is there.
    fn metric(&self, series: &str) -> Option<f64> {
        let (_, text) = self.monitor.ask(reqwest::Method::GET, "/metrics", None)?;
        let text = String::from_utf8(text).unwrap();
        let line = text.lines().find(|line| line.starts_with(&format!("{series} ")))?;
        line.rsplit_once(' ')?.1.parse().ok()
    }

    fn relies_on(&self, source: &str) -> bool {
        let labels = format!("forge=\"github\",profile=\"micro\",source=\"{source}\"");
        self.metric(&format!("monitor_forge_demand_source_active{{{labels}}}")) == Some(1.0)
    }

    /// Why the forge cannot be seen, where it cannot.
    fn blind(&self) -> Option<String> {
        let (_, ready) = self.monitor.ask(reqwest::Method::GET, "/readyz", None)?;
        let ready: serde_json::Value = serde_json::from_slice(&ready).unwrap();
        ready["blind"]["forge github"].as_str().map(str::to_owned)
    }

    fn queue(&self) -> i64 {
        self.queue_for("micro")
    }

    fn queue_for(&self, label: &str) -> i64 {
        self.github.enqueue(JobRequest::new("acme/widgets", [label])).unwrap().id
    }

    fn job(&self, id: i64) -> JobView {
        self.github.job(id).unwrap()
    }

    /// Waits until a machine has the job, and gives the worker's name.
    fn begun(&self, job: i64) -> String {
        self.until("the job begins", |world| world.job(job).status == JobStatus::InProgress);
        let runner = self.job(job).runner.expect("a job that runs has a runner");
        let (worker, _owner) = runner.split_once('_').expect("it has the owner's mark");
        worker.to_owned()
    }

    /// Lets the job end, and waits until nothing is left of its worker.
    fn ends(&self, job: i64, worker: &str) {
        self.gate.set(true);
        self.until("the job ends", |world| world.job(job).status == JobStatus::Completed);
        self.gate.set(false);
        assert_eq!(self.job(job).conclusion, Some(Conclusion::Success));
        self.gone(worker);
    }

    fn gone(&self, worker: &str) {
        self.until("its machine, disk and record are gone", |world| {
            let monitor = &world.monitor;
            let machines = monitor.directories();
            let records = monitor.records();
            !machines.iter().chain(&records).any(|name| name == worker)
        });
        let prefix = format!("{worker}_");
        self.until("its registration is gone", |world| {
            !world.registered().iter().any(|name| name.starts_with(&prefix))
        });
    }

    /// The names of the runners that GitHub has, but for somebody else's.
    fn registered(&self) -> Vec<String> {
        let names = self.github.runners().into_iter().map(|runner| runner.name);
        sorted(names.filter(|name| !name.starts_with(ELSEWHERE)).collect())
    }

    /// One job from its first delivery to its last trace.
    fn life(&self, label: &str) {
        let job = self.queue_for(label);
        let worker = self.begun(job);
        self.until("it is shown as busy", |world| world.monitor.workers("busy") == [&*worker]);
        self.ends(job, &worker);
    }

    /// Drains the service, and sees that nothing is left anywhere.
    fn leaves_nothing(mut self) {
        self.monitor.kill();
        self.monitor.start_with(&["--drain-on-exit"]);
        let ended = self.monitor.terminate();
        assert!(ended.success(), "{ended}");
        assert_eq!(self.monitor.directories(), [] as [&str; 0]);
        assert_eq!(self.monitor.records(), [] as [&str; 0]);
        assert_eq!(self.monitor.processes(), []);
        assert_eq!(self.registered(), [] as [&str; 0]);
        self.lawful();
        let said = self.monitor.said();
        for secret in [&*self.token, WEBHOOK_SECRET] {
            assert!(!said.contains(secret), "a secret is in the log");
        }
    }

    /// How the calls of this kind were answered.
    fn answers(&self, method: &str, what: &str) -> Vec<Option<u16>> {
        let calls = self.github.calls();
        let such = calls.iter().filter(|call| call.method == method && call.path.contains(what));
        such.map(|call| call.status).collect()
    }

    /// All that was sent is as GitHub describes it.
    fn lawful(&self) {
        let lines: Vec<String> = self.github.violations().iter().map(ToString::to_string).collect();
        assert!(lines.is_empty(), "{}", lines.join("\n"));
    }
}

fn fault(fault: Fault, method: &str, path: &str) -> FaultRule {
    FaultRule::once(fault).method(method).path(path)
}

#[test]
fn a_delivery_boots_a_machine_whatever_fails_on_the_way() {
    let Some(world) = World::hearing("sources = [\"webhook\", \"poll\"]") else { return };
    assert_eq!(world.registered(), [] as [&str; 0]);
    world.weathers("micro", MINT);
    let heard = "monitor_webhook_deliveries_total{forge=\"github\",outcome=\"accepted\"}";
    world.until("all were heard", |world| world.metric(heard) >= Some(9.0));
    world.leaves_nothing();
}

#[test]
fn asking_finds_a_job_just_as_well_whatever_fails_on_the_way() {
    let Some(world) = World::asking("") else { return };
    world.weathers("micro", MINT);
    world.leaves_nothing();
}

#[test]
fn a_scale_set_has_its_jobs_run_by_runners_of_its_own_whatever_fails_on_the_way() {
    let profile = "sources = [\"scale-set\"]\nscale_set = \"linux-set\"";
    let Some(world) = World::new("", profile) else { return };
    world.until("the session is open", |world| world.relies_on("scale-set"));
    world.weathers("linux-set", MINT_OF_SET);
    world.leaves_nothing();
}

impl World {
    /// Jobs for this label, while GitHub fails in one way after the other. `mint` is in the address where their
    /// runners are registered.
    fn weathers(&self, label: &str, mint: &str) {
        let path = format!("*{mint}*");
        // The answer to a registration is lost: it becomes no ghost.
        self.github.fault(fault(Fault::LostReply, "POST", &path));
        self.life(label);
        let answers = self.answers("POST", mint);
        let [None, Some(200 | 201)] = answers[..2] else { panic!("{answers:?}") };
        // Its name is taken.
        self.is_quiet();
        let taken = Fault::Status { status: 409, retry_after: None, message: None };
        self.github.fault(fault(taken, "POST", &path));
        self.life(label);
        assert!(self.answers("POST", mint).contains(&Some(409)));
        self.is_quiet();
        self.keeps_a_machine_while_its_runner_may_have_a_job(label);

        let job = self.queue_for(label);
        let worker = self.begun(job);
        // The second page of the list fails: whoever is on it is not gone.
        for number in 0..101 {
            self.foreign(number);
        }
        let broken = Fault::Status { status: 502, retry_after: None, message: None };
        self.github.fault(FaultRule::always(broken).path("*/actions/runners?*page=2*"));
        self.until("it is blind and says why", |world| {
            world.blind().is_some_and(|why| why.contains("502"))
        });
        self.runs_on(job, &worker);
        self.github.clear_faults();
        self.until("it sees again", |world| world.blind().is_none());
        // The token ends, and is swapped by editing its file after the job.
        self.github.revoke(&self.token);
        self.until("it is blind, and says what is needed", |world| {
            world.blind().is_some_and(|why| why.contains("Self-hosted runners: read and write"))
        });
        self.ends_unseen(job);
        let token = self.github.classic_token("mona", &["repo", "admin:org"]);
        fs::write(self.monitor.dir.path().join("token"), token).unwrap();
        self.until("it sees again", |world| world.blind().is_none());
        self.gone(&worker);

        // GitHub is down from a job's first step to its last. What its machine talks to is up: the runner
        // program has a connection of its own.
        let job = self.queue_for(label);
        let worker = self.begun(job);
        for path in ["/orgs/*", "/repos/*", "*/_apis/*"] {
            self.github.fault(FaultRule::always(Fault::Reset).path(path));
        }
        self.until("it is blind", |world| world.blind().is_some());
        self.runs_on(job, &worker);
        self.ends_unseen(job);
        self.github.clear_faults();
        self.until("it sees again", |world| world.blind().is_none());
        self.gone(&worker);
        // And all is as before.
        self.life(label);
    }

    /// GitHub refuses to remove a runner, as it does while a job is on its way there: until it does not, nothing
    /// is destroyed.
    fn keeps_a_machine_while_its_runner_may_have_a_job(&self, label: &str) {
        let job = self.queue_for(label);
        self.until("it is registered", |world| !world.registered().is_empty());
        let [name] = &self.registered()[..] else { panic!("{:?}", self.registered()) };
        let (worker, _owner) = name.split_once('_').expect("it has the owner's mark");
        let runners = self.github.runners();
        let runner = runners.iter().find(|runner| runner.name == **name).expect("it is there");
        let path = format!("/actions/runners/{}", runner.id);
        // Nobody needs it any more, before it is ready.
        self.github.complete(job, Conclusion::Cancelled).unwrap();
        let refusal = Fault::Status { status: 422, retry_after: None, message: None };
        let rule = FaultRule::always(refusal).method("DELETE");
        self.github.fault(rule.path(format!("*{path}")));
        let retire = format!("/api/v2/workers/{worker}/retire");
        self.until("it is to go", |world| {
            let empty = serde_json::json!({});
            let answer = world.monitor.ask(reqwest::Method::POST, &retire, Some(&empty));
            answer.is_some_and(|(status, _)| (200..300).contains(&status))
        });
        let answers = || self.answers("DELETE", &path);
        self.until("GitHub was asked twice", |_| answers().len() >= 2);
        assert!(self.monitor.directories().iter().any(|name| name == worker));
        assert!(self.registered().contains(name));
        self.github.clear_faults();
        self.gone(worker);
        // Nor is one left that a late look had made in its place.
        self.is_quiet();
        let [refused @ .., Some(204)] = &answers()[..] else { panic!("{:?}", answers()) };
        assert!(refused.iter().all(|status| *status == Some(422)), "{refused:?}");
    }

    /// Nothing is left of what a look that was late had made.
    fn is_quiet(&self) {
        self.until("no machine is there", |world| world.monitor.directories().is_empty());
    }

    /// Nobody has touched the job's machine. There may be another, made for a job that a late look saw waiting.
    fn runs_on(&self, job: i64, worker: &str) {
        assert!(self.monitor.directories().iter().any(|name| name == worker));
        assert_eq!(self.job(job).status, JobStatus::InProgress);
    }

    /// Lets the job end while nothing can be seen.
    fn ends_unseen(&self, job: i64) {
        self.gate.set(true);
        self.until("the job ends", |world| world.job(job).status == JobStatus::Completed);
        self.gate.set(false);
        assert_eq!(self.job(job).conclusion, Some(Conclusion::Success));
    }
}

#[test]
fn a_job_that_may_not_run_is_refused_before_its_first_step_and_says_why() {
    let rules = "allow = { projects = [\"acme/widgets\"] }\ndeny = { users = [\"eve\"] }";
    let Some(world) = World::judging(rules) else { return };
    let job = world.queue();
    let worker = world.begun(job);
    world.monitor.event(&[&worker, "its machine begins job", "\"acme/widgets\"", "actor \"mona\""]);
    // Beside it, one that may not.
    world.refuses("eve", "profile");
    world.until("the other goes on", |world| world.monitor.workers("busy") == [&*worker]);
    assert_eq!(world.job(job).status, JobStatus::InProgress);
    world.ends(job, &worker);
    world.monitor.event(&[&worker, "its machine has ended job"]);
    // Whom it concerns next is a matter of an edit: the profile says nothing, and its forge does.
    let file = world.monitor.dir.path().join("monitor.toml");
    let (name, deny) = ("name = \"github\"\n", "deny = { users = [\"mona\"] }\n");
    let edited = world.monitor.config.replace(rules, "").replace(name, &format!("{name}{deny}"));
    fs::write(&file, edited).unwrap();
    let taken = "the configuration was taken";
    let text = world.monitor.event(&[
        taken,
        "profile micro: who may use it",
        "forge github: deny changed",
    ]);
    assert!(!text.contains("restart"), "{text}");
    world.refuses("mona", "instance");
    fs::write(&file, &world.monitor.config).unwrap();
    world.monitor.eventually("the edit is taken back", || {
        let events = world.monitor.events();
        (events.iter().filter(|text| text.contains("who may use it")).count() == 2).then_some(())
    });
    world.life("micro");
    world.leaves_nothing();
}

impl World {
    /// Someone's job is refused by these rules: in its log, in the event log, and when asked why.
    fn refuses(&self, actor: &str, whose: &str) {
        let mut request = JobRequest::new("acme/widgets", ["micro"]);
        request.actor = actor.to_owned();
        let job = self.github.enqueue(request).unwrap().id;
        self.until("the job is over", |world| world.job(job).status == JobStatus::Completed);
        let over = self.job(job);
        assert_eq!(over.conclusion, Some(Conclusion::Failure));
        let runner = over.runner.unwrap();
        let (worker, _owner) = runner.split_once('_').unwrap();
        let why = format!("the {whose}'s rules deny user {actor:?}");
        self.monitor.event(&[worker, "was refused", &why]);
        self.gone(worker);
        let told = self.monitor.get(&format!("/api/v2/workers/{worker}/explain")).unwrap();
        let lines = told["lines"].as_array().unwrap();
        let says = lines.iter().any(|line| line["text"].as_str().unwrap().contains(&why));
        assert!(says, "{told:#}");
        let flight = self.monitor.get(&format!("/api/v2/flights/{worker}")).unwrap();
        let console = flight["console"].as_str().unwrap();
        assert!(console.contains("This job is refused:") && console.contains(&why), "{console}");
    }
}

#[test]
fn a_machine_is_ready_before_the_job_and_the_next_one_after_it() {
    let Some(mut world) = World::asking("") else { return };
    world.monitor.config = world.monitor.config.replace("min_idle = 0", "min_idle = 1");
    world.monitor.kill();
    world.monitor.start();
    let first = world.monitor.idle("micro");
    let job = world.queue();
    assert_eq!(world.begun(job), first);
    world.ends(job, &first);
    let second = world.monitor.idle("micro");
    assert_ne!(first, second);
    // GitHub refuses to remove it at first: it is asked again.
    let refusal = Fault::Status { status: 422, retry_after: None, message: None };
    world.github.fault(fault(refusal, "DELETE", "*/actions/runners/*"));
    let github = world.github.clone();
    world.leaves_nothing();
    let mut calls = github.calls();
    calls.retain(|call| call.method == "DELETE" && call.status != Some(404));
    let answers: Vec<_> = calls.iter().map(|call| call.status).collect();
    assert_eq!(answers, [Some(422), Some(204)]);
}

#[test]
fn a_lost_delivery_is_made_up_for_by_asking() {
    let profile = "sources = [\"webhook\", \"poll\"]";
    let Some(world) = World::hearing_and("sweep_every = \"1s\"", profile) else { return };
    world.github.webhook_faults(WebhookFaults { vanish: 1.0, ..WebhookFaults::default() });
    world.life("micro");
    let heard = "monitor_webhook_deliveries_total{forge=\"github\",outcome=\"accepted\"}";
    let mut count = None;
    world.until("they are counted", |world| {
        count = world.metric(heard);
        count.is_some()
    });
    assert_eq!(count, Some(0.0));
    world.leaves_nothing();
}

#[test]
fn deliveries_in_reverse_and_five_times_over_make_one_machine_for_each_job() {
    let Some(world) = World::hearing("sources = [\"webhook\", \"poll\"]") else { return };
    world.github.hold_webhooks();
    let jobs = [world.queue(), world.queue()];
    world.github.release_webhooks(5, true);
    let workers = jobs.map(|job| world.begun(job));
    world.until("both are shown as busy", |world| world.monitor.workers("busy").len() == 2);
    world.github.hold_webhooks();
    world.gate.set(true);
    for (job, worker) in jobs.iter().zip(&workers) {
        world.until("the job ends", |world| world.job(*job).status == JobStatus::Completed);
        world.gone(worker);
    }
    world.github.release_webhooks(5, true);
    world.until("all was delivered", |world| world.github.undelivered() == 0);
    assert_eq!(world.answers("POST", MINT).len(), 2);
    world.leaves_nothing();
}

#[test]
fn a_job_outlives_kill_9_of_the_service() {
    let Some(mut world) = World::hearing("sources = [\"webhook\", \"poll\"]") else { return };
    let job = world.queue();
    let worker = world.begun(job);
    let port = world.monitor.port();
    world.monitor.kill();
    world.monitor.listen(port);
    world.monitor.start();
    world.until("it is adopted", |world| world.monitor.workers("busy") == [&*worker]);
    world.ends(job, &worker);
    // While nobody is there.
    let job = world.queue();
    let worker = world.begun(job);
    world.monitor.kill();
    world.gate.set(true);
    world.until("the job ends", |world| world.job(job).status == JobStatus::Completed);
    world.gate.set(false);
    world.monitor.start();
    world.gone(&worker);
    world.leaves_nothing();
}

impl World {
    /// Registers a runner of somebody else's.
    fn foreign(&self, number: u32) {
        let url = format!("{}/orgs/acme/actions/runners/generate-jitconfig", self.github.api_url());
        let body = serde_json::json!({
            "name": format!("{ELSEWHERE}{number}"), "runner_group_id": 1, "labels": ["elsewhere"],
        });
        let client = reqwest::Client::builder().no_proxy().user_agent("a test").build().unwrap();
        let request = client.post(url).bearer_auth(&self.token).json(&body);
        let answer = self.runtime.block_on(request.send()).unwrap();
        assert_eq!(answer.status(), 201);
    }
}
