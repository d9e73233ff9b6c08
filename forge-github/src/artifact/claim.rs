//! What a workflow claims, in its request and in its artifact.

use std::collections::BTreeMap;

use runner_core::ProfileName;
use uuid::Uuid;

use super::Refusal;
use crate::scope::RepositoryName;

/// What a request says of itself. None of it is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// What the workflow made up to identify the reservation.
    pub unique_id: Uuid,
    /// The repository that the workflow runs in.
    pub repository: RepositoryName,
    /// The workflow run.
    pub run: u64,
}

impl Claim {
    /// Reads the three parameters of a request.
    ///
    /// # Errors
    /// [`Refusal::Malformed`], naming the parameter.
    pub fn parse(unique_id: &str, qualified_repo: &str, run_id: &str) -> Result<Self, Refusal> {
        let malformed = |name: &str, rule: &str| Refusal::Malformed(format!("{name} {rule}"));
        // One of its several ways to be written, so that nobody has several of one.
        let unique_id = Uuid::try_parse(unique_id)
            .ok()
            .filter(|id| id.hyphenated().to_string() == unique_id && !id.is_nil())
            .ok_or_else(|| malformed("unique_id", "must be a UUID, in lower case with hyphens"))?;
        let repository = RepositoryName::new(qualified_repo)
            .map_err(|_| malformed("qualified_repo", "must be OWNER/NAME"))?;
        let digits = run_id.len() <= 20 && run_id.bytes().all(|b| b.is_ascii_digit());
        let run = run_id.parse().ok().filter(|run| digits && *run > 0);
        let run = run.ok_or_else(|| malformed("run_id", "must be a number above 0"))?;
        Ok(Self { unique_id, repository, run })
    }
}

/// What an artifact says: lines of `name=value`. Names that are not known are left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) claim: Claim,
    pub(super) profile: Option<ProfileName>,
    pub(super) count: u32,
}

impl Statement {
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        let malformed = |what: String| Err(Refusal::Archive(what));
        let mut values = BTreeMap::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let Some((name, value)) = line.split_once('=') else {
                return malformed("it has a line without =".to_owned());
            };
            if values.insert(name, value).is_some() {
                return malformed(format!("it says {name} twice"));
            }
        }
        let value = |name: &str| values.get(name).copied().unwrap_or_default();
        let claim = Claim::parse(value("unique_id"), value("qualified_repo"), value("run_id"))
            .map_err(|refusal| Refusal::Archive(refusal.to_string()))?;
        let profile = match value("self_hosted_image_name") {
            "" => None,
            name => match ProfileName::new(name) {
                Ok(profile) => Some(profile),
                Err(error) => return malformed(error.to_string()),
            },
        };
        let count = match values.get("self_hosted_runner_count") {
            None => Some(1),
            Some(count) => count.parse().ok().filter(|count| *count > 0),
        };
        match count {
            Some(count) => Ok(Self { claim, profile, count }),
            None => malformed("self_hosted_runner_count must be a number above 0".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "6bd7a3a6-8d29-4d4e-9a0e-0a2f3f1b7c55";

    #[test]
    fn a_claim_has_one_way_to_be_written() {
        assert!(Claim::parse(ID, "servo/servo", "7").is_ok());
        let upper = ID.to_uppercase();
        let plain = ID.replace('-', "");
        for (id, repository, run) in [
            ("", "servo/servo", "7"),
            (&*upper, "servo/servo", "7"),
            (&*plain, "servo/servo", "7"),
            ("00000000-0000-0000-0000-000000000000", "servo/servo", "7"),
            (ID, "servo", "7"),
            (ID, "servo/servo/x", "7"),
            (ID, "servo/..", "7"),
            (ID, "servo/servo", "0"),
            (ID, "servo/servo", "+7"),
            (ID, "servo/servo", "7/../8"),
            (ID, "servo/servo", "99999999999999999999"),
        ] {
            assert!(Claim::parse(id, repository, run).is_err(), "{id} {repository} {run}");
        }
    }

    #[test]
    fn a_statement_is_lines_of_which_some_may_be_missing() {
        let text = format!("unique_id={ID}\r\nqualified_repo=servo/servo\nrun_id=7\n\nextra=x=y\n");
        let statement = Statement::parse(&text).unwrap();
        assert_eq!((statement.profile, statement.count), (None, 1));
        let more = format!("{text}self_hosted_image_name=linux\nself_hosted_runner_count=3\n");
        let statement = Statement::parse(&more).unwrap();
        assert_eq!((statement.profile.unwrap().as_str(), statement.count), ("linux", 3));
        for addition in [
            "run_id=7",
            "nonsense",
            "self_hosted_runner_count=0",
            "self_hosted_runner_count=-1",
            "self_hosted_runner_count=4294967296",
            "self_hosted_runner_count=",
            "self_hosted_image_name=../x",
        ] {
            assert!(Statement::parse(&format!("{text}{addition}")).is_err(), "{addition}");
        }
        assert!(Statement::parse("").is_err());
    }
}
