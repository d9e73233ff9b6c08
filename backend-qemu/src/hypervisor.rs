//! The hypervisor itself: every promise of the trait, kept by the files around.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use machine_disks::{Mark, admission};
use runner_core::{
    Capacity, Changes, Error, Guest, Hint, Hypervisor, Resources, Result, WorkerName,
    hypervisor::{
        Console, ExitReason, HypervisorCapabilities, Instance, InstanceSpec, InstanceState, Png,
    },
};
use serde_json::json;
use tokio::{process::Child, time::timeout};
use tracing::Instrument;

use crate::{
    accel::{self, Choice},
    argv,
    config::QemuConfig,
    console, create,
    directory::{Found, Root},
    error::{self, backend, blocking},
    host,
    instance_dir::{InstanceDir, STDERR},
    process,
    watch::{COMPLAINTS, Running},
};

/// How long QEMU may take to answer for the first time. It takes milliseconds.
const START: Duration = Duration::from_secs(30);
/// How long a watcher may take to say why an instance ended.
const CONCLUDE: Duration = Duration::from_secs(3);
const SCREENSHOT: Duration = Duration::from_secs(10);

/// QEMU on this host. See [`Hypervisor`] for what it promises.
///
/// Dropping it leaves its instances running; the next one that is opened on the same root adopts them.
pub struct QemuHypervisor(Arc<Inner>);

struct Inner {
    config: QemuConfig,
    choice: Choice,
    root: Arc<Root>,
    hint: Hint,
    running: Mutex<HashMap<WorkerName, Arc<Running>>>,
    names: Mutex<HashMap<WorkerName, Weak<tokio::sync::Mutex<()>>>>,
    /// Held from looking for room until the room is taken.
    admission: tokio::sync::Mutex<()>,
}

impl QemuHypervisor {
    /// Takes charge of the configured root, sweeps what was cut short and adopts what runs there.
    ///
    /// # Errors
    /// `Busy` while another process has the root, `Invalid` if it is another owner's, `Backend` when it
    /// cannot be used, or QEMU cannot be run to see which accelerator works.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn open(config: QemuConfig) -> Result<Self> {
        let (path, owner) = (config.root.clone(), config.owner.clone());
        let root = blocking("open the root", move || Root::open(&path, &owner)).await?;
        let strays = process::end_strays(root.path(), None).await;
        strays.map_err(|error| error::io("end machines without a directory", error))?;
        let choice = accel::choose(&config, &config.root).await?;
        let inner = Arc::new(Inner {
            config,
            choice,
            root: Arc::new(root),
            hint: Hint::default(),
            running: Mutex::default(),
            names: Mutex::default(),
            admission: tokio::sync::Mutex::default(),
        });
        for found in inner.list().await? {
            let name = &found.mark.name;
            let alive = found.directory.is_alive();
            if alive.map_err(|error| error::io(format!("look at {name}"), error))? {
                tracing::info!(worker = %name, "Adopted an instance.");
                inner.watch(name, &found.directory, None);
            }
        }
        Ok(Self(inner))
    }

    /// What runs the guests' code, and why.
    pub fn accel(&self) -> &Choice {
        &self.0.choice
    }
}

#[async_trait]
impl Hypervisor for QemuHypervisor {
    fn capabilities(&self) -> HypervisorCapabilities {
        HypervisorCapabilities {
            changes: true,
            guest: true,
            screenshot: true,
            console: true,
            adopts: true,
        }
    }

    async fn capacity(&self) -> Result<Capacity> {
        self.0.capacity().await
    }

    async fn create(&self, spec: &InstanceSpec) -> Result<Instance> {
        // In a task of its own: a caller who is dropped must not leave a process that nobody watches.
        let (inner, spec) = (self.0.clone(), spec.clone());
        let create = tokio::spawn(async move { inner.create(&spec).await }.in_current_span());
        create.await.map_err(|error| backend("create an instance", error))?
    }

    async fn destroy(&self, name: &WorkerName) -> Result<()> {
        let (inner, name) = (self.0.clone(), name.clone());
        let destroy = tokio::spawn(async move { inner.destroy(&name).await }.in_current_span());
        destroy.await.map_err(|error| backend("destroy an instance", error))?
    }

    async fn instances(&self) -> Result<Vec<Instance>> {
        let mut all = Vec::new();
        for found in self.0.list().await? {
            all.extend(self.0.look(&found.mark.name).await?);
        }
        Ok(all)
    }

