//! Shells in machines and files in and out of them: the real command line, the real service, real machines.

mod common;
mod real;

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, process::CommandExt},
    },
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use common::Server;
use futures::{SinkExt, StreamExt};
use real::{Monitor, eventually, signal};
use reqwest::Method;
use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{self, Winsize},
};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

/// `monitor` with these arguments against this service.
fn monitor(service: &Monitor, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_monitor"));
    command
        .args(args)
        .args(["--data", service.data.to_str().unwrap()])
        .env("MONITOR_API_TOKEN", real::TOKEN)
        .env("NO_COLOR", "1")
        .env("TERM", "xterm");
    command
}

/// Somebody at a terminal who started `monitor shell`.
struct Person {
    master: File,
    slave: File,
    shown: Arc<Mutex<Vec<u8>>>,
    child: Child,
}

impl Person {
    fn sits_down(service: &Monitor, args: &[&str]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let mut slave = File::options();
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut slave, 0o400);
        let slave = slave.read(true).write(true).open(name.to_str().unwrap()).unwrap();
        resize(&slave, 30, 100);
        // `--data` is an option of the shell, so it goes before what follows `--`.
        let mut all = vec!["shell", "--data", service.data.to_str().unwrap()];
        all.extend(args);
        let mut command = Command::new(env!("CARGO_BIN_EXE_monitor"));
        command.args(all).env("MONITOR_API_TOKEN", real::TOKEN).env("TERM", "xterm");
        let end = || Stdio::from(OwnedFd::from(slave.try_clone().unwrap()));
        command.stdin(end()).stdout(end()).stderr(end());
        let lead = || {
            rustix::process::setsid()?;
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
            Ok(())
        };
        // SAFETY: between fork and exec it only makes two system calls.
        unsafe { command.pre_exec(lead) };
        let child = command.spawn().unwrap();
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, seen) = (File::from(master.try_clone().unwrap()), shown.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 65536];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                seen.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        Self { master: File::from(master), slave, shown, child }
    }

    fn types(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    fn sees(&self, text: &str) {
        let seen = || self.text().contains(text).then_some(());
        eventually(&format!("{text:?} in {:?}", Shown(self)), seen);
    }

    /// Until the shell is there.
    fn is_in(&mut self) {
        self.sees("monitor> ");
    }

    fn leaves(&mut self) -> ExitStatus {
        eventually(&format!("the shell ends: {:?}", Shown(self)), || self.child.try_wait().unwrap())
    }
}

/// What a person sees, at the moment when it is printed.
struct Shown<'a>(&'a Person);

impl std::fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0.text())
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("on the terminal:\n{}", self.text());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn resize(terminal: &File, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    termios::tcsetwinsize(terminal, size).unwrap();
}

/// A service with one idle machine.
fn service(more: &str) -> Option<(Monitor, String)> {
    let mut service = Monitor::new()?;
    service.config += more;
    service.start();
    let worker = service.idle("micro");
    Some((service, worker))
}

/// A shell whose prompt is known.
const SHELL: [&str; 5] = ["--", "env", "PS1=monitor> ", "sh", "-i"];

fn in_shell(worker: &str) -> Vec<&str> {
    [&["--worker", worker][..], &SHELL].concat()
}

