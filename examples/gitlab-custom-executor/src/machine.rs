//! The machine of a job: made, used and destroyed, each by a call of its own.
//!
//! Every job's machine has a hypervisor's directory of its own, which one call at a time holds: so jobs do
//! not wait for each other, and what one call began another finds.

use std::{io::Write, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use backend_qemu::{Accel, ImageConfig, ImageStore, QemuConfig, QemuHypervisor};
use jiff::{SignedDuration, Timestamp};
use runner_core::{
    Error, Guest, Hypervisor, ImageBuilder, OwnerId, ProcessId, ProfileName, WorkerName,
    guest::{Command, Cursor, ExitStatus, Signal, exec},
    hypervisor::InstanceSpec,
    image::{BuildLog, Image, Recipe},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep, timeout},
};

use crate::{
    Failure,
    config::{Config, Engine},
    job::Job,
    owner::Process,
    state::{Record, State},
};

/// How long the call before may take to let go of a machine.
const HANDOVER: Duration = Duration::from_secs(60);
/// How long a machine may be out of reach.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a script has to end that was asked to; then it is forced to.
const GRACE: Duration = Duration::from_secs(10);
/// How much longer than GitLab lets it a job may take, with all that comes before and after it.
const SLACK: SignedDuration = SignedDuration::from_hours(4);

