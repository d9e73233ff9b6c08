//! Who may use the runners of a GitHub: what a job's machine tells before the first step is held against the
//! rules of its profile.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{PoisonError, RwLock, RwLockReadGuard},
};

use forge_github::guest::{JobReport, Verdict, WhenUnheard};
use runner_core::{
    ProfileName, Result,
    access::{Requester, Rules, decide},
};

use crate::{
    config,
    remote::{JobTold, Moment},
};

/// The rules, as the configuration has them now.
pub(super) struct Access(RwLock<All>);

#[derive(Default)]
struct All {
    /// Of the whole GitHub.
    instance: Rules,
    profiles: BTreeMap<ProfileName, Rules>,
}

impl Access {
    pub fn new(section: &config::GithubConfig) -> Self {
        let (instance, profiles) = (section.access.clone(), profiles(section));
        Self(RwLock::new(All { instance, profiles }))
    }

    /// Takes on what an edited configuration says. Profiles that are gone keep theirs, as long as they have
    /// machines.
    pub fn configure(&self, section: &config::GithubConfig) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.instance.clone_from(&section.access);
        all.profiles.extend(profiles(section));
    }

    fn all(&self) -> RwLockReadGuard<'_, All> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What becomes of a job whose machine is not answered. Where there are rules, none runs unjudged.
    pub fn when_unheard(&self, profile: &ProfileName) -> WhenUnheard {
        let all = self.all();
        let is_free = all.profiles.get(profile).is_none_or(Rules::is_empty);
        if is_free && all.instance.is_empty() { WhenUnheard::Run } else { WhenUnheard::Refuse }
    }

    /// Takes in a report, and judges a job that is about to begin.
    pub fn judge(&self, profile: &ProfileName, moment: Moment, report: &[u8]) -> Result<JobTold> {
        let report = JobReport::parse(report)?;
        let told = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let (user, project) = (told(&report.actor), told(&report.repository));
        let requester = Requester { user: user.as_deref(), project: project.as_deref() };
        let none = Rules::default();
        let decision = {
            let all = self.all();
            decide(all.profiles.get(profile).unwrap_or(&none), &all.instance, requester)
        };
        let refused =
            (moment == Moment::Started && !decision.allowed).then(|| decision.reason.to_string());
        let verdict = refused.clone().map_or(Verdict::Allow, Verdict::Refuse);
        Ok(JobTold { job: shown(&report), refused, answer: verdict.to_string() })
    }
}

fn profiles(section: &config::GithubConfig) -> BTreeMap<ProfileName, Rules> {
    let each = section.profiles.iter();
    each.map(|(name, says)| (name.clone(), says.access.clone())).collect()
}

/// A report in words. The machine is a stranger's: what it says is quoted, and cut.
fn shown(report: &JobReport) -> String {
    let cut = |text: &str| text.chars().take(100).collect::<String>();
    let mut words = format!("job {:?} of {:?}", cut(&report.job), cut(&report.repository));
    let more = [
        ("workflow", &report.workflow),
        ("event", &report.event),
        ("ref", &report.reference),
        ("actor", &report.actor),
        ("run", &report.run),
    ];
    for (name, value) in more.into_iter().filter(|(_, value)| !value.is_empty()) {
        let _ = write!(words, ", {name} {:?}", cut(value));
    }
    words
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    fn access(profile: &str) -> Access {
        Access::new(&section("mallory", profile))
    }

    fn section(denied: &str, profile: &str) -> config::GithubConfig {
        let text = format!(
            "[guests]\nlisten = \"127.0.0.1:8001\"\n[[github]]\nname = \"github\"\n\
             url = \"https://github.com/acme\"\ntoken = {{ file = \"t\" }}\nrepositories = [\"acme/a\"]\n\
             deny = {{ users = [\"{denied}\"] }}\n[[profile]]\nname = \"linux\"\nforge = \"github\"\n\
             image = {{ kind = \"micro\" }}\nmemory = \"1GiB\"\n{profile}"
        );
        let mut config = Config::parse(Path::new("monitor.toml"), &text).unwrap();
        config.githubs.remove(0)
    }

    fn judge(access: &Access, moment: Moment, report: &str) -> JobTold {
        let profile = ProfileName::new("linux").unwrap();
        access.judge(&profile, moment, report.as_bytes()).unwrap()
    }

    #[test]
    fn a_job_is_held_against_the_rules_of_its_profile_and_then_of_its_forge() {
        let access = access("allow = { projects_in_groups = [\"acme\"] }\n");
        for (report, refused) in [
            ("repository=acme/a\nactor=ada", None),
            ("repository=Acme/b\nactor=mallory", None),
            ("repository=acme-evil/a\nactor=ada", Some("no rule allows it")),
            (
                "repository=other/a\nactor=mallory",
                Some("the instance's rules deny user \"mallory\""),
            ),
            ("actor=ada", Some("no rule allows it")),
            ("", Some("no rule allows it")),
        ] {
            let told = judge(&access, Moment::Started, report);
            assert_eq!(told.refused.as_deref(), refused, "{report}");
            let answer = refused.map_or("allow\n".to_owned(), |why| format!("refuse {why}\n"));
            assert_eq!(told.answer, answer);
        }
        // What is over cannot be refused any more.
        let over = judge(&access, Moment::Completed, "repository=other/a");
        assert_eq!(over.refused, None);
    }

    #[test]
    fn where_there_are_rules_no_job_runs_unjudged() {
        let profile = ProfileName::new("linux").unwrap();
        assert_eq!(access("").when_unheard(&profile), WhenUnheard::Refuse);
        let free = Access(RwLock::default());
        assert_eq!(free.when_unheard(&profile), WhenUnheard::Run);
        assert_eq!(judge(&free, Moment::Started, "actor=eve").refused, None);
    }

    #[test]
    fn an_edit_holds_for_the_next_job() {
        let access = access("");
        let refused = |actor: &str| {
            let report = format!("repository=acme/a\nactor={actor}");
            judge(&access, Moment::Started, &report).refused
        };
        let denied = |user: &str| Some(format!("the instance's rules deny user \"{user}\""));
        assert_eq!(refused("mallory"), denied("mallory"));
        access.configure(&section("eve", ""));
        assert_eq!(refused("eve"), denied("eve"));
        assert_eq!(refused("mallory").as_deref(), Some("no rule allows it"));
    }

    #[test]
    fn what_a_machine_says_is_quoted_and_cut() {
        let free = Access(RwLock::default());
        let report = format!("repository=a/b\njob=x\"y\nworkflow={}", "w".repeat(500));
        let told = judge(&free, Moment::Started, &report);
        assert!(told.job.starts_with("job \"x\\\"y\" of \"a/b\", workflow \"www"), "{}", told.job);
        assert!(told.job.len() < 200, "{}", told.job);
    }
}
