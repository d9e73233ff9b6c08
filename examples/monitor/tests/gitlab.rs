//! The real `monitor serve` on real QEMU, with a GitLab over real HTTP: pipelines, who may run them, and what may
//! go wrong with them.

mod real;

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use fake_github::{FakeGitHub, JobRequest, JobStatus};
use fake_gitlab::{
    Cache, FakeGitLab, JobId, JobSpec, JobView, Place, ProjectId, RunnerSpec, Scope, Status, Step,
    Variable,
};
use real::{
    Monitor,
    gate::{Gate, machine_archive, runner_archive},
    sorted,
};
use tokio::runtime::Runtime;

/// How long a job may take, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(240);

/// Stands in for `gitlab-runner run-single`.
const RUN_SINGLE: &str = include_str!("../../../forge-gitlab/tests/guest/gitlab-runner");

const SECRET: &str = "planted-masked-4f1c";

/// A GitLab with the projects `acme/infra/app` and `others/app`, and a service that makes a runner for the first
/// one's group.
struct World {
    gitlab: Arc<FakeGitLab>,
    project: ProjectId,
    token: String,
    gate: Gate,
    monitor: Monitor,
    runtime: Runtime,
}

impl World {
    /// With these lines in `[[gitlab]]`, and these in the profile.
    fn new(gitlab: &str, profile: &str) -> Option<Self> {
        Self::with(gitlab, profile, |_, config| config)
    }

    fn with(
        section: &str,
        profile: &str,
        edit: impl FnOnce(&mut Monitor, String) -> String,
    ) -> Option<Self> {
        let mut monitor = Monitor::new()?;
        let runtime = Runtime::new().unwrap();
        let gitlab = runtime.block_on(FakeGitLab::start()).unwrap();
        gitlab.configure(|settings| {
            settings.long_poll = Duration::from_secs(2);
            settings.trace_update_interval = Duration::from_secs(1);
            settings.watched_trace_update_interval = Duration::from_secs(1);
        });
        let project = gitlab.project("acme/infra/app");
        // Nothing beyond what the guide says.
        let scopes = [Scope::CreateRunner, Scope::ManageRunner];
        let token = gitlab.access_token(gitlab.admin(), &scopes);
        fs::write(monitor.dir.path().join("token"), &token).unwrap();
        let (url, group) = (gitlab.url(), gitlab.group("acme").0);
        let section = format!(
            "[[gitlab]]\nname = \"gitlab\"\nurl = \"{url}\"\nallow_http = true\n\
             token = {{ file = \"token\" }}\nrunner_type = \"group\"\ngroup_id = {group}\n\
             check_every = \"50ms\"\nverify_every = \"1s\"\nkeep_alive = \"1s\"\nkill_grace = \"1s\"\n\
             {section}\n[[profile]]\nforge = \"gitlab\"\n{profile}\n"
        );
        let config = monitor.config.replace("[[profile]]\n", &section);
        let config = config.replace("min_idle = 1", "min_idle = 0");
        monitor.config = edit(&mut monitor, config);
        monitor.start();
        let gate = Gate::new();
        Some(Self { gitlab: Arc::new(gitlab), project, token, gate, monitor, runtime })
    }

    /// Jobs of one pipeline in a project, which ask for the profile by its name and need no sources.
    fn pipeline<const N: usize>(&self, project: ProjectId, jobs: [JobSpec; N]) -> [JobId; N] {
        let jobs =
            jobs.map(|job| job.tags(["micro"]).variable(Variable::new("GIT_STRATEGY", "none")));
        self.gitlab.pipeline(self.gitlab.admin(), project, jobs).1.try_into().unwrap()
    }

    fn job(&self, job: JobSpec) -> JobId {
        self.pipeline(self.project, [job])[0]
    }

    fn view(&self, job: JobId) -> JobView {
        self.gitlab.job_view(job).unwrap()
    }

