//! A GitLab to try things with: `cargo run -p fake-gitlab --example serve-gitlab`.

use std::{error::Error, net::SocketAddr, path::PathBuf};

use clap::Parser;
use fake_gitlab::{FakeGitLab, Options, Place, RunnerSpec, Scope};

/// Starts a GitLab with a project and a runner, and says how to use them.
#[derive(Parser)]
struct Arguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8929")]
    address: SocketAddr,
    /// Speak HTTPS, and write the certificate here.
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// A project to start with.
    #[arg(long, default_value = "acme/app")]
    project: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let mut options = Options::default();
    options.address = arguments.address;
    options.https = arguments.certificate.is_some();
    let gitlab = FakeGitLab::start_with(options).await?;
    if let (Some(file), Some(certificate)) = (&arguments.certificate, gitlab.certificate()) {
        std::fs::write(file, certificate)?;
    }
    let project = gitlab.project(&arguments.project);
    let (_, runner) = gitlab.runner(RunnerSpec::new(Place::Project(project)));
    let root = gitlab.access_token(gitlab.admin(), &[Scope::Api]);
    let url = gitlab.url();
    println!("GitLab:               {url}");
    println!("token of root:        {root}");
    println!("runner's token:       {runner}");
    println!("to queue a job:       curl -d @job.json {url}/_fake/jobs, where job.json is");
    println!(
        "                      {{\"project\": \"{}\", \"name\": \"hello\", \"script\": [\"echo hello\"]}}",
        arguments.project
    );
    println!("for more like that:   curl {url}/_fake/");
    tokio::signal::ctrl_c().await?;
    Ok(())
}
