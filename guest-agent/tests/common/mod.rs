//! An agent that runs on this host, without a guest: enough of the protocol to run the real scripts.

use std::{
    collections::HashMap,
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    process::{Child, Stdio},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use guest_agent::{AgentGuest, CallError, Transport};
use runner_core::WorkerName;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

/// What the agent knows; it can be forgotten, as when the agent is restarted.
#[derive(Default)]
pub struct State {
    children: HashMap<i64, (Child, bool)>,
    pub files: HashMap<i64, File>,
    next_handle: i64,
    /// Calls so far, by command.
    pub calls: HashMap<&'static str, usize>,
    /// What every call is answered, if not what it should be.
    pub lie: Option<Value>,
    pub gone: bool,
    /// The shell that runs the scripts.
    pub shell: Vec<String>,
}

#[derive(Clone, Default)]
pub struct FakeAgent(pub Arc<Mutex<State>>);

/// A guest whose processes live in a directory of this host.
pub struct Fixture {
    pub guest: Arc<AgentGuest<FakeAgent>>,
    pub agent: FakeAgent,
    pub directory: TempDir,
}

impl Fixture {
    pub fn new() -> Self {
        Self::with_shell(&["/bin/sh"])
    }

    /// A guest whose `/bin/sh` is this.
    pub fn with_shell(shell: &[&str]) -> Self {
        let directory = TempDir::new().unwrap();
        let agent = FakeAgent::default();
        agent.0.lock().unwrap().shell = shell.iter().map(|s| (*s).to_owned()).collect();
        let guest = guest(&agent, &directory);
        Self { guest, agent, directory }
    }

    /// What a successor of the caller has, after the caller was killed.
    pub fn successor(&self) -> Arc<AgentGuest<FakeAgent>> {
        guest(&self.agent, &self.directory)
    }

    pub fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }
}

fn guest(agent: &FakeAgent, directory: &TempDir) -> Arc<AgentGuest<FakeAgent>> {
    let state = directory.path().join("run/runner");
    let guest = AgentGuest::new(WorkerName::new("linux-1").unwrap(), agent.clone());
    Arc::new(guest.with_state(state.to_str().unwrap()))
}

#[async_trait]
impl Transport for FakeAgent {
    async fn ready(&self) -> Result<(), CallError> {
        Ok(())
    }

    async fn call(
        &self,
        command: &'static str,
        arguments: Value,
        _: Instant,
    ) -> Result<Value, CallError> {
        tokio::task::yield_now().await;
        let mut state = self.0.lock().unwrap();
        *state.calls.entry(command).or_default() += 1;
        if state.gone {
            return Err(CallError::Gone);
        }
        if let Some(lie) = &state.lie {
            return Ok(lie.clone());
        }
        let handle = arguments["handle"].as_i64().unwrap_or(-1);
        match command {
            "guest-exec" => state.exec(&arguments),
            "guest-exec-status" => state.exec_status(arguments["pid"].as_i64().unwrap()),
            "guest-file-open" => {
                let path = arguments["path"].as_str().unwrap();
                let mode = arguments["mode"].as_str().unwrap();
                let mut open = File::options();
                match mode {
                    "r" => open.read(true),
                    "r+" => open.read(true).write(true),
                    "a" => open.append(true).create(true),
                    other => panic!("mode {other}"),
                };
                let file = open.open(path).map_err(|error| {
                    refused(format!("failed to open file '{path}' (mode: '{mode}'): {error}"))
                })?;
                state.next_handle += 1;
                let handle = state.next_handle + 1000;
                state.files.insert(handle, file);
                Ok(json!(handle))
            }
            "guest-file-close" => {
                state.files.remove(&handle).ok_or_else(|| unknown(handle))?;
                Ok(json!({}))
            }
            "guest-file-seek" => {
                let file = state.files.get_mut(&handle).ok_or_else(|| unknown(handle))?;
                let offset = arguments["offset"].as_i64().unwrap();
                let to = match arguments["whence"].as_str().unwrap() {
                    "set" => SeekFrom::Start(offset.try_into().unwrap()),
                    "end" => SeekFrom::End(offset),
                    other => panic!("whence {other}"),
                };
                let position = file.seek(to).unwrap();
                Ok(json!({ "position": position, "eof": false }))
            }
            "guest-file-write" => {
                let file = state.files.get_mut(&handle).ok_or_else(|| unknown(handle))?;
                let content = BASE64.decode(arguments["buf-b64"].as_str().unwrap()).unwrap();
                file.write_all(&content)
                    .map_err(|error| refused(format!("failed to write to file: {error}")))?;
                Ok(json!({ "count": content.len(), "eof": false }))
            }
            "guest-file-flush" => {
                let file = state.files.get_mut(&handle).ok_or_else(|| unknown(handle))?;
                file.flush().unwrap();
                Ok(json!({}))
            }
            "guest-file-read" => {
                let file = state.files.get_mut(&handle).ok_or_else(|| unknown(handle))?;
                let count = arguments["count"].as_u64().unwrap();
                let mut buffer = Vec::new();
                file.take(count)
                    .read_to_end(&mut buffer)
                    .map_err(|error| refused(format!("failed to read file: {error}")))?;
                let eof = (buffer.len() as u64) < count;
                Ok(json!({ "count": buffer.len(), "buf-b64": BASE64.encode(buffer), "eof": eof }))
            }
            other => Err(refused(format!("The command {other} has not been found"))),
        }
    }
}

