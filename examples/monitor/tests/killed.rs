//! `kill -9` of the real binary at every moment of a job's life: no job runs twice or is lost, no log has a gap
//! or a repeat, nothing is left over.

mod real;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    sync::{Arc, Mutex},
    thread::sleep,
    time::Duration,
};

use real::Monitor;
use serde_json::{Value, json};

/// How many lines a job writes, one each tenth of a second.
const LINES: u32 = 12;

/// Hears from the guests themselves what ran in them.
struct Witness {
    port: u16,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Witness {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let ear = heard.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
                let mut line = String::new();
                if BufReader::new(&stream).read_line(&mut line).is_ok() && line.ends_with('\n') {
                    ear.lock().unwrap().push(line.trim().to_owned());
                    let _ = (&stream).write_all(b"heard\n");
                }
            }
        });
        Self { port, heard }
    }

    /// A script that tells when it starts and ends, under an id that every run of it has anew.
    fn script(&self, title: &str, lines: u32, exit: u32) -> String {
        let port = self.port;
        format!(
            "tell() {{ until echo \"$1 {title} $run\" | nc -w 5 10.0.2.2 {port} | grep -q heard; do sleep 0.1; done; }}\n\
             run=$(cat /proc/sys/kernel/random/uuid)\n\
             tell start\n\
             n=0; while [ $n -lt {lines} ]; do n=$((n + 1)); echo \"line $n\" | tee -a left; sleep 0.1; done\n\
             tell end\n\
             exit {exit}\n"
        )
    }

    /// The runs of a job that began, and those that came to their end.
    fn runs(&self, title: &str) -> (usize, usize) {
        let mut runs: BTreeMap<String, std::collections::BTreeSet<String>> = BTreeMap::new();
        for line in self.heard.lock().unwrap().iter() {
            let words: Vec<&str> = line.split(' ').collect();
            if words[1] == title {
                runs.entry(words[0].to_owned()).or_default().insert(words[2].to_owned());
            }
        }
        let count = |word: &str| runs.get(word).map_or(0, |runs| runs.len());
        (count("start"), count("end"))
    }
}

fn whole_log(lines: u32) -> String {
    (1..=lines).map(|n| format!("line {n}\n")).collect()
}

/// What must hold in the moment after a kill: whatever exists is written down.
fn check_dead(monitor: &Monitor, when: &str) {
    let (records, runners) = (monitor.records(), monitor.runners());
    let directories = monitor.directories();
    for name in directories.iter().filter(|name| !name.starts_with('.')) {
        assert!(records.contains(name), "{when}: machine {name} is not in {records:?}");
    }
    for name in &runners {
        assert!(records.contains(name), "{when}: runner {name} is not in {records:?}");
    }
    for (pid, cwd) in monitor.processes() {
        let name = cwd.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(directories.contains(&name), "{when}: process {pid} is in {cwd:?}");
    }
}

/// What must hold once everything has come to rest: one idle worker, and nothing else anywhere.
fn check_settled(monitor: &Monitor, when: &str) {
    monitor.settled();
    // Records go last, a moment after the lists show it.
    monitor.eventually("all agree", || {
        let workers = monitor.workers("idle");
        let processes = monitor.processes();
        let its: Vec<_> = processes.iter().map(|(_, cwd)| cwd.clone()).collect();
        let agree = workers.len() == 1
            && monitor.directories() == workers
            && monitor.records() == workers
            && monitor.runners() == workers
            && its == [monitor.instance(&workers[0]).canonicalize().ok()?];
        agree.then_some(())
    });
    let status = monitor.get("/api/v2/status").unwrap();
    let nothing = json!([]);
    assert_eq!(status["held"], nothing, "{when}");
}

fn check_drained(monitor: &Monitor) {
    assert_eq!(monitor.processes(), []);
    assert!(monitor.directories().is_empty(), "{:?}", monitor.directories());
    assert!(monitor.records().is_empty(), "{:?}", monitor.records());
    assert!(monitor.runners().is_empty(), "{:?}", monitor.runners());
}

/// The job of this title, if it was accepted.
fn find(monitor: &Monitor, title: &str) -> Option<Value> {
    let page = monitor.get("/api/v2/jobs?limit=500").unwrap();
    let mut found = page["jobs"].as_array().unwrap().iter().filter(|job| job["title"] == title);
    let job = found.next().cloned();
    assert!(found.next().is_none(), "{title} was accepted twice");
    job
}

/// When to kill.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// So many milliseconds after the job was sent off.
    Sent(u64),
    /// So many milliseconds after its log had this line.
    Line(u32, u64),
    /// So many milliseconds after the guest said that it is at its end.
    End(u64),
    /// So many milliseconds after the job was over.
    Over(u64),
}

fn wait_for(moment: Moment, monitor: &Monitor, witness: &Witness, title: &str) {
    let job = || monitor.eventually("it is accepted", || find(monitor, title));
    let id = || job()["id"].as_str().unwrap().to_owned();
    let after = match moment {
        Moment::Sent(ms) => ms,
        Moment::Line(line, ms) => {
            monitor.hear(&id(), &format!("line {line}\n"));
            ms
        }
        Moment::End(ms) => {
            monitor.eventually("it ends", || (witness.runs(title).1 > 0).then_some(()));
            ms
        }
        Moment::Over(ms) => {
            monitor.over(&id());
            ms
        }
    };
    sleep(Duration::from_millis(after));
}

