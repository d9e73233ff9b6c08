//! `monitor serve` as a process, over nothing that works.

#![expect(dead_code, reason = "each test file uses a part of it")]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// Nothing in it works, and nothing in it downloads anything.
pub const CONFIG: &str = r#"
[http]
listen = "127.0.0.1:0"
[qemu]
binary = "/no/such/qemu"
accel = "tcg"
vcpus = 2
memory = "1GiB"
disk = "1GiB"
[[profile]]
name = "disk"
image = { kind = "disk", path = "/no/such/disk.qcow2", sha256 = "SHA" }
memory = "256MiB"
"#;

pub struct Process {
    pub child: Child,
    pub url: String,
    log: mpsc::Receiver<String>,
    heard: String,
}

/// Not started yet.
pub fn serve(dir: &Path, args: &[&str]) -> Command {
    let file = dir.join("monitor.toml");
    if !file.exists() {
        fs::write(&file, CONFIG.replace("SHA", &"0".repeat(64))).unwrap();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_monitor"));
    command
        .arg("serve")
        .arg("--config")
        .arg(file)
        .arg("--data")
        .arg(dir.join("data"))
        .args(args)
        .env_remove("MONITOR_API_TOKEN")
        .stderr(Stdio::piped());
    command
}

impl Process {
    /// Starts it; it is answered when this returns.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let err = BufReader::new(child.stderr.take().unwrap());
        let (send, log) = mpsc::channel();
        std::thread::spawn(move || {
            for line in err.lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        let mut process = Self { child, url: String::new(), log, heard: String::new() };
        let line = process.hear("listening on http://");
        let at = line.find("http://").unwrap();
        process.url = line[at..].trim_end_matches(['"', '}']).to_owned();
        if let Some(end) = process.url.find('"') {
            process.url.truncate(end);
        }
        process
    }

    pub fn hear(&mut self, what: &str) -> String {
        loop {
            let line = self.log.recv_timeout(Duration::from_secs(60));
            let line = line.unwrap_or_else(|_| panic!("never said {what:?}:\n{}", self.heard));
            self.heard.push_str(&line);
            self.heard.push('\n');
            if line.contains(what) {
                return line;
            }
        }
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// Its exit code and everything it said.
    pub fn end(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        while let Ok(line) = self.log.recv_timeout(Duration::from_secs(2)) {
            self.heard.push_str(&line);
            self.heard.push('\n');
        }
        (code, std::mem::take(&mut self.heard))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// It ends at once, with this code, saying all of this.
pub fn refused(mut command: Command, code: i32, says: &[&str]) -> Output {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    for part in says {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    output
}

pub fn dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// What is answered at a path.
pub fn get(url: &str, path: &str) -> serde_json::Value {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        monitor::http::tls::prepare();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = client.get(format!("{url}{path}")).send().await.unwrap();
        answer.json().await.unwrap()
    })
}

/// Asks again and again until there is an answer.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Why a test does nothing; fails where the missing part is required.
pub fn skip(part: &str) {
    let required = std::env::var("RUNNER_TEST_REQUIRE").unwrap_or_default();
    let mut required = required.split([',', ' ']);
    assert!(!required.any(|name| name == part), "{part} is required and missing");
    println!("skipped: {part} is missing");
}
