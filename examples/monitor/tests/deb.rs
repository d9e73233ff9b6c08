//! The Debian package: made, checked, and installed, run, upgraded, removed and purged in a Debian with a real
//! systemd, in a machine of ours.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use backend_qemu::{Accel, QemuConfig, QemuHypervisor};
use jiff::Timestamp;
use runner_core::{
    Guest, Hypervisor, ImageId, OwnerId, ProcessId, ProfileName, Resources, WorkerName,
    guest::{self, Output, exec},
    hypervisor::{InstanceSpec, Network},
    image::{Boot, Image, Recipe, RecipeKind},
};
use tempfile::TempDir;

mod process;

use process::skip;

/// What the Debian in the machine has beyond the least.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,udev,kmod,qemu-guest-agent,curl,libvirt0";

/// What of the kernel's modules the machine never needs.
const NO_MODULES: &str = "drivers/net/ethernet drivers/gpu drivers/infiniband fs/xfs fs/btrfs \
                          fs/ceph fs/nfs fs/nfsd fs/smb fs/ocfs2 fs/gfs2 net/ceph net/sctp net/tipc";

/// How long a command in the machine may take: it is emulated, on a host with other things to do.
const PATIENCE: Duration = Duration::from_secs(180);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn has(program: &str) -> bool {
    let output = Command::new(program).arg("--version").output();
    output.is_ok_and(|output| output.status.success())
}

