//! Starts and ends QEMU.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::Path,
    process::Stdio,
    time::Duration,
};

use command_fds::{CommandFdExt, FdMapping};
use runner_core::{Result, WorkerName};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

use crate::{
    argv::{fd, file},
    environment, error,
    instance_dir::{AGENT, ARGV, InstanceDir, QMP, STDERR},
    qmp::Qmp,
    socket,
};

/// How long QEMU gets for each way of ending it, each harder than the one before.
const QUIT: Duration = Duration::from_millis(500);
const TERMINATE: Duration = Duration::from_secs(1);
const KILL: Duration = Duration::from_secs(10);

/// Starts QEMU in `directory`, which keeps `lock` for as long as it lives.
pub(crate) fn spawn(
    qemu: &Path,
    argv: &[OsString],
    directory: &InstanceDir,
    lock: File,
) -> io::Result<Child> {
    let shown: Vec<String> = argv.iter().map(|a| a.to_string_lossy().into_owned()).collect();
    directory.write(ARGV, (shown.join("\n") + "\n").as_bytes())?;
    let open =
        |file| OpenOptions::new().create(true).append(true).mode(0o600).open(directory.join(file));
    let output = open(STDERR)?;
    open(file::CONSOLE)?;
    let inherit = |child_fd, parent_fd: OwnedFd| FdMapping { parent_fd, child_fd };
    // Listening before it starts, so that connecting never comes too early.
    let inherited = vec![
        inherit(fd::LOCK, lock.into()),
        inherit(fd::QMP, socket::listen(directory.path(), QMP)?.into()),
        inherit(fd::AGENT, socket::listen(directory.path(), AGENT)?.into()),
    ];
    Command::new(qemu)
        .args(argv)
        .current_dir(directory.path())
        .env_clear()
        .envs(environment::of_qemu())
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        // Away from our terminal's Ctrl-C.
        .process_group(0)
        .kill_on_drop(false)
        .fd_mappings(inherited)
        .map_err(io::Error::other)?
        .spawn()
}

/// Ends QEMU, if it lives, and returns when it is dead.
pub(crate) async fn stop(
    name: &WorkerName,
    directory: &InstanceDir,
    qmp: Option<Qmp>,
) -> Result<()> {
    let fail = |error| error::io(format!("stop {name}"), error);
    if !directory.is_alive().map_err(fail)? {
        return Ok(());
    }
    if let Some(qmp) = qmp {
        qmp.quit(QUIT).await;
        if is_dead_within(directory, QUIT).await.map_err(fail)? {
            return Ok(());
        }
    }
    for (signal, patience) in [(Signal::TERM, TERMINATE), (Signal::KILL, KILL)] {
        if let Some(pid) = find(directory).map_err(fail)? {
            send(pid, directory, signal).map_err(fail)?;
        }
        if is_dead_within(directory, patience).await.map_err(fail)? {
            return Ok(());
        }
    }
    Err(error::backend(format!("stop {name}"), "its process survives SIGKILL"))
}

/// The process that runs in `directory`.
pub(crate) fn find(directory: &InstanceDir) -> io::Result<Option<Pid>> {
    let read = fs::read_to_string(directory.join(file::PID)).ok();
    if let Some(pid) = read.and_then(|text| text.trim().parse().ok()).and_then(Pid::from_raw)
        && is_in(pid, directory)?
    {
        return Ok(Some(pid));
    }
    // Killed between its start and the writing of the file, or someone removed that.
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid
            && is_in(pid, directory)?
            && is_qemu(pid, directory)
        {
            return Ok(Some(pid));
        }
    }
    Ok(None)
}

/// Whether the process runs in our directory, which no process does by chance.
fn is_in(pid: Pid, directory: &InstanceDir) -> io::Result<bool> {
    let identity = match directory.identity() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        result => result?,
    };
    // An error means that it is gone, a zombie, or none of ours.
    let found = fs::metadata(format!("/proc/{}/cwd", pid.as_raw_nonzero()));
    Ok(found.is_ok_and(|found| (found.dev(), found.ino()) == identity))
}

/// Whether it keeps the instance alive, as no operator's shell that looks around does.
fn is_qemu(pid: Pid, directory: &InstanceDir) -> bool {
    let held = fs::metadata(format!("/proc/{}/fd/{}", pid.as_raw_nonzero(), fd::LOCK));
    let lock = fs::metadata(directory.lock());
    let identity = |file: fs::Metadata| (file.dev(), file.ino());
    let holds = held.is_ok_and(|held| lock.is_ok_and(|lock| identity(held) == identity(lock)));
    // The lock's file may have been removed by hand.
    holds || is_started_by_us(pid)
}

/// Whether it was started with the arguments that we give QEMU.
fn is_started_by_us(pid: Pid) -> bool {
    let command = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    command.split(|byte| *byte == 0).any(|argument| argument == b"-pidfile")
}

/// Kills the machines in `instances` whose directories were removed under them: nobody can reach them, and
/// nothing but their processes shows that they are there. Of one name, or of any.
pub(crate) async fn end_strays(instances: &Path, name: Option<&WorkerName>) -> io::Result<()> {
    for entry in fs::read_dir("/proc")? {
        let entry = entry?.file_name();
        let pid = entry.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        let Some(pid) = pid else { continue };
        let found =
            || stray(pid, instances).filter(|found| name.is_none_or(|name| name.as_str() == found));
        let is_stray = || found().is_some();
        let Some(worker) = found() else {
            continue;
        };
        // What is opened first cannot become another.
        let opened = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(rustix::io::Errno::SRCH) => continue,
            result => result?,
        };
        if is_stray() {
            tracing::warn!(
                worker,
                pid = pid.as_raw_nonzero(),
                "Killing a machine whose directory was removed."
            );
            match pidfd_send_signal(&opened, Signal::KILL) {
                Err(rustix::io::Errno::SRCH) => continue,
                result => result?,
            }
        }
        let deadline = Instant::now() + KILL;
        while is_stray() && Instant::now() < deadline {
            sleep(Duration::from_millis(5)).await;
        }
    }
    Ok(())
}

/// The name of the instance whose removed directory a process of ours runs in.
fn stray(pid: Pid, instances: &Path) -> Option<String> {
    let cwd = fs::read_link(format!("/proc/{}/cwd", pid.as_raw_nonzero())).ok()?;
    let name = cwd.strip_prefix(instances).ok()?.to_str()?.strip_suffix(" (deleted)")?;
    is_started_by_us(pid).then(|| name.to_owned())
}

/// Signals the process, if it still is the one that runs there: what is opened first cannot become another.
fn send(pid: Pid, directory: &InstanceDir, signal: Signal) -> io::Result<()> {
    let opened = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        result => result?,
    };
    if !is_in(pid, directory)? {
        return Ok(());
    }
    match pidfd_send_signal(&opened, signal) {
        Err(rustix::io::Errno::SRCH) => Ok(()),
        result => Ok(result?),
    }
}

async fn is_dead_within(directory: &InstanceDir, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    let mut pause = Duration::from_millis(1);
    while directory.is_alive()? {
        if Instant::now() > deadline {
            return Ok(false);
        }
        sleep(pause).await;
        pause = (pause * 3 / 2).min(Duration::from_millis(20));
    }
    Ok(true)
}
