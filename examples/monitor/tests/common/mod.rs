//! A service on a real socket, over machines that are directories.

#![expect(dead_code, reason = "each test file uses a part of it")]

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use monitor::{
    compose::{self, Backends},
    config::Config,
    data_dir::DataDir,
    serve::{Base, Service},
    token::Token,
    tokens::Tokens,
};
use reqwest::{Method, StatusCode, header::HeaderMap};
use serde_json::Value;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub mod shell_host;

use shell_host::ShellHost;

/// The token of every service here.
pub const TOKEN: &str = "planted-token-91c3";

const CONFIG: &str = r#"
[http]
listen = "127.0.0.1:0"
body_limit = "1MiB"
[local]
input_limit = "256KiB"
kill_grace = "300ms"
[pace]
look_every = "200ms"
retry_first = "50ms"
[[profile]]
name = "micro"
labels = ["linux"]
image = { kind = "micro" }
memory = "256MiB"
min_idle = 1
max = 3
"#;

/// A service that can be killed and started again, as a process can.
pub struct Server {
    pub host: ShellHost,
    pub address: SocketAddr,
    config: String,
    data: TempDir,
    process: Option<(Runtime, Service)>,
    client: Runtime,
}

/// What was answered.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Server {
    pub fn start() -> Self {
        Self::configured("", "")
    }

    /// With these lines in `[http]`, and these tables beside the others.
    pub fn configured(http: &str, tables: &str) -> Self {
        let mut server = Self {
            config: CONFIG.replace("[http]\n", &format!("[http]\n{http}\n")) + tables,
            host: ShellHost::default(),
            address: "127.0.0.1:0".parse().unwrap(),
            data: tempfile::tempdir().unwrap(),
            process: None,
            client: Runtime::new().unwrap(),
        };
        server.restart();
        server
    }

    /// Ends it as `kill -9` would.
    pub fn crash(&mut self) {
        if let Some((runtime, service)) = self.process.take() {
            {
                let _inside = runtime.enter();
                drop(service);
            }
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }

    /// Starts it where it was.
    pub fn restart(&mut self) {
        let config = Config::parse(Path::new("monitor.toml"), &self.config).unwrap();
        let runtime = Runtime::new().unwrap();
        let service = runtime.block_on(async {
            let data = patiently(|| DataDir::lock(self.data.path())).await;
            let address = self.address;
            let listener = patiently(|| std::net::TcpListener::bind(address)).await;
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let base = Base::open(data).await.unwrap();
            let backends = Backends {
                hypervisor: Arc::new(self.host.clone()),
                builder: Arc::new(self.host.clone()),
                forges: compose::forges(&config, self.data.path(), base.owner()).await.unwrap(),
            };
            let token = Token::new(TOKEN).unwrap();
            let tokens = Tokens::open(token, &config.tokens).unwrap();
            Service::start(&config, base, backends, tokens, listener).await.unwrap()
        });
        self.address = service.address();
        self.process = Some((runtime, service));
    }

    /// Stops it as a signal would.
    pub fn stop(&mut self) {
        let (runtime, service) = self.process.take().unwrap();
        runtime.block_on(service.stop());
        runtime.shutdown_timeout(Duration::from_secs(5));
    }

    pub fn drain(&mut self) {
        let (runtime, service) = self.process.as_ref().unwrap();
        runtime.block_on(service.drain()).unwrap();
    }

    /// Does something beside the service.
    pub fn inside<T>(&self, work: impl FnOnce(&Service) -> T) -> T {
        let (runtime, service) = self.process.as_ref().unwrap();
        let _inside = runtime.enter();
        work(service)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, |request| request)
    }

    /// With the token.
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, |request| request.bearer_auth(TOKEN).json(body))
    }

    pub fn send(
        &self,
        method: Method,
        path: &str,
        with: impl FnOnce(reqwest::RequestBuilder) -> reqwest::RequestBuilder,
    ) -> Answer {
        self.client.block_on(async {
            monitor::http::tls::prepare();
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            let request = client.request(method, format!("{}{path}", self.url()));
            let response = with(request).send().await.unwrap();
            Answer {
                status: response.status(),
                headers: response.headers().clone(),
                body: response.bytes().await.unwrap().to_vec(),
            }
        })
    }

    /// Queues a shell script and returns the job's id.
    pub fn submit(&self, script: &str) -> String {
        let job = serde_json::json!({ "profile": "micro", "script": script });
        let answer = self.post("/api/v2/jobs", &job);
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text());
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    /// Waits until the job is in this state.
    pub fn wait(&self, id: &str, state: &str) -> Value {
        eventually(|| {
            let job = self.get(&format!("/api/v2/jobs/{id}")).json();
            (job["state"] == state).then_some(job)
        })
    }

    /// `monitor` with these arguments, as a process of its own.
    pub fn monitor(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_monitor"));
        command.args(args).env("MONITOR_URL", self.url()).env("MONITOR_API_TOKEN", TOKEN);
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.crash();
    }
}

/// What a process said, for messages.
pub fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}{}", output.status, text(&output.stdout), text(&output.stderr))
}

/// Where `program` was put by `scripts/test-tools`; none, with a word about it, where it is missing. Fails
/// where `part` is required.
pub fn tool(part: &str, program: &str) -> Option<PathBuf> {
    let tools = std::env::var_os("RUNNER_TOOLS").map(PathBuf::from);
    let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cache/tools");
    let program = tools.unwrap_or_else(own).join(program);
    if program.exists() {
        return Some(program);
    }
    let required = std::env::var("RUNNER_TEST_REQUIRE").unwrap_or_default();
    let mut required = required.split([',', ' ']);
    assert!(!required.any(|name| name == part), "{part} is required and missing");
    println!("skipped: {part} is missing");
    None
}

/// Asks again and again until there is an answer.
pub fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "it did not come about in 60 s");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a predecessor holds is free a moment after its end.
async fn patiently<T, E: std::fmt::Debug>(mut take: impl FnMut() -> Result<T, E>) -> T {
    for _ in 0..200 {
        if let Ok(taken) = take() {
            return taken;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    take().unwrap()
}
