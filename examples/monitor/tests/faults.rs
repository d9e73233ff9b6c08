//! What breaks around the real service: it stays up, says what is wrong where an operator looks, and goes on.

mod real;

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    time::Duration,
};

use real::{Monitor, eventually, signal};
use reqwest::Method;

/// Writes `lines` lines, one each tenth of a second, then ends with 7.
fn script(lines: u32) -> String {
    format!("n=0; while [ $n -lt {lines} ]; do n=$((n + 1)); echo line $n; sleep 0.1; done; exit 7")
}

fn whole_log(lines: u32) -> String {
    (1..=lines).map(|n| format!("line {n}\n")).collect()
}

/// A started service with one idle worker.
fn started() -> Option<Monitor> {
    let mut monitor = Monitor::new()?;
    monitor.start();
    monitor.settled();
    Some(monitor)
}

/// It works: a new job runs, on a machine that nothing has happened to, and everything comes to rest.
fn works(monitor: &mut Monitor) {
    assert!(monitor.is_up());
    let id = monitor.submit("afterwards", &script(2));
    let job = monitor.over(&id);
    assert_eq!(job["exit_code"], 7, "{job:#}");
    assert_eq!(monitor.log(&id), whole_log(2));
    at_rest(monitor);
}

/// One idle worker, and nothing else anywhere.
fn at_rest(monitor: &Monitor) {
    monitor.settled();
    monitor.eventually("nothing is left over", || {
        let workers = monitor.workers("idle");
        let agree = monitor.directories() == workers
            && monitor.records() == workers
            && monitor.runners() == workers
            && monitor.processes().len() == workers.len();
        agree.then_some(())
    });
}

/// Takes the place of a program at once.
fn put_program(path: &Path, script: &str) {
    let draft = path.with_extension("draft");
    fs::write(&draft, script).unwrap();
    fs::set_permissions(&draft, Permissions::from_mode(0o755)).unwrap();
    fs::rename(draft, path).unwrap();
}

#[test]
fn a_qemu_that_is_missing_or_fails_is_told_and_its_return_noticed() {
    let Some(mut monitor) = Monitor::new() else {
        return;
    };
    let program = monitor.dir.path().join("qemu");
    let name = program.to_str().unwrap().to_owned();
    monitor.config = monitor
        .config
        .replace("\"qemu-system-x86_64\"", &format!("{name:?}"))
        .replace("max = 2", "max = 2\nstart_timeout = \"4s\"");
    monitor.start();
    monitor.event(&["provision worker micro-", "failed", &name, "No such file"]);
    let id = monitor.submit("patient", &script(3));
    assert!(monitor.is_up());

    put_program(&program, "#!/bin/sh\necho 'qemu: libfoo.so.6 is missing' >&2\nexit 1\n");
    monitor.event(&["failed", "qemu ended at once", "libfoo.so.6 is missing"]);
    assert!(monitor.is_up());

    put_program(&program, "#!/bin/sh\nexec sleep 1000\n");
    monitor.event(&["provision worker micro-", "failed", "finish in time"]);
    assert!(monitor.is_up());
    assert_eq!(monitor.job(&id)["state"], "queued");

    put_program(&program, &format!("#!/bin/sh\nexec {} \"$@\"\n", real::qemu().display()));
    monitor.config = monitor.config.replace("start_timeout = \"4s\"", "");
    monitor.kill();
    monitor.start();
    let job = monitor.over(&id);
    assert_eq!(job["exit_code"], 7, "{job:#}");
    works(&mut monitor);
}

