//! The real `monitor serve`, as a process that may be killed at any moment, over real QEMU.

#![expect(dead_code, reason = "each test file uses a part of it")]

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub mod gate;

/// The token of every service here.
pub const TOKEN: &str = "planted-token-5be0";

/// How long anything may take, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(90);

const CONFIG: &str = r#"
[http]
listen = "127.0.0.1:0"
[data]
cache = "CACHE"
[qemu]
binary = "QEMU"
accel = "tcg"
vcpus = 16
memory = "4GiB"
disk = "64GiB"
[local]
kill_grace = "500ms"
[pace]
look_every = "250ms"
look_limit = "10s"
retry_first = "100ms"
retry_most = "1s"
[[profile]]
name = "micro"
image = { kind = "micro" }
memory = "192MiB"
min_idle = 1
max = 2
"#;

/// A service's data directory, and the process that uses it now and then. What it started ends with this.
pub struct Monitor {
    /// What is beside the data directory is the test's own.
    pub dir: TempDir,
    pub data: PathBuf,
    pub config: String,
    /// What it logs, and how.
    pub logs: [String; 4],
    mounted: bool,
    child: Option<Child>,
    url: String,
    client: (Runtime, reqwest::Client),
}

/// Why a test does nothing; fails where the missing part is required.
pub fn skip(part: &str) {
    let required = std::env::var("RUNNER_TEST_REQUIRE").unwrap_or_default();
    let mut required = required.split([',', ' ']);
    assert!(!required.any(|name| name == part), "{part} is required and missing");
    println!("skipped: {part} is missing");
}

fn has(program: &str, args: &[&str]) -> bool {
    let output = Command::new(program).args(args).output();
    output.is_ok_and(|output| output.status.success() && !output.stdout.is_empty())
}

/// Where QEMU is, for programs that stand in for it.
pub fn qemu() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&path).map(|dir| dir.join("qemu-system-x86_64"));
    found.find(|path| path.exists()).unwrap()
}

