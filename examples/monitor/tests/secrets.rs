//! Secrets of every kind, planted in a whole run, are found nowhere but where they must be.

mod real;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use backend_qemu::{Accel, ImageConfig, ImageStore, QemuConfig, QemuHypervisor};
use monitor::logs::{self, LogFormat};
use real::{Monitor, TOKEN};
use reqwest::Method;
use runner_core::{
    Clock, EventLog, Forge, ForgeName, OwnerId, Pace, Pool, PoolParts, Profile, ProfileName,
    Resources, Result, RunnerId, Secret, Store,
    forge::{ForgeCapabilities, QueuedJob, Registration, Runner, RunnerSpec, RunnerStatus},
    image::{Recipe, RecipeKind, UserDataDelivery},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// In each secret that is planted.
const PLANTED: &str = "planted-";

/// Every file below `root`, with what is in it.
fn files(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let (mut all, mut left) = (Vec::new(), vec![root.to_owned()]);
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => left.push(entry.path()),
                // What is gone meanwhile is no leak.
                Ok(kind) if kind.is_file() => {
                    all.extend(fs::read(entry.path()).ok().map(|bytes| (entry.path(), bytes)));
                }
                _ => (),
            }
        }
    }
    all
}

fn contains(bytes: &[u8], what: &str) -> bool {
    bytes.windows(what.len()).any(|window| window == what.as_bytes())
}

/// What every process of this host shows of itself to everybody.
fn command_lines() -> Vec<(u32, Vec<u8>)> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pid = |entry: &fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    let line =
        |entry: fs::DirEntry| Some((pid(&entry)?, fs::read(entry.path().join("cmdline")).ok()?));
    entries.filter_map(line).collect()
}

fn cli(monitor: &Monitor, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_monitor"));
    command
        .args(args)
        .env("MONITOR_URL", monitor.url())
        .env("MONITOR_API_TOKEN", TOKEN)
        .env("DEPLOY_KEY", "planted-env-cli-77aa");
    command
}

fn hidden(what: &str, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let place = text.find(PLANTED).map(|at| text[at.saturating_sub(200)..].to_owned());
    if let Some(place) = place {
        panic!("{what} shows a secret: {}", place.chars().take(300).collect::<String>());
    }
}

/// Every line about a worker names it in a field, every line about a request has its id.
fn check_fields(log: &str) {
    let (mut workers, mut requests) = (BTreeSet::new(), 0);
    for line in log.lines() {
        let Ok(line) = serde_json::from_str::<Value>(line) else {
            panic!("not JSON: {line}");
        };
        let spans = line["spans"].as_array().cloned().unwrap_or_default();
        let field = |name: &str| {
            let own = line["fields"][name].as_str();
            own.or_else(|| spans.iter().rev().find_map(|span| span[name].as_str()))
        };
        let message = line["fields"]["message"].as_str().unwrap_or_default();
        let is_name = |word: &&str| {
            let serial = word.strip_prefix("micro-");
            serial.is_some_and(|serial| serial.parse::<u64>().is_ok())
        };
        let named = message.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').find(is_name);
        if let Some(named) = named {
            assert_eq!(field("worker"), Some(named), "{line}");
            workers.insert(named.to_owned());
        }
        if message.starts_with("job ") {
            assert!(field("job").is_some(), "{line}");
        }
        if message == "Answered." {
            assert!(field("id").is_some_and(|id| id.len() == 16), "{line}");
            requests += 1;
        }
    }
    assert!(workers.len() >= 2 && requests > 5, "{workers:?}, {requests} requests");
}

