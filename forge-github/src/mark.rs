//! The owner mark in a runner's name: `WORKER_OWNER`, such as `linux-17_host-3`.
//!
//! GitHub keeps nothing with a runner that others cannot set, except its name; so the name says whose it is.
//! Neither a worker's name nor an owner's id can hold `_`, so there is one way to read it back; and no runner
//! that was named after its host, as those set up by hand are, has one. GitHub takes names of up to 64
//! characters.

use runner_core::{Error, OwnerId, ProfileName, Result, WorkerName};

/// The longest name that GitHub takes, in bytes.
pub const LONGEST: usize = 64;
/// How many digits of a worker's serial number there is room for, by the least.
const DIGITS: usize = 7;

/// The name at GitHub of a worker's runner.
///
/// # Errors
/// `Invalid` when it is longer than GitHub takes.
pub fn name(worker: &WorkerName, owner: &OwnerId) -> Result<String> {
    let name = format!("{worker}_{owner}");
    if name.len() > LONGEST {
        let reason =
            format!("GitHub takes at most {LONGEST}, so shorten the profile's or the owner's");
        return Err(Error::invalid(
            format!("runner name {name:?} of {} bytes", name.len()),
            reason,
        ));
    }
    Ok(name)
}

/// The worker of a runner, if it is this owner's. GitHub keeps a name's case; so must its reader.
pub fn worker(name: &str, owner: &OwnerId) -> Option<WorkerName> {
    let (worker, mark) = name.split_once('_')?;
    (mark == owner.as_str()).then(|| WorkerName::new(worker).ok())?
}

/// Refuses a profile whose runners' names could not hold the mark, before its ten-millionth runner does.
///
/// # Errors
/// `Invalid` naming both and the room there is.
pub fn check(profile: &ProfileName, owner: &OwnerId) -> Result<()> {
    let room = LONGEST - DIGITS - "-_".len();
    let taken = profile.as_str().len() + owner.as_str().len();
    if taken <= room {
        return Ok(());
    }
    Err(Error::invalid(
        format!("profile {profile} of owner {owner}"),
        format!(
            "both names together have {taken} bytes, and a runner's name at GitHub has room for {room}"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(text: &str) -> OwnerId {
        OwnerId::new(text).unwrap()
    }

    #[test]
    fn a_name_is_read_back_by_its_owner_only() {
        let linux = WorkerName::new("linux-22-04-17").unwrap();
        let marked = name(&linux, &owner("host-3")).unwrap();
        assert_eq!(marked, "linux-22-04-17_host-3");
        assert_eq!(worker(&marked, &owner("host-3")), Some(linux));
        for other in ["host", "host-33", "3", "17"] {
            assert_eq!(worker(&marked, &owner(other)), None, "{other}");
        }
    }

    #[test]
    fn what_was_named_by_hand_is_nobodys() {
        let odd =
            ["host-3", "mac.local", "linux_17", "_host-3", "Linux-1_host-3", "a_b_host-3", ""];
        for name in odd {
            assert_eq!(worker(name, &owner("host-3")), None, "{name}");
        }
    }

    #[test]
    fn a_profile_that_passes_never_makes_too_long_a_name() {
        for (profile, host) in [(40, 15), (15, 40)] {
            let profile = ProfileName::new("p".repeat(profile)).unwrap();
            let host = owner(&"o".repeat(host));
            check(&profile, &host).unwrap();
            name(&WorkerName::of(&profile, 9_999_999), &host).unwrap();
        }
        let profile = ProfileName::new("p".repeat(40)).unwrap();
        assert!(check(&profile, &owner(&"o".repeat(16))).is_err());
    }
}
