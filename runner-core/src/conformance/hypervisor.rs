//! The promises of `Hypervisor` and `Guest`.

use std::{
    any::Any,
    collections::BTreeSet,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture};

use crate::{
    error::{Error, Result},
    guest::{Command, Cursor, ExitStatus, Guest, Output, Signal, exec},
    hypervisor::{Hypervisor, Instance, InstanceSpec, InstanceState},
    name::{ProcessId, WorkerName},
};

/// Opens a hypervisor on the state that another one left.
pub type Reopen = Box<dyn Fn() -> BoxFuture<'static, Arc<dyn Hypervisor>> + Send + Sync>;

/// A hypervisor to be tested, without any instance.
pub struct HypervisorFixture {
    /// The hypervisor.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// A specification that works; where there are guests, one whose guest has an agent and `/bin/sh`.
    pub spec: Box<dyn Fn(&str) -> InstanceSpec + Send + Sync>,
    /// Opens another one on the same state, once the first is dropped.
    pub reopen: Option<Reopen>,
    /// What shuts a guest down from the inside.
    pub power_off: Option<Command>,
    /// Dropped last, such as a temporary directory.
    pub keep: Box<dyn Any + Send + Sync>,
}

/// How long anything may take: generous, since machines are emulated and hosts are loaded.
const LIMIT: Duration = Duration::from_secs(240);

/// The hypervisor that a test uses at the moment: to clean up with, whatever became of the test.
type Current = Arc<Mutex<Option<Arc<dyn Hypervisor>>>>;

/// Runs one test and destroys what it left.
pub async fn run<F>(fixture: HypervisorFixture, test: impl FnOnce(Bench) -> F)
where
    F: Future<Output = ()>,
{
    let HypervisorFixture { hypervisor, spec, reopen, power_off, keep } = fixture;
    let current: Current = Arc::new(Mutex::new(Some(hypervisor.clone())));
    let (spec, inside) = (Arc::from(spec), None);
    let bench = Bench { hypervisor, spec, reopen, power_off, current: current.clone(), inside };
    let outcome = AssertUnwindSafe(tokio::time::timeout(LIMIT, test(bench))).catch_unwind().await;
    let left = current.lock().ok().and_then(|mut current| current.take());
    if let Some(hypervisor) = left {
        clean(&*hypervisor).await;
    }
    match outcome {
        Ok(in_time) => in_time.expect("the test took too long"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
    drop(keep);
}

async fn clean(hypervisor: &dyn Hypervisor) {
    for instance in hypervisor.instances().await.unwrap_or_default() {
        if let Err(error) = hypervisor.destroy(&instance.name).await {
            eprintln!("left over: {}: {}", instance.name, crate::error::chain(&error));
        }
    }
}

/// What a test works with.
pub struct Bench {
    hypervisor: Arc<dyn Hypervisor>,
    spec: Arc<dyn Fn(&str) -> InstanceSpec + Send + Sync>,
    reopen: Option<Reopen>,
    power_off: Option<Command>,
    current: Current,
    /// The guest that the test shares with others.
    inside: Option<Arc<dyn Guest>>,
}

impl Bench {
    fn has_guests(&self) -> bool {
        self.hypervisor.capabilities().guest
    }

    async fn create(&self, name: &str) -> Instance {
        self.hypervisor.create(&(self.spec)(name)).await.expect("create")
    }

    async fn names(&self) -> BTreeSet<String> {
        let instances = self.hypervisor.instances().await.expect("list");
        instances.into_iter().map(|instance| instance.name.to_string()).collect()
    }

    /// A guest that may still boot: what is refused for itself is refused at once.
    async fn booting(&self, name: &str) -> Arc<dyn Guest> {
        if let Some(guest) = &self.inside {
            return guest.clone();
        }
        self.create(name).await;
        self.hypervisor.guest(&worker(name)).await.expect("guest")
    }

    async fn guest(&self, name: &str) -> Arc<dyn Guest> {
        let guest = self.booting(name).await;
        guest.ready().await.expect("ready");
        guest
    }

    async fn done(self) {
        if self.inside.is_some() {
            return;
        }
        clean(&*self.hypervisor).await;
        assert_eq!(self.names().await, BTreeSet::new(), "everything is destroyed in the end");
    }
}

fn worker(name: &str) -> WorkerName {
    WorkerName::new(name).expect("a valid name")
}

fn process(name: &str) -> ProcessId {
    ProcessId::new(name).expect("a valid id")
}

fn shell(script: &str) -> Command {
    Command::new(["/bin/sh", "-c", script])
}

async fn output(guest: &dyn Guest, id: &str, command: &Command) -> (String, String, ExitStatus) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let take = |output: Output<'_>| match output {
        Output::Stdout(text) => stdout.extend_from_slice(text),
        Output::Stderr(text) => stderr.extend_from_slice(text),
    };
    let exit = exec(guest, &process(id), command, take).await.expect("exec");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (text(stdout), text(stderr), exit)
}

