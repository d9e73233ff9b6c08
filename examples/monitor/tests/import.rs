//! The settings of Servo's monitor become a configuration of ours, and each of them is accounted for.

mod process;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use monitor::config::Config;

fn ours(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import").join(file)
}

/// Imports in `dir`, where the settings are called as Servo's monitor calls them.
fn import(dir: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_monitor"))
        .current_dir(dir)
        .args(["import-servo", "monitor.toml", ".env"])
        .args(more)
        .env_remove("MONITOR_API_TOKEN")
        .output()
        .unwrap()
}

fn monitor(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_monitor"));
    command.current_dir(dir).args(args).env_remove("MONITOR_API_TOKEN").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A directory with these settings.
fn with(settings: &str, env: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("monitor.toml"), settings).unwrap();
    fs::write(dir.path().join(".env"), env).unwrap();
    dir
}

fn servos() -> tempfile::TempDir {
    let read = |file: &str| fs::read_to_string(ours(file)).unwrap();
    with(&read("monitor.toml"), &read("dotenv"))
}

/// What none of them may tell: standard output, standard error, and the configuration.
fn assert_untold(secret: &str, output: &Output, dir: &Path) {
    let config = fs::read_to_string(dir.join("imported/monitor.toml")).unwrap_or_default();
    for told in [text(&output.stdout), text(&output.stderr), config] {
        assert!(!told.contains(secret), "{secret} is told: {told}");
    }
}

fn compare(golden: &str, found: &str) {
    let file = ours(golden);
    if std::env::var_os("RUNNER_BLESS").is_some() {
        fs::write(&file, found).unwrap();
    }
    let expected = fs::read_to_string(&file).unwrap();
    assert_eq!(found, expected, "{golden}; RUNNER_BLESS=1 takes what is found");
}

const SETTINGS: &str = r#"
available_1g_hugepages = 0
available_normal_memory = "8G"
github_api_scope = "/repos/delan/servo"
[profiles.linux]
profile_name = "linux"
github_runner_label = "linux"
target_count = 1
requires_1g_hugepages = 0
requires_normal_memory = "2G"
"#;

