//! `monitor shell`: a machine to oneself, as if one sat at it.

use std::{convert::Infallible, future::pending, time::Duration};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use reqwest::StatusCode;
use runner_core::ProcessId;
use tokio::{
    io::{AsyncWriteExt, Stdout, stdout},
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{ClientArgs, WrongUse, tty};
use crate::{
    client::{Client, ClientError, Heard, Hearing, Reservation, Speaking},
    config::units::Period,
    http::shell::wire::{Ask, Tell},
};

pub const HELP: &str = "\
The machine is reserved for the shell, and destroyed when it ends: no job sees what was done in it.
One that is named with --worker is neither reserved nor destroyed.

Without a terminal, standard input and output are passed on as they are:
  tar c src | monitor shell micro -- tar x -C /work

A connection that is lost is made again, and the shell goes on; Ctrl-C gives it up meanwhile.
A shell in which nothing is typed or shown for long is closed; [shell] in the configuration says after how long.";

/// How long to try to come back to a shell whose connection is lost.
const COME_BACK: Duration = Duration::from_secs(90);

/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// How long to try to close what is left behind.
const LAST: Duration = Duration::from_secs(10);

/// What Ctrl-C is, typed at a raw terminal.
const INTERRUPT: u8 = 3;

#[derive(Args)]
pub struct ShellArgs {
    /// The kind of machine
    #[arg(required_unless_present = "worker", conflicts_with = "worker")]
    profile: Option<String>,
    /// A machine that is there already, by the name of its worker
    #[arg(long, value_name = "NAME")]
    worker: Option<String>,
    /// A shell that was left in that machine, by its name in the event log
    #[arg(long, value_name = "NAME", requires = "worker", conflicts_with = "command")]
    session: Option<ProcessId>,
    /// How long to reserve the machine
    #[arg(long = "for", value_name = "DURATION", default_value = "1h")]
    duration: String,
    /// How long to wait for an idle machine
    #[arg(long, value_name = "DURATION", default_value = "5m")]
    wait: Period,
    #[command(flatten)]
    client: ClientArgs,
    /// The command; without one, a login shell
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

pub async fn shell(args: Box<ShellArgs>) -> anyhow::Result<u8> {
    let for_how_long = args.duration.parse::<Period>();
    for_how_long.map_err(|error| WrongUse(format!("--for: {error}")))?;
    let client = args.client.client()?;
    let mut wishes = Wishes::new()?;
    let Some(profile) = &args.profile else {
        let worker = args.worker.as_deref().context("name a profile or a worker")?;
        let mut shell = Use::new(&client, worker, args.command);
        shell.session = args.session;
        return shell.run(&mut wishes).await;
    };
    let reserve = reserve(&client, profile, &args.duration, args.wait.0);
    let reservation = tokio::select! {
        biased;
        reservation = reserve => reservation?,
        code = wishes.next() => return Ok(code),
    };
    let used = match reservation.workers.first() {
        Some(worker) => Use::new(&client, worker, args.command).run(&mut wishes).await,
        None => Err(anyhow::anyhow!("reservation {} holds no machine", reservation.id)),
    };
    // First what keeps jobs away from it for good.
    for worker in &reservation.workers {
        let retired = patiently(|| client.retire(worker)).await;
        if let Err(error) = retired {
            eprintln!("monitor: worker {worker} could not be retired: {error}");
        }
    }
    if let Err(error) = patiently(|| client.release(&reservation.id)).await {
        eprintln!("monitor: reservation {} could not be released: {error}", reservation.id);
    }
    used
}

/// Reserves a machine, when there is one.
async fn reserve(
    client: &Client,
    profile: &str,
    duration: &str,
    wait: Duration,
) -> Result<Reservation, ClientError> {
    let start = Instant::now();
    let mut told = false;
    loop {
        match client.reserve(profile, "a shell", duration).await {
            Err(ClientError::Refused { status: StatusCode::SERVICE_UNAVAILABLE, detail })
                if start.elapsed() < wait =>
            {
                if !told {
                    eprintln!("monitor: {detail}; waiting for a machine");
                    told = true;
                }
                sleep(PAUSE).await;
            }
            other => return other,
        }
    }
}

/// Tries again for a while what may work when the service is back.
async fn patiently<F>(mut call: impl FnMut() -> F) -> Result<(), ClientError>
where
    F: Future<Output = Result<(), ClientError>>,
{
    let start = Instant::now();
    loop {
        match call().await {
            Err(error) if error.is_passing() && start.elapsed() < LAST => sleep(PAUSE).await,
            other => return other,
        }
    }
}

/// One use of one shell.
struct Use<'a> {
    client: &'a Client,
    worker: &'a str,
    command: Vec<String>,
    is_terminal: bool,
    session: Option<ProcessId>,
    /// How many bytes of what it showed were seen.
    seen: u64,
    ended: bool,
    out: Stdout,
}

/// What is typed here.
struct Typed {
    input: mpsc::Receiver<Bytes>,
    over: bool,
    /// Whether anything was sent that may have been lost with its connection.
    sent: bool,
    /// None where there is no terminal.
    resized: Option<Signal>,
}

/// Why one connection ended.
enum End {
    Exit(u8),
    Lost,
}

impl<'a> Use<'a> {
    fn new(client: &'a Client, worker: &'a str, command: Vec<String>) -> Self {
        Self {
            client,
            worker,
            command,
            is_terminal: tty::is_interactive(),
            session: None,
            seen: 0,
            ended: false,
            out: stdout(),
        }
    }

    /// Opens the shell and uses it to its end.
    async fn run(mut self, wishes: &mut Wishes) -> anyhow::Result<u8> {
        // Before the terminal is raw, as what is wrong with the machine is told in lines.
        let connection = self.client.terminal(self.worker).await?;
        let raw = if self.is_terminal { Some(tty::Raw::enter()?) } else { None };
        let resized = self.is_terminal.then(|| signal(SignalKind::window_change()));
        let mut typed =
            Typed { input: tty::input(), over: false, sent: false, resized: resized.transpose()? };
        let used = tokio::select! {
            used = self.attend(connection, &mut typed) => used,
            code = wishes.next() => Ok(code),
        };
        drop(raw);
        if !self.ended {
            self.close().await;
        }
        used
    }

    /// Uses the shell over as many connections as it takes.
    async fn attend(
        &mut self,
        mut connection: (Speaking, Hearing),
        typed: &mut Typed,
    ) -> anyhow::Result<u8> {
        loop {
            if let End::Exit(code) = self.converse(connection, typed).await? {
                self.ended = true;
                return Ok(code);
            }
            if self.session.is_none() {
                bail!("the connection was lost before the shell was open");
            }
            if !self.is_terminal && typed.sent {
                bail!("the connection was lost, and perhaps a part of the input with it");
            }
            self.say("the connection is lost; coming back to the shell, or Ctrl-C gives it up");
            connection = self.come_back(typed).await?;
            self.say("back in the shell");
        }
    }

    /// Uses one connection.
    async fn converse(
        &mut self,
        (mut speaking, mut hearing): (Speaking, Hearing),
        typed: &mut Typed,
    ) -> anyhow::Result<End> {
        let first = match &self.session {
            None => Ask::Open {
                command: self.command.clone(),
                terminal: self.is_terminal.then(tty::window),
                term: std::env::var("TERM").ok().filter(|_| self.is_terminal),
            },
            Some(session) => Ask::Attach { session: session.clone(), from: self.seen },
        };
        if !speaking.ask(&first).await {
            return Ok(End::Lost);
        }
        let again = self.session.is_some();
        tokio::select! {
            end = self.hear(&mut hearing) => end,
            never = typed.speak(&mut speaking, again) => match never {},
        }
    }

    async fn hear(&mut self, hearing: &mut Hearing) -> anyhow::Result<End> {
        loop {
            match hearing.next().await? {
                None => return Ok(End::Lost),
                Some(Heard::Shown(bytes)) => {
                    self.out.write_all(&bytes).await.context("could not write what it shows")?;
                    self.out.flush().await?;
                    self.seen += bytes.len() as u64;
                }
                Some(Heard::Told(Tell::Opened { session })) => self.session = Some(session),
                Some(Heard::Told(Tell::Exit(code))) => return Ok(End::Exit(code)),
                Some(Heard::Told(Tell::Closed { detail })) => self.say(&detail),
                // It may be well again in a moment.
                Some(Heard::Told(Tell::Problem { status: 500.., .. }))
                    if self.session.is_some() =>
                {
                    return Ok(End::Lost);
                }
                Some(Heard::Told(Tell::Problem { detail, .. })) => bail!(detail),
            }
        }
    }

    async fn come_back(&self, typed: &mut Typed) -> anyhow::Result<(Speaking, Hearing)> {
        let start = Instant::now();
        let connect = async {
            loop {
                sleep(PAUSE).await;
                match self.client.terminal(self.worker).await {
                    Err(error) if error.is_passing() && start.elapsed() < COME_BACK => {}
                    other => return other,
                }
            }
        };
        tokio::select! {
            connection = connect => Ok(connection?),
            () = typed.interrupt() => bail!("the shell is left"),
        }
    }

    /// Closes the shell that is left, as nobody comes back to it.
    async fn close(&self) {
        let Some(session) = self.session.clone() else { return };
        let close = async {
            let (mut speaking, mut hearing) = self.client.terminal(self.worker).await?;
            speaking.ask(&Ask::Attach { session, from: self.seen }).await;
            speaking.ask(&Ask::Close {}).await;
            while let Some(heard) = hearing.next().await? {
                if let Heard::Told(Tell::Exit(_) | Tell::Problem { .. }) = heard {
                    break;
                }
            }
            Ok::<_, ClientError>(())
        };
        if !matches!(timeout(LAST, close).await, Ok(Ok(()))) {
            self.say("the shell could not be closed; it will be when it was not used for long");
        }
    }

    fn say(&self, text: &str) {
        // A raw terminal does not go back to the start of the line by itself.
        let end = if self.is_terminal { "\r\n" } else { "\n" };
        eprint!("{end}monitor: {text}{end}");
    }
}

impl Typed {
    /// Passes on what is typed, until the connection is lost, which is noticed elsewhere.
    async fn speak(&mut self, speaking: &mut Speaking, again: bool) -> Infallible {
        if again {
            if self.resized.is_some() && !speaking.ask(&Ask::Resize(tty::window())).await {
                return pending().await;
            }
            if self.over && !speaking.ask(&Ask::EndInput {}).await {
                return pending().await;
            }
        }
        loop {
            let went = tokio::select! {
                () = resized(&mut self.resized) => speaking.ask(&Ask::Resize(tty::window())).await,
                part = self.input.recv(), if !self.over => match part {
                    Some(part) => {
                        self.sent = true;
                        speaking.write(part).await
                    }
                    None => {
                        self.over = true;
                        speaking.ask(&Ask::EndInput {}).await
                    }
                },
            };
            if !went {
                return pending().await;
            }
        }
    }

    /// Until Ctrl-C is typed. What else is typed meanwhile is for nobody.
    async fn interrupt(&mut self) {
        while let Some(part) = self.input.recv().await {
            if part.contains(&INTERRUPT) {
                return;
            }
        }
        pending().await
    }
}

async fn resized(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => pending().await,
    }
}

/// Wishes to end that do not come through a raw terminal.
struct Wishes([(u8, Signal); 4]);

impl Wishes {
    fn new() -> anyhow::Result<Self> {
        let listen = |number: u8| {
            let kind = SignalKind::from_raw(number.into());
            signal(kind).map(|signal| (number, signal)).context("could not listen for signals")
        };
        // Hangup, interrupt, quit and terminate, which have these numbers everywhere.
        Ok(Self([listen(1)?, listen(2)?, listen(3)?, listen(15)?]))
    }

    /// What a shell says of a process that this signal ended.
    async fn next(&mut self) -> u8 {
        let [hangup, interrupt, quit, terminate] = &mut self.0;
        let number = tokio::select! {
            _ = hangup.1.recv() => hangup.0,
            _ = interrupt.1.recv() => interrupt.0,
            _ = quit.1.recv() => quit.0,
            _ = terminate.1.recv() => terminate.0,
        };
        128 + number
    }
}
