//! The service and the commands that talk to it.

use std::process::ExitCode;

use clap::Parser;
use monitor::commands::{self, Cli};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: could not start: {error}");
            return ExitCode::from(commands::FAILED);
        }
    };
    let code = runtime.block_on(commands::main(cli));
    // What is in flight does not keep the process: the next start finds it.
    runtime.shutdown_background();
    ExitCode::from(code)
}
