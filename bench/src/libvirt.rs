//! What is asked of libvirt over one lasting connection, beside the same asked by a `virsh` for each.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use backend_libvirt::{LibvirtConfig, LibvirtHypervisor, LibvirtUri, NetworkConfig, network::Plug};
use backend_qemu::{ImageConfig, ImageStore};
use machine_disks::overlay;
use runner_core::{
    Hypervisor, ImageBuilder, OwnerId, Resources, WorkerName,
    hypervisor::{InstanceSpec, Network},
    image::{BuildLog, DiskFormat, Image},
};

use crate::{
    pools::profile,
    table::{Table, median},
};

const ROUNDS: usize = 20;
const SLOW_ROUNDS: usize = 5;
const MANY: usize = 100;

pub async fn measure(table: &mut Table) -> anyhow::Result<()> {
    let cache = PathBuf::from("cache/images");
    std::fs::create_dir_all(&cache)?;
    let cache = cache.canonicalize()?;
    let dir = tempfile::tempdir_in(&cache)?;
    // Paths of sockets are short.
    let place = tempfile::Builder::new().prefix("lv").tempdir()?;
    let Some(daemon) = Daemon::start(place.path())? else {
        table.number("libvirt", "skipped: no libvirtd, or not root".to_owned(), "");
        return Ok(());
    };
    let images = ImageStore::open(ImageConfig::new(dir.path().join("images"), cache)).await?;
    let image = images.build(&profile(1, 1)?.recipe, BuildLog::silent()).await?;
    let uri = LibvirtUri::new(&daemon.uri)?;
    let mut config = LibvirtConfig::new(uri, OwnerId::new("bench")?, dir.path().join("machines"));
    config.network = NetworkConfig { plug: Plug::User, ..NetworkConfig::default() };
    config.capacity = Some(Resources { vcpus: 1000, memory_mib: 1 << 20, ..Resources::default() });
    let hypervisor = LibvirtHypervisor::open(config).await?;

    disks(table, dir.path())?;
    one(table, &daemon, &hypervisor, &image).await?;
    many(table, &daemon, &hypervisor, &image).await?;
    for instance in hypervisor.instances().await? {
        hypervisor.destroy(&instance.name).await?;
    }
    Ok(())
}

/// The disk of a machine over that of its image.
fn disks(table: &mut Table, dir: &Path) -> anyhow::Result<()> {
    let (base, disk) = (dir.join("base.raw"), dir.join("disk.qcow2"));
    std::fs::File::create(&base)?.set_len(1 << 30)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let began = Instant::now();
        overlay::create(&disk, 1 << 30, Some((&base, DiskFormat::Raw)))?;
        ours.push(began.elapsed());
        std::fs::remove_file(&disk)?;
        let began = Instant::now();
        let mut qemu_img = Command::new("qemu-img");
        qemu_img.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).arg(&base).arg(&disk);
        ensure!(qemu_img.status()?.success());
        theirs.push(began.elapsed());
        std::fs::remove_file(&disk)?;
    }
    table.times("a machine's disk, over its image's", &ours, "");
    table.times("  by qemu-img", &theirs, "");
    let ratio = median(&theirs).as_secs_f64() / median(&ours).as_secs_f64();
    table.number("  so many times as fast", format!("{ratio:.0} x"), "");
    Ok(())
}

/// Each operation on one machine.
async fn one(
    table: &mut Table,
    daemon: &Daemon,
    hypervisor: &LibvirtHypervisor,
    image: &Image,
) -> anyhow::Result<()> {
    let (mut create, mut destroy) = (Vec::new(), Vec::new());
    let (mut define, mut undefine) = (Vec::new(), Vec::new());
    let file = tempfile::NamedTempFile::new()?;
    for round in 0..SLOW_ROUNDS {
        let spec = spec(&format!("one-{round}"), image)?;
        create.push(time(hypervisor.create(&spec)).await?);
        let document = daemon.virsh(&["dumpxml", "--inactive", spec.name.as_str()])?;
        std::fs::write(file.path(), &document)?;
        destroy.push(time(hypervisor.destroy(&spec.name)).await?);
        // What virsh is given is made already: the place of the files, and the document.
        let directory = directory(&document).context("a console's log")?;
        std::fs::create_dir_all(&directory)?;
        let (path, name) = (file.path().to_str().context("a path")?, spec.name.as_str());
        define.push(daemon.time(&[&["define", path], &["start", name]])?);
        undefine.push(daemon.time(&[&["destroy", name], &["undefine", name]])?);
        std::fs::remove_dir_all(&directory)?;
    }
    beside(table, "create: a machine, with its disks", &create, "define, start", &define, "");
    beside(
        table,
        "destroy: a machine, with its disks",
        &destroy,
        "destroy, undefine",
        &undefine,
        "",
    );

    let spec = spec("one", image)?;
    hypervisor.create(&spec).await?;
    let name = spec.name.as_str();
    hypervisor.guest(&spec.name).await?.ready().await?;
    let (mut list, mut screenshot, mut guest) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        list.push(time(hypervisor.instances()).await?);
        screenshot.push(time(hypervisor.screenshot(&spec.name)).await?);
        let inside = hypervisor.guest(&spec.name).await?;
        guest.push(time(inside.ready()).await?);
    }
    let file = file.path().to_str().context("a path")?;
    let ping = r#"{"execute":"guest-ping"}"#;
    let theirs = |words: &[&str]| -> anyhow::Result<Vec<Duration>> {
        (0..ROUNDS).map(|_| daemon.time(&[words])).collect()
    };
    beside(table, "list: one machine", &list, "list --all", &theirs(&["list", "--all"])?, "100 x");
    beside(
        table,
        "screenshot",
        &screenshot,
        "screenshot",
        &theirs(&["screenshot", name, file])?,
        "",
    );
    let pings = theirs(&["qemu-agent-command", name, ping])?;
    beside(table, "a word with the guest's agent", &guest, "qemu-agent-command", &pings, "");
    hypervisor.destroy(&spec.name).await?;
    Ok(())
}

