//! What the command line offers. Each subcommand is a file.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use reqwest::StatusCode;

use crate::{
    client::{Client, ClientError},
    config::ConfigError,
    data_dir,
};

mod age;
mod cancel;
mod check;
mod completions;
mod console;
mod copy;
mod doctor;
mod events;
mod explain;
mod follow;
mod gitlab_runner_config;
mod hold;
mod images;
mod import;
mod jobs;
mod logs;
mod luggage;
mod openapi;
mod out;
mod outputs;
mod overriding;
mod profiles;
mod run;
mod serve;
mod shell;
mod spinner;
mod table;
mod timings;
mod tty;
mod waiting;
mod workers;

/// Something is wrong that has no code of its own.
pub const FAILED: u8 = 1;
/// The command line or the configuration is wrong.
pub const USAGE: u8 = 2;
/// No service answers.
pub const UNREACHABLE: u8 = 3;
/// There is no such job, worker or profile.
pub const UNKNOWN: u8 = 4;
/// A job could not be run or followed to its end, through no doing of its command.
pub const INTERRUPTED: u8 = 125;
/// Whoever ran the job left it, or cancelled it.
pub const CANCELLED: u8 = 130;

const EXIT_CODES: &str = "\
Exit codes:
  0    it worked
  1    it failed
  2    the command line or the configuration is wrong
  3    no monitor answers
  4    there is no such job, worker, profile or image
`run` passes on the code of the job's command (128 + N after signal N), and beside it uses:
  124  the job ran longer than it may
  125  the job could not be run or followed: no monitor, refused, or its machine died
  130  the job was cancelled, or left by a second Ctrl-C
`shell` passes on the code of the shell or command, and 125 when there was none";

/// Keeps pools of single-use CI runners in virtual machines.
#[derive(Parser)]
#[command(name = "monitor", version, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the service
    Serve(serve::ServeArgs),
    /// Run a command in a fresh machine, show its log and return its exit code
    #[command(after_help = EXIT_CODES)]
    Run(Box<run::RunArgs>),
    /// List jobs
    Jobs(jobs::JobsArgs),
    /// Show a job's log
    Logs(logs::LogsArgs),
    /// Cancel a job
    Cancel(cancel::CancelArgs),
    /// Say why a job waits, what became of it, or what happened to a worker
    Explain(explain::ExplainArgs),
    /// List workers
    Workers(workers::WorkersArgs),
    /// Show what a worker's machine writes to its console
    Console(console::ConsoleArgs),
    /// Keep a worker's machine for a time, also after its job
    Hold(hold::HoldArgs),
    /// Keep it no longer
    Unhold(hold::UnholdArgs),
    /// End a worker's machine once nothing runs in it
    Retire(hold::RetireArgs),
    /// List profiles, or change their numbers
    Profiles(profiles::ProfilesArgs),
    /// Have some profiles get other numbers of workers for a while, while the others give way
    Override(overriding::OverrideArgs),
    /// List images
    Images(images::ImagesArgs),
    /// Show what happened and why
    Events(events::EventsArgs),
    /// Make a configuration from the settings of Servo's monitor
    #[command(name = "import-servo", long_flag = "import-servo")]
    ImportServo(import::ImportArgs),
    /// Check a configuration
    Check(check::CheckArgs),
    /// Find out whether a service can do its work on this host, and what to do where it cannot
    Doctor(doctor::DoctorArgs),
    /// Print a script that completes this program's arguments
    Completions(completions::CompletionsArgs),
    /// Write manual pages
    #[command(hide = true)]
    Man(completions::ManArgs),
    /// Open a shell in a machine that is reserved for it, and destroyed afterwards
    #[command(after_help = shell::HELP)]
    Shell(Box<shell::ShellArgs>),
    /// Write a file into a machine
    Put(copy::PutArgs),
    /// Read a file of a machine
    Get(copy::GetArgs),
    /// Print a config.toml for the official gitlab-runner, with the tokens of the runners at a GitLab
    GitlabRunnerConfig(gitlab_runner_config::GitlabRunnerConfigArgs),
    /// Print the API's OpenAPI document
    Openapi,
}

