//! A GitLab for tests: stateful, over real HTTP, and held to the published description in both directions.
//!
//! [`FakeGitLab`] starts one. It has users, groups, projects, pipelines, jobs and runners, and speaks the part of
//! GitLab's API that is about them: the administration of runners, the protocol between a runner and GitLab, and what a
//! person does to jobs. It is no mock: nothing is expected of a client, but all that a client says is compared
//! with GitLab's description ([`FakeGitLab::violations`]), and so is all that it is answered.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
//! use fake_gitlab::{FakeGitLab, JobSpec, Place, RunnerSpec, Status};
//!
//! let gitlab = FakeGitLab::start().await?;
//! let project = gitlab.project("acme/infra/app");
//! let (runner, token) = gitlab.runner(RunnerSpec::tagged(Place::Project(project), ["linux"]));
//! let job = gitlab.job(project, JobSpec::new("build", ["make"]).tags(["linux"]));
//!
//! // Point a runner at `gitlab.url()` with `token`, and look at what becomes of the job.
//! assert_eq!(gitlab.job_view(job).expect("a job").status, Status::Pending);
//! assert_eq!(gitlab.violations(), []);
//! # let _ = (runner, token); Ok(()) }
//! ```
//!
//! # What goes wrong
//!
//! [`FakeGitLab::inject`] puts a [`Fault`] between clients and GitLab: a status, a reset, an answer that is lost
//! after the deed. [`FakeGitLab::go_down`] makes all of it go away for a time. What goes wrong at GitLab itself is
//! done to it: [`FakeGitLab::delete_job`], [`FakeGitLab::delete_runner`], [`FakeGitLab::configure`].
//!
//! # Without Rust
//!
//! `cargo run -p fake-gitlab --example serve-gitlab` starts one; `/_fake/` has routes to make jobs and to break things
//! (`control.txt`).
//!
//! # What it does not have
//!
//! Pushes, the parsing of `.gitlab-ci.yml`, and all the rest of GitLab. `/artifacts/authorize`, which is
//! between workhorse and Rails, is not there, because they are one here.
//!
//! # What to read
//!
//! `contract.rs` is the description and how it is held; `gitlab.rs` is the way of one request; `queue.rs` decides
//! who gets which job; `api/` has the routes.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use fake_host::Tls;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

mod access;
mod account;
mod api;
mod artifact;
mod contract;
mod control;
mod dotenv;
mod exchange;
mod faults;
mod gitlab;
mod handle;
mod ids;
mod job;
mod job_spec;
mod page;
mod payload;
mod pipeline;
mod queue;
mod record;
mod repository;
mod runner;
mod server;
mod settings;
mod state;
mod storage;
mod time;
mod trace;

pub use access::Scope;
pub use account::{Level, Place, ProjectOptions};
pub use artifact::Artifact;
pub use fake_host::Clock;
pub use faults::{Fault, FaultId, FaultKind, UnknownRoute};
pub use handle::{ManagerView, RunnerView};
pub use ids::{GroupId, JobId, PipelineId, ProjectId, RunnerId, UserId};
pub use job::{JobView, Status};
pub use job_spec::{Artifacts, Cache, Git, Image, JobSpec, Step, Variable};
pub use record::{Call, Violation};
pub use runner::RunnerSpec;
pub use settings::{Settings, WrongTrace};

use server::serve;
use state::Shared;

/// How a GitLab starts.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// Where it listens. A port of 0, which is the default on the loopback, is any that is free.
    pub address: SocketAddr,
    /// What time it is.
    pub clock: Clock,
    /// What decides about faults that happen now and then.
    pub seed: u64,
    /// Whether it speaks HTTPS, with a certificate of its own, and not HTTP.
    pub https: bool,
    /// How it behaves.
    pub settings: Settings,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            clock: Clock::default(),
            seed: 0,
            https: false,
            settings: Settings::default(),
        }
    }
}

/// A GitLab that runs until it is dropped.
pub struct FakeGitLab {
    shared: Arc<Shared>,
    url: String,
    certificate: Option<String>,
    admin: UserId,
    clock: Clock,
    _stop: DropGuard,
}

impl fmt::Debug for FakeGitLab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeGitLab").field("url", &self.url).finish_non_exhaustive()
    }
}

impl FakeGitLab {
    /// Starts one on the loopback.
    ///
    /// # Errors
    ///
    /// When there is no port to listen on.
    pub async fn start() -> io::Result<Self> {
        Self::start_with(Options::default()).await
    }

    /// Starts one as `options` say.
    ///
    /// # Errors
    ///
    /// When there is no port to listen on.
    pub async fn start_with(options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind(options.address).await?;
        // Another host, for whoever compares names: any of 127/8 is this machine.
        let storage = match options.address.ip() {
            IpAddr::V4(Ipv4Addr::LOCALHOST) => IpAddr::from([127, 0, 0, 2]),
            other => other,
        };
        let storage = TcpListener::bind((storage, 0)).await?;
        let (here, there) = (listener.local_addr()?, storage.local_addr()?);
        let names = [here.ip().to_string(), there.ip().to_string(), "localhost".to_owned()];
        let tls = options.https.then(|| Tls::new(names)).transpose()?;
        let scheme = if options.https { "https" } else { "http" };
        let clock = options.clock.clone();
        let shared = Arc::new(Shared::new(options, format!("{scheme}://{there}")));
        let admin = shared.change(|state| state.add_user(account::ADMIN, true));

        let stop = CancellationToken::new();
        let acceptor = || tls.as_ref().map(|tls| tls.acceptor.clone());
        let (main, files) = (gitlab::answer, storage::answer);
        tokio::spawn(serve(listener, acceptor(), shared.clone(), stop.clone(), main));
        tokio::spawn(serve(storage, acceptor(), shared.clone(), stop.clone(), files));
        Ok(Self {
            shared,
            url: format!("{scheme}://{here}"),
            certificate: tls.map(|tls| tls.certificate),
            admin,
            clock,
            _stop: stop.drop_guard(),
        })
    }

    /// Where it is, such as `http://127.0.0.1:4711`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What a client has to trust, in PEM. `None` when it speaks HTTP.
    pub fn certificate(&self) -> Option<&str> {
        self.certificate.as_deref()
    }

    /// What time it is there.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The time there.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }
}