impl Monitor {
    /// A service with nothing yet, not started; or nothing, with a word about it, where a part is missing.
    pub fn new() -> Option<Self> {
        if !has("qemu-system-x86_64", &["--version"]) {
            skip("qemu");
            return None;
        }
        if !has("apt-cache", &["show", "linux-image-cloud-amd64"]) {
            skip("apt");
            return None;
        }
        // Shared by all tests and all runs, so that packages are downloaded and unpacked once.
        let cache = std::env::var_os("RUNNER_CACHE")
            .map_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"), PathBuf::from);
        fs::create_dir_all(&cache).unwrap();
        let dir = tempfile::tempdir().unwrap();
        monitor::http::tls::prepare();
        // No connection is kept: its other end may have been killed.
        let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0);
        let client = client.timeout(Duration::from_secs(30));
        let runtime = Runtime::new().unwrap();
        Some(Self {
            data: dir.path().join("data"),
            config: CONFIG
                .replace("CACHE", cache.to_str().unwrap())
                .replace("QEMU", "qemu-system-x86_64"),
            logs: ["--log", "info,runner_core=debug,backend_qemu=debug", "--log-format", "human"]
                .map(str::to_owned),
            dir,
            mounted: false,
            child: None,
            url: String::new(),
            client: (runtime, client.build().unwrap()),
        })
    }

    /// Gives the data directory a small file system of its own, if that is allowed here.
    pub fn mount(&mut self, size: &str) -> bool {
        fs::create_dir(&self.data).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&self.data);
        self.mounted = mount.status().is_ok_and(|status| status.success());
        self.mounted
    }

    /// Starts the process; it is answered when this returns.
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    pub fn start_with(&mut self, args: &[&str]) {
        let from = self.log_size();
        self.child = Some(self.command(args).spawn().unwrap());
        self.url = eventually("it listens", || {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                panic!("it ended at its start: {status}");
            }
            let log = self.log_from(from);
            let line = log.lines().find(|line| line.contains("listening on http://"))?;
            let url = &line[line.find("http://")?..];
            Some(url.split(['"', ' ']).next()?.trim().to_owned())
        });
    }

    /// `monitor serve` on this data directory.
    pub fn command(&self, args: &[&str]) -> Command {
        let file = self.dir.path().join("monitor.toml");
        fs::write(&file, &self.config).unwrap();
        let log = File::options().create(true).append(true).open(self.log_file()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_monitor"));
        command
            .args(["serve", "--config", file.to_str().unwrap()])
            .args(["--data", self.data.to_str().unwrap()])
            .args(&self.logs)
            .args(args)
            .env("MONITOR_API_TOKEN", TOKEN)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        command
    }

    /// Ends the process as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Ends the process as an operator would.
    pub fn terminate(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        signal(child.id(), "TERM");
        eventually("it ends", || child.try_wait().unwrap())
    }

    /// Asks the process to end, and does not wait.
    pub fn ask_to_end(&self) {
        signal(self.child.as_ref().unwrap().id(), "TERM");
    }

    /// Where it listens, or did.
    pub fn port(&self) -> u16 {
        self.url.rsplit_once(':').unwrap().1.parse().unwrap()
    }

    /// Has the next start listen there.
    pub fn listen(&mut self, port: u16) {
        self.config = self.config.replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
    }

    pub fn is_up(&mut self) -> bool {
        let ended = self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_some());
        !ended && self.get("/healthz").is_some()
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn log_size(&self) -> u64 {
        fs::metadata(self.log_file()).map_or(0, |metadata| metadata.len())
    }

    /// Everything it said.
    pub fn said(&self) -> String {
        self.log_from(0)
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    fn log_from(&self, from: u64) -> String {
        let mut text = vec![0; (self.log_size() - from) as usize];
        let file = File::open(self.log_file());
        file.and_then(|file| file.read_exact_at(&mut text, from)).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// What was answered, if it was.
    pub fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Option<(u16, Vec<u8>)> {
        let (runtime, client) = &self.client;
        let mut request = client.request(method, format!("{}{path}", self.url)).bearer_auth(TOKEN);
        if let Some(body) = body {
            request = request.json(body);
        }
        runtime.block_on(async {
            let answer = request.send().await.ok()?;
            let status: StatusCode = answer.status();
            Some((status.as_u16(), answer.bytes().await.ok()?.to_vec()))
        })
    }

    /// The JSON at a path, if it is there.
    pub fn get(&self, path: &str) -> Option<Value> {
        let (status, body) = self.ask(Method::GET, path, None)?;
        (status == 200).then(|| serde_json::from_slice(&body).unwrap())
    }

    /// Sends a job off in the background; nobody waits for the answer.
    pub fn send_job(&self, job: &Value) {
        let (runtime, client) = &self.client;
        let url = format!("{}/api/v2/jobs", self.url);
        let request = client.post(url).bearer_auth(TOKEN).json(job);
        runtime.spawn(async move { request.send().await });
    }

    /// Queues a script of profile `micro`, under a title, and returns the job's id.
    pub fn submit(&self, title: &str, script: &str) -> String {
        self.submit_to("micro", title, script)
    }

    pub fn submit_to(&self, profile: &str, title: &str, script: &str) -> String {
        let job = json!({ "title": title, "profile": profile, "script": script });
        let (status, body) = self.ask(Method::POST, "/api/v2/jobs", Some(&job)).unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(status, 201, "{body}");
        body["id"].as_str().unwrap().to_owned()
    }

    pub fn job(&self, id: &str) -> Value {
        self.get(&format!("/api/v2/jobs/{id}")).expect("the job")
    }

    /// The job, once it is over.
    pub fn over(&self, id: &str) -> Value {
        self.eventually("the job is over", || {
            let job = self.get(&format!("/api/v2/jobs/{id}"))?;
            (job["ended_at"].is_string()).then_some(job)
        })
    }

    pub fn log(&self, id: &str) -> String {
        let (status, log) = self.ask(Method::GET, &format!("/api/v2/jobs/{id}/log"), None).unwrap();
        assert_eq!(status, 200);
        String::from_utf8(log).unwrap()
    }

    /// Waits until the job's log has this.
    pub fn hear(&self, id: &str, text: &str) {
        self.eventually(&format!("job {id} says {text:?}"), || {
            self.log(id).contains(text).then_some(())
        });
    }

    /// The texts of all events.
    pub fn events(&self) -> Vec<String> {
        let (mut all, mut after) = (Vec::new(), 0);
        while let Some(page) = self.get(&format!("/api/v2/events?after={after}&limit=1000")) {
            let events = page["events"].as_array().unwrap();
            if events.is_empty() {
                break;
            }
            all.extend(events.iter().map(|event| event["text"].as_str().unwrap().to_owned()));
            after = page["next"].as_u64().unwrap();
        }
        all
    }

    /// Waits for an event with all of these parts in its text.
    pub fn event(&self, parts: &[&str]) -> String {
        self.eventually(&format!("an event with {parts:?}"), || {
            let has_all = |text: &String| parts.iter().all(|part| text.contains(part));
            self.events().into_iter().find(has_all)
        })
    }

    /// The workers in this phase.
    pub fn workers(&self, phase: &str) -> Vec<String> {
        self.workers_that(|of| of == phase)
    }

    /// The workers in any other phase.
    pub fn workers_but(&self, phase: &str) -> Vec<String> {
        self.workers_that(|of| of != phase)
    }

    fn workers_that(&self, are: impl Fn(&str) -> bool) -> Vec<String> {
        let all = self.get("/api/v2/workers").unwrap_or_default();
        let all = all["workers"].as_array().into_iter().flatten();
        let such = all.filter(|worker| are(worker["phase"].as_str().unwrap()));
        such.map(|worker| worker["name"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits for an idle worker of `profile`.
    pub fn idle(&self, profile: &str) -> String {
        let prefix = format!("{profile}-");
        self.eventually(&format!("an idle worker of {profile}"), || {
            self.workers("idle").into_iter().find(|name| name.starts_with(&prefix))
        })
    }

    /// Waits until one worker is idle and nothing else is there or under way.
    pub fn settled(&self) {
        self.eventually("the pool is settled", || {
            let status = self.get("/api/v2/status")?;
            let counts = &status["profiles"]["micro"];
            let is = |phase: &str, count: u64| counts[phase] == count;
            let nothing = ["starting", "reserved", "busy", "unseen", "over"];
            let settled = is("idle", 1) && nothing.into_iter().all(|phase| is(phase, 0));
            (settled && status["in_flight"] == 0).then_some(())
        });
    }

    /// Where an instance lies.
    pub fn instance(&self, name: &str) -> PathBuf {
        self.data.join("instances/instances").join(name)
    }

    /// The names of all that lies where instances lie.
    pub fn directories(&self) -> Vec<String> {
        let entries = fs::read_dir(self.instance("")).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        sorted(names.collect())
    }

    /// The processes that run in or below the data directory: ids and directories.
    pub fn processes(&self) -> Vec<(u32, PathBuf)> {
        let Ok(data) = self.data.canonicalize() else {
            return Vec::new();
        };
        let mut all = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            // Without one: gone, or a zombie.
            let cwd = fs::read_link(entry.path().join("cwd")).ok();
            if let (Some(pid), Some(cwd)) = (pid, cwd)
                && cwd.starts_with(&data)
            {
                all.push((pid, cwd));
            }
        }
        all
    }

    /// The QEMU of an instance.
    pub fn pid(&self, name: &str) -> u32 {
        let text = fs::read_to_string(self.instance(name).join("pid")).unwrap();
        text.trim().parse().unwrap()
    }

    pub fn store(&self) -> PathBuf {
        self.data.join("store.sqlite")
    }

    /// The first column of what `sql` selects from the store.
    pub fn rows(&self, sql: &str) -> Vec<String> {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let store = rusqlite::Connection::open_with_flags(self.store(), flags).unwrap();
        store.busy_timeout(Duration::from_secs(10)).unwrap();
        let mut statement = store.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        sorted(rows.collect::<Result<_, _>>().unwrap())
    }

    pub fn records(&self) -> Vec<String> {
        self.rows("SELECT name FROM workers")
    }

    pub fn runners(&self) -> Vec<String> {
        self.rows("SELECT name FROM local_runners")
    }

    /// Asks again and again until there is an answer. What it knows is told if there is none.
    pub fn eventually<T>(&self, what: &str, ask: impl FnMut() -> Option<T>) -> T {
        ask_until(ask).unwrap_or_else(|| {
            let status = self.get("/api/v2/status").unwrap_or_default();
            let events = self.events();
            let last = &events[events.len().saturating_sub(40)..];
            panic!("in vain: {what}\n{status:#}\n{}", last.join("\n"))
        })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.kill();
        // What was being started a moment ago shows now.
        for _ in 0..3 {
            for (pid, _) in self.processes() {
                signal(pid, "KILL");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        if self.mounted {
            // Lazily: whoever had it open has just been ended.
            let _ = Command::new("umount").arg("-l").arg(&self.data).status();
        }
        if std::thread::panicking() {
            let log = self.log_from(0);
            let lines: Vec<&str> = log.lines().collect();
            println!("{}", lines[lines.len().saturating_sub(150)..].join("\n"));
        }
    }
}

pub fn signal(pid: u32, signal: &str) {
    let _ = Command::new("kill").args(["-s", signal, &pid.to_string()]).status();
}

pub fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

/// Asks again and again until there is an answer.
pub fn eventually<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    ask_until(ask).unwrap_or_else(|| panic!("in vain: {what}"))
}

fn ask_until<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() > until {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
