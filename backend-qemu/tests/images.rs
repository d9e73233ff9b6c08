//! The image store against real parts: `apt` for the packages, `qemu` to boot what was made of them.

#[path = "images/machine.rs"]
mod machine;
#[path = "common/parts.rs"]
mod parts;

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use backend_qemu::{ImageConfig, ImageStore};
use machine::Machine;
use parts::{has, has_apt, shared_cache, skip};
use runner_core::{
    Error, ImageBuilder, ImageId, ProfileName,
    image::{Boot, BuildLog, DiskFormat, Image, Recipe, RecipeKind, UserDataDelivery},
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

fn micro() -> Recipe {
    Recipe { profile: ProfileName::new("small").unwrap(), kind: RecipeKind::Micro {} }
}

fn disk(path: &Path, sha256: &str) -> Recipe {
    Recipe {
        profile: ProfileName::new("large").unwrap(),
        kind: RecipeKind::Disk {
            path: path.to_owned(),
            sha256: sha256.to_owned(),
            user_data: UserDataDelivery::NoCloud,
        },
    }
}

fn sha256(path: &Path) -> String {
    let hash = Sha256::digest(fs::read(path).unwrap());
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn qemu_img(args: &[&str]) -> bool {
    let Ok(output) = Command::new("qemu-img").args(args).output() else {
        skip("qemu-img");
        return false;
    };
    assert!(output.status.success(), "{output:?}");
    true
}

struct Fixture {
    here: TempDir,
    store: ImageStore,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Fixture {
    async fn new() -> Self {
        Self::with_cache(shared_cache()).await
    }

    async fn with_cache(cache: PathBuf) -> Self {
        // Beside the cache, so that images can share its files.
        fs::create_dir_all(&cache).unwrap();
        let here = tempfile::tempdir_in(&cache).unwrap();
        let config = ImageConfig::new(here.path().join("images"), cache);
        Self { store: ImageStore::open(config).await.unwrap(), lines: Arc::default(), here }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.here.path().join(name)
    }

    fn log(&self) -> BuildLog {
        let lines = Arc::clone(&self.lines);
        BuildLog::new(move |line| {
            println!("{line}");
            lines.lock().unwrap().push(line.to_owned());
        })
    }

    fn logged(&self, text: &str) -> bool {
        self.lines.lock().unwrap().iter().any(|line| line.contains(text))
    }

    async fn build(&self, recipe: &Recipe) -> Result<Image, Error> {
        self.store.build(recipe, self.log()).await
    }

    async fn ids(&self) -> BTreeSet<ImageId> {
        let images = self.store.images().await.unwrap();
        images.into_iter().map(|image| image.id).collect()
    }

    /// What is in the directory, hidden things included.
    fn names(&self) -> BTreeSet<String> {
        fs::read_dir(self.store.root())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != ".lock")
            .collect()
    }

    /// A raw disk of some bytes, and its recipe.
    fn raw_disk(&self) -> Recipe {
        let path = self.path("disk.raw");
        fs::write(&path, b"not a real disk".repeat(10_000)).unwrap();
        disk(&path, &sha256(&path))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_micro_image_is_built_once_and_then_reused() {
    if !has_apt() {
        return skip("apt");
    }
    let fixture = Fixture::new().await;
    let first = fixture.build(&micro()).await.unwrap();
    let started = Instant::now();
    let second = fixture.build(&micro()).await.unwrap();
    println!("the second build took {:?}", started.elapsed());
    assert!(fixture.logged("are reused"));
    assert_ne!(first.id, second.id);
    assert_eq!(first.digest, second.digest);
    assert_eq!(fixture.store.images().await.unwrap(), [first.clone(), second.clone()]);

    let files = |image: &Image| match &image.boot {
        Boot::Kernel { kernel, initrd, .. } => [kernel.clone(), initrd.clone()],
        other => panic!("{other:?}"),
    };
    for (first, second) in files(&first).iter().zip(files(&second)) {
        let (first, second) = (fs::metadata(first).unwrap(), fs::metadata(second).unwrap());
        assert_eq!(first.permissions().mode() & 0o777, 0o444);
        assert_eq!(first.ino(), second.ino(), "the images share a file");
    }

    fixture.store.delete(&first.id).await.unwrap();
    assert!(files(&second).iter().all(|path| path.is_absolute() && path.exists()));
    assert!(files(&first).iter().all(|path| !path.exists()));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_build_the_same_bytes() {
    if !has_apt() {
        return skip("apt");
    }
    let here = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let one = Fixture::with_cache(here.path().join("one")).await;
    let other = Fixture::with_cache(here.path().join("other")).await;
    let recipe = micro();
    let (one, other) = tokio::join!(one.build(&recipe), other.build(&recipe));
    assert_eq!(one.unwrap().digest, other.unwrap().digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_digest_can_be_checked_by_hand() {
    if !has_apt() {
        return skip("apt");
    }
    let fixture = Fixture::new().await;
    let image = fixture.build(&micro()).await.unwrap();
    let Boot::Kernel { kernel, command_line, .. } = &image.boot else {
        panic!("{:?}", image.boot);
    };
    let here = fixture.path("by-hand");
    fs::create_dir(&here).unwrap();
    for name in ["initrd", "kernel"] {
        fs::copy(kernel.with_file_name(name), here.join(name)).unwrap();
    }
    fs::write(here.join("command-line"), command_line).unwrap();
    let output = Command::new("sh")
        .args(["-c", "sha256sum command-line initrd kernel | sha256sum"])
        .current_dir(&here)
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).starts_with(&image.digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_cache_is_made_again() {
    if !has_apt() {
        return skip("apt");
    }
    let here = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let fixture = Fixture::with_cache(here.path().join("cache")).await;
    let first = fixture.build(&micro()).await.unwrap();
    let made = fs::read_dir(here.path().join("cache/micro")).unwrap().next();
    let made = made.unwrap().unwrap().path();
    fs::remove_file(made.join("initrd")).unwrap();
    fs::write(made.join("initrd"), "damaged").unwrap();
    let package = fs::read_dir(here.path().join("cache/packages")).unwrap().next();
    fs::write(package.unwrap().unwrap().path(), "damaged").unwrap();
    let second = fixture.build(&micro()).await.unwrap();
    assert!(fixture.logged("the cache is damaged"));
    assert_eq!(first.digest, second.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_package_lists_the_way_out_is_told() {
    if !has_apt() {
        return skip("apt");
    }
    let here = tempfile::tempdir().unwrap();
    let lists = here.path().join("lists");
    fs::create_dir(&lists).unwrap();
    let mut config = ImageConfig::new(here.path().join("images"), here.path().join("cache"));
    config.apt_options = vec![
        "-o".to_owned(),
        format!("Dir::State::lists={}", lists.display()),
        "-o".to_owned(),
        "Dir::State::status=/dev/null".to_owned(),
    ];
    let store = ImageStore::open(config).await.unwrap();
    let error = store.build(&micro(), BuildLog::silent()).await.unwrap_err();
    let text = runner_core::error::chain(&error);
    assert!(text.contains("apt-get update"), "{text}");
    assert!(store.images().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_micro_image_boots_and_does_what_a_job_needs() {
    if !has_apt() {
        return skip("apt");
    }
    if !has("qemu-system-x86_64") {
        return skip("qemu");
    }
    let fixture = Fixture::new().await;
    let image = fixture.build(&micro()).await.unwrap();
    let scratch = fixture.path("scratch.raw");
    let file = fs::File::create(&scratch).unwrap();
    file.set_len(10 << 30).unwrap();
    let secret = fixture.path("user-data");
    fs::write(&secret, "hello from the host").unwrap();

    let mut machine = Machine::start(
        &image.boot,
        fixture.here.path(),
        &[
            "-drive".to_owned(),
            format!("if=none,id=scratch,format=raw,file={}", scratch.display()),
            "-device".to_owned(),
            "virtio-blk-pci,drive=scratch".to_owned(),
            "-netdev".to_owned(),
            "user,id=net,hostname=small-17".to_owned(),
            "-device".to_owned(),
            "virtio-net-pci,netdev=net,romfile=".to_owned(),
            "-device".to_owned(),
            "virtio-rng-pci".to_owned(),
            "-device".to_owned(),
            "pvpanic-pci".to_owned(),
            "-fw_cfg".to_owned(),
            format!("name=opt/runner/user-data,file={}", secret.display()),
        ],
    );
    machine.agent();
    println!("the agent answered after {:?}", machine.elapsed());

    assert_eq!(
        machine.run("echo $HOME $PATH; cat /proc/1/comm"),
        "/root /usr/sbin:/usr/bin:/sbin:/bin\ninit\n"
    );
    assert!(machine.run("grep ' /work ' /proc/mounts").starts_with("/dev/vda /work ext4 "));
    assert_eq!(machine.run("cd /work && echo kept >a && cat a && ls"), "kept\na\n");
    assert_eq!(
        machine.run("stat -c %a /run/user-data; cat /run/user-data"),
        "600\nhello from the host"
    );

    machine.wait_for("test -e /run/settled");
    println!("the guest settled after {:?}", machine.elapsed());
    assert!(machine.run("ip address show eth0").contains("inet 10.0.2.15/24"));
    assert!(machine.run("ip route").contains("default via 10.0.2.2"));
    assert_eq!(machine.run("cat /etc/resolv.conf; hostname"), "nameserver 10.0.2.3\nsmall-17\n");
    assert_eq!(
        machine.run("stat -c %a /tmp /dev/shm; ls /dev/pts; echo >/dev/null"),
        "1777\n1777\nptmx\n"
    );
    let modules = machine.run("cut -d' ' -f1 /proc/modules");
    for name in ["virtio_rng", "pvpanic_pci", "overlay", "isofs", "vfat", "button"] {
        assert!(modules.lines().any(|line| line == name), "{name} is missing in {modules}");
    }

    // An orphan ends after its parent has, so that nobody but PID 1 can reap it.
    machine.run("(sh -c 'sleep 0.2; echo $PPID >/tmp/over') >/dev/null 2>&1 &");
    machine.wait_for("test -s /tmp/over");
    machine.wait_for("! cat /proc/[0-9]*/status 2>/dev/null | grep '^State:.Z'");

    // The agent comes back when a job kills it.
    machine.kill_agent();
    assert_eq!(machine.run("pidof acpid >/dev/null && echo well"), "well\n");

    machine.exec("poweroff");
    assert!(machine.ended(Duration::from_secs(20)), "{}", machine.console());
    println!("it was off after {:?}", machine.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_micro_image_boots_without_disk_and_network_and_obeys_the_power_button() {
    if !has_apt() {
        return skip("apt");
    }
    if !has("qemu-system-x86_64") {
        return skip("qemu");
    }
    let fixture = Fixture::new().await;
    let image = fixture.build(&micro()).await.unwrap();
    let mut machine = Machine::start(&image.boot, fixture.here.path(), &[]);
    machine.agent();
    println!("the agent answered after {:?}", machine.elapsed());
    assert!(machine.run("grep ' /work ' /proc/mounts").starts_with("work /work tmpfs "));
    machine.wait_for("test -e /run/settled && pidof acpid");
    machine.power_button();
    assert!(machine.ended(Duration::from_secs(20)), "{}", machine.console());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_can_shut_a_micro_image_down() {
    if !has_apt() {
        return skip("apt");
    }
    if !has("qemu-system-x86_64") {
        return skip("qemu");
    }
    let fixture = Fixture::new().await;
    let image = fixture.build(&micro()).await.unwrap();
    let mut machine = Machine::start(&image.boot, fixture.here.path(), &[]);
    machine.agent();
    machine.shutdown();
    assert!(machine.ended(Duration::from_secs(20)), "{}", machine.console());
}

#[tokio::test]
async fn a_raw_disk_is_copied_and_never_changes_with_its_original() {
    let fixture = Fixture::new().await;
    let recipe = fixture.raw_disk();
    let image = fixture.build(&recipe).await.unwrap();
    let Boot::Disk { path, format, user_data } = &image.boot else {
        panic!("{:?}", image.boot);
    };
    assert_eq!((*format, *user_data), (DiskFormat::Raw, UserDataDelivery::NoCloud));
    fs::write(fixture.path("disk.raw"), "overwritten in place").unwrap();
    assert_eq!(sha256(path), image.digest);
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o444);
    assert_eq!(fixture.store.images().await.unwrap(), [image]);
}

#[tokio::test]
async fn holes_of_a_disk_stay_holes() {
    let fixture = Fixture::new().await;
    let path = fixture.path("sparse.raw");
    let mut content = vec![0_u8; 8 << 20];
    content[5 << 20] = 1;
    fs::write(&path, &content).unwrap();
    let image = fixture.build(&disk(&path, &sha256(&path))).await.unwrap();
    let Boot::Disk { path: copy, .. } = &image.boot else {
        panic!("{:?}", image.boot);
    };
    assert_eq!(fs::read(copy).unwrap(), content);
    // A file system that shares blocks shares the zeroes too.
    if !fixture.logged("shares its blocks") {
        assert!(image.size_bytes < 1 << 20, "{}", image.size_bytes);
    }
}

#[tokio::test]
async fn a_qcow2_disk_is_known_by_its_content() {
    let fixture = Fixture::new().await;
    let path = fixture.path("named.raw");
    let text = path.to_str().unwrap();
    for options in ["compat=1.1", "compat=0.10"] {
        if !qemu_img(&["create", "-q", "-f", "qcow2", "-o", options, text, "10M"]) {
            return;
        }
        let image = fixture.build(&disk(&path, &sha256(&path))).await.unwrap();
        assert!(matches!(image.boot, Boot::Disk { format: DiskFormat::Qcow2, .. }));
    }
}

#[tokio::test]
async fn a_qcow2_disk_that_leads_to_other_files_is_refused() {
    let fixture = Fixture::new().await;
    let path = fixture.path("disk.qcow2");
    let text = path.to_str().unwrap();
    let data = format!("data_file={}", fixture.path("data").display());
    let external: &[&str] = &["create", "-q", "-f", "qcow2", "-o", &data, text, "10M"];
    let backed: &[&str] =
        &["create", "-q", "-u", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", text, "10M"];
    for (args, reason) in [(external, "in another file"), (backed, "backing file")] {
        if !qemu_img(args) {
            return;
        }
        let error = fixture.build(&disk(&path, &sha256(&path))).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
    assert!(fixture.names().is_empty());
}

#[tokio::test]
async fn a_disk_that_cannot_work_is_refused_with_the_reason() {
    let fixture = Fixture::new().await;
    fixture.raw_disk();
    let path = fixture.path("disk.raw");
    let right = sha256(&path);
    let wrong = "0".repeat(64);
    let empty = fixture.path("empty");
    fs::write(&empty, "").unwrap();
    for (path, sha256, reasons) in [
        (Path::new("disk.raw"), right.as_str(), &["must be absolute"][..]),
        (&fixture.path("absent"), &right, &["does not exist"]),
        (fixture.here.path(), &right, &["not a regular file"]),
        (&empty, &right, &["it is empty"]),
        (&path, &wrong, &[wrong.as_str(), right.as_str()]),
        (&path, "abc", &["64 hexadecimal digits"]),
        (&path, &"g".repeat(64), &["64 hexadecimal digits"]),
    ] {
        let error = fixture.build(&disk(path, sha256)).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        for reason in reasons {
            assert!(error.to_string().contains(reason), "{error}");
        }
    }
    assert!(fixture.names().is_empty());
    assert!(fixture.build(&disk(&path, &right.to_uppercase())).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_builds_get_ids_of_their_own() {
    let fixture = Fixture::new().await;
    let recipe = fixture.raw_disk();
    let builds = (0..8).map(|_| {
        let (store, recipe) = (fixture.store.clone(), recipe.clone());
        tokio::spawn(async move { store.build(&recipe, BuildLog::silent()).await.unwrap().id })
    });
    let mut ids = BTreeSet::new();
    for build in builds.collect::<Vec<_>>() {
        ids.insert(build.await.unwrap());
    }
    assert_eq!(ids.len(), 8);
    assert_eq!(fixture.ids().await, ids);
}

#[tokio::test]
async fn a_dropped_build_stops_and_leaves_nothing() {
    let fixture = Fixture::new().await;
    let path = fixture.path("large.raw");
    fs::File::create(&path).unwrap().set_len(64 << 30).unwrap();
    // It takes far longer to hash than anyone waits here.
    let recipe = disk(&path, &"0".repeat(64));
    let build = fixture.build(&recipe);
    assert!(tokio::time::timeout(Duration::from_millis(300), build).await.is_err());
    let dropped = Instant::now();
    while !fixture.names().is_empty() {
        assert!(dropped.elapsed() < Duration::from_secs(5), "{:?}", fixture.names());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(fixture.ids().await.is_empty());
}

#[tokio::test]
async fn what_a_killed_build_left_is_swept_and_a_live_one_is_spared() {
    let fixture = Fixture::new().await;
    let root = fixture.store.root().to_owned();
    let leave = |name: &str| {
        let path = root.join(name);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("lock"), "").unwrap();
        fs::write(path.join("disk"), "half of it").unwrap();
        path
    };
    leave(".building-large.20260102T030405Z");
    leave(".deleting-large.20260102T030405Z.0");
    let live = leave(".building-large.20260102T030406Z");
    let lock = fs::File::open(live.join("lock")).unwrap();
    lock.try_lock().unwrap();

    assert!(fixture.ids().await.is_empty());
    let spared = BTreeSet::from([".building-large.20260102T030406Z".to_owned()]);
    assert_eq!(fixture.names(), spared);

    lock.unlock().unwrap();
    let config = ImageConfig::new(&root, shared_cache());
    ImageStore::open(config).await.unwrap();
    assert!(fixture.names().is_empty());
}

#[tokio::test]
async fn delete_twice_is_fine() {
    let fixture = Fixture::new().await;
    let recipe = fixture.raw_disk();
    let image = fixture.build(&recipe).await.unwrap();
    fixture.store.delete(&image.id).await.unwrap();
    fixture.store.delete(&image.id).await.unwrap();
    assert!(fixture.names().is_empty());
}

#[tokio::test]
async fn foreign_directories_are_neither_listed_nor_touched() {
    let fixture = Fixture::new().await;
    let recipe = fixture.raw_disk();
    let foreign = fixture.store.root().join("lost+found");
    let id = ImageId::new("linux.1").unwrap();
    let lookalike = fixture.store.root().join(id.as_str());
    for path in [&foreign, &lookalike] {
        fs::create_dir(path).unwrap();
        fs::write(path.join("kernel"), "precious").unwrap();
    }
    fs::write(fixture.store.root().join("notes.txt"), "precious").unwrap();
    fixture.store.delete(&id).await.unwrap();
    let image = fixture.build(&recipe).await.unwrap();
    assert_eq!(fixture.ids().await, BTreeSet::from([image.id]));
    assert!(foreign.join("kernel").exists() && lookalike.join("kernel").exists());
}

#[tokio::test]
async fn a_list_with_a_description_it_cannot_read_is_an_error_that_names_it() {
    let fixture = Fixture::new().await;
    let recipe = fixture.raw_disk();
    let image = fixture.build(&recipe).await.unwrap();
    fixture.build(&recipe).await.unwrap();
    let path = fixture.store.root().join(image.id.as_str()).join("image.json");
    fs::remove_file(&path).unwrap();
    fs::write(&path, "{").unwrap();
    let error = fixture.store.images().await.unwrap_err();
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    // And it can be deleted all the same.
    fixture.store.delete(&image.id).await.unwrap();
    assert_eq!(fixture.ids().await.len(), 1);
}

#[tokio::test]
async fn an_image_that_lost_a_file_is_no_image_and_the_next_build_deletes_it() {
    let fixture = Fixture::new().await;
    let recipe = fixture.raw_disk();
    let image = fixture.build(&recipe).await.unwrap();
    let Boot::Disk { path, .. } = &image.boot else {
        panic!("{:?}", image.boot);
    };
    fs::remove_file(path).unwrap();
    assert_eq!(fixture.store.images().await.unwrap(), []);
    let fresh = fixture.build(&recipe).await.unwrap();
    assert_eq!(fixture.store.images().await.unwrap(), [fresh]);
}
