//! What becomes of the store when its file is lost, replaced, damaged or has no room, and of the jobs that
//! run meanwhile.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use futures::TryStreamExt;
use jiff::Timestamp;
use runner_core::{
    Capacity, Clock, EventLog, Forge, ForgeName, JobId, OwnerId, Pace, Pool, PoolParts, Profile,
    Resources, Store,
    event::{EVENTS_KEPT, What},
    fake::FakeWorld,
    image::{Recipe, RecipeKind},
    local::{JobSpec, JobState, LocalLimits, LocalQueue, Run},
    plan::Subject,
    pool::HoldRequest,
    store::Renewal,
    wish::Adjust,
};
use tempfile::TempDir;

fn name<T: std::str::FromStr<Err = runner_core::Error>>(text: &str) -> T {
    text.parse().expect("a valid name")
}

fn dir() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

fn owner(text: &str) -> OwnerId {
    name(text)
}

async fn open(path: &Path) -> Store {
    Store::open(path).await.expect("a store")
}

/// What is written in it: the owner stays the first that was ever given.
async fn owner_of(store: &Store) -> String {
    store.owner(owner("second")).await.expect("an owner").to_string()
}

fn files_of(dir: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(dir.path()).expect("list");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn garbage(path: &Path) {
    let size = fs::metadata(path).expect("a file").len() as usize;
    let file = fs::OpenOptions::new().write(true).open(path).expect("open");
    let junk: Vec<u8> = (0..size).map(|n| (n * 31 % 251) as u8).collect();
    std::os::unix::fs::FileExt::write_all_at(&file, &junk, 0).expect("write");
}

fn truncate(path: &Path, to: impl Fn(u64) -> u64) {
    let file = fs::OpenOptions::new().write(true).open(path).expect("open");
    let size = file.metadata().expect("size").len();
    file.set_len(to(size)).expect("truncate");
}

#[tokio::test]
async fn the_file_and_its_side_files_are_for_the_owner_only() {
    let dir = dir();
    let store = open(&dir.path().join("s.db")).await;
    store.owner(owner("first")).await.unwrap();
    for file in files_of(&dir) {
        let mode = fs::metadata(dir.path().join(&file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    assert_eq!(files_of(&dir), ["s.db", "s.db-shm", "s.db-wal"]);
}

#[tokio::test]
async fn sqlite3_reads_the_file_while_it_is_open() {
    let dir = dir();
    let path = dir.path().join("s.db");
    let store = open(&path).await;
    store.owner(owner("first")).await.unwrap();
    let query = "SELECT value FROM meta WHERE key = 'owner'";
    match Command::new("sqlite3").arg(&path).arg(query).output() {
        Ok(out) => assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), "first", "{out:?}"),
        Err(error) => println!("skipped: no sqlite3: {error}"),
    }
}

#[tokio::test]
async fn what_was_written_is_there_after_a_process_that_closed_nothing() {
    let dir = dir();
    let path = dir.path().join("s.db");
    let store = open(&path).await;
    store.owner(owner("first")).await.unwrap();
    // As a killed process leaves it: nobody closes the first.
    let again = open(&path).await;
    assert_eq!(owner_of(&again).await, "first");
    assert_eq!(again.renewals().borrow().count, 0);
}

#[tokio::test]
async fn a_file_that_is_deleted_is_written_anew_and_nothing_is_lost() {
    let dir = dir();
    let path = dir.path().join("s.db");
    let store = open(&path).await;
    store.owner(owner("first")).await.unwrap();
    for round in 1..=3 {
        for file in files_of(&dir) {
            fs::remove_file(dir.path().join(file)).unwrap();
        }
        assert_eq!(owner_of(&store).await, "first");
        let renewal = store.renewals().borrow().clone();
        assert_eq!(renewal.count, round);
        assert!(renewal.reason.contains("is gone"), "{renewal:?}");
        assert!(renewal.reason.contains("nothing is lost"), "{renewal:?}");
        assert_eq!(files_of(&dir), ["s.db", "s.db-shm", "s.db-wal"]);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    drop(store);
    assert_eq!(owner_of(&open(&path).await).await, "first");
}

#[tokio::test]
async fn a_directory_that_is_gone_refuses_in_words_and_nothing_is_lost_when_it_is_back() {
    let dir = dir();
    let inner = dir.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let store = open(&inner.join("s.db")).await;
    store.owner(owner("first")).await.unwrap();
    fs::remove_dir_all(&inner).unwrap();
    for _ in 0..2 {
        let text = runner_core::error::chain(&store.owner(owner("second")).await.unwrap_err());
        assert!(text.contains("inner/s.db anew, which is gone"), "{text}");
    }
    fs::create_dir(&inner).unwrap();
    assert_eq!(owner_of(&store).await, "first");
}

#[tokio::test]
async fn a_file_that_a_dead_process_was_about_to_put_back_is_put_back() {
    let dir = dir();
    let path = dir.path().join("s.db");
    open(&path).await.owner(owner("first")).await.unwrap();
    fs::rename(&path, dir.path().join("s.rescued")).unwrap();
    assert_eq!(owner_of(&open(&path).await).await, "first");
}

#[tokio::test]
async fn a_file_that_is_replaced_is_kept_and_the_open_one_goes_on() {
    let dir = dir();
    let path = dir.path().join("s.db");
    let store = open(&path).await;
    store.owner(owner("first")).await.unwrap();
    let other = dir.path().join("other");
    fs::write(&other, "not mine").unwrap();
    fs::rename(&other, &path).unwrap();
    assert_eq!(owner_of(&store).await, "first");
    let reason = store.renewals().borrow().reason.clone();
    assert!(reason.contains("was replaced"), "{reason}");
    let aside = files_of(&dir).into_iter().find(|file| file.contains(".damaged-")).unwrap();
    assert_eq!(fs::read_to_string(dir.path().join(aside)).unwrap(), "not mine");
}

/// A store that was damaged while it was open serves on, says so, and its directory keeps what was there.
async fn survives_while_open(damage: impl Fn(&Path)) -> Renewal {
    let dir = dir();
    let path = dir.path().join("s.db");
    let store = open(&path).await;
    store.owner(owner("first")).await.unwrap();
    damage(&path);
    let kept = owner_of(&store).await;
    // Pages that SQLite holds in memory or in its log may hide the damage for a while.
    assert!(kept == "first" || kept == "second", "{kept}");
    let renewal = store.renewals().borrow().clone();
    assert!(kept == "first" || renewal.count == 1, "lost in silence: {renewal:?}");
    drop(store);
    let again = open(&path).await;
    let after = owner_of(&again).await;
    assert!(after == kept || again.renewals().borrow().count == 1, "{after}");
    assert_eq!(owner_of(&again).await, after);
    renewal
}

#[tokio::test]
async fn a_file_that_is_cut_while_open_is_noticed_at_the_next_word() {
    type Cut = (fn(u64) -> u64, &'static str);
    let cuts: [Cut; 3] =
        [(|_| 0, "is empty"), (|size| size / 2, "was cut short"), (|_| 100, "was cut short")];
    for (cut, told) in cuts {
        let renewal = survives_while_open(|path| truncate(path, cut)).await;
        assert_eq!(renewal.count, 1, "{told}");
        assert!(renewal.reason.contains(told), "{renewal:?}");
    }
}

#[tokio::test]
async fn a_file_that_is_overwritten_while_open_is_begun_anew() {
    survives_while_open(garbage).await;
}

#[tokio::test]
async fn side_files_that_are_overwritten_while_open_do_not_stop_the_store() {
    survives_while_open(|path| {
        for suffix in ["-wal", "-shm"] {
            let mut side = path.as_os_str().to_owned();
            side.push(suffix);
            garbage(Path::new(&side));
        }
    })
    .await;
}

/// A store that was damaged while it was closed opens, keeps the old file and says so.
async fn survives_while_closed(damage: impl Fn(&Path), may_be_empty: bool) {
    let dir = dir();
    let path = dir.path().join("s.db");
    let store = open(&path).await;
    store.owner(owner("first")).await.unwrap();
    drop(store);
    damage(&path);
    let store = open(&path).await;
    assert_eq!(owner_of(&store).await, "second");
    if may_be_empty {
        return;
    }
    let renewal = store.renewals().borrow().clone();
    assert_eq!(renewal.count, 1);
    let aside = files_of(&dir).into_iter().find(|file| file.contains(".damaged-")).unwrap();
    assert!(renewal.reason.contains(&aside), "{renewal:?}");
}

#[tokio::test]
async fn a_file_that_was_emptied_is_a_new_one() {
    survives_while_closed(|path| truncate(path, |_| 0), true).await;
}

#[tokio::test]
async fn a_file_that_was_halved_is_kept_and_a_new_one_begun() {
    survives_while_closed(|path| truncate(path, |size| size / 2), false).await;
}

#[tokio::test]
async fn a_file_that_was_overwritten_is_kept_and_a_new_one_begun() {
    survives_while_closed(garbage, false).await;
}

#[tokio::test]
async fn a_file_of_something_else_is_kept_and_a_new_one_begun() {
    survives_while_closed(|path| fs::write(path, "root:x:0:0").unwrap(), false).await;
}

#[tokio::test]
async fn a_directory_that_is_missing_is_named() {
    let dir = dir();
    let path = dir.path().join("missing/s.db");
    let error = Store::open(&path).await.err().expect("no store");
    let text = runner_core::error::chain(&error);
    assert!(text.contains("missing/s.db") && text.contains("No such file"), "{text}");
}

/// A file system of its own that is easily full, for whoever may mount one.
struct SmallDisk(PathBuf, #[expect(dead_code, reason = "removed when dropped")] TempDir);

impl SmallDisk {
    fn mount(kib: u32) -> Option<Self> {
        let dir = dir();
        let path = dir.path().join("disk");
        fs::create_dir(&path).unwrap();
        let size = format!("size={kib}k");
        match Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(&path).output() {
            Ok(out) if out.status.success() => Some(Self(path, dir)),
            _ => {
                println!("skipped: mounting needs root");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

fn job(script: &str) -> JobSpec {
    JobSpec {
        profile: Some(name("small")),
        run: Run::Script(script.to_owned()),
        ..JobSpec::default()
    }
}

#[tokio::test]
async fn a_full_disk_refuses_in_words_and_the_store_recovers_when_there_is_room() {
    let Some(disk) = SmallDisk::mount(1024) else { return };
    let path = disk.0.join("s.db");
    let store = open(&path).await;
    store.owner(owner("first")).await.unwrap();
    let events = EventLog::open(store.clone()).await.unwrap();
    let queue = LocalQueue::open(store.clone(), events, Clock::system(), LocalLimits::default())
        .await
        .unwrap();
    let before = queue.submit(job("true"), vec![]).await.unwrap();
    let filler = disk.0.join("filler");
    let _ = fs::write(&filler, vec![1; 2 << 20]);
    let file = |size| runner_core::local::InputFile {
        path: "input".to_owned(),
        mode: 0o600,
        content: vec![2; size],
    };
    let error = queue.submit(job("true"), vec![file(300_000)]).await.expect_err("no room");
    let text = runner_core::error::chain(&error);
    assert!(text.contains("store could not write a job"), "{text}");
    assert!(text.contains("full"), "{text}");
    assert_eq!(store.renewals().borrow().count, 0, "a full disk is not damage");
    fs::remove_file(&filler).unwrap();
    queue.submit(job("true"), vec![file(300_000)]).await.unwrap();
    assert_eq!(queue.jobs(None, 10).await.unwrap().len(), 2);
    assert_eq!(owner_of(&store).await, "first");
    assert_eq!(queue.job(&before.id).await.unwrap().state, JobState::Queued);
}

#[tokio::test]
async fn a_full_disk_at_the_start_is_said_and_leaves_nothing_that_hinders_the_next() {
    let Some(disk) = SmallDisk::mount(64) else { return };
    let filler = disk.0.join("filler");
    let _ = fs::write(&filler, vec![1; 1 << 20]);
    let path = disk.0.join("s.db");
    let error = Store::open(&path).await.err().expect("no store");
    let text = runner_core::error::chain(&error);
    assert!(text.contains("s.db"), "{text}");
    drop(disk);
    let Some(disk) = SmallDisk::mount(1024) else { return };
    let _ = fs::write(disk.0.join("filler"), vec![1; 2 << 20]);
    let path = disk.0.join("s.db");
    assert!(Store::open(&path).await.is_err());
    fs::remove_file(disk.0.join("filler")).unwrap();
    let store = open(&path).await;
    assert_eq!(store.renewals().borrow().count, 0, "{:?}", store.renewals().borrow());
    assert_eq!(owner_of(&store).await, "second");
}

#[tokio::test]
async fn a_file_that_is_deleted_on_a_full_disk_is_back_when_there_is_room() {
    let Some(disk) = SmallDisk::mount(1024) else { return };
    let path = disk.0.join("s.db");
    let store = open(&path).await;
    store.owner(owner("first")).await.unwrap();
    fs::remove_file(&path).unwrap();
    let filler = disk.0.join("filler");
    let _ = fs::write(&filler, vec![1; 2 << 20]);
    let refused = store.owner(owner("second")).await;
    assert!(refused.is_err(), "{refused:?}");
    fs::remove_file(&filler).unwrap();
    assert_eq!(owner_of(&store).await, "first");
}

#[tokio::test]
async fn a_read_only_file_system_refuses_in_words_and_the_store_recovers() {
    let Some(disk) = SmallDisk::mount(1024) else { return };
    let remount = |how: &str| {
        let how = format!("remount,{how}");
        let out = Command::new("mount").args(["-o", &how]).arg(&disk.0).output();
        out.is_ok_and(|out| out.status.success())
    };
    let path = disk.0.join("s.db");
    let store = open(&path).await;
    store.owner(owner("first")).await.unwrap();
    drop(store);
    if !remount("ro") {
        println!("skipped: the file system cannot be made read-only");
        return;
    }
    let error = Store::open(&path).await.err().expect("no store");
    let text = runner_core::error::chain(&error);
    assert!(text.contains("s.db") && text.to_lowercase().contains("read-only"), "{text}");
    assert!(remount("rw"));
    assert_eq!(owner_of(&open(&path).await).await, "first");
}

/// Waits until the file has the event of this number.
async fn stored(path: &Path, number: u64) {
    let file = rusqlite::Connection::open(path).unwrap();
    let last =
        || file.query_row("SELECT max(id) FROM events", [], |row| row.get::<_, Option<u64>>(0));
    while last().unwrap() < Some(number) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn events_are_kept_up_to_their_limit_and_their_numbers_are_never_used_twice() {
    let dir = dir();
    let path = dir.path().join("s.db");
    let note = |text: String| What::Note { text };
    let store = open(&path).await;
    let log = EventLog::open(store.clone()).await.unwrap();
    let all = EVENTS_KEPT + 1_000;
    for n in 1..=all {
        log.record(Timestamp::UNIX_EPOCH, Subject::Pool, note(format!("event {n}")));
        if n % 1_000 == 0 {
            stored(&path, n).await;
        }
    }
    let kept = log.since(0, u32::MAX).await.unwrap();
    assert_eq!(kept.len() as u64, EVENTS_KEPT);
    assert_eq!((kept[0].id, kept.last().unwrap().id), (all - EVENTS_KEPT + 1, all));
    let latest: Vec<u64> = log.latest(3).await.unwrap().iter().map(|event| event.id).collect();
    assert_eq!(latest, [all - 2, all - 1, all]);
    drop((log, store));
    let log = EventLog::open(open(&path).await).await.unwrap();
    log.record(Timestamp::UNIX_EPOCH, Subject::Pool, note("after".to_owned()));
    written(&log, all + 1).await;
}

#[tokio::test]
async fn an_events_number_is_not_used_again_after_the_store_was_lost() {
    let dir = dir();
    let path = dir.path().join("s.db");
    let log = EventLog::open(open(&path).await).await.unwrap();
    log.record(Timestamp::UNIX_EPOCH, Subject::Pool, What::Freed);
    written(&log, 1).await;
    truncate(&path, |_| 0);
    log.record(Timestamp::UNIX_EPOCH, Subject::Pool, What::Sighted);
    written(&log, 2).await;
}

/// Waits until the event of this number is in the store, and the last there.
async fn written(log: &EventLog, id: u64) {
    for _ in 0..500 {
        if log.since(id - 1, 10).await.unwrap().iter().map(|event| event.id).eq([id]) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("event {id} is not written");
}

/// A pool with one profile on the local queue, on a fake host, by the real clock.
struct Site {
    world: FakeWorld,
    store: Store,
    queue: LocalQueue,
    pool: Pool,
}

async fn site(path: &Path) -> Site {
    let world = FakeWorld::new(Clock::system());
    world.set_boot_time(Duration::from_millis(20));
    world.set_capacity(Capacity { vcpus: 8, memory_mib: 8 << 10, ..Capacity::default() });
    let store = open(path).await;
    let owner = store.owner(owner("site")).await.unwrap();
    let events = EventLog::open(store.clone()).await.unwrap();
    let queue =
        LocalQueue::open(store.clone(), events.clone(), Clock::system(), LocalLimits::default())
            .await
            .unwrap();
    let recipe = Recipe { profile: name("small"), kind: RecipeKind::Micro {} };
    let resources = Resources { vcpus: 1, memory_mib: 1024, ..Resources::default() };
    let mut profile = Profile::new(name("local"), recipe, resources);
    (profile.min_idle, profile.max) = (1, 2);
    let forges: BTreeMap<ForgeName, Arc<dyn Forge>> =
        [(name("local"), Arc::new(queue.clone()) as Arc<dyn Forge>)].into();
    let pool = Pool::start(PoolParts {
        hypervisor: Arc::new(world.hypervisor()),
        forges,
        builder: Arc::new(world.builder()),
        store: store.clone(),
        events,
        owner,
        profiles: vec![profile],
        pace: Pace { look_every: Duration::from_millis(200), ..Pace::default() },
        clock: Clock::system(),
    })
    .await
    .unwrap();
    Site { world, store, queue, pool }
}

async fn log_of(queue: &LocalQueue, id: &JobId) -> String {
    let parts: Vec<bytes::Bytes> = queue.log(id, 0).await.unwrap().try_collect().await.unwrap();
    String::from_utf8(parts.concat()).unwrap()
}

/// A job whose store is hit in the midst of it ends with its whole log, on the machine where it began.
async fn a_job_survives(damage: impl Fn(&Path)) {
    let dir = dir();
    let path = dir.path().join("s.db");
    let Site { world, store, queue, pool } = site(&path).await;
    let script = "echo one\nsleep 0.4\necho two\nsleep 0.8\necho three\nexit 3";
    let job = queue.submit(job(script), vec![]).await.unwrap();
    let limit = Duration::from_secs(20);
    let begun = async {
        while queue.job(&job.id).await.unwrap().read_bytes == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(limit, begun).await.expect("the job begins");
    let waiting = queue.submit(self::job("echo later"), vec![]).await.unwrap();
    let worker = queue.job(&job.id).await.unwrap().worker.expect("it runs");
    let (by, purpose) = ("ann".to_owned(), "to look".to_owned());
    let until = Clock::system().now() + jiff::SignedDuration::from_hours(1);
    pool.hold(HoldRequest { worker, until, by, purpose }).await.unwrap();
    let adjust = Adjust { min_idle: Some(Some(2)), ..Adjust::default() };
    pool.adjust(&name("small"), adjust, "ann").await.unwrap();
    damage(&path);
    let ended = tokio::time::timeout(limit, queue.wait(&job.id)).await.expect("it ends").unwrap();
    assert_eq!(ended.state.exit_code(), Some(3), "{ended:?}");
    assert_eq!(log_of(&queue, &job.id).await, "one\ntwo\nthree\n");
    let later =
        tokio::time::timeout(limit, queue.wait(&waiting.id)).await.expect("it ends").unwrap();
    assert_eq!(later.state, JobState::Succeeded);
    assert_eq!(log_of(&queue, &waiting.id).await, "later\n");
    assert_eq!(world.crimes(), [""; 0]);
    assert_eq!(store.renewals().borrow().count, 1, "{:?}", store.renewals().borrow());
    let told = async {
        loop {
            let events = pool.events().latest(1_000).await.unwrap();
            if events.iter().any(|e| e.subject == Subject::Store) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(limit, told).await.expect("an event tells of it");
    // What people asked is there again for the next process.
    let wished = |table: &str| {
        let file = rusqlite::Connection::open(&path).unwrap();
        file.busy_timeout(Duration::from_secs(5)).unwrap();
        let sql = format!("SELECT count(*) FROM {table} WHERE asker = 'ann'");
        file.query_row(&sql, [], |row| row.get::<_, u32>(0)).unwrap()
    };
    let wishes = async {
        while (wished("holds"), wished("adjustments")) != (1, 1) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(limit, wishes).await.expect("the wishes are written again");
    pool.stop().await;
    assert_eq!(world.crimes(), [""; 0]);
}

#[tokio::test]
async fn a_job_whose_store_is_deleted_ends_with_its_whole_log() {
    a_job_survives(|path| fs::remove_file(path).unwrap()).await;
}

#[tokio::test]
async fn a_job_whose_store_is_emptied_ends_with_its_whole_log() {
    a_job_survives(|path| truncate(path, |_| 0)).await;
}

#[tokio::test]
async fn a_job_whose_store_is_replaced_ends_with_its_whole_log() {
    a_job_survives(|path| {
        let other = path.with_extension("other");
        fs::write(&other, "not mine").unwrap();
        fs::rename(&other, path).unwrap();
    })
    .await;
}
