//! What goes wrong in the crowd: machines that do not start, machines that die, a hypervisor that is silent.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use runner_core::fake::{Call, FakeWorld, Fault};

use crate::profiles::FLAKY;

/// One in so many machines of the flaky profile does not start.
const STARTS_FAIL: u32 = 4;
/// How often a machine dies.
const CRASH_EVERY: Duration = Duration::from_secs(45);

/// Switches what goes wrong.
pub struct Trouble {
    blind: Arc<AtomicBool>,
}

/// Lets things go wrong in `world`, unless it is to be `quiet`.
pub fn start(world: &FakeWorld, quiet: bool) -> Trouble {
    let blind = Arc::new(AtomicBool::new(false));
    let is_blind = blind.clone();
    world.misbehave(move |call| match call {
        Call::Instances if is_blind.load(Ordering::Relaxed) => Some(Fault::Before),
        Call::Create(name) if !quiet && name.as_str().starts_with(FLAKY) => {
            rand::random_ratio(1, STARTS_FAIL).then_some(Fault::Before)
        }
        _ => None,
    });
    if !quiet {
        let world = world.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(CRASH_EVERY).await;
                let machines: Vec<_> = world.machines().into_keys().collect();
                if !machines.is_empty() {
                    world.crash(&machines[rand::random_range(0..machines.len())]);
                }
            }
        });
    }
    Trouble { blind }
}

impl Trouble {
    /// Blinds the hypervisor, or lets it see again.
    pub fn toggle_blindness(&self) {
        self.blind.fetch_xor(true, Ordering::Relaxed);
    }
}
