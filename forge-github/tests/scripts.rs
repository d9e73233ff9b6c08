//! The guest's scripts at their edges, in the shells that this host has; no machine is needed for these.

mod common;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use forge_github::guest::{JOB_COMPLETED, JOB_STARTED, START};
use tempfile::TempDir;

const JIT: &str = "eyJhIjoiYiJ9";

/// A directory with everything in it, and a runner program that does as it is told.
struct Place {
    directory: TempDir,
    shell: Vec<&'static str>,
}

/// The shells that guests have, as far as this host has them.
fn places() -> Vec<Place> {
    let all = [vec!["/bin/dash"], vec!["/bin/busybox", "sh"], vec!["/bin/bash", "--posix"]];
    let there = all.into_iter().filter(|shell| Path::new(shell[0]).exists());
    there.map(|shell| Place { directory: tempfile::tempdir().unwrap(), shell }).collect()
}

impl Place {
    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs::create_dir_all(Path::new(&path).parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path(name)).ok()
    }

    /// A script, as `user_data` makes it start and `program` run.
    fn start(&self, user_data: &str, program: &str) -> (i32, String) {
        self.write("start.sh", START);
        self.write("user-data", user_data);
        self.write("runner/run.sh", &format!("#!/bin/sh\n{program}\n"));
        self.run("start.sh", &[])
    }

    fn run(&self, script: &str, more: &[(&str, &str)]) -> (i32, String) {
        let user = Command::new("id").arg("-un").output().unwrap().stdout;
        let user = String::from_utf8(user).unwrap();
        let off = format!("echo off >>{}", self.path("off"));
        let mut command = Command::new(self.shell[0]);
        command
            .args(&self.shell[1..])
            .arg(self.path(script))
            .env("RUNNER_DIRECTORY", self.path("runner"))
            .env("RUNNER_USER", user.trim())
            .env("RUNNER_USER_DATA", self.path("user-data"))
            .env("RUNNER_STATE", self.path("state"))
            .env("RUNNER_POWEROFF", off)
            .envs(more.iter().copied());
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
        (status.code().unwrap(), text)
    }
}

#[test]
fn the_program_gets_its_configuration_and_the_machine_goes_off() {
    for place in places() {
        let out = place.path("out");
        let program = format!("printf %s \"$ACTIONS_RUNNER_INPUT_JITCONFIG\" >{out}");
        let (code, text) = place.start(&format!("{JIT}\n"), &program);
        assert_eq!((code, place.read("out").as_deref()), (0, Some(JIT)), "{text}");
        assert_eq!(place.read("off").as_deref(), Some("off\n"));
        assert!(!text.contains(JIT), "{text}");
        assert_eq!(place.read("user-data"), None, "no job finds it again");
        assert_eq!(place.read("state/monitor"), None);
    }
}

#[test]
fn lines_name_the_configuration_and_the_monitor() {
    for place in places() {
        let out = place.path("out");
        let program = format!("echo $ACTIONS_RUNNER_HOOK_JOB_STARTED >{out}");
        let lines =
            format!("monitor-url=http://m/x\r\njit-config={JIT}\nmonitor-token=t=1\nnew=1\n");
        let (code, text) = place.start(&lines, &program);
        assert_eq!(code, 0, "{text}");
        assert_eq!(place.read("out").unwrap().trim(), place.path("job-started.sh"));
        let settings = place.read("state/monitor").unwrap();
        assert_eq!(settings, "url=http://m/x\ntoken=t=1\nwhen-unheard=\n");
        let mode = fs::metadata(place.path("state/monitor")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!text.contains("t=1"), "{text}");
    }
}

#[test]
fn the_programs_exit_code_is_told_and_the_machine_goes_off_all_the_same() {
    for place in places() {
        for (code, words) in [
            (1, "the runner program failed"),
            (7, "no longer accepts this version"),
            (42, "ended with exit code 42"),
        ] {
            let (its, text) = place.start(JIT, &format!("exit {code}"));
            assert_eq!(its, code, "{text}");
            assert!(text.contains(words), "{text}");
        }
        assert_eq!(place.read("off").as_deref(), Some("off\noff\noff\n"));
        let (code, text) = place.start(JIT, "kill -9 $$");
        assert_eq!(code, 137, "{text}");
    }
}

#[test]
fn without_what_it_needs_it_says_so_and_the_machine_goes_off() {
    for place in places() {
        for (data, words) in [
            ("", "there is no user data"),
            ("#!/bin/sh\nreboot\n", "neither a JIT configuration nor lines"),
            ("jit-config=$(reboot)\n", "neither a JIT configuration nor lines"),
            (" \n\n", "holds no JIT configuration"),
        ] {
            let (code, text) = place.start(data, "echo ran");
            assert!(code == 1 && text.contains(words) && !text.contains("ran\n"), "{data}: {text}");
        }
        assert_eq!(place.read("off").unwrap().lines().count(), 4);
        place.write("user-data", JIT);
        fs::remove_file(place.path("runner/run.sh")).unwrap();
        let (code, text) = place.run("start.sh", &[]);
        assert!(code == 1 && text.contains("run.sh is not there"), "{text}");
    }
}

#[test]
fn a_monitor_that_does_not_answer_is_judged_as_the_user_data_says() {
    for place in places() {
        place.write("job-started.sh", JOB_STARTED);
        place.write("job-completed.sh", JOB_COMPLETED);
        for (when, code) in [("refuse", 1), ("run", 0), ("", 0)] {
            // Nobody listens on port 9.
            let settings = format!("url=http://127.0.0.1:9/x\ntoken=t-1\nwhen-unheard={when}\n");
            place.write("state/monitor", &settings);
            let (its, text) = place.run("job-started.sh", &[("no_proxy", "*")]);
            assert_eq!(its, code, "{when}: {text}");
            assert!(text.contains("monitor does not answer"), "{text}");
            let (its, text) = place.run("job-completed.sh", &[("no_proxy", "*")]);
            assert_eq!(its, 0, "{text}");
        }
    }
}

#[test]
fn without_a_monitor_the_hooks_do_nothing() {
    for place in places() {
        place.write("job-started.sh", JOB_STARTED);
        place.write("job-completed.sh", JOB_COMPLETED);
        for script in ["job-started.sh", "job-completed.sh"] {
            assert_eq!(place.run(script, &[]), (0, String::new()));
        }
    }
}

#[test]
fn shellcheck_has_nothing_to_say() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    let scripts =
        ["guest/start.sh", "guest/job-started.sh", "guest/job-completed.sh", "tests/guest/run.sh"];
    match Command::new("shellcheck").args(scripts.map(|name| directory.join(name))).output() {
        Err(_) => common::skip("shellcheck"),
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
    }
}