    /// Waits until a job is as `enough` says.
    fn until_job(&self, job: JobId, enough: impl Fn(&JobView) -> bool) -> JobView {
        let until = self.gitlab.until_job(job, enough);
        let waited = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, until).await });
        waited.unwrap_or_else(|_| panic!("in vain: {:#?}", self.view(job))).unwrap()
    }

    fn over(&self, job: JobId) -> JobView {
        self.until_job(job, |job| job.status.is_over())
    }

    /// Waits until a job has said something. Somebody looks at it meanwhile, so that it is told soon.
    fn says(&self, job: JobId, text: &str) {
        self.gitlab.watch(job, true);
        self.until_job(job, |job| job.log().contains(text));
    }

    fn succeeds(&self, job: JobId) -> String {
        let job = self.over(job);
        assert_eq!(job.status, Status::Success, "{}", job.log());
        assert!(!job.trace_is_wrong);
        job.log()
    }

    fn until(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        self.monitor.eventually(what, || is_so(self).then_some(()));
    }

    /// Why the forge does not work, as `/readyz` has it.
    fn trouble(&self) -> Option<String> {
        self.ready()?["blind"]["forge gitlab"].as_str().map(str::to_owned)
    }

    fn ready(&self) -> Option<serde_json::Value> {
        let (_, ready) = self.monitor.ask(reqwest::Method::GET, "/readyz", None)?;
        Some(serde_json::from_slice(&ready).unwrap())
    }

    fn metric(&self, series: &str) -> Option<f64> {
        let (_, text) = self.monitor.ask(reqwest::Method::GET, "/metrics", None)?;
        let text = String::from_utf8(text).unwrap();
        let line = text.lines().find(|line| line.starts_with(&format!("{series} ")))?;
        line.rsplit_once(' ')?.1.parse().ok()
    }

    fn state_dir(&self) -> PathBuf {
        self.monitor.data.join("forges/gitlab")
    }

    /// Has the service take another configuration.
    fn edit(&mut self, from: &str, to: &str) {
        assert!(self.monitor.config.contains(from), "{from:?} is not in it");
        self.monitor.config = self.monitor.config.replace(from, to);
        fs::write(self.monitor.dir.path().join("monitor.toml"), &self.monitor.config).unwrap();
    }

    /// Drains the service, and sees that nothing is left of machines and jobs.
    fn leaves_nothing(mut self) {
        self.monitor.kill();
        self.monitor.start_with(&["--drain-on-exit"]);
        let ended = self.monitor.terminate();
        assert!(ended.success(), "{ended}");
        assert_eq!(self.monitor.directories(), [] as [&str; 0]);
        assert_eq!(self.monitor.records(), [] as [&str; 0]);
        assert_eq!(self.monitor.processes(), []);
        for kind in ["runners", "jobs"] {
            // It is kept here only where jobs are.
            let left = fs::read_dir(self.state_dir().join(kind)).map_or(0, Iterator::count);
            assert_eq!(left, 0, "of {kind}");
        }
        let violations: Vec<String> =
            self.gitlab.violations().iter().map(ToString::to_string).collect();
        assert!(violations.is_empty(), "{}", violations.join("\n"));
        let said = self.monitor.said();
        let runners = self.gitlab.runners().into_iter();
        let tokens = runners.map(|id| self.gitlab.runner_view(id).unwrap().token);
        for secret in tokens.chain([self.token.clone(), SECRET.to_owned()]) {
            assert!(!said.contains(&secret), "a secret is in the log");
        }
    }
}

