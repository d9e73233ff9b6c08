//! The fake guest: runs a small language that looks like shell, by the clock.
//!
//! `/bin/sh -c SCRIPT` or a script file, statements separated by `;` or lines: `echo WORDS [>&2]`,
//! `sleep SECONDS`, `exit CODE`, `cat PATH`, `pwd`, `true`, `false`, `trap TERM`, after which no SIGTERM is
//! heeded; `"$NAME"` alone after `echo` is that variable. `exec` before a statement changes nothing. Any
//! other program ends with 127, as one that does not exist.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use super::{Call, FakeWorld, Machine, World, after, session::FakeSession};
use crate::{
    error::{Error, Result},
    guest::{Command, Cursor, ExitStatus, Guest, Progress, Shown, Signal, TerminalSize},
    hypervisor::InstanceState,
    name::{ProcessId, WorkerName},
};

pub(super) struct FakeGuest {
    pub world: FakeWorld,
    pub name: WorkerName,
}

/// A process whose whole future was worked out when it was spawned.
pub(super) struct FakeProcess {
    pub stdout: Vec<(Timestamp, Vec<u8>)>,
    stderr: Vec<(Timestamp, Vec<u8>)>,
    pub ends_at: Timestamp,
    pub exit: ExitStatus,
    heeds_term: bool,
}

impl FakeProcess {
    /// One that does nothing yet.
    pub fn new(start: Timestamp) -> Self {
        Self {
            stdout: Vec::new(),
            stderr: Vec::new(),
            ends_at: start,
            exit: ExitStatus::Code(0),
            heeds_term: true,
        }
    }

    pub fn runs(&self, now: Timestamp) -> bool {
        now < self.ends_at
    }

    fn progress(&self, from: Cursor, now: Timestamp) -> Progress {
        Progress {
            stdout: written(&self.stdout, from.stdout, now),
            stderr: written(&self.stderr, from.stderr, now),
            exit: (!self.runs(now)).then_some(self.exit),
        }
    }

    /// When the next thing happens after `now`.
    fn next(&self, now: Timestamp) -> Option<Timestamp> {
        let writes = self.stdout.iter().chain(&self.stderr).map(|(at, _)| *at);
        writes.chain([self.ends_at]).filter(|at| *at > now).min()
    }

    fn kill(&mut self, signal: u8, now: Timestamp) {
        if self.runs(now) && (self.heeds_term || signal == 9) {
            self.stdout.retain(|(at, _)| *at <= now);
            self.stderr.retain(|(at, _)| *at <= now);
            self.ends_at = now;
            self.exit = ExitStatus::Signal(signal);
        }
    }
}

pub(super) fn written(writes: &[(Timestamp, Vec<u8>)], from: u64, now: Timestamp) -> Bytes {
    let mut all = Vec::new();
    for (_, text) in writes.iter().filter(|(at, _)| *at <= now) {
        all.extend_from_slice(text);
    }
    Bytes::from(all).slice((from as usize).min(all_len(writes, now))..)
}

fn all_len(writes: &[(Timestamp, Vec<u8>)], now: Timestamp) -> usize {
    writes.iter().filter(|(at, _)| *at <= now).map(|(_, text)| text.len()).sum()
}

#[async_trait]
impl Guest for FakeGuest {
    async fn ready(&self) -> Result<()> {
        loop {
            let boots_at = self.machine(|machine, _| Ok(machine.boots_at)).await?;
            let left = boots_at.duration_since(self.world.0.clock.now());
            match Duration::try_from(left) {
                Ok(left) if !left.is_zero() => {
                    // Notices a machine that dies while it boots.
                    tokio::time::sleep(left.min(Duration::from_millis(500))).await;
                }
                _ => return Ok(()),
            }
        }
    }

    async fn spawn(&self, id: &ProcessId, command: &Command) -> Result<()> {
        command.check()?;
        let spawn = |world: &mut World, now| {
            let machine = running(world, &self.name)?;
            if !machine.processes.contains_key(id) {
                let process = foretell(machine, command, now);
                machine.processes.insert(id.clone(), process);
                world.spawned.push((self.name.clone(), id.clone()));
            }
            Ok(())
        };
        self.world.quiet_call(Call::Guest(self.name.clone()), spawn).await
    }

