//! The drivers, called as GitLab's documentation says, with real machines.

#[cfg(feature = "libvirt")]
#[path = "../../../backend-libvirt/tests/common/libvirtd.rs"]
#[expect(dead_code, reason = "libvirt is tested elsewhere; here it is used")]
mod libvirtd;
#[path = "../../../backend-qemu/tests/common/mod.rs"]
#[expect(dead_code, reason = "machines are tested elsewhere; here they are used")]
mod qemu;
#[cfg(feature = "libvirt")]
use qemu::parts;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use serde_json::json;
use tempfile::TempDir;

const DRIVER: &str = env!("CARGO_BIN_EXE_gitlab-custom-executor");

/// A host on which `gitlab-runner` may run jobs.
struct Host {
    directory: TempDir,
}

/// A job, and the `gitlab-runner` that runs it.
struct Job {
    at: PathBuf,
    runner: Child,
}

/// Waits until `what` holds.
fn until(why: &str, what: impl Fn() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < Duration::from_secs(180), "in vain: {why}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn kill(signal: &str, pid: u32) {
    Command::new("kill").args([signal, &pid.to_string()]).status().unwrap();
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

impl Host {
    /// None, with a word about it, where there is no QEMU.
    async fn new() -> Option<Self> {
        let hypervisor = r#"{ kind = "qemu", accel = "tcg" }"#;
        Self::with(hypervisor, TempDir::new().unwrap()).await
    }

    async fn with(hypervisor: &str, directory: TempDir) -> Option<Self> {
        qemu::micro::image().await?;
        let host = Self { directory };
        let cache = qemu::parts::shared_cache();
        let config = format!(
            r#"
                state_dir = "{}"
                images_dir = "{}"
                packages_dir = "{}"
                shell = "sh"
                network = "restricted"
                image = {{ kind = "micro" }}
                machine = {{ vcpus = 1, memory_mib = 192 }}
                hypervisor = {hypervisor}
            "#,
            host.path("state").display(),
            cache.join("test-images").display(),
            cache.display(),
        );
        fs::write(host.path("executor.toml"), config).unwrap();
        Some(host)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Has a `gitlab-runner` run a job of these stages.
    fn job(&self, id: u64, stages: &[(&str, &str)]) -> Job {
        let response = json!({
            "id": id, "token": "glcbt-secret",
            "git_info": {"repo_url": "https://gitlab-ci-token:glcbt-secret@gitlab.example/g/p.git"},
            "runner_info": {"timeout": 3600}, "image": {"name": "rust:1.90"}, "services": [],
        });
        self.job_of(id, &response, stages)
    }

    fn job_of(&self, id: u64, response: &serde_json::Value, stages: &[(&str, &str)]) -> Job {
        let at = self.path(&format!("job-{id}"));
        fs::create_dir_all(at.join("scripts")).unwrap();
        fs::write(at.join("response.json"), response.to_string()).unwrap();
        for (stage, script) in stages {
            fs::write(at.join("scripts").join(stage), script).unwrap();
        }
        let names: String = stages.iter().map(|(stage, _)| format!("{stage}\n")).collect();
        fs::write(at.join("stages"), names).unwrap();
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gitlab-runner");
        let mut command = Command::new(program);
        command.arg(DRIVER).arg(self.path("executor.toml")).arg(&at);
        Job { at, runner: command.spawn().unwrap() }
    }

    /// The processes of all machines.
    fn machines(&self) -> Vec<u32> {
        let state = self.path("state").canonicalize().unwrap_or_default();
        let all = fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let ours = |pid: &u32| {
            let cwd = fs::read_link(format!("/proc/{pid}/cwd"));
            cwd.is_ok_and(|cwd| cwd.starts_with(&state) && cwd != state)
        };
        pids.filter(ours).collect()
    }

    /// What is kept for jobs.
    fn kept(&self) -> Vec<String> {
        let jobs = fs::read_dir(self.path("state/jobs")).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            jobs.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn assert_nothing_is_left(&self) {
        assert_eq!((self.kept(), self.machines()), (vec![], vec![]));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for pid in self.machines() {
            kill("-9", pid);
        }
    }
}

impl Job {
    fn log(&self) -> String {
        read(self.at.join("log"))
    }

    fn story(&self) -> String {
        read(self.at.join("story"))
    }

    /// The driver that runs now.
    fn driver(&self) -> u32 {
        read(self.at.join("pid")).trim().parse().unwrap()
    }

    fn until_said(&self, text: &str) {
        until(&format!("{text:?} in {}, {}", self.story(), self.at.display()), || {
            self.log().contains(text)
        });
    }

    /// Waits for the end; gives what happened.
    fn over(&mut self) -> String {
        until("the job is over", || self.story().ends_with("over\n"));
        self.runner.wait().unwrap();
        self.story()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.runner.kill();
        let _ = self.runner.wait();
    }
}

#[tokio::test]
async fn a_job_runs_in_a_machine_that_is_its_own_and_then_gone() {
    let Some(host) = Host::new().await else { return };
    let mut job = host.job(
        7,
        &[
            ("prepare_script", "uname -s; echo mark >/tmp/mark"),
            ("get_sources", "mkdir -p /builds/p && echo code >/builds/p/f"),
            ("step_script", "cat /tmp/mark /builds/p/f; echo one; echo two >&2; echo three"),
            ("after_script", "echo after"),
            ("upload_artifacts_on_failure", "echo never"),
        ],
    );
    let story = job.over();
    let log = job.log();
    let stages = "prepare_script 0\nget_sources 0\nstep_script 0\nafter_script 0\n";
    assert_eq!(story, format!("config 0\nprepare 0\n{stages}cleanup 0\nover\n"), "{log}");
    assert!(log.starts_with("WARNING: image rust:1.90 is not used"), "{log}");
    assert!(log.contains("\nLinux\nmark\ncode\none\ntwo\nthree\nafter\n"), "{log}");
    let config: serde_json::Value =
        serde_json::from_str(&read(job.at.join("config.json"))).unwrap();
    assert_eq!(config["builds_dir"], "/builds");
    assert_eq!((&config["shell"], &config["builds_dir_is_shared"]), (&json!("sh"), &json!(false)));
    host.assert_nothing_is_left();
    let mode = fs::metadata(host.path("state")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[cfg(feature = "libvirt")]
#[tokio::test]
async fn a_job_runs_in_a_machine_of_libvirts() {
    let Some(daemon) = libvirtd::Libvirtd::start() else { return };
    let directory = tempfile::tempdir_in(daemon.directory()).unwrap();
    let disks = directory.path().join("disks");
    let hypervisor = format!(
        r#"{{ kind = "libvirt", uri = "{}", disks_dir = "{}", accel = "tcg" }}"#,
        daemon.uri,
        disks.display(),
    );
    let Some(host) = Host::with(&hypervisor, directory).await else { return };
    let mut job =
        host.job(7, &[("step_script", "uname -s; exit 7"), ("after_script", "echo after")]);
    let story = job.over();
    let expected = "prepare 0\nstep_script 41 with 7\nafter_script 0\ncleanup 0\nover\n";
    assert!(story.ends_with(expected), "{story}{}{}", job.log(), read(job.at.join("own-log")));
    assert_eq!(daemon.virsh(&["list", "--all", "--name"]).trim(), "");
    assert!(host.kept().is_empty() && fs::read_dir(disks).unwrap().count() == 0);
}

#[tokio::test]
async fn a_script_that_fails_is_the_jobs_fault_and_a_machine_that_dies_is_not() {
    let Some(host) = Host::new().await else { return };
    let stages = [
        ("step_script", "echo begun; until [ -e /tmp/go ]; do sleep 0.1; done; exit 7"),
        ("archive_cache", "echo never"),
        ("after_script", "echo after"),
        ("upload_artifacts_on_failure", "echo uploaded"),
    ];
    let mut fails = stages;
    fails[0].1 = "echo begun; exit 7";
    let mut job = host.job(1, &fails);
    let story = job.over();
    let expected =
        "step_script 41 with 7\nafter_script 0\nupload_artifacts_on_failure 0\ncleanup 0\n";
    assert!(story.contains(expected), "{story}{}", job.log());
    assert!(job.log().contains("ERROR: step_script failed: exit code 7"), "{}", job.log());

    let mut job = host.job(2, &stages);
    job.until_said("begun");
    for pid in host.machines() {
        kill("-9", pid);
    }
    let story = job.over();
    // The machine is gone, for whatever comes after as well.
    let expected = "step_script 42\nafter_script 42\nupload_artifacts_on_failure 42\ncleanup 0\n";
    assert!(story.contains(expected), "{story}{}", job.log());
    assert!(job.log().contains("error: the machine is gone"), "{}", job.log());
    host.assert_nothing_is_left();
}

#[tokio::test]
async fn a_cancelled_job_ends_its_script_and_clears_up_in_its_machine() {
    let Some(host) = Host::new().await else { return };
    let script = "trap 'echo caught; echo mark >/tmp/mark; exit 3' TERM; echo begun; while :; do sleep 0.1; done";
    let mut job = host.job(
        1,
        &[
            ("step_script", script),
            ("archive_cache", "echo never"),
            ("after_script", "cat /tmp/mark"),
        ],
    );
    job.until_said("begun");
    kill("-TERM", job.runner.id());
    let story = job.over();
    let expected = "prepare 0\nstep_script 41\nafter_script 0\ncleanup 0\n";
    assert!(story.contains(expected), "{story}{}", job.log());
    assert!(job.log().contains("\ncaught\n") && job.log().ends_with("\nmark\n"), "{}", job.log());
    host.assert_nothing_is_left();
}

#[tokio::test]
async fn whichever_driver_is_killed_cleanup_works() {
    let Some(host) = Host::new().await else { return };
    let mut job = host.job(1, &[("step_script", "echo begun; sleep 1000")]);
    job.until_said("begun");
    kill("-9", job.driver());
    let story = job.over();
    assert!(story.contains("step_script 137\ncleanup 0\n"), "{story}");
    host.assert_nothing_is_left();

    let mut job = host.job(2, &[("step_script", "echo never")]);
    until("a machine is being made", || !host.machines().is_empty());
    kill("-9", job.driver());
    let story = job.over();
    assert!(story.contains("prepare 137\ncleanup 0\n"), "{story}");
    host.assert_nothing_is_left();
    // What was removed is removed.
    fs::create_dir_all(&job.at).unwrap();
    let again = Command::new(DRIVER)
        .arg("--config")
        .arg(host.path("executor.toml"))
        .arg("cleanup")
        .env("JOB_RESPONSE_FILE", job.at.join("response.json"))
        .status();
    assert!(again.unwrap().success());
}

#[tokio::test]
async fn the_machines_of_a_gitlab_runner_that_died_are_removed_and_no_others() {
    let Some(host) = Host::new().await else { return };
    let script = [("step_script", "echo begun; until [ -e /tmp/go ]; do sleep 0.1; done")];
    let lives = host.job(1, &script);
    let mut dies = host.job(2, &script);
    lives.until_said("begun");
    dies.until_said("begun");
    let driver = dies.driver();
    dies.runner.kill().unwrap();
    dies.runner.wait().unwrap();
    kill("-9", driver);
    assert_eq!(host.kept().len(), 2, "nobody cleaned up");
    let mut next = host.job(3, &[("step_script", "echo hello")]);
    let story = next.over();
    assert!(story.contains("step_script 0\ncleanup 0\n"), "{story}{}", next.log());
    let kept = host.kept();
    assert!(kept.len() == 1 && kept[0].ends_with("-1"), "{kept:?}");
    assert_eq!(host.machines().len(), 1, "the other goes on");
    assert!(!lives.story().contains("step_script"), "{}", lives.story());
    assert!(next.log().contains("Removing the machine"), "{}", next.log());
}

#[tokio::test]
async fn a_job_that_wants_services_fails_and_says_why() {
    let Some(host) = Host::new().await else { return };
    let response = json!({
        "id": 1, "token": "t", "git_info": {"repo_url": "https://gitlab.example/g/p.git"},
        "runner_info": {"timeout": 3600}, "services": [{"name": "postgres:16"}],
    });
    let mut job = host.job_of(1, &response, &[("step_script", "echo never")]);
    assert_eq!(job.over(), "config 0\nprepare 41\ncleanup 0\nover\n", "{}", job.log());
    assert!(job.log().contains("services are not to be had here: postgres:16"), "{}", job.log());
}