#[test]
fn a_whole_run_shows_no_secret() {
    let Some(mut monitor) = Monitor::new() else { return };
    monitor.logs = ["--log", "trace", "--log-format", "json"].map(str::to_owned);
    monitor.start();
    monitor.idle("micro");
    let mut outputs: Vec<(String, Output)> = Vec::new();
    let mut run = |what: &str, mut command: Command| {
        outputs.push((what.to_owned(), command.output().unwrap()));
    };

    // Through the command line: a variable by its name, and a file. The command uses both.
    let file = monitor.dir.path().join("key.pem");
    fs::write(&file, "planted-file-11bb").unwrap();
    let script = r#"test "$DEPLOY_KEY" = "plan""ted-env-cli-77aa" && grep -q file-11bb key.pem && echo used"#;
    let file = file.to_str().unwrap().to_owned();
    let args = ["run", "--env", "DEPLOY_KEY", "--file", &file, "--title", "one", "--", "sh", "-c"];
    let mut command = cli(&monitor, &args);
    command.arg(script);
    run("monitor run", command);

    // Through the API, while it runs.
    let job = json!({
        "profile": "micro",
        "script": "echo begun; sleep 5; test -n \"$KEY\"",
        "env": { "KEY": "planted-env-api-22cc" },
        "files": [{ "path": "f", "base64": "cGxhbnRlZC1maWxlLTMzZGQ=" }],
    });
    let (status, body) = monitor.ask(Method::POST, "/api/v2/jobs", Some(&job)).unwrap();
    assert_eq!(status, 201);
    hidden("the answer to a job", &body);
    let id = serde_json::from_slice::<Value>(&body).unwrap()["id"].as_str().unwrap().to_owned();
    monitor.hear(&id, "begun");

    // Its secrets are in the store, which nobody else may read, and nowhere else in the data directory.
    for (path, bytes) in files(&monitor.data) {
        let name = path.file_name().unwrap().to_str().unwrap();
        let mode = fs::metadata(&path).map_or(0o600, |meta| meta.permissions().mode() & 0o777);
        if contains(&bytes, PLANTED) {
            assert!(name.starts_with("store.sqlite"), "{} holds a secret", path.display());
        }
        if name.starts_with("store.sqlite") {
            assert_eq!(mode, 0o600, "{}", path.display());
        }
    }
    let machines: BTreeSet<u32> = monitor.processes().into_iter().map(|(pid, _)| pid).collect();
    let lines = command_lines();
    assert!(lines.iter().any(|(pid, _)| machines.contains(pid)), "a machine runs");
    for (pid, line) in lines {
        hidden(&format!("the command line of process {pid}"), &line);
    }
    for pid in machines {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        hidden("the environment of a machine", &environment);
    }

    // What is refused is refused without a word of what was in it.
    for (method, path, body) in [
        (Method::POST, "/api/v2/jobs", json!({ "script": 7, "env": { "K": "planted-x" } })),
        (Method::POST, "/api/v2/jobs", json!({ "script": "a", "env": { "a=b": "planted-x" } })),
        (
            Method::POST,
            "/api/v2/jobs",
            json!({ "script": "a", "files": [{ "path": "../x", "base64": "cGxhbnRlZC14" }] }),
        ),
    ] {
        let (status, answer) = monitor.ask(method, path, Some(&body)).unwrap();
        assert!((400..500).contains(&status), "{status}");
        hidden("a refusal", &answer);
    }
    for path in [
        "/",
        "/healthz",
        "/readyz",
        "/metrics",
        "/api/v2/openapi.json",
        "/api/v2/status",
        "/api/v2/workers",
        "/api/v2/profiles",
        "/api/v2/jobs",
        "/api/v2/events?after=0&limit=1000",
        &format!("/api/v2/jobs/{id}"),
        &format!("/api/v2/jobs/{id}/log"),
    ] {
        let (status, body) = monitor.ask(Method::GET, path, None).unwrap();
        assert_eq!(status, 200, "{path}");
        hidden(path, &body);
    }
    run("monitor jobs", cli(&monitor, &["jobs"]));
    run("monitor workers", cli(&monitor, &["workers"]));
    let mut wrong = cli(&monitor, &["jobs"]);
    wrong.env("MONITOR_API_TOKEN", "planted-wrong\ntoken");
    run("monitor jobs with a token that is none", wrong);
    let mut wrong = cli(&monitor, &["run", "--", "true"]);
    wrong.env("MONITOR_API_TOKEN", "planted-wrong-0000");
    run("monitor run with a wrong token", wrong);
    let mut wrong = cli(&monitor, &["jobs"]);
    wrong.env("MONITOR_URL", "http://user:planted-pw@127.0.0.1:1/");
    run("monitor jobs with an address that holds a password", wrong);
    monitor.over(&id);
    monitor.settled();
    monitor.terminate();
    let first = &outputs[0].1;
    assert!(first.status.success() && contains(&first.stdout, "used"), "{first:?}");
    for (what, output) in &outputs {
        hidden(what, &output.stdout);
        hidden(what, &output.stderr);
    }

    // Over, so forgotten: in the store too.
    for (path, bytes) in files(&monitor.data) {
        let secret = bytes.windows(PLANTED.len()).position(|part| part == PLANTED.as_bytes());
        assert!(secret.is_none(), "{} still holds a secret", path.display());
    }
    let log = monitor.said();
    hidden("the log", log.as_bytes());
    check_fields(&log);
}

/// A forge whose runners come when it is told so, and whose registrations are secret.
#[derive(Default)]
struct Planting {
    registered: Mutex<Option<RunnerSpec>>,
    idle: AtomicBool,
}

#[async_trait]
impl Forge for Planting {
    fn capabilities(&self) -> ForgeCapabilities {
        ForgeCapabilities { guest_pulls: true, ..ForgeCapabilities::default() }
    }

    async fn register(&self, spec: &RunnerSpec) -> Result<Registration> {
        *self.registered.lock().unwrap() = Some(spec.clone());
        let secret = Some(Secret::new("#cloud-config\n# planted-registration-55ee\n".to_owned()));
        Ok(Registration { id: RunnerId::new(spec.name.as_str())?, secret })
    }

    async fn deregister(&self, _: &RunnerId) -> Result<()> {
        *self.registered.lock().unwrap() = None;
        Ok(())
    }

