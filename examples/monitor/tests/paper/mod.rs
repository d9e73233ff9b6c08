//! The service as a process of its own that can be killed at any moment, with a GitHub over real HTTP, a store
//! on disk, and machines on paper: so there may be many of them.
//!
//! The process is this test's own program once more ([`service`]): whoever uses this has a test that calls it.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use fake_github::{Conclusion, FakeGitHub, JobRequest, RunnerView, Scope};
use monitor::{
    compose::{self, Backends},
    data_dir::DataDir,
    reload::{Reload, Source},
    serve::{Base, Service},
    token::Token,
    tokens::Tokens,
};
use reqwest::{Method, StatusCode, header::HeaderMap};
use runner_core::ProfileName;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub mod host;

use host::PaperHost;

/// The token of every service here.
pub const TOKEN: &str = "planted-token-2c90";

/// Where the service's process finds everything.
const DIR: &str = "MONITOR_PAPER_DIR";

/// How long anything may take, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(120);

/// The process of the service: does nothing unless it was started by [`World`].
pub fn service() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return };
    monitor::http::tls::prepare();
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false);
        log.with_max_level(tracing::Level::INFO).init();
        let source = Source { file: Some(dir.join("monitor.toml")), ..Source::default() };
        let (config, text) = source.read().unwrap();
        let data = patiently(|| DataDir::lock(&dir.join("data"))).await;
        let listener = patiently(|| TcpListener::bind(config.http.listen)).await;
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let base = Base::open(data).await.unwrap();
        let host = Arc::new(PaperHost::open(&dir));
        let backends = Backends {
            hypervisor: host.clone(),
            builder: host,
            forges: compose::forges(&config, &dir.join("data"), base.owner()).await.unwrap(),
        };
        let tokens = Tokens::open(Token::new(TOKEN).unwrap(), &config.tokens).unwrap();
        let service = Service::start(&config, base, backends, tokens, listener).await.unwrap();
        fs::write(dir.join("up"), service.address().to_string()).unwrap();
        let mut reload = Reload::new(source, config, text);
        loop {
            let edit = reload.changed().await;
            service.reload(&mut reload, edit).await;
        }
    });
}

/// A GitHub with the organisation `acme`, machines, and a service between them.
pub struct World {
    pub github: Arc<FakeGitHub>,
    pub scope: Scope,
    pub dir: TempDir,
    pub http: SocketAddr,
    pub guests: SocketAddr,
    config: String,
    process: Option<Child>,
    programs: Arc<Programs>,
    pub runtime: Runtime,
    client: reqwest::Client,
}

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    /// As `jq -e .` sees it: whether there is an answer that is neither `null` nor `false`.
    pub fn is_something(&self) -> bool {
        self.status.is_success() && !matches!(self.json(), Value::Null | Value::Bool(false))
    }
}

/// What the world begins with.
pub struct Setting {
    /// Lines of `[servo]`; no such section if none.
    pub servo: Option<String>,
    /// Lines of `[guests]`.
    pub guests: String,
    /// Lines of the profile `linux`.
    pub profile: String,
    /// Further sections.
    pub more: String,
    /// Whether machines do not become runners by themselves.
    pub asleep: bool,
    /// Whether images are built at once.
    pub built: bool,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            servo: Some(String::new()),
            guests: String::new(),
            profile: "min_idle = 2\nmax = 4".to_owned(),
            more: String::new(),
            asleep: false,
            built: true,
        }
    }
}

impl World {
    pub fn new(setting: &Setting) -> Self {
        let runtime = Runtime::new().unwrap();
        let github = runtime.block_on(FakeGitHub::builder().ghes().start()).unwrap();
        let scope = github.organisation("acme");
        github.repository("acme", "widgets");
        github.repository("acme", "gadgets");
        Self::at(runtime, Arc::new(github), scope, setting)
    }

    /// Another service with machines of its own at the same GitHub, which ends with the first.
    pub fn beside(&self, setting: &Setting) -> Self {
        Self::at(Runtime::new().unwrap(), self.github.clone(), self.scope.clone(), setting)
    }