    fn changes(&self) -> Changes {
        self.0.hint.changes()
    }

    async fn screenshot(&self, name: &WorkerName) -> Result<Png> {
        let (running, directory) = self.0.alive(name).await?;
        let doing = || format!("take a screenshot of {name}");
        let Some(qmp) = running.qmp() else {
            return Err(backend(doing(), "qemu does not answer"));
        };
        let file = format!("screen-{:08x}.png", rand::random::<u32>());
        let arguments = json!({ "filename": file, "format": "png" });
        let result = qmp.call("screendump", arguments, SCREENSHOT).await;
        let content = tokio::fs::read(directory.join(&file)).await;
        // What it cannot remove goes with the instance.
        let _ = tokio::fs::remove_file(directory.join(&file)).await;
        match result {
            Ok(_) => Ok(Png(content.map_err(|error| error::io(doing(), error))?.into())),
            Err(_) if !is_alive(name, &directory)? => Err(error::no_instance(name)),
            Err(error) => Err(backend(doing(), error)),
        }
    }

    async fn console(&self, name: &WorkerName, follow: bool) -> Result<Console> {
        let found = self.0.find(name).await?.ok_or_else(|| error::no_instance(name))?;
        console::read(found.directory, follow)
    }

    async fn guest(&self, name: &WorkerName) -> Result<Arc<dyn Guest>> {
        let (running, _) = self.0.alive(name).await?;
        Ok(running.guest.clone())
    }
}

