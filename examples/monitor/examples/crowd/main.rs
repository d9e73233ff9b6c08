//! A service with a crowd of workers that exist in memory only, for whoever wants to see or load one without
//! a host for it: real HTTP, real store, real time, fake machines.
//!
//! ```sh
//! cargo run -p monitor --example crowd -- --workers 200 --port 8001
//! ```
//!
//! Jobs come and go, some machines fail to start, some die. `kill -USR1` blinds the hypervisor, and a second
//! one lets it see again. The API token is in the data directory.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context;
use clap::Parser;
use monitor::{
    config::Config,
    data_dir::{self, DataDir},
    serve::{Base, Service},
    token::Token,
};
use runner_core::{Capacity, Clock, fake::FakeWorld};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

mod churn;
mod console;
mod elsewhere;
mod host;
mod mischief;
mod profiles;

/// A monitor over a crowd of fake workers
#[derive(Parser)]
struct Args {
    /// How many workers there are about
    #[arg(long, default_value_t = 200)]
    workers: u32,
    /// Where to listen on 127.0.0.1; any free port, if 0
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// The data directory; one that ends with the process, if none
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Nothing happens by itself: no jobs, no failures
    #[arg(long)]
    quiet: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr);
    log.with_max_level(tracing::Level::ERROR).init();
    let temporary = tempfile::tempdir().context("could not make a temporary directory")?;
    let data = args.data.unwrap_or_else(|| temporary.path().join("data"));

    let world = FakeWorld::new(Clock::system());
    world.set_boot_time(Duration::from_millis(2500));
    world.set_capacity(Capacity {
        vcpus: args.workers * 4 + 8,
        memory_mib: (u64::from(args.workers) * 4 + 8) << 10,
        disk_mib: 1 << 24,
        ..Capacity::default()
    });
    let kinds = profiles::kinds(args.workers);
    let text = profiles::config(&kinds, args.quiet);
    let config = Config::parse("crowd.toml".as_ref(), &text)?;

    let base = Base::open(DataDir::lock(&data)?).await?;
    let token_file = data_dir::token_file(&data);
    let (token, _) = Token::of_server(&token_file)?;
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], args.port))).await;
    let listener = listener.context("could not listen; choose another --port, or none")?;
    let address = listener.local_addr()?;
    let backends = host::backends(&world);
    let service = Service::start(&config, base, backends, token.clone(), listener).await?;
    println!("listening on http://{address}");
    println!("The API token is in {}", token_file.display());

    let trouble = mischief::start(&world, args.quiet);
    let churn = churn::run(address, token, kinds, world.clone());
    let quiet = args.quiet;
    let churn = tokio::spawn(async move { if quiet { Ok(()) } else { churn.await } });
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut blink = signal(SignalKind::user_defined1())?;
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = blink.recv() => trouble.toggle_blindness(),
        }
    }
    churn.abort();
    service.stop().await;
    Ok(())
}