macro_rules! needs {
    ($condition:expr, $what:literal) => {
        if !$condition {
            println!("skipped: {}", $what);
            return;
        }
    };
}

mod inside;
mod session;

pub use inside::a_guest_keeps_its_promises;
pub use session::*;

/// A host without room could not run anything.
pub async fn capacity_is_more_than_nothing(bench: Bench) {
    let capacity = bench.hypervisor.capacity().await.expect("capacity");
    assert!(capacity.vcpus > 0 && capacity.memory_mib > 0, "{capacity:?}");
    bench.done().await;
}

/// Under its name, with what it was made from.
pub async fn what_is_created_is_listed(bench: Bench) {
    let spec = (bench.spec)("a-1");
    let created = bench.hypervisor.create(&spec).await.expect("create");
    let listed = bench.hypervisor.instances().await.expect("list");
    assert_eq!(listed, vec![created.clone()]);
    assert_eq!((created.name, created.profile), (spec.name, spec.profile));
    assert_eq!((created.image, created.resources), (spec.image.id, spec.resources));
    assert_eq!(created.state, InstanceState::Running);
    bench.done().await;
}

/// The second call returns what the first made.
pub async fn create_twice_is_one_instance(bench: Bench) {
    let first = bench.create("a-1").await;
    assert_eq!(bench.create("a-1").await, first);
    assert_eq!(bench.names().await.len(), 1);
    bench.done().await;
}

/// Created and destroyed concurrently, each for itself.
pub async fn several_at_once_do_not_disturb_each_other(bench: Bench) {
    futures::join!(bench.create("a-1"), bench.create("a-2"), bench.create("b-1"));
    assert_eq!(bench.names().await.len(), 3);
    let (first, third) = (worker("a-1"), worker("b-1"));
    let ends = futures::join!(bench.hypervisor.destroy(&first), bench.hypervisor.destroy(&third));
    assert!(ends.0.is_ok() && ends.1.is_ok());
    assert_eq!(bench.names().await, BTreeSet::from(["a-2".to_owned()]));
    bench.done().await;
}

/// When destroy returns, nothing is left to list.
pub async fn destroy_removes_it_from_the_list(bench: Bench) {
    bench.create("a-1").await;
    bench.hypervisor.destroy(&worker("a-1")).await.expect("destroy");
    assert!(bench.names().await.is_empty());
    bench.done().await;
}

/// Unmaking is idempotent.
pub async fn destroy_twice_is_fine(bench: Bench) {
    bench.create("a-1").await;
    bench.hypervisor.destroy(&worker("a-1")).await.expect("once");
    bench.hypervisor.destroy(&worker("a-1")).await.expect("twice");
    bench.done().await;
}

/// What is not there is destroyed already.
pub async fn destroy_of_what_never_was_is_fine(bench: Bench) {
    bench.hypervisor.destroy(&worker("never-1")).await.expect("destroy");
    bench.done().await;
}

/// Whatever a dropped create made is listed, or can be made again; destroying it leaves nothing.
pub async fn a_dropped_create_leaves_nothing_hidden(bench: Bench) {
    for (round, wait) in [0, 1, 5, 20, 60].into_iter().enumerate() {
        let name = format!("a-{round}");
        let spec = (bench.spec)(&name);
        let create = bench.hypervisor.create(&spec);
        drop(tokio::time::timeout(Duration::from_millis(wait), create).await);
        bench.names().await;
        bench.hypervisor.destroy(&spec.name).await.expect("destroy");
        assert!(!bench.names().await.contains(&name), "{name} is there after {wait} ms");
    }
    bench.done().await;
}

