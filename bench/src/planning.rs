//! How long one plan takes.

use std::time::Instant;

use jiff::Timestamp;
use runner_core::{
    ForgeName, ImageId, ProfileName, Resources, RunnerId, WorkerName,
    forge::{Runner, RunnerStatus},
    hypervisor::{Instance, InstanceState},
    image::{Boot, Image, Recipe, RecipeKind},
    plan::{Desired, ForgeView, Observed, Sight, plan},
    profile::Profile,
    worker::{Look, Record, Worker},
};

use crate::table::Table;

const PROFILES: usize = 100;
const WORKERS_EACH: usize = 100;

pub fn measure(table: &mut Table) {
    let now = Timestamp::now();
    let (observed, desired) = world(now);
    let mut times = Vec::new();
    for _ in 0..50 {
        let began = Instant::now();
        let plan = plan(&observed, &desired, now);
        times.push(began.elapsed());
        assert!(!plan.actions.is_empty(), "one worker of each profile is missing");
    }
    table.times("plan for 10,000 workers in 100 profiles", &times, "under 10 ms");
}

fn world(now: Timestamp) -> (Observed, Desired) {
    let forge: ForgeName = "forge".parse().expect("a valid name");
    let sight = Sight::Seen;
    let mut observed = Observed {
        hypervisor: sight.clone(),
        builder: sight.clone(),
        capacity: Some(Resources { vcpus: 1 << 20, memory_mib: 1 << 40, ..Resources::default() }),
        next_serial: 1_000_000,
        ..Observed::default()
    };
    let view = ForgeView { sight, reserves: true, ..ForgeView::default() };
    observed.forges.insert(forge.clone(), view);
    let mut desired = Desired::default();
    for number in 0..PROFILES {
        let name: ProfileName = format!("profile-{number}").parse().expect("a valid name");
        let recipe = Recipe { profile: name.clone(), kind: RecipeKind::Micro {} };
        let resources = Resources { vcpus: 1, memory_mib: 256, ..Resources::default() };
        let mut profile = Profile::new(forge.clone(), recipe.clone(), resources);
        profile.max = 1_000;
        profile.min_idle = WORKERS_EACH as u32 / 2 + 1;
        let image = image(&name, recipe, now);
        for serial in 0..WORKERS_EACH {
            let worker = worker(&profile, &image.id, serial, now);
            observed.workers.insert(worker.name.clone(), worker);
        }
        observed.images.push(image);
        desired.profiles.push(profile);
    }
    (observed, desired)
}

fn image(profile: &ProfileName, recipe: Recipe, now: Timestamp) -> Image {
    Image {
        id: ImageId::new(format!("{profile}.1")).expect("a valid id"),
        recipe,
        built_at: now,
        digest: "0".repeat(64),
        size_bytes: 1,
        boot: Boot::Kernel {
            kernel: "/kernel".into(),
            initrd: "/initrd".into(),
            command_line: String::new(),
        },
    }
}

/// Every other one is idle, the rest is busy.
fn worker(profile: &Profile, image: &ImageId, serial: usize, now: Timestamp) -> Worker {
    let name = WorkerName::of(&profile.name, serial as u64);
    let id = RunnerId::new(name.as_str()).expect("a valid id");
    let status =
        if serial.is_multiple_of(2) { RunnerStatus::Idle } else { RunnerStatus::Busy(None) };
    Worker {
        name: name.clone(),
        record: Some(Record {
            name: name.clone(),
            profile: profile.name.clone(),
            forge: profile.forge.clone(),
            image: image.clone(),
            resources: profile.resources.clone(),
            created_at: now,
            runner: Some(id.clone()),
        }),
        instance: Look::Seen(Instance {
            name: name.clone(),
            profile: profile.name.clone(),
            image: image.clone(),
            resources: profile.resources.clone(),
            created_at: now,
            state: InstanceState::Running,
        }),
        runner: Look::Seen(Runner { id, name, status, reserved_for: None }),
        seen_at: Some(profile.forge.clone()),
        guest_busy: None,
        in_flight: None,
        driven: false,
        last_online: Some(now),
        reservation: None,
    }
}
