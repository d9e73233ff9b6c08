//! What a guest says is heard through a stream of libvirt's, and without one when there is none to be had.

#[expect(dead_code, reason = "other tests use the rest of it")]
mod common;

use std::{
    io::Write,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use backend_libvirt::LibvirtHypervisor;
use common::{
    fixture::{Fixture, name, ready, until},
    guest::sh,
};
use futures::StreamExt;
use runner_core::{Guest, Hypervisor, WorkerName, hypervisor::Console};
use tracing_subscriber::filter::LevelFilter;

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Keeps what this crate logs from now on, for this thread and those of its runtime.
    fn start() -> Self {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(LevelFilter::TRACE)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
        log
    }

    /// How many lines have all of `words` in them.
    fn count(&self, words: &[&str]) -> usize {
        let text = self.0.lock().unwrap().clone();
        let text = String::from_utf8(text).unwrap();
        text.lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

const BY_STREAM: &[&str] = &["More of a console.", "sign=Stream"];
const LISTENING: &[&str] = &["Listening to a console."];
const REFUSED: &[&str] = &["Cannot listen to a console.", "Active console session"];
const CLOSED: &[&str] = &["A console was closed to us."];

/// Has the guest write a word to its console, while every follower waits to be told of it.
async fn say(guest: &dyn Guest, word: &str, followers: &mut [Console]) {
    let (id, script) = (format!("say-{word}"), format!("echo {word} >/dev/ttyS0"));
    let told = followers.iter_mut().map(async |follower| {
        let mut text = Vec::new();
        while !String::from_utf8_lossy(&text).contains(word) {
            text.extend_from_slice(&follower.next().await.expect("it runs").unwrap());
        }
    });
    let (said, _) = futures::join!(sh(guest, &id, &script), futures::future::join_all(told));
    assert_eq!(said, (0, String::new()));
}

async fn follow(hypervisor: &LibvirtHypervisor, name: &WorkerName) -> Console {
    hypervisor.console(name, true).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_brings_word_to_all_who_follow_and_goes_with_the_last() {
    let Some(fixture) = Fixture::new().await else { return };
    let log = Log::start();
    let hypervisor = fixture.open().await;
    hypervisor.create(&fixture.spec(&name(1))).await.unwrap();
    let guest = ready(&hypervisor, &name(1)).await;
    assert_eq!(log.count(LISTENING), 0, "nobody follows");
    let mut followers = Vec::new();
    for _ in 0..3 {
        followers.push(follow(&hypervisor, &name(1)).await);
    }
    until("a stream is open", async || log.count(LISTENING) == 1).await;
    let mut n = 0;
    until("words arrive by the stream", async || {
        n += 1;
        say(&*guest, &format!("word-{n}-"), &mut followers).await;
        log.count(BY_STREAM) >= 3
    })
    .await;
    assert_eq!((log.count(LISTENING), log.count(CLOSED)), (1, 0), "one for all");

    // More than anything between could hold, while nobody reads: the guest is not held up.
    let flood = "yes 0123456789abcdef | head -c 300000 >/dev/ttyS0; echo done";
    assert_eq!(sh(&*guest, "flood", flood).await, (0, "done\n".to_owned()));
    say(&*guest, "after-the-flood", &mut followers).await;

    drop(followers.pop());
    say(&*guest, "fewer", &mut followers).await;
    assert_eq!(log.count(CLOSED), 0);
    drop(followers);
    // An operator has it to themselves again.
    let operator = Operator::arrive(&fixture, "linux-1");
    operator.reads(&*guest).await;
    drop(operator);
    hypervisor.destroy(&name(1)).await.unwrap();
}

/// Someone at `virsh console`, who reads what they are shown.
struct Operator(std::process::Child, Arc<Mutex<Vec<u8>>>);

impl Operator {
    fn arrive(fixture: &Fixture, domain: &str) -> Self {
        let socket = fixture.libvirtd.socket();
        let uri = format!("qemu+unix:///system?socket={}", socket.display());
        // It is refused as long as somebody else has it, and wants a terminal.
        let line = format!("until virsh -q -c '{uri}' console {domain}; do sleep 0.1; done");
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "script", "-qfec", &line, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut output, into) = (child.stdout.take().unwrap(), shown.clone());
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count) = std::io::Read::read(&mut output, &mut piece)
                && count > 0
            {
                into.lock().unwrap().extend_from_slice(&piece[..count]);
            }
        });
        Self(child, shown)
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.1.lock().unwrap()).into_owned()
    }

    /// Waits until what the guest says is shown.
    async fn reads(&self, guest: &dyn Guest) {
        let mut n = 0;
        until("the operator has the console", async || {
            n += 1;
            say(guest, &format!("operator-{n}-"), &mut []).await;
            self.shown().contains("operator-")
        })
        .await;
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        // What `virsh console` takes for the wish to leave.
        let _ = self.0.stdin.take().unwrap().write_all(b"\x1d");
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_at_the_console_is_left_alone_and_followers_are_told_all_the_same() {
    let Some(fixture) = Fixture::new().await else { return };
    let log = Log::start();
    let hypervisor = fixture.open().await;
    hypervisor.create(&fixture.spec(&name(1))).await.unwrap();
    let guest = ready(&hypervisor, &name(1)).await;
    let operator = Operator::arrive(&fixture, "linux-1");
    operator.reads(&*guest).await;
    let mut followers = [follow(&hypervisor, &name(1)).await];
    until("we are refused", async || log.count(REFUSED) > 0).await;
    for word in ["one", "two", "three"] {
        say(&*guest, word, &mut followers).await;
        until("the operator sees it, too", async || operator.shown().contains(word)).await;
    }
    assert_eq!((log.count(BY_STREAM), log.count(LISTENING)), (0, 0));
    drop(operator);
    until("we try again", async || log.count(LISTENING) == 1).await;
    let mut n = 0;
    until("words arrive by the stream", async || {
        n += 1;
        say(&*guest, &format!("again-{n}-"), &mut followers).await;
        log.count(BY_STREAM) > 0
    })
    .await;
    hypervisor.destroy(&name(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_is_killed_interrupts_nobody_who_follows() {
    let Some(fixture) = Fixture::new().await else { return };
    let log = Log::start();
    let hypervisor = fixture.open().await;
    hypervisor.create(&fixture.spec(&name(1))).await.unwrap();
    let guest = ready(&hypervisor, &name(1)).await;
    let mut followers = [follow(&hypervisor, &name(1)).await];
    until("a stream is open", async || log.count(LISTENING) == 1).await;
    // It goes on talking while there is no daemon.
    let talk =
        "(while :; do n=$((n+1)); echo line-$n- >/dev/ttyS0; sleep 0.2; done) >/dev/null 2>&1 &";
    assert_eq!(sh(&*guest, "talk", talk).await.0, 0);
    fixture.libvirtd.hold(true);
    fixture.libvirtd.signal("-KILL");
    until("it is blind", async || hypervisor.instances().await.is_err()).await;
    until("the stream ends", async || log.count(CLOSED) == 1).await;
    fixture.libvirtd.hold(false);
    until("it is listened to again", async || log.count(LISTENING) == 2).await;
    let before = log.count(BY_STREAM);
    let mut text = Vec::new();
    while log.count(BY_STREAM) < before + 3 {
        text.extend_from_slice(&followers[0].next().await.unwrap().unwrap());
    }
    // Nothing is missing, and nothing comes twice.
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines = text.split("line-").skip(1).filter_map(|rest| rest.split_once('-'));
    let numbers: Vec<u64> = lines.map(|(number, _)| number.parse().unwrap()).collect();
    assert!(numbers.len() > 3, "{text}");
    assert!(numbers.iter().zip(1..).all(|(number, wanted)| *number == wanted), "{numbers:?}");
    hypervisor.destroy(&name(1)).await.unwrap();
}
