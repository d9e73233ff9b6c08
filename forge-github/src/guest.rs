//! The inside of a Linux guest: three shell scripts, what they are given, and what they report.
//!
//! [`START`] runs at boot: it takes the JIT configuration from the machine's user data, has the runner program
//! run one job, and switches the machine off. [`JOB_STARTED`] and [`JOB_COMPLETED`] are the runner program's
//! hooks: the first reports what is about to run, and can refuse it. All are plain POSIX shell, with a test on
//! busybox in a real machine.
//!
//! What the first hook reports is what GitHub told the runner program, before any step of the job has run. It
//! is a second fence, behind GitHub's runner groups, and no wall: a workflow that may run at all can take its
//! time to attack the next hook, in a machine that is single-use.

use std::{collections::BTreeSet, fmt};

use runner_core::{Error, Result, Secret};
use url::Url;

use crate::scope::RepositoryName;

/// To be run at boot, as root.
pub const START: &str = include_str!("../guest/start.sh");

/// To be called `job-started.sh`, beside [`START`].
pub const JOB_STARTED: &str = include_str!("../guest/job-started.sh");

/// To be called `job-completed.sh`, beside [`START`].
pub const JOB_COMPLETED: &str = include_str!("../guest/job-completed.sh");

/// The longest report that is read, in bytes. The hooks send less.
pub const MOST_REPORT_BYTES: usize = 16 << 10;

/// Where the hooks of one machine report to.
pub struct Monitor {
    /// The address before `/job-started` and `/job-completed`.
    pub url: Url,
    /// Good for this machine alone, as its job can read it.
    pub token: Secret<String>,
    /// What becomes of a job when nobody answers there.
    pub when_unheard: WhenUnheard,
}

/// What becomes of a job when the monitor does not answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WhenUnheard {
    /// It runs.
    #[default]
    Run,
    /// It fails.
    Refuse,
}

/// What [`START`] is to find as the machine's user data: without a monitor, the JIT configuration and
/// nothing else.
///
/// # Errors
/// `Invalid` when the configuration or the token is more than one word.
pub fn user_data(jit_config: &Secret<String>, monitor: Option<&Monitor>) -> Result<Secret<String>> {
    let jit_config = word("JIT configuration", jit_config)?;
    let Some(Monitor { url, token, when_unheard }) = monitor else {
        return Ok(Secret::new(jit_config.to_owned()));
    };
    let when_unheard = match when_unheard {
        WhenUnheard::Run => "run",
        WhenUnheard::Refuse => "refuse",
    };
    let (token, url) = (word("token for a machine", token)?, url.as_str().trim_end_matches('/'));
    Ok(Secret::new(format!(
        "jit-config={jit_config}\nmonitor-url={url}\nmonitor-token={token}\nwhen-unheard={when_unheard}\n"
    )))
}

fn word<'a>(what: &str, secret: &'a Secret<String>) -> Result<&'a str> {
    let text = secret.expose();
    // What base64 and hexadecimal are made of, and JSON web tokens.
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"+/=_-.".contains(&b);
    if text.is_empty() || !text.bytes().all(plain) {
        return Err(Error::invalid(what, "it must be one word of letters, digits and +/=_-."));
    }
    Ok(text)
}

/// What a job's machine tells of it. What was not told is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobReport {
    /// `OWNER/NAME`.
    pub repository: String,
    /// What started the run, such as `pull_request`.
    pub event: String,
    /// Such as `refs/heads/main`.
    pub reference: String,
    /// The branch that a pull request is to merge.
    pub head_ref: String,
    /// The commit.
    pub sha: String,
    /// Whose doing it is.
    pub actor: String,
    /// The workflow's name.
    pub workflow: String,
    /// Where the workflow is from, such as `octo/hello/.github/workflows/ci.yml@refs/heads/main`.
    pub workflow_ref: String,
    /// The job's key in the workflow.
    pub job: String,
    /// The workflow run.
    pub run: String,
    /// Which attempt of it.
    pub attempt: String,
    /// The runner.
    pub runner: String,
}

impl JobReport {
    /// Reads what a hook sent.
    ///
    /// # Errors
    /// `Invalid` when it is too long, no text, or no lines of `name=value`.
    pub fn parse(body: &[u8]) -> Result<Self> {
        let invalid = |reason: &str| Error::invalid("report of a job", reason);
        if body.len() > MOST_REPORT_BYTES {
            return Err(invalid("it is longer than 16 KiB"));
        }
        // Values are cut by bytes, perhaps within a character.
        let text = String::from_utf8_lossy(body);
        let mut report = Self::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once('=').ok_or_else(|| invalid("a line has no ="))?;
            let field = match name {
                "repository" => &mut report.repository,
                "event" => &mut report.event,
                "ref" => &mut report.reference,
                "head-ref" => &mut report.head_ref,
                "sha" => &mut report.sha,
                "actor" => &mut report.actor,
                "workflow" => &mut report.workflow,
                "workflow-ref" => &mut report.workflow_ref,
                "job" => &mut report.job,
                "run" => &mut report.run,
                "attempt" => &mut report.attempt,
                "runner" => &mut report.runner,
                // Of a hook that is newer.
                _ => continue,
            };
            *field = value.chars().filter(|c| !c.is_control()).collect();
        }
        Ok(report)
    }
}