#[test]
fn a_pipeline_runs_in_machines_of_their_own_for_those_who_may() {
    let section = "trace_limit = \"16MiB\"\nallow = { projects_in_groups = [\"acme\"] }";
    let profile = "deny = { projects = [\"acme/banned\"] }\ndescription = \"small machines\"\n\
                   maximum_timeout = \"2h\"\nlabels = [\"linux\"]";
    let Some(world) = World::new(section, profile) else { return };
    let gitlab = &world.gitlab;
    world.until("a runner is made", |world| world.gitlab.runners().len() == 1);
    let made = gitlab.runner_view(gitlab.runners()[0]).unwrap().spec;
    assert_eq!(sorted(made.tags), ["linux", "micro"]);
    assert_eq!(made.description, "small machines");
    assert_eq!(made.maximum_timeout, Some(Duration::from_secs(7200)));
    assert!(matches!(made.place, Place::Group(_)) && !made.run_untagged);

    // Who may not use it is told by which rule, and no machine is made.
    let banned = gitlab.project("acme/banned");
    let refused = world.over(world.pipeline(banned, [JobSpec::new("refused", ["true"])])[0]);
    let rule = "root may not run a job of acme/banned on profile micro: the profile's rules deny project \
                \"acme/banned\"";
    assert!(refused.log().contains(rule), "{}", refused.log());
    assert_eq!(refused.status, Status::Failed);
    world.monitor.event(&["forge gitlab: job", "was refused: root may not", "acme/banned"]);
    let provisions = |world: &World| {
        let events = world.monitor.events();
        events.into_iter().filter(|event| event.contains("provision")).collect::<Vec<_>>()
    };
    assert_eq!(provisions(&world), [] as [&str; 0]);

    let mut build = JobSpec::new(
        "build",
        [
            "uname -s; id -u; pwd",
            "echo plain=$PLAIN; cat $FILE; echo secret=$SECRET",
            "mkdir -p out kept && echo made-here >out/file && echo cached-here >kept/file",
        ],
    )
    .stage("build")
    .after(["echo after=$CI_JOB_STATUS"])
    .artifacts(["out/"])
    .variable(Variable::new("PLAIN", "p"))
    .variable(Variable::file("FILE", "content\n"))
    .variable(Variable::masked("SECRET", SECRET));
    build.steps.insert(1, Step::new("release", ["echo the second step sees $(cat out/file)"]));
    build.cache = vec![Cache::new("modules", ["kept/"])];
    let mut test =
        JobSpec::new("test", ["cat out/file kept/file", "test ! -e /tmp/mark"]).stage("test");
    test.cache = vec![Cache::new("modules", ["kept/"])];
    let test = test.needs(["build"]);
    let talk = JobSpec::new("talk", ["seq 1 900000", "touch /tmp/mark"]).stage("build");
    let [build, test, talk] = world.pipeline(world.project, [build, test, talk]);

    let log = world.succeeds(build);
    let expected = [
        "\nLinux\n0\n/work/builds/acme/infra/app\n",
        "plain=p\ncontent\nsecret=[MASKED]\n",
        "\nthe second step sees made-here\n",
        "after=success",
    ];
    for expected in expected {
        assert!(log.contains(expected), "{expected:?} in {log}");
    }
    assert!(!log.contains(SECRET), "{log}");
    let log = world.succeeds(test);
    assert!(log.contains("\nmade-here\ncached-here\n"), "{log}");
    let log = world.succeeds(talk);
    let counted: String = (1..=900_000).map(|n| format!("{n}\n")).collect();
    assert!(counted.len() > 6_000_000 && log.contains(&counted), "{} bytes", log.len());

    let machines: BTreeSet<String> = [build, test, talk]
        .map(|job| {
            let log = world.view(job).log();
            let name = log.split("Running on ").nth(1).and_then(|rest| rest.split(',').next());
            name.unwrap().to_owned()
        })
        .into();
    assert_eq!(machines.len(), 3, "{machines:?}");
    let well = world.metric("monitor_forge_usable{forge=\"gitlab\"}");
    assert_eq!(well, Some(1.0));
    world.leaves_nothing();
}

#[test]
fn jobs_end_when_they_are_cancelled_and_when_their_time_is_over() {
    let Some(world) = World::new("", "") else { return };
    let endless = |name: &str| JobSpec::new(name, ["echo has begun", "sleep 1000"]).stage("build");
    let gentle = endless("gentle").after(["echo cleared $CI_JOB_STATUS"]);
    let [gentle, at_once] = world.pipeline(world.project, [gentle, endless("at-once")]);
    world.says(gentle, "\nhas begun");
    assert!(world.gitlab.cancel(gentle));
    world.says(at_once, "\nhas begun");
    let busy = world.monitor.workers("busy");
    assert!(world.gitlab.cancel_at_once(at_once));
    let gentle = world.over(gentle);
    assert_eq!(gentle.status, Status::Canceled, "{}", gentle.log());
    assert!(gentle.log().contains("cleared canceled"), "{}", gentle.log());
    assert_eq!(world.view(at_once).status, Status::Canceled);
    world.until("their machines are gone", |world| {
        let left = world.monitor.directories();
        !busy.is_empty() && !left.iter().any(|name| busy.contains(name))
    });

    let late = world.job(endless("late").timeout(Duration::from_secs(5)));
    let late = world.over(late);
    assert_eq!(late.failure_reason.as_deref(), Some("job_execution_timeout"), "{}", late.log());
    assert!(late.log().contains("\nhas begun"), "{}", late.log());
    world.leaves_nothing();
}

