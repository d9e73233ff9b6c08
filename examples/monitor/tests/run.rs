//! The command line against a live service.

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::fs::PermissionsExt,
    process::{Child, Command, Stdio},
};

use common::{Server, TOKEN, eventually, said};

fn signal(child: &Child, signal: &str) {
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-s", signal, &pid]).status();
    assert!(sent.unwrap().success());
}

fn piped(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn the_commands_output_and_exit_code_are_passed_on() {
    let server = Server::start();
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("exit 255", 255)] {
        let script = format!("printf 'a\\377\\000b'; {script}");
        let output = server.monitor(&["run", "--", "/bin/sh", "-c", &script]).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        assert_eq!(output.stdout, b"a\xff\x00b");
    }
    let missing = server.monitor(&["run", "--", "no-such-program"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(127), "{}", said(&missing));
    let late =
        server.monitor(&["run", "--timeout", "300ms", "--", "sleep", "60"]).output().unwrap();
    assert_eq!(late.status.code(), Some(124), "{}", said(&late));
}

#[test]
fn files_and_variables_go_along_and_outputs_come_back() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("build.sh");
    fs::write(
        &script,
        "#!/bin/sh\nmkdir out; cat data/in.txt > out/result; echo \"$GREETING\" >> out/result\n",
    )
    .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(dir.path().join("in.txt"), "input ").unwrap();
    let output = server
        .monitor(&[
            "run",
            "--profile",
            "micro",
            "--file",
            "build.sh",
            "--file",
            "in.txt=data/in.txt",
            "--env",
            "GREETING=hello, world",
            "--output",
            "out",
            "--output-dir",
            "back",
            "--quiet",
            "--",
            "./build.sh",
        ])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(output.stderr, b"", "{}", said(&output));
    let result = fs::read_to_string(dir.path().join("back/out/result")).unwrap();
    assert_eq!(result, "input hello, world\n");
}

#[test]
fn the_first_interrupt_cancels_the_job_and_waits_for_its_end() {
    let server = Server::start();
    let script = "trap 'echo cleaning up; exit 1' TERM; echo begun; while :; do :; done";
    let mut child = piped(server.monitor(&["run", "--", "/bin/sh", "-c", script]));
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "begun\n");
    signal(&child, "INT");
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "cleaning up\n");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let jobs = server.get("/api/v2/jobs").json();
    assert_eq!(jobs["jobs"][0]["state"], "cancelled");
}

#[test]
fn the_second_interrupt_leaves() {
    let mut server = Server::start();
    let mut child = piped(server.monitor(&["run", "--", "/bin/sh", "-c", "echo begun; sleep 60"]));
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    // The cancellation cannot be delivered: nobody answers.
    server.crash();
    let mut err = BufReader::new(child.stderr.take().unwrap());
    let mut hear = |what: &str| loop {
        let mut line = String::new();
        assert_ne!(err.read_line(&mut line).unwrap(), 0, "never said {what}");
        if line.contains(what) {
            break;
        }
    };
    signal(&child, "INT");
    hear("cancelling job");
    signal(&child, "INT");
    hear("is left alone");
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_log_is_whole_although_the_service_is_killed_and_started_again() {
    let mut server = Server::start();
    let script = "i=0; while [ $i -lt 300 ]; do i=$((i + 1)); printf 'line %d \\377\\n' $i; sleep 0.01; done; exit 9";
    let mut child = piped(server.monitor(&["run", "--", "/bin/sh", "-c", script]));
    let mut out = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut log = Vec::new();
        out.read_to_end(&mut log).unwrap();
        log
    });
    for pause in [600, 400, 200] {
        std::thread::sleep(std::time::Duration::from_millis(pause));
        server.crash();
        server.restart();
    }
    assert_eq!(child.wait().unwrap().code(), Some(9));
    let mut expected = Vec::new();
    for line in 1..=300 {
        expected.extend_from_slice(format!("line {line} ").as_bytes());
        expected.extend_from_slice(b"\xff\n");
    }
    let log = reader.join().unwrap();
    assert!(log == expected, "{} of {} bytes", log.len(), expected.len());
}