#[test]
fn a_shell_is_as_if_one_sat_at_the_machine() {
    let Some((service, worker)) = service("") else { return };
    let mut person = Person::sits_down(&service, &in_shell(&worker));
    let before = termios::tcgetattr(&person.slave).unwrap();
    person.is_in();
    let raw = termios::tcgetattr(&person.slave).unwrap();
    assert_ne!(raw.local_modes, before.local_modes, "the terminal here is not raw");

    person.types("stty size; tty; echo $TERM; pwd\r");
    person.sees("\r\n30 100\r\n/dev/pts/0\r\nxterm\r\n/work\r\n");
    resize(&person.slave, 50, 132);
    // It takes a moment, and nothing tells when.
    let mut asked = 0;
    eventually("the new size is there", || {
        asked += 1;
        person.types(&format!("echo {asked} $(stty size) end\r"));
        let answered = format!("\r\n{asked} ");
        person.sees(&answered);
        person.sees(" end\r\n");
        person.text().contains(" 50 132 end\r\n").then_some(())
    });

    // Ctrl-C is the machine's; the shell here goes on.
    person.types("sh -c 'echo begun; exec sleep 1000'\r");
    person.sees("\r\nbegun\r\n");
    person.types("\x03");
    // What is typed before the interrupted program is gone may be forgotten with it.
    eventually("the shell is there again", || {
        person.types("\recho again $?\r");
        std::thread::sleep(Duration::from_millis(500));
        person.text().contains("\r\nagain 130\r\n").then_some(())
    });

    person.types("exit 7\r");
    assert_eq!(person.leaves().code(), Some(7));
    let after = termios::tcgetattr(&person.slave).unwrap();
    assert_eq!(after.local_modes, before.local_modes);
    assert_eq!(after.input_modes, before.input_modes);
    assert_eq!(after.output_modes, before.output_modes);
    service.event(&[&worker, "shell-", "was opened"]);
    // It was named, so it is neither reserved nor gone.
    assert!(service.workers("idle").contains(&worker));
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

/// Runs a command with this input, and waits for it.
fn piped(mut command: Command, input: Vec<u8>) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let write = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    let _ = write.join().unwrap();
    output
}

#[test]
fn bytes_pass_unchanged_through_pipes_and_through_a_terminal() {
    let Some((service, worker)) = service("") else { return };
    let content = noise(1 << 20);
    let shell = |script: &'static str| {
        let data = service.data.to_str().unwrap();
        let args = ["shell", "--data", data, "--worker", &worker, "--", "sh", "-c", script];
        let mut command = Command::new(env!("CARGO_BIN_EXE_monitor"));
        command.args(args).env("MONITOR_API_TOKEN", real::TOKEN);
        command
    };
    let output = piped(shell("cat; echo said >&2; exit 3"), content.clone());
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.strip_suffix(b"said\n").is_some_and(|rest| rest == content));

    // Two at once hear their own only.
    let (one, two) = std::thread::scope(|scope| {
        let one = scope.spawn(|| piped(shell("tr a b; echo $0"), vec![b'a'; 100_000]));
        let two = scope.spawn(|| piped(shell("tr a c"), vec![b'a'; 100_000]));
        (one.join().unwrap(), two.join().unwrap())
    });
    assert!(one.stdout[..100_000].iter().all(|byte| *byte == b'b'));
    assert!(two.stdout == vec![b'c'; 100_000]);

    // Through a terminal as a full-screen program has it: nothing is added, changed or taken away.
    let script = "stty raw -echo; printf READY; head -c 1048576; printf DONE";
    let args = ["--worker", &worker, "--", "sh", "-c", script];
    let mut person = Person::sits_down(&service, &args);
    person.sees("READY");
    let mut writer = person.master.try_clone().unwrap();
    let input = content.clone();
    let typing = std::thread::spawn(move || writer.write_all(&input).unwrap());
    assert!(person.leaves().success());
    typing.join().unwrap();
    person.sees("DONE");
    let shown = person.shown.lock().unwrap().clone();
    assert!(shown.starts_with(b"READY") && shown.ends_with(b"DONE"));
    assert!(shown[5..shown.len() - 4] == content, "{} bytes", shown.len() - 9);
}

