//! The kinds of runner in the crowd.

use std::fmt::Write;

/// A kind of runner: how many there are, and how long its jobs take.
pub struct Kind {
    pub name: &'static str,
    pub max: u32,
    /// What share of them jobs keep busy, in percent, between quiet and rush hours.
    pub load: (u32, u32),
    /// How long a job takes, in seconds, at most.
    pub takes: u32,
}

/// Name, share of all workers, load, longest job.
const KINDS: [(&str, u32, (u32, u32), u32); 5] = [
    ("linux", 42, (30, 75), 40),
    ("linux-xl", 18, (50, 130), 90),
    ("android", 16, (20, 60), 50),
    ("kernel", 14, (40, 90), 120),
    (FLAKY, 10, (30, 60), 30),
];

/// The profile whose machines fail to start now and then.
pub const FLAKY: &str = "nightly";

/// Kinds that have so many workers together.
pub fn kinds(workers: u32) -> Vec<Kind> {
    let mut left = workers;
    let mut kinds = Vec::new();
    for (index, (name, share, load, takes)) in KINDS.into_iter().enumerate() {
        let last = index + 1 == KINDS.len();
        let max = if last { left } else { (workers * share).div_ceil(100).min(left) };
        left -= max;
        if max > 0 || kinds.is_empty() {
            kinds.push(Kind { name, max, load, takes });
        }
    }
    kinds
}

/// The configuration that offers them.
pub fn config(kinds: &[Kind], quiet: bool) -> String {
    let mut text = String::from(
        "[pace]\nlook_every = \"1s\"\nretry_first = \"2s\"\nretry_most = \"20s\"\nmax_actions = 64\n",
    );
    for Kind { name, max, .. } in kinds {
        // With nobody to ask for the others, all of them are kept ready.
        let min_idle = if quiet { *max } else { max.div_ceil(2) };
        let max = (*max).max(1);
        write!(
            text,
            "[[profile]]\nname = {name:?}\nlabels = [\"x86-64\", \"{name}-latest\"]\n\
             image = {{ kind = \"micro\" }}\nvcpus = 2\nmemory = \"2GiB\"\n\
             min_idle = {min_idle}\nmax = {max}\n"
        )
        .expect("writing to a string does not fail");
    }
    text
}
