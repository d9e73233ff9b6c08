//! Fake sessions: `/bin/sh`, which takes the fake guest's language line by line, and `cat`.
//!
//! Beside that language a session knows `stty size`, and `sh -c 'SCRIPT'` as a whole line. A terminal shows what is typed, and Ctrl-C ends the line
//! that runs and forgets what was typed ahead.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::guest::{FakeProcess, written};
use crate::guest::{Command, ExitStatus, Shown, TerminalSize};

const INTERRUPT: u8 = 3;

pub(super) struct FakeSession {
    program: Program,
    terminal: Option<TerminalSize>,
    /// What is shown, and until when the lines so far keep it busy.
    process: FakeProcess,
    line: Vec<u8>,
    /// Whether it ends with the lines that it was started with.
    is_script: bool,
    exit: Option<(Timestamp, ExitStatus)>,
}

#[derive(PartialEq, Eq)]
enum Program {
    Shell { env: BTreeMap<String, String>, dir: String },
    Cat,
}

impl FakeSession {
    pub fn new(
        command: &Command,
        terminal: Option<TerminalSize>,
        files: &BTreeMap<String, Vec<u8>>,
        now: Timestamp,
    ) -> Self {
        let argv: Vec<&str> = command.argv.iter().map(String::as_str).collect();
        let dir = command.working_dir.clone().unwrap_or_else(|| "/".to_owned());
        let shell = Program::Shell { env: command.env.clone(), dir };
        let program = if argv == ["cat"] { Program::Cat } else { shell };
        let known = program == Program::Cat || matches!(argv[0], "/bin/sh" | "sh");
        let mut session = Self {
            program,
            terminal,
            process: FakeProcess::new(now),
            line: Vec::new(),
            is_script: false,
            exit: (!known).then_some((now, ExitStatus::Code(127))),
        };
        if let ["/bin/sh" | "sh", "-c", script, ..] = &*argv {
            session.is_script = true;
            session.take(script, files, now);
            session.end(session.process.exit);
        }
        session
    }

    pub fn runs(&self, now: Timestamp) -> bool {
        self.exit.is_none_or(|(at, _)| now < at)
    }

    pub fn shown(&self, from: u64, now: Timestamp) -> Shown {
        Shown {
            output: written(&self.process.stdout, from, now),
            exit: self.exit.filter(|(at, _)| *at <= now).map(|(_, exit)| exit),
        }
    }

    pub fn write(&mut self, input: &[u8], files: &BTreeMap<String, Vec<u8>>, now: Timestamp) {
        for byte in input {
            if !self.runs(now) {
                return;
            }
            match (*byte, self.terminal.is_some()) {
                (INTERRUPT, true) => self.interrupt(now),
                (b'\r' | b'\n', true) => {
                    self.show(now, b"\r\n");
                    self.take_line(files, now);
                }
                (byte, true) => {
                    self.show(now, &[byte]);
                    self.line.push(byte);
                }
                (byte, false) if self.program == Program::Cat => self.show(now, &[byte]),
                (b'\n', false) => self.take_line(files, now),
                (byte, false) => self.line.push(byte),
            }
        }
    }

    pub fn end_input(&mut self, files: &BTreeMap<String, Vec<u8>>, now: Timestamp) {
        self.take_line(files, now);
        self.end(self.process.exit);
    }

    pub fn resize(&mut self, size: TerminalSize) {
        if let Some(terminal) = &mut self.terminal {
            *terminal = size;
        }
    }

    pub fn kill(&mut self, signal: u8, now: Timestamp) {
        if self.runs(now) {
            self.process.stdout.retain(|(at, _)| *at <= now);
            self.exit = Some((now, ExitStatus::Signal(signal)));
        }
    }

    fn interrupt(&mut self, now: Timestamp) {
        self.process.stdout.retain(|(at, _)| *at <= now);
        self.process.ends_at = now;
        self.line.clear();
        self.exit = self.is_script.then_some((now, ExitStatus::Signal(2)));
        self.show(now, b"^C\r\n");
    }

    fn take_line(&mut self, files: &BTreeMap<String, Vec<u8>>, now: Timestamp) {
        let line = std::mem::take(&mut self.line);
        if self.program == Program::Cat {
            self.show(now, &line);
            self.show(now, if line.is_empty() { b"" } else { b"\r\n" });
            return;
        }
        self.take(&String::from_utf8_lossy(&line), files, now);
    }

    fn take(&mut self, line: &str, files: &BTreeMap<String, Vec<u8>>, now: Timestamp) {
        let Program::Shell { env, dir } = &self.program else { return };
        self.process.ends_at = self.process.ends_at.max(now);
        let before = self.process.stdout.len();
        let mut ended = false;
        let nested = line.trim().strip_prefix("sh -c '").and_then(|line| line.strip_suffix('\''));
        for statement in
            nested.unwrap_or(line).split(['\n', ';']).map(str::trim).filter(|text| !text.is_empty())
        {
            if statement == "stty size" {
                let size = self.terminal.map(|size| format!("{} {}\n", size.rows, size.columns));
                let text = size.unwrap_or_else(|| "stty: not a tty\n".to_owned());
                self.process.stdout.push((self.process.ends_at, text.into_bytes()));
                continue;
            }
            ended = self.process.step(statement, files, env, dir, true);
            if ended {
                break;
            }
        }
        if self.terminal.is_some() {
            for (_, text) in &mut self.process.stdout[before..] {
                *text = String::from_utf8_lossy(text).replace('\n', "\r\n").into_bytes();
            }
        }
        if ended && nested.is_none() {
            self.end(self.process.exit);
        }
    }

    fn end(&mut self, exit: ExitStatus) {
        self.exit.get_or_insert((self.process.ends_at, exit));
    }

    fn show(&mut self, now: Timestamp, text: &[u8]) {
        // What comes later stays later: it is shown by time, and read by place.
        let at = self.process.stdout.iter().position(|(at, _)| *at > now);
        match at {
            Some(at) => self.process.stdout.insert(at, (now, text.to_owned())),
            None => match self.process.stdout.last_mut() {
                Some((last, shown)) if *last == now => shown.extend_from_slice(text),
                _ => self.process.stdout.push((now, text.to_owned())),
            },
        }
    }
}
