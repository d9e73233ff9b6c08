//! Sessions: processes that are written to, too, in a terminal of their own or with pipes.
//!
//! A session is a process as any other, whose program is ours: it keeps the command's terminal and passes
//! bytes between it and files. Those are the [process's](crate::process), and some that `guest/session.rs`
//! explains. The program is static and goes to the guest when its first session is opened.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use runner_core::{
    Error, ProcessId, Result,
    guest::{Command, Cursor, Shown, TerminalSize},
};
use tokio::{
    sync::{Mutex, Notify, OnceCell},
    time::sleep,
};

use crate::{
    error::{self, Complaint},
    follow::Manner,
    guest::AgentGuest,
    open_file::OpenFile,
    transport::{CallError, Transport},
};

/// The program that keeps a session. Empty where it could not be built.
const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/session"));
const CHECK: &str = include_str!("scripts/check.sh");

/// Where the program goes if nothing in the directory of processes may be executed. For root only, so that
/// nobody puts another in its place.
const OTHER_PLACES: [&str; 2] = ["/usr/local/lib/runner", "/root/.runner"];
/// The terminal that programs are told to have if the command does not say.
const TERM: &str = "xterm";
/// How often to look for news while nobody types.
const LAST_POLL: Duration = Duration::from_millis(100);
/// How much may be written before it is asked how much was read; and how much may wait to be read.
const UNCHECKED: u64 = 256 << 10;
const WAITING: u64 = 1 << 20;
const TAKEN_POLL: Duration = Duration::from_millis(50);
/// In what steps the session is told that its output was read, and how far behind that may be asked for. The
/// program keeps more.
const SEEN_STEP: u64 = 512 << 10;
const KEPT: u64 = 1 << 20;
/// The sessions whose files are kept open at once.
const MAX_OPEN: usize = 32;

/// What is known of sessions that are in use.
pub(crate) struct Sessions<T: Transport> {
    open: std::sync::Mutex<HashMap<ProcessId, Arc<Session<T>>>>,
    /// Where the program is in the guest.
    program: OnceCell<String>,
}

struct Session<T: Transport> {
    /// Writers take turns.
    input: Mutex<Input<T>>,
    typed: Notify,
    seen: Mutex<Option<u64>>,
}

struct Input<T: Transport> {
    file: Option<OpenFile<T>>,
    /// How much was written since it was asked how much was read.
    unchecked: u64,
}

impl<T: Transport> Default for Sessions<T> {
    fn default() -> Self {
        Self { open: Default::default(), program: OnceCell::new() }
    }
}

impl<T: Transport> Sessions<T> {
    fn of(&self, id: &ProcessId) -> Arc<Session<T>> {
        let mut all = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_OPEN && !all.contains_key(id) {
            all.retain(|_, session| Arc::strong_count(session) > 1);
        }
        let fresh = || {
            Arc::new(Session {
                input: Mutex::new(Input { file: None, unchecked: 0 }),
                typed: Notify::new(),
                seen: Mutex::new(None),
            })
        };
        all.entry(id.clone()).or_insert_with(fresh).clone()
    }

    fn forget(&self, id: &ProcessId) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

impl<T: Transport> AgentGuest<T> {
    pub(crate) async fn start_session(
        &self,
        id: &ProcessId,
        command: &Command,
        terminal: Option<TerminalSize>,
    ) -> Result<()> {
        command.check()?;
        let program = self.sessions.program.get_or_try_init(|| self.place_program()).await?;
        let directory = format!("{}/{id}", self.state);
        let (rows, columns) = match terminal {
            Some(size) => (size.rows.max(1).to_string(), size.columns.max(1).to_string()),
            None => ("0".to_owned(), "0".to_owned()),
        };
        let mut argv = vec![&**program, &directory, &rows, &columns];
        argv.extend(command.argv.iter().map(String::as_str));
        let mut command = command.clone();
        if terminal.is_some() {
            command.env.entry("TERM".to_owned()).or_insert_with(|| TERM.to_owned());
        }
        self.start_as(id, &command, "session", &argv).await
    }

    /// Brings the program to a place where it can be executed, and says where that is.
    async fn place_program(&self) -> Result<String> {
        let doing = || format!("bring the program that keeps sessions into {}", self.instance);
        if PROGRAM.is_empty() {
            return Err(Error::unsupported(
                "sessions, as this program was built without a static C library,",
            ));
        }
        let mut said = String::new();
        for place in [&*self.state].into_iter().chain(OTHER_PLACES) {
            // Hidden from whoever lists processes. One that is there already may be an older one.
            let path = format!("{place}/.session");
            self.write(&path, PROGRAM, 0o700).await?;
            let outcome = self.agent.script(CHECK, &[&path], &[]).await;
            let outcome = outcome.map_err(|error| error::call(&self.instance, doing(), error))?;
            if outcome.code == Some(0) {
                return Ok(path);
            }
            said = outcome.stderr;
        }
        Err(error::failed(doing(), said))
    }

