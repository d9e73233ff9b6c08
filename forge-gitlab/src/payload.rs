//! A job as GitLab sends it. Unknown keys, missing keys and nulls are accepted wherever a job can do
//! without them: old and new servers differ, and a job that cannot be read is lost.
//!
//! Source: `app/presenters/ci/build_runner_presenter.rb` and `lib/api/entities/ci/job_request` of GitLab.
//! Nothing here has `Debug`: nearly everything may hold a secret.

use std::time::Duration;

use runner_core::{ReservationId, Secret};
use serde::{Deserialize, Deserializer, de::IgnoredAny};

/// The variable by which a job asks for the workers of a reservation. A payload has no tags, and a tag would
/// have to be added to the runner at GitLab first.
const RESERVED_FOR: &str = "RESERVED_FOR";

/// A job.
#[derive(Clone, Deserialize)]
pub(crate) struct Payload {
    pub id: u64,
    #[serde(deserialize_with = "secret")]
    pub token: Secret<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub allow_git_fetch: bool,
    #[serde(default, deserialize_with = "or_default")]
    pub job_info: JobInfo,
    #[serde(default, deserialize_with = "or_default")]
    pub git_info: GitInfo,
    #[serde(default, deserialize_with = "or_default")]
    pub runner_info: RunnerInfo,
    #[serde(default, deserialize_with = "list")]
    pub variables: Vec<Variable>,
    #[serde(default, deserialize_with = "list")]
    pub steps: Vec<Step>,
    #[serde(default, deserialize_with = "list")]
    pub hooks: Vec<Hook>,
    #[serde(default)]
    pub image: Option<Named>,
    #[serde(default, deserialize_with = "list")]
    pub services: Vec<Named>,
    #[serde(default, deserialize_with = "list")]
    pub artifacts: Vec<Artifact>,
    #[serde(default, deserialize_with = "list")]
    pub cache: Vec<Cache>,
    #[serde(default, deserialize_with = "list")]
    pub credentials: Vec<Credentials>,
    #[serde(default, deserialize_with = "or_default")]
    pub features: Features,
    #[serde(default, deserialize_with = "list")]
    pub dependencies: Vec<Dependency>,
    /// Steps in GitLab's own step language, which we do not offer.
    #[serde(default)]
    pub run: Option<IgnoredAny>,
}

#[derive(Clone, Default, Deserialize)]
pub(crate) struct JobInfo {
    #[serde(default, deserialize_with = "or_default")]
    pub project_id: u64,
    #[serde(default)]
    pub project_full_path: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
pub(crate) struct GitInfo {
    #[serde(default, deserialize_with = "or_default")]
    pub repo_url: String,
    #[serde(default, rename = "ref", deserialize_with = "or_default")]
    pub reference: String,
    #[serde(default, deserialize_with = "or_default")]
    pub sha: String,
    #[serde(default, deserialize_with = "list")]
    pub refspecs: Vec<String>,
    /// How many commits; 0 is all.
    #[serde(default, deserialize_with = "or_default")]
    pub depth: u64,
    #[serde(default)]
    pub repo_object_format: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
pub(crate) struct RunnerInfo {
    /// In seconds.
    #[serde(default, deserialize_with = "or_default")]
    timeout: u64,
}

impl RunnerInfo {
    /// How long the job may run: an hour where the server does not say.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(if self.timeout == 0 { 3600 } else { self.timeout })
    }
}

#[derive(Clone, Deserialize)]
pub(crate) struct Variable {
    pub key: String,
    #[serde(default, deserialize_with = "or_default")]
    pub value: String,
    #[serde(default, deserialize_with = "or_default")]
    pub masked: bool,
    #[serde(default, deserialize_with = "or_default")]
    pub file: bool,
    #[serde(default, deserialize_with = "or_default")]
    pub raw: bool,
}

#[derive(Clone, Deserialize)]
pub(crate) struct Step {
    pub name: String,
    #[serde(default, deserialize_with = "list")]
    pub script: Vec<String>,
    /// In seconds.
    #[serde(default, deserialize_with = "or_default")]
    pub timeout: u64,
    #[serde(default, deserialize_with = "or_default")]
    pub when: When,
    #[serde(default, deserialize_with = "or_default")]
    pub allow_failure: bool,
}

#[derive(Clone, Deserialize)]
pub(crate) struct Hook {
    pub name: String,
    #[serde(default, deserialize_with = "list")]
    pub script: Vec<String>,
}

/// An image or a service.
#[derive(Clone, Deserialize)]
pub(crate) struct Named {
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
}

#[derive(Clone, Deserialize)]
pub(crate) struct Artifact {
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub untracked: bool,
    #[serde(default, deserialize_with = "list")]
    pub paths: Vec<String>,
    #[serde(default, deserialize_with = "list")]
    pub exclude: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub when: When,
    #[serde(default)]
    pub expire_in: Option<String>,
    #[serde(default)]
    pub artifact_type: Option<String>,
    #[serde(default)]
    pub artifact_format: Option<String>,
}

#[derive(Clone, Deserialize)]
pub(crate) struct Cache {
    #[serde(default, deserialize_with = "or_default")]
    pub key: String,
    #[serde(default, deserialize_with = "or_default")]
    pub untracked: bool,
    #[serde(default, deserialize_with = "list")]
    pub paths: Vec<String>,
    #[serde(default)]
    pub policy: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub when: When,
    #[serde(default, deserialize_with = "list")]
    pub fallback_keys: Vec<String>,
}

#[derive(Clone, Deserialize)]
pub(crate) struct Credentials {
    #[serde(default, deserialize_with = "or_default")]
    pub password: String,
}

#[derive(Clone, Default, Deserialize)]
pub(crate) struct Features {
    #[serde(default, deserialize_with = "or_default")]
    pub trace_sections: bool,
    #[serde(default, deserialize_with = "list")]
    pub failure_reasons: Vec<String>,
    #[serde(default, deserialize_with = "list")]
    pub token_mask_prefixes: Vec<String>,
}

#[derive(Clone, Deserialize)]
pub(crate) struct Dependency {
    pub id: u64,
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    #[serde(deserialize_with = "secret")]
    pub token: Secret<String>,
    #[serde(default)]
    pub artifacts_file: Option<ArtifactsFile>,
}

#[derive(Clone, Deserialize)]
pub(crate) struct ArtifactsFile {
    #[serde(default, deserialize_with = "or_default")]
    pub filename: String,
}

/// On which outcome of the script something is done. What is not known counts as success only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum When {
    #[default]
    OnSuccess,
    OnFailure,
    Always,
}

