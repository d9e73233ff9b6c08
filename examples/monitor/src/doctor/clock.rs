//! Whether the clock can be trusted: ages, time limits and event times come from it.

use std::{
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use jiff::Timestamp;

use super::{Check, Subject};

/// No clock that is right shows an earlier time: this program is younger.
const EARLIEST: &str = "2026-01-01T00:00:00Z";

/// How long the two clocks are compared.
const COMPARE: Duration = Duration::from_millis(200);

/// How often, while they differ.
const TRIES: usize = 5;

/// How far they may drift apart meanwhile.
const DRIFT: Duration = Duration::from_millis(20);

pub(super) fn check(subject: &Subject) -> Vec<Check> {
    let mut checks = vec![time(subject)];
    checks.extend(synchronization());
    checks
}

fn time(subject: &Subject) -> Check {
    let name = "clock";
    let now = Timestamp::now();
    let way_out = "set it: timedatectl set-ntp true, or date -s; then restart the service";
    let earliest: Timestamp = EARLIEST.parse().expect("it is a time");
    if now < earliest {
        return Check::failure(name, format!("it shows {now:.0}, which is past"), way_out);
    }
    // What the service wrote last.
    let store = fs::metadata(subject.data_dir.join("store.sqlite"));
    let written = store.and_then(|store| store.modified()).ok();
    if let Some(ahead) = written.and_then(|at| at.duration_since(SystemTime::now()).ok())
        && ahead > Duration::from_secs(60)
    {
        let found =
            format!("the store was written {} s from now: the clock went back", ahead.as_secs());
        return Check::failure(name, found, way_out);
    }
    // Whoever is interrupted between two looks at a clock sees a drift where there is none.
    let drifts: Vec<Duration> = (0..TRIES).map(|_| drift()).take_while(|it| *it > DRIFT).collect();
    match drifts.iter().min() {
        Some(drift) if drifts.len() == TRIES => {
            let found = format!(
                "in {} ms it goes wrong by {} ms against the time since boot",
                COMPARE.as_millis(),
                drift.as_millis()
            );
            Check::warning(
                name,
                found,
                "see what adjusts it: a time service in large steps, or two of them",
            )
        }
        _ => Check::ok(name, format!("it shows {now:.0} and runs evenly")),
    }
}

/// How differently the wall clock and the monotonic one run.
fn drift() -> Duration {
    let (wall, steady) = (SystemTime::now(), Instant::now());
    std::thread::sleep(COMPARE);
    let (wall, steady) = (wall.elapsed().unwrap_or_default(), steady.elapsed());
    wall.abs_diff(steady)
}

/// Whether a time service keeps it right, where systemd tells.
fn synchronization() -> Option<Check> {
    let name = "clock synchronization";
    let mut ask = Command::new("timedatectl");
    ask.args(["show", "--property=NTPSynchronized", "--value"]);
    let answer = ask.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    match String::from_utf8_lossy(&answer.stdout).trim() {
        "yes" => Some(Check::ok(name, "a time service keeps the clock right")),
        "no" => Some(Check::warning(
            name,
            "no time service keeps the clock right",
            "install one and switch it on: apt install systemd-timesyncd; timedatectl set-ntp true",
        )),
        // Without systemd nobody tells.
        _ => None,
    }
}