#[test]
fn a_shell_outlives_the_service_and_whoever_sits_there() {
    let Some((mut service, worker)) = service("[shell]\nidle = \"20s\"\n") else { return };
    let mut person = Person::sits_down(&service, &in_shell(&worker));
    person.is_in();
    person.types("here=still; echo re''ady\r");
    person.sees("\r\nready\r\n");
    let port = service.port();
    service.kill();
    person.sees("the connection is lost");
    service.listen(port);
    service.start();
    person.sees("back in the shell");
    person.types("echo $here there\r");
    person.sees("\r\nstill there\r\n");

    // Killed, and somebody else comes back to it.
    signal(person.child.id(), "KILL");
    person.leaves();
    let opened = service.event(&[&worker, "shell-", "was opened"]);
    let session = opened.split(' ').find(|word| word.starts_with("shell-")).unwrap();
    let args = ["--worker", &worker, "--session", session];
    let mut person = Person::sits_down(&service, &args);
    person.sees("\r\nstill there\r\n");
    person.types("echo and $here\r");
    person.sees("\r\nand still\r\n");

    // Nobody comes back: the shell is closed in the end, by a service that did not open it.
    signal(person.child.id(), "KILL");
    person.leaves();
    service.kill();
    service.start();
    service.event(&[&worker, "shell-", "was closed: it was not used for 20s"]);

    // One that is there, and does nothing.
    let mut person = Person::sits_down(&service, &["--worker", &worker]);
    person.sees("# ");
    let code = person.leaves().code();
    assert_eq!(code, Some(137), "{}", person.text());
    person.sees("it was not used for 20s");
}

#[test]
fn a_signal_restores_the_terminal_and_closes_the_shell() {
    let Some((service, worker)) = service("") else { return };
    let mut person = Person::sits_down(&service, &in_shell(&worker));
    let before = termios::tcgetattr(&person.slave).unwrap();
    person.is_in();
    signal(person.child.id(), "TERM");
    assert_eq!(person.leaves().code(), Some(143));
    let after = termios::tcgetattr(&person.slave).unwrap();
    assert_eq!(after.local_modes, before.local_modes);
    // Nothing of it runs in the machine any more.
    let mut look = monitor(&service, &["get", &worker, "/proc/self/stat", "-"]);
    assert!(look.output().unwrap().status.success());
    let mut ps = Command::new(env!("CARGO_BIN_EXE_monitor"));
    ps.args(["shell", "--data", service.data.to_str().unwrap(), "--worker", &worker, "--", "ps"]);
    ps.env("MONITOR_API_TOKEN", real::TOKEN).stdin(Stdio::null());
    let said = ps.output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("qemu-ga") && !said.contains("sh -i"), "{said}");
}

