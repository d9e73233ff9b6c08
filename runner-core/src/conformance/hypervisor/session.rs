//! The promises of sessions.

use std::{sync::Arc, time::Duration};

use super::{Bench, process, reopened, worker};
use crate::guest::{Command, ExitStatus, Guest, Signal, TerminalSize};

const SIZE: TerminalSize = TerminalSize { columns: 80, rows: 24 };

/// How long one read waits; the test as a whole has a limit.
const WAIT: Duration = Duration::from_secs(10);

/// One reader of a session, from its start.
struct Reader {
    guest: Arc<dyn Guest>,
    id: &'static str,
    shown: Vec<u8>,
    exit: Option<ExitStatus>,
}

impl Reader {
    fn new(guest: &Arc<dyn Guest>, id: &'static str) -> Self {
        Self { guest: guest.clone(), id, shown: Vec::new(), exit: None }
    }

    /// Opens the session that it reads.
    async fn open(guest: &Arc<dyn Guest>, id: &'static str, terminal: bool, argv: &[&str]) -> Self {
        let terminal = terminal.then_some(SIZE);
        let command = Command::new(argv.iter().copied());
        guest.open_session(&process(id), &command, terminal).await.expect("open");
        Self::new(guest, id)
    }

    async fn write(&self, text: &str) {
        self.guest.write_session(&process(self.id), text.as_bytes()).await.expect("write");
    }

    async fn read(&mut self) {
        let from = self.shown.len() as u64;
        let news = self.guest.read_session(&process(self.id), from, WAIT).await.expect("read");
        self.shown.extend_from_slice(&news.output);
        self.exit = news.exit;
    }

    /// Until this text is shown, after `from` bytes.
    async fn until(&mut self, from: usize, text: &str) {
        while !String::from_utf8_lossy(&self.shown[from.min(self.shown.len())..]).contains(text) {
            assert!(self.exit.is_none(), "it ended without {text:?}: {:?}", self.text());
            self.read().await;
        }
    }

    async fn end(&mut self) -> ExitStatus {
        loop {
            match self.exit {
                Some(exit) => return exit,
                None => self.read().await,
            }
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown).into_owned()
    }
}

impl Drop for Reader {
    /// A test that failed or took too long tells how far it came.
    fn drop(&mut self) {
        if self.exit.is_none() {
            println!("session {} has shown {:?}", self.id, self.text());
        }
    }
}

/// A terminal shows it too.
pub async fn a_session_answers_what_is_typed(bench: Bench) {
    needs!(bench.has_guests(), "no guests");
    let guest = bench.guest("a-1").await;
    let mut reader = Reader::open(&guest, "p", true, &["/bin/sh"]).await;
    assert_eq!(guest.running().await.expect("running"), vec![process("p")]);
    reader.write("echo one two\r").await;
    // The answer, not what was typed: a line of its own.
    reader.until(0, "\none two\r\n").await;
    assert!(reader.text().contains("echo one two\r\n"), "{:?}", reader.text());
    reader.write("exit 7\r").await;
    assert_eq!(reader.end().await, ExitStatus::Code(7));
    assert!(guest.running().await.expect("running").is_empty());
    bench.done().await;
}

/// It begins with the one it was opened with.
pub async fn a_session_is_told_of_a_new_size(bench: Bench) {
    needs!(bench.has_guests(), "no guests");
    let guest = bench.guest("a-1").await;
    let mut reader = Reader::open(&guest, "p", true, &["/bin/sh"]).await;
    reader.write("stty size\r").await;
    reader.until(0, "\n24 80\r\n").await;
    let size = TerminalSize { columns: 132, rows: 50 };
    guest.resize_session(&process("p"), size).await.expect("resize");
    // It takes effect soon.
    while !reader.text().contains("\n50 132\r\n") {
        let from = reader.shown.len();
        reader.write("stty size\r").await;
        reader.until(from, "2\r\n").await;
    }
    reader.write("exit\r").await;
    reader.end().await;
    bench.done().await;
}

/// And not the shell that started it.
pub async fn control_c_interrupts_what_runs_in_the_foreground(bench: Bench) {
    needs!(bench.has_guests(), "no guests");
    let guest = bench.guest("a-1").await;
    let mut reader = Reader::open(&guest, "p", true, &["/bin/sh"]).await;
    // What says that it has begun is in the foreground by then: an interrupt before would race with the shell.
    reader.write("sh -c 'echo begun; exec sleep 1000'\r").await;
    reader.until(0, "\nbegun\r\n").await;
    reader.write("\x03").await;
    // What is typed before the interrupted program is gone may be forgotten with it.
    while reader.exit.is_none() {
        reader.write("exit 5\r").await;
        let from = reader.shown.len() as u64;
        let wait = Duration::from_millis(500);
        let news = guest.read_session(&process("p"), from, wait).await.expect("read");
        reader.shown.extend_from_slice(&news.output);
        reader.exit = news.exit;
    }
    assert_eq!(reader.exit, Some(ExitStatus::Code(5)));
    bench.done().await;
}

