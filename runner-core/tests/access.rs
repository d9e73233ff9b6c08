//! Who may use a runner: a table of decisions, and what holds for all of them.

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use runner_core::access::{Names, Requester, Rules, check_gateway, decide};

/// `user NAME`, `project PATH` or `group PATH`, separated by commas.
fn names(text: &str) -> Names {
    let mut names = Names::default();
    for rule in text.split(',').map(str::trim).filter(|rule| !rule.is_empty()) {
        match rule.split_once(' ').unwrap() {
            ("user", name) => names.users.push(name.to_owned()),
            ("project", path) => names.projects.push(path.to_owned()),
            ("group", path) => names.projects_in_groups.push(path.to_owned()),
            _ => panic!("{rule}"),
        }
    }
    names
}

fn rules(deny: &str, allow: &str) -> Rules {
    Rules { deny: names(deny), allow: names(allow) }
}

#[test]
fn the_table_of_decisions() {
    let none = rules("", "");
    let table = [
        // No rule anywhere allows.
        (none.clone(), none.clone(), "allowed: there are no rules"),
        // Any rule, at either level, makes the default deny.
        (rules("", "user bob"), none.clone(), "refused: no rule allows it"),
        (rules("user bob", ""), none.clone(), "refused: no rule allows it"),
        (none.clone(), rules("", "user bob"), "refused: no rule allows it"),
        (none.clone(), rules("project x/y", ""), "refused: no rule allows it"),
        // Each kind, at each level.
        (rules("", "user ada"), none.clone(), "allowed: the profile's rules allow user \"ada\""),
        (
            rules("", "project g/s/p"),
            none.clone(),
            "allowed: the profile's rules allow project \"g/s/p\"",
        ),
        (
            none.clone(),
            rules("", "group g"),
            "allowed: the instance's rules allow the projects in group \"g\"",
        ),
        (
            none.clone(),
            rules("group g/s", ""),
            "refused: the instance's rules deny the projects in group \"g/s\"",
        ),
        // Deny before allow.
        (
            rules("user ada", "user ada"),
            none.clone(),
            "refused: the profile's rules deny user \"ada\"",
        ),
        (
            rules("group g", "project g/s/p, user ada"),
            none.clone(),
            "refused: the profile's rules deny the projects in group \"g\"",
        ),
        // The specific level before the instance's, both ways.
        (
            rules("", "user ada"),
            rules("user ada", ""),
            "allowed: the profile's rules allow user \"ada\"",
        ),
        (
            rules("user ada", ""),
            rules("", "user ada"),
            "refused: the profile's rules deny user \"ada\"",
        ),
        // What the specific level does not name reaches the instance's.
        (
            rules("user bob", "user cyd"),
            rules("", "user ada"),
            "allowed: the instance's rules allow user \"ada\"",
        ),
        // A group is no project, and a longer name no group.
        (rules("", "group g/s/p"), none.clone(), "refused: no rule allows it"),
        (rules("", "group g/"), none.clone(), "refused: no rule allows it"),
        (rules("", "project g/s"), none.clone(), "refused: no rule allows it"),
        // Case does not matter.
        (rules("user ADA", ""), none.clone(), "refused: the profile's rules deny user \"ADA\""),
    ];
    for (profile, instance, expected) in table {
        let requester = Requester { user: Some("ada"), project: Some("g/s/p") };
        let decision = decide(&profile, &instance, requester);
        assert_eq!(decision.to_string(), expected, "{profile:?} {instance:?}");
    }
}

#[test]
fn who_is_unknown_does_not_slip_past_a_rule_that_denies() {
    let profile = rules("user eve", "group g");
    let unknown = Requester { user: None, project: Some("g/p") };
    assert!(!decide(&profile, &Rules::default(), unknown).allowed);
    let known = Requester { user: Some("ada"), ..unknown };
    assert!(decide(&profile, &Rules::default(), known).allowed);
    let profile = rules("group secret", "user ada");
    let unknown = Requester { user: Some("ada"), project: None };
    assert!(!decide(&profile, &Rules::default(), unknown).allowed);
}