/// A dropped destroy leaves something that a second one ends.
pub async fn a_dropped_destroy_can_be_repeated(bench: Bench) {
    for (round, wait) in [0, 1, 5].into_iter().enumerate() {
        let name = format!("a-{round}");
        bench.create(&name).await;
        let name = worker(&name);
        let destroy = bench.hypervisor.destroy(&name);
        drop(tokio::time::timeout(Duration::from_millis(wait), destroy).await);
        bench.hypervisor.destroy(&name).await.expect("destroy");
        assert!(bench.names().await.is_empty());
    }
    bench.done().await;
}

/// With an error that says what there is too little of.
pub async fn what_does_not_fit_is_refused(bench: Bench) {
    let mut spec = (bench.spec)("huge-1");
    spec.resources.memory_mib = 1 << 40;
    let error = bench.hypervisor.create(&spec).await.expect_err("an exbibyte of memory");
    assert!(matches!(error, Error::Exhausted { .. }), "{error:?}");
    let listed = bench.hypervisor.instances().await.expect("list");
    assert!(!listed.iter().any(|instance| instance.state == InstanceState::Running));
    bench.done().await;
}

/// Nothing of the first of that name disturbs the second.
pub async fn a_name_can_be_used_again_after_destroy(bench: Bench) {
    bench.create("a-1").await;
    bench.hypervisor.destroy(&worker("a-1")).await.expect("destroy");
    bench.create("a-1").await;
    assert_eq!(bench.names().await.len(), 1);
    bench.done().await;
}

/// Where the capability says so.
pub async fn changes_are_hinted(bench: Bench) {
    needs!(bench.hypervisor.capabilities().changes, "no changes");
    let mut changes = bench.hypervisor.changes();
    bench.create("a-1").await;
    changes.next().await;
    let mut changes = bench.hypervisor.changes();
    bench.hypervisor.destroy(&worker("a-1")).await.expect("destroy");
    changes.next().await;
    bench.done().await;
}

/// Of what runs; there is none of what does not.
pub async fn a_screenshot_is_a_png(bench: Bench) {
    needs!(bench.hypervisor.capabilities().screenshot, "no screenshots");
    bench.create("a-1").await;
    let png = bench.hypervisor.screenshot(&worker("a-1")).await.expect("screenshot");
    assert!(png.0.starts_with(b"\x89PNG\r\n\x1a\n") && png.0.len() > 60);
    let none = bench.hypervisor.screenshot(&worker("never-1")).await;
    assert!(none.is_err_and(|error| error.is_not_found()));
    bench.done().await;
}

/// What was written is there, and a follower's stream ends with the instance.
pub async fn a_console_tells_the_past_and_ends(bench: Bench) {
    needs!(bench.hypervisor.capabilities().console, "no consoles");
    bench.create("a-1").await;
    if bench.has_guests() {
        let guest = bench.hypervisor.guest(&worker("a-1")).await.expect("guest");
        guest.ready().await.expect("ready");
    }
    let mut past = bench.hypervisor.console(&worker("a-1"), false).await.expect("console");
    let mut bytes = 0;
    while let Some(part) = past.next().await {
        bytes += part.expect("console").len();
    }
    assert!(bytes > 0 && bytes <= 1 << 20, "{bytes}");
    let mut live = bench.hypervisor.console(&worker("a-1"), true).await.expect("console");
    live.next().await.expect("the past").expect("console");
    bench.hypervisor.destroy(&worker("a-1")).await.expect("destroy");
    while live.next().await.is_some() {}
    let none = bench.hypervisor.console(&worker("never-1"), false).await;
    assert!(none.is_err_and(|error| error.is_not_found()));
    bench.done().await;
}

/// Neither what never was nor what was destroyed; and a guest held from before says so.
pub async fn what_does_not_run_has_no_guest(bench: Bench) {
    needs!(bench.has_guests(), "no guests");
    let none = bench.hypervisor.guest(&worker("never-1")).await;
    assert!(none.is_err_and(|error| error.is_not_found()));
    let guest = bench.guest("a-1").await;
    bench.hypervisor.destroy(&worker("a-1")).await.expect("destroy");
    let error = guest.spawn(&process("p"), &shell("true")).await.expect_err("it is destroyed");
    assert!(error.is_not_found(), "{error:?}");
    bench.done().await;
}

