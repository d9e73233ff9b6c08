//! What the command line shows, to people and to machines, and the codes it ends with.

mod common;

use std::process::{Command, Output, Stdio};

use common::{Server, eventually, said};
use serde_json::Value;

fn run(server: &Server, args: &[&str]) -> Output {
    server.monitor(args).output().unwrap()
}

/// What it prints, having ended well.
fn prints(server: &Server, args: &[&str]) -> String {
    let output = run(server, args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn json(server: &Server, args: &[&str]) -> Value {
    let text = prints(server, &[args, &["--json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
}

/// Ends with this code, and says all of this.
fn fails(output: &Output, code: i32, says: &[&str]) {
    assert_eq!(output.status.code(), Some(code), "{}", said(output));
    let text = String::from_utf8_lossy(&output.stderr);
    for part in says {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    assert_eq!(output.stdout, b"");
}

#[test]
fn every_list_is_a_table_for_people_and_json_for_machines() {
    let server = Server::start();
    let id = server.submit("echo hello; exit 3");
    server.wait(&id, "failed");
    eventually(|| prints(&server, &["workers"]).contains(" idle ").then_some(()));

    let jobs = prints(&server, &["jobs"]);
    let mut lines = jobs.lines();
    assert!(lines.next().unwrap().starts_with("JOB"), "{jobs}");
    let line = lines.next().unwrap();
    assert!(line.starts_with(&id) && line.contains("failed") && line.contains("micro"), "{jobs}");
    // An age, not a time.
    assert!(!line.contains('T'), "{jobs}");
    assert_eq!(json(&server, &["jobs"])["jobs"][0]["id"], id.as_str());
    assert_eq!(prints(&server, &["jobs", "--state", "queued"]).lines().count(), 1);
    let shown = prints(&server, &["jobs", "show", &id]);
    assert!(shown.contains("exit code") && shown.contains("worker"), "{shown}");
    assert_eq!(json(&server, &["jobs", "show", &id])["exit_code"], 3);

    let profiles = prints(&server, &["profiles"]);
    let line = profiles.lines().nth(1).unwrap();
    let cells: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(
        (cells[0], cells[1], cells[2], cells[7]),
        ("micro", "1", "3", "linux"),
        "{profiles}"
    );
    assert_eq!(json(&server, &["profiles"])[0]["name"], "micro");

    let images = prints(&server, &["images"]);
    assert!(images.contains("micro.1") && images.contains("ago"), "{images}");
    assert_eq!(json(&server, &["images"])[0]["id"], "micro.1");
    let worker = json(&server, &["workers"])[0].clone();
    assert!(worker["name"].is_string() || worker.is_null());
}

#[test]
fn a_log_is_shown_or_followed_to_its_end() {
    let server = Server::start();
    let id = server.submit("echo one; printf 'a\\377b\\n'; echo two");
    let followed = run(&server, &["logs", "--follow", &id]);
    assert_eq!(followed.status.code(), Some(0), "{}", said(&followed));
    assert_eq!(followed.stdout, b"one\na\xffb\ntwo\n");
    assert!(String::from_utf8_lossy(&followed.stderr).contains("succeeded"));
    let logged = run(&server, &["logs", &id]);
    assert_eq!(logged.stdout, b"one\na\xffb\ntwo\n", "{}", said(&logged));
}

#[test]
fn events_can_be_about_something_and_followed() {
    let server = Server::start();
    let first = server.submit("true");
    let second = server.submit("true");
    server.wait(&first, "succeeded");
    server.wait(&second, "succeeded");
    let about = prints(&server, &["events", "--about", &first]);
    assert!(about.contains(&format!("job {first} is succeeded")), "{about}");
    assert!(!about.contains(&second), "{about}");
    let page = json(&server, &["events", "--about", &first, "--limit", "1"]);
    let events = page["events"].as_array().unwrap();
    assert_eq!(events.len(), 1);
    let all = prints(&server, &["events", "--limit", "1000"]);
    let numbers = json(&server, &["events", "--limit", "1000"]);
    assert_eq!(all.lines().count(), numbers["events"].as_array().unwrap().len());

    let mut command = server.monitor(&["events", "--follow", "--json", "--limit", "1"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let out = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut lines = std::io::BufRead::lines(out);
    // Once it tells what was, it hears what comes.
    lines.next().unwrap().unwrap();
    let third = server.submit("true");
    let found = lines.find_map(|line| {
        let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
        event["subject"].as_str().unwrap().ends_with(&third).then_some(event)
    });
    assert!(found.is_some());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn the_exit_code_tells_what_kind_of_failure_it_was() {
    let server = Server::start();
    let monitor = |args: &[&str]| run(&server, args);
    fails(&monitor(&["jobs", "show", "no-such"]), 4, &["no-such"]);
    fails(&monitor(&["logs", "no-such"]), 4, &["no-such"]);
    fails(&monitor(&["logs", "--follow", "no-such"]), 4, &["no-such"]);
    fails(&monitor(&["hold", "no-such"]), 4, &["no-such", "monitor workers"]);
    fails(&monitor(&["hold", "x", "--for", "1 week"]), 2, &["--for", "h"]);
    fails(&monitor(&["profiles", "set", "micro"]), 2, &["--min-idle", "--pause"]);
    fails(&monitor(&["profiles", "set", "micro", "--pause", "--resume"]), 2, &["--pause"]);
    fails(&monitor(&["jobs", "--state", "lost"]), 2, &["queued", "interrupted"]);
    fails(&monitor(&["frobnicate"]), 2, &["frobnicate"]);
    let mut refused = server.monitor(&["cancel", "no-such"]);
    refused.env("MONITOR_API_TOKEN", "not-the-one");
    fails(&refused.output().unwrap(), 1, &["refused the API token", "--token-file"]);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{free}");
    for args in [&["jobs"][..], &["explain", "x"], &["console", "x"], &["events"]] {
        let mut nobody = server.monitor(args);
        nobody.env("MONITOR_URL", &url);
        fails(&nobody.output().unwrap(), 3, &[&url, "monitor serve", "--server"]);
    }
    let help = String::from_utf8(monitor(&["--help"]).stdout).unwrap();
    for code in ["  0  ", "  1  ", "  2  ", "  3  ", "  4  ", "  124  ", "  125  ", "  130  "] {
        assert!(help.contains(code), "{code:?} is not in: {help}");
    }
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let server = Server::start();
    let id = server.submit("seq 1 100000");
    server.wait(&id, "succeeded");
    for args in
        [&["jobs"][..], &["logs", &id], &["logs", "--follow", &id], &["events"], &["--help"]]
    {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = server.monitor(args).stdout(writer).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", said(&output));
        assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"), "{}", said(&output));
    }
}

/// The same in a terminal of 40 columns: what it shows there.
fn on_terminal(command: &Command, no_color: &str) -> String {
    let quoted = |text: &std::ffi::OsStr| format!("'{}'", text.to_str().unwrap());
    let args: Vec<String> = command.get_args().map(quoted).collect();
    let line =
        format!("stty cols 40 rows 24; exec {} {}", quoted(command.get_program()), args.join(" "));
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).envs(
        command.get_envs().filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned()))),
    );
    script.env("NO_COLOR", no_color).env("TERM", "xterm").stdin(Stdio::null());
    let output = script.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn colours_spinners_and_widths_are_for_terminals() {
    let server = Server::start();
    let job = ["run", "--title", "a title that is far too long for a narrow terminal", "--"];
    let job = [&job[..], &["sh", "-c", "echo hello"]].concat();
    let shown = on_terminal(&server.monitor(&job), "");
    let spins = |text: &str| "⠁⠂⠄⡀⢀⠠⠐⠈⠋⠙⠹⠸".chars().any(|frame| text.contains(frame));
    assert!(spins(&shown) && shown.contains("hello"), "{shown:?}");
    let piped = run(&server, &job);
    assert!(!spins(&said(&piped)) && !said(&piped).contains('\u{1b}'), "{}", said(&piped));
    assert_eq!(piped.stdout, b"hello\n");

    let jobs = server.monitor(&["jobs"]);
    let shown = on_terminal(&jobs, "");
    assert!(shown.contains("\u{1b}[32msucceeded"), "{shown:?}");
    let shown = on_terminal(&jobs, "1");
    assert!(!shown.contains('\u{1b}') && shown.contains('…'), "{shown:?}");
    assert!(shown.lines().all(|line| line.chars().count() <= 40), "{shown:?}");
    let piped = prints(&server, &["jobs"]);
    assert!(!piped.contains('\u{1b}') && piped.contains("narrow terminal"), "{piped:?}");
}

#[test]
fn what_is_sent_is_shown_as_it_goes() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("big"), vec![b'x'; 200 << 10]).unwrap();
    let file = format!("{}=big", dir.path().join("big").display());
    let job = server.monitor(&["run", "--file", &file, "--", "sh", "-c", "wc -c < big"]);
    let shown = on_terminal(&job, "");
    assert!(shown.contains("200.00 KiB") || shown.contains("204800/204800"), "{shown:?}");
    assert!(shown.contains("204800\r\n") || shown.contains("204800\n"), "{shown:?}");
}

#[test]
fn completions_are_scripts_their_shells_read() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let monitor = Command::new(env!("CARGO_BIN_EXE_monitor"))
            .args(["completions", shell])
            .output()
            .unwrap();
        assert_eq!(monitor.status.code(), Some(0));
        let script = String::from_utf8(monitor.stdout).unwrap();
        for word in ["explain", "profiles", "token-file"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
        if shell == "bash" {
            let asks = "COMP_WORDS=(monitor ex) COMP_CWORD=1; _monitor monitor ex monitor; \
                        echo \"${COMPREPLY[@]}\"";
            let script = format!("{script}\n{asks}");
            let bash = Command::new("bash").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&bash.stdout).trim(), "explain", "{}", said(&bash));
        }
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().unwrap();
    let mut man = Command::new(env!("CARGO_BIN_EXE_monitor"));
    assert!(man.arg("man").arg(dir.path()).status().unwrap().success());
    for page in ["monitor.1", "monitor-run.1", "monitor-serve.1", "monitor-jobs.1"] {
        let text = std::fs::read_to_string(dir.path().join(page)).unwrap();
        assert!(text.contains(".TH"), "{page}");
    }
}