/// A look at many machines.
async fn many(
    table: &mut Table,
    daemon: &Daemon,
    hypervisor: &LibvirtHypervisor,
    image: &Image,
) -> anyhow::Result<()> {
    let mut names = Vec::new();
    for number in 0..MANY {
        let spec = spec(&format!("many-{number}"), image)?;
        hypervisor.create(&spec).await?;
        // Two processors cannot emulate a hundred; what they do does not matter to who looks.
        daemon.virsh(&["suspend", spec.name.as_str()])?;
        names.push(spec.name);
    }
    let (mut list, mut look) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        list.push(time(hypervisor.instances()).await?);
    }
    for _ in 0..SLOW_ROUNDS {
        let began = Instant::now();
        ensure!(hypervisor.instances().await?.len() == MANY);
        for name in &names {
            hypervisor.screenshot(name).await?;
        }
        look.push(began.elapsed());
    }
    let lists = (0..ROUNDS).map(|_| daemon.time(&[&["list", "--all"]]));
    let lists = lists.collect::<anyhow::Result<Vec<_>>>()?;
    let what = format!("list: {MANY} machines, states and marks");
    beside(table, &what, &list, "list --all, names and states", &lists, "");

    let file = tempfile::NamedTempFile::new()?;
    let file = file.path().to_str().context("a path")?;
    let began = Instant::now();
    daemon.virsh(&["list", "--all", "--name"])?;
    for name in &names {
        for source in ["lease", "agent", "arp"] {
            daemon.try_virsh(&["domifaddr", name.as_str(), "--source", source])?;
        }
        daemon.virsh(&["screenshot", name.as_str(), file])?;
    }
    let theirs = [began.elapsed()];
    let what = format!("a look at {MANY} machines, as the pool does it");
    beside(table, &what, &list, "as Servo's monitor does it", &theirs, "");
    let what = format!("the same, with a picture of all {MANY}");
    beside(table, &what, &look, "as Servo's monitor does it", &theirs, "");
    Ok(())
}

fn beside(
    table: &mut Table,
    what: &str,
    ours: &[Duration],
    virsh: &str,
    theirs: &[Duration],
    aim: &str,
) {
    table.times(what, ours, "");
    table.times(&format!("  by virsh: {virsh}"), theirs, "");
    let ratio = median(theirs).as_secs_f64() / median(ours).as_secs_f64();
    table.number("  so many times as fast", format!("{ratio:.1} x"), aim);
}

async fn time<T, E>(work: impl Future<Output = Result<T, E>>) -> anyhow::Result<Duration>
where
    anyhow::Error: From<E>,
{
    let began = Instant::now();
    work.await?;
    Ok(began.elapsed())
}

fn spec(name: &str, image: &Image) -> anyhow::Result<InstanceSpec> {
    Ok(InstanceSpec {
        name: WorkerName::new(name)?,
        profile: image.recipe.profile.clone(),
        image: image.clone(),
        resources: Resources { vcpus: 1, memory_mib: 192, ..Resources::default() },
        network: Network::Open,
        user_data: None,
    })
}

/// Where the files of a domain's own are.
fn directory(document: &str) -> Option<PathBuf> {
    let mut quoted = document.split(['"', '\'']).map(Path::new);
    let log = quoted.find(|path| path.is_absolute() && path.extension() == Some("log".as_ref()))?;
    log.parent().map(Path::to_owned)
}

/// A libvirtd of its own. It ends with this.
struct Daemon {
    child: Child,
    uri: String,
}

impl Daemon {
    fn start(directory: &Path) -> anyhow::Result<Option<Self>> {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/libvirtd");
        let mut child = Command::new(program)
            .arg(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("its output")?;
        match BufReader::new(stdout).lines().next().transpose()? {
            Some(uri) => Ok(Some(Self { child, uri })),
            None => {
                child.wait()?;
                Ok(None)
            }
        }
    }

    fn try_virsh(&self, words: &[&str]) -> anyhow::Result<std::process::Output> {
        Ok(Command::new("virsh").args(["-q", "-c", &self.uri]).args(words).output()?)
    }

    fn virsh(&self, words: &[&str]) -> anyhow::Result<String> {
        let output = self.try_virsh(words)?;
        if !output.status.success() {
            bail!("virsh {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// How long some commands take, one after the other.
    fn time(&self, commands: &[&[&str]]) -> anyhow::Result<Duration> {
        let began = Instant::now();
        for words in commands {
            self.virsh(words)?;
        }
        Ok(began.elapsed())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}
