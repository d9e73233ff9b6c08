//! `monitor run`: a command in a fresh machine, as if it ran here.

use std::{convert::Infallible, path::PathBuf, time::Duration};

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    CANCELLED, ClientArgs, INTERRUPTED, WrongUse, follow::Follow, luggage, outputs,
    spinner::Spinner, timings, waiting,
};
use crate::{
    client::{Client, Job, NewJob, Profile},
    config::units::Period,
};

#[derive(Args)]
pub struct RunArgs {
    /// The kind of machine; without one and without labels, the first on offer
    #[arg(long)]
    profile: Option<String>,
    /// What the machine must offer
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<String>,
    /// A file to take along, under its own name or another
    #[arg(long = "file", value_name = "FILE[=PATH]")]
    files: Vec<String>,
    /// A variable for the command's environment; without a value, the one it has here
    #[arg(long = "env", value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// A file or directory to bring back, relative to the working directory
    #[arg(long = "output", value_name = "PATH")]
    outputs: Vec<String>,
    /// Where to put what is brought back
    #[arg(long, value_name = "DIR", default_value = ".")]
    output_dir: PathBuf,
    /// How long the command may run, such as 90s or 1h30m
    #[arg(long, value_name = "DURATION")]
    timeout: Option<String>,
    /// Where to run it in the machine
    #[arg(long, value_name = "DIR")]
    working_dir: Option<String>,
    /// Higher goes first
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    priority: i32,
    /// What to call it in lists
    #[arg(long, default_value = "")]
    title: String,
    /// Afterwards, print when everything happened, up to the machine that takes the job's place
    #[arg(long)]
    timings: bool,
    /// Say nothing but what the command says
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    client: ClientArgs,
    /// The command
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

pub async fn run(args: Box<RunArgs>) -> anyhow::Result<u8> {
    let files = luggage::attachments(&args.files)?;
    let env = luggage::environment(&args.env)?;
    if let Some(text) = &args.timeout {
        let period = text.parse::<Period>();
        period.map_err(|error| WrongUse(format!("--timeout: {error}")))?;
    }
    let client = args.client.client()?;
    let profile = match args.profile {
        None if args.labels.is_empty() => Some(first_profile(&client).await?),
        profile => profile,
    };
    let job = NewJob {
        title: args.title,
        profile,
        labels: args.labels,
        argv: args.command,
        env,
        working_dir: args.working_dir,
        outputs: args.outputs.clone(),
        timeout: args.timeout,
        priority: args.priority,
    };
    let size: u64 = files.iter().map(|file| file.content.len() as u64).sum();
    let sending = if args.quiet { Spinner::none() } else { Spinner::sending(size) };
    let sent = {
        let sending = sending.clone();
        move |bytes| sending.advance(bytes)
    };
    // From here on: a job that is just being queued must not be forgotten.
    let mut wishes = Wishes::new()?;
    let submitted = wishes.beside(client.submit(&job, files, sent)).await;
    sending.end();
    let Some(job) = submitted? else {
        if !args.quiet {
            eprintln!("monitor: it may be queued all the same; `monitor jobs` shows it");
        }
        return Ok(CANCELLED);
    };
    let waits = format!("job {} waits for a machine", job.id);
    let spinner = if args.quiet { Spinner::none() } else { Spinner::start(waits) };
    let say = |text: String| {
        if !args.quiet {
            spinner.aside(|| eprintln!("monitor: {text}"));
        }
    };
    say(format!("job {} is queued", job.id));
    let telling = async {
        if !args.quiet {
            waiting::tell(&client, &job.id, say).await;
        }
        spinner.end();
    };
    let attended = tokio::select! {
        biased;
        attended = attend(&client, &job.id, wishes, &spinner) => attended?,
        never = async { telling.await; std::future::pending::<Infallible>().await } => match never {},
    };
    spinner.end();
    let Some(job) = attended else {
        say(format!("job {} is left alone; `monitor jobs` shows it", job.id));
        return Ok(CANCELLED);
    };
    if job.log_cut {
        say("the log is longer than what is kept of it".to_owned());
    }
    if job.has_outputs {
        let archive = client.outputs(&job.id).await?;
        let count = outputs::unpack(&archive, &args.outputs, &args.output_dir)?;
        say(format!("files brought back to {}: {count}", args.output_dir.display()));
    }
    say(format!("job {} {}", job.id, job.says()));
    if args.timings {
        timings::print(&client, &job).await?;
    }
    Ok(job.exit_code.unwrap_or(INTERRUPTED))
}

/// Follows a job to its end. The first wish cancels it; a second one leaves it: none.
async fn attend(
    client: &Client,
    id: &str,
    mut wishes: Wishes,
    spinner: &Spinner,
) -> anyhow::Result<Option<Job>> {
    let following = Follow::new(client, id).instead_of(spinner).until_over();
    tokio::pin!(following);
    if wishes.count == 0 {
        tokio::select! {
            job = &mut following => return job.map(Some),
            () = wishes.next() => (),
        }
    }
    spinner.end();
    eprintln!("monitor: cancelling job {id}; a second Ctrl-C leaves it");
    tokio::spawn(cancel(client.clone(), id.to_owned()));
    wishes.beside(following).await
}

/// Wishes to end: Ctrl-C, or a polite kill.
struct Wishes {
    interrupt: Signal,
    terminate: Signal,
    count: u32,
}

impl Wishes {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            count: 0,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => (),
            _ = self.terminate.recv() => (),
        }
        self.count += 1;
    }

    /// What `work` comes to, unless there is a second wish before.
    async fn beside<T, E>(
        &mut self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<Option<T>, E> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done.map(Some),
                () = self.next(), if self.count < 2 => (),
            }
            if self.count >= 2 {
                return Ok(None);
            }
        }
    }
}

/// Cancels a job, also when the service is just being restarted.
async fn cancel(client: Client, id: String) {
    loop {
        match client.cancel(&id).await {
            Ok(_) => return,
            Err(error) if error.is_passing() => tokio::time::sleep(Duration::from_secs(1)).await,
            Err(error) => {
                eprintln!("monitor: job {id} could not be cancelled: {error}");
                return;
            }
        }
    }
}

async fn first_profile(client: &Client) -> anyhow::Result<String> {
    let profiles: Vec<Profile> = client.list("/profiles").await?;
    let first = profiles.into_iter().next();
    first.map(|profile| profile.name).context("the service offers no profile")
}
