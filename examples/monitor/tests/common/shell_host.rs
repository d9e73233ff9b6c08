//! A hypervisor whose machines are directories of this host, and whose guests run real commands there.
//!
//! It outlives the services that use it, as a real one does.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    os::unix::{
        fs::PermissionsExt,
        process::{CommandExt, ExitStatusExt},
    },
    path::PathBuf,
    process,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use runner_core::{
    Capacity, Changes, Error, Guest, Hint, Hypervisor, ImageBuilder, ImageId, ProcessId, Result,
    WorkerName,
    guest::{Command, Cursor, ExitStatus, Progress, Signal},
    hypervisor::{HypervisorCapabilities, Instance, InstanceSpec, InstanceState},
    image::{Boot, BuildLog, Image, Recipe},
};
use tempfile::TempDir;

#[derive(Clone, Default)]
pub struct ShellHost(Arc<Shared>);

#[derive(Default)]
struct Shared {
    machines: Mutex<BTreeMap<WorkerName, Machine>>,
    images: Mutex<Vec<Image>>,
    hint: Hint,
    blind: AtomicBool,
}

struct Machine {
    instance: Instance,
    guest: Arc<ShellGuest>,
}

struct ShellGuest {
    dir: TempDir,
    processes: Mutex<BTreeMap<ProcessId, Process>>,
}

#[derive(Clone)]
struct Process {
    pid: u32,
    exit: Arc<Mutex<Option<ExitStatus>>>,
}

impl ShellHost {
    /// Whether its machines cannot be listed.
    pub fn blind(&self, blind: bool) {
        self.0.blind.store(blind, Ordering::Relaxed);
        self.0.hint.hint();
    }

    pub fn names(&self) -> Vec<String> {
        self.machines().keys().map(ToString::to_string).collect()
    }

    pub fn machine_count(&self) -> usize {
        self.machines().len()
    }

    fn machines(&self) -> MutexGuard<'_, BTreeMap<WorkerName, Machine>> {
        self.0.machines.lock().unwrap()
    }

    fn images(&self) -> MutexGuard<'_, Vec<Image>> {
        self.0.images.lock().unwrap()
    }
}

#[async_trait]
impl Hypervisor for ShellHost {
    fn capabilities(&self) -> HypervisorCapabilities {
        HypervisorCapabilities {
            changes: true,
            guest: true,
            adopts: true,
            ..HypervisorCapabilities::default()
        }
    }

    async fn capacity(&self) -> Result<Capacity> {
        Ok(Capacity { vcpus: 8, memory_mib: 4096, disk_mib: 10_000, ..Capacity::default() })
    }

    async fn create(&self, spec: &InstanceSpec) -> Result<Instance> {
        let machine = Machine {
            instance: Instance {
                name: spec.name.clone(),
                profile: spec.profile.clone(),
                image: spec.image.id.clone(),
                resources: spec.resources.clone(),
                created_at: jiff::Timestamp::now(),
                state: InstanceState::Running,
            },
            guest: Arc::new(ShellGuest {
                dir: tempfile::tempdir().unwrap(),
                processes: Mutex::default(),
            }),
        };
        let mut machines = self.machines();
        let machine = machines.entry(spec.name.clone()).or_insert(machine);
        self.0.hint.hint();
        Ok(machine.instance.clone())
    }

    async fn destroy(&self, name: &WorkerName) -> Result<()> {
        if let Some(machine) = self.machines().remove(name) {
            for process in machine.guest.processes.lock().unwrap().values() {
                process.signal("KILL");
            }
        }
        self.0.hint.hint();
        Ok(())
    }

    async fn instances(&self) -> Result<Vec<Instance>> {
        if self.0.blind.load(Ordering::Relaxed) {
            return Err(Error::backend("host", "list", std::io::Error::other("told to fail")));
        }
        let machines = self.machines();
        Ok(machines.values().map(|m| m.instance.clone()).collect())
    }

    fn changes(&self) -> Changes {
        self.0.hint.changes()
    }

    async fn guest(&self, name: &WorkerName) -> Result<Arc<dyn Guest>> {
        match self.machines().get(name) {
            Some(machine) => Ok(machine.guest.clone()),
            None => Err(Error::not_found(format!("instance {name}"))),
        }
    }
}

#[async_trait]
impl ImageBuilder for ShellHost {
    async fn build(&self, recipe: &Recipe, log: BuildLog) -> Result<Image> {
        log.line("nothing to build");
        let image = Image {
            id: ImageId::new(format!("{}.1", recipe.profile))?,
            recipe: recipe.clone(),
            built_at: jiff::Timestamp::now(),
            digest: "0".repeat(64),
            size_bytes: 0,
            boot: Boot::Kernel {
                kernel: "/kernel".into(),
                initrd: "/initrd".into(),
                command_line: String::new(),
            },
        };
        self.images().push(image.clone());
        Ok(image)
    }

