//! Jobs in machines that end when a test lets them.

use std::{
    fs,
    io::Write,
    net::TcpListener,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use forge_github::guest::{JOB_COMPLETED, JOB_STARTED, START};
use sha2::{Digest, Sha256};

/// Stands in for GitHub's runner program.
const RUN: &str = include_str!("../../../../forge-github/tests/guest/run.sh");

/// Whether jobs may end.
pub struct Gate {
    port: u16,
    open: Arc<AtomicBool>,
}

impl Gate {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let open: Arc<AtomicBool> = Arc::default();
        let is_open = open.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let word = if is_open.load(Ordering::Relaxed) { "go\n" } else { "wait\n" };
                let _ = stream.write_all(word.as_bytes());
            }
        });
        Self { port, open }
    }

    /// What a job does until it may end.
    pub fn script(&self) -> String {
        let port = self.port;
        format!("until nc -w 5 10.0.2.2 {port} </dev/null | grep -q go; do sleep 0.1; done\n")
    }

    pub fn set(&self, open: bool) {
        self.open.store(open, Ordering::Relaxed);
    }
}

/// Writes what a machine needs to run jobs of the GitHub at `server`, which end with the gate; gives its hash.
pub fn runner_archive(file: &Path, server: &str, gate: &Gate) -> String {
    let files = archive(&[
        ("opt/runner/start.sh", START),
        ("opt/runner/job-started.sh", JOB_STARTED),
        ("opt/runner/job-completed.sh", JOB_COMPLETED),
        ("opt/actions-runner/run.sh", RUN),
        ("opt/actions-runner/job.sh", &gate.script()),
        ("opt/actions-runner/server", server),
    ]);
    write(file, &files)
}

/// Writes an archive of files for a machine; gives its hash.
pub fn machine_archive(file: &Path, files: &[(&str, &str)]) -> String {
    write(file, &archive(files))
}

fn write(file: &Path, archive: &[u8]) -> String {
    fs::write(file, archive).unwrap();
    Sha256::digest(archive).iter().map(|b| format!("{b:02x}")).collect()
}

fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_cksum();
        archive.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    archive.into_inner().unwrap()
}
