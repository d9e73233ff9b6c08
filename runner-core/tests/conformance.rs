//! The fakes and the local queue pass the suites that real backends and forges pass.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use runner_core::{
    Clock, EventLog, Forge, ForgeName, Hypervisor, ImageBuilder, ProfileName, Resources, Store,
    WorkerName,
    conformance::{
        forge::{ForgeFixture, PROFILE, World},
        hypervisor::HypervisorFixture,
        image::ImageFixture,
    },
    fake::FakeWorld,
    hypervisor::{InstanceSpec, Network},
    image::{Boot, Image, Recipe, RecipeKind},
    local::{JobSpec, LocalLimits, LocalQueue, Run},
};

fn recipe() -> Recipe {
    let profile = ProfileName::new(PROFILE).unwrap();
    Recipe { profile, kind: RecipeKind::Micro {} }
}

fn spec(name: &str) -> InstanceSpec {
    let image = Image {
        id: runner_core::ImageId::new("a.1").unwrap(),
        recipe: recipe(),
        built_at: jiff::Timestamp::UNIX_EPOCH,
        digest: "0".repeat(64),
        size_bytes: 1,
        boot: Boot::Kernel {
            kernel: "/kernel".into(),
            initrd: "/initrd".into(),
            command_line: String::new(),
        },
    };
    InstanceSpec {
        name: WorkerName::new(name).unwrap(),
        profile: recipe().profile,
        image,
        resources: Resources { vcpus: 1, memory_mib: 256, ..Resources::default() },
        network: Network::Open,
        user_data: None,
    }
}

fn world() -> FakeWorld {
    let world = FakeWorld::new(Clock::system());
    world.set_boot_time(Duration::from_millis(50));
    world
}

mod fake_hypervisor {
    use super::*;

    fn fixture() -> Option<HypervisorFixture> {
        let world = world();
        let again = world.clone();
        let reopen = move || {
            let hypervisor: Arc<dyn Hypervisor> = Arc::new(again.hypervisor());
            async move { hypervisor }.boxed()
        };
        Some(HypervisorFixture {
            hypervisor: Arc::new(world.hypervisor()),
            spec: Box::new(spec),
            reopen: Some(Box::new(reopen)),
            power_off: None,
            keep: Box::new(()),
        })
    }

    runner_core::hypervisor_conformance!(fixture());
}

mod fake_builder {
    use super::*;

    fn fixture() -> Option<ImageFixture> {
        let builder: Arc<dyn ImageBuilder> = Arc::new(world().builder());
        Some(ImageFixture { builder, recipe: recipe(), has_files: false, keep: Box::new(()) })
    }

    runner_core::image_conformance!(fixture());
}

mod fake_forge {
    use super::*;

    /// Ends a job by waiting: long enough for the checks that come before.
    const TAKES: Duration = Duration::from_millis(700);

    struct Side(FakeWorld, ForgeName);

    impl World for Side {
        fn submit(&self) -> BoxFuture<'_, ()> {
            async { drop(self.0.submit(&self.1, &recipe().profile, TAKES)) }.boxed()
        }

        fn bring_online(&self, name: WorkerName) -> BoxFuture<'_, ()> {
            async move {
                let runners = self.0.forge(self.1.clone()).runners().await.unwrap();
                let runner = runners.iter().find(|runner| runner.name == name).unwrap();
                let mut spec = spec(name.as_str());
                spec.user_data = Some(runner_core::Secret::new(runner.id.to_string()));
                self.0.hypervisor().create(&spec).await.unwrap();
            }
            .boxed()
        }

        fn finish(&self, _name: WorkerName) -> BoxFuture<'_, ()> {
            tokio::time::sleep(TAKES).boxed()
        }
    }

    fn fixture() -> Option<ForgeFixture> {
        let (world, name) = (world(), ForgeName::new("fake").unwrap());
        let forge = Arc::new(world.forge(name.clone()));
        Some(ForgeFixture { forge, world: Box::new(Side(world, name)), keep: Box::new(()) })
    }

    runner_core::forge_conformance!(fixture());
}

mod local_queue {
    use super::*;

    /// Drives runners in guests of a fake hypervisor.
    struct Side(LocalQueue, FakeWorld);

    impl World for Side {
        fn submit(&self) -> BoxFuture<'_, ()> {
            let job = JobSpec {
                profile: Some(recipe().profile),
                run: Run::Script("sleep 1000".to_owned()),
                ..JobSpec::default()
            };
            async { drop(self.0.submit(job, Vec::new()).await.unwrap()) }.boxed()
        }

        fn bring_online(&self, name: WorkerName) -> BoxFuture<'_, ()> {
            async move {
                let hypervisor = self.1.hypervisor();
                hypervisor.create(&spec(name.as_str())).await.unwrap();
                let guest = hypervisor.guest(&name).await.unwrap();
                let (queue, id) =
                    (self.0.clone(), runner_core::RunnerId::new(name.as_str()).unwrap());
                tokio::spawn(async move { queue.drive(&id, guest).await });
            }
            .boxed()
        }

        fn finish(&self, name: WorkerName) -> BoxFuture<'_, ()> {
            async move {
                for job in self.0.jobs(None, 10).await.unwrap() {
                    if job.worker.as_ref() == Some(&name) {
                        self.0.cancel(&job.id).await.unwrap();
                    }
                }
            }
            .boxed()
        }
    }

    async fn fixture() -> Option<ForgeFixture> {
        let store = Store::in_memory().unwrap();
        let events = EventLog::open(store.clone()).await.unwrap();
        let limits = LocalLimits::default();
        let queue = LocalQueue::open(store, events, Clock::system(), limits).await.unwrap();
        let world = Box::new(Side(queue.clone(), world()));
        Some(ForgeFixture { forge: Arc::new(queue), world, keep: Box::new(()) })
    }

    runner_core::forge_conformance!(fixture().await);
}

/// Labels are compared without regard to case, and a profile's name is one of its labels.
#[test]
fn a_profile_offers_its_labels_and_its_name() {
    let mut profile =
        runner_core::Profile::new(ForgeName::new("local").unwrap(), recipe(), Resources::default());
    profile.labels = BTreeSet::from([runner_core::Label::new("Linux").unwrap()]);
    let labels = |text: &[&str]| text.iter().map(|t| runner_core::Label::new(t).unwrap()).collect();
    assert!(profile.offers(&labels(&["linux", "A"])));
    assert!(!profile.offers(&labels(&["linux", "gpu"])));
}