    fn at(runtime: Runtime, github: Arc<FakeGitHub>, scope: Scope, setting: &Setting) -> Self {
        monitor::http::tls::prepare();
        let token = github.classic_token("mona", &["repo", "admin:org"]);
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("token"), &token).unwrap();
        if !setting.built {
            PaperHost::open(dir.path());
            host::hold_builds(dir.path(), &ProfileName::new("linux").unwrap(), true);
        }
        let [http, guests] = free_addresses();
        let url = github.web_url();
        let servo = setting.servo.as_ref().map(|lines| format!("[servo]\n{lines}\n"));
        let config = format!(
            "[http]\nlisten = \"{http}\"\nrate = \"off\"\nreads = \"open\"\n\
             [guests]\nlisten = \"{guests}\"\n{}\n{}\n\
             [pace]\nlook_every = \"200ms\"\nretry_first = \"50ms\"\nretry_most = \"1s\"\nmax_actions = 32\n\
             [[github]]\nname = \"github\"\nurl = \"{url}/acme\"\ntoken = {{ file = \"token\" }}\n\
             repositories = [\"acme/widgets\", \"acme/gadgets\"]\npoll_every = \"500ms\"\n\
             list_every = \"200ms\"\nlimits = \"none\"\nlist_quietly_every = \"500ms\"\n\
             [[profile]]\nname = \"linux\"\nforge = \"github\"\nlabels = [\"x64\"]\n\
             image = {{ kind = \"micro\" }}\nmemory = \"64MiB\"\n{}\n{}\n",
            setting.guests,
            servo.unwrap_or_default(),
            setting.profile,
            setting.more,
        );
        let programs = Arc::new(Programs::default());
        programs.held.store(setting.asleep, Ordering::Relaxed);
        runtime.spawn(programs.clone().run(github.clone(), dir.path().to_owned()));
        // No connection is kept: its other end may have been killed, or have slept for too long.
        let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0);
        let client = client.timeout(PATIENCE).build().unwrap();
        let mut world = Self {
            github,
            scope,
            dir,
            http,
            guests,
            config,
            process: None,
            programs,
            runtime,
            client,
        };
        world.start();
        world
    }

    /// Changes the configuration; the service must be started again.
    pub fn configure(&mut self, change: impl FnOnce(String) -> String) {
        self.config = change(std::mem::take(&mut self.config));
    }

    /// Edits the configuration's file while the service runs.
    pub fn edit(&mut self, change: impl FnOnce(String) -> String) {
        self.configure(change);
        fs::write(self.path().join("monitor.toml"), &self.config).unwrap();
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Starts the service; it is answered when this returns.
    pub fn start(&mut self) {
        fs::write(self.path().join("monitor.toml"), &self.config).unwrap();
        let up = self.path().join("up");
        let _ = fs::remove_file(&up);
        let log = fs::File::options().create(true).append(true).open(self.log_file()).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_service_itself", "--ignored", "--nocapture"])
            .env(DIR, self.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(child);
        eventually("the service is up", || {
            let ended = self.process.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "it ended at its start:\n{}", self.log());
            up.exists().then_some(())
        });
    }

    /// Sends the service a signal.
    pub fn signal(&self, signal: &str) {
        let pid = self.process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.process.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn log_file(&self) -> PathBuf {
        self.path().join("log")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.http)
    }

    pub fn guests_url(&self) -> String {
        format!("http://{}", self.guests)
    }

    pub fn send(
        &self,
        method: Method,
        url: &str,
        with: impl FnOnce(reqwest::RequestBuilder) -> reqwest::RequestBuilder,
    ) -> Answer {
        self.runtime.block_on(send(with(self.client.request(method, url)))).unwrap()
    }

    pub fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, &format!("{}{path}", self.url()), |request| request)
    }

    /// Without a token.
    pub fn post(&self, path: &str) -> Answer {
        self.send(Method::POST, &format!("{}{path}", self.url()), |request| request)
    }

    /// With the token.
    pub fn ask(&self, method: Method, path: &str) -> Answer {
        let url = format!("{}{path}", self.url());
        self.send(method, &url, |request| request.bearer_auth(TOKEN))
    }

    /// As a machine asks that has this secret.
    pub fn ask_as(&self, secret: &str, path: &str) -> Answer {
        let url = format!("{}{path}", self.guests_url());
        self.send(Method::GET, &url, |request| request.bearer_auth(secret))
    }

    pub fn client(&self) -> reqwest::Client {
        self.client.clone()
    }

    pub fn status(&self) -> Value {
        self.ask(Method::GET, "/api/v2/status").json()
    }

    /// Waits until so many workers are idle.
    pub fn idle(&self, count: u64) {
        self.until(&format!("{count} workers are idle"), |world| {
            world.status()["profiles"]["linux"]["idle"] == count
        });
    }

    pub fn until(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let began = Instant::now();
        while !is_so(self) {
            if began.elapsed() > PATIENCE {
                let status = self.status();
                panic!("in vain: {what}\n{status:#}\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(25));
        }
    }

    /// The names of the machines that exist.
    pub fn machines(&self) -> Vec<String> {
        host::machines(self.path())
    }

    fn machine_file(&self, machine: &str, kind: &str) -> PathBuf {
        self.path().join("machines").join(format!("{machine}.{kind}"))
    }

    /// What a machine was told at its start.
    pub fn told(&self, machine: &str) -> String {
        fs::read_to_string(self.machine_file(machine, host::TOLD)).unwrap_or_default()
    }

    /// A line of that.
    pub fn told_line(&self, machine: &str, name: &str) -> Option<String> {
        let told = self.told(machine);
        let line = told.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
        line.map(str::to_owned)
    }

    /// Keeps a machine from being destroyed, or not.
    pub fn jam(&self, machine: &str, jammed: bool) {
        let file = self.machine_file(machine, host::JAMMED);
        if jammed {
            fs::write(file, "").unwrap();
        } else {
            fs::remove_file(file).unwrap();
        }
    }

    /// What the network gave to a machine.
    pub fn give_address(&self, machine: &str, address: &str) {
        host::write(&self.machine_file(machine, host::ADDRESSES), address);
    }

    /// The runners that GitHub marked for a reservation.
    pub fn marked(&self, id: &str) -> Vec<RunnerView> {
        let label = format!("reserved-for:{id}");
        let runners = self.github.runners().into_iter();
        runners.filter(|runner| runner.labels.contains(&label)).collect()
    }

    /// The reservations that the service has on record, as the next process will find them.
    pub fn records(&self) -> Vec<String> {
        let store = self.path().join("data/store.sqlite");
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let Ok(store) = rusqlite::Connection::open_with_flags(store, flags) else {
            return Vec::new();
        };
        let Ok(mut all) = store.prepare("SELECT id FROM reservations") else { return Vec::new() };
        let Ok(ids) = all.query_map([], |row| row.get(0)) else { return Vec::new() };
        ids.filter_map(Result::ok).collect()
    }

    /// By reservation: the numbers of the workers whose runners GitHub marked for it.
    pub fn marks(&self) -> BTreeMap<String, Vec<u64>> {
        let mut marks: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for runner in self.github.runners() {
            let worker = runner.name.split('_').next().unwrap();
            // Others are called as they like.
            let Ok(number) = worker.rsplit('-').next().unwrap().parse() else { continue };
            for id in runner.labels.iter().filter_map(|label| label.strip_prefix("reserved-for:")) {
                marks.entry(id.to_owned()).or_default().push(number);
            }
        }
        marks
    }

    /// A run in progress of a repository: its first job is over, and its second waits for this label.
    pub fn run(&self, repository: &str, label: &str) -> i64 {
        let request = JobRequest::new(repository, ["nobody-has-this"]);
        let first = self.github.enqueue(request).unwrap();
        self.github.complete(first.id, Conclusion::Success).unwrap();
        let mut second = JobRequest::new(repository, [label]);
        second.run = Some(first.run);
        self.github.enqueue(second).unwrap();
        first.run
    }

    /// An artifact of a run, as a workflow's step uploads it.
    pub fn upload(&self, run: i64, id: &str, repository: &str, profile: &str, count: u32) {
        let text = format!(
            "unique_id={id}\nself_hosted_image_name={profile}\nself_hosted_runner_count={count}\n\
             qualified_repo={repository}\nrun_id={run}\n"
        );
        let files = [("tmp.XyZ", text.as_bytes())];
        self.github.artifact(run, &format!("servo-ci-runners_{id}"), &files).unwrap();
    }

    /// Takes a worker for a job.
    pub fn take(&self, id: &str) -> Answer {
        let query = job(id, "acme/widgets", 7);
        self.ask(Method::POST, &format!("/profile/linux/take?{query}"))
    }

    /// Lets machines become runners by themselves.
    pub fn wake(&self) {
        self.programs.held.store(false, Ordering::Relaxed);
    }

    /// Lets jobs end by themselves, or not.
    pub fn let_jobs_end(&self, end: bool) {
        self.programs.endless.store(!end, Ordering::Relaxed);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(20_000);
            eprintln!("the service said:\n{}", log.get(from..).unwrap_or(&log));
        }
    }
}