#[test]
fn files_go_in_and_come_out_whole_with_their_modes() {
    let Some((service, worker)) = service("") else { return };
    let local = service.dir.path().join("big");
    let content = noise(10 << 20);
    fs::write(&local, &content).unwrap();
    fs::set_permissions(&local, fs::Permissions::from_mode(0o750)).unwrap();
    let run = |args: &[&str]| monitor(&service, args).output().unwrap();
    let ok = |output: Output| {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let remote = "/work/some where/big & bold";
    ok(run(&["put", &worker, local.to_str().unwrap(), remote]));
    let back = service.dir.path().join("back");
    ok(run(&["get", &worker, remote, back.to_str().unwrap()]));
    assert!(fs::read(&back).unwrap() == content);
    assert_eq!(mode(&back), 0o750);

    ok(run(&["put", "--mode", "600", &worker, local.to_str().unwrap(), "/work/"]));
    ok(run(&["get", &worker, "/work/big", service.dir.path().to_str().unwrap()]));
    assert_eq!(mode(&local), 0o600);
    assert!(fs::read(&local).unwrap() == content);
    let piped = piped(monitor(&service, &["put", &worker, "-", "/work/in"]), b"typed".to_vec());
    ok(piped);
    assert_eq!(ok(run(&["get", &worker, "/work/in", "-"])), b"typed");
    // What has no size is read to its end.
    assert!(ok(run(&["get", &worker, "/proc/version", "-"])).starts_with(b"Linux version"));

    let names: Vec<_> = fs::read_dir(service.dir.path()).unwrap().collect();
    for (args, said) in [
        (&["get", &worker, "/no/such", "x"][..], "/no/such does not exist"),
        (&["get", &worker, "/work", "x"], "it is a directory"),
        (&["get", &worker, "relative", "x"], "use the absolute path of a file"),
        (&["get", "micro-999", "/etc/passwd", "x"], "micro-999 does not exist"),
        (&["get", "No Name", "/etc/passwd", "x"], "worker \"No Name\" does not exist"),
        (&["put", &worker, "/etc/hostname", "/work"], "it is a directory"),
        (&["put", &worker, "/etc", "/work/x"], "is a directory; pack it with tar"),
        (&["put", &worker, "-", "/proc/nothing"], "/proc/nothing"),
        (&["put", &worker, "-", "/work/"], "name the file in /work/"),
    ] {
        let mut command = monitor(&service, args);
        let output = command.current_dir(service.dir.path()).stdin(Stdio::null()).output();
        let output = output.unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(said), "{args:?}: {text}");
    }
    assert_eq!(fs::read_dir(service.dir.path()).unwrap().count(), names.len());
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// What asks for a WebSocket.
fn upgrade(request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
    request
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
}

#[test]
fn who_may_not_open_a_shell_is_told_so() {
    let server = Server::start();
    let worker = common::eventually(|| {
        let workers = server.get("/api/v2/workers").json();
        let workers = workers["workers"].as_array()?.clone();
        let idle = workers.iter().find(|worker| worker["phase"] == "idle")?;
        Some(idle["name"].as_str().unwrap().to_owned())
    });
    let terminal = format!("/api/v2/workers/{worker}/terminal");
    let files = format!("/api/v2/workers/{worker}/files?path=/work/x");
    let ask = |method: Method, path: &str, token: &str, origin: Option<&str>, socket: bool| {
        let answer = server.send(method, path, |request| {
            let request = if socket { upgrade(request) } else { request };
            let request = match origin {
                Some(origin) => request.header("origin", origin),
                None => request,
            };
            if token.is_empty() { request } else { request.bearer_auth(token) }
        });
        (answer.status.as_u16(), answer.text())
    };
    let get = Method::GET;
    let evil = Some("http://evil.example");
    for (method, path, token, origin, socket, status, said) in [
        (&get, &*terminal, "", None, true, 401, "token"),
        (&get, &terminal, "wrong", None, true, 401, "token"),
        (&get, &terminal, common::TOKEN, evil, true, 403, "origin"),
        (&get, &terminal, common::TOKEN, Some("null"), true, 403, "origin"),
        (&get, &terminal, common::TOKEN, None, false, 400, ""),
        (&get, "/api/v2/workers/micro-99/terminal", common::TOKEN, None, true, 404, "micro-99"),
        (&get, "/api/v2/workers/Micro/terminal", common::TOKEN, None, true, 404, "Micro"),
        (&get, &files, "", None, false, 401, "token"),
        (&Method::PUT, &files, "", None, false, 401, "token"),
        (&Method::PUT, &files, common::TOKEN, evil, false, 403, "origin"),
        (&get, &files, common::TOKEN, None, false, 404, "/work/x does not exist"),
    ] {
        let (got, text) = ask(method.clone(), path, token, origin, socket);
        assert_eq!(got, status, "{method} {path} {origin:?}: {text}");
        assert!(text.contains(said), "{method} {path}: {text}");
    }
    for (mode, status) in [("999", 400), ("", 400), ("10000", 400), ("-1", 400), ("755", 204)] {
        let path = format!("{files}&mode={mode}");
        let answer = server.send(Method::PUT, &path, |request| {
            request
                .bearer_auth(common::TOKEN)
                .header("content-type", "application/octet-stream")
                .body("content")
        });
        assert_eq!(answer.status.as_u16(), status, "{mode}: {}", answer.text());
    }
}

/// What the service answers to these messages, up to its close.
async fn says(url: &str, messages: Vec<Message>) -> Vec<Message> {
    let mut request = url.into_client_request().unwrap();
    let token = format!("Bearer {}", common::TOKEN).parse().unwrap();
    request.headers_mut().insert("authorization", token);
    let address = request.uri().authority().unwrap().to_string();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    for message in messages {
        // It may have closed already.
        let _ = socket.send(message).await;
    }
    let mut said = Vec::new();
    let all = async {
        while let Some(Ok(message)) = socket.next().await {
            said.push(message);
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("the service closes it");
    said
}

#[test]
fn messages_that_make_no_sense_are_answered_and_the_connection_ends() {
    let server = Server::start();
    let worker = common::eventually(|| {
        let workers = server.get("/api/v2/workers").json();
        let idle =
            workers["workers"].as_array()?.iter().find(|worker| worker["phase"] == "idle")?.clone();
        Some(idle["name"].as_str().unwrap().to_owned())
    });
    let url = format!("ws://{}/api/v2/workers/{worker}/terminal", server.address);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for (first, status, detail) in [
        (Message::binary("ls"), 400, "open or attach first"),
        (Message::text("{"), 400, "makes no sense: EOF"),
        (Message::text("{}"), 400, "makes no sense"),
        (Message::text(r#"{"open":{"comand":[]}}"#), 400, "unknown field `comand`"),
        (Message::text(r#"{"open":{"terminal":{"cols":70000,"rows":1}}}"#), 400, "70000"),
        (Message::text(r#"{"resize":{"cols":80,"rows":24}}"#), 400, "open or attach first"),
        (Message::text(r#"{"attach":{"session":"../../etc"}}"#), 400, "process id"),
        (Message::text(r#"{"attach":{"session":"job-1"}}"#), 404, "job-1"),
        // The machines of this service are directories, which have no terminals.
        (Message::text(r#"{"open":{}}"#), 501, "not supported"),
    ] {
        let said = runtime.block_on(says(&url, vec![first.clone()]));
        let Some(Message::Text(text)) = said.first() else { panic!("{first:?}: {said:?}") };
        let problem: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(problem["problem"]["status"], status, "{first:?}: {text}");
        let told = problem["problem"]["detail"].as_str().unwrap();
        assert!(told.contains(detail), "{first:?}: {told}");
        assert!(matches!(said.last(), Some(Message::Close(_))), "{said:?}");
    }
    // One that is too long is not even read.
    let long = Message::binary(vec![0; 2 << 20]);
    let said = runtime.block_on(says(&url, vec![long]));
    assert!(!said.iter().any(Message::is_text), "{said:?}");
    assert_eq!(server.get("/healthz").status, 200);
}

/// `cargo test --test shell -- --ignored --nocapture` tells how long it takes on an idle machine.
#[test]
#[ignore = "it measures, and promises nothing"]
fn from_key_to_echo() {
    const KEYS: usize = 26;

    let Some((service, worker)) = service("") else { return };
    for which in ["the first", "the second"] {
        let start = Instant::now();
        let mut person = Person::sits_down(&service, &in_shell(&worker));
        person.is_in();
        println!("from start to prompt, {which} time: {:?}", start.elapsed());
        person.types("exit\r");
        person.leaves();
    }
    let mut person = Person::sits_down(&service, &in_shell(&worker));
    person.is_in();
    let mut times = Vec::new();
    for letter in ('a'..='z').map(String::from) {
        // Nobody types that fast; by then nothing is looked at often any more.
        std::thread::sleep(Duration::from_millis(400));
        let count = |person: &Person| person.text().matches(&letter).count();
        let before = count(&person);
        let start = Instant::now();
        person.types(&letter);
        while count(&person) == before {
            assert!(start.elapsed() < Duration::from_secs(60), "{}", person.text());
            std::thread::sleep(Duration::from_micros(200));
        }
        times.push(start.elapsed());
    }
    times.sort();
    let (median, last) = (times[KEYS / 2], times[KEYS - 1]);
    println!("from key to echo: median {median:?}, from {:?} to {last:?}", times[0]);
}
