//! Which accelerator works here, found out by running a guest on it for an instant.
//!
//! That `/dev/kvm` opens says little: inside some virtual machines, guests on it stop at their first
//! instructions or run a thousand times too slowly. So the probe boots a real machine with the processor model
//! that instances get, through its firmware, to a boot sector that ends QEMU with a status of its own.

use std::{fs, io, path::Path, process::Stdio, time::Duration};

use runner_core::Result;
use tokio::{
    io::AsyncReadExt,
    process::Command,
    time::{Instant, timeout},
};

use crate::{
    argv::Engine,
    config::{Accel, QemuConfig},
    environment, error,
};

/// A working KVM takes a tenth of this, and so does TCG.
const PATIENCE: Duration = Duration::from_millis(1500);
/// `isa-debug-exit` turns a byte into an exit status: twice the byte and one more.
const BYTE: u8 = 0x10;
const STATUS: i32 = 2 * BYTE as i32 + 1;
const BOOT_SECTOR: &str = "probe.img";

/// The engine in use, and why this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What runs the guests' code.
    pub engine: Engine,
    /// Why, in words for the operator.
    pub why: String,
}

/// Decides what runs the guests' code, by trying if the operator leaves it to us.
///
/// # Errors
/// `Backend` when QEMU cannot be run at all.
pub(crate) async fn choose(config: &QemuConfig, scratch: &Path) -> Result<Choice> {
    if let Some(engine) = Engine::forced(config.accel) {
        let why = "the configuration says so".to_owned();
        return Ok(Choice { engine, why });
    }
    debug_assert_eq!(config.accel, Accel::Auto);
    let fail = |error| error::io(format!("run {}", config.qemu.display()), error);
    let choice = match probe(&config.qemu, Engine::Kvm, scratch).await.map_err(fail)? {
        Ok(took) => Choice {
            engine: Engine::Kvm,
            why: format!("a guest ran on KVM, in {} ms", took.as_millis()),
        },
        Err(reason) => {
            Choice { engine: Engine::Tcg, why: format!("KVM does not work here: {reason}") }
        }
    };
    tracing::info!(engine = ?choice.engine, why = choice.why, "Chose an accelerator.");
    Ok(choice)
}

/// Runs a guest on `engine`: how long that took, or in words why it did not.
///
/// # Errors
/// Those of running the program at all.
pub async fn probe(
    qemu: &Path,
    engine: Engine,
    scratch: &Path,
) -> io::Result<std::result::Result<Duration, String>> {
    if engine == Engine::Kvm
        && let Err(error) = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm")
    {
        return Ok(Err(format!("/dev/kvm cannot be opened: {error}")));
    }
    fs::write(scratch.join(BOOT_SECTOR), boot_sector())?;
    let start = Instant::now();
    let mut child = Command::new(qemu)
        .current_dir(scratch)
        .env_clear()
        .envs(environment::of_qemu())
        .args(engine.arguments())
        .args(["-machine", "q35,sata=off,smbus=off", "-m", "16", "-nodefaults", "-no-user-config"])
        .args(["-display", "none", "-device", "isa-debug-exit,iobase=0xf4,iosize=1"])
        .args(["-drive", &format!("if=none,id=boot,format=raw,readonly=on,file={BOOT_SECTOR}")])
        .args(["-device", "virtio-blk-pci,drive=boot,bootindex=0"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let ended = timeout(PATIENCE, child.wait()).await;
    if ended.is_err() {
        child.kill().await?;
    }
    let mut complaints = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        stderr.take(2048).read_to_end(&mut complaints).await?;
    }
    let complaints = String::from_utf8_lossy(&complaints);
    let first = complaints.lines().next().unwrap_or("it said nothing");
    Ok(match ended {
        Err(_) => Err(format!("a guest did not start within {} ms", PATIENCE.as_millis())),
        Ok(status) => match status? {
            status if status.code() == Some(STATUS) => Ok(start.elapsed()),
            status => Err(format!("qemu failed ({status}): {first}")),
        },
    })
}

/// `mov al, BYTE; out 0xf4, al; hlt`, on a disk of a full megabyte, as some firmware wants.
fn boot_sector() -> Vec<u8> {
    let mut disk = vec![0; 1 << 20];
    disk[..5].copy_from_slice(&[0xb0, BYTE, 0xe6, 0xf4, 0xf4]);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}