#[test]
fn an_image_whose_file_vanishes_is_built_again() {
    let Some(mut monitor) = started() else {
        return;
    };
    let images = monitor.data.join("images");
    let image = fs::read_dir(&images).unwrap().flatten();
    let image = image.map(|entry| entry.path()).find(|path| path.join("image.json").exists());
    let image = image.unwrap();
    fs::remove_file(image.join("initrd")).unwrap();
    // It takes the idle worker, and its successor needs the image.
    let id = monitor.submit("first", &script(2));
    assert_eq!(monitor.over(&id)["exit_code"], 7);
    let told = monitor.event(&["image", "initrd", "does not exist"]);
    println!("{told}");
    works(&mut monitor);
    eventually("the broken image is gone", || (!image.exists()).then_some(()));
}

#[test]
fn a_full_disk_is_told_and_its_end_noticed() {
    let Some(mut monitor) = Monitor::new() else {
        return;
    };
    if !monitor.mount("160m") {
        return real::skip("mount");
    }
    monitor.start();
    monitor.settled();
    let during = monitor.submit("during", &script(40));
    monitor.hear(&during, "line 3\n");
    let filler = monitor.data.join("filler");
    let fill = || {
        let dd = Command::new("dd")
            .args(["if=/dev/zero", "bs=4k", "oflag=append", "conv=notrunc", "status=none"])
            .arg(format!("of={}", filler.display()))
            .stderr(std::process::Stdio::null())
            .status();
        assert!(!dd.unwrap().success(), "it is not full");
    };
    fill();
    // Until someone is told of it: refused jobs, and an event that did not get lost for want of room.
    monitor.eventually("a job is refused", || {
        let job =
            serde_json::json!({ "profile": "micro", "script": "true", "title": "x".repeat(200) });
        let (status, body) = monitor.ask(Method::POST, "/api/v2/jobs", Some(&job))?;
        let body = String::from_utf8_lossy(&body).into_owned();
        (status >= 400).then(|| println!("{status} {body}"))
    });
    let told = monitor.event(&["full"]);
    println!("{told}");
    assert!(monitor.is_up());
    std::thread::sleep(Duration::from_secs(2));
    fs::remove_file(&filler).unwrap();
    // The log of the job that ran meanwhile is whole.
    let job = monitor.over(&during);
    assert_eq!(job["exit_code"], 7, "{job:#}");
    assert_eq!(monitor.log(&during), whole_log(40));
    works(&mut monitor);
    monitor.event(&["full"]);
    monitor.kill();
}

/// What it is, how it is brought about, and what the log says of it.
type Fault = (&'static str, fn(&Path), &'static str);

fn keep_idle(monitor: &Monitor, count: u32) {
    let wish = serde_json::json!({ "min_idle": count });
    let (status, body) =
        monitor.ask(Method::PATCH, "/api/v2/profiles/micro", Some(&wish)).expect("an answer");
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
}

#[test]
fn a_store_that_is_deleted_or_truncated_costs_no_running_job() {
    let Some(mut monitor) = started() else {
        return;
    };
    let faults: [Fault; 3] = [
        ("deleted", |store| fs::remove_file(store).unwrap(), "is gone"),
        (
            "emptied",
            |store| fs::File::options().write(true).open(store).unwrap().set_len(0).unwrap(),
            "is empty",
        ),
        (
            "cut",
            |store| {
                let file = fs::File::options().write(true).open(store).unwrap();
                file.set_len(file.metadata().unwrap().len() / 2).unwrap();
            },
            "was cut short",
        ),
    ];
    for (name, fault, told) in faults {
        // What is over by then is lost with the store: both begin at once.
        keep_idle(&monitor, 2);
        monitor.eventually("two are idle", || (monitor.workers("idle").len() == 2).then_some(()));
        // One goes on writing, the other never says another word.
        let lines = monitor.submit(name, &script(60));
        monitor.hear(&lines, "line 5\n");
        let silent = monitor.submit(name, "echo once; sleep 3; exit 9");
        monitor.hear(&silent, "once\n");
        fault(&monitor.store());
        println!("{}", monitor.event(&["store: ", told]));
        let job = monitor.over(&lines);
        assert_eq!(job["exit_code"], 7, "{name}: {job:#}");
        assert_eq!(monitor.log(&lines), whole_log(60), "{name}");
        let job = monitor.over(&silent);
        assert_eq!(job["exit_code"], 9, "{name}: {job:#}");
        assert_eq!(monitor.log(&silent), "once\n", "{name}");
        keep_idle(&monitor, 1);
        works(&mut monitor);
    }
}

