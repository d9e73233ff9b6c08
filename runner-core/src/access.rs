//! Who may use a runner: a pure decision over what a forge says of a job.
//!
//! Rules come in two levels: those of one *profile* (or gateway runner), and those of the whole *instance*
//! of the forge. Within a level what is denied is denied, whatever is allowed beside it. The profile's level
//! decides first; only what none of its rules names reaches the instance's. Where nothing matches, a job may
//! run if there is no rule anywhere; whoever wrote a single rule cares, and then it may not.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Names of users, projects and groups. Compared without regard to ASCII case, as forges do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Names {
    /// Names of users who start jobs.
    #[serde(default)]
    pub users: Vec<String>,
    /// Full paths of projects, such as `group/project` or `owner/repository`.
    #[serde(default)]
    pub projects: Vec<String>,
    /// Full paths of groups, or owners: of each, all projects in it and in its subgroups, however deep.
    #[serde(default)]
    pub projects_in_groups: Vec<String>,
}

/// The rules of one level.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// Looked at first.
    #[serde(default)]
    pub deny: Names,
    /// Looked at where nothing is denied.
    #[serde(default)]
    pub allow: Names,
}

/// What is known of a job. What a forge does not tell for certain is none, and matches no name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requester<'a> {
    /// The name of the user who started it.
    pub user: Option<&'a str>,
    /// The full path of the project it belongs to.
    pub project: Option<&'a str>,
}

/// Which level a rule is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// One profile's, or one gateway runner's: the specific one.
    Profile,
    /// The whole instance's of the forge.
    Instance,
}

/// Which list of names a rule is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// [`Names::users`].
    User,
    /// [`Names::projects`].
    Project,
    /// [`Names::projects_in_groups`].
    Group,
}

/// Why a decision is what it is. Its text is made for whoever wonders about the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// This rule names the job.
    Rule {
        /// Where the rule is.
        level: Level,
        /// Whether it is a rule to deny.
        denies: bool,
        /// What it names.
        kind: Kind,
        /// The name, as it is written in the rule.
        name: String,
    },
    /// There is no rule at either level.
    NoRules,
    /// There are rules, and none names the job.
    NoRuleMatches,
}

/// Whether a job may run, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether it may.
    pub allowed: bool,
    /// Why.
    pub reason: Reason,
}

/// Decides whether a job of `requester` may run where these rules hold.
///
/// Who is not known cannot be denied by name, and must not get further for it: at a level that denies users, no
/// rule to allow helps a job of an unknown user, nor does the next level. The same holds for projects and
/// groups where the project is unknown.
///
/// # Examples
/// ```
/// use runner_core::access::{Names, Requester, Rules, decide};
///
/// let names = |users: &[&str]| Names {
///     users: users.iter().map(|name| (*name).to_owned()).collect(),
///     ..Names::default()
/// };
/// let profile = Rules { deny: names(&["eve"]), allow: names(&["ada", "eve"]) };
/// let ask = |user| {
///     let requester = Requester { user: Some(user), project: None };
///     decide(&profile, &Rules::default(), requester)
/// };
/// assert!(ask("ada").allowed);
/// assert_eq!(ask("eve").to_string(), "refused: the profile's rules deny user \"eve\"");
/// assert_eq!(ask("bob").to_string(), "refused: no rule allows it");
/// ```
pub fn decide(profile: &Rules, instance: &Rules, requester: Requester<'_>) -> Decision {
    if profile.is_empty() && instance.is_empty() {
        return Decision { allowed: true, reason: Reason::NoRules };
    }
    for (level, rules) in [(Level::Profile, profile), (Level::Instance, instance)] {
        if let Some((kind, name)) = rules.deny.find(requester) {
            return Decision::by_rule(level, true, kind, name);
        }
        if rules.deny.may_name_unseen(requester) {
            break;
        }
        if let Some((kind, name)) = rules.allow.find(requester) {
            return Decision::by_rule(level, false, kind, name);
        }
    }
    Decision { allowed: false, reason: Reason::NoRuleMatches }
}

/// Refuses a gateway runner, whose jobs run on the host itself, that is open to everybody.
///
/// # Errors
/// `Invalid` unless its own rules allow somebody.
pub fn check_gateway(gateway: &Rules) -> Result<()> {
    gateway.check()?;
    if gateway.allow.is_empty() {
        return Err(Error::invalid(
            "the access to a gateway runner",
            "its jobs run on the host itself: name at least one user, project or group to allow",
        ));
    }
    Ok(())
}