/// Which service to talk to.
#[derive(Args)]
pub struct ClientArgs {
    /// Where the service is; without it, where the data directory says, or http://127.0.0.1:8000
    #[arg(long, env = "MONITOR_URL", value_name = "URL")]
    server: Option<String>,
    /// The file with the API token; goes before MONITOR_API_TOKEN
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The certificates (PEM) that a service at https:// is trusted by, instead of the system's
    #[arg(long, env = "MONITOR_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The service's data directory, where its address and token are looked for last
    #[arg(long, env = "MONITOR_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
}

impl ClientArgs {
    fn client(&self) -> anyhow::Result<Client> {
        let data_dir = self.data.clone().unwrap_or_else(data_dir::default_dir);
        let server = self.server.clone().or_else(|| data_dir::address(&data_dir));
        let server = server.as_deref().unwrap_or("http://127.0.0.1:8000");
        Client::new(server, self.token_file.as_deref(), self.ca.as_deref(), &data_dir)
    }
}

/// Runs what the command line asks for and returns the exit code, having told what went wrong.
pub async fn main(cli: Cli) -> u8 {
    let (done, failed) = match cli.command {
        Command::Serve(args) => (serve::serve(args).await, FAILED),
        Command::Run(args) => (run::run(args).await, INTERRUPTED),
        Command::Jobs(args) => (jobs::jobs(args).await, FAILED),
        Command::Logs(args) => (logs::logs(args).await, FAILED),
        Command::Cancel(args) => (cancel::cancel(args).await, FAILED),
        Command::Explain(args) => (explain::explain(args).await, FAILED),
        Command::Workers(args) => (workers::workers(args).await, FAILED),
        Command::Console(args) => (console::console(args).await, FAILED),
        Command::Hold(args) => (hold::hold(args).await, FAILED),
        Command::Unhold(args) => (hold::unhold(args).await, FAILED),
        Command::Retire(args) => (hold::retire(args).await, FAILED),
        Command::Profiles(args) => (profiles::profiles(args).await, FAILED),
        Command::Override(args) => (overriding::overriding(args).await, FAILED),
        Command::Images(args) => (images::images(args).await, FAILED),
        Command::Events(args) => (events::events(args).await, FAILED),
        Command::ImportServo(args) => (import::import(args), FAILED),
        Command::Check(args) => (check::check(args), FAILED),
        Command::Doctor(args) => (doctor::doctor(args).await, FAILED),
        Command::Completions(args) => (completions::completions(args), FAILED),
        Command::Man(args) => (completions::man(args), FAILED),
        Command::Shell(args) => (shell::shell(args).await, INTERRUPTED),
        Command::Put(args) => (copy::put(args).await, FAILED),
        Command::Get(args) => (copy::get(args).await, FAILED),
        Command::GitlabRunnerConfig(args) => {
            (gitlab_runner_config::gitlab_runner_config(args), FAILED)
        }
        Command::Openapi => (openapi::openapi(), FAILED),
    };
    match done {
        Ok(code) => code,
        // As with `… | head -1`: whoever reads has enough.
        Err(error) if error.is::<out::Deaf>() => 0,
        Err(error) => {
            eprintln!("error: {error:#}");
            match code_of(&error) {
                // Codes of `run` below those are its command's.
                Some(code) if code == USAGE || failed == FAILED => code,
                _ => failed,
            }
        }
    }
}

/// The code of an error that has one of its own.
fn code_of(error: &anyhow::Error) -> Option<u8> {
    if error.is::<ConfigError>() || error.is::<WrongUse>() {
        return Some(USAGE);
    }
    if error.is::<Unknown>() {
        return Some(UNKNOWN);
    }
    match error.downcast_ref::<ClientError>()? {
        ClientError::Unreachable { .. } => Some(UNREACHABLE),
        ClientError::Refused { status: StatusCode::NOT_FOUND, .. } => Some(UNKNOWN),
        _ => None,
    }
}

/// What was asked for is neither a job nor a worker.
#[derive(Debug)]
struct Unknown(String);

impl std::fmt::Display for Unknown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "there is no job or worker {:?}; `monitor jobs` and `monitor workers` list them",
            self.0
        )
    }
}

impl std::error::Error for Unknown {}

fn unknown(subject: &str) -> Unknown {
    Unknown(subject.to_owned())
}

/// An argument that cannot be meant.
#[derive(Debug)]
struct WrongUse(String);

impl std::fmt::Display for WrongUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for WrongUse {}