    async fn follow(&self, id: &ProcessId, from: Cursor, wait: Duration) -> Result<Progress> {
        let deadline = after(self.world.0.clock.now(), wait);
        loop {
            let (progress, next) = self
                .machine(|machine, now| {
                    let process = machine
                        .processes
                        .get(id)
                        .ok_or_else(|| Error::not_found(format!("process {id}")))?;
                    Ok((process.progress(from, now), process.next(now)))
                })
                .await?;
            let is_news = progress.exit.is_some()
                || !progress.stdout.is_empty()
                || !progress.stderr.is_empty();
            let now = self.world.0.clock.now();
            if is_news || now >= deadline {
                return Ok(progress);
            }
            let until = next.map_or(deadline, |next| next.min(deadline));
            let left = Duration::try_from(until.duration_since(now)).unwrap_or_default();
            // Notices a kill, or a machine that dies.
            tokio::time::sleep(left.min(Duration::from_millis(500))).await;
        }
    }

    async fn kill(&self, id: &ProcessId, signal: Signal) -> Result<()> {
        self.machine(|machine, now| {
            let number = if signal == Signal::Kill { 9 } else { 15 };
            if let Some(session) = machine.sessions.get_mut(id) {
                session.kill(number, now);
                return Ok(());
            }
            let process = machine.processes.get_mut(id);
            let process = process.ok_or_else(|| Error::not_found(format!("process {id}")))?;
            process.kill(number, now);
            Ok(())
        })
        .await
    }

    async fn running(&self) -> Result<Vec<ProcessId>> {
        self.machine(|machine, now| {
            let processes = machine.processes.iter().filter(|(_, process)| process.runs(now));
            let sessions = machine.sessions.iter().filter(|(_, session)| session.runs(now));
            let ids = processes.map(|(id, _)| id).chain(sessions.map(|(id, _)| id));
            Ok(ids.cloned().collect())
        })
        .await
    }

    async fn write_file(&self, path: &str, content: &[u8], _mode: u32) -> Result<()> {
        check_path(path)?;
        self.machine(|machine, _| {
            machine.files.insert(path.to_owned(), content.to_owned());
            Ok(())
        })
        .await
    }

    async fn read_file(&self, path: &str, offset: u64, max_bytes: usize) -> Result<Bytes> {
        check_path(path)?;
        self.machine(|machine, _| {
            let file = machine.files.get(path);
            let file = file.ok_or_else(|| Error::not_found(format!("file {path}")))?;
            let start = file.len().min(offset as usize);
            let end = file.len().min(start.saturating_add(max_bytes));
            Ok(Bytes::copy_from_slice(&file[start..end]))
        })
        .await
    }

    async fn open_session(
        &self,
        id: &ProcessId,
        command: &Command,
        terminal: Option<TerminalSize>,
    ) -> Result<()> {
        command.check()?;
        self.machine(|machine, now| {
            if !machine.sessions.contains_key(id) {
                let session = FakeSession::new(command, terminal, &machine.files, now);
                machine.sessions.insert(id.clone(), session);
            }
            Ok(())
        })
        .await
    }

    async fn write_session(&self, id: &ProcessId, input: &[u8]) -> Result<()> {
        self.session(id, |session, files, now| session.write(input, files, now)).await
    }

    async fn end_session_input(&self, id: &ProcessId) -> Result<()> {
        self.session(id, |session, files, now| session.end_input(files, now)).await
    }

    async fn resize_session(&self, id: &ProcessId, size: TerminalSize) -> Result<()> {
        self.session(id, |session, _, _| session.resize(size)).await
    }

    async fn read_session(&self, id: &ProcessId, from: u64, wait: Duration) -> Result<Shown> {
        let deadline = after(self.world.0.clock.now(), wait);
        loop {
            let shown = self.session(id, |session, _, now| session.shown(from, now)).await?;
            let now = self.world.0.clock.now();
            if shown.exit.is_some() || !shown.output.is_empty() || now >= deadline {
                return Ok(shown);
            }
            let left = Duration::try_from(deadline.duration_since(now)).unwrap_or_default();
            // Whoever types does not tell.
            tokio::time::sleep(left.min(Duration::from_millis(50))).await;
        }
    }
}