impl When {
    pub(crate) fn holds(self, success: bool) -> bool {
        match self {
            Self::Always => true,
            Self::OnSuccess => success,
            Self::OnFailure => !success,
        }
    }
}

impl<'de> Deserialize<'de> for When {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = Option::<String>::deserialize(deserializer)?;
        Ok(match word.as_deref() {
            Some("always") => Self::Always,
            Some("on_failure") => Self::OnFailure,
            _ => Self::OnSuccess,
        })
    }
}

impl Payload {
    /// The value of a variable that GitLab itself sets, if nobody can have set it otherwise.
    ///
    /// A pipeline may set a variable of any name, and where in the list GitLab's own one then is depends on
    /// which refers to which. So one that is there twice with different values is nobody's word.
    pub(crate) fn given(&self, key: &str) -> Option<&str> {
        let mut values = self.variables.iter().filter(|v| v.key == key).map(|v| v.value.as_str());
        let first = values.next().filter(|value| !value.is_empty())?;
        values.all(|value| value == first).then_some(first)
    }

    /// The reservation on whose workers alone the job runs. The last word counts, as for any variable.
    ///
    /// # Errors
    /// `Invalid` for what cannot be a reservation.
    pub(crate) fn reserved_for(&self) -> runner_core::Result<Option<ReservationId>> {
        let last = self.variables.iter().rev().find(|variable| variable.key == RESERVED_FOR);
        let id = last.map(|variable| variable.value.trim()).filter(|id| !id.is_empty());
        id.map(ReservationId::new).transpose()
    }

    /// Who asks, as far as that is certain.
    pub(crate) fn requester(&self) -> runner_core::access::Requester<'_> {
        let path = self.job_info.project_full_path.as_deref().filter(|path| !path.is_empty());
        runner_core::access::Requester {
            user: self.given("GITLAB_USER_LOGIN"),
            project: path.or_else(|| self.given("CI_PROJECT_PATH")),
        }
    }
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret<String>, D::Error> {
    String::deserialize(deserializer).map(Secret::new)
}

fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A list that may be null, and may hold nulls.
fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let list = Option::<Vec<Option<T>>>::deserialize(deserializer)?;
    Ok(list.into_iter().flatten().flatten().collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nulls_and_unknown_keys_are_accepted() {
        let job: Payload = serde_json::from_value(json!({
            "id": 1, "token": "t", "new": {"key": 1}, "job_info": null, "git_info": null,
            "runner_info": {"timeout": null}, "variables": null, "steps": [null],
            "hooks": null, "image": null, "services": null, "artifacts": null, "cache": [null],
            "credentials": null, "features": null, "dependencies": null, "run": null,
        }))
        .ok()
        .unwrap();
        assert_eq!(job.runner_info.timeout(), Duration::from_secs(3600));
        assert!(job.steps.is_empty() && job.cache.is_empty());
        assert!(serde_json::from_value::<Payload>(json!({"id": 1, "token": "t"})).is_ok());
        assert!(serde_json::from_value::<Payload>(json!({"id": 1})).is_err());
    }

    #[test]
    fn what_somebody_may_have_set_is_not_believed() {
        let job = |variables: serde_json::Value, info: serde_json::Value| -> Payload {
            let job = json!({"id": 1, "token": "t", "variables": variables, "job_info": info});
            serde_json::from_value(job).ok().unwrap()
        };
        let user = |value: &str| json!({"key": "GITLAB_USER_LOGIN", "value": value});
        let path = |value: &str| json!({"key": "CI_PROJECT_PATH", "value": value});
        let plain = job(json!([user("ada"), path("g/p")]), json!({}));
        assert_eq!(plain.requester().user, Some("ada"));
        assert_eq!(plain.requester().project, Some("g/p"));
        for variables in [json!([user("eve"), user("ada")]), json!([user("ada"), user("eve")])] {
            assert_eq!(job(variables, json!({})).requester().user, None);
        }
        let told = job(json!([path("x/y"), path("g/p")]), json!({"project_full_path": "g/p"}));
        assert_eq!(told.requester().project, Some("g/p"));
        assert_eq!(job(json!([user("")]), json!({})).requester().user, None);
    }

    #[test]
    fn a_job_names_its_reservation() {
        let job = |values: &[&str]| -> Payload {
            let variables: Vec<_> =
                values.iter().map(|v| json!({"key": "RESERVED_FOR", "value": v})).collect();
            let job = json!({"id": 1, "token": "t", "variables": variables});
            serde_json::from_value(job).ok().unwrap()
        };
        let named = |values: &[&str]| job(values).reserved_for().unwrap().map(|id| id.to_string());
        assert_eq!(named(&[]), None);
        assert_eq!(named(&["mine", "yours "]).as_deref(), Some("yours"));
        assert_eq!(named(&["mine", ""]), None);
        assert!(job(&["../mine"]).reserved_for().is_err());
    }
}
