//! How a process lives in the guest: as a directory, `/run/runner/ID`, in which it says all there is to say.
//!
//! | file | holds |
//! |---|---|
//! | `status` | `started`, then on a second line, once it has ended, the exit status as a shell says it |
//! | `stdout`, `stderr` | what it wrote, ever growing |
//! | `keeper` | the shell that waits for it: its id and when it was born |
//! | `pid` | the process itself, which leads a process group: its id and when it was born |
//!
//! Making the directory is what starts a process once: `mkdir` succeeds for one caller only. Everything is
//! found again by name, so nothing depends on the caller's life, nor on the agent's.

use std::{collections::BTreeMap, time::Duration};

use runner_core::{
    Error, ProcessId, Result,
    guest::{Command, ExitStatus, Signal},
};
use tokio::time::{Instant, sleep};

use crate::{
    agent::Agent,
    environment,
    error::{self, Complaint},
    guest::AgentGuest,
    open_file::OpenFile,
    transport::{CallError, Transport},
};

const START: &str = include_str!("scripts/start.sh");
const PREPARE: &str = include_str!("scripts/prepare.sh");
const KILL: &str = include_str!("scripts/kill.sh");
const RUNNING: &str = include_str!("scripts/running.sh");

/// What the scripts exit with when there is no such process.
const NO_SUCH_PROCESS: i64 = 44;
/// A start is a `mkdir` and a few `fork`s.
const START_LIMIT: Duration = Duration::from_secs(60);
const FIRST_POLL: Duration = Duration::from_millis(8);
const LAST_POLL: Duration = Duration::from_millis(50);
/// Many times more than an environment can be.
const MAX_ENVIRONMENT: usize = 1024 * 1024;

impl<T: Transport> AgentGuest<T> {
    pub(crate) async fn start(&self, id: &ProcessId, command: &Command) -> Result<()> {
        command.check()?;
        let output = if command.merge_stderr { "merge" } else { "split" };
        let arguments: Vec<&str> = command.argv.iter().map(String::as_str).collect();
        self.start_as(id, command, output, &arguments).await
    }

    /// Runs `argv` in place of the command's own, with its output where `output` says.
    pub(crate) async fn start_as(
        &self,
        id: &ProcessId,
        command: &Command,
        output: &str,
        argv: &[&str],
    ) -> Result<()> {
        let doing = || format!("start process {id} in {}", self.instance);
        let fail = |error| error::call(&self.instance, doing(), error);

        let environment = self.agent_environment().await.map_err(fail)?;
        let environment = environment::merged(environment, command);
        let directory = command.working_dir.as_deref().unwrap_or("/");
        let mut arguments = vec![&*self.state, id.as_str(), output, directory];
        arguments.extend(argv);

        let pid = self.agent.launch(START, &arguments, &environment).await.map_err(fail)?;
        let deadline = Instant::now() + START_LIMIT;
        let mut pause = FIRST_POLL;
        loop {
            // Asking at once would take the processor from what is asked about.
            sleep(pause).await;
            pause = (pause * 3 / 2).min(LAST_POLL);
            // The script ends when the process does, so what tells of a start is the file that the process
            // writes first.
            match OpenFile::open(&self.agent, &self.path(id, "pid")).await {
                Ok(_) => return Ok(()),
                Err(CallError::Refused(_)) => {}
                Err(error) => return Err(fail(error)),
            }
            match self.agent.ended(pid).await.map_err(fail)? {
                Some(outcome) if outcome.code == Some(0) => return Ok(()),
                Some(outcome) => {
                    let code = outcome.code.unwrap_or(-1);
                    let why = format!("{} could not be prepared (code {code})", self.state);
                    return Err(error::failed(doing(), why));
                }
                None if Instant::now() > deadline => {
                    return Err(error::failed(doing(), "it takes too long"));
                }
                None => {}
            }
        }
    }

    /// Does what the first start would have to do, so that no job waits for it.
    ///
    /// # Errors
    /// `Gone` only: what else fails here is told by a start.
    pub(crate) async fn prepare(&self) -> Result<(), CallError> {
        if self.environment.initialized() {
            return Ok(());
        }
        let prepared = async {
            self.agent.script(PREPARE, &[&self.state], &[]).await?;
            self.agent_environment().await
        };
        match prepared.await {
            Err(CallError::Gone) => Err(CallError::Gone),
            _ => Ok(()),
        }
    }

    async fn agent_environment(&self) -> Result<&BTreeMap<String, String>, CallError> {
        let read = || agent_environment(&self.agent);
        self.environment.get_or_try_init(read).await
    }

    pub(crate) async fn signal(&self, id: &ProcessId, signal: Signal) -> Result<()> {
        let doing = || format!("signal process {id} in {}", self.instance);
        let name = match signal {
            Signal::Terminate => "TERM",
            Signal::Kill => "KILL",
        };
        let arguments = [&*self.state, id.as_str(), name];
        let outcome = self.agent.script(KILL, &arguments, &[]).await;
        let outcome = outcome.map_err(|error| error::call(&self.instance, doing(), error))?;
        match outcome.code {
            Some(0) => Ok(()),
            Some(NO_SUCH_PROCESS) => Err(not_found(id)),
            _ => Err(error::failed(doing(), outcome.stderr)),
        }
    }

