//! Everything that `Guest` promises, on a fake agent that runs the real scripts on this host.

mod common;

use std::{
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use common::Fixture;
use runner_core::{
    Error, Guest, ProcessId,
    guest::{Command, Cursor, ExitStatus, Output, Signal, exec},
};
use serde_json::json;

fn id(text: &str) -> ProcessId {
    ProcessId::new(text).unwrap()
}

fn sh(script: &str) -> Command {
    Command::new(["sh", "-c", script])
}

async fn run(guest: &dyn Guest, name: &str, command: &Command) -> (ExitStatus, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let name = id(name);
    let exit = exec(guest, &name, command, |output| match output {
        Output::Stdout(bytes) => out.extend_from_slice(bytes),
        Output::Stderr(bytes) => err.extend_from_slice(bytes),
    });
    let exit = tokio::time::timeout(Duration::from_secs(20), exit).await.unwrap().unwrap();
    (exit, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

/// The shells that guests have, as far as this host has them.
fn shells() -> Vec<Vec<&'static str>> {
    let all = [
        vec!["/bin/sh"],
        vec!["/bin/dash"],
        vec!["/bin/busybox", "sh"],
        vec!["/bin/bash", "--posix"],
    ];
    all.into_iter().filter(|shell| std::path::Path::new(shell[0]).exists()).collect()
}

#[tokio::test]
async fn outputs_and_exit_code_come_back_in_every_shell() {
    for shell in shells() {
        let fixture = Fixture::with_shell(&shell);
        let command = sh("echo out; echo err >&2; exit 7");
        let (exit, out, err) = run(&*fixture.guest, "a", &command).await;
        assert_eq!((exit, &*out, &*err), (ExitStatus::Code(7), "out\n", "err\n"), "{shell:?}");

        let (exit, ..) = run(&*fixture.guest, "b", &sh("kill -9 $$")).await;
        assert_eq!(exit, ExitStatus::Signal(9), "{shell:?}");

        fixture.guest.spawn(&id("c"), &sh("sleep 100 & wait")).await.unwrap();
        assert_eq!(fixture.guest.running().await.unwrap(), [id("c")], "{shell:?}");
        fixture.guest.kill(&id("c"), Signal::Terminate).await.unwrap();
        let (exit, ..) = run(&*fixture.guest, "c", &sh("")).await;
        assert_eq!(exit, ExitStatus::Signal(15), "{shell:?}");
        assert!(fixture.guest.running().await.unwrap().is_empty(), "{shell:?}");

        fixture.guest.write_file(&fixture.path("d/e"), b"hello", 0o640).await.unwrap();
        assert_eq!(std::fs::read(fixture.path("d/e")).unwrap(), b"hello", "{shell:?}");
    }
}

#[tokio::test]
async fn arguments_and_environment_are_never_shell_text() {
    let fixture = Fixture::new();
    let nasty = "a'b\"c $HOME `id` $(id) \\ ; & | \n * ü -- -n";
    let mut command = sh("printf '%s|' \"$@\" \"$NASTY\" \"$lead\" \"$base\" \"$id\"");
    command.argv.extend(["name".to_owned(), nasty.to_owned(), String::new(), "-e".to_owned()]);
    command.env = [("NASTY", nasty), ("lead", "1"), ("base", "2"), ("id", "3")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let (_, out, err) = run(&*fixture.guest, "a", &command).await;
    assert_eq!(out, format!("{nasty}||-e|{nasty}|1|2|3|"), "{err}");
}

#[tokio::test]
async fn the_environment_is_the_agents_and_what_the_command_adds() {
    let fixture = Fixture::new();
    let mut command = Command::new(["/usr/bin/env"]);
    command.env = [("PATH".to_owned(), "/odd".to_owned()), ("A".to_owned(), "1".to_owned())].into();
    let (exit, out, err) = run(&*fixture.guest, "a", &command).await;
    assert!(exit.success(), "{err}");
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines.contains(&"PATH=/odd"), "{out}");
    assert!(lines.contains(&"A=1"), "{out}");
    assert!(!out.contains("__runner"), "{out}");
    let home = format!("HOME={}", std::env::var("HOME").unwrap());
    assert!(lines.contains(&&*home), "{out}");
}

#[tokio::test]
async fn what_cannot_be_executed_ends_with_126_or_127() {
    let fixture = Fixture::new();
    let (exit, _, err) = run(&*fixture.guest, "a", &Command::new(["/no/such/program"])).await;
    assert_eq!(exit, ExitStatus::Code(127), "{err}");
    let (exit, _, err) = run(&*fixture.guest, "b", &Command::new(["no-such-program"])).await;
    assert_eq!(exit, ExitStatus::Code(127), "{err}");
    let (exit, _, err) = run(&*fixture.guest, "c", &Command::new(["/etc/passwd"])).await;
    assert_eq!(exit, ExitStatus::Code(126), "{err}");
    let error = fixture.guest.spawn(&id("d"), &Command::default()).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
}

#[tokio::test]
async fn it_runs_where_it_is_told_to_and_stderr_can_be_merged() {
    let fixture = Fixture::new();
    let directory = fixture.path("some where/deep");
    let command = Command {
        working_dir: Some(directory.clone()),
        merge_stderr: true,
        ..sh("pwd; echo 1; echo 2 >&2; echo 3; umask")
    };
    let (_, out, err) = run(&*fixture.guest, "a", &command).await;
    assert_eq!(out, format!("{directory}\n1\n2\n3\n0022\n"));
    assert_eq!(err, "");
    let (_, out, _) = run(&*fixture.guest, "b", &sh("pwd")).await;
    assert_eq!(out, "/\n");
}

#[tokio::test]
async fn an_id_runs_once_however_often_it_is_spawned() {
    let fixture = Fixture::new();
    let command = sh(&format!("echo x >>{}; sleep 0.2", fixture.path("count")));
    let (one, two) = (fixture.successor(), fixture.successor());
    let name = id("a");
    let all = [
        one.spawn(&name, &command),
        two.spawn(&name, &command),
        one.spawn(&name, &command),
        fixture.guest.spawn(&name, &command),
    ];
    for result in futures_all(all).await {
        result.unwrap();
    }
    let (exit, ..) = run(&*two, "a", &command).await;
    assert!(exit.success());
    assert_eq!(std::fs::read_to_string(fixture.path("count")).unwrap(), "x\n");
}

async fn futures_all<F: Future>(all: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut all: Vec<_> = all.into_iter().map(Box::pin).collect();
    let mut results: Vec<Option<F::Output>> = all.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, result) in all.iter_mut().zip(&mut results) {
            if result.is_none()
                && let std::task::Poll::Ready(output) = future.as_mut().poll(context)
            {
                *result = Some(output);
            }
        }
        match results.iter().all(Option::is_some) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    results.into_iter().flatten().collect()
}

#[tokio::test]
async fn a_start_that_was_cut_short_counts_as_killed() {
    let fixture = Fixture::new();
    std::fs::create_dir_all(fixture.path("run/runner/a")).unwrap();
    let (exit, ..) = run(&*fixture.guest, "a", &sh("echo never")).await;
    assert_eq!(exit, ExitStatus::Signal(9));
}

#[tokio::test]
async fn a_dropped_spawn_can_be_repeated() {
    let fixture = Fixture::new();
    let command = sh(&format!("echo x >>{}", fixture.path("count")));
    for polls in 0..40 {
        let name = id("a");
        let mut spawn = Box::pin(fixture.guest.spawn(&name, &command));
        for _ in 0..polls {
            let poll = std::future::poll_fn(|context| {
                std::task::Poll::Ready(spawn.as_mut().poll(context).is_ready())
            });
            if poll.await {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    let (exit, ..) = run(&*fixture.guest, "a", &command).await;
    assert!(exit.success());
    assert_eq!(std::fs::read_to_string(fixture.path("count")).unwrap(), "x\n");
}

#[tokio::test]
async fn a_successor_reads_on_where_the_first_stopped() {
    let fixture = Fixture::new();
    fixture.guest.spawn(&id("a"), &sh("echo one; sleep 0.3; echo two; exit 3")).await.unwrap();
    let first =
        fixture.guest.follow(&id("a"), Cursor::default(), Duration::from_secs(5)).await.unwrap();
    assert_eq!(&*first.stdout, b"one\n");
    assert_eq!(first.exit, None);
    let cursor = first.advance(Cursor::default());
    let successor = fixture.successor();
    let second = successor.follow(&id("a"), cursor, Duration::from_secs(5)).await.unwrap();
    assert_eq!(&*second.stdout, b"two\n");
    let (exit, out, _) = run(&*successor, "a", &sh("")).await;
    assert_eq!((exit, &*out), (ExitStatus::Code(3), "one\ntwo\n"));
}

#[tokio::test]
async fn much_output_comes_in_parts_and_whole() {
    let fixture = Fixture::new();
    let command = sh("i=0; while [ $i -lt 300000 ]; do echo $i; i=$((i+1)); done; echo end >&2");
    let (exit, out, err) = run(&*fixture.guest, "a", &command).await;
    assert!(exit.success());
    let expected: String = (0..300_000).map(|i| format!("{i}\n")).collect();
    assert!(out == expected);
    assert_eq!(err, "end\n");
}

#[tokio::test]
async fn several_follow_one_process_from_different_places() {
    let fixture = Fixture::new();
    fixture.guest.spawn(&id("a"), &sh("echo abcdef; sleep 0.3; echo ghi")).await.unwrap();
    let at = |stdout| Cursor { stdout, stderr: 0 };
    let wait = Duration::from_secs(5);
    let guest = &*fixture.guest;
    let name = id("a");
    let all = futures_all([
        guest.follow(&name, at(0), wait),
        guest.follow(&name, at(3), wait),
        guest.follow(&name, at(0), wait),
    ]);
    let texts: Vec<_> = all.await.into_iter().map(|p| p.unwrap().stdout).collect();
    assert_eq!(texts, [&b"abcdef\n"[..], b"def\n", b"abcdef\n"]);
}

#[tokio::test]
async fn following_waits_for_news_and_no_longer() {
    let fixture = Fixture::new();
    fixture.guest.spawn(&id("a"), &sh("sleep 0.4; echo x; sleep 100")).await.unwrap();
    let start = Instant::now();
    let wait = Duration::from_millis(100);
    let nothing = fixture.guest.follow(&id("a"), Cursor::default(), wait).await.unwrap();
    assert_eq!(nothing, Default::default());
    assert!(start.elapsed() >= wait && start.elapsed() < Duration::from_millis(390));
    let wait = Duration::from_secs(10);
    let news = fixture.guest.follow(&id("a"), Cursor::default(), wait).await.unwrap();
    assert_eq!(&*news.stdout, b"x\n");
    assert!(start.elapsed() < Duration::from_secs(3));
    fixture.guest.kill(&id("a"), Signal::Kill).await.unwrap();
}

#[tokio::test]
async fn a_poll_opens_no_files() {
    let fixture = Fixture::new();
    fixture.guest.spawn(&id("a"), &sh("sleep 100")).await.unwrap();
    let follow =
        |millis| fixture.guest.follow(&ID, Cursor::default(), Duration::from_millis(millis));
    static ID: std::sync::LazyLock<ProcessId> = std::sync::LazyLock::new(|| id("a"));
    follow(0).await.unwrap();
    let opened = |fixture: &Fixture| fixture.agent.0.lock().unwrap().calls["guest-file-open"];
    let before = opened(&fixture);
    follow(200).await.unwrap();
    assert_eq!(opened(&fixture), before);
    fixture.guest.kill(&id("a"), Signal::Kill).await.unwrap();
    follow(5000).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(fixture.agent.0.lock().unwrap().files.len(), 0, "handles are left open");
}

#[tokio::test]
async fn an_agent_that_forgot_its_handles_is_asked_anew() {
    let fixture = Fixture::new();
    fixture.guest.spawn(&id("a"), &sh("echo x; sleep 100")).await.unwrap();
    let wait = Duration::from_secs(5);
    let news = fixture.guest.follow(&id("a"), Cursor::default(), wait).await.unwrap();
    assert_eq!(&*news.stdout, b"x\n");
    fixture.agent.0.lock().unwrap().files.clear();
    let again = fixture.guest.follow(&id("a"), Cursor::default(), wait).await.unwrap();
    assert_eq!(&*again.stdout, b"x\n");
    fixture.guest.kill(&id("a"), Signal::Kill).await.unwrap();
}

#[tokio::test]
async fn a_process_whose_keeper_was_killed_too_counts_as_killed() {
    let fixture = Fixture::new();
    fixture.guest.spawn(&id("a"), &sh("sleep 100")).await.unwrap();
    let pid_of = |file| {
        let text = std::fs::read_to_string(fixture.path(&format!("run/runner/a/{file}"))).unwrap();
        text.split(' ').next().unwrap().to_owned()
    };
    let kill = |pid: String| std::process::Command::new("kill").args(["-9", &pid]).status();
    assert!(kill(pid_of("keeper")).unwrap().success());
    let wait = Duration::from_millis(2500);
    let news = fixture.guest.follow(&id("a"), Cursor::default(), wait).await.unwrap();
    assert_eq!(news.exit, None, "it lives without its keeper");
    assert_eq!(fixture.guest.running().await.unwrap(), [id("a")]);
    fixture.guest.kill(&id("a"), Signal::Kill).await.unwrap();
    let wait = Duration::from_secs(10);
    let news = fixture.guest.follow(&id("a"), Cursor::default(), wait).await.unwrap();
    assert_eq!(news.exit, Some(ExitStatus::Signal(9)));
    assert!(fixture.guest.running().await.unwrap().is_empty());
}

#[tokio::test]
async fn killing_reaches_the_group_and_is_fine_afterwards() {
    let fixture = Fixture::new();
    let pid_file = fixture.path("pid");
    let command = sh(&format!("sleep 100 & echo $! >{pid_file}; wait"));
    fixture.guest.spawn(&id("a"), &command).await.unwrap();
    while std::fs::read_to_string(&pid_file).unwrap_or_default().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    fixture.guest.kill(&id("a"), Signal::Kill).await.unwrap();
    let (exit, ..) = run(&*fixture.guest, "a", &command).await;
    assert_eq!(exit, ExitStatus::Signal(9));
    let pid = std::fs::read_to_string(&pid_file).unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z"), "{stat}");
    fixture.guest.kill(&id("a"), Signal::Kill).await.unwrap();
    let error = fixture.guest.kill(&id("b"), Signal::Kill).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
}

#[tokio::test]
async fn sigint_is_not_ignored() {
    let fixture = Fixture::new();
    let (exit, ..) = run(&*fixture.guest, "a", &sh("kill -INT $$; sleep 5; echo deaf")).await;
    assert_eq!(exit, ExitStatus::Signal(2));
}

#[tokio::test]
async fn what_was_never_started_is_not_found() {
    let fixture = Fixture::new();
    let error =
        fixture.guest.follow(&id("a"), Cursor::default(), Duration::ZERO).await.unwrap_err();
    assert_eq!(error.to_string(), "process a does not exist");
    assert!(error.is_not_found());
    assert!(fixture.guest.running().await.unwrap().is_empty());
}

#[tokio::test]
async fn files_are_replaced_whole_with_their_mode() {
    let fixture = Fixture::new();
    let path = fixture.path("deep/er/a file 'with' \"quotes\"");
    let big: Vec<u8> = (0..1_300_000u32).map(|i| (i * 7 % 251) as u8).collect();
    for (content, mode) in [(&b""[..], 0o644), (&big, 0o600), (b"#!/bin/sh\n", 0o755)] {
        fixture.guest.write_file(&path, content, mode).await.unwrap();
        assert!(std::fs::read(&path).unwrap() == content);
        let found = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(found & 0o7777, mode);
        assert!(fixture.guest.read_file(&path, 0, usize::MAX).await.unwrap() == content);
    }
    assert_eq!(std::fs::read_dir(fixture.path("deep/er")).unwrap().count(), 1);
}

#[tokio::test]
async fn files_are_read_from_an_offset_up_to_a_limit() {
    let fixture = Fixture::new();
    let path = fixture.path("file");
    std::fs::write(&path, "0123456789").unwrap();
    let read = |offset, max| fixture.guest.read_file(&path, offset, max);
    assert_eq!(&*read(0, 100).await.unwrap(), b"0123456789");
    assert_eq!(&*read(3, 4).await.unwrap(), b"3456");
    assert_eq!(&*read(10, 4).await.unwrap(), b"");
    assert_eq!(&*read(u64::MAX, 4).await.unwrap(), b"");
    assert_eq!(&*read(0, 0).await.unwrap(), b"");
}

#[tokio::test]
async fn paths_that_cannot_be_are_told_apart() {
    let fixture = Fixture::new();
    let guest = &fixture.guest;
    let missing = fixture.path("missing");
    let error = guest.read_file(&missing, 0, 1).await.unwrap_err();
    assert!(error.is_not_found() && error.to_string().contains(&missing), "{error}");
    for path in ["relative", "", "/ends/with/"] {
        assert!(matches!(guest.read_file(path, 0, 1).await, Err(Error::Invalid { .. })));
        assert!(matches!(guest.write_file(path, b"", 0o600).await, Err(Error::Invalid { .. })));
    }
    let directory = fixture.path("run");
    std::fs::create_dir(&directory).unwrap();
    let error = guest.read_file(&directory, 0, 1).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    let error = guest.write_file(&directory, b"x", 0o600).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
}

#[tokio::test]
async fn a_full_disk_is_exhausted() {
    let fixture = Fixture::new();
    let full = fixture.path("full");
    std::fs::create_dir(&full).unwrap();
    let mount = ["-t", "tmpfs", "-o", "size=64k", "tmpfs", &full];
    let mounted = std::process::Command::new("mount").args(mount).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: a full disk needs a mount, and that needs root");
        return;
    }
    let path = format!("{full}/file");
    let result = fixture.guest.write_file(&path, &[1; 200_000], 0o600).await;
    let left = std::fs::read_dir(&full).unwrap().count();
    std::process::Command::new("umount").arg(&full).status().unwrap();
    assert!(matches!(result, Err(Error::Exhausted { .. })), "{result:?}");
    assert_eq!(left, 0, "the part that was written is left behind");
}

#[tokio::test]
async fn a_lying_agent_is_an_error_and_no_panic() {
    let lies = [
        json!(null),
        json!({}),
        json!([]),
        json!("text"),
        json!({ "pid": "seven" }),
        json!({ "pid": 7, "exited": "yes" }),
        json!({ "exited": true, "exitcode": 1e99, "pid": 7 }),
        json!({ "pid": 7, "exited": true, "out-data": "%%%" }),
        json!({ "buf-b64": "!", "eof": false, "count": -1 }),
    ];
    for lie in lies {
        let fixture = Fixture::new();
        fixture.agent.0.lock().unwrap().lie = Some(lie.clone());
        let guest = &fixture.guest;
        let wait = Duration::ZERO;
        assert!(guest.spawn(&id("a"), &sh("")).await.is_err(), "{lie}");
        assert!(guest.follow(&id("a"), Cursor::default(), wait).await.is_err(), "{lie}");
        assert!(guest.kill(&id("a"), Signal::Kill).await.is_err(), "{lie}");
        assert!(guest.running().await.is_err(), "{lie}");
        assert!(guest.read_file("/a", 0, 1).await.is_err(), "{lie}");
        assert!(guest.write_file("/a", b"x", 0o600).await.is_err(), "{lie}");
    }
}

#[tokio::test]
async fn an_instance_that_ended_is_not_found_by_name() {
    let fixture = Fixture::new();
    fixture.agent.0.lock().unwrap().gone = true;
    let guest = &fixture.guest;
    let errors = [
        guest.spawn(&id("a"), &sh("")).await.unwrap_err(),
        guest.follow(&id("a"), Cursor::default(), Duration::ZERO).await.unwrap_err(),
        guest.kill(&id("a"), Signal::Kill).await.unwrap_err(),
        guest.running().await.unwrap_err(),
        guest.read_file("/a", 0, 1).await.unwrap_err(),
        guest.write_file("/a", b"x", 0o600).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.to_string(), "instance linux-1 does not exist");
        assert!(error.is_not_found());
    }
}