    pub(crate) async fn feed_session(&self, id: &ProcessId, input: &[u8]) -> Result<()> {
        let session = self.sessions.of(id);
        let doing = || format!("write to session {id} in {}", self.instance);
        let mut state = session.input.lock().await;
        for piece in input.chunks(UNCHECKED as usize) {
            // Taken out until it is written, as nobody knows where a dropped writer has stopped.
            let file = state.file.take();
            let written = async {
                let mut file = match file {
                    Some(file) => file,
                    None => self.open_input(id).await?,
                };
                file.write(piece).await?;
                Ok(file)
            };
            let file = written.await.map_err(|error| self.session_error(id, doing(), error))?;
            state.file = Some(file);
            state.unchecked += piece.len() as u64;
            session.typed.notify_one();
            if state.unchecked >= UNCHECKED {
                let room = self.wait_for_room(id, &mut state).await;
                room.map_err(|error| self.session_error(id, doing(), error))?;
            }
        }
        Ok(())
    }

    async fn open_input(&self, id: &ProcessId) -> Result<OpenFile<T>, CallError> {
        let path = self.path(id, "input");
        // To open it in order to add would make it, and a process that is no session has none.
        drop(OpenFile::open(&self.agent, &path).await?);
        OpenFile::open_as(&self.agent, &path, "a").await
    }

    /// Until the session has read most of its input, or has ended.
    async fn wait_for_room(&self, id: &ProcessId, input: &mut Input<T>) -> Result<(), CallError> {
        let Some(file) = &mut input.file else { return Ok(()) };
        let written = file.len().await?;
        loop {
            let taken = self.number(id, "taken").await?;
            if written.saturating_sub(taken) <= WAITING || self.is_lost(id).await? {
                input.unchecked = 0;
                return Ok(());
            }
            sleep(TAKEN_POLL).await;
        }
    }

    pub(crate) async fn end_input(&self, id: &ProcessId) -> Result<()> {
        let doing = || format!("end the input of session {id} in {}", self.instance);
        let session = self.sessions.of(id);
        // After whatever is being written.
        let _turn = session.input.lock().await;
        let ended = self.note(id, "end", "end\n").await;
        session.typed.notify_one();
        ended.map_err(|error| self.session_error(id, doing(), error))
    }

    pub(crate) async fn resize(&self, id: &ProcessId, size: TerminalSize) -> Result<()> {
        let doing = || format!("resize session {id} in {}", self.instance);
        let text = format!("{:05} {:05}\n", size.rows.max(1), size.columns.max(1));
        let resized = self.note(id, "size", &text).await;
        self.sessions.of(id).typed.notify_one();
        resized.map_err(|error| self.session_error(id, doing(), error))
    }

    pub(crate) async fn session_news(
        &self,
        id: &ProcessId,
        from: u64,
        wait: Duration,
    ) -> Result<Shown> {
        let session = self.sessions.of(id);
        self.tell_seen(id, &session, from).await?;
        let manner = Manner { merged: true, last_poll: LAST_POLL, hint: Some(&session.typed) };
        let progress = self.news_in(id, Cursor { stdout: from, stderr: 0 }, wait, &manner).await?;
        if progress.exit.is_some() {
            self.sessions.forget(id);
        }
        Ok(Shown { output: progress.stdout, exit: progress.exit })
    }

    /// Tells the session how far its output was read, now and then: it waits for its readers.
    async fn tell_seen(&self, id: &ProcessId, session: &Session<T>, from: u64) -> Result<()> {
        let doing = || format!("read session {id} in {}", self.instance);
        let mut seen = session.seen.lock().await;
        let known = match *seen {
            Some(known) => known,
            None => {
                let known = self.number(id, "seen").await;
                known.map_err(|error| self.session_error(id, doing(), error))?
            }
        };
        let known = if from >= known.saturating_add(SEEN_STEP) {
            let told = self.note(id, "seen", &format!("{from:020}\n")).await;
            told.map_err(|error| self.session_error(id, doing(), error))?;
            from
        } else {
            known
        };
        *seen = Some(known);
        if from.saturating_add(KEPT) < known {
            return Err(Error::invalid(
                format!("offset {from} of session {id}"),
                format!("what was shown there is not kept any more; read from {known} on"),
            ));
        }
        Ok(())
    }

    /// Writes one of the session's small files, which always have the same length.
    async fn note(&self, id: &ProcessId, file: &str, text: &str) -> Result<(), CallError> {
        let path = self.path(id, file);
        let mut file = OpenFile::open_as(&self.agent, &path, "r+").await?;
        file.write_over(text.as_bytes()).await
    }

    async fn number(&self, id: &ProcessId, file: &str) -> Result<u64, CallError> {
        let text = self.read_small(&self.path(id, file)).await?;
        let text = text.ok_or_else(|| CallError::Refused("No such file or directory".into()))?;
        match text.split_once('\n') {
            None => Ok(0),
            Some((number, _)) => number.parse().map_err(CallError::failed),
        }
    }

    fn session_error(&self, id: &ProcessId, doing: String, error: CallError) -> Error {
        match &error {
            CallError::Refused(why) => match Complaint::of(why) {
                Complaint::Missing => Error::not_found(format!("session {id}")),
                Complaint::Full => error::full(&self.path(id, ""), WAITING as usize),
                _ => error::call(&self.instance, doing, error),
            },
            _ => error::call(&self.instance, doing, error),
        }
    }
}