impl Names {
    /// Whether nobody is named.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.projects.is_empty() && self.projects_in_groups.is_empty()
    }

    fn find(&self, requester: Requester<'_>) -> Option<(Kind, &str)> {
        let users = self.users.iter().map(|name| (Kind::User, name));
        let projects = self.projects.iter().map(|name| (Kind::Project, name));
        let groups = self.projects_in_groups.iter().map(|name| (Kind::Group, name));
        let mut all = users.chain(projects).chain(groups);
        let names = |kind: Kind, name: &str| match kind {
            Kind::User => requester.user.is_some_and(|user| user.eq_ignore_ascii_case(name)),
            Kind::Project => requester.project.is_some_and(|path| path.eq_ignore_ascii_case(name)),
            Kind::Group => requester.project.is_some_and(|path| is_in_group(path, name)),
        };
        let found = all.find(|(kind, name)| names(*kind, name));
        found.map(|(kind, name)| (kind, name.as_str()))
    }

    /// Whether it names things of a kind that is not known of the job.
    fn may_name_unseen(&self, requester: Requester<'_>) -> bool {
        let projects = !self.projects.is_empty() || !self.projects_in_groups.is_empty();
        (requester.user.is_none() && !self.users.is_empty())
            || (requester.project.is_none() && projects)
    }
}

impl Rules {
    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.deny.is_empty() && self.allow.is_empty()
    }

    /// Refuses names that can never match, before they surprise somebody.
    ///
    /// # Errors
    /// `Invalid` naming the rule: for an empty name, one with a blank, a path that begins or ends with `/`,
    /// a user with a `/`, and a project without one.
    pub fn check(&self) -> Result<()> {
        for (list, names) in [("deny", &self.deny), ("allow", &self.allow)] {
            for (field, values) in [
                ("users", &names.users),
                ("projects", &names.projects),
                ("projects_in_groups", &names.projects_in_groups),
            ] {
                for value in values {
                    let reason = if value.is_empty() {
                        "it is empty"
                    } else if value.contains(char::is_whitespace) {
                        "it holds a blank"
                    } else if field == "users" && value.contains('/') {
                        "the name of a user has no '/'"
                    } else if value.starts_with('/') || value.ends_with('/') {
                        "leave the '/' at its ends out"
                    } else if field == "projects" && !value.contains('/') {
                        "write the full path of the project, with its group"
                    } else {
                        continue;
                    };
                    return Err(Error::invalid(format!("{list}.{field} {value:?}"), reason));
                }
            }
        }
        Ok(())
    }
}

/// Whether a project is in a group or below it: `a/b` holds `a/b/c`, and not `a/bc`.
fn is_in_group(project: &str, group: &str) -> bool {
    project.as_bytes().get(group.len()) == Some(&b'/')
        && project.get(..group.len()).is_some_and(|start| start.eq_ignore_ascii_case(group))
}

impl Decision {
    fn by_rule(level: Level, denies: bool, kind: Kind, name: &str) -> Self {
        let reason = Reason::Rule { level, denies, kind, name: name.to_owned() };
        Self { allowed: !denies, reason }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", if self.allowed { "allowed" } else { "refused" }, self.reason)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRules => f.write_str("there are no rules"),
            Self::NoRuleMatches => f.write_str("no rule allows it"),
            Self::Rule { level, denies, kind, name } => {
                let level = match level {
                    Level::Profile => "profile",
                    Level::Instance => "instance",
                };
                let verb = if *denies { "deny" } else { "allow" };
                let kind = match kind {
                    Kind::User => "user",
                    Kind::Project => "project",
                    Kind::Group => "the projects in group",
                };
                write!(f, "the {level}'s rules {verb} {kind} {name:?}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_holds_what_is_below_it_and_not_what_merely_begins_like_it() {
        for (project, group, holds) in [
            ("a/b/c", "a/b", true),
            ("a/b/c/d", "a/b", true),
            ("a/b/c", "a", true),
            ("A/B/c", "a/b", true),
            ("a/bc/d", "a/b", false),
            ("a/b", "a/b", false),
            ("a", "a/b", false),
            ("b/a/b/c", "a/b", false),
            ("é/b", "a", false),
            ("aé/b", "aé", true),
            ("aé/b", "ab", false),
            ("", "", false),
        ] {
            assert_eq!(is_in_group(project, group), holds, "{project} in {group}");
        }
    }
}