/// Sends a request, once.
pub async fn send(request: reqwest::RequestBuilder) -> reqwest::Result<Answer> {
    let response = request.send().await?;
    Ok(Answer {
        status: response.status(),
        headers: response.headers().clone(),
        body: response.bytes().await?.to_vec(),
    })
}

/// The parameters by which a job is told.
pub fn job(id: &str, repository: &str, run: i64) -> String {
    format!("unique_id={id}&qualified_repo={repository}&run_id={run}")
}

/// Whether a program is there; where it is missing, says so, and fails if it is required.
pub fn has(program: &str) -> bool {
    let output = Command::new(program).arg("--version").output();
    if output.is_ok_and(|output| output.status.success()) {
        return true;
    }
    let required = std::env::var("RUNNER_TEST_REQUIRE").unwrap_or_default();
    let mut required = required.split([',', ' ']);
    assert!(!required.any(|name| name == program), "{program} is required and missing");
    println!("skipped: {program} is missing");
    false
}

/// A random id such as workflows make.
pub fn uuid() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Two that nobody listens at, and at which the service can be started again.
fn free_addresses() -> [SocketAddr; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap())
}

/// The runner programs in the machines.
#[derive(Default)]
struct Programs {
    held: AtomicBool,
    endless: AtomicBool,
    running: Mutex<BTreeMap<String, tokio::task::AbortHandle>>,
}

