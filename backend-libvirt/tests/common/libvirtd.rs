//! A libvirtd in namespaces of its own, which ends with the test, however that ends.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
};

use backend_libvirt::LibvirtUri;
use tempfile::TempDir;

use super::parts;

/// Runs the daemon, and removes what it kept once that has ended: also when the test is killed, of which the
/// kernel tells this shell.
const KEEPER: &str = r#"
    trap 'kill "$daemon"' TERM
    "$1" "${@:2}" &
    daemon=$!
    wait "$daemon"
    wait "$daemon"
    for _ in $(seq 100); do
        # What is just ending may put something there still.
        rm -rf "$2" && break
        sleep 0.1
    done
"#;

/// A daemon that runs.
pub struct Libvirtd {
    keeper: Child,
    directory: PathBuf,
    pub uri: LibvirtUri,
}

impl Libvirtd {
    /// Starts one, or says what is missing for it.
    pub fn start() -> Option<Self> {
        Self::start_with(|_| (), &[])
    }

    /// As [`start`](Self::start), with more arguments of `scripts/libvirtd`, once its directory is prepared.
    pub fn start_with(prepare: impl FnOnce(&Path), arguments: &[&str]) -> Option<Self> {
        let is_root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout == b"0\n");
        if !is_root || !parts::has("libvirtd") || !parts::has("virsh") {
            parts::skip("libvirt");
            return None;
        }
        // Short, since paths of sockets are; and removed by the keeper.
        let directory = TempDir::with_prefix("lv").unwrap().keep();
        prepare(&directory);
        // Tests of other crates use this file, too.
        let mut above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
        let script = above.find_map(|directory| {
            let script = directory.join("scripts/libvirtd");
            script.exists().then_some(script)
        });
        let script = script.expect("scripts/libvirtd is in the workspace");
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "TERM", "bash", "-c", KEEPER, "libvirtd-keeper"])
            .arg(script)
            .arg(&directory)
            .args(arguments)
            // It listens to the network if the configuration says where.
            .env("LIBVIRTD_ARGS", if arguments.is_empty() { "" } else { "--listen" })
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        // The kernel tells of the end of the thread that started it, so that one must stay.
        let (started, keeper) = std::sync::mpsc::channel();
        thread::spawn(move || {
            started.send(command.spawn().unwrap()).unwrap();
            loop {
                thread::park();
            }
        });
        let mut keeper = keeper.recv().unwrap();
        let mut lines = BufReader::new(keeper.stdout.take().unwrap()).lines();
        let uri = lines.next().expect("libvirtd does not start").unwrap();
        let uri = LibvirtUri::new(&uri).unwrap();
        Some(Self { keeper, directory, uri })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.join("sock/libvirt-sock")
    }

    /// What an operator types.
    pub fn try_virsh(&self, arguments: &[&str]) -> Output {
        let uri = format!("qemu+unix:///system?socket={}", self.socket().display());
        Command::new("virsh").args(["-q", "-c", &uri]).args(arguments).output().unwrap()
    }

    /// What an operator types, and what it says.
    pub fn virsh(&self, arguments: &[&str]) -> String {
        let output = self.try_virsh(arguments);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "virsh {arguments:?}: {complaint}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What an operator types to define or create a domain of this document.
    pub fn virsh_document(&self, verb: &[&str], document: &str) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), document).unwrap();
        self.virsh(
            &[verb[0], file.path().to_str().unwrap()]
                .iter()
                .chain(&verb[1..])
                .copied()
                .collect::<Vec<_>>(),
        );
    }

    /// Signals the daemon itself, whose machines live on.
    pub fn signal(&self, signal: &str) {
        let pid = self.pid();
        assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
    }

    /// The daemon's process as we see it from outside of its namespace.
    pub fn pid(&self) -> u32 {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let ours = self.directory.join("libvirtd.conf");
        let ours = ours.to_str().unwrap();
        let mut found = processes.filter_map(|process| {
            let pid = process.file_name().to_str()?.parse().ok()?;
            let line = fs::read(process.path().join("cmdline")).ok()?;
            let mut arguments = line.split(|byte| *byte == 0);
            let is_daemon = arguments.next() == Some(b"libvirtd");
            (is_daemon && arguments.any(|argument| argument == ours.as_bytes())).then_some(pid)
        });
        found.next().expect("there is no libvirtd")
    }

    /// Keeps the daemon down once it has ended, or lets it come again.
    pub fn hold(&self, hold: bool) {
        let file = self.directory.join("hold");
        if hold { fs::write(file, "").unwrap() } else { fs::remove_file(file).unwrap() }
    }
}

impl Drop for Libvirtd {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.keeper.id().to_string()).status();
        let _ = self.keeper.wait();
    }
}