impl State {
    fn exec(&mut self, arguments: &Value) -> Result<Value, CallError> {
        let strings = |name: &str| -> Option<Vec<String>> {
            serde_json::from_value(arguments.get(name)?.clone()).ok()
        };
        assert_eq!(arguments["path"], "/bin/sh");
        let mut command = std::process::Command::new(&self.shell[0]);
        command.args(&self.shell[1..]).args(strings("arg").unwrap_or_default());
        if let Some(env) = strings("env") {
            command.env_clear();
            command.envs(env.iter().map(|entry| entry.split_once('=').unwrap()));
        }
        let capture = arguments["capture-output"] == true;
        let output = || {
            if capture { Stdio::piped() } else { Stdio::null() }
        };
        command.stdout(output()).stderr(output()).stdin(Stdio::null());
        let input = arguments["input-data"].as_str().map(|text| BASE64.decode(text).unwrap());
        if input.is_some() {
            command.stdin(Stdio::piped());
        }
        let mut child = command.spawn().map_err(|error| refused(error.to_string()))?;
        if let Some(input) = input {
            let mut stdin = child.stdin.take().unwrap();
            std::thread::spawn(move || stdin.write_all(&input));
        }
        let pid = i64::from(child.id());
        self.children.insert(pid, (child, capture));
        Ok(json!({ "pid": pid }))
    }

    fn exec_status(&mut self, pid: i64) -> Result<Value, CallError> {
        use std::os::unix::process::ExitStatusExt;

        let unknown = || refused(format!("PID {pid} does not exist"));
        let (child, capture) = self.children.get_mut(&pid).ok_or_else(unknown)?;
        let Some(status) = child.try_wait().unwrap() else {
            return Ok(json!({ "exited": false }));
        };
        let mut answer = json!({ "exited": true });
        if let Some(code) = status.code() {
            answer["exitcode"] = code.into();
        }
        if let Some(signal) = status.signal() {
            answer["signal"] = signal.into();
        }
        if *capture {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            child.stdout.take().unwrap().read_to_end(&mut out).unwrap();
            child.stderr.take().unwrap().read_to_end(&mut err).unwrap();
            answer["out-data"] = BASE64.encode(out).into();
            answer["err-data"] = BASE64.encode(err).into();
        }
        self.children.remove(&pid);
        Ok(answer)
    }
}

fn refused(why: impl Into<String>) -> CallError {
    CallError::Refused(why.into())
}

fn unknown(handle: i64) -> CallError {
    refused(format!("handle '{handle}' has not been found"))
}
