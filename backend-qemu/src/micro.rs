//! The recipe `micro`: a small Linux in memory, made of the distribution's own packages.
//!
//! Kernel, busybox, guest agent, `mke2fs` and the libraries they need come out of packages that `apt-get`
//! downloads into the cache; nothing is installed on this host and none of it needs root. Read in the
//! order of a build: [`packages`] says which, [`archive`] opens them, [`kernel`], [`modules`] and
//! [`libraries`] pick from them, [`root`] puts it together and [`initrd`] packs it. `guest/` holds what
//! runs inside.
//!
//! When its agent answers, the guest has a place to work at `/work`: the first virtio disk that begins with
//! zeroes, formatted, or else memory. What `-fw_cfg name=opt/runner/user-data,file=…` brought is in
//! `/run/user-data`, for root only. The network and the power button follow a little later, and
//! then the file `/run/settled`; and then `/opt/runner/start.sh` is run, where the recipe added one.
//! `init` reaps what jobs leave behind and restarts the agent.
//!
//! Two hosts with the same package versions make the same bytes: no file of the host, no time and no order
//! of a directory gets in.

mod added;
mod archive;
mod cache;
mod initrd;
mod kernel;
mod libraries;
mod modules;
mod packages;
mod root;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use runner_core::{Error, Result, image::Boot};

use self::{
    archive::Archive,
    cache::{Cache, Made},
    packages::{Apt, Package},
};
use crate::images::{Content, Work, bytes, sha256_of};

/// Part of the key of the cache. Raise it whenever the same packages give other bytes.
const RECIPE: &str = "micro 2";

/// The kernel: made for virtual machines, so with few drivers. It depends on the newest of its line.
const KERNEL: &str = "linux-image-cloud-amd64";

/// The guest's shell, `init` and small programs, linked statically.
const BUSYBOX: &str = "busybox-static";

/// What runs in the guest, besides the kernel.
const PROGRAMS: [&str; 3] = [BUSYBOX, "e2fsprogs", "qemu-guest-agent"];

/// The kernel's command line.
///
/// - `console=ttyS0 quiet`: the console shows what a job writes to it, and what goes wrong.
/// - `panic=-1`: a panic restarts at once, which ends a single-use machine, rather than hang for ever.
/// - `mitigations=off`: concerns the guest's own kernel, and there is one job in the machine, which is
///   root: there is nobody in it to protect from it. What keeps the job from the *host* is the host's
///   kernel and QEMU, which this does not touch.
/// - `nokaslr`: the same argument, and the same kernel at the same address shares better.
/// - `cryptomgr.notests 8250.nr_uarts=1`: skip self-tests and absent hardware; right everywhere.
/// - `no_timer_check tsc=reliable lpj=4000000`: skip measuring clocks, which software emulation does slowly
///   and badly. With hardware acceleration they change little: `lpj` only sizes busy waits, and rather
///   too long than too short.
const COMMAND_LINE: &str = "console=ttyS0 panic=-1 quiet nokaslr mitigations=off cryptomgr.notests \
                            no_timer_check tsc=reliable lpj=4000000 8250.nr_uarts=1";

/// Puts kernel and initrd into `directory`: out of the cache, or made now and kept there. The files of the tar
/// archive `added`, of this hash, come on top.
pub(crate) fn build(
    cache: &Path,
    apt_options: &[String],
    added: Option<(&Path, &str)>,
    directory: &Path,
    work: &Work,
) -> Result<Content> {
    if std::env::consts::ARCH != "x86_64" {
        return Err(Error::unsupported(format!(
            "image recipe micro on {}",
            std::env::consts::ARCH
        )));
    }
    let cache = Cache::lock(cache, work)?;
    let apt = Apt::new(cache.apt_directory(), apt_options);
    let packages = packages::resolve(&apt, KERNEL, &PROGRAMS, work)?;
    let key = key(&packages);
    let made = match cache.find(&key, work)? {
        Some(made) => {
            work.line("nothing has changed since the last build: kernel and initrd are reused");
            made
        }
        None => {
            let packages = packages::download(&apt, &cache.packages_directory(), packages, work)?;
            let (kernel, initrd) = make(&packages, &cache, work)?;
            let made = cache.keep(&key, &kernel, &initrd, work)?;
            cache.forget_others(&key, &packages)?;
            made
        }
    };
    made.place(directory)?;
    let initrd_sha256 = match added {
        Some((files, sha256)) => added::add(files, sha256, &directory.join(cache::INITRD), work)?,
        None => made.initrd_sha256.clone(),
    };
    Ok(Content {
        digest: digest(&made, &initrd_sha256),
        boot: Boot::Kernel {
            kernel: PathBuf::from(cache::KERNEL),
            initrd: PathBuf::from(cache::INITRD),
            command_line: COMMAND_LINE.to_owned(),
        },
    })
}

fn make(packages: &[(Package, PathBuf)], cache: &Cache, work: &Work) -> Result<(Vec<u8>, Vec<u8>)> {
    let mut archive = Archive::default();
    let size: u64 = packages.iter().map(|(package, _)| package.size).sum();
    work.line(format!("unpacking {} packages ({})", packages.len(), bytes(size)));
    for (_, path) in packages {
        archive.unpack(path, work)?;
    }
    let kernel = kernel::extract(&archive, work)?;
    let (_, busybox) = packages
        .iter()
        .find(|(package, _)| package.name == BUSYBOX)
        .ok_or_else(|| archive::missing(BUSYBOX))?;
    let applets = applets(busybox, cache, work)?;
    let root = root::assemble(&archive, &kernel.version, &applets)?;
    work.check()?;
    let initrd = initrd::pack(&root)?;
    work.line(format!(
        "initrd: {}, {} files, sha256 {}",
        bytes(initrd.len() as u64),
        root.len(),
        sha256_of(&initrd)
    ));
    Ok((kernel.content, initrd))
}

/// What busybox can do, as it says itself. It is unpacked by another process, as a program that this one
/// has written may be busy for as long as any thread starts any other.
fn applets(busybox: &Path, cache: &Cache, work: &Work) -> Result<Vec<String>> {
    let here = cache.scratch()?;
    let mut command = Command::new("dpkg-deb");
    command.arg("-x").arg(busybox).arg(here.path());
    work.run(command)?;
    let program = ["usr/bin/busybox", "bin/busybox"]
        .map(|path| here.path().join(path))
        .into_iter()
        .find(|path| path.exists())
        .ok_or_else(|| archive::missing("busybox"))?;
    let mut command = Command::new(program);
    command.arg("--list");
    let output = work.run(command)?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|applet| !applet.is_empty() && !applet.contains('/') && *applet != "busybox")
        .map(str::to_owned)
        .collect())
}

/// Everything that the bytes depend on, hashed.
fn key(packages: &[Package]) -> String {
    let mut text = format!("{RECIPE}\n");
    for file in root::GUEST_FILES {
        text += &format!("{} {}\n", file.path, sha256_of(file.content.as_bytes()));
    }
    for package in packages {
        text += &format!("{} {} {}\n", package.name, package.version, package.sha256);
    }
    sha256_of(text.as_bytes())
}

fn digest(made: &Made, initrd_sha256: &str) -> String {
    let lines = format!(
        "{}  command-line\n{}  initrd\n{}  kernel\n",
        sha256_of(COMMAND_LINE.as_bytes()),
        initrd_sha256,
        made.kernel_sha256
    );
    sha256_of(lines.as_bytes())
}
