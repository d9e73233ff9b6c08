//! The real `monitor serve` on a real libvirtd: jobs outlive the service, and the pool outlives the daemon.
#![cfg(feature = "libvirt")]

use std::{path::Path, process::Command};

use reqwest::Method;
use serde_json::Value;

#[path = "../../../backend-libvirt/tests/common/libvirtd.rs"]
#[expect(dead_code, reason = "other tests use the rest of it")]
mod libvirtd;
#[path = "../../../backend-qemu/tests/common/parts.rs"]
#[expect(dead_code, reason = "other tests use the rest of it")]
mod parts;
mod real;

use libvirtd::Libvirtd;
use real::Monitor;

/// A service on a libvirtd of its own, not started; or nothing, where a part is missing.
fn monitor(more: &str) -> Option<(Libvirtd, Monitor)> {
    let libvirtd = Libvirtd::start()?;
    let monitor = on(&libvirtd, more)?;
    Some((libvirtd, monitor))
}

/// A service on this libvirtd.
fn on(libvirtd: &Libvirtd, more: &str) -> Option<Monitor> {
    let mut monitor = Monitor::new()?;
    let uri = format!("qemu+unix:///system?socket={}", libvirtd.socket().display());
    monitor.config = monitor
        .config
        .replace("[qemu]\n", &format!("[libvirt]\nuri = \"{uri}\"\n{more}"))
        .replace("binary = \"qemu-system-x86_64\"\n", "");
    Some(monitor)
}

impl Monitor {
    fn is_blind(&self) -> bool {
        let answer = self.ask(Method::GET, "/readyz", None);
        answer.is_none_or(|(status, _)| status == 503)
    }
}

#[test]
fn a_job_outlives_the_service_and_the_daemon() {
    let Some((libvirtd, mut monitor)) = monitor("") else { return };
    monitor.start();
    let worker = monitor.idle("micro");
    let job = monitor.submit(
        "long",
        "echo begun; until [ -e /tmp/go ]; do sleep 0.2; done; echo \"up $(cut -d. -f1 /proc/uptime)\"; exit 3",
    );
    monitor.hear(&job, "begun");
    assert_eq!(monitor.job(&job)["worker"].as_str(), Some(&*worker));

    // The daemon is killed and stays away: the pool says so, and waits.
    libvirtd.hold(true);
    libvirtd.signal("-KILL");
    monitor.eventually("it says that it is blind", || monitor.is_blind().then_some(()));
    let (status, ready) = monitor.ask(Method::GET, "/readyz", None).unwrap();
    assert_eq!(status, 503, "{}", String::from_utf8_lossy(&ready));
    assert!(String::from_utf8_lossy(&ready).contains("libvirt"));
    assert_eq!(monitor.workers("busy"), std::slice::from_ref(&worker));

    // Then the service is, too, and comes back before the daemon.
    monitor.kill();
    monitor.start();
    monitor.eventually("it says that it is blind again", || monitor.is_blind().then_some(()));
    libvirtd.hold(false);
    monitor.eventually("it sees", || (!monitor.is_blind()).then_some(()));
    // The daemon has to find the guest's agent again.
    monitor.eventually("a file is put into the guest", || {
        let put = Command::new(env!("CARGO_BIN_EXE_monitor"))
            .args([
                "put",
                "--data",
                monitor.data.to_str().unwrap(),
                &worker,
                "/dev/null",
                "/tmp/go",
            ])
            .env("MONITOR_API_TOKEN", real::TOKEN)
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&put.stderr);
        assert!(put.status.success() || error.contains("/tmp/go"), "{error}");
        put.status.success().then_some(())
    });
    let over = monitor.over(&job);
    assert_eq!(over["exit_code"], Value::from(3), "{over:#}");
    let log = monitor.log(&job);
    assert!(log.starts_with("begun\nup "), "{log:?}");

    // Its machine goes, and another one comes.
    monitor.settled();
    monitor.event(&["retire", &worker]);
    assert!(!libvirtd.virsh(&["list", "--all", "--name"]).lines().any(|name| name == worker));
    let drained = monitor.terminate();
    assert!(drained.success(), "{drained}");
}

#[test]
fn what_an_operator_destroys_is_told_and_replaced() {
    let Some((libvirtd, mut monitor)) = monitor("") else { return };
    monitor.start();
    let first = monitor.idle("micro");
    libvirtd.virsh(&["destroy", &first]);
    monitor.eventually("another one is idle", || {
        monitor.workers("idle").into_iter().find(|name| *name != first)
    });
    monitor.event(&["retire", &first, "stopped from the host"]);
    let second = monitor.idle("micro");
    // Also one of which nothing but its disk is left.
    libvirtd.virsh(&["destroy", &second]);
    let _ = libvirtd.try_virsh(&["undefine", &second]);
    monitor.eventually("a third one is idle", || {
        monitor.workers("idle").into_iter().find(|name| *name != second)
    });
    monitor.settled();
    let names = libvirtd.virsh(&["list", "--all", "--name"]);
    let names: Vec<&str> = names.lines().filter(|name| !name.is_empty()).collect();
    assert_eq!(names.len(), 1, "{names:?}");
    assert_eq!(monitor.directories(), names);
}

