//! What `Guest` promises of sessions, on a fake agent that runs the real scripts and the real program.

mod common;

use std::time::Duration;

use common::Fixture;
use runner_core::{
    Error, Guest, ProcessId,
    guest::{Command, ExitStatus, Signal, TerminalSize},
};

/// How long anything may take, on a host that has other things to do.
const PATIENCE: Duration = Duration::from_secs(60);
const SIZE: TerminalSize = TerminalSize { columns: 80, rows: 24 };

fn id(text: &str) -> ProcessId {
    ProcessId::new(text).unwrap()
}

fn sh(script: &str) -> Command {
    Command::new(["sh", "-c", script])
}

/// A reader of one session, from its start.
struct Reader<'a> {
    guest: &'a dyn Guest,
    id: ProcessId,
    shown: Vec<u8>,
    exit: Option<ExitStatus>,
}

impl<'a> Reader<'a> {
    fn new(guest: &'a dyn Guest, name: &str) -> Self {
        Self { guest, id: id(name), shown: Vec::new(), exit: None }
    }

    async fn read(&mut self) {
        let from = self.shown.len() as u64;
        let read = self.guest.read_session(&self.id, from, Duration::from_secs(5));
        let news = tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap();
        self.shown.extend_from_slice(&news.output);
        self.exit = news.exit;
    }

    async fn until(&mut self, text: &str) {
        let start = std::time::Instant::now();
        while !String::from_utf8_lossy(&self.shown).contains(text) {
            assert!(self.exit.is_none(), "it ended: {:?}", String::from_utf8_lossy(&self.shown));
            assert!(start.elapsed() < PATIENCE, "{:?}", String::from_utf8_lossy(&self.shown));
            self.read().await;
        }
    }

    async fn end(&mut self) -> ExitStatus {
        let start = std::time::Instant::now();
        loop {
            if let Some(exit) = self.exit {
                return exit;
            }
            assert!(start.elapsed() < PATIENCE, "{:?}", String::from_utf8_lossy(&self.shown));
            self.read().await;
        }
    }