pub async fn prepare(config: &Config, job: &Job) -> Result<(), Failure> {
    if !job.services.is_empty() {
        let services = job.services.join(", ");
        let why = format!(
            "ERROR: services are not to be had here: {services}. Use an image that has them"
        );
        return Err(Failure::Job(None, why));
    }
    if let Some(image) = &job.image {
        println!("WARNING: image {image} is not used: the job runs in the machine's own system");
    }
    let state = State::open(&config.state_dir)?;
    let image = {
        let _lock = state.lock()?;
        sweep_all(config, &state).await?;
        // Of an attempt before this one.
        destroy(config, &state, &job.name).await?;
        let image = image(config, &state).await?;
        let timeout = SignedDuration::try_from(job.timeout).unwrap_or(SignedDuration::MAX);
        let until = Timestamp::now().saturating_add(timeout.saturating_add(SLACK))?;
        let record = Record { image: image.id.clone(), owner: Process::caller(), until };
        state.begin(&job.name, &record)?;
        image
    };
    let resources = config.resources();
    println!("Making a machine of {} vCPUs and {} MiB...", resources.vcpus, resources.memory_mib);
    let hypervisor = open(config, &state, &job.name, For::Making).await?;
    let spec = InstanceSpec {
        name: job.name.clone(),
        profile: profile(),
        image,
        resources,
        network: config.network,
        user_data: None,
    };
    hypervisor.create(&spec).await.context("making the machine")?;
    let ready = async {
        let guest = hypervisor.guest(&job.name).await?;
        guest.ready().await?;
        let id = ProcessId::new("look-for-the-shell")?;
        let look =
            Command::new(["/bin/sh", "-c", r#"command -v "$1""#, "look", config.shell.program()]);
        exec(&*guest, &id, &look, |_| ()).await
    };
    let limit = config.start_timeout();
    let ready = timeout(limit, ready).await;
    let ready = ready.with_context(|| format!("the machine was not ready within {limit:?}"))?;
    let program = config.shell.program();
    if !ready.context("waiting for the machine")?.success() {
        let error =
            anyhow::anyhow!("the image has no {program}: add it, or set `shell` to another");
        return Err(error.into());
    }
    println!("The machine {} is ready: it is this job's alone", job.name);
    Ok(())
}

pub async fn cleanup(config: &Config, job: &Job) -> Result<()> {
    destroy(config, &State::open(&config.state_dir)?, &job.name).await
}

pub async fn sweep(config: &Config) -> Result<()> {
    let state = State::open(&config.state_dir)?;
    let _lock = state.lock()?;
    sweep_all(config, &state).await
}

/// Removes the machines of jobs that are over and were not cleaned up after. Needs the lock.
async fn sweep_all(config: &Config, state: &State) -> Result<()> {
    let now = Timestamp::now();
    for (name, _) in state.jobs()?.into_iter().filter(|(_, record)| record.is_dead(now)) {
        println!("Removing the machine {name}: its job is dead");
        // One that resists is in nobody's way.
        if let Err(error) = destroy(config, state, &name).await {
            eprintln!("warning: {error:#}");
        }
    }
    Ok(())
}

/// Fine if there is none, and if another call does the same.
async fn destroy(config: &Config, state: &State, name: &WorkerName) -> Result<()> {
    if !state.has(name) {
        return Ok(());
    }
    let removing = || format!("removing the machine {name}");
    let hypervisor = open(config, state, name, For::Using).await.with_context(removing)?;
    for instance in hypervisor.instances().await.with_context(removing)? {
        hypervisor.destroy(&instance.name).await.with_context(removing)?;
    }
    drop(hypervisor);
    state.end(name, &config.machine_dir(name, state.root(name)))
}

/// What a hypervisor is opened for.
#[derive(Clone, Copy, PartialEq)]
enum For {
    Making,
    /// Nothing is started: there is no need to find out by what.
    Using,
}

/// The hypervisor of one job, as soon as no other call has it.
async fn open(
    config: &Config,
    state: &State,
    name: &WorkerName,
    purpose: For,
) -> Result<Arc<dyn Hypervisor>> {
    let end = Instant::now() + HANDOVER;
    let root = config.machine_dir(name, state.root(name));
    loop {
        match open_once(config, &root, name, purpose).await {
            Err(Error::Busy { .. }) if Instant::now() < end => {
                sleep(Duration::from_millis(100)).await;
            }
            opened => return Ok(opened?),
        }
    }
}

async fn open_once(
    config: &Config,
    root: &Path,
    name: &WorkerName,
    purpose: For,
) -> runner_core::Result<Arc<dyn Hypervisor>> {
    // A domain of libvirt has its owner in it: no job finds another's.
    let owner = OwnerId::new(name.as_str())?;
    Ok(match &config.hypervisor {
        Engine::Qemu { accel } => {
            let mut qemu = QemuConfig::new(root, owner);
            qemu.accel = if purpose == For::Making { *accel } else { Accel::Tcg };
            Arc::new(QemuHypervisor::open(qemu).await?)
        }
        #[cfg(feature = "libvirt")]
        Engine::Libvirt { uri, accel, .. } => {
            use backend_libvirt::{LibvirtConfig, LibvirtHypervisor, LibvirtUri, Virt};
            let mut libvirt = LibvirtConfig::new(LibvirtUri::new(uri)?, owner, root);
            libvirt.virt = match accel {
                Accel::Kvm => Virt::Kvm,
                Accel::Auto if purpose == For::Making => Virt::Auto,
                Accel::Auto | Accel::Tcg => Virt::Qemu,
            };
            Arc::new(LibvirtHypervisor::open(libvirt).await?)
        }
    })
}

fn profile() -> ProfileName {
    ProfileName::new("job").expect("a word is a valid name")
}

/// The image to boot, built if there is none. Needs the lock.
async fn image(config: &Config, state: &State) -> Result<Image> {
    let store = ImageStore::open(ImageConfig::new(config.images_dir(), config.packages_dir()));
    let store = store.await.context("opening the images")?;
    let (fit, others): (Vec<_>, Vec<_>) = store
        .images()
        .await
        .context("listing the images")?
        .into_iter()
        .partition(|image| image.recipe.kind == config.image);
    if let Some(image) = fit.into_iter().max_by_key(|image| image.built_at) {
        return Ok(image);
    }
    println!("Building the image of all machines...");
    let recipe = Recipe { profile: profile(), kind: config.image.clone() };
    let log = BuildLog::new(|line| println!("{line}"));
    let built = store.build(&recipe, log).await.context("building the image")?;
    let used: Vec<_> = state.jobs()?.into_iter().map(|(_, record)| record.image).collect();
    let ours = |image: &&Image| image.recipe.profile == profile() && !used.contains(&image.id);
    for old in others.iter().filter(ours) {
        store.delete(&old.id).await.context("removing an image that nobody needs")?;
    }
    Ok(built)
}

/// Runs a script in the job's machine. What it writes is written here.
pub async fn run(config: &Config, job: &Job, script: &Path, stage: &str) -> Result<(), Failure> {
    let state = State::open(&config.state_dir)?;
    if !state.has(&job.name) {
        return Err(anyhow::anyhow!("there is no machine {}: was it prepared?", job.name).into());
    }
    let mut asked = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let text = std::fs::read(script).with_context(|| format!("reading {}", script.display()))?;
    let hypervisor = open(config, &state, &job.name, For::Using).await?;
    let guest = hypervisor.guest(&job.name).await.context("reaching the machine")?;
    // A stage may come more than once.
    let id = ProcessId::new(format!("run-{:08x}", rand::random::<u32>()))?;
    let path = format!("/tmp/gitlab-runner/{id}");
    let begin = async {
        guest.write_file(&path, &text, 0o700).await?;
        let command =
            Command { merge_stderr: true, ..Command::new([config.shell.program(), &path]) };
        guest.spawn(&id, &command).await
    };
    timeout(PATIENCE, begin)
        .await
        .context("the machine does not answer")?
        .context("reaching the machine")?;
    let asked = async move {
        tokio::select! { _ = asked.0.recv() => (), _ = asked.1.recv() => () }
    };
    match follow(&*guest, &id, asked).await? {
        Some(exit) if exit.success() => Ok(()),
        Some(exit) => {
            Err(Failure::Job(Some(exit.code()), format!("ERROR: {stage} failed: {exit}")))
        }
        None => {
            Err(Failure::Job(None, format!("ERROR: {stage} was ended, as gitlab-runner wished")))
        }
    }
}

/// Passes on what a process writes until it ends. None if it was `asked` to end, and did or had to.
async fn follow(
    guest: &dyn Guest,
    id: &ProcessId,
    asked: impl Future<Output = ()>,
) -> Result<Option<ExitStatus>> {
    let mut asked = std::pin::pin!(asked);
    let (mut cursor, mut heard) = (Cursor::default(), Instant::now());
    let mut ending: Option<Instant> = None;
    loop {
        let news = tokio::select! {
            biased;
            () = &mut asked, if ending.is_none() => {
                ending = Some(Instant::now());
                guest.kill(id, Signal::Terminate).await.map(|()| Default::default())
            }
            news = guest.follow(id, cursor, Duration::from_secs(1)) => news,
        };
        match news {
            Ok(news) => {
                let mut out = std::io::stdout().lock();
                out.write_all(&news.stdout).and_then(|()| out.flush()).context("writing")?;
                (cursor, heard) = (news.advance(cursor), Instant::now());
                match news.exit {
                    Some(exit) if exit.success() || ending.is_none() => return Ok(Some(exit)),
                    Some(_) => return Ok(None),
                    None => (),
                }
            }
            Err(error @ Error::NotFound { .. }) => {
                return Err(error).context("the machine is gone");
            }
            Err(error) if heard.elapsed() > PATIENCE => {
                return Err(error).context("the machine does not answer");
            }
            Err(_) => sleep(Duration::from_secs(1)).await,
        }
        match ending.map(|since| since.elapsed()) {
            Some(waited) if waited > 3 * GRACE => bail!("the script does not even heed SIGKILL"),
            // What does not arrive is sent again the next time.
            Some(waited) if waited > GRACE => drop(guest.kill(id, Signal::Kill).await),
            _ => (),
        }
    }
}