fn tools() -> std::ffi::OsString {
    let own = root().join("cache/tools/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths([own].into_iter().chain(std::env::split_paths(&path))).unwrap()
}

/// The package, of the program as it was built for the tests.
fn package() -> Option<(TempDir, PathBuf)> {
    let cargo_deb = Command::new("cargo-deb").arg("--version").env("PATH", tools()).output();
    if !cargo_deb.is_ok_and(|output| output.status.success()) {
        skip("cargo-deb");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let built = Path::new(env!("CARGO_BIN_EXE_monitor")).ancestors().nth(2).unwrap();
    let made = Command::new(root().join("scripts/deb"))
        .args(["dev", dir.path().to_str().unwrap()])
        .env("CARGO_TARGET_DIR", built)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let files = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<PathBuf> = files.collect();
    assert_eq!(files.len(), 1, "{files:?}");
    Some((dir, files[0].clone()))
}

/// A Debian that boots from memory: its kernel and its root. Made once, kept in the cache.
fn debian() -> Option<(PathBuf, PathBuf)> {
    if !has("mmdebstrap") {
        skip("mmdebstrap");
        return None;
    }
    let cache = std::env::var_os("RUNNER_CACHE")
        .map_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"), PathBuf::from);
    let dir = cache.join("debian-with-systemd-and-libvirt");
    let (kernel, initrd) = (dir.join("kernel"), dir.join("root.cpio"));
    if initrd.exists() {
        return Some((kernel, initrd));
    }
    fs::create_dir_all(&dir).unwrap();
    let work = tempfile::tempdir_in(&dir).unwrap();
    // The kernel without its maintainer scripts, which would make an initial file system.
    let hook = format!(
        "set -e; cd \"$1\"; \
         k=$(chroot . apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: //p' | head -n 1); \
         chroot . sh -c \"cd /tmp && apt-get -q download $k\" >&2; \
         dpkg-deb --fsys-tarfile tmp/*.deb | tar -x --keep-directory-symlink -C .; \
         rm -rf tmp/*.deb var/lib/apt/lists/* var/cache/apt; \
         mv boot/vmlinuz* \"{0}/kernel\"; rm -rf boot/*; \
         for m in {NO_MODULES}; do rm -rf usr/lib/modules/*/kernel/$m; done; \
         chroot . depmod -a $(ls usr/lib/modules); ln -s sbin/init init; \
         find . -xdev | cpio --quiet -o -H newc > \"{0}/root.cpio\"",
        work.path().display()
    );
    let sources = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    let sources = sources.map(|entry| entry.path());
    let sources = sources.chain([PathBuf::from("/etc/apt/sources.list")]).filter(|path| {
        let known = path.extension().is_some_and(|end| end == "sources" || end == "list");
        known && path.metadata().is_ok_and(|file| file.len() > 0)
    });
    let log = File::create(dir.join("log")).unwrap();
    let made = Command::new("mmdebstrap")
        .args(["--variant=minbase", &format!("--include={PACKAGES}")])
        .args([
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
        ])
        .arg("--dpkgopt=path-exclude=/usr/share/man/*")
        .arg("--aptopt=APT::Install-Recommends \"false\"")
        .arg(format!("--customize-hook={hook}"))
        .args(["bookworm", "/dev/null"])
        .args(sources)
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .status()
        .unwrap();
    let said = || fs::read_to_string(dir.join("log")).unwrap_or_default();
    assert!(made.success() && work.path().join("root.cpio").exists(), "{}", said());
    fs::rename(work.path().join("kernel"), &kernel).unwrap();
    // Last, because it tells that all is there.
    fs::rename(work.path().join("root.cpio"), &initrd).unwrap();
    Some((kernel, initrd))
}

/// A machine with a Debian in it. It ends with this.
struct Machine {
    hypervisor: QemuHypervisor,
    name: WorkerName,
    guest: Arc<dyn Guest>,
    count: u32,
    dir: TempDir,
}

impl Machine {
    async fn boot(kernel: PathBuf, initrd: PathBuf) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let owner = OwnerId::new("tests").unwrap();
        let mut config = QemuConfig::new(dir.path().join("machines"), owner);
        config.accel = Accel::Tcg;
        config.capacity =
            Some(Resources { vcpus: 2, memory_mib: 4096, disk_mib: 1024, ..Resources::default() });
        let hypervisor = QemuHypervisor::open(config).await.unwrap();
        let (name, profile) =
            (WorkerName::new("debian-1").unwrap(), ProfileName::new("debian").unwrap());
        let image = Image {
            id: ImageId::new("debian.1").unwrap(),
            recipe: Recipe { profile: profile.clone(), kind: RecipeKind::Micro {} },
            built_at: Timestamp::now(),
            digest: "0".repeat(64),
            size_bytes: 0,
            boot: Boot::Kernel {
                kernel,
                initrd,
                command_line: "console=ttyS0 panic=-1 mitigations=off quiet".to_owned(),
            },
        };
        let spec = InstanceSpec {
            name: name.clone(),
            profile,
            image,
            resources: Resources { vcpus: 2, memory_mib: 1536, ..Resources::default() },
            network: Network::Restricted,
            user_data: None,
        };
        hypervisor.create(&spec).await.unwrap();
        let guest = hypervisor.guest(&name).await.unwrap();
        let machine = Self { hypervisor, name, guest, count: 0, dir };
        let ready = tokio::time::timeout(PATIENCE, machine.guest.ready()).await;
        if ready.is_err() {
            panic!("the machine does not answer:\n{}", machine.console().await);
        }
        ready.unwrap().unwrap();
        machine
    }

    async fn console(&self) -> String {
        use futures::TryStreamExt;
        let console = self.hypervisor.console(&self.name, false).await.unwrap();
        let pieces: Vec<_> = console.try_collect().await.unwrap();
        String::from_utf8_lossy(&pieces.concat()).into_owned()
    }

    /// How a script ends, and what it says.
    async fn tries(&mut self, script: &str) -> (u8, String) {
        self.count += 1;
        let (id, mut said) = (ProcessId::new(format!("p{}", self.count)).unwrap(), Vec::new());
        let command = guest::Command::new(["/bin/sh", "-ec", script]);
        let run = exec(&*self.guest, &id, &command, |output| match output {
            Output::Stdout(bytes) | Output::Stderr(bytes) => said.extend_from_slice(bytes),
        });
        let exit = tokio::time::timeout(PATIENCE, run).await;
        let said = String::from_utf8_lossy(&said).into_owned();
        let exit = exit.unwrap_or_else(|_| panic!("{script} takes too long:\n{said}")).unwrap();
        println!("{} $ {script}\n{said}", Timestamp::now());
        (exit.code(), said)
    }

    /// What a script says that ends well.
    async fn runs(&mut self, script: &str) -> String {
        let (code, said) = self.tries(script).await;
        if code != 0 {
            let (_, journal) =
                self.tries("journalctl --no-pager -n 60; systemctl status monitor").await;
            panic!("{script} ended with {code}:\n{said}\n{journal}");
        }
        said.trim().to_owned()
    }

    /// Until a script ends well.
    async fn waits(&mut self, script: &str) -> String {
        let script =
            format!("for i in $(seq 120); do {{ {script}; }} && exit 0; sleep 1; done; exit 1");
        self.runs(&script).await
    }
}

impl Drop for Machine {
    /// Ends the machine also after a test that failed.
    fn drop(&mut self) {
        let file = self.dir.path().join("machines/instances/debian-1/pid");
        if let Ok(pid) = fs::read_to_string(file) {
            let _ = Command::new("kill").args(["-9", pid.trim()]).status();
        }
    }
}

/// Speaks the machine protocol as far as the monitor does before a guest answers, and lives on.
const FAKE_QEMU: &str = r#"#!/usr/bin/perl
use IO::Handle; use Socket; $| = 1;
open(my $pid, '>', 'pid'); print $pid "$$\n"; close $pid;
open(my $listen, '+<&=', 4) or die;
while (accept(my $peer, $listen)) {
    $peer->autoflush(1);
    print $peer qq({"QMP": {"version": {}, "capabilities": []}}\n);
    while (my $line = <$peer>) {
        my ($id) = $line =~ /"id":\s*(\d+)/;
        print $peer defined $id ? qq({"return": {}, "id": $id}\n) : qq({"return": {}}\n);
        exit 0 if $line =~ /"quit"/;
    }
}
"#;

const CONFIG: &str = r#"
[qemu]
binary = "/usr/local/bin/fake-qemu"
accel = "tcg"
vcpus = 1
memory = "64MiB"
disk = "64MiB"
[[profile]]
name = "fake"
image = { kind = "disk", path = "/srv/disk.raw", sha256 = "SHA256" }
memory = "64MiB"
disk = "1MiB"
min_idle = 1
max = 1
start_timeout = "1h"
"#;

#[test]
fn the_package_is_in_order() {
    let Some((_dir, file)) = package() else { return };
    let output = Command::new("dpkg-deb").args(["--contents"]).arg(&file).output().unwrap();
    let contents = String::from_utf8(output.stdout).unwrap();
    for path in [
        "./usr/bin/monitor",
        "./usr/lib/systemd/system/monitor.service",
        "./usr/lib/systemd/system/monitor.socket",
        "./usr/lib/sysusers.d/monitor.conf",
        "./etc/monitor/monitor.toml",
        "./usr/share/monitor/github/start.sh",
        "./usr/share/monitor/github/job-started.sh",
        "./usr/share/monitor/github/job-completed.sh",
        "./usr/share/bash-completion/completions/monitor",
        "./usr/share/man/man1/monitor.1.gz",
        "./usr/share/man/man1/monitor-doctor.1.gz",
    ] {
        assert!(contents.lines().any(|line| line.ends_with(path)), "{path}: {contents}");
    }
    let conffiles = Command::new("dpkg-deb").args(["--info"]).arg(&file).arg("conffiles").output();
    assert_eq!(conffiles.unwrap().stdout, b"/etc/monitor/monitor.toml\n");
    if !has("lintian") {
        return skip("lintian");
    }
    // There is no address to write to, no bug report, and no debhelper.
    let expected = "bogus-mail-host,bogus-mail-host-in-debian-changelog,initial-upload-closes-no-bugs,\
                    maintainer-script-calls-systemctl";
    let lintian = Command::new("lintian")
        .args(["--allow-root", "--fail-on", "error,warning", "--suppress-tags", expected])
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&lintian.stdout).into_owned();
    assert!(lintian.status.success(), "{said}{}", String::from_utf8_lossy(&lintian.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_installed_run_restarted_upgraded_and_purged_under_a_real_systemd() {
    if !has("qemu-system-x86_64") {
        return skip("qemu");
    }
    let Some((_dir, package)) = package() else { return };
    let Some((kernel, initrd)) = debian() else { return };
    println!("{} it boots", Timestamp::now());
    let mut machine = Machine::boot(kernel, initrd).await;
    let content = fs::read(&package).unwrap();
    println!("{} it answers; {} bytes go in", Timestamp::now(), content.len());
    machine.guest.write_file("/root/monitor.deb", &content, 0o644).await.unwrap();
    machine.waits("systemctl is-system-running | grep -E 'running|degraded'").await;
    // So that what is left in the end is what was there at first.
    machine.runs("mkdir -p /etc/credstore; find /etc /var /usr -xdev | sort > /root/before").await;

    machine.runs("dpkg --force-unsafe-io -i /root/monitor.deb").await;
    assert_eq!(machine.runs("id -nG monitor").await, "monitor kvm");
    assert_eq!(machine.tries("systemctl is-active monitor").await.1.trim(), "inactive");
    machine.runs("systemd-analyze verify --man=no monitor.service monitor.socket").await;

    // Out of the box, with a token of systemd's.
    machine.runs("umask 077; echo planted-token-a7 > /etc/credstore/monitor.api-token").await;
    machine.runs("systemctl start monitor").await;
    assert_eq!(machine.runs("stat -c '%a %U' /var/lib/monitor").await, "700 monitor");
    let healthy = "curl -sSf http://127.0.0.1:8000/healthz";
    assert!(machine.runs(healthy).await.contains("up"));
    let cancel = "curl -s -o /dev/null -w '%{http_code}' -X POST \
                  http://127.0.0.1:8000/api/v2/jobs/none/cancel -H 'Authorization: Bearer";
    assert_eq!(machine.runs(&format!("{cancel} planted-token-a7'")).await, "404");
    assert_eq!(machine.runs(&format!("{cancel} another'")).await, "401");
    let status = machine.runs("systemctl show monitor -p StatusText --value").await;
    assert!(status.starts_with("workers: "), "{status}");
    // What a stranger sees of it.
    machine.runs("! su -s /bin/sh nobody -c 'ls /var/lib/monitor'").await;

    // A machine that outlives its keeper, in all of the unit's confinement.
    machine
        .guest
        .write_file("/usr/local/bin/fake-qemu", FAKE_QEMU.as_bytes(), 0o755)
        .await
        .unwrap();
    let hash =
        machine.runs("head -c 1M /dev/zero > /srv/disk.raw; sha256sum < /srv/disk.raw").await;
    let hash = hash.split_whitespace().next().unwrap();
    let config = CONFIG.replace("SHA256", hash);
    machine.guest.write_file("/etc/monitor/monitor.toml", config.as_bytes(), 0o644).await.unwrap();
    machine.waits("journalctl -u monitor | grep 'profile fake added.*qemu.accel'").await;
    machine.runs("systemctl restart monitor").await;
    let find = "cat /var/lib/monitor/instances/instances/*/pid";
    let pid = machine.waits(find).await;
    let pid = pid.lines().last().unwrap().to_owned();
    let lives = format!("grep -q fake-qemu /proc/{pid}/cmdline");
    machine.runs(&lives).await;
    assert_eq!(machine.runs(&format!("stat -c %U /proc/{pid}")).await, "monitor");
    machine.runs(&format!("grep -q monitor.service /proc/{pid}/cgroup")).await;
    let adopted = "journalctl -u monitor -b -o cat | grep -c 'Adopted an instance'";
    for restarts in 1..=2 {
        machine.runs("systemctl restart monitor").await;
        machine.runs(&lives).await;
        let count = machine.waits(adopted).await;
        assert_eq!(count.lines().last(), Some(restarts.to_string().as_str()));
    }
    // As a crash: systemd starts it again.
    machine.runs("systemctl kill --kill-who=main -s KILL monitor").await;
    machine.waits(&format!("[ $({adopted}) = 3 ]")).await;
    machine.waits(healthy).await;
    machine.runs(&lives).await;
    assert_eq!(machine.runs("systemctl show monitor -p NRestarts --value").await, "1");
    // An upgrade is a restart.
    machine.runs("dpkg --force-unsafe-io --force-confold -i /root/monitor.deb").await;
    machine.waits(&format!("[ $({adopted}) = 4 ]")).await;
    machine.runs(&lives).await;

    // With its socket, what comes during a restart waits.
    machine.runs("systemctl stop monitor && systemctl start monitor.socket").await;
    machine.runs(&lives).await;
    assert!(machine.runs(healthy).await.contains("up"));
    assert_eq!(machine.runs("systemctl is-active monitor").await, "active");
    machine.runs("systemctl stop monitor.socket monitor").await;
    machine.runs(&format!("! {healthy}")).await;

    let journal = machine.runs("journalctl -u monitor -b --no-pager").await;
    assert!(!journal.contains("planted-token"), "{journal}");
    machine.runs("rm /srv/disk.raw /usr/local/bin/fake-qemu").await;
    machine.runs("dpkg -r monitor").await;
    machine.runs("test -e /etc/monitor/monitor.toml && test -d /var/lib/monitor").await;
    machine.runs("dpkg -P monitor").await;
    machine.runs(&format!("! {lives}")).await;
    machine.runs("! getent passwd monitor").await;
    let left = "find /etc /var /usr -xdev | sort > /root/after; comm -13 /root/before /root/after \
                | grep -E 'monitor' | grep -v /var/log/journal || true";
    assert_eq!(machine.runs(left).await, "");
    machine.hypervisor.destroy(&machine.name).await.unwrap();
}