    async fn runners(&self) -> Result<Vec<Runner>> {
        let spec = self.registered.lock().unwrap().clone();
        let idle = self.idle.load(Ordering::Relaxed);
        let status = if idle { RunnerStatus::Idle } else { RunnerStatus::Offline };
        let runner = |spec: RunnerSpec| Runner {
            id: RunnerId::new(spec.name.as_str()).unwrap(),
            name: spec.name,
            status: status.clone(),
            reserved_for: None,
        };
        Ok(spec.map(runner).into_iter().collect())
    }

    async fn queued_jobs(&self) -> Result<Vec<QueuedJob>> {
        Ok(Vec::new())
    }
}

#[test]
fn a_registrations_secret_is_on_its_machines_seed_and_nowhere_else() {
    if Monitor::new().is_some() {
        tokio::runtime::Runtime::new().unwrap().block_on(plant_a_registration());
    }
}

/// Machines below a directory, which end with this however the test does.
struct Machines(PathBuf);

impl Drop for Machines {
    fn drop(&mut self) {
        for (pid, _) in command_lines() {
            let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
            if cwd.starts_with(&self.0) {
                real::signal(pid, "KILL");
            }
        }
    }
}

async fn plant_a_registration() {
    let dir = tempfile::tempdir().unwrap();
    let _machines = Machines(dir.path().to_owned());
    let config = monitor::config::LogConfig {
        to: monitor::config::LogTo::File,
        file: Some(dir.path().join("trace.log")),
        max_size: 64 << 20,
        keep: 1,
    };
    logs::start(logs::filter("trace").unwrap(), LogFormat::Json, &config, dir.path()).unwrap();
    let (disk, content) = (dir.path().join("disk.raw"), vec![0; 1 << 20]);
    fs::write(&disk, &content).unwrap();
    let sha256 = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
    let (forge, name) = (ForgeName::new("planting").unwrap(), ProfileName::new("disk").unwrap());
    let kind = RecipeKind::Disk { path: disk, sha256, user_data: UserDataDelivery::NoCloud };
    let resources = Resources { vcpus: 1, memory_mib: 64, disk_mib: 16, ..Resources::default() };
    let profile = Profile::new(forge.clone(), Recipe { profile: name, kind }, resources);
    let owner = OwnerId::new("secrets").unwrap();
    let mut qemu = QemuConfig::new(dir.path().join("machines"), owner.clone());
    qemu.accel = Accel::Tcg;
    let images = ImageConfig::new(dir.path().join("images"), dir.path().join("cache"));
    let store = Store::open(dir.path().join("store.sqlite")).await.unwrap();
    let events = EventLog::open(store.clone()).await.unwrap();
    let planting = Arc::new(Planting::default());
    let pool = Pool::start(PoolParts {
        hypervisor: Arc::new(QemuHypervisor::open(qemu).await.unwrap()),
        forges: BTreeMap::from([(forge, planting.clone() as Arc<dyn Forge>)]),
        builder: Arc::new(ImageStore::open(images).await.unwrap()),
        store,
        events: events.clone(),
        owner,
        profiles: vec![profile],
        pace: Pace::default(),
        clock: Clock::system(),
    });
    let pool = pool.await.unwrap();
    let mut statuses = pool.statuses();
    let made = statuses.wait_for(|s| s.workers.iter().any(|worker| worker.instance.is_some()));
    tokio::time::timeout(Duration::from_secs(90), made).await.unwrap().unwrap();
    let seeds: Vec<_> =
        files(dir.path()).into_iter().filter(|(_, b)| contains(b, PLANTED)).collect();
    assert_eq!(seeds.len(), 1, "{:?}", seeds.iter().map(|(path, _)| path).collect::<Vec<_>>());
    let seed = &seeds[0].0;
    assert_eq!(fs::metadata(seed).unwrap().permissions().mode() & 0o777, 0o600);
    let lines = command_lines();
    let cwd = |pid: u32| fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
    let machine = |(pid, _): &&(u32, Vec<u8>)| cwd(*pid).starts_with(dir.path());
    assert!(lines.iter().any(|line| machine(&line)), "its machine runs");
    for (pid, line) in lines {
        hidden(&format!("the command line of process {pid}"), &line);
    }
    hidden("the status", &serde_json::to_vec(&*pool.status()).unwrap());
    let told = events.latest(1000).await.unwrap();
    hidden("the events", &serde_json::to_vec(&told).unwrap());
    // What starts is not retired, what is idle is.
    planting.idle.store(true, Ordering::Relaxed);
    tokio::time::timeout(Duration::from_secs(90), pool.drain()).await.unwrap().unwrap();
    assert!(!seed.exists());
    for (path, bytes) in files(dir.path()) {
        assert!(!contains(&bytes, PLANTED), "{} still holds the secret", path.display());
    }
    assert!(fs::metadata(dir.path().join("trace.log")).unwrap().len() > 1000);
}