#[test]
fn a_hung_machine_is_replaced_if_it_is_idle_and_left_alone_if_it_has_a_job() {
    let Some(mut monitor) = Monitor::new() else {
        return;
    };
    monitor.config = monitor.config.replace("max = 2", "max = 2\noffline_timeout = \"5s\"");
    monitor.start();
    monitor.settled();
    // A busy one.
    let id = monitor.submit("hung", &script(30));
    monitor.hear(&id, "line 3\n");
    let busy = monitor.job(&id)["worker"].as_str().unwrap().to_owned();
    signal(monitor.pid(&busy), "STOP");
    let idle = monitor.idle("micro");
    assert_ne!(idle, busy);
    // An idle one, next.
    signal(monitor.pid(&idle), "STOP");
    let told = monitor.event(&[&idle, "offline for more than"]);
    println!("{told}");
    // Given at once to a machine that does not answer or to a good one, a job runs.
    works_beside(&mut monitor);
    assert!(monitor.instance(&busy).exists());
    assert_eq!(monitor.job(&id)["state"], "running");
    signal(monitor.pid(&busy), "CONT");
    let job = monitor.over(&id);
    assert_eq!(job["exit_code"], 7, "{job:#}");
    assert_eq!(monitor.log(&id), whole_log(30));
    at_rest(&monitor);

    // A job that meets a machine that hung a moment ago is not lost.
    let idle = monitor.idle("micro");
    signal(monitor.pid(&idle), "STOP");
    works(&mut monitor);
}

/// A new job runs although another one never ends.
fn works_beside(monitor: &mut Monitor) {
    assert!(monitor.is_up());
    let id = monitor.submit("beside", &script(2));
    assert_eq!(monitor.over(&id)["exit_code"], 7);
}

#[test]
fn a_directory_that_is_removed_by_hand_leaves_no_machine() {
    let Some(mut monitor) = started() else {
        return;
    };
    // Of an idle machine.
    let idle = monitor.idle("micro");
    let pid = monitor.pid(&idle);
    fs::remove_dir_all(monitor.instance(&idle)).unwrap();
    println!("{}", monitor.event(&[&idle, "its machine is not there"]));
    works(&mut monitor);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());

    // Of a machine with a job: nobody can reach it any more once this process ends.
    let id = monitor.submit("homeless", &script(20));
    monitor.hear(&id, "line 3\n");
    let busy = monitor.job(&id)["worker"].as_str().unwrap().to_owned();
    let pid = monitor.pid(&busy);
    fs::remove_dir_all(monitor.instance(&busy)).unwrap();
    let job = monitor.over(&id);
    println!("{job:#}");
    works(&mut monitor);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());

    // While nobody looks.
    let idle = monitor.idle("micro");
    let pid = monitor.pid(&idle);
    monitor.kill();
    fs::remove_dir_all(monitor.instance(&idle)).unwrap();
    monitor.start();
    works(&mut monitor);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn an_operator_may_stop_and_start_it_under_a_running_job() {
    let Some(mut monitor) = started() else {
        return;
    };
    let id = monitor.submit("long", &script(25));
    monitor.hear(&id, "line 3\n");
    let second = monitor.command(&[]).status().unwrap();
    assert_eq!(second.code(), Some(1), "a second process on the same data");
    assert!(monitor.terminate().success());
    assert!(monitor.processes().len() >= 2, "{:?}", monitor.processes());
    monitor.start();
    let job = monitor.over(&id);
    assert_eq!(job["exit_code"], 7, "{job:#}");
    assert_eq!(monitor.log(&id), whole_log(25));
    works(&mut monitor);
}