    async fn delete(&self, id: &ImageId) -> Result<()> {
        self.images().retain(|image| image.id != *id);
        Ok(())
    }

    async fn images(&self) -> Result<Vec<Image>> {
        Ok(self.images().clone())
    }
}

impl ShellGuest {
    /// Where a guest's path is on this host. Other paths are this host's own, for programs.
    fn place(&self, path: &str) -> PathBuf {
        let ours = path.starts_with("/work") || path.starts_with("/run/runner-job");
        if ours { self.dir.path().join(&path[1..]) } else { path.into() }
    }

    fn process(&self, id: &ProcessId) -> Result<Process> {
        let processes = self.processes.lock().unwrap();
        let process = processes.get(id).cloned();
        process.ok_or_else(|| Error::not_found(format!("process {id}")))
    }

    fn output(&self, id: &ProcessId) -> PathBuf {
        self.dir.path().join(format!("{id}.out"))
    }
}

impl Process {
    fn exit(&self) -> Option<ExitStatus> {
        *self.exit.lock().unwrap()
    }

    fn signal(&self, signal: &str) {
        if self.exit().is_none() {
            let group = format!("-{}", self.pid);
            let _ = process::Command::new("kill").args(["-s", signal, "--", &group]).status();
        }
    }
}

#[async_trait]
impl Guest for ShellGuest {
    async fn ready(&self) -> Result<()> {
        Ok(())
    }

    async fn spawn(&self, id: &ProcessId, command: &Command) -> Result<()> {
        let mut processes = self.processes.lock().unwrap();
        if processes.contains_key(id) {
            return Ok(());
        }
        let out = File::create(self.output(id)).unwrap();
        let dir = self.place(command.working_dir.as_deref().unwrap_or("/work"));
        fs::create_dir_all(&dir).unwrap();
        let argv: Vec<PathBuf> = command.argv.iter().map(|arg| self.place(arg)).collect();
        let child = process::Command::new(&argv[0])
            .args(&argv[1..])
            .envs(&command.env)
            .current_dir(dir)
            .process_group(0)
            .stdin(process::Stdio::null())
            .stderr(out.try_clone().unwrap())
            .stdout(out)
            .spawn();
        let exit = Arc::new(Mutex::new(None));
        let pid = match child {
            Err(_) => {
                *exit.lock().unwrap() = Some(ExitStatus::Code(127));
                0
            }
            Ok(mut child) => {
                let (pid, exit) = (child.id(), exit.clone());
                std::thread::spawn(move || {
                    let status = child.wait().unwrap();
                    let ended = match (status.code(), status.signal()) {
                        (Some(code), _) => ExitStatus::from_shell(code as u8),
                        (None, signal) => ExitStatus::Signal(signal.unwrap_or(9) as u8),
                    };
                    *exit.lock().unwrap() = Some(ended);
                });
                pid
            }
        };
        processes.insert(id.clone(), Process { pid, exit });
        Ok(())
    }

    async fn follow(&self, id: &ProcessId, from: Cursor, wait: Duration) -> Result<Progress> {
        let process = self.process(id)?;
        let until = Instant::now() + wait;
        loop {
            // Its end first: what was written before it is then read in full.
            let exit = process.exit();
            let mut file = File::open(self.output(id)).unwrap();
            file.seek(SeekFrom::Start(from.stdout)).unwrap();
            let mut text = Vec::new();
            file.take(64 << 10).read_to_end(&mut text).unwrap();
            if !text.is_empty() || exit.is_some() || Instant::now() >= until {
                let exit = if text.is_empty() { exit } else { None };
                return Ok(Progress { stdout: text.into(), stderr: Bytes::new(), exit });
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn kill(&self, id: &ProcessId, signal: Signal) -> Result<()> {
        self.process(id)?.signal(match signal {
            Signal::Terminate => "TERM",
            Signal::Kill => "KILL",
        });
        Ok(())
    }

    async fn running(&self) -> Result<Vec<ProcessId>> {
        let processes = self.processes.lock().unwrap();
        let running = processes.iter().filter(|(_, p)| p.exit().is_none());
        Ok(running.map(|(id, _)| id.clone()).collect())
    }

    async fn write_file(&self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        let path = self.place(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        Ok(())
    }

    async fn read_file(&self, path: &str, offset: u64, max_bytes: usize) -> Result<Bytes> {
        let content =
            fs::read(self.place(path)).map_err(|_| Error::not_found(format!("file {path}")))?;
        let rest = content.get(offset as usize..).unwrap_or_default();
        Ok(Bytes::copy_from_slice(&rest[..rest.len().min(max_bytes)]))
    }
}