/// Both ways, and the end of the input is told.
pub async fn bytes_pass_a_session_with_pipes_unchanged(bench: Bench) {
    needs!(bench.has_guests(), "no guests");
    let guest = bench.guest("a-1").await;
    let mut reader = Reader::open(&guest, "p", false, &["cat"]).await;
    let content: Vec<u8> = (0..1_000_000_u32).map(|n| (n * 31 % 257) as u8).collect();
    let id = process("p");
    let write = async {
        guest.write_session(&id, &content).await.expect("write");
        guest.end_session_input(&id).await.expect("end");
    };
    let (exit, ()) = futures::join!(reader.end(), write);
    assert_eq!(exit, ExitStatus::Code(0));
    assert!(reader.shown == content, "{} became {}", content.len(), reader.shown.len());
    bench.done().await;
}

/// By its id; and any number may read it, from anywhere that is kept.
pub async fn opening_a_session_twice_opens_it_once(bench: Bench) {
    needs!(bench.has_guests(), "no guests");
    let guest = bench.guest("a-1").await;
    let script = ["/bin/sh", "-c", "echo once; sleep 1"];
    let mut reader = Reader::open(&guest, "p", false, &script).await;
    let mut again = Reader::open(&guest, "p", false, &script).await;
    assert_eq!(reader.end().await, ExitStatus::Code(0));
    assert_eq!(again.end().await, ExitStatus::Code(0));
    assert_eq!((reader.text(), again.text()), ("once\n".to_owned(), "once\n".to_owned()));
    let tail = guest.read_session(&process("p"), 2, Duration::ZERO).await.expect("read");
    assert_eq!((&tail.output[..], tail.exit), (&b"ce\n"[..], Some(ExitStatus::Code(0))));
    bench.done().await;
}

/// The next one reads and writes on.
pub async fn sessions_outlive_their_manager(bench: Bench) {
    needs!(bench.has_guests(), "no guests");
    let guest = bench.guest("a-1").await;
    let mut reader = Reader::open(&guest, "p", true, &["/bin/sh"]).await;
    reader.write("echo first\r").await;
    reader.until(0, "\nfirst\r\n").await;
    let shown = std::mem::take(&mut reader.shown);
    drop((reader, guest));
    let (bench, was_reopened) = reopened(bench).await;
    needs!(was_reopened, "instances are not adopted");
    let guest = bench.hypervisor.guest(&worker("a-1")).await.expect("guest");
    let mut reader = Reader::new(&guest, "p");
    reader.write("echo second; exit 4\r").await;
    assert_eq!(reader.end().await, ExitStatus::Code(4));
    assert!(reader.shown.starts_with(&shown), "{:?}", reader.text());
    assert!(reader.text().contains("\nsecond\r\n"), "{:?}", reader.text());
    bench.done().await;
}

/// With the signal that did it.
pub async fn kill_ends_a_session(bench: Bench) {
    needs!(bench.has_guests(), "no guests");
    let guest = bench.guest("a-1").await;
    for (id, signal, number) in [("p", Signal::Terminate, 15), ("q", Signal::Kill, 9)] {
        let mut reader = Reader::open(&guest, id, true, &["/bin/sh"]).await;
        reader.write("echo up; sleep 1000\r").await;
        reader.until(0, "\nup\r\n").await;
        guest.kill(&process(id), signal).await.expect("kill");
        assert_eq!(reader.end().await, ExitStatus::Signal(number));
    }
    bench.done().await;
}

/// An id that was never opened.
pub async fn what_is_no_session_is_not_found(bench: Bench) {
    needs!(bench.has_guests(), "no guests");
    let guest = bench.guest("a-1").await;
    let id = process("never");
    let none = guest.write_session(&id, b"x").await;
    assert!(none.is_err_and(|error| error.is_not_found()));
    let none = guest.read_session(&id, 0, Duration::ZERO).await;
    assert!(none.is_err_and(|error| error.is_not_found()));
    let none = guest.resize_session(&id, SIZE).await;
    assert!(none.is_err_and(|error| error.is_not_found()));
    bench.done().await;
}