#[test]
fn a_job_goes_on_though_the_service_is_killed_and_gitlab_is_away() {
    let Some(mut world) = World::new("", "") else { return };
    let lines = [
        "echo begun $(cat /proc/uptime | cut -d. -f1 >/tmp/once; echo once)".to_owned(),
        world.gate.script(),
        "echo ended with $SECRET".to_owned(),
    ];
    let job = JobSpec::new("long", lines).variable(Variable::masked("SECRET", SECRET));
    let job = world.job(job.after(["echo cleared"]));
    world.says(job, "\nbegun once");
    world.until("it is shown as busy", |world| world.monitor.workers("busy").len() == 1);
    let machine = world.monitor.workers("busy");
    world.monitor.kill();
    world.monitor.start();
    world.until("it is taken up", |world| world.monitor.workers("busy") == machine);
    world.monitor.kill();
    world.gitlab.go_down();
    world.monitor.start();
    world.until("GitLab's absence is told", |world| {
        world.trouble().is_some_and(|why| why.contains("no jobs for profile micro"))
    });
    world.monitor.event(&["forge gitlab: it gives no jobs to profile micro"]);
    assert_eq!(world.metric("monitor_forge_usable{forge=\"gitlab\"}"), Some(0.0));
    world.until("the job is still there", |world| world.monitor.workers("busy") == machine);
    world.gate.set(true);
    // It ends though nobody can be told, and so does its machine.
    world.until("its machine is gone", |world| world.monitor.directories().is_empty());
    assert_eq!(world.view(job).status, Status::Running);
    world.gitlab.come_up();
    let log = world.succeeds(job);
    for once in ["\nbegun once\n", "\nended with [MASKED]\n", "\ncleared\n"] {
        assert_eq!(log.matches(once).count(), 1, "{once:?} in {log}");
    }
    world.until("all is well again", |world| world.trouble().is_none());
    world.leaves_nothing();
}

#[test]
fn edits_are_taken_on_while_it_runs() {
    let Some(mut world) = World::new("", "deny = { users = [\"nobody\"] }") else { return };
    world.until("a runner is made", |world| world.gitlab.runners().len() == 1);
    let first = world.gitlab.runners()[0];
    let asked = |world: &World| {
        let calls = world.gitlab.calls();
        calls.iter().any(|call| call.route.ends_with("/jobs/request") && call.status == Some(204))
    };
    world.until("it asks for jobs", asked);
    assert_eq!(world.trouble(), None);
    let mode = |path: PathBuf| {
        use std::os::unix::fs::PermissionsExt;
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode(world.state_dir().join("tokens/micro")), 0o600);
    assert_eq!(mode(world.state_dir()), 0o700);

    // Access: no job is taken that was allowed a moment ago.
    world.edit("users = [\"nobody\"]", "users = [\"ROOT\"]");
    world.monitor.event(&["the configuration was taken", "profile micro: deny"]);
    world.until("the rule holds", |world| {
        let refused = world.over(world.job(JobSpec::new("refused", ["true"])));
        refused.log().contains("the profile's rules deny user \"ROOT\"")
    });

    // What the runner is like at GitLab, and a profile that is new.
    world.edit(
        "users = [\"ROOT\"] }\n",
        "users = [\"ROOT\"] }\ntags = [\"fast\"]\ndescription = \"changed\"\n",
    );
    world.until("the runner is corrected", |world| {
        let now = world.gitlab.runner_view(first).unwrap().spec;
        now.tags == ["fast"] && now.description == "changed"
    });
    let another = "[[profile]]\nname = \"another\"\nforge = \"gitlab\"\nimage = { kind = \"micro\" }\n\
                   memory = \"192MiB\"\nmin_idle = 0\n";
    let config = world.monitor.config.clone();
    world.edit("[[profile]]\n", &format!("{another}[[profile]]\n"));
    world.until("it has a runner too", |world| world.gitlab.runners().len() == 2);
    let with_another = world.monitor.config.clone();
    world.edit(&with_another, &config);
    world.until("it is gone", |world| world.gitlab.runners() == [first]);

    // A token that ends is swapped by writing its file.
    world.gitlab.revoke(&world.token);
    world.until("GitLab refuses the token, and it is told", |world| {
        world.trouble().is_some_and(|why| why.contains("401"))
    });
    world.gitlab.delete_runner(first);
    let scopes = [Scope::CreateRunner, Scope::ManageRunner];
    let token = world.gitlab.access_token(world.gitlab.admin(), &scopes);
    fs::write(world.monitor.dir.path().join("token"), &token).unwrap();
    world.until("all is well, with another runner", |world| {
        world.gitlab.runners().len() == 1 && world.trouble().is_none()
    });

    // What waits for a restart is said.
    world.edit("keep_alive = \"1s\"", "keep_alive = \"2s\"");
    world.until("a restart is asked for", |world| {
        let warnings = world.ready().map(|ready| ready["warnings"].to_string());
        warnings.is_some_and(|all| all.contains("gitlab.gitlab.keep_alive"))
    });
    world.edit("runner_type = \"group\"", "expose_runners = false\nrunner_type = \"group\"");
    world.until("no runner is left", |world| world.gitlab.runners().is_empty());
    world.leaves_nothing();
}

