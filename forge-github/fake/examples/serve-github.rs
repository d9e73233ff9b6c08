//! A GitHub to try things on: `cargo run -p fake-github --example serve-github -- --org acme --repo acme/widgets`.
//!
//! Prints one line of JSON that says where it is and with which token, and runs until it is interrupted.
//! `curl $URL/_fake/` tells the rest.

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use fake_github::{FakeGitHub, Scope};

/// A GitHub for tests, on a port of this machine
#[derive(Parser)]
struct Arguments {
    /// Where to listen. Whoever can connect may do everything
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    /// Be a GitHub Enterprise Server, with its API under /api/v3
    #[arg(long)]
    ghes: bool,
    /// Serve TLS, and write the certificate to trust into this file
    #[arg(long, value_name = "FILE")]
    tls: Option<PathBuf>,
    /// An organisation to make
    #[arg(long, value_name = "LOGIN")]
    org: Vec<String>,
    /// A repository to make
    #[arg(long, value_name = "OWNER/NAME")]
    repo: Vec<String>,
    /// Where to send workflow_job webhooks of the organisations
    #[arg(long, value_name = "URL", requires = "webhook_secret")]
    webhook: Option<String>,
    /// What webhooks are signed with
    #[arg(long, value_name = "TEXT", env = "WEBHOOK_SECRET", hide_env_values = true)]
    webhook_secret: Option<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let arguments = Arguments::parse();
    let mut builder = FakeGitHub::builder().listen(&arguments.listen);
    if arguments.ghes {
        builder = builder.ghes();
    }
    if arguments.tls.is_some() {
        builder = builder.tls();
    }
    let github = builder
        .start()
        .await
        .with_context(|| format!("could not listen on {}", arguments.listen))?;
    if let (Some(path), Some(certificate)) = (&arguments.tls, github.certificate()) {
        std::fs::write(path, certificate)
            .with_context(|| format!("could not write {}", path.display()))?;
    }
    for login in &arguments.org {
        let scope = github.organisation(login);
        if let (Some(url), Some(secret)) = (&arguments.webhook, &arguments.webhook_secret) {
            github.hook(&scope, url, secret);
        }
    }
    for name in &arguments.repo {
        let Scope::Repository { owner, name } = name.parse()? else {
            anyhow::bail!("{name:?} is not OWNER/NAME");
        };
        github.repository(&owner, &name);
    }
    let scopes = ["repo", "admin:org", "admin:org_hook", "manage_runners:enterprise"];
    let token = github.classic_token("mona", &scopes);
    println!(
        "{}",
        serde_json::json!({ "api": github.api_url(), "web": github.web_url(), "token": token })
    );
    tokio::signal::ctrl_c().await?;
    Ok(())
}
