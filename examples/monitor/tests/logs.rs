//! Where the service's own log goes.

mod common;

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::UnixDatagram,
    },
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use common::{TOKEN, eventually, said};
use tempfile::TempDir;

const CONFIG: &str = r#"
[http]
listen = "127.0.0.1:0"
[qemu]
binary = "/no/such/qemu"
[pace]
look_every = "50ms"
[[profile]]
name = "none"
image = { kind = "disk", path = "/no/such/disk", sha256 = "SHA" }
memory = "64MiB"
"#;

/// A process that ends with this.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The arguments of a service without machines that logs like this.
fn serve(dir: &TempDir, log: &str) -> Vec<String> {
    let config = dir.path().join("monitor.toml");
    let text = CONFIG.replace("SHA", &"0".repeat(64));
    fs::write(&config, format!("{text}{log}")).unwrap();
    let data = dir.path().join("data");
    let args = ["serve", "--config", config.to_str().unwrap(), "--data", data.to_str().unwrap()];
    args.map(str::to_owned).to_vec()
}

fn monitor() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_monitor"));
    command.env("MONITOR_API_TOKEN", TOKEN).env_remove("JOURNAL_STREAM").stdin(Stdio::null());
    command
}

fn log_files(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).into_iter().flatten();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.starts_with("monitor.log")).collect();
    names.sort();
    names
}

#[test]
fn a_file_is_put_aside_when_it_is_full_and_the_oldest_go() {
    let dir = tempfile::tempdir().unwrap();
    let args = serve(&dir, "[log]\nto = \"file\"\nmax_size = \"4KiB\"\nkeep = 2\n");
    let child = monitor()
        .args(args)
        .args(["--log", "debug", "--log-format", "json"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut process = Process(child);
    let data = dir.path().join("data");
    let all = ["monitor.log", "monitor.log.1", "monitor.log.2"];
    let url = eventually(|| fs::read_to_string(data.join("address")).ok());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    monitor::http::tls::prepare();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let talk = || {
        let request = client.get(format!("{}/healthz", url.trim()));
        runtime.block_on(async { request.send().await.unwrap() });
    };
    eventually(|| {
        talk();
        (log_files(&data) == all).then_some(())
    });
    // Once more around: the oldest goes.
    let first = fs::read(data.join("monitor.log.2")).unwrap();
    eventually(|| {
        talk();
        (fs::read(data.join("monitor.log.2")).ok()? != first).then_some(())
    });
    process.0.kill().unwrap();
    process.0.wait().unwrap();
    assert_eq!(log_files(&data), all);
    for name in all {
        let (file, text) = (data.join(name), fs::read_to_string(data.join(name)).unwrap());
        assert!(text.len() < 16 << 10, "{name} has {} bytes", text.len());
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        for line in text.lines() {
            serde_json::from_str::<serde_json::Value>(line).expect("a line is whole");
        }
    }
}

#[test]
fn a_file_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let args = serve(&dir, "[log]\nto = \"file\"\nfile = \"/no/such/directory/log\"\n");
    let output = monitor().args(args).output().unwrap();
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("/no/such/directory/log") && text.contains("[log]"), "{text}");
}

#[test]
fn a_file_must_have_room_for_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let args = serve(&dir, "[log]\nto = \"file\"\nmax_size = \"1KiB\"\n");
    let output = monitor().args(args).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("log.max_size"), "{}", said(&output));
}

/// A journal that only this process and what it starts in a namespace of its own can see.
struct Journal {
    dir: TempDir,
    socket: UnixDatagram,
}

impl Journal {
    fn new() -> Option<Self> {
        let probe = Command::new("unshare").args(["--mount", "true"]).output();
        if !probe.is_ok_and(|output| output.status.success()) {
            println!("skipped: no namespace can be made here");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("socket")).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Some(Self { dir, socket })
    }

    /// Starts `args` where the journal is this one.
    fn run(&self, args: &[String], with: impl FnOnce(&mut Command)) -> Process {
        let script = "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal && \
                      mount --bind \"$0\" /run/systemd/journal && exec \"$@\"";
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", script])
            .arg(self.dir.path())
            .arg(env!("CARGO_BIN_EXE_monitor"))
            .args(args)
            .env("MONITOR_API_TOKEN", TOKEN)
            .env_remove("JOURNAL_STREAM")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        with(&mut command);
        Process(command.spawn().unwrap())
    }

    /// The first entry with this in it.
    fn entry(&self, part: &str) -> String {
        let mut entry = vec![0; 64 << 10];
        loop {
            let size = self.socket.recv(&mut entry).expect("an entry comes");
            let text = String::from_utf8_lossy(&entry[..size]).into_owned();
            if text.contains(part) {
                return text;
            }
        }
    }
}

#[test]
fn the_journal_is_told_in_fields() {
    let Some(journal) = Journal::new() else { return };
    let dir = tempfile::tempdir().unwrap();
    let args = serve(&dir, "[log]\nto = \"journald\"\n");
    let _process = journal.run(&args, |_| ());
    let entry = journal.entry("listening on http://");
    assert!(entry.contains("SYSLOG_IDENTIFIER\n") || entry.contains("SYSLOG_IDENTIFIER="));
    assert!(entry.contains("PRIORITY=5") || entry.contains("PRIORITY"), "{entry}");
}

#[test]
fn what_leads_to_the_journal_anyway_is_told_in_fields_too() {
    let Some(journal) = Journal::new() else { return };
    let dir = tempfile::tempdir().unwrap();
    let args = serve(&dir, "");
    let stderr = fs::File::create(dir.path().join("stderr")).unwrap();
    let meta = stderr.metadata().unwrap();
    let stream = format!("{}:{}", meta.dev(), meta.ino());
    let _process = journal.run(&args, |command| {
        command.env("JOURNAL_STREAM", stream).stderr(stderr);
    });
    journal.entry("listening on http://");
    assert_eq!(fs::read_to_string(dir.path().join("stderr")).unwrap(), "");
    // A variable that was inherited from elsewhere says nothing about our standard error.
    let stderr = fs::File::create(dir.path().join("stderr")).unwrap();
    let other = tempfile::tempdir().unwrap();
    let args = serve(&other, "");
    let _process = journal.run(&args, |command| {
        command.env("JOURNAL_STREAM", "1:2").stderr(stderr);
    });
    let file = dir.path().join("stderr");
    eventually(|| fs::read_to_string(&file).unwrap().contains("listening").then_some(()));
}

#[test]
fn without_a_journal_one_that_was_asked_for_is_missed() {
    if Path::new("/run/systemd/journal/socket").exists() {
        println!("skipped: there is a journal");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let output = monitor().args(serve(&dir, "[log]\nto = \"journald\"\n")).output().unwrap();
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("could not log to the journal") && text.contains("stderr"), "{text}");
}
