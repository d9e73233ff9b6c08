//! GitLab's own runner, with a fresh virtual machine for each job: the drivers of its custom executor.
//!
//! `gitlab-runner` calls this program once for each stage of a job. [`job`] says which job that is, from
//! what the job cannot forge; [`state`] keeps what must outlive a call; [`machine`] makes, uses and destroys
//! the job's machine; [`owner`] tells when the `gitlab-runner` of a job is dead, so that the job is too.
//!
//! **Invariant:** nothing of this runs between two calls. Any of them may be killed at any moment.

mod config;
mod job;
mod machine;
mod owner;
mod state;

use std::{
    env, fs,
    path::PathBuf,
    process::{ExitCode, Termination},
};

use clap::{Parser, Subcommand};

use crate::{config::Config, job::Job};

#[derive(Parser)]
#[command(
    version,
    about = "Drivers of GitLab Runner's custom executor: a virtual machine for each job"
)]
struct Arguments {
    /// What the operator decides.
    #[arg(long, default_value = "/etc/gitlab-custom-executor.toml")]
    config: PathBuf,
    #[command(subcommand)]
    driver: Driver,
}

#[derive(Subcommand)]
enum Driver {
    /// For `config_exec`: says where jobs live in the machine.
    Config,
    /// For `prepare_exec`: makes the job's machine, and removes those of jobs that died.
    Prepare,
    /// For `run_exec`: runs a script in the job's machine.
    Run {
        /// The script, on this host.
        script: PathBuf,
        /// What gitlab-runner calls it.
        stage: String,
    },
    /// For `cleanup_exec`: removes the job's machine.
    Cleanup,
    /// Removes the machines of jobs whose gitlab-runner died, for a timer or by hand.
    Sweep,
}

/// How a driver fails, as gitlab-runner tells two kinds apart.
enum Failure {
    /// The job's own doing, with the exit code of its script, if that is what failed.
    Job(Option<u8>, String),
    /// Ours, or the machine's: gitlab-runner may try again.
    System(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::System(error.into())
    }
}

/// Ends the program as gitlab-runner asked to be told.
struct Ended(Result<(), Failure>);

impl Termination for Ended {
    fn report(self) -> ExitCode {
        let code = |variable: &str, usual| {
            let given = env::var(variable).ok().and_then(|code| code.parse().ok());
            ExitCode::from(given.unwrap_or(usual))
        };
        match self.0 {
            Ok(()) => ExitCode::SUCCESS,
            Err(Failure::Job(exit_code, why)) => {
                eprintln!("{why}");
                if let (Some(exit_code), Some(path)) =
                    (exit_code, env::var_os("BUILD_EXIT_CODE_FILE"))
                    && let Err(error) = fs::write(path, exit_code.to_string())
                {
                    eprintln!("warning: the exit code could not be passed on: {error}");
                }
                code("BUILD_FAILURE_EXIT_CODE", 1)
            }
            Err(Failure::System(error)) => {
                eprintln!("error: {error:#}");
                code("SYSTEM_FAILURE_EXIT_CODE", 2)
            }
        }
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Ended {
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_writer(std::io::stderr)
        .without_time()
        .init();
    Ended(drive(Arguments::parse()).await)
}

async fn drive(arguments: Arguments) -> Result<(), Failure> {
    let config = Config::read(&arguments.config)?;
    match arguments.driver {
        Driver::Config => println!("{}", config.for_gitlab_runner()),
        Driver::Prepare => machine::prepare(&config, &Job::given()?).await?,
        Driver::Run { script, stage } => {
            machine::run(&config, &Job::given()?, &script, &stage).await?;
        }
        Driver::Cleanup => machine::cleanup(&config, &Job::given()?).await?,
        Driver::Sweep => machine::sweep(&config).await?,
    }
    Ok(())
}