#[test]
fn a_gateway_runner_needs_somebody_to_allow() {
    assert!(check_gateway(&rules("", "")).is_err());
    assert!(check_gateway(&rules("user eve", "")).is_err());
    assert!(check_gateway(&rules("user eve", "user ada")).is_ok());
}

#[test]
fn a_rule_that_can_never_match_is_refused() {
    assert!(rules("user eve, project a/b", "group a, group a/b").check().is_ok());
    for (deny, expected) in [
        (Names { users: vec![String::new()], ..Names::default() }, "it is empty"),
        (names("user a/b"), "no '/'"),
        (names("group a/"), "at its ends"),
        (names("project p"), "full path"),
        (names("group a b"), "blank"),
    ] {
        let error = Rules { deny, allow: Names::default() }.check().unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("deny."), "{error}");
    }
}

/// From few words, so that they meet.
fn random_rules(random: &mut StdRng) -> Rules {
    let mut some = |words: &[&str]| -> Vec<String> {
        let count = random.random_range(0..3);
        let pick = |random: &mut StdRng| words[random.random_range(0..words.len())].to_owned();
        (0..count).map(|_| pick(random)).collect()
    };
    let mut names = || Names {
        users: some(&["ada", "bob", "eve"]),
        projects: some(&["a/b", "a/b/c", "a/bc/d", "x/y"]),
        projects_in_groups: some(&["a", "a/b", "a/bc", "x"]),
    };
    Rules { deny: names(), allow: names() }
}

#[test]
fn what_holds_for_all_rules() {
    let mut random = StdRng::seed_from_u64(7);
    let mut seen = [0; 2];
    for _ in 0..20_000 {
        let empty = random.next_u32() % 4;
        let profile = if empty & 1 == 0 { random_rules(&mut random) } else { Rules::default() };
        let instance = if empty & 2 == 0 { random_rules(&mut random) } else { Rules::default() };
        let user = ["ada", "bob", "eve", "zoe"][random.random_range(0..4)];
        let project = ["a/b", "a/b/c", "a/bc/d", "x/y", "z/z"][random.random_range(0..5)];
        let who = Requester { user: Some(user), project: Some(project) };
        let decision = decide(&profile, &instance, who);
        let context = format!("{profile:?} {instance:?} {who:?} {decision}");
        seen[usize::from(decision.allowed)] += 1;

        // An independent reading of the rules, level by level.
        let names = |names: &Names| {
            let below = |group: &String| project.starts_with(&format!("{group}/"));
            names.users.iter().any(|name| name == user)
                || names.projects.iter().any(|path| path == project)
                || names.projects_in_groups.iter().any(below)
        };
        let level = |rules: &Rules| match (names(&rules.deny), names(&rules.allow)) {
            (true, _) => Some(false),
            (false, true) => Some(true),
            (false, false) => None,
        };
        let default = profile == Rules::default() && instance == Rules::default();
        let expected = level(&profile).or_else(|| level(&instance)).unwrap_or(default);
        assert_eq!(decision.allowed, expected, "{context}");

        // One more denial never lets anybody in who was out, unless there were no rules to begin with.
        let mut stricter = profile.clone();
        stricter.deny.users.push("ada".to_owned());
        if !decision.allowed {
            assert!(!decide(&stricter, &instance, who).allowed, "{context}");
        }
        // Who is less known never gets further.
        for less in [Requester { user: None, ..who }, Requester { project: None, ..who }] {
            if !decision.allowed {
                assert!(!decide(&profile, &instance, less).allowed, "{context} {less:?}");
            }
        }
    }
    assert!(seen[0] > 1000 && seen[1] > 1000, "{seen:?}");
}