#[test]
fn github_and_gitlab_share_a_host_with_a_cap_each() {
    let github = Runtime::new().unwrap();
    let fake = github.block_on(FakeGitHub::builder().ghes().start()).unwrap();
    fake.organisation("acme");
    fake.repository("acme", "widgets");
    let token = fake.classic_token("mona", &["repo", "admin:org"]);
    let gate = Gate::new();
    let world = World::with("jobs_ahead = 4", "", |monitor, config| {
        let dir = monitor.dir.path();
        fs::write(dir.join("github-token"), &token).unwrap();
        let server = fake.web_url().replace("127.0.0.1", "10.0.2.2");
        let sha256 = runner_archive(&dir.join("runner.tar"), &server, &gate);
        let url = fake.web_url();
        // There is room for three, and each may have two.
        config.replace("memory = \"4GiB\"", "memory = \"576MiB\"")
            + &format!(
                "[[github]]\nname = \"github\"\nurl = \"{url}/acme\"\ntoken = {{ file = \"github-token\" }}\n\
                 repositories = [\"acme/widgets\"]\npoll_every = \"2s\"\nlist_every = \"1s\"\n\
                 list_quietly_every = \"2s\"\n[[profile]]\nname = \"hub\"\nforge = \"github\"\n\
                 image = {{ kind = \"micro\", files = \"runner.tar\", sha256 = \"{sha256}\" }}\n\
                 memory = \"192MiB\"\nmin_idle = 0\nmax = 2\n"
            )
    });
    let Some(world) = world else { return };
    let hub: Vec<i64> = (0..3)
        .map(|_| fake.enqueue(JobRequest::new("acme/widgets", ["hub"])).unwrap().id)
        .collect();
    let lab = ["a", "b", "c"].map(|name| JobSpec::new(name, [world.gate.script()]));
    let lab = world.pipeline(world.project, lab);
    let hub_over = |id: &i64| fake.job(*id).unwrap().status == JobStatus::Completed;

    // Neither has more than two that are not over, nor are there more than three machines; and the host is made full
    // use of.
    let (mut most, mut seen) = (0, BTreeSet::new());
    let mut lets_end = false;
    let since = Instant::now();
    loop {
        let machines = world.monitor.directories();
        let workers = world.monitor.workers_but("over");
        let count = |prefix: &str| workers.iter().filter(|name| name.starts_with(prefix)).count();
        assert!(count("hub-") <= 2 && count("micro-") <= 2, "{workers:?}");
        assert!(machines.len() <= 3, "{machines:?}");
        most = most.max(machines.len());
        seen.extend(machines.into_iter().map(|name| name.starts_with("hub-")));
        if most == 3 && !lets_end {
            world.gate.set(true);
            gate.set(true);
            lets_end = true;
        }
        if hub.iter().all(hub_over) && lab.iter().all(|job| world.view(*job).status.is_over()) {
            break;
        }
        // Six machines, three at a time.
        let events = || world.monitor.events().join("\n");
        assert!(since.elapsed() < 2 * PATIENCE, "they do not all end:\n{}", events());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(seen, BTreeSet::from([false, true]));
    lab.iter().for_each(|job| drop(world.succeeds(*job)));
    world.leaves_nothing();
    assert!(fake.runners().is_empty());
}

#[test]
fn a_runner_that_was_made_by_hand_needs_no_administrator() {
    let named = "runner_token = { environment = \"PLANTED_RUNNER_TOKEN\" }";
    let Some(mut world) = World::with("", named, |_, config| config) else { return };
    world.until("it says what is missing", |world| {
        world.trouble().is_some_and(|why| why.contains("PLANTED_RUNNER_TOKEN is not set"))
    });
    world.monitor.kill();
    let place = Place::Project(world.project);
    let (runner, token) = world.gitlab.runner(RunnerSpec::tagged(place, ["micro"]));
    fs::write(world.monitor.dir.path().join("runner-token"), token).unwrap();
    world.edit("{ environment = \"PLANTED_RUNNER_TOKEN\" }", "{ file = \"runner-token\" }");
    for line in ["token = { file = \"token\" }\n", "runner_type = \"group\"\n"] {
        world.edit(line, "");
    }
    let group = format!("group_id = {}\n", world.gitlab.group("acme").0);
    world.edit(&group, "");
    world.monitor.start();
    let toml = world.export();
    assert!(toml.contains("executor = \"custom\"") && toml.contains("token = \"glrt-"), "{toml}");
    let job = world.job(JobSpec::new("build", ["echo hello"]));
    world.succeeds(job);
    assert_eq!(world.view(job).runner, Some(runner));
    world.leaves_nothing();
}

#[test]
fn gitlabs_own_runner_takes_the_job_in_a_machine_that_is_gone_with_it() {
    // As QEMU's network calls this host.
    let program = RUN_SINGLE
        .replace("\ntoken=$(cat", "\nurl=http://10.0.2.2${url#http://127.0.0.1}\ntoken=$(cat");
    let program = program.replace("./job.sh", "/opt/runner/job.sh");
    let world = World::with("run_single = true", "", |monitor, config| {
        let files = [
            ("opt/runner/start.sh", forge_gitlab::guest::START),
            ("usr/bin/gitlab-runner", &*program),
            ("opt/runner/job.sh", "echo a job of its own runner\n"),
        ];
        let sha256 = machine_archive(&monitor.dir.path().join("runner.tar"), &files);
        let image = format!(
            "image = {{ kind = \"micro\", files = \"runner.tar\", sha256 = \"{sha256}\" }}"
        );
        config
            .replace("image = { kind = \"micro\" }", &image)
            .replace("min_idle = 0", "min_idle = 1")
    });
    let Some(world) = world else { return };
    let machine = world.monitor.idle("micro");
    let runner = world.gitlab.runners();
    assert_eq!(runner.len(), 1, "one for each machine");
    let job = world.job(JobSpec::new("build", ["true"]));
    let log = world.succeeds(job);
    assert!(log.contains("a job of its own runner"), "{log}");
    assert_eq!(world.view(job).runner, Some(runner[0]));
    world.until("machine and runner are gone, and others are there", |world| {
        let (machines, runners) = (world.monitor.directories(), world.gitlab.runners());
        !machines.contains(&machine) && !runners.contains(&runner[0]) && !machines.is_empty()
    });
    assert_ne!(world.monitor.idle("micro"), machine);
    let gitlab = world.gitlab.clone();
    world.leaves_nothing();
    assert_eq!(gitlab.runners(), []);
}

impl World {
    /// What `monitor gitlab-runner-config` prints.
    fn export(&self) -> String {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_monitor"))
            .args(["gitlab-runner-config", "gitlab", "--executor", "custom", "--config"])
            .arg(self.monitor.dir.path().join("monitor.toml"))
            .arg("--data")
            .arg(&self.monitor.data)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}