#[test]
fn jobs_and_workers_are_listed_and_jobs_are_cancelled() {
    let server = Server::start();
    let id = server.submit("sleep 60");
    server.wait(&id, "running");
    let jobs = server.monitor(&["jobs"]).output().unwrap();
    let text = String::from_utf8_lossy(&jobs.stdout).into_owned();
    assert!(text.starts_with("JOB ") && text.contains(&id) && text.contains("running"), "{text}");
    let json = server.monitor(&["jobs", "--json", "--state", "running"]).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["jobs"][0]["id"], id.as_str());
    let workers = eventually(|| {
        let output = server.monitor(&["workers"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.contains("busy").then_some(text)
    });
    assert!(workers.contains(&id), "{workers}");
    let cancel = server.monitor(&["cancel", &id]).output().unwrap();
    assert_eq!(cancel.status.code(), Some(0), "{}", said(&cancel));
    server.wait(&id, "cancelled");
    let unknown = server.monitor(&["cancel", "../etc"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(4), "{}", said(&unknown));
}

#[test]
fn what_goes_wrong_is_told_with_the_way_out() {
    let server = Server::start();
    let table: &[(&[&str], i32, &str)] = &[
        (
            &["run", "--server", "http://127.0.0.1:1", "--", "true"],
            125,
            "no monitor answers at http://127.0.0.1:1; start one with `monitor serve`",
        ),
        (&["jobs", "--server", "http://127.0.0.1:1"], 3, "no monitor answers"),
        (&["jobs", "--server", "127.0.0.1:1"], 1, "write it like http://127.0.0.1:8000"),
        (&["run", "--profile", "big", "--", "true"], 125, "use one of: micro"),
        (&["run", "--file", "/no/such/file", "--", "true"], 2, "--file /no/such/file"),
        (&["run", "--file", "/", "--", "true"], 2, "FILE=PATH"),
        (&["run", "--file", "/etc=etc", "--", "true"], 2, "pack it with tar"),
        (&["run", "--file", "/etc/hostname=../x", "--", "true"], 125, "without '..'"),
        (&["run", "--env", "NOT_SET_HERE_AT_ALL", "--", "true"], 2, "NOT_SET_HERE_AT_ALL=VALUE"),
        (&["run", "--timeout", "soon", "--", "true"], 2, "90s"),
        (&["run", "--token-file", "/no/such/token", "--", "true"], 125, "no token file"),
        (&["run"], 2, "CMD"),
        (&["cancel", "none"], 4, "job none does not exist"),
    ];
    for (args, code, says) in table {
        let output = server.monitor(args).output().unwrap();
        let text = said(&output);
        assert_eq!(output.status.code(), Some(*code), "{args:?}: {text}");
        assert!(text.contains(says), "{says:?} is not in: {text}");
    }
    let stranger =
        server.monitor(&["run", "--", "true"]).env("MONITOR_API_TOKEN", "wrong").output().unwrap();
    assert_eq!(stranger.status.code(), Some(125));
    assert!(said(&stranger).contains("refused the API token"), "{}", said(&stranger));
}

#[test]
fn a_secret_variable_reaches_the_job_and_nothing_else() {
    let server = Server::start();
    let secret = "planted-secret-5d2e";
    let script = "test \"$PASSWORD\" = planted-secret-5d2e && sleep 0.5";
    // The value is compared in a script that is a file, so that it is in no list of arguments either.
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("check.sh"), script).unwrap();
    let run = server
        .monitor(&["run", "--env", "PASSWORD", "--file", "check.sh", "--", "/bin/sh", "check.sh"])
        .env("PASSWORD", secret)
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert_eq!(run.status.code(), Some(0), "{}", said(&run));
    let id = server.get("/api/v2/jobs").json()["jobs"][0]["id"].as_str().unwrap().to_owned();
    let mut seen = said(&run);
    for path in [
        "/api/v2/jobs",
        &format!("/api/v2/jobs/{id}"),
        "/api/v2/events?after=0&limit=1000",
        "/api/v2/status",
        "/api/v2/workers",
        "/api/v2/openapi.json",
    ] {
        seen.push_str(&server.get(path).text());
    }
    assert!(seen.contains("PASSWORD"), "its name may be seen");
    assert!(!seen.contains(secret), "{seen}");
    assert!(!seen.contains(TOKEN), "{seen}");
}