impl Inner {
    async fn create(self: &Arc<Self>, spec: &InstanceSpec) -> Result<Instance> {
        let name = &spec.name;
        let turn = self.turn(name);
        let _turn = turn.lock().await;
        if let Some(instance) = self.look(name).await? {
            return Ok(instance);
        }
        let checked = spec.clone();
        blocking("look at an image", move || admission::check_spec(&checked)).await?;

        let mark = Mark::of(spec, &self.config.owner, Timestamp::now());
        let (directory, lock) = {
            let _admission = self.admission.lock().await;
            let capacity = self.capacity().await?;
            admission::check_room(&capacity, &self.used().await?, spec)?;
            let (root, mark) = (self.root.clone(), mark.clone());
            blocking("make a directory", move || {
                root.sweep()?;
                root.make(&mark)
            })
            .await?
        };

        let result = match self.launch(spec, &directory, lock).await {
            Ok(child) => self.start(name, &directory, child).await,
            Err(error) => {
                // It never ran, so there is nothing in it that anyone could want.
                let (root, found) =
                    (self.root.clone(), Found { directory: directory.clone(), mark: mark.clone() });
                let removed = blocking("remove an instance", move || root.remove(&found)).await;
                if let Err(error) = removed {
                    tracing::warn!(worker = %name, error = runner_core::error::chain(&error), "Could not remove an instance that did not start.");
                }
                Err(error)
            }
        };
        if let Err(error) = &result {
            // What is left is listed, with the reason, until it is destroyed.
            let reason = ExitReason::Crashed(runner_core::error::chain(error));
            match directory.set_exit(&reason) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(worker = %name, %error, "Could not remember why an instance did not start.");
                }
                _ => {}
            }
        }
        self.hint.hint();
        result.map(|()| mark.instance(InstanceState::Running))
    }

    /// Runs QEMU in a fresh directory, once its files are there.
    async fn launch(
        &self,
        spec: &InstanceSpec,
        directory: &InstanceDir,
        lock: std::fs::File,
    ) -> Result<Child> {
        let furnish = {
            let (spec, directory) = (spec.clone(), directory.clone());
            move || create::furnish(&spec, &directory)
        };
        let extras = blocking("make an instance's files", furnish).await?;
        let argv = argv::argv(spec, self.choice.engine, extras);
        process::spawn(&self.config.qemu, &argv, directory, lock).map_err(|error| {
            let (doing, program) = (format!("start {}", spec.name), self.config.qemu.display());
            match error.kind() {
                std::io::ErrorKind::NotFound => backend(doing, format!("{program}: {error}")),
                _ => error::io(doing, error),
            }
        })
    }

    /// Returns when a QEMU that runs answers.
    async fn start(&self, name: &WorkerName, directory: &InstanceDir, child: Child) -> Result<()> {
        let doing = || format!("start {name}");
        let running = self.watch(name, directory, Some(child));
        let started = timeout(START, running.started()).await;
        if started == Ok(true) {
            return Ok(());
        }
        let complaints = directory.tail(STDERR, COMPLAINTS);
        Err(match started {
            Err(_) => {
                // Whatever it is doing, it is no instance.
                process::stop(name, directory, None).await?;
                backend(doing(), format!("qemu does not answer: {complaints}"))
            }
            Ok(_) => backend(doing(), format!("qemu ended at once: {complaints}")),
        })
    }

    async fn destroy(&self, name: &WorkerName) -> Result<()> {
        let turn = self.turn(name);
        let _turn = turn.lock().await;
        let Some(found) = self.find(name).await? else {
            self.forget(name);
            let ended = process::end_strays(self.root.path(), Some(name)).await;
            return ended.map_err(|error| error::io(format!("stop {name}"), error));
        };
        let running = self.running(name);
        let qmp = running.as_ref().and_then(|running| running.qmp());
        process::stop(name, &found.directory, qmp).await?;
        if let Some(running) = running {
            // It writes into the directory that is about to go.
            let _ = timeout(CONCLUDE, running.ended()).await;
        }
        self.forget(name);
        let root = self.root.clone();
        blocking("remove an instance", move || root.remove(&found)).await?;
        self.hint.hint();
        Ok(())
    }

    /// The instance of this name as the list has it.
    async fn look(&self, name: &WorkerName) -> Result<Option<Instance>> {
        let Some(found) = self.find(name).await? else {
            return Ok(None);
        };
        if let Some(running) = self.running(name)
            && !is_alive(name, &found.directory)?
        {
            // It died this instant: why is being written down.
            let _ = timeout(CONCLUDE, running.ended()).await;
        }
        // It may have been destroyed meanwhile.
        match self.find(name).await? {
            Some(found) => found.instance().map(Some),
            None => Ok(None),
        }
    }

    async fn find(&self, name: &WorkerName) -> Result<Option<Found>> {
        let (root, name) = (self.root.clone(), name.clone());
        blocking("find an instance", move || root.find(&name)).await
    }

    async fn list(&self) -> Result<Vec<Found>> {
        let root = self.root.clone();
        blocking("list the instances", move || root.list()).await
    }

    /// What the listed instances hold.
    async fn used(&self) -> Result<Resources> {
        let mut used = Resources::default();
        for found in self.list().await? {
            used.add(&found.mark.resources);
        }
        Ok(used)
    }

    async fn capacity(&self) -> Result<Capacity> {
        if let Some(capacity) = &self.config.capacity {
            return Ok(capacity.clone());
        }
        let root = self.root.clone();
        blocking("measure the host", move || {
            let used =
                root.list()?.iter().map(|found| host::used_mib(found.directory.path())).sum();
            host::capacity(root.path(), used).map_err(|error| error::io("measure the host", error))
        })
        .await
    }

    /// A running instance and its directory.
    async fn alive(&self, name: &WorkerName) -> Result<(Arc<Running>, InstanceDir)> {
        let gone = || error::no_instance(name);
        let directory = self.find(name).await?.ok_or_else(gone)?.directory;
        if !is_alive(name, &directory)? {
            return Err(gone());
        }
        // Between its making and its start.
        let running = self.running(name).ok_or_else(|| Error::busy(format!("instance {name}")))?;
        Ok((running, directory))
    }

    fn watch(
        &self,
        name: &WorkerName,
        directory: &InstanceDir,
        child: Option<Child>,
    ) -> Arc<Running> {
        let hint = self.hint.clone();
        let running = Arc::new(Running::start(name.clone(), directory.clone(), child, hint));
        let mut all = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(name.clone(), running.clone());
        running
    }

    fn running(&self, name: &WorkerName) -> Option<Arc<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn forget(&self, name: &WorkerName) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// Creations and destructions of one name take turns.
    fn turn(&self, name: &WorkerName) -> Arc<tokio::sync::Mutex<()>> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.retain(|_, turn| turn.strong_count() > 0);
        let turn = names.get(name).and_then(Weak::upgrade).unwrap_or_default();
        names.insert(name.clone(), Arc::downgrade(&turn));
        turn
    }
}

fn is_alive(name: &WorkerName, directory: &InstanceDir) -> Result<bool> {
    directory.is_alive().map_err(|error| error::io(format!("look at {name}"), error))
}