/// `monitor doctor`, as JSON.
fn doctor(monitor: &Monitor, boots: bool) -> (Option<i32>, Vec<Value>) {
    let file = monitor.dir.path().join("doctor.toml");
    std::fs::write(&file, &monitor.config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_monitor"));
    command.args(["doctor", "--json", "--config", file.to_str().unwrap()]);
    command.args(["--data", monitor.data.to_str().unwrap()]);
    if !boots {
        command.arg("--no-boot");
    }
    let output = command.env("NO_COLOR", "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let checks: Value = serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr))
    });
    let checks = checks["checks"].as_array().cloned().unwrap_or_default();
    (output.status.code(), checks)
}

fn check<'a>(checks: &'a [Value], name: &str) -> &'a Value {
    let found = checks.iter().find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("no check of {name}: {checks:#?}"))
}

#[test]
fn the_doctor_knows_libvirt() {
    let Some((libvirtd, mut monitor)) = monitor("") else { return };
    let (_, checks) = doctor(&monitor, true);
    for name in ["libvirt", "emulator", "network", "storage", "guest"] {
        assert_eq!(check(&checks, name)["outcome"], "ok", "{checks:#?}");
    }
    assert!(check(&checks, "guest")["found"].as_str().unwrap().contains("booted"));

    let healthy = monitor.config.clone();
    monitor.config = healthy.replace("[libvirt]\n", "[libvirt]\npool = \"nowhere\"\n");
    let (code, checks) = doctor(&monitor, false);
    let storage = check(&checks, "storage");
    assert_eq!((code, &storage["outcome"]), (Some(1), &Value::from("failure")));
    assert!(storage["way_out"].as_str().unwrap().contains("pool_dir"), "{storage}");

    monitor.config = healthy;
    libvirtd.hold(true);
    libvirtd.signal("-KILL");
    real::eventually("it is gone", || {
        let (_, checks) = doctor(&monitor, false);
        (check(&checks, "libvirt")["outcome"] == "failure").then_some(())
    });
    let (code, checks) = doctor(&monitor, false);
    assert_eq!(code, Some(1));
    let way_out = check(&checks, "libvirt")["way_out"].as_str().unwrap().to_owned();
    assert!(way_out.contains("systemctl start libvirtd"), "{way_out}");
}

#[test]
fn the_doctor_knows_whom_libvirt_runs_machines_as() {
    // As distributions have it.
    let inside = r#"sed -i 's/^\(user\|group\) = .*/\1 = "+65534"/' "$directory/etc/qemu.conf""#;
    let prepare = |directory: &Path| std::fs::write(directory.join("inside"), inside).unwrap();
    let Some(libvirtd) = Libvirtd::start_with(prepare, &[]) else { return };
    let Some(mut monitor) = on(&libvirtd, "") else { return };
    let storage = |monitor: &Monitor| check(&doctor(monitor, false).1, "storage").clone();
    let found = storage(&monitor);
    assert_eq!(found["outcome"], "failure", "{found}");
    assert!(found["found"].as_str().unwrap().contains("as user 65534"), "{found}");
    assert!(found["way_out"].as_str().unwrap().contains("pool_dir"), "{found}");
    let pool = libvirtd.directory().join("pool");
    let pool = format!("[libvirt]\npool = \"runners\"\npool_dir = \"{}\"\n", pool.display());
    monitor.config = monitor.config.replace("[libvirt]\n", &pool);
    let found = storage(&monitor);
    assert_eq!(found["outcome"], "ok", "{found}");
}

#[test]
fn two_services_share_a_daemon_though_their_machines_have_the_same_names() {
    let Some((libvirtd, mut first)) = monitor("") else { return };
    let Some(mut second) = Monitor::new() else { return };
    second.config.clone_from(&first.config);
    first.start();
    let taken = first.idle("micro");
    second.start();
    let own = second.idle("micro");
    assert_ne!(own, taken);
    second.event(&["failed", &taken, "it is not ours"]);
    let domains = || {
        let names = libvirtd.virsh(&["list", "--name"]);
        let mut names: Vec<_> = names.lines().filter(|name| !name.is_empty()).collect();
        names.sort_unstable();
        names.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let mut both = [taken.clone(), own.clone()];
    both.sort();
    assert_eq!(domains(), both);

    // Each runs jobs on its own, and neither takes the other's away.
    let job = second.submit("theirs", "echo done");
    assert_eq!(second.over(&job)["exit_code"], Value::from(0));
    second.settled();
    assert_eq!(first.workers("idle"), [taken.as_str()]);
    assert!(second.terminate().success());
    assert!(domains().contains(&taken));
    let job = first.submit("ours", "echo done");
    assert_eq!(first.over(&job)["exit_code"], Value::from(0));
}

#[test]
fn the_doctor_repeats_no_password() {
    let Some(mut monitor) = Monitor::new() else { return };
    let uri = "[libvirt]\nuri = \"qemu+tcp://ci:hunter2@127.0.0.1:1/system\"\n";
    monitor.config =
        monitor.config.replace("[qemu]\n", uri).replace("binary = \"qemu-system-x86_64\"\n", "");
    let (_, checks) = doctor(&monitor, false);
    let found = check(&checks, "libvirt").to_string();
    assert!(found.contains("virsh -c") && !found.contains("hunter2"), "{found}");
}