impl Programs {
    /// Starts one in each machine that was told the secret of its runner, and ends it with the machine.
    async fn run(self: Arc<Self>, github: Arc<FakeGitHub>, dir: PathBuf) {
        loop {
            let machines = host::machines(&dir);
            {
                let mut running = self.running.lock().unwrap();
                running.retain(|machine, program| {
                    let stays = machines.contains(machine);
                    if !stays {
                        program.abort();
                    }
                    stays
                });
                let held = self.held.load(Ordering::Relaxed);
                for machine in &machines {
                    if held || running.contains_key(machine) {
                        continue;
                    }
                    let told = dir.join("machines").join(format!("{machine}.{}", host::TOLD));
                    let told = fs::read_to_string(told).unwrap_or_default();
                    let secret = told.lines().find_map(|line| line.strip_prefix("jit-config="));
                    let Some(secret) = secret.map(str::to_owned) else { continue };
                    let (programs, github) = (self.clone(), github.clone());
                    let (dir, name) = (dir.clone(), machine.clone());
                    let program = tokio::spawn(async move {
                        programs.program(&github, &secret).await;
                        let stopped = format!("{name}.{}", host::STOPPED);
                        host::write(&dir.join("machines").join(stopped), "");
                    });
                    running.insert(machine.clone(), program.abort_handle());
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The life of one: a job, and no other.
    async fn program(&self, github: &FakeGitHub, secret: &str) {
        let Ok(session) = github.connect(secret) else { return };
        loop {
            match github.next_job(&session, Duration::from_secs(20)).await {
                Ok(None) => (),
                Err(_) => return,
                Ok(Some(_)) => break,
            }
        }
        while self.endless.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let _ = github.finish(&session, Conclusion::Success);
    }
}

/// Every file below a directory.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            files.extend(self::files(&entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files
}

/// Whether a file has these words in it.
pub fn holds(file: &Path, words: &str) -> bool {
    let content = fs::read(file).unwrap_or_default();
    content.windows(words.len()).any(|part| part == words.as_bytes())
}

/// Asks again and again until there is an answer.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a predecessor holds is free a moment after its end.
async fn patiently<T, E: std::fmt::Debug>(mut take: impl FnMut() -> Result<T, E>) -> T {
    for _ in 0..400 {
        if let Ok(taken) = take() {
            return taken;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    take().unwrap()
}
