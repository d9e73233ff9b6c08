//! Machines on paper: a file each, so that they outlive the service that made them, as real ones do.

use std::{
    fs,
    io::ErrorKind,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU8, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use runner_core::{
    Capacity, Error, Hypervisor, ImageBuilder, ImageId, ProfileName, Result, WorkerName,
    hypervisor::{ExitReason, HypervisorCapabilities, Instance, InstanceSpec, InstanceState, Png},
    image::{Boot, BuildLog, Image, Recipe},
};

/// What of a machine is on paper beside its file.
pub const TOLD: &str = "told";
pub const STOPPED: &str = "stopped";
pub const ADDRESSES: &str = "addresses";
/// It cannot be destroyed.
pub const JAMMED: &str = "jammed";

/// The machines and images of a directory.
pub struct PaperHost {
    machines: PathBuf,
    images: PathBuf,
    pictures: AtomicU8,
}

impl PaperHost {
    pub fn open(dir: &Path) -> Self {
        let (machines, images) = (dir.join("machines"), dir.join("images"));
        fs::create_dir_all(&machines).unwrap();
        fs::create_dir_all(&images).unwrap();
        Self { machines, images, pictures: AtomicU8::new(0) }
    }

    fn path(&self, name: &WorkerName, kind: &str) -> PathBuf {
        self.machines.join(format!("{name}.{kind}"))
    }
}

/// The names of the machines in a directory of a [`PaperHost`].
pub fn machines(dir: &Path) -> Vec<String> {
    let Ok(files) = fs::read_dir(dir.join("machines")) else { return Vec::new() };
    let names = files.flatten().map(|file| file.file_name().into_string().unwrap());
    let mut names: Vec<String> =
        names.filter_map(|name| name.strip_suffix(".json").map(str::to_owned)).collect();
    names.sort();
    names
}

/// Whole under its name, or not there.
pub fn write(file: &Path, text: &str) {
    let partial = PathBuf::from(format!("{}.partial", file.display()));
    fs::write(&partial, text).unwrap();
    fs::rename(partial, file).unwrap();
}

fn lost(error: std::io::Error) -> Error {
    Error::backend("paper", "use its files", error)
}

#[async_trait]
impl Hypervisor for PaperHost {
    fn capabilities(&self) -> HypervisorCapabilities {
        HypervisorCapabilities { screenshot: true, adopts: true, ..Default::default() }
    }

    async fn capacity(&self) -> Result<Capacity> {
        let memory_mib = 1 << 20;
        Ok(Capacity { vcpus: 1000, memory_mib, disk_mib: 1 << 20, ..Capacity::default() })
    }

    async fn create(&self, spec: &InstanceSpec) -> Result<Instance> {
        let instance = Instance {
            name: spec.name.clone(),
            profile: spec.profile.clone(),
            image: spec.image.id.clone(),
            resources: spec.resources.clone(),
            created_at: jiff::Timestamp::now(),
            state: InstanceState::Running,
        };
        if let Some(told) = &spec.user_data {
            write(&self.path(&spec.name, TOLD), told.expose());
        }
        let text = serde_json::to_string(&instance).unwrap();
        write(&self.path(&spec.name, "json"), &text);
        Ok(instance)
    }

    async fn destroy(&self, name: &WorkerName) -> Result<()> {
        if self.path(name, JAMMED).exists() {
            return Err(lost(std::io::Error::other("it is jammed")));
        }
        for kind in [TOLD, STOPPED, ADDRESSES, "json"] {
            match fs::remove_file(self.path(name, kind)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(lost(error)),
                _ => (),
            }
        }
        Ok(())
    }

    async fn instances(&self) -> Result<Vec<Instance>> {
        let mut all = Vec::new();
        for file in fs::read_dir(&self.machines).map_err(lost)? {
            let path = file.map_err(lost)?.path();
            if path.extension().is_none_or(|kind| kind != "json") {
                continue;
            }
            // One that goes this moment is not there.
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let mut instance: Instance = serde_json::from_str(&text).unwrap();
            if self.path(&instance.name, STOPPED).exists() {
                instance.state = InstanceState::Stopped(ExitReason::GuestShutdown);
            }
            all.push(instance);
        }
        Ok(all)
    }

    async fn screenshot(&self, name: &WorkerName) -> Result<Png> {
        if !self.path(name, "json").exists() {
            return Err(Error::not_found(format!("instance {name}")));
        }
        let shade = self.pictures.fetch_add(1, Ordering::Relaxed);
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, 1, 1);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.write_header().unwrap().write_image_data(&[shade]).unwrap();
        Ok(Png(Bytes::from(file)))
    }

    async fn given_addresses(&self, name: &WorkerName) -> Result<Vec<IpAddr>> {
        let text = fs::read_to_string(self.path(name, ADDRESSES)).unwrap_or_default();
        Ok(text.lines().map(|line| line.parse().unwrap()).collect())
    }
}

#[async_trait]
impl ImageBuilder for PaperHost {
    async fn build(&self, recipe: &Recipe, _: BuildLog) -> Result<Image> {
        let now = jiff::Timestamp::now();
        let gate = self.images.join(format!("{}.wait", recipe.profile));
        while gate.exists() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let id = ImageId::new(format!("{}.{}", recipe.profile, now.as_millisecond()))?;
        let image = Image {
            id: id.clone(),
            recipe: recipe.clone(),
            built_at: now,
            digest: "0".repeat(64),
            size_bytes: 1,
            boot: Boot::Kernel {
                kernel: "/nowhere/kernel".into(),
                initrd: "/nowhere/initrd".into(),
                command_line: String::new(),
            },
        };
        write(&self.images.join(format!("{id}.json")), &serde_json::to_string(&image).unwrap());
        Ok(image)
    }

    async fn delete(&self, id: &ImageId) -> Result<()> {
        let _ = fs::remove_file(self.images.join(format!("{id}.json")));
        Ok(())
    }

    async fn images(&self) -> Result<Vec<Image>> {
        let files = fs::read_dir(&self.images).map_err(lost)?.flatten();
        let json = files.filter(|file| file.path().extension().is_some_and(|kind| kind == "json"));
        let texts = json.filter_map(|file| fs::read_to_string(file.path()).ok());
        Ok(texts.map(|text| serde_json::from_str(&text).unwrap()).collect())
    }
}

/// Keeps the builds of a profile waiting, or lets them go on.
pub fn hold_builds(dir: &Path, profile: &ProfileName, hold: bool) {
    let gate = dir.join("images").join(format!("{profile}.wait"));
    if hold {
        fs::write(gate, "").unwrap();
    } else {
        let _ = fs::remove_file(gate);
    }
}
