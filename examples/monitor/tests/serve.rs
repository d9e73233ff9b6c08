//! The service's process: how it starts, what it refuses, how it ends.

use std::{
    fs,
    io::Read,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

mod process;

use process::{CONFIG, Process, dir, refused, serve};

#[test]
fn it_stays_up_with_nothing_that_works_and_ends_well_on_either_signal() {
    for signal in ["TERM", "INT"] {
        let dir = dir();
        let process = Process::start(serve(dir.path(), &[]));
        let monitor = Command::new(env!("CARGO_BIN_EXE_monitor"))
            .args(["workers", "--server", &process.url])
            .output()
            .unwrap();
        assert_eq!(monitor.status.code(), Some(0));
        process.signal(signal);
        let (code, heard) = process.end();
        assert_eq!(code, Some(0), "{heard}");
        assert!(heard.contains("Stopped."), "{heard}");
    }
}

#[test]
fn a_token_is_generated_for_its_owner_only_and_only_its_path_is_told() {
    let dir = dir();
    let mut process = Process::start(serve(dir.path(), &["--log", "trace,hyper=off,mio=off"]));
    let file = dir.path().join("data/api-token");
    let token = fs::read_to_string(&file).unwrap().trim().to_owned();
    assert_eq!(token.len(), 64);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let data = dir.path().join("data");
    let mut run = Command::new(env!("CARGO_BIN_EXE_monitor"))
        .args(["run", "--server", &process.url, "--data", data.to_str().unwrap()])
        .args(["--env", "PASSWORD=planted-secret-77aa", "--", "true"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    process.hear("is queued");
    let pid = run.id().to_string();
    Command::new("kill").args(["-s", "INT", &pid]).status().unwrap();
    let mut said = String::new();
    run.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(130), "{said}");
    process.signal("TERM");
    let (_, heard) = process.end();
    assert!(heard.contains(file.to_str().unwrap()), "{heard}");
    assert!(!heard.contains(&token) && !said.contains(&token));
    assert!(!heard.contains("planted-secret-77aa"), "{heard}");
    // The next start takes the same one.
    let process = Process::start(serve(dir.path(), &[]));
    assert_eq!(fs::read_to_string(&file).unwrap().trim(), token);
    drop(process);
}

#[test]
fn guessable_and_exposed_tokens_are_refused() {
    let dir = dir();
    let mut sample = serve(dir.path(), &[]);
    sample.env("MONITOR_API_TOKEN", "ChangeMe");
    refused(sample, 1, &["MONITOR_API_TOKEN", "sample", "openssl rand -hex 32"]);
    let file = dir.path().join("data/api-token");
    fs::write(&file, "s3cret-and-shared").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let output = refused(serve(dir.path(), &[]), 1, &["chmod 600"]);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("s3cret"));
}

#[test]
fn named_tokens_come_from_files_and_from_systemds_credentials() {
    let dir = dir();
    let credentials = dir.path().join("credentials");
    fs::create_dir(&credentials).unwrap();
    let write = |path: &Path, text: &str, mode: u32| {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let tables = "[[token]]\nname = \"ci\"\nrole = \"operate\"\nfile = \"ci-token\"\n\
                  [[token]]\nname = \"wall\"\nrole = \"read\"\ncredential = \"wall\"\n";
    let config =
        CONFIG.replace("SHA", &"0".repeat(64)).replace("[qemu]", "reads = \"token\"\n[qemu]");
    fs::write(dir.path().join("monitor.toml"), config + tables).unwrap();
    let (file, credential) = (dir.path().join("ci-token"), credentials.join("wall"));
    let start = || {
        let mut command = serve(dir.path(), &[]);
        command.env("CREDENTIALS_DIRECTORY", &credentials);
        command
    };
    write(&credential, "planted-wall-31d7\n", 0o440);
    refused(start(), 1, &["token ci", "there is no file", "umask 077"]);
    write(&file, "ChangeMe\n", 0o600);
    refused(start(), 1, &["token ci", "sample", "openssl rand -hex 32"]);
    write(&file, "planted-ci-77b0\n", 0o640);
    refused(start(), 1, &["token ci", "chmod 600"]);
    write(&file, "planted-ci-77b0\n", 0o600);
    let mut outside = start();
    outside.env_remove("CREDENTIALS_DIRECTORY");
    refused(outside, 1, &["token wall", "LoadCredential=wall:"]);
    write(&credential, "planted-ci-77b0\n", 0o400);
    let output = refused(start(), 1, &["token wall is the same as token ci"]);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("planted"));
    write(&credential, "planted-wall-31d7\n", 0o440);
    let process = Process::start(start());
    let monitor = |args: &[&str], token: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_monitor"));
        command.args(args).env("MONITOR_URL", &process.url).env("MONITOR_API_TOKEN", token);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(monitor(&["workers"], "planted-ci-77b0").0, Some(0));
    assert_eq!(monitor(&["workers"], "planted-wall-31d7").0, Some(0));
    let (code, said) = monitor(&["workers"], "planted-other-0000");
    assert!(code == Some(1) && said.contains("refused the API token"), "{said}");
    let (code, said) = monitor(&["cancel", "1-abc"], "planted-wall-31d7");
    assert!(code == Some(1) && said.contains("token wall has the role read"), "{said}");
    let (_, said) = monitor(&["cancel", "1-abc"], "planted-ci-77b0");
    assert!(said.contains("does not exist"), "{said}");
    process.signal("TERM");
    let (_, heard) = process.end();
    assert!(heard.contains("Asked for a change.") && heard.contains("by=ci"), "{heard}");
    assert!(!heard.contains("planted"), "{heard}");
}

#[test]
fn a_second_service_on_one_data_directory_is_refused() {
    let dir = dir();
    let process = Process::start(serve(dir.path(), &[]));
    let pid = process.child.id().to_string();
    refused(serve(dir.path(), &[]), 1, &["in use by process", &pid, "--data"]);
}

#[test]
fn a_port_that_is_taken_is_named_with_the_way_out() {
    let dir = dir();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    refused(serve(dir.path(), &["--listen", &address]), 1, &[&address, "--listen", "in use"]);
}

#[test]
fn what_other_hosts_reach_needs_the_operators_word() {
    let dir = dir();
    let refused = |listen: &str| {
        refused(serve(dir.path(), &["--listen", listen]), 2, &[listen, "allow_remote = true"]);
    };
    refused("0.0.0.0:0");
    refused("[::]:0");
}

#[test]
fn a_bad_configuration_ends_with_code_2_and_its_line() {
    let dir = dir();
    let file = dir.path().join("monitor.toml");
    fs::write(&file, "[http]\nlissten = 1\n").unwrap();
    let line = format!("{}:2:", file.display());
    refused(serve(dir.path(), &[]), 2, &[&line, "lissten"]);
    let mut check = Command::new(env!("CARGO_BIN_EXE_monitor"));
    check.args(["check", "--config"]).arg(&file);
    refused(check, 2, &[&line]);
    let mut check = Command::new(env!("CARGO_BIN_EXE_monitor"));
    check.args(["check", "--config", "/no/such/file.toml"]);
    refused(check, 2, &["/no/such/file.toml"]);
    refused(serve(dir.path(), &["--log", "info=info=info"]), 2, &["--log", "runner_core=debug"]);
    assert!(!dir.path().join("data").exists(), "nothing is made before the configuration is good");
}

#[test]
fn json_logs_are_json() {
    let dir = dir();
    let process = Process::start(serve(dir.path(), &["--log-format", "json"]));
    process.signal("TERM");
    let (code, heard) = process.end();
    assert_eq!(code, Some(0), "{heard}");
    for line in heard.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
    }
}
