//! The promises of a forge, kept against a GitLab over HTTP.

#![expect(dead_code, reason = "other tests use the rest of the common parts")]

mod common;

use std::{sync::Arc, time::Duration};

use common::Fixture;
use fake_gitlab::JobSpec;
use futures::{FutureExt, future::BoxFuture};
use runner_core::{
    Forge, WorkerName,
    conformance::forge::{ForgeFixture, World},
    forge::RunnerStatus,
};

/// GitLab's users, and the guests of runners.
struct Side(Arc<Fixture>);

impl World for Side {
    fn submit(&self) -> BoxFuture<'_, ()> {
        async {
            let job = self.0.submit(JobSpec::new("long", ["sleep 1000"]));
            // Until GitLab gave it to us: to a worker that was ready, or to wait.
            while !self.has(job).await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        .boxed()
    }

    fn bring_online(&self, name: WorkerName) -> BoxFuture<'_, ()> {
        async move {
            let id = runner_core::RunnerId::new(name.as_str()).unwrap();
            drop(self.0.drive(id));
        }
        .boxed()
    }

    fn finish(&self, name: WorkerName) -> BoxFuture<'_, ()> {
        async move {
            for runner in self.0.forge().runners().await.unwrap() {
                if let (true, RunnerStatus::Busy(Some(job))) = (runner.name == name, runner.status)
                {
                    self.0.gitlab.cancel(fake_gitlab::JobId(job.as_str().parse().unwrap()));
                }
            }
        }
        .boxed()
    }
}

impl Side {
    async fn has(&self, job: fake_gitlab::JobId) -> bool {
        let id = job.0.to_string();
        let queued = self.0.forge().queued_jobs().await.unwrap();
        let runners = self.0.forge().runners().await.unwrap();
        queued.iter().any(|job| job.id.as_str() == id)
            || runners.iter().any(|runner| {
                matches!(&runner.status, RunnerStatus::Busy(Some(job)) if job.as_str() == id)
            })
    }
}

async fn fixture() -> Option<ForgeFixture> {
    let fixture = Arc::new(Fixture::new().await);
    let forge = Arc::new(fixture.forge().clone());
    Some(ForgeFixture { forge, world: Box::new(Side(fixture.clone())), keep: Box::new(fixture) })
}

runner_core::forge_conformance!(fixture().await);
