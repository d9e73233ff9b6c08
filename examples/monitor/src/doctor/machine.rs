//! Whether a guest really boots, answers and runs a command.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use runner_core::{
    Hypervisor, ImageBuilder, ProcessId, ProfileName, Resources, WorkerName,
    error::chain,
    guest::{Command, Output, exec},
    hypervisor::{InstanceSpec, Network},
    image::{Boot, BuildLog, Image, Recipe, RecipeKind},
};
use tempfile::TempDir;
use tokio::time::timeout;

use super::{Check, Subject};
use crate::{compose, config::Accel};

/// How long building an image to boot may take.
const BUILD: Duration = Duration::from_secs(600);

/// How long opening the hypervisor, which tries KVM, may take.
const OPEN: Duration = Duration::from_secs(30);

/// How long a guest may take from its start to its answer: an emulated one on a busy host takes a while.
const ANSWER: Duration = Duration::from_secs(180);

/// What a small guest takes.
const MEMORY_MIB: u64 = 256;

pub(super) async fn check(
    subject: &Subject,
    image: Option<Image>,
    say: &impl Fn(&str),
) -> Vec<Check> {
    let mut checks = Vec::new();
    let scratch = match tempfile::Builder::new().prefix("monitor-doctor-").tempdir() {
        Ok(scratch) => scratch,
        Err(error) => {
            let found = format!("there is no place for a machine: {error}");
            let way_out = "make room in the directory for temporary files, or set TMPDIR";
            return vec![Check::failure("guest", found, way_out)];
        }
    };
    let section = subject.config.hypervisor.section();
    say("acceleration");
    let opened = compose::trial(&subject.config, scratch.path().join("machines"));
    let (hypervisor, why) = match timeout(OPEN, opened).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => {
            let way_out = "see what QEMU says above";
            return vec![Check::failure("acceleration", chain(&error), way_out)];
        }
        Err(_) => {
            let found = format!("QEMU did not answer within {} s", OPEN.as_secs());
            let way_out = "run it by hand: qemu-system-x86_64 -accel tcg";
            return vec![Check::failure("acceleration", found, way_out)];
        }
    };
    checks.push(acceleration(subject, &why));
    let fits = hypervisor.capacity().await.map(|capacity| subject.config.check_fit(&capacity));
    checks.push(match fits {
        Ok(Ok(())) => Check::ok("capacity", "every profile fits on this host"),
        Ok(Err(error)) => {
            let way_out =
                format!("ask for less in the profile, or raise the capacity in {section}");
            Check::failure("capacity", error.to_string(), way_out)
        }
        Err(error) => {
            let way_out = format!("set vcpus, memory and disk in {section}");
            Check::failure("capacity", chain(&error), way_out)
        }
    });
    say("a guest to boot");
    let image = match image.filter(|image| matches!(image.boot, Boot::Kernel { .. })) {
        Some(image) => image,
        None => match build(subject, &scratch, say).await {
            Ok(image) => image,
            Err(error) => {
                let way_out = "see the message; images need apt-get, dpkg-deb and the lists of \
                               packages: apt-get update";
                checks.push(Check::failure("guest", format!("no image to boot: {error}"), way_out));
                return checks;
            }
        },
    };
    say("booting a guest");
    let began = Instant::now();
    let name = WorkerName::new("doctor-1").expect("a word and a number are a name");
    let result = tokio::select! {
        biased;
        // The machine would go on without us.
        _ = tokio::signal::ctrl_c() => Err("it was interrupted".to_owned()),
        result = boot(&hypervisor, &name, image) => result,
    };
    let destroyed = hypervisor.destroy(&name).await;
    checks.push(match result {
        Ok(said) => {
            let took = began.elapsed().as_secs_f64();
            Check::ok(
                "guest",
                format!("one booted, ran a command and ended in {took:.1} s: {said}"),
            )
        }
        Err(error) => {
            let way_out = match error.contains("Permission denied") {
                true => format!("let whoever runs the machines read what it names; with libvirt, set pool and pool_dir in {section}"),
                false => format!("try accel = \"tcg\" in {section}; if that helps, the host's KVM is broken"),
            };
            Check::failure("guest", error, way_out)
        }
    });
    if let Err(error) = destroyed {
        let way_out = "end its process by hand, and report this";
        checks.push(Check::failure("guest's end", chain(&error), way_out));
    }
    checks
}

fn acceleration(subject: &Subject, why: &str) -> Check {
    let name = "acceleration";
    if subject.config.hypervisor.accel == Accel::Auto && why.starts_with("TCG") {
        let way_out = "mend KVM, or live with emulation: it is several times slower";
        return Check::warning(name, why, way_out);
    }
    Check::ok(name, why)
}

/// A small image of its own, from the packages in the cache or from the distribution.
async fn build(subject: &Subject, scratch: &TempDir, say: &impl Fn(&str)) -> Result<Image, String> {
    let mut config = subject.config.clone();
    // Nothing that is not there yet is left behind, and what is there saves the download.
    let has_cache = subject.cache_dir.exists();
    let own = scratch.path().join("cache");
    config.cache_dir = Some(if has_cache { subject.cache_dir.clone() } else { own });
    let place: PathBuf = scratch.path().join("data");
    let store = compose::images(&config, &place).await.map_err(|error| chain(&error))?;
    let profile = ProfileName::new("doctor").expect("a word is a name");
    let recipe = Recipe { profile, kind: RecipeKind::Micro {} };
    say("building an image to boot");
    match timeout(BUILD, store.build(&recipe, BuildLog::silent())).await {
        Ok(Ok(image)) => Ok(image),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err(format!("it was not built within {} s", BUILD.as_secs())),
    }
}

async fn boot(
    hypervisor: &Arc<dyn Hypervisor>,
    name: &WorkerName,
    image: Image,
) -> Result<String, String> {
    let spec = InstanceSpec {
        name: name.clone(),
        profile: image.recipe.profile.clone(),
        image,
        resources: Resources { vcpus: 1, memory_mib: MEMORY_MIB, ..Resources::default() },
        network: Network::Restricted,
        user_data: None,
    };
    hypervisor.create(&spec).await.map_err(|error| chain(&error))?;
    let answer = async {
        let guest = hypervisor.guest(name).await?;
        guest.ready().await?;
        let id = ProcessId::new("doctor")?;
        let mut said = Vec::new();
        let command = Command::new(["uname", "-sr"]);
        let exit = exec(&*guest, &id, &command, |output| {
            if let Output::Stdout(bytes) = output {
                said.extend_from_slice(bytes);
            }
        });
        let exit = exit.await?;
        Ok::<_, runner_core::Error>((exit, String::from_utf8_lossy(&said).trim().to_owned()))
    };
    match timeout(ANSWER, answer).await {
        Ok(Ok((exit, said))) if exit.success() => Ok(said),
        Ok(Ok((exit, _))) => Err(format!("a command in the guest ended badly: {exit}")),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err(format!("the guest did not answer within {} s", ANSWER.as_secs())),
    }
}