impl FakeGuest {
    async fn session<T>(
        &self,
        id: &ProcessId,
        work: impl FnOnce(&mut FakeSession, &BTreeMap<String, Vec<u8>>, Timestamp) -> T,
    ) -> Result<T> {
        self.machine(|machine, now| match machine.sessions.get_mut(id) {
            Some(session) => Ok(work(session, &machine.files, now)),
            None => Err(Error::not_found(format!("session {id}"))),
        })
        .await
    }

    async fn machine<T>(
        &self,
        work: impl FnOnce(&mut Machine, Timestamp) -> Result<T>,
    ) -> Result<T> {
        let work = |world: &mut World, now| work(running(world, &self.name)?, now);
        // A guest changes no list, so whoever listens for changes is left alone.
        self.world.quiet_call(Call::Guest(self.name.clone()), work).await
    }
}

fn running<'a>(world: &'a mut World, name: &WorkerName) -> Result<&'a mut Machine> {
    match world.machines.get_mut(name) {
        Some(machine) if machine.instance.state == InstanceState::Running => Ok(machine),
        _ => Err(Error::not_found(format!("instance {name}"))),
    }
}

fn check_path(path: &str) -> Result<()> {
    if path.starts_with('/') {
        return Ok(());
    }
    Err(Error::invalid(format!("path {path:?}"), "use an absolute path"))
}

/// Works out what a command will write, and when and how it will end.
fn foretell(machine: &mut Machine, command: &Command, start: Timestamp) -> FakeProcess {
    let mut process = FakeProcess::new(start);
    let argv: Vec<&str> = command.argv.iter().map(String::as_str).collect();
    let script = match argv.as_slice() {
        ["/bin/sh" | "sh", "-c", script, ..] => Some((*script).to_owned()),
        ["/bin/sh" | "sh", path] | [path] if machine.files.contains_key(*path) => {
            Some(String::from_utf8_lossy(&machine.files[*path]).into_owned())
        }
        ["echo", words @ ..] => {
            process.stdout.push((start, format!("{}\n", words.join(" ")).into_bytes()));
            return process;
        }
        _ => None,
    };
    let Some(script) = script else {
        process.exit = ExitStatus::Code(127);
        return process;
    };
    let dir = command.working_dir.as_deref().unwrap_or("/");
    let statements = script.split(['\n', ';']).map(str::trim);
    for statement in statements.filter(|text| !text.is_empty() && !text.starts_with('#')) {
        let ended =
            process.step(statement, &machine.files, &command.env, dir, command.merge_stderr);
        if ended {
            break;
        }
    }
    process
}

impl FakeProcess {
    /// Takes one statement; true if it ends the script.
    pub fn step(
        &mut self,
        statement: &str,
        files: &BTreeMap<String, Vec<u8>>,
        env: &BTreeMap<String, String>,
        dir: &str,
        merge: bool,
    ) -> bool {
        let (statement, to_stderr) = match statement.strip_suffix(">&2") {
            Some(rest) => (rest.trim(), true),
            None => (statement, false),
        };
        let statement = statement.strip_prefix("exec ").unwrap_or(statement);
        let (word, rest) = statement.split_once(' ').unwrap_or((statement, ""));
        self.exit = ExitStatus::Code(0);
        let text = match word {
            "echo" => match rest.strip_prefix("\"$").and_then(|name| name.strip_suffix('"')) {
                Some(name) => format!("{}\n", env.get(name).map_or("", String::as_str)),
                None => format!("{rest}\n"),
            }
            .into_bytes(),
            "pwd" => format!("{dir}\n").into_bytes(),
            "cat" => match files.get(rest).or_else(|| files.get(&format!("{dir}/{rest}"))) {
                Some(content) => content.clone(),
                None => {
                    self.exit = ExitStatus::Code(1);
                    Vec::new()
                }
            },
            "sleep" => {
                let seconds: f64 = rest.parse().unwrap_or(0.0);
                let time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
                self.ends_at = after(self.ends_at, time);
                Vec::new()
            }
            "true" => Vec::new(),
            "trap" => {
                self.heeds_term = false;
                Vec::new()
            }
            "exit" | "false" => {
                self.exit = ExitStatus::Code(rest.parse().unwrap_or(u8::from(word == "false")));
                return word == "exit";
            }
            _ => {
                self.exit = ExitStatus::Code(127);
                Vec::new()
            }
        };
        if !text.is_empty() {
            let stream = if to_stderr && !merge { &mut self.stderr } else { &mut self.stdout };
            stream.push((self.ends_at, text));
        }
        false
    }
}