#[test]
fn a_kill_at_any_moment_of_a_job_loses_and_repeats_nothing() {
    use Moment::{End, Line, Over, Sent};
    let Some(mut monitor) = Monitor::new() else {
        return;
    };
    let witness = Witness::new();
    monitor.start();
    check_settled(&monitor, "at first");
    let moments = [
        Sent(0),
        Sent(2),
        Sent(5),
        Sent(10),
        Sent(20),
        Sent(40),
        Sent(60),
        Sent(90),
        Sent(130),
        Sent(200),
        Sent(300),
        Line(1, 0),
        Line(4, 37),
        Line(8, 61),
        Line(LINES, 0),
        End(0),
        End(5),
        End(15),
        End(40),
        End(80),
        End(150),
        Over(0),
        Over(15),
        Over(50),
        Over(120),
        Over(400),
    ];
    let (mut refused, mut survived) = (0, 0);
    for (n, moment) in (0..).zip(moments) {
        let title = format!("moment-{n}");
        let exit = n % 7;
        let script = witness.script(&title, LINES, exit);
        let job = json!({
            "title": title, "profile": "micro", "script": script, "outputs": ["left"],
            "env": { "PASSWORD": "planted-secret-40ad" },
        });
        monitor.send_job(&job);
        wait_for(moment, &monitor, &witness, &title);
        monitor.kill();
        check_dead(&monitor, &title);
        let begun = witness.runs(&title);

        monitor.start();
        match find(&monitor, &title) {
            // It was killed before it took the job, and nobody was told otherwise.
            None => {
                assert!(matches!(moment, Sent(_)), "{moment:?}: the job is lost");
                assert_eq!(witness.runs(&title), (0, 0), "{moment:?}: it ran and is lost");
                refused += 1;
            }
            Some(job) => {
                let id = job["id"].as_str().unwrap();
                let job = monitor.over(id);
                assert_eq!(job["exit_code"], exit, "{moment:?}: {job:#}");
                let state = if exit == 0 { "succeeded" } else { "failed" };
                assert_eq!(job["state"], state, "{moment:?}: {job:#}");
                assert_eq!(monitor.log(id), whole_log(LINES), "{moment:?}");
                assert_eq!(witness.runs(&title), (1, 1), "{moment:?}: it ran so often");
                let outputs = format!("/api/v2/jobs/{id}/outputs");
                let (status, tar) = monitor.ask(reqwest::Method::GET, &outputs, None).unwrap();
                assert_eq!(status, 200, "{moment:?}: {job:#}");
                let tar = String::from_utf8_lossy(&tar).into_owned();
                assert!(tar.contains(&whole_log(LINES)), "{moment:?}: {tar}");
                survived += usize::from(begun.0 == 1 && begun.1 == 0);
            }
        }
        check_settled(&monitor, &title);
        println!(
            "{moment:?}: job {:?}, when killed {begun:?}",
            find(&monitor, &title).map(|job| job["state"].clone())
        );
    }
    assert!(refused < 8, "{refused} jobs were not even taken");
    assert!(survived >= 3, "only {survived} jobs were running when the process was killed");

    monitor.kill();
    monitor.start_with(&["--drain-on-exit"]);
    monitor.settled();
    assert!(monitor.terminate().success());
    check_drained(&monitor);
}

#[test]
fn a_job_outlives_many_managers_from_the_first_boot_on() {
    let Some(mut monitor) = Monitor::new() else {
        return;
    };
    let witness = Witness::new();
    // The image is built, and no machine is there when the job comes.
    monitor.config = monitor.config.replace("min_idle = 1", "min_idle = 0");
    monitor.start();
    monitor.event(&["build image of profile micro: done"]);
    let lines = 40;
    let id = monitor.submit("long", &witness.script("long", lines, 9));
    monitor.config = monitor.config.replace("min_idle = 0", "min_idle = 1");
    // Through provisioning and boot, then through the job, in uneven steps.
    for (n, ms) in (0..).zip([3, 20, 60, 110, 180, 260, 420, 700, 1100, 1700, 900, 350, 150, 600]) {
        sleep(Duration::from_millis(ms));
        monitor.kill();
        check_dead(&monitor, &format!("kill {n}, {ms} ms after the start"));
        assert!(witness.runs("long").0 <= 1, "kill {n}: it was started twice");
        let qemus = monitor.processes().len();
        assert!(qemus <= 2, "kill {n}: {qemus} machines");
        monitor.start();
    }
    let job = monitor.over(&id);
    assert_eq!(job["exit_code"], 9, "{job:#}");
    assert_eq!(monitor.log(&id), whole_log(lines));
    assert_eq!(witness.runs("long"), (1, 1));
    check_settled(&monitor, "at last");
    for (pid, _) in monitor.processes() {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
        let environ = String::from_utf8_lossy(&environ).into_owned();
        assert!(!environ.contains(real::TOKEN), "the machine knows the token: {environ}");
    }
    // A drain that is killed goes on at the next.
    monitor.kill();
    monitor.start_with(&["--drain-on-exit"]);
    monitor.settled();
    monitor.ask_to_end();
    sleep(Duration::from_millis(15));
    monitor.kill();
    monitor.start_with(&["--drain-on-exit"]);
    assert!(monitor.terminate().success());
    check_drained(&monitor);
}
