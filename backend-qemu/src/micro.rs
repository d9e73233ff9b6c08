//! The recipe `micro`: a small Linux in memory, made of the distribution's own packages.
//!
//! Kernel, busybox, guest agent, `mke2fs` and the libraries they need come out of packages that `apt-get`
//! downloads into the cache; nothing is installed on this host and none of it needs root. Read in the
//! order of a build: [`packages`] says which, [`archive`] opens them, [`kernel`], [`modules`] and
//! [`libraries`] pick from them, [`root`] puts it together and [`initrd`] packs it. `guest/` holds what
//! runs inside.
//!
//! Two hosts with the same package versions make the same bytes: no file of the host, no time and no order
//! of a directory gets in.

mod archive;
mod cache;
mod initrd;
mod kernel;
mod libraries;
mod modules;
mod packages;
mod root;

use std::path::{Path, PathBuf};

use runner_core::{Error, Result, image::Boot};

use self::{
    archive::Archive,
    cache::{Cache, Made},
    packages::{Apt, Package},
};
use crate::images::{BACKEND, Content, Work, bytes, sha256_of};

/// Part of the key of the cache. Raise it whenever the same packages give other bytes.
const RECIPE: &str = "micro 1";

/// The kernel: made for virtual machines, so with few drivers. It depends on the newest of its line.
const KERNEL: &str = "linux-image-cloud-amd64";

/// What runs in the guest, besides the kernel.
const PROGRAMS: [&str; 3] = ["busybox-static", "e2fsprogs", "qemu-guest-agent"];

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

/// Puts kernel and initrd into `directory`: out of the cache, or made now and kept there.
pub(crate) fn build(
    cache: &Path,
    apt_options: &[String],
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
            let (kernel, initrd) = make(&packages, work)?;
            let made = cache.keep(&key, &kernel, &initrd, work)?;
            cache.forget_others(&key, &packages)?;
            made
        }
    };
    made.place(directory)?;
    Ok(Content {
        digest: digest(&made),
        boot: Boot::Kernel {
            kernel: PathBuf::from(cache::KERNEL),
            initrd: PathBuf::from(cache::INITRD),
            command_line: COMMAND_LINE.to_owned(),
        },
    })
}

fn make(packages: &[(Package, PathBuf)], work: &Work) -> Result<(Vec<u8>, Vec<u8>)> {
    let mut archive = Archive::default();
    let size: u64 = packages.iter().map(|(package, _)| package.size).sum();
    work.line(format!(
        "unpacking {} packages ({})",
        packages.len(),
        bytes(size)
    ));
    for (_, path) in packages {
        archive.unpack(path, work)?;
    }
    let kernel = kernel::extract(&archive, work)?;
    let applets = applets(&archive, work)?;
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

/// What busybox can do, as it says itself.
fn applets(archive: &Archive, work: &Work) -> Result<Vec<String>> {
    use std::os::unix::fs::PermissionsExt;

    let failed = |error: std::io::Error| Error::backend(BACKEND, "list busybox's applets", error);
    let here = tempfile::tempdir().map_err(failed)?;
    let path = here.path().join("busybox");
    let (name, busybox) = archive.program("busybox")?;
    std::fs::write(&path, busybox).map_err(failed)?;
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).map_err(failed)?;
    let mut command = std::process::Command::new(&path);
    command.arg("--list");
    let output = work.run(command)?;
    let mut applets: Vec<String> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|applet| !applet.is_empty() && !applet.contains('/') && *applet != "busybox")
        .map(str::to_owned)
        .collect();
    applets.sort();
    if applets.is_empty() {
        let reason = format!("{name} names none");
        return Err(failed(std::io::Error::other(reason)));
    }
    Ok(applets)
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

fn digest(made: &Made) -> String {
    let lines = format!(
        "{}  command-line\n{}  initrd\n{}  kernel\n",
        sha256_of(COMMAND_LINE.as_bytes()),
        made.initrd_sha256,
        made.kernel_sha256
    );
    sha256_of(lines.as_bytes())
}
