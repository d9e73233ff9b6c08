//! GitHub passes the suite that every forge passes, over real HTTP.

mod github;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use fake_github::{Conclusion, FakeGitHub, JobRequest};
use forge_github::GithubForge;
use futures::{FutureExt, future::BoxFuture};
use runner_core::{
    Changes, Forge, ReservationId, Result, RunnerId, WorkerName,
    conformance::forge::{ForgeFixture, PROFILE, World},
    forge::{ForgeCapabilities, QueuedJob, Registration, Runner, RunnerSpec},
    guest::Guest,
};

/// What the guests were told, by worker.
type Secrets = Arc<Mutex<HashMap<WorkerName, String>>>;

/// The forge, whose secrets reach the guests.
struct Overheard(Arc<GithubForge>, Secrets);

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Forge for Overheard {
    fn capabilities(&self) -> ForgeCapabilities {
        self.0.capabilities()
    }

    async fn register(&self, spec: &RunnerSpec) -> Result<Registration> {
        let registration = self.0.register(spec).await?;
        let secret = registration.secret.as_ref().map(|secret| secret.expose().clone());
        self.1.lock().unwrap().insert(spec.name.clone(), secret.expect("the guest needs it"));
        Ok(registration)
    }

    async fn deregister(&self, id: &RunnerId) -> Result<()> {
        self.0.deregister(id).await
    }

    async fn abandon(&self, id: &RunnerId) -> Result<()> {
        self.0.abandon(id).await
    }

    async fn runners(&self) -> Result<Vec<Runner>> {
        self.0.runners().await
    }

    async fn queued_jobs(&self) -> Result<Vec<QueuedJob>> {
        self.0.queued_jobs().await
    }

    fn changes(&self) -> Changes {
        self.0.changes()
    }

    async fn drive(&self, id: &RunnerId, guest: Arc<dyn Guest>) -> Result<()> {
        self.0.drive(id, guest).await
    }

    async fn reserve(&self, id: &RunnerId, reservation: &ReservationId) -> Result<()> {
        self.0.reserve(id, reservation).await
    }

    async fn release(&self, id: &RunnerId) -> Result<()> {
        self.0.release(id).await
    }
}

/// Runner programs, each a task that asks for one job.
struct Side {
    github: Arc<FakeGitHub>,
    secrets: Secrets,
    sessions: Mutex<HashMap<WorkerName, String>>,
}

impl World for Side {
    fn submit(&self) -> BoxFuture<'_, ()> {
        async { drop(self.github.enqueue(JobRequest::new("acme/widgets", [PROFILE])).unwrap()) }
            .boxed()
    }

    fn bring_online(&self, name: WorkerName) -> BoxFuture<'_, ()> {
        async move {
            let secret = self.secrets.lock().unwrap().remove(&name).unwrap();
            let session = self.github.connect(&secret).unwrap();
            self.sessions.lock().unwrap().insert(name, session.clone());
            let github = self.github.clone();
            tokio::spawn(async move { github.next_job(&session, Duration::from_secs(60)).await });
        }
        .boxed()
    }

    fn finish(&self, name: WorkerName) -> BoxFuture<'_, ()> {
        async move {
            let session = self.sessions.lock().unwrap().remove(&name).unwrap();
            self.github.finish(&session, Conclusion::Success).unwrap();
        }
        .boxed()
    }
}

/// The fake's verdict comes last, when the forge makes no more calls.
struct Verdict(github::Fixture);

impl Drop for Verdict {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.0.assert_clean();
        }
    }
}

async fn fixture() -> Option<ForgeFixture> {
    let fixture = github::fixture().await;
    let secrets = Secrets::default();
    let side = Side {
        github: fixture.github.clone(),
        secrets: secrets.clone(),
        sessions: Mutex::default(),
    };
    Some(ForgeFixture {
        forge: Arc::new(Overheard(fixture.forge.clone(), secrets)),
        world: Box::new(side),
        keep: Box::new(Verdict(fixture)),
    })
}

runner_core::forge_conformance!(fixture().await);
