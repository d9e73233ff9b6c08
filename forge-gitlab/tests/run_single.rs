//! The script for the inside of a guest, in real machines with a stand-in for GitLab's runner program.

#[expect(dead_code, reason = "other tests use the rest of the common parts")]
mod common;
#[path = "../../backend-qemu/tests/common/mod.rs"]
#[expect(dead_code, reason = "machines are tested elsewhere; here they are used")]
mod machine;

use std::{process::Command as HostCommand, time::Duration};

use common::{PROFILE, config, profile, spec};
use fake_gitlab::{FakeGitLab, JobSpec, ProjectId, Scope, Status};
use forge_gitlab::{Administration, GitlabGuests, Place, ProfileConfig, guest::START};
use futures::TryStreamExt;
use machine::{Fixture, name};
use runner_core::{
    Clock, Forge, Hypervisor, ProcessId, RunnerId, Secret,
    guest::Command,
    hypervisor::{ExitReason, InstanceState, Network},
};
use tempfile::TempDir;

const RUNNER: &str = include_str!("guest/gitlab-runner");

/// Fails if anything of the token is left where a job could stumble over it.
const JOB: &str = r#"
echo "a job in $(pwd)"
[ ! -e /run/user-data ] || exit 1
! env | grep -q glrt- || exit 1
! grep -q -a 'glrt[-]' /proc/*/cmdline || exit 1
exit "$(cat code)"
"#;

struct World {
    machine: Fixture,
    gitlab: FakeGitLab,
    project: ProjectId,
    forge: GitlabGuests,
    _directory: TempDir,
}

impl World {
    async fn new() -> Option<Self> {
        let machine = Fixture::new().await?;
        let gitlab = FakeGitLab::start().await.unwrap();
        gitlab.configure(|settings| settings.long_poll = Duration::from_millis(500));
        let project = gitlab.project("acme/infra/app");
        let token = gitlab.access_token(gitlab.admin(), &[Scope::Api]);
        let directory = TempDir::new().unwrap();
        let mut config = config(&gitlab, &directory);
        config.profiles.push(ProfileConfig::new(profile()));
        config.administration = Some(Administration {
            token: Secret::new(token),
            place: Place::Project(project.0),
            expose_runners: true,
        });
        let forge = GitlabGuests::new(config, Clock::system()).unwrap();
        Some(Self { machine, gitlab, project, forge, _directory: directory })
    }

    fn job(&self) -> fake_gitlab::JobId {
        self.gitlab.job(self.project, JobSpec::new("build", ["true"]).tags([PROFILE]))
    }

    /// What the pool does: the secret becomes the machine's user data. Gives it, and the runner.
    async fn register(&self) -> (RunnerId, String) {
        let registration = self.forge.register(&spec("linux-1")).await.unwrap();
        // As QEMU's network calls the host.
        let secret = registration.secret.unwrap().expose().replace("127.0.0.1", "10.0.2.2");
        (registration.id, secret)
    }

    /// Boots a machine with this user data, and has it start as its image would.
    async fn start(&self, user_data: &str, code: &str, environment: &str) {
        let mut spec = self.machine.spec(1);
        spec.user_data = Some(Secret::new(user_data.to_owned()));
        spec.network = Network::Open;
        self.machine.hypervisor().create(&spec).await.unwrap();
        let guest = self.machine.hypervisor().guest(&name(1)).await.unwrap();
        tokio::time::timeout(Duration::from_secs(180), guest.ready()).await.unwrap().unwrap();
        for (path, content) in [
            ("/opt/start.sh", START),
            ("/usr/local/bin/gitlab-runner", RUNNER),
            ("/work/gitlab-runner/job.sh", JOB),
            ("/work/gitlab-runner/code", code),
        ] {
            guest.write_file(path, content.as_bytes(), 0o755).await.unwrap();
        }
        let script = format!(
            "until [ -e /run/settled ]; do sleep 0.1; done
            export PATH=$PATH:/usr/local/bin {environment}
            exec /opt/start.sh >/dev/console 2>&1"
        );
        let command = Command::new(["/bin/sh", "-c", &script]);
        guest.spawn(&ProcessId::new("start").unwrap(), &command).await.unwrap();
    }

    /// Waits until the machine has switched itself off. Gives what it said.
    async fn stopped(&self) -> String {
        let stopped = async {
            loop {
                let all = self.machine.hypervisor().instances().await.unwrap();
                if let InstanceState::Stopped(why) = &all[0].state {
                    assert_eq!(*why, ExitReason::GuestShutdown);
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(180), stopped).await.is_ok();
        let console = self.machine.hypervisor().console(&name(1), false).await.unwrap();
        let pieces: Vec<_> = console.try_collect().await.unwrap();
        let console = String::from_utf8_lossy(&pieces.concat()).into_owned();
        assert!(in_time, "it is still there: {console}");
        console
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_takes_its_token_runs_one_job_and_switches_itself_off() {
    let Some(world) = World::new().await else { return };
    let (id, user_data) = world.register().await;
    let jobs = [world.job(), world.job()];
    // How the job ends is not how the runner does.
    world.start(&user_data, "3", "").await;
    let console = world.stopped().await;
    let [first, second] = jobs.map(|job| world.gitlab.job_view(job).unwrap());
    assert_eq!(first.status, Status::Failed, "{console}");
    assert!(first.log().starts_with("a job in /work/gitlab-runner"), "{} {console}", first.log());
    assert_eq!(second.status, Status::Pending, "one job, and no more");
    assert!(console.contains("runner: the runner program is done"), "{console}");
    assert!(!console.contains("glrt-"), "{console}");
    world.forge.deregister(&id).await.unwrap();
    assert!(world.gitlab.runners().is_empty());
    let violations = world.gitlab.violations();
    assert!(violations.is_empty(), "{violations:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_gets_no_job_in_time_switches_itself_off() {
    let Some(world) = World::new().await else { return };
    let (id, user_data) = world.register().await;
    // Somebody deletes it at GitLab.
    world.forge.deregister(&id).await.unwrap();
    world.start(&user_data, "0", "RUNNER_WAIT=3").await;
    let console = world.stopped().await;
    assert!(console.contains("forbidden"), "{console}");
    assert!(console.contains("has not received a job in 3 seconds"), "{console}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_with_nonsense_for_user_data_says_so_and_switches_itself_off() {
    let Some(world) = World::new().await else { return };
    world.start("#cloud-config\n{}\n", "0", "").await;
    let console = world.stopped().await;
    assert!(console.contains("error: the user data has no line gitlab-url"), "{console}");
}

/// The script at its edges, in the shells that this host has; no machine is needed for these.
#[test]
fn the_script_hands_on_what_it_was_given_and_nothing_more() {
    let all: [&[&str]; 3] = [&["/bin/dash"], &["/bin/busybox", "sh"], &["/bin/bash", "--posix"]];
    for shell in all.into_iter().filter(|shell| std::path::Path::new(shell[0]).exists()) {
        for (user_data, program, expected, says) in [
            ("gitlab-url=https://g/\r\ngitlab-token=glrt-1\n", "exit 0", 0, "is done"),
            ("gitlab-token=glrt-1\ngitlab-url=http://g/x\n", "exit 3", 3, "ended with exit code 3"),
            (
                "gitlab-url=https://g/\ngitlab-token=$(reboot)\n",
                "exit 0",
                1,
                "the token in the user data is none",
            ),
            ("gitlab-url=https://g/\n", "exit 0", 1, "has no line gitlab-token"),
            (
                "gitlab-url=file:///etc\ngitlab-token=glrt-1\n",
                "exit 0",
                1,
                "has no line gitlab-url",
            ),
        ] {
            let directory = TempDir::new().unwrap();
            let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
            std::fs::write(path("start.sh"), START).unwrap();
            std::fs::write(path("user-data"), user_data).unwrap();
            let text = format!(
                "#!/bin/sh\nprintf '%s\\n' \"$@\" >{0}\nenv >>{0}\nwhile [ \"$1\" != --token-file ]; do shift; done\ncat \"$2\" >{1}\n{program}\n",
                path("arguments"),
                path("token"),
            );
            std::fs::write(path("program"), text).unwrap();
            HostCommand::new("chmod").args(["755", &path("program")]).status().unwrap();
            let user = HostCommand::new("id").arg("-un").output().unwrap().stdout;
            let output = HostCommand::new(shell[0])
                .args(&shell[1..])
                .arg(path("start.sh"))
                .env("RUNNER_PROGRAM", path("program"))
                .env("RUNNER_DIRECTORY", path("work"))
                .env("RUNNER_USER", String::from_utf8(user).unwrap().trim())
                .env("RUNNER_USER_DATA", path("user-data"))
                .env("RUNNER_STATE", path("state"))
                .env("RUNNER_POWEROFF", format!("echo off >>{}", path("off")))
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(output.status.code(), Some(expected), "{shell:?} {user_data:?} {said}");
            assert!(said.contains(says), "{shell:?} {said}");
            assert_eq!(std::fs::read_to_string(path("off")).unwrap(), "off\n", "{shell:?}");
            assert!(!std::path::Path::new(&path("state/token")).exists());
            let Ok(arguments) = std::fs::read_to_string(path("arguments")) else {
                assert_eq!(expected, 1);
                continue;
            };
            assert_eq!(std::fs::read_to_string(path("token")).unwrap(), "glrt-1", "{shell:?}");
            assert!(arguments.starts_with("run-single\n--url\nhttp"), "{arguments}");
            assert!(arguments.contains("--max-builds\n1\n"), "{arguments}");
            assert!(!arguments.contains("glrt-1"), "{arguments}");
            assert!(!std::path::Path::new(&path("user-data")).exists());
        }
    }
}

#[test]
fn the_scripts_pass_shellcheck() {
    if !machine::parts::has("shellcheck") {
        return machine::parts::skip("shellcheck");
    }
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let scripts = ["guest/start.sh", "tests/guest/gitlab-runner"].map(|path| here.join(path));
    let output = HostCommand::new("shellcheck").args(scripts).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