#[cfg(feature = "libvirt")]
#[test]
fn every_setting_of_servos_monitor_is_taken_over_or_accounted_for_by_its_line() {
    let dir = servos();
    let image = dir.path().join("servo.qcow2");
    fs::write(&image, "an image").unwrap();
    let profiles = ours("profiles");
    let profiles = profiles.to_str().unwrap();
    let output =
        import(dir.path(), &["--profiles", profiles, "--image", "servo-ubuntu2204=servo.qcow2"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let file = dir.path().join("imported/monitor.toml");
    let here = fs::canonicalize(dir.path()).unwrap();
    let tame =
        |text: String| text.replace(here.to_str().unwrap(), "HERE").replace(profiles, "PROFILES");
    let config = fs::read_to_string(&file).unwrap();
    compare("expected.toml", &tame(config.clone()));
    compare("expected.txt", &tame(text(&output.stdout)));

    // Each line of theirs that says something has one that says what became of it.
    let told = text(&output.stdout);
    for (name, theirs) in [("monitor.toml", "monitor.toml"), (".env", "dotenv")] {
        let theirs = fs::read_to_string(ours(theirs)).unwrap();
        for (index, line) in theirs.lines().enumerate() {
            let says = line.contains('=') && !line.starts_with('#');
            let place = format!("{name}:{}: ", index + 1);
            assert_eq!(says, told.lines().any(|told| told.starts_with(&place)), "{place}{line}");
        }
    }

    let read = Config::read(&file).unwrap();
    let capacity = read.hypervisor.capacity.as_ref().unwrap();
    assert_eq!((capacity.huge_memory_mib, capacity.memory_mib), (96 << 10, 16 << 10));
    read.check_fit(capacity).unwrap();

    // What workflows and machines ask for is answered here as it was there.
    let servo = read.servo.as_ref().unwrap();
    assert_eq!(servo.base_url.as_deref(), Some("https://ci0.example.org"));
    assert_eq!(read.http.names, ["ci0.example.org"]);
    let proof = servo.proof.as_ref().unwrap();
    assert_eq!((proof.max_age.as_secs(), servo.reserve_timeout.as_secs()), (300, 60));
    let names: Vec<&str> = proof.repositories.iter().map(|its| its.name.as_str()).collect();
    assert_eq!(names, ["servo/servo"]);
    let servers: Vec<&str> = servo.servers.iter().map(|server| &*server.url).collect();
    assert_eq!(servers, ["https://ci1.example.org"], "not itself");
    assert_eq!(read.guests.as_ref().unwrap().listen.to_string(), "192.168.100.1:8000");
    let check = monitor(dir.path(), &["check", "--config", "imported/monitor.toml"]);
    assert!(check.status.success(), "{}", text(&check.stderr));

    // Secrets are where nobody else reads them, and nowhere else.
    for (name, secret) in
        [("github-token", "github_pat_planted-in-the-test"), ("api-token", "planted-api-token")]
    {
        let file = dir.path().join("imported").join(name);
        assert_eq!(fs::read_to_string(&file).unwrap().trim(), secret);
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_untold(secret, &output, dir.path());
    }

    // It overwrites nothing.
    let again = import(dir.path(), &[]);
    assert!(!again.status.success());
    assert!(text(&again.stderr).contains("is there already"), "{}", text(&again.stderr));
    assert_eq!(fs::read_to_string(&file).unwrap(), config);
}

#[cfg(feature = "libvirt")]
#[test]
fn what_was_imported_is_served_with_the_paths_of_servos_monitor() {
    let settings = format!(
        "external_base_url = \"https://ci7.example.org/\"\nqueue_member = true\n{SETTINGS}"
    );
    let nowhere = "qemu+unix:///system?socket=/nonexistent/socket";
    let env = format!("GITHUB_TOKEN=planted\nLIBVIRT_DEFAULT_URI={nowhere}\n");
    let dir = with(&settings, &env);
    let output = import(dir.path(), &[]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let mut command = Command::new(env!("CARGO_BIN_EXE_monitor"));
    command
        .current_dir(dir.path())
        .args(["serve", "--config", "imported/monitor.toml", "--data", "data"])
        .args(["--listen", "127.0.0.1:0"])
        .env_remove("MONITOR_API_TOKEN")
        .stderr(std::process::Stdio::piped());
    let process = process::Process::start(command);
    assert_eq!(process::get(&process.url, "/policy/override"), serde_json::Value::Null);
    let id = "/queue/6bd7a3a6-8d29-4d4e-9a0e-0a2f3f1b7c55";
    monitor::http::tls::prepare();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let answer = runtime.block_on(async {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client.get(format!("{}{id}", process.url));
        // As a proxy passes it on that has the name of Servo's host.
        let answer = request.header("host", "ci7.example.org").send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    });
    assert_eq!(answer.0, 404, "{}", answer.1);
    assert!(answer.1.contains("waits here"), "{}", answer.1);
}

#[cfg(feature = "libvirt")]
#[test]
fn servers_that_would_be_told_a_token_in_the_clear_and_prefixes_are_left_to_the_operator() {
    let settings = format!(
        "allowed_qualified_repo_prefix = \"servo\"\nmonitor_reserve_timeout = 90\n{SETTINGS}\n\
         [queue]\nservers = [\"http://ci1.example.org\"]\n"
    )
    .replace("/repos/delan/servo", "/orgs/servo");
    let dir =
        with(&settings, "GITHUB_TOKEN=planted\nSERVO_CI_MONITOR_API_TOKEN=planted-api-token\n");
    let output = import(dir.path(), &["--repository", "servo/servo"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let told = text(&output.stdout);
    for line in [
        "allowed_qualified_repo_prefix: by hand: name each repository",
        "queue.servers: by hand: name the others in servo.queue.servers",
        "monitor_reserve_timeout: becomes servo.reserve_timeout = \"90s\"",
    ] {
        assert!(told.contains(line), "{line} is not in {told}");
    }
    let servo = Config::read(&dir.path().join("imported/monitor.toml")).unwrap().servo.unwrap();
    assert_eq!((servo.servers.len(), servo.reserve_timeout.as_secs()), (0, 90));
    assert_eq!(servo.proof.unwrap().repositories[0].name, "servo/servo");
}

#[cfg(feature = "libvirt")]
#[test]
fn it_is_called_as_a_flag_too() {
    let dir = with(SETTINGS, "GITHUB_TOKEN=planted\n");
    let output = Command::new(env!("CARGO_BIN_EXE_monitor"))
        .current_dir(dir.path())
        .args(["--import-servo", "monitor.toml", ".env"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("which is valid"), "{}", text(&output.stdout));
    let written = Config::read(&dir.path().join("imported/monitor.toml")).unwrap();
    assert_eq!(written.profiles[0].resources.memory_mib, 2048);
    assert_eq!(written.githubs[0].url, "https://github.com/delan/servo");
}

#[cfg(feature = "libvirt")]
#[test]
fn an_old_env_file_with_settings_in_it_is_understood() {
    let env = "SERVO_CI_GITHUB_API_SCOPE=/repos/delan/servo\nSERVO_CI_MONITOR_START_TIMEOUT=90\n\
               SERVO_CI_DONT_CREATE_RUNNERS=\nSERVO_CI_ZFS_PREFIX=tank/ci\nGITHUB_TOKEN='planted'\n";
    let settings = SETTINGS.replace("github_api_scope = \"/repos/delan/servo\"", "");
    let dir = with(&settings, env);
    let output = import(dir.path(), &[]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let told = text(&output.stdout);
    for line in [
        ".env:1: github_api_scope: becomes github.url = \"https://github.com/delan/servo\"",
        ".env:2: monitor_start_timeout: becomes start_timeout of every profile = \"90s\"",
        ".env:3: dont_create_runners: by hand: pause each profile",
        ".env:4: zfs_prefix: left out",
    ] {
        assert!(told.contains(line), "{line} is not in {told}");
    }
}

#[cfg(feature = "libvirt")]
#[test]
fn hostile_settings_are_told_and_obeyed_in_nothing() {
    let planted = "hunter2-planted";
    let settings = format!(
        r#"
"evil\n[http]\nlisten" = "0.0.0.0:80"
external_base_url = "https://a\"b\n.example/"
password = "{planted}"
github_api_scope = "/orgs/servo"
allowed_qualified_repo_prefix = "servo"
monitor_poll_interval = -5
api_cache_timeout = 99999999999999999
base_image_max_age = "soon"
available_1g_hugepages = 1e9
available_normal_memory = "999999999999P"
listen_on = [1, 2]
[profiles."../../etc"]
target_count = 1
[profiles.bad]
profile_name = "other"
github_runner_label = "a,b"
target_count = 18446744073709551615
requires_1g_hugepages = 18446744073709551615
requires_normal_memory = "lots"
image_type = "Exotic"
"\u001b[31mred" = true
[profiles.bad.new]
target_count = 1
"#
    )
    .replace("18446744073709551615", "9223372036854775807");
    let dir = with(&settings, "GITHUB_TOKEN=\nSERVO_CI_MONITOR_API_TOKEN=ChangeMe\n");
    let output = import(dir.path(), &[]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let told = text(&output.stdout);
    assert_untold(planted, &output, dir.path());
    assert!(!told.contains('\u{1b}'), "a terminal would obey: {told}");
    assert!(told.contains("the sample from the documentation"), "{told}");
    assert!(!dir.path().join("imported/api-token").exists());
    let read = Config::read(&dir.path().join("imported/monitor.toml")).unwrap();
    assert!(read.http.listen.ip().is_loopback(), "{}", read.http.listen);
    let names: Vec<&str> = read.profiles.iter().map(|profile| profile.name.as_str()).collect();
    assert_eq!(names, ["bad"]);
    for line in [
        "monitor_poll_interval: left out: it is no number of seconds above zero",
        "base_image_max_age: left out: it is no number of seconds above zero",
        "available_normal_memory: left out: it is too large",
        "profiles.../../etc: by hand: profile name",
        "profiles.bad.github_runner_label: left out",
        "profiles.bad.requires_normal_memory: left out: it is no size",
        "profiles.bad.new.target_count: left out: it is no setting of Servo's monitor",
        "password: left out",
    ] {
        assert!(told.contains(line), "{line} is not in {told}");
    }
}

#[test]
fn what_is_no_settings_file_is_refused_by_its_line_and_never_quoted() {
    let planted = "hunter2-planted";
    let cases = [
        (format!("a = 1\nb = {planted}\n"), String::new(), "monitor.toml:2:"),
        (SETTINGS.to_owned(), format!("A=1\n{planted}\n"), ".env:2:"),
        (format!("{SETTINGS}\n{SETTINGS}{planted}"), String::new(), "monitor.toml:"),
    ];
    for (settings, env, place) in cases {
        let dir = with(&settings, &env);
        let output = import(dir.path(), &[]);
        assert!(!output.status.success());
        assert!(text(&output.stderr).contains(place), "{}", text(&output.stderr));
        assert_untold(planted, &output, dir.path());
        assert!(!dir.path().join("imported").exists());
    }
    let empty = tempfile::tempdir().unwrap();
    let output = import(empty.path(), &[]);
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("could not read monitor.toml"));
}

#[cfg(feature = "libvirt")]
#[test]
fn what_would_be_refused_later_is_not_written() {
    let dir = with("github_api_scope = \"/orgs/servo\"\n", "GITHUB_TOKEN=planted\n");
    let output = import(dir.path(), &[]);
    assert!(!output.status.success());
    let told = text(&output.stderr);
    assert!(told.contains("nothing was written") && told.contains("[[profile]]"), "{told}");
    assert!(!dir.path().join("imported").exists());
}
