//! How many workers a profile has, and how many it should have: in the words that Servo's policy has for it.

use runner_core::status::ProfileStatus;

/// Those that are not over.
pub fn healthy(profile: &ProfileStatus) -> u32 {
    starting(profile) + profile.idle + profile.reserved + profile.busy
}

/// Those that came up and have not shown themselves, or not lately.
pub fn starting(profile: &ProfileStatus) -> u32 {
    profile.starting + profile.unseen
}

/// How many there should be now: those that are promised or at work, and as many ready ones as are kept, within the
/// most there may be.
pub fn target(profile: &ProfileStatus) -> u32 {
    let paused = profile.adjustment.as_ref().is_some_and(|adjustment| adjustment.paused);
    match profile.offered && !paused {
        true => (profile.min_idle + profile.reserved + profile.busy).min(profile.max),
        false => 0,
    }
}

/// How many more there should be.
pub fn wanted(profile: &ProfileStatus) -> u32 {
    target(profile).saturating_sub(healthy(profile))
}

/// How many there are beyond that.
pub fn excess(profile: &ProfileStatus) -> u32 {
    healthy(profile).saturating_sub(target(profile))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use runner_core::{ProfileName, wish::Adjustment};

    use super::*;

    #[test]
    fn a_profile_should_have_what_is_at_work_and_what_is_kept_ready() {
        let profile = ProfileStatus {
            starting: 1,
            idle: 2,
            reserved: 1,
            busy: 3,
            over: 5,
            min_idle: 4,
            max: 16,
            offered: true,
            ..ProfileStatus::default()
        };
        let told = |of: &ProfileStatus| (target(of), healthy(of), wanted(of), excess(of));
        assert_eq!(told(&profile), (8, 7, 1, 0));
        assert_eq!(told(&ProfileStatus { max: 6, ..profile.clone() }), (6, 7, 0, 1));
        assert_eq!(told(&ProfileStatus { min_idle: 0, ..profile.clone() }), (4, 7, 0, 3));
        assert_eq!(told(&ProfileStatus { offered: false, ..profile.clone() }), (0, 7, 0, 7));
        let paused = Adjustment {
            profile: ProfileName::new("linux").unwrap(),
            min_idle: None,
            max: None,
            paused: true,
            by: "ann".to_owned(),
            since: Timestamp::UNIX_EPOCH,
        };
        let paused = ProfileStatus { adjustment: Some(paused), ..profile };
        assert_eq!(told(&paused), (0, 7, 0, 7));
    }
}
