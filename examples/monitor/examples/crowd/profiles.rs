//! The kinds of runner in the crowd.

use std::fmt::Write;

/// A kind of runner: how many there are, and how long its jobs take.
pub struct Kind {
    pub name: &'static str,
    /// Whose jobs it runs.
    pub forge: &'static str,
    pub max: u32,
    /// What share of them jobs keep busy, in percent, between quiet and rush hours.
    pub load: (u32, u32),
    /// How long a job takes, in seconds, at most.
    pub takes: u32,
}

/// Name, forge, share of all workers, load, longest job.
type Row = (&'static str, &'static str, u32, (u32, u32), u32);

const KINDS: [Row; 6] = [
    ("linux", LOCAL, 32, (30, 75), 40),
    ("linux-xl", LOCAL, 18, (50, 130), 90),
    ("android", LOCAL, 16, (20, 60), 50),
    ("kernel", LOCAL, 14, (40, 90), 120),
    (FLAKY, LOCAL, 10, (30, 60), 30),
    ("widgets", ELSEWHERE, 10, (60, 120), 60),
];

const LOCAL: &str = "local";
/// The forge that is not this service's own.
pub const ELSEWHERE: &str = "github";

/// The profile whose machines fail to start now and then.
pub const FLAKY: &str = "nightly";

/// Kinds that have so many workers together.
pub fn kinds(workers: u32) -> Vec<Kind> {
    let mut left = workers;
    let mut kinds = Vec::new();
    for (index, (name, forge, share, load, takes)) in KINDS.into_iter().enumerate() {
        let last = index + 1 == KINDS.len();
        let max = if last { left } else { (workers * share).div_ceil(100).min(left) };
        left -= max;
        if max > 0 || kinds.is_empty() {
            kinds.push(Kind { name, forge, max, load, takes });
        }
    }
    kinds
}

/// The configuration that offers them.
pub fn config(kinds: &[Kind], quiet: bool) -> String {
    let mut text = String::from(
        "[pace]\nlook_every = \"1s\"\nretry_first = \"2s\"\nretry_most = \"20s\"\nmax_actions = 64\n\
         [servo]\n[[github]]\nname = \"github\"\nurl = \"https://github.com/acme\"\n\
         token = { file = \"token\" }\nrepositories = [\"acme/widgets\"]\n",
    );
    for Kind { name, forge, max, .. } in kinds {
        // With nobody to ask for the others, all of them are kept ready.
        let min_idle = if quiet { *max } else { max.div_ceil(2) };
        let max = (*max).max(1);
        write!(
            text,
            "[[profile]]\nname = {name:?}\nforge = {forge:?}\nlabels = [\"x86-64\", \"{name}-latest\"]\n\
             image = {{ kind = \"micro\" }}\nvcpus = 2\nmemory = \"2GiB\"\n\
             min_idle = {min_idle}\nmax = {max}\n"
        )
        .expect("writing to a string does not fail");
    }
    text
}
