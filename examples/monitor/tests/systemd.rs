//! The service under systemd: its unit files, what it tells, and the socket it is given.

use std::{
    fs,
    net::TcpListener,
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, net::UnixDatagram},
    },
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

mod process;

use process::{Process, dir, get, refused, serve};

/// How exposed the unit may be, in tenths, where 100 is a service with no protection at all.
const EXPOSURE: &str = "20";

/// The unit files, as they are installed, with a program that is there.
fn units() -> TempDir {
    let dir = dir();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    for unit in ["monitor.service", "monitor.socket"] {
        let text = fs::read_to_string(from.join(unit)).unwrap();
        let program = env!("CARGO_BIN_EXE_monitor");
        fs::write(dir.path().join(unit), text.replace("/usr/bin/monitor", program)).unwrap();
    }
    dir
}

fn analyze(dir: &Path, args: &[&str]) -> Option<(bool, String)> {
    let output = Command::new("systemd-analyze").args(args).current_dir(dir).output();
    let Ok(output) = output else {
        process::skip("systemd");
        return None;
    };
    let text = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8(text).unwrap()))
}

#[test]
fn the_units_are_flawless() {
    let units = units();
    let args = ["verify", "--man=no", "./monitor.service", "./monitor.socket"];
    let Some((good, text)) = analyze(units.path(), &args) else { return };
    let ours: Vec<&str> = text.lines().filter(|line| line.contains("monitor")).collect();
    assert!(good && ours.is_empty(), "{text}");
    // It does find what is wrong.
    let file = units.path().join("monitor.service");
    let text = fs::read_to_string(&file).unwrap().replace("KillMode=process", "KillMode=nobody");
    fs::write(&file, text).unwrap();
    let (_, text) = analyze(units.path(), &args).unwrap();
    assert!(text.contains("kill mode"), "{text}");
}

#[test]
fn the_service_is_well_confined() {
    let units = units();
    let threshold = format!("--threshold={EXPOSURE}");
    let args = ["security", "--offline=true", &threshold, "./monitor.service"];
    let Some((good, text)) = analyze(units.path(), &args) else { return };
    assert!(good, "{text}");
    assert!(!text.contains("ignoring"), "{text}");
}

/// Everything in one message after another, until one has `what`.
fn hear(socket: &UnixDatagram, what: &str) -> String {
    let mut heard = String::new();
    loop {
        let mut message = [0; 4096];
        let length = socket.recv(&mut message);
        let length = length.unwrap_or_else(|error| panic!("{error}: no {what:?} in {heard}"));
        let message = String::from_utf8_lossy(&message[..length]).into_owned();
        heard.push_str(&message);
        heard.push('\n');
        if message.contains(what) {
            return message;
        }
    }
}

#[test]
fn systemd_hears_of_every_turn() {
    let dir = dir();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut command = serve(dir.path(), &[]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "3000000");
    let process = Process::start(command);
    hear(&socket, "READY=1");
    hear(&socket, "STATUS=workers: 0 idle");
    for _ in 0..3 {
        hear(&socket, "WATCHDOG=1");
    }
    process.signal("HUP");
    let reloading = hear(&socket, "RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    hear(&socket, "READY=1");
    let file = dir.path().join("monitor.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text + "nonsense = 1\n").unwrap();
    hear(&socket, "the configuration file was refused");
    process.signal("TERM");
    let stopping = hear(&socket, "STOPPING=1");
    assert!(stopping.contains("STATUS=stopping"), "{stopping}");
    let (code, heard) = process.end();
    assert_eq!(code, Some(0), "{heard}");
}

/// `command`, with `socket` as systemd passes it.
fn activated(command: Command, socket: TcpListener) -> Command {
    let script = "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\" 3<&0 0</dev/null";
    let mut shell = Command::new("sh");
    shell
        .args(["-c", script])
        .arg(command.get_program())
        .args(command.get_args())
        .env_remove("MONITOR_API_TOKEN")
        .stdin(OwnedFd::from(socket))
        .stderr(Stdio::piped());
    shell
}

#[test]
fn a_socket_that_systemd_holds_is_answered_and_outlives_the_service() {
    let dir = dir();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    for _ in 0..2 {
        // The configuration's own address is another one.
        let command = activated(serve(dir.path(), &[]), socket.try_clone().unwrap());
        let process = Process::start(command);
        assert_eq!(process.url, url);
        assert_eq!(get(&url, "/healthz")["status"], "up");
        process.signal("TERM");
        let (code, heard) = process.end();
        assert_eq!(code, Some(0), "{heard}");
    }
}

#[test]
fn a_passed_socket_obeys_the_rules_of_a_configured_one() {
    let dir = dir();
    let socket = TcpListener::bind("0.0.0.0:0").unwrap();
    let command = activated(serve(dir.path(), &[]), socket);
    refused(command, 2, &["0.0.0.0", "allow_remote = true"]);
}

#[test]
fn the_unit_finds_its_directories_where_systemd_made_them() {
    let dir = dir();
    serve(dir.path(), &[]);
    let config = dir.path().join("monitor.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_monitor"));
    command
        .args(["serve", "--config", config.to_str().unwrap()])
        .env("STATE_DIRECTORY", dir.path().join("state"))
        .env("CACHE_DIRECTORY", dir.path().join("cache"))
        .env_remove("MONITOR_API_TOKEN")
        .stderr(Stdio::piped());
    let process = Process::start(command);
    assert!(dir.path().join("state/store.sqlite").exists());
    assert!(dir.path().join("cache").exists());
    let mode = fs::metadata(dir.path().join("state")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    drop(process);
}