async fn reopened(mut bench: Bench) -> (Bench, bool) {
    let Some(reopen) = bench.reopen.take() else {
        return (bench, false);
    };
    if !bench.hypervisor.capabilities().adopts {
        return (bench, false);
    }
    let Bench { hypervisor, spec, power_off, current, .. } = bench;
    drop(hypervisor);
    drop(current.lock().expect("no test panics under it").take());
    let hypervisor = reopen().await;
    *current.lock().expect("no test panics under it") = Some(hypervisor.clone());
    (Bench { hypervisor, spec, reopen: None, power_off, current, inside: None }, true)
}

/// A second manager on the same state lists them and can destroy them.
pub async fn instances_outlive_their_manager(bench: Bench) {
    let created = bench.create("a-1").await;
    let (bench, reopened) = reopened(bench).await;
    needs!(reopened, "instances are not adopted");
    assert_eq!(bench.hypervisor.instances().await.expect("list"), vec![created]);
    bench.done().await;
}

/// A second manager goes on following where the first had stopped.
pub async fn processes_outlive_their_manager(bench: Bench) {
    needs!(bench.has_guests(), "no guests");
    let guest = bench.guest("a-1").await;
    guest.spawn(&process("p"), &shell("echo one; sleep 3; echo two; exit 4")).await.expect("spawn");
    let wait = Duration::from_secs(10);
    let first = guest.follow(&process("p"), Cursor::default(), wait).await.expect("follow");
    assert_eq!(&first.stdout[..], b"one\n");
    drop(guest);
    let (bench, reopened) = reopened(bench).await;
    needs!(reopened, "instances are not adopted");
    let guest = bench.hypervisor.guest(&worker("a-1")).await.expect("guest");
    let (mut cursor, mut rest) = (first.advance(Cursor::default()), Vec::new());
    let exit = loop {
        let progress = guest.follow(&process("p"), cursor, wait).await.expect("follow");
        cursor = progress.advance(cursor);
        rest.extend_from_slice(&progress.stdout);
        if let Some(exit) = progress.exit {
            break exit;
        }
    };
    assert_eq!((&rest[..], exit), (&b"two\n"[..], ExitStatus::Code(4)));
    bench.done().await;
}