    pub(crate) async fn not_ended(&self) -> Result<Vec<ProcessId>> {
        let doing = || format!("list the processes in {}", self.instance);
        let outcome = self.agent.script(RUNNING, &[&self.state], &[]).await;
        let outcome = outcome.map_err(|error| error::call(&self.instance, doing(), error))?;
        if outcome.code != Some(0) {
            return Err(error::failed(doing(), outcome.stderr));
        }
        let text = String::from_utf8_lossy(&outcome.stdout).into_owned();
        text.lines()
            .map(ProcessId::new)
            .collect::<Result<_>>()
            .map_err(|e| error::failed(doing(), e))
    }

    /// A file of process `id`.
    pub(crate) fn path(&self, id: &ProcessId, file: &str) -> String {
        format!("{}/{id}/{file}", self.state)
    }

    /// Whether nobody is left who could write the exit status of `id`: its keeper was killed, and it has
    /// ended or was never there.
    pub(crate) async fn is_lost(&self, id: &ProcessId) -> Result<bool, CallError> {
        Ok(!self.is_alive(id, "keeper").await? && !self.is_alive(id, "pid").await?)
    }

    async fn is_alive(&self, id: &ProcessId, file: &str) -> Result<bool, CallError> {
        let Some(text) = self.read_small(&self.path(id, file)).await? else {
            return Ok(false);
        };
        let Some((pid, birth)) = text.trim().split_once(' ') else {
            return Ok(false);
        };
        if !pid.bytes().all(|b| b.is_ascii_digit()) {
            return Err(CallError::failed(format!("{file} holds no process id")));
        }
        let stat = self.read_small(&format!("/proc/{pid}/stat")).await?;
        Ok(stat.is_some_and(|stat| is_process(&stat, birth)))
    }

    /// A file of a line or two, if there is one.
    pub(crate) async fn read_small(&self, path: &str) -> Result<Option<String>, CallError> {
        let mut file = match OpenFile::open(&self.agent, path).await {
            Ok(file) => file,
            Err(CallError::Refused(why)) if Complaint::of(&why) == Complaint::Missing => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        match file.read_at(0, 4096).await {
            Ok(piece) => Ok(Some(String::from_utf8_lossy(&piece.content).into_owned())),
            // A process that ends between the opening and the reading of its file.
            Err(CallError::Refused(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What the agent itself was started with, which is what its commands inherit.
async fn agent_environment<T: Transport>(
    agent: &Agent<T>,
) -> Result<BTreeMap<String, String>, CallError> {
    let read = async {
        let mut file = OpenFile::open(agent, "/proc/self/environ").await?;
        file.read_all(0, MAX_ENVIRONMENT).await
    };
    match read.await {
        Ok(piece) => Ok(environment::parse(&piece.content)),
        Err(CallError::Refused(_)) => Ok(Default::default()),
        Err(error) => Err(error),
    }
}

pub(crate) fn not_found(id: &ProcessId) -> Error {
    Error::not_found(format!("process {id}"))
}

/// How a process ended, from what its `status` holds: nothing yet, or an error if it holds what we never write.
pub(crate) fn parse_status(status: &[u8]) -> Result<Option<ExitStatus>, CallError> {
    let text = std::str::from_utf8(status).map_err(CallError::failed)?;
    // A last line without its end is not all there yet.
    let Some((whole, _)) = text.rsplit_once('\n') else {
        return Ok(None);
    };
    match whole.split_once('\n') {
        None if whole == "started" => Ok(None),
        Some(("started", code)) => {
            let code: u8 = code.parse().map_err(CallError::failed)?;
            Ok(Some(ExitStatus::from_shell(code)))
        }
        _ => Err(CallError::failed("the status of a process is malformed")),
    }
}

/// Whether `/proc/PID/stat` is of the process that was born then, and of no zombie.
fn is_process(stat: &str, birth: &str) -> bool {
    // The program's name, in parentheses, may hold anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    fields.first().is_some_and(|state| *state != "Z" && *state != "X")
        && fields.get(19).is_some_and(|start| *start == birth)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_only_when_it_is_whole() {
        let parse = |text: &str| parse_status(text.as_bytes());
        assert_eq!(parse("").unwrap(), None);
        assert_eq!(parse("start").unwrap(), None);
        assert_eq!(parse("started\n").unwrap(), None);
        assert_eq!(parse("started\n1").unwrap(), None);
        assert_eq!(parse("started\n13\n").unwrap(), Some(ExitStatus::Code(13)));
        assert_eq!(parse("started\n137\n").unwrap(), Some(ExitStatus::Signal(9)));
        assert!(parse("started\n999\n").is_err());
        assert!(parse("hello\n").is_err());
        assert!(parse_status(b"\xff\n").is_err());
    }

    #[test]
    fn a_process_is_known_by_its_birth() {
        let stat = "7 (odd) name) S 1 7 7 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 4711 1 1";
        assert!(is_process(stat, "4711"));
        assert!(!is_process(stat, "4712"));
        assert!(!is_process(&stat.replace(" S ", " Z "), "4711"));
        assert!(!is_process("", "4711"));
    }
}