/// Which jobs may run. An empty set admits all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobPolicy {
    /// By whole name.
    pub repositories: BTreeSet<RepositoryName>,
    /// Such as `push`.
    pub events: BTreeSet<String>,
    /// Such as `refs/heads/main`.
    pub references: BTreeSet<String>,
    /// By login, whatever its case.
    pub actors: BTreeSet<String>,
}

/// What a hook is told. `Display` is the answer's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The job may run.
    Allow,
    /// It may not, for this reason, which its log shows.
    Refuse(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allow => f.write_str("allow\n"),
            Self::Refuse(reason) => writeln!(f, "refuse {reason}"),
        }
    }
}

impl JobPolicy {
    /// Judges a job by its report.
    pub fn judge(&self, report: &JobReport) -> Verdict {
        let repository = RepositoryName::new(report.repository.as_str());
        let actor = &report.actor;
        let checks = [
            (
                self.repositories.is_empty()
                    || repository.is_ok_and(|name| self.repositories.contains(&name)),
                "repository",
                &report.repository,
            ),
            (admits(&self.events, &report.event), "event", &report.event),
            (admits(&self.references, &report.reference), "ref", &report.reference),
            (
                self.actors.is_empty()
                    || self.actors.iter().any(|known| known.eq_ignore_ascii_case(actor)),
                "actor",
                actor,
            ),
        ];
        match checks.into_iter().find(|(admitted, ..)| !admitted) {
            None => Verdict::Allow,
            Some((_, what, value)) => {
                Verdict::Refuse(format!("{what} {value:?} may not use this runner"))
            }
        }
    }
}

fn admits(set: &BTreeSet<String>, value: &str) -> bool {
    set.is_empty() || set.contains(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_is_the_configuration_or_lines_that_hold_it() {
        let jit = Secret::new("YWJj".to_owned());
        assert_eq!(user_data(&jit, None).unwrap().expose(), "YWJj");
        let monitor = Monitor {
            url: "http://10.0.2.2:8080/github/".parse().unwrap(),
            token: Secret::new("t-1".to_owned()),
            when_unheard: WhenUnheard::Refuse,
        };
        assert_eq!(
            user_data(&jit, Some(&monitor)).unwrap().expose(),
            "jit-config=YWJj\nmonitor-url=http://10.0.2.2:8080/github\nmonitor-token=t-1\nwhen-unheard=refuse\n"
        );
        for odd in ["", "a b", "a\nmonitor-url=http://evil", "$(reboot)"] {
            assert!(user_data(&Secret::new(odd.to_owned()), None).is_err(), "{odd}");
        }
    }

    #[test]
    fn a_report_is_read_whatever_is_missing_or_new() {
        let report =
            b"repository=octo/hello\nevent=push\nref=refs/heads/a=b\nnew=1\n\nrunner=r-1\n";
        let report = JobReport::parse(report).unwrap();
        assert_eq!((&*report.repository, &*report.reference), ("octo/hello", "refs/heads/a=b"));
        assert_eq!((&*report.actor, &*report.runner), ("", "r-1"));
        assert!(JobReport::parse(b"nonsense").is_err());
        assert!(JobReport::parse(&vec![b'='; MOST_REPORT_BYTES + 1]).is_err());
        let cut = JobReport::parse(b"workflow=caf\xc3").unwrap();
        assert_eq!(cut.workflow, "caf\u{fffd}");
    }

    #[test]
    fn a_policy_names_what_it_refuses() {
        let report = JobReport {
            repository: "octo/hello".to_owned(),
            event: "pull_request".to_owned(),
            reference: "refs/pull/1/merge".to_owned(),
            actor: "Mona".to_owned(),
            ..JobReport::default()
        };
        let mut policy = JobPolicy::default();
        assert_eq!(policy.judge(&report), Verdict::Allow);
        policy.repositories = ["Octo/Hello".parse().unwrap()].into();
        policy.actors = ["mona".to_owned()].into();
        assert_eq!(policy.judge(&report), Verdict::Allow);
        policy.events = ["push".to_owned()].into();
        let verdict = policy.judge(&report);
        let answer = "refuse event \"pull_request\" may not use this runner\n";
        assert_eq!(verdict.to_string(), answer);
        for name in ["octo/hello-evil", "octo", "", "evil/hello"] {
            let other = JobReport { repository: name.to_owned(), ..JobReport::default() };
            assert!(matches!(policy.judge(&other), Verdict::Refuse(_)), "{name}");
        }
    }
}