/// With the reason, until it is destroyed.
pub async fn a_guest_that_powers_off_is_listed_as_stopped(bench: Bench) {
    let Some(power_off) = &bench.power_off else {
        println!("skipped: no way to power off");
        return;
    };
    let guest = bench.guest("a-1").await;
    // The answer may be lost with the machine.
    drop(guest.spawn(&process("off"), power_off).await);
    let stopped = loop {
        let listed = bench.hypervisor.instances().await.expect("list");
        match listed[0].state.clone() {
            InstanceState::Stopped(reason) => break reason,
            InstanceState::Running => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    assert_eq!(stopped, crate::hypervisor::ExitReason::GuestShutdown);
    bench.done().await;
}

/// Whatever they are.
pub async fn exec_gives_output_and_exit_code(bench: Bench) {
    needs!(bench.has_guests(), "no guests");
    let guest = bench.guest("a-1").await;
    let (stdout, _, exit) = output(&*guest, "p", &shell("echo hello world; exit 3")).await;
    assert_eq!((stdout.as_str(), exit), ("hello world\n", ExitStatus::Code(3)));
    let (stdout, _, exit) = output(&*guest, "q", &shell("true")).await;
    assert_eq!((stdout.as_str(), exit), ("", ExitStatus::Code(0)));
    bench.done().await;
}

/// As the command says.
pub async fn exec_keeps_stderr_apart_or_merges_it(bench: Bench) {
    needs!(bench.has_guests(), "no guests");
    let guest = bench.guest("a-1").await;
    let apart = shell("echo out; echo err >&2");
    let (stdout, stderr, _) = output(&*guest, "p", &apart).await;
    assert_eq!((stdout.as_str(), stderr.as_str()), ("out\n", "err\n"));
    let merged = Command { merge_stderr: true, ..shell("echo a; echo b >&2; echo c") };
    let (stdout, stderr, _) = output(&*guest, "q", &merged).await;
    assert_eq!((stdout.as_str(), stderr.as_str()), ("a\nb\nc\n", ""));
    bench.done().await;
}

/// As a shell says it.
pub async fn a_missing_program_ends_with_127(bench: Bench) {
    needs!(bench.has_guests(), "no guests");
    let guest = bench.guest("a-1").await;
    let (_, _, exit) = output(&*guest, "p", &Command::new(["/no/such/program"])).await;
    assert_eq!(exit, ExitStatus::Code(127));
    bench.done().await;
}

/// Before anything happens.
pub async fn a_command_without_program_is_refused(bench: Bench) {
    needs!(bench.has_guests(), "no guests");
    let guest = bench.booting("a-1").await;
    let none: [&str; 0] = [];
    let error = guest.spawn(&process("p"), &Command::new(none)).await.expect_err("no program");
    assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
    bench.done().await;
}

/// What a shell on the way would lose without a word.
pub async fn an_odd_environment_name_is_refused(bench: Bench) {
    needs!(bench.has_guests(), "no guests");
    let guest = bench.booting("a-1").await;
    for name in ["", "1ST", "A-B", "A B", "A=B", "Ä"] {
        let command = Command { env: [(name.to_owned(), "x".to_owned())].into(), ..shell("true") };
        let error = guest.spawn(&process("p"), &command).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{name}: {error:?}");
    }
    bench.done().await;
}

/// By its id.
pub async fn spawn_twice_runs_once(bench: Bench) {
    needs!(bench.has_guests(), "no guests");
    let guest = bench.guest("a-1").await;
    let command = shell("echo once; sleep 1");
    let (id, again) = (process("p"), guest.clone());
    let both = futures::join!(guest.spawn(&id, &command), again.spawn(&id, &command));
    assert!(both.0.is_ok() && both.1.is_ok(), "{both:?}");
    let (stdout, _, exit) = output(&*guest, "p", &command).await;
    assert_eq!((stdout.as_str(), exit), ("once\n", ExitStatus::Code(0)));
    guest.spawn(&process("p"), &command).await.expect("after its end too");
    let (stdout, ..) = output(&*guest, "p", &command).await;
    assert_eq!(stdout, "once\n");
    bench.done().await;
}

/// Streamed, not delivered in the end.
pub async fn output_comes_before_the_end(bench: Bench) {
    needs!(bench.has_guests(), "no guests");
    let guest = bench.guest("a-1").await;
    guest.spawn(&process("p"), &shell("echo early; sleep 30")).await.expect("spawn");
    let wait = Duration::from_secs(20);
    let progress = guest.follow(&process("p"), Cursor::default(), wait).await.expect("follow");
    assert_eq!((&progress.stdout[..], progress.exit), (&b"early\n"[..], None));
    bench.done().await;
}

/// Byte by byte, as often as asked.
pub async fn follow_goes_on_where_it_stopped(bench: Bench) {
    needs!(bench.has_guests(), "no guests");
    let guest = bench.guest("a-1").await;
    let (stdout, ..) = output(&*guest, "p", &shell("echo 0123456789; echo err >&2")).await;
    assert_eq!(stdout, "0123456789\n");
    for from in [0, 4, 10] {
        let cursor = Cursor { stdout: from, stderr: 4 };
        let progress = guest.follow(&process("p"), cursor, Duration::ZERO).await.expect("follow");
        assert_eq!(&progress.stdout[..], &b"0123456789\n"[from as usize..]);
        assert_eq!((progress.stderr.len(), progress.exit), (0, Some(ExitStatus::Code(0))));
    }
    bench.done().await;
}

/// After the wait that was asked for, empty.
pub async fn follow_returns_when_nothing_happens(bench: Bench) {
    needs!(bench.has_guests(), "no guests");
    let guest = bench.guest("a-1").await;
    guest.spawn(&process("p"), &shell("sleep 60")).await.expect("spawn");
    let wait = Duration::from_millis(200);
    let progress = guest.follow(&process("p"), Cursor::default(), wait).await.expect("follow");
    assert_eq!(progress, crate::guest::Progress::default());
    bench.done().await;
}

/// An id that was never spawned.
pub async fn follow_of_an_unknown_process_is_not_found(bench: Bench) {
    needs!(bench.has_guests(), "no guests");
    let guest = bench.guest("a-1").await;
    let none = guest.follow(&process("never"), Cursor::default(), Duration::ZERO).await;
    assert!(none.is_err_and(|error| error.is_not_found()));
    let none = guest.kill(&process("never"), Signal::Kill).await;
    assert!(none.is_err_and(|error| error.is_not_found()));
    bench.done().await;
}

/// With the signal that did it.
pub async fn kill_ends_a_process(bench: Bench) {
    needs!(bench.has_guests(), "no guests");
    let guest = bench.guest("a-1").await;
    for (id, signal, number) in [("p", Signal::Terminate, 15), ("q", Signal::Kill, 9)] {
        guest.spawn(&process(id), &shell("echo up; sleep 100")).await.expect("spawn");
        let wait = Duration::from_secs(20);
        guest.follow(&process(id), Cursor::default(), wait).await.expect("follow");
        guest.kill(&process(id), signal).await.expect("kill");
        let (_, _, exit) = output(&*guest, id, &shell("unused")).await;
        assert_eq!(exit, ExitStatus::Signal(number));
    }
    bench.done().await;
}

/// It may have ended a moment ago.
pub async fn kill_of_an_ended_process_is_fine(bench: Bench) {
    needs!(bench.has_guests(), "no guests");
    let guest = bench.guest("a-1").await;
    let (_, _, exit) = output(&*guest, "p", &shell("exit 5")).await;
    assert_eq!(exit, ExitStatus::Code(5));
    guest.kill(&process("p"), Signal::Kill).await.expect("kill");
    let (_, _, exit) = output(&*guest, "p", &shell("unused")).await;
    assert_eq!(exit, ExitStatus::Code(5), "the end stays what it was");
    bench.done().await;
}

/// And nothing else.
pub async fn running_lists_what_has_not_ended(bench: Bench) {
    needs!(bench.has_guests(), "no guests");
    let guest = bench.guest("a-1").await;
    output(&*guest, "ended", &shell("true")).await;
    guest.spawn(&process("runs"), &shell("sleep 100")).await.expect("spawn");
    assert_eq!(guest.running().await.expect("running"), vec![process("runs")]);
    bench.done().await;
}

/// Whatever they hold.
pub async fn environment_and_working_directory_arrive(bench: Bench) {
    needs!(bench.has_guests(), "no guests");
    let guest = bench.guest("a-1").await;
    let value = "a 'quoted' $value \"with\" `marks`; and more";
    let command = Command {
        env: [("GREETING".to_owned(), value.to_owned())].into(),
        working_dir: Some("/tmp/some/dir".to_owned()),
        ..shell("echo \"$GREETING\"; pwd")
    };
    let (stdout, ..) = output(&*guest, "p", &command).await;
    assert_eq!(stdout, format!("{value}\n/tmp/some/dir\n"));
    bench.done().await;
}

/// No shell reads them.
pub async fn arguments_arrive_unchanged(bench: Bench) {
    needs!(bench.has_guests(), "no guests");
    let guest = bench.guest("a-1").await;
    let odd = "a;b|c&d $(e) `f` 'g' \"h\" \\i *";
    let (stdout, ..) = output(&*guest, "p", &Command::new(["echo", odd])).await;
    assert_eq!(stdout, format!("{odd}\n"));
    bench.done().await;
}

/// Large ones and binary ones; a second write replaces the first.
pub async fn files_read_back_as_written(bench: Bench) {
    needs!(bench.has_guests(), "no guests");
    let guest = bench.guest("a-1").await;
    let large: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    for content in [&b""[..], b"\0\xff\n", &large, b"short"] {
        let path = "/tmp/deep/dir/a file";
        guest.write_file(path, content, 0o640).await.expect("write");
        let mut read = Vec::new();
        loop {
            let at = read.len() as u64;
            let part = guest.read_file(path, at, 100_000).await.expect("read");
            if part.is_empty() {
                break;
            }
            assert!(part.len() <= 100_000);
            read.extend_from_slice(&part);
        }
        assert!(read == content, "{} bytes became {}", content.len(), read.len());
    }
    bench.done().await;
}

/// By name.
pub async fn a_missing_file_is_not_found(bench: Bench) {
    needs!(bench.has_guests(), "no guests");
    let guest = bench.guest("a-1").await;
    let none: Result<_> = guest.read_file("/no/such/file", 0, 10).await;
    assert!(none.is_err_and(|error| error.is_not_found()));
    bench.done().await;
}

/// There is no working directory to be relative to.
pub async fn a_relative_path_is_refused(bench: Bench) {
    needs!(bench.has_guests(), "no guests");
    let guest = bench.booting("a-1").await;
    let error = guest.write_file("a", b"", 0o600).await.expect_err("relative");
    assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
    bench.done().await;
}