    async fn type_in(&self, text: &str) {
        self.guest.write_session(&self.id, text.as_bytes()).await.unwrap();
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown).into_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_answers_and_ends_as_its_program() {
    let fixture = Fixture::new();
    let guest = &*fixture.guest;
    let script = "tty; stty size; echo $TERM; read line; echo got $line; exit 7";
    guest.open_session(&id("a"), &sh(script), Some(SIZE)).await.unwrap();
    let mut reader = Reader::new(guest, "a");
    reader.until("xterm\r\n").await;
    assert!(reader.text().contains("/dev/pts/"), "{}", reader.text());
    assert!(reader.text().contains("24 80\r\n"), "{}", reader.text());
    assert_eq!(guest.running().await.unwrap(), [id("a")]);
    reader.type_in("hello\r").await;
    assert_eq!(reader.end().await, ExitStatus::Code(7));
    assert!(reader.text().ends_with("hello\r\ngot hello\r\n"), "{}", reader.text());
    assert!(guest.running().await.unwrap().is_empty());
    reader.type_in("to nobody\r").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_otherwise_is_told_as_it_is() {
    let fixture = Fixture::new();
    let guest = &*fixture.guest;
    for (name, command, expected) in [
        ("a", sh("kill -9 $$"), ExitStatus::Signal(9)),
        ("b", Command::new(["no-such-program"]), ExitStatus::Code(127)),
        ("c", Command::new(["/etc/passwd"]), ExitStatus::Code(126)),
    ] {
        guest.open_session(&id(name), &command, Some(SIZE)).await.unwrap();
        assert_eq!(Reader::new(guest, name).end().await, expected, "{name}");
    }
    let refused = guest.open_session(&id("d"), &Command::default(), None).await;
    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_size_reaches_the_program() {
    let fixture = Fixture::new();
    let guest = &*fixture.guest;
    let script = "trap 'stty size; exit 3' WINCH; echo ready; while :; do sleep 0.05; done";
    guest.open_session(&id("a"), &sh(script), Some(SIZE)).await.unwrap();
    let mut reader = Reader::new(guest, "a");
    reader.until("ready").await;
    let size = TerminalSize { columns: 132, rows: 50 };
    guest.resize_session(&id("a"), size).await.unwrap();
    assert_eq!(reader.end().await, ExitStatus::Code(3));
    assert!(reader.text().contains("50 132\r\n"), "{}", reader.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn control_c_interrupts_the_foreground_program_only() {
    let fixture = Fixture::new();
    let guest = &*fixture.guest;
    let script = "trap : INT; sh -c 'echo up; exec sleep 1000'; echo it ended with $?; exit 5";
    guest.open_session(&id("a"), &sh(script), Some(SIZE)).await.unwrap();
    let mut reader = Reader::new(guest, "a");
    reader.until("up\r\n").await;
    reader.type_in("\x03").await;
    assert_eq!(reader.end().await, ExitStatus::Code(5));
    assert!(reader.text().contains("it ended with 130"), "{}", reader.text());
}

/// All bytes, in no order that a terminal or a text would have.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| byte()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_pass_a_raw_terminal_and_pipes_unchanged_both_ways() {
    let fixture = Fixture::new();
    let guest = &*fixture.guest;
    let content = noise(8 << 20);
    for (name, terminal, script) in [
        ("terminal", Some(SIZE), "stty raw -echo; echo ready; exec head -c 8388608"),
        ("pipes", None, "echo ready; exec cat"),
    ] {
        guest.open_session(&id(name), &sh(script), terminal).await.unwrap();
        let mut reader = Reader::new(guest, name);
        reader.until("ready\n").await;
        let write = async {
            guest.write_session(&id(name), &content).await.unwrap();
            guest.end_session_input(&id(name)).await.unwrap();
        };
        let (exit, ()) = tokio::join!(reader.end(), write);
        assert_eq!(exit, ExitStatus::Code(0), "{name}");
        let shown = &reader.shown[b"ready\n".len()..];
        assert!(shown == content, "{name}: {} bytes became {}", content.len(), shown.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_waits_for_its_readers_and_its_writers_for_it() {
    let fixture = Fixture::new();
    let guest = &*fixture.guest;
    guest.open_session(&id("a"), &sh("exec cat /dev/zero"), None).await.unwrap();
    let out = fixture.path("run/runner/a/stdout");
    let size = || std::fs::metadata(&out).unwrap().len();
    let start = std::time::Instant::now();
    while size() < 4 << 20 {
        assert!(start.elapsed() < PATIENCE, "{}", size());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Time to go on, if it did not stop by itself: nobody reads.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let window = size();
    assert!(window < 5 << 20, "{window}");
    let mut from = 0;
    while from < 3 * window {
        let news = guest.read_session(&id("a"), from, PATIENCE).await.unwrap();
        from += news.output.len() as u64;
    }
    let forgotten = guest.read_session(&id("a"), 0, Duration::ZERO).await.unwrap_err();
    assert!(forgotten.to_string().contains("not kept"), "{forgotten}");
    // What was read long ago takes no room: the file is much longer than what it takes.
    let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&out).unwrap()) * 512;
    assert!(blocks < size() / 2 && size() > 2 * window, "{blocks} of {}", size());

    guest.open_session(&id("b"), &sh("exec sleep 1000"), None).await.unwrap();
    let (name, much) = (id("b"), vec![0; 4 << 20]);
    let write = guest.write_session(&name, &much);
    let waits = tokio::time::timeout(Duration::from_secs(1), write).await;
    assert!(waits.is_err(), "nobody reads, and it took it all");
    for name in ["a", "b"] {
        guest.kill(&id(name), Signal::Kill).await.unwrap();
    }
    // Ended, it takes anything.
    Reader::new(guest, "b").end().await;
    tokio::time::timeout(PATIENCE, guest.write_session(&name, &much)).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_reads_and_writes_on() {
    let fixture = Fixture::new();
    let script = "echo one; read x; echo $x; read x; echo $x; exit 2";
    fixture.guest.open_session(&id("a"), &sh(script), None).await.unwrap();
    let mut first = Reader::new(&*fixture.guest, "a");
    first.until("one\n").await;
    first.type_in("two\n").await;
    first.until("two\n").await;
    let successor = fixture.successor();
    successor.open_session(&id("a"), &sh("echo again"), None).await.unwrap();
    let mut second = Reader::new(&*successor, "a");
    second.until("one\ntwo\n").await;
    let from = Duration::ZERO;
    let tail = successor.read_session(&id("a"), 4, from).await.unwrap();
    assert_eq!(&*tail.output, b"two\n");
    second.type_in("three\n").await;
    assert_eq!(second.end().await, ExitStatus::Code(2));
    assert_eq!(second.text(), "one\ntwo\nthree\n");
    assert_eq!(first.end().await, ExitStatus::Code(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_its_input_ends_what_reads_it() {
    let fixture = Fixture::new();
    let guest = &*fixture.guest;
    for (name, terminal) in [("pipes", None), ("terminal", Some(SIZE))] {
        guest.open_session(&id(name), &sh("cat; echo over"), terminal).await.unwrap();
        guest.write_session(&id(name), b"line\n").await.unwrap();
        guest.end_session_input(&id(name)).await.unwrap();
        guest.end_session_input(&id(name)).await.unwrap();
        let mut reader = Reader::new(guest, name);
        assert_eq!(reader.end().await, ExitStatus::Code(0));
        assert!(reader.text().contains("over"), "{name}: {}", reader.text());
    }
}

/// The processes of this host whose arguments hold this.
fn alive(mark: &str) -> usize {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let arguments = all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let is_it = |line: &Vec<u8>| line.split(|b| *b == 0).any(|word| word == mark.as_bytes());
    arguments.filter(is_it).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_ends_all_that_was_started_in_it() {
    let fixture = Fixture::new();
    let guest = &*fixture.guest;
    for (name, signal, number, script) in [
        ("a", Signal::Terminate, 15, "set -m; sh -c 'echo up; sleep TIME; true'; true"),
        (
            "b",
            Signal::Kill,
            9,
            "trap '' HUP TERM; set -m; sleep TIME & sh -c 'echo up; sleep TIME; true'; true",
        ),
    ] {
        // A time that nobody else sleeps, as the processes of other tests are seen too.
        let time = format!("{}.{number}", 100_000 + std::process::id());
        let script = script.replace("TIME", &time);
        guest.open_session(&id(name), &sh(&script), Some(SIZE)).await.unwrap();
        let mut reader = Reader::new(guest, name);
        reader.until("up\r\n").await;
        guest.kill(&id(name), signal).await.unwrap();
        assert_eq!(reader.end().await, ExitStatus::Signal(number));
        let gone = async {
            while alive(&time) > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.expect("all of it ends");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_session_is_not_found() {
    let fixture = Fixture::new();
    let guest = &*fixture.guest;
    guest.spawn(&id("process"), &sh("sleep 1000")).await.unwrap();
    for name in ["never", "process"] {
        let name = id(name);
        let errors = [
            guest.write_session(&name, b"x").await.unwrap_err(),
            guest.end_session_input(&name).await.unwrap_err(),
            guest.resize_session(&name, SIZE).await.unwrap_err(),
            guest.read_session(&name, 0, Duration::ZERO).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.to_string(), format!("session {name} does not exist"));
            assert!(error.is_not_found());
        }
    }
    assert!(!std::path::Path::new(&fixture.path("run/runner/process/input")).exists());
    guest.kill(&id("process"), Signal::Kill).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sessions_do_not_hear_each_other() {
    let fixture = Fixture::new();
    let guest = &*fixture.guest;
    let (mut one, mut two) = (Reader::new(guest, "one"), Reader::new(guest, "two"));
    for name in ["one", "two"] {
        guest.open_session(&id(name), &sh("exec cat"), None).await.unwrap();
    }
    for round in 0..20 {
        one.type_in(&format!("1-{round}\n")).await;
        two.type_in(&format!("2-{round}\n")).await;
    }
    for name in ["one", "two"] {
        guest.end_session_input(&id(name)).await.unwrap();
    }
    tokio::join!(one.end(), two.end());
    let expected = |n: u8| (0..20).map(|round| format!("{n}-{round}\n")).collect::<String>();
    assert_eq!((one.text(), two.text()), (expected(1), expected(2)));
}
