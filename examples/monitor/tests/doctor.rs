//! `monitor doctor`: every failure it knows, provoked, and a guest really booted.

use std::{
    fs::{self, File},
    net::TcpListener,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use fake_gitlab::{FakeGitLab, Level, Scope};
use serde_json::Value;
use tempfile::TempDir;

mod process;

use process::{Process, skip};

/// What a doctor is called to.
struct Patient {
    dir: TempDir,
    /// In front of the command.
    before: Vec<String>,
    boots: bool,
    path: Vec<PathBuf>,
    environment: Vec<(String, String)>,
}

const CONFIG: &str = r#"
[http]
listen = "127.0.0.1:0"
[qemu]
binary = "QEMU"
accel = "tcg"
vcpus = 2
memory = "1GiB"
disk = "4GiB"
[[profile]]
name = "micro"
image = { kind = "micro" }
memory = "256MiB"
"#;

impl Patient {
    /// One in good health, but for the guest that is not booted.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let patient = Self {
            path: vec![dir.path().join("bin")],
            dir,
            before: Vec::new(),
            boots: false,
            environment: Vec::new(),
        };
        // Whatever QEMU is here, this is one.
        patient.qemu("");
        fs::create_dir(patient.data()).unwrap();
        fs::set_permissions(patient.data(), fs::Permissions::from_mode(0o700)).unwrap();
        patient.configure(|text| text);
        patient.program("timedatectl", "echo yes");
        patient.program("systemctl", "echo LoadState=not-found");
        patient
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn configure(&self, edit: impl Fn(String) -> String) {
        let qemu = self.dir.path().join("bin/qemu");
        let text = edit(CONFIG.replace("QEMU", qemu.to_str().unwrap()));
        fs::write(self.dir.path().join("monitor.toml"), text).unwrap();
    }

    /// A program that goes before the system's.
    fn program(&self, name: &str, script: &str) {
        let file = self.dir.path().join("bin").join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A QEMU that answers questions, without this device.
    fn qemu(&self, without: &str) {
        let mut devices = String::new();
        let all = ["VGA", "pvpanic-pci", "virtio-blk-pci", "virtio-net-pci", "virtio-rng-pci"];
        for device in all.into_iter().chain(["virtio-serial-pci", "virtserialport"]) {
            if device != without {
                devices.push_str(&format!("name \"{device}\", bus PCI\n"));
            }
        }
        let script = format!(
            "case \"$1\" in --version) echo 'QEMU emulator version 7.2.1';; \
             -device) echo '{devices}';; -netdev) echo user;; *) exit 9;; esac"
        );
        self.program("qemu", &script);
    }

    fn command(&self) -> Command {
        let mut words = self.before.clone();
        words.push(env!("CARGO_BIN_EXE_monitor").to_owned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("doctor");
        command.arg("--config").arg(self.dir.path().join("monitor.toml"));
        command
            .env("MONITOR_DATA", self.data())
            .env("MONITOR_CACHE", self.dir.path().join("cache"));
        let system = std::env::var_os("PATH").unwrap();
        let path = self.path.iter().cloned().chain(std::env::split_paths(&system));
        command.env("PATH", std::env::join_paths(path).unwrap());
        command.env_remove("MONITOR_API_TOKEN").env_remove("CREDENTIALS_DIRECTORY");
        command.envs(self.environment.clone());
        if !self.boots {
            command.arg("--no-boot");
        }
        command
    }

    /// What is found, and the exit code.
    fn examine(&self) -> (Value, i32) {
        let output = self.command().arg("--json").output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let report = serde_json::from_slice(&output.stdout);
        let report = report.unwrap_or_else(|error| panic!("{error}: {errors}"));
        (report, output.status.code().unwrap())
    }

    /// There is this and nothing else, with a way out; and people are told the same.
    fn has(&self, outcome: &str, name: &str, parts: &[&str]) -> String {
        let (report, code) = self.examine();
        let checks = report["checks"].as_array().unwrap();
        let ill: Vec<&Value> = checks.iter().filter(|check| check["outcome"] != "ok").collect();
        assert_eq!(ill.len(), 1, "{name}: {report:#}");
        let check = ill[0];
        assert_eq!((&check["outcome"], &check["name"]), (&outcome.into(), &name.into()), "{check}");
        assert_eq!(report["outcome"], outcome);
        assert_eq!(code, i32::from(outcome == "failure"), "{report:#}");
        let found = check["found"].as_str().unwrap();
        let way_out = check["way_out"].as_str().unwrap();
        for part in parts {
            assert!(found.contains(part) || way_out.contains(part), "{part:?} is not in: {check}");
        }
        let shown = self.command().output().unwrap();
        assert_eq!(shown.status.code(), Some(code));
        let shown = String::from_utf8(shown.stdout).unwrap();
        assert!(shown.contains(way_out), "{way_out:?} is not in: {shown}");
        found.to_owned()
    }

    /// Runs it where a command was run first, in name spaces of its own. False where that is not allowed.
    fn within(&mut self, script: String) -> bool {
        let unshare = ["unshare", "--map-root-user", "--mount", "--"];
        let allowed = Command::new("unshare").args(&unshare[1..]).arg("true").output();
        if !allowed.is_ok_and(|output| output.status.success()) {
            skip("namespaces");
            return false;
        }
        let shell = ["sh".to_owned(), "-c".to_owned(), format!("{script} && exec \"$0\" \"$@\"")];
        self.before = unshare.map(str::to_owned).into_iter().chain(shell).collect();
        true
    }
}

fn serve(patient: &Patient) -> Process {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    patient.configure(|text| text.replace("127.0.0.1:0", &address));
    let mut command = Command::new(env!("CARGO_BIN_EXE_monitor"));
    command.arg("serve").arg("--config").arg(patient.dir.path().join("monitor.toml"));
    command.env("MONITOR_DATA", patient.data()).env_remove("MONITOR_API_TOKEN");
    command.env("MONITOR_CACHE", patient.dir.path().join("cache"));
    command.stderr(std::process::Stdio::piped());
    Process::start(command)
}

#[test]
fn a_healthy_host_is_found_healthy() {
    let patient = Patient::new();
    let (report, code) = patient.examine();
    assert_eq!((code, &report["outcome"]), (0, &"ok".into()), "{report:#}");
    let names: Vec<&str> =
        report["checks"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    for name in
        ["configuration", "data directory", "API token", "space for data", "clock", "address"]
    {
        assert!(names.contains(&name), "{names:?}");
    }
    // Nothing is left behind.
    assert_eq!(fs::read_dir(patient.data()).unwrap().count(), 0);
    assert!(!patient.dir.path().join("cache").exists());
}

#[test]
fn a_bad_configuration_is_the_first_thing_told() {
    let patient = Patient::new();
    patient.configure(|text| text.replace("memory = \"256MiB\"", "memory = \"256\""));
    patient.has("failure", "configuration", &["monitor.toml:", "memory", "unit"]);
}

#[test]
fn a_qemu_that_is_missing_false_old_or_poor_is_told() {
    let patient = Patient::new();
    patient.configure(|text| text.replace("/bin/qemu", "/bin/none"));
    patient.has("failure", "QEMU", &["cannot be run", "apt install qemu-system-x86"]);
    patient.configure(|text| text);
    patient.program("qemu", "echo I am a teapot");
    patient.has("failure", "QEMU", &["teapot", "no QEMU"]);
    patient.qemu("virtserialport");
    patient.has("failure", "QEMU devices", &["it lacks virtserialport"]);
    patient.qemu("");
    let file = patient.dir.path().join("bin/qemu");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("version 7.2.1", "version 5.2.0")).unwrap();
    patient.has("warning", "QEMU", &["5.2.0 is older than 7.2"]);
}

#[test]
fn directories_that_cannot_be_used_are_told() {
    let mut patient = Patient::new();
    fs::set_permissions(patient.data(), fs::Permissions::from_mode(0o755)).unwrap();
    patient.has("warning", "data directory", &["755", "chmod 700"]);
    fs::remove_dir(patient.data()).unwrap();
    fs::write(patient.data(), "").unwrap();
    patient.has("failure", "data directory", &["is no directory"]);
    fs::remove_file(patient.data()).unwrap();
    // Nobody makes files there, root included.
    patient.environment.push(("MONITOR_DATA".to_owned(), "/proc/monitor".to_owned()));
    let found = {
        let (report, code) = patient.examine();
        assert_eq!(code, 1);
        let checks = report["checks"].as_array().unwrap();
        checks.iter().find(|c| c["name"] == "data directory").unwrap()["found"].to_string()
    };
    assert!(found.contains("nothing can be written to /proc"), "{found}");
}

#[test]
fn a_token_that_is_exposed_or_guessable_is_told_and_not_shown() {
    let patient = Patient::new();
    let file = patient.data().join("api-token");
    fs::write(&file, "planted-secret-83aa\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let found = patient.has("failure", "API token", &["chmod 600", "openssl rand"]);
    assert!(!found.contains("planted-secret"), "{found}");
    fs::write(&file, "ChangeMe\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    patient.has("failure", "API token", &["sample", "openssl rand"]);
}

#[test]
fn a_credential_that_is_no_token_is_told() {
    let mut patient = Patient::new();
    let credentials = patient.dir.path().join("credentials");
    fs::create_dir(&credentials).unwrap();
    let file = credentials.join("api-token");
    fs::write(&file, "two words").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
    let variable = ("CREDENTIALS_DIRECTORY".to_owned(), credentials.to_str().unwrap().to_owned());
    patient.environment.push(variable);
    patient.has("failure", "systemd credential", &["spaces", "/etc/credstore/monitor.api-token"]);
}

#[test]
fn a_disk_that_is_full_or_nearly_is_told() {
    let mut patient = Patient::new();
    let data = patient.data().display().to_string();
    let mount = |size: &str| format!("mount -t tmpfs -o mode=700,size={size} tmpfs {data}");
    if !patient.within(mount("16m")) {
        return;
    }
    patient.has("failure", "space for data", &["only 16 MiB", "enlarge"]);
    patient.within(mount("300m"));
    patient.has("warning", "space for data", &["300 MiB", "may take"]);
}

#[test]
fn a_kvm_that_cannot_be_opened_is_told() {
    let mut patient = Patient::new();
    patient.configure(|text| text.replace("accel = \"tcg\"", "accel = \"auto\""));
    if Path::new("/dev/kvm").exists() {
        // What is no device cannot be opened, whoever tries.
        let socket = patient.dir.path().join("kvm");
        let _listener = UnixListener::bind(&socket).unwrap();
        if !patient.within(format!("mount --bind {} /dev/kvm", socket.display())) {
            return;
        }
        patient.has("warning", "hardware acceleration", &["cannot be opened", "usermod -aG kvm"]);
    } else {
        patient.has("warning", "hardware acceleration", &["no /dev/kvm", "firmware"]);
    }
}

#[test]
fn a_clock_that_went_back_or_is_not_kept_right_is_told() {
    let patient = Patient::new();
    let store = File::create(patient.data().join("store.sqlite")).unwrap();
    store.set_modified(SystemTime::now() + Duration::from_secs(7200)).unwrap();
    patient.has("failure", "clock", &["the clock went back", "timedatectl"]);
    fs::remove_file(patient.data().join("store.sqlite")).unwrap();
    patient.program("timedatectl", "echo no");
    patient.has("warning", "clock synchronization", &["systemd-timesyncd"]);
}

#[test]
fn an_address_that_is_taken_or_foreign_is_told() {
    let patient = Patient::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    patient.configure(|text| text.replace("127.0.0.1:0", &address));
    // It hangs up on whoever comes.
    std::thread::spawn(move || taken.incoming().for_each(drop));
    patient.has("failure", "address", &[&address, "by no monitor", "ss -ltnp"]);
    patient.configure(|text| {
        let text = text.replace("127.0.0.1:0", "192.0.2.1:8000");
        text.replace("[http]", "[http]\nallow_remote = true")
    });
    patient.has("failure", "address", &["192.0.2.1:8000", "this host has"]);
}

#[test]
fn a_service_that_runs_is_asked_how_it_does() {
    let patient = Patient::new();
    let process = serve(&patient);
    let ready = || process::get(&process.url, "/readyz")["ready"] == true;
    process::eventually("it is ready", || ready().then_some(()));
    let (report, _) = patient.examine();
    let found = report["checks"].to_string();
    assert!(found.contains("a monitor answers on 127.0.0.1:"), "{report:#}");
    let file = patient.dir.path().join("monitor.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("accel = \"tcg\"", "accel = \"auto\"")).unwrap();
    process::eventually("the edit is seen", || {
        let (report, _) = patient.examine();
        report["checks"]
            .to_string()
            .contains("restart the service to use the new qemu.accel")
            .then_some(())
    });
}

#[test]
fn a_unit_that_failed_or_is_not_started_is_told() {
    let patient = Patient::new();
    let unit = |state: &str, sub: &str| {
        let lines = [
            "LoadState=loaded",
            &format!("ActiveState={state}"),
            &format!("SubState={sub}"),
            "Result=exit-code",
        ];
        patient.program("systemctl", &format!("printf '{}\\n'", lines.join("\\n")));
    };
    unit("failed", "failed");
    patient.has("failure", "systemd unit", &["failed: exit-code", "journalctl -u monitor"]);
    unit("activating", "auto-restart");
    patient.has("failure", "systemd unit", &["again and again", "journalctl"]);
    unit("inactive", "dead");
    patient.has("warning", "systemd unit", &["not running", "systemctl enable --now"]);
    patient.program("systemctl", "echo LoadState=masked");
    patient.has("failure", "systemd unit", &["masked", "systemctl unmask"]);
}

#[test]
fn a_disk_image_that_is_not_there_is_told() {
    let patient = Patient::new();
    let disk = format!("disk\", path = \"/no/such.qcow2\", sha256 = \"{}\" }}", "0".repeat(64));
    patient.configure(|text| text.replace("micro\" }", &disk));
    patient.has("failure", "image of micro", &["/no/such.qcow2", "path"]);
}

/// With the real QEMU and a real image, in the cache that all tests share.
fn real() -> Option<Patient> {
    let has = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output();
        output.is_ok_and(|output| output.status.success() && !output.stdout.is_empty())
    };
    if !has("qemu-system-x86_64", &["--version"]) {
        skip("qemu");
        return None;
    }
    if !has("apt-cache", &["show", "linux-image-cloud-amd64"]) {
        skip("apt");
        return None;
    }
    let mut patient = Patient::new();
    patient.boots = true;
    fs::remove_file(patient.dir.path().join("bin/qemu")).unwrap();
    patient.configure(|text| {
        let binary = text.lines().find(|line| line.starts_with("binary")).unwrap();
        text.replace(binary, "binary = \"qemu-system-x86_64\"")
    });
    if let Some(cache) = std::env::var_os("RUNNER_CACHE") {
        patient.environment.push(("MONITOR_CACHE".to_owned(), cache.into_string().unwrap()));
    }
    Some(patient)
}

#[test]
fn a_guest_really_boots_and_one_that_does_not_is_told() {
    let Some(patient) = real() else { return };
    let (report, code) = patient.examine();
    assert_eq!((code, &report["outcome"]), (0, &"ok".into()), "{report:#}");
    let checks = report["checks"].as_array().unwrap();
    let guest = checks.iter().find(|check| check["name"] == "guest").unwrap();
    assert!(guest["found"].as_str().unwrap().contains("Linux "), "{guest}");
    assert_eq!(fs::read_dir(patient.data()).unwrap().count(), 0);

    // A profile that is larger than the host.
    patient.configure(|text| {
        let binary = text.lines().find(|line| line.starts_with("binary")).unwrap();
        let text = text.replace(binary, "binary = \"qemu-system-x86_64\"");
        text.replace("memory = \"256MiB\"", "memory = \"2GiB\"")
    });
    patient.has("failure", "capacity", &["profile micro", "never fit", "[qemu]"]);

    // A QEMU that answers and cannot run.
    let wrapper =
        "case \"$1\" in -name) echo broken >&2; exit 1;; esac; exec qemu-system-x86_64 \"$@\"";
    patient.program("qemu", wrapper);
    patient.configure(|text| text);
    patient.has("failure", "guest", &["broken", "accel = \"tcg\""]);
}

#[test]
fn an_image_that_was_damaged_is_told() {
    let Some(mut patient) = real() else { return };
    patient.boots = false;
    let mut process = serve_real(&patient);
    process::eventually("the image is built", || {
        let status = process::get(&process.url, "/api/v2/status");
        (!status["images"].as_array().unwrap().is_empty()).then_some(())
    });
    process.signal("TERM");
    assert!(process.child.wait().unwrap().success());
    let images = patient.data().join("images");
    let is_image = |path: &PathBuf| path.join("image.json").exists();
    let mut entries = fs::read_dir(&images).unwrap().map(|entry| entry.unwrap().path());
    let image = entries.find(is_image).unwrap();
    let (report, code) = patient.examine();
    assert_eq!(code, 0, "{report:#}");
    assert!(report["checks"].to_string().contains("is whole"), "{report:#}");
    // Its own copy: the cache may share the file.
    let initrd = fs::read_dir(&image).unwrap().map(|entry| entry.unwrap().path());
    let initrd = initrd.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut content = fs::read(&initrd).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::remove_file(&initrd).unwrap();
    fs::write(&initrd, content).unwrap();
    patient.has("failure", "image of micro", &["digest", "rm -r", image.to_str().unwrap()]);
}

/// A service that builds its image and makes no machine.
fn serve_real(patient: &Patient) -> Process {
    let file = patient.dir.path().join("monitor.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("memory = \"256MiB\"", "memory = \"256MiB\"\nmin_idle = 0"))
        .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_monitor"));
    command.arg("serve").arg("--config").arg(&file).env("MONITOR_DATA", patient.data());
    command.envs(patient.environment.clone()).env_remove("MONITOR_API_TOKEN");
    command.stderr(std::process::Stdio::piped());
    Process::start(command)
}

#[test]
fn a_gitlab_that_cannot_be_used_is_found_with_what_to_do() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let gitlab = runtime.block_on(FakeGitLab::start()).unwrap();
    let (user, group) = (gitlab.user("ada"), gitlab.group("acme"));
    let owner = fake_gitlab::Place::Group(group);
    let scopes = [Scope::CreateRunner, Scope::ManageRunner];
    let good = gitlab.access_token(user, &scopes);
    let patient = Patient::new();
    let token = patient.dir.path().join("token");
    let write = |path: &Path, text: &str| {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    let configure = |group: u64, profile: &str| {
        let (url, profile) = (gitlab.url(), profile.to_owned());
        patient.configure(|text| {
            let section = format!(
                "[[gitlab]]\nname = \"gitlab\"\nurl = \"{url}\"\nallow_http = true\n\
                 token = {{ file = \"token\" }}\nrunner_type = \"group\"\ngroup_id = {group}\n[[profile]]\n\
                 forge = \"gitlab\"\n{profile}"
            );
            text.replace("[[profile]]\n", &section)
        });
    };
    let ill = |parts: &[&str]| patient.has("failure", "forge gitlab", parts);
    configure(group.0, "");
    ill(&["could not read", "token", "No such file", "readable by the service's user"]);
    write(&token, "glpat-wrong");
    ill(&["401", "create_runner and manage_runner"]);
    write(&token, &gitlab.access_token(user, &[Scope::CreateRunner]));
    ill(&["lacks the scope manage_runner", "make an access token"]);
    write(&token, &good);
    ill(&["there is no group", "make the token's owner a member"]);
    gitlab.member(user, owner, Level::Developer);
    ill(&["may not look after runners of group", "role Owner"]);
    gitlab.member(user, owner, Level::Owner);
    configure(999, "");
    ill(&["there is no group 999", "the number that GitLab's pages show"]);

    configure(group.0, "");
    let (report, code) = patient.examine();
    assert_eq!(code, 0, "{report:#}");
    let found = report.to_string();
    assert!(found.contains("the token is good for create_runner, manage_runner"), "{report:#}");
    let soon = gitlab.access_token_for(user, &scopes, Duration::from_secs(3 * 86400));
    write(&token, &soon);
    patient.has("warning", "forge gitlab", &["the token ends on 2", "make an access token"]);

    write(&token, &good);
    write(&patient.dir.path().join("runner"), "glrt-wrong");
    configure(group.0, "runner_token = { file = \"runner\" }\n");
    ill(&["the runner's token of profile micro is not good", "403", "runner_token"]);
    let (_, runner) = gitlab.runner(fake_gitlab::RunnerSpec::new(owner));
    write(&patient.dir.path().join("runner"), &runner);
    assert_eq!(patient.examine().1, 0);
    fs::set_permissions(&token, fs::Permissions::from_mode(0o644)).unwrap();
    patient.has("warning", "forge gitlab", &["anyone may read the token", "chmod o="]);
    // It only looked.
    assert_eq!(gitlab.runners().len(), 1);
    let changing = |call: &fake_gitlab::Call| {
        !call.route.starts_with("GET") && !call.route.ends_with("/runners/verify")
    };
    assert!(!gitlab.calls().iter().any(changing), "{:?}", gitlab.calls());

    gitlab.go_down();
    write(&token, &good);
    configure(group.0, "");
    ill(&["it does not answer", "see whether url is right"]);
}
