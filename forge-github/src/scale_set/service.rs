//! Groups, scale sets and their runners: what is made, looked up and removed outside of any session.

use bytes::Bytes;
use http::Method;
use runner_core::{Error, Result, Secret};
use serde_json::json;

use super::{
    connection::{ActionsService, Token},
    error::ServiceError,
    wire::{
        Group, JitConfig, List, RunnerReference, RunnerSetting, ScaleSet, ScaleSetBody, Statistics,
        WireLabel,
    },
};

/// For calls without a body.
const NOTHING: Option<&()> = None;

/// Where runners go that name no group.
pub const DEFAULT_GROUP: i64 = 1;

const SETS: &str = "_apis/runtime/runnerscalesets";
const AGENTS: &str = "_apis/distributedtask/pools/0/agents";

/// What a scale set should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScaleSetSpec {
    /// What jobs say in `runs-on`. Runners of a scale set have no other labels by themselves.
    pub name: String,
    /// Further labels, which github.com understands; GitHub Enterprise Server since 3.17.
    pub labels: Vec<String>,
    /// The group, by name; the default group without.
    pub group: Option<String>,
}

impl ScaleSetSpec {
    fn body(&self, group: i64) -> ScaleSetBody<'_> {
        let names = std::iter::once(&self.name).chain(&self.labels);
        ScaleSetBody {
            name: &self.name,
            runner_group_id: group,
            labels: names
                .map(|name| WireLabel { kind: "System".to_owned(), name: name.clone() })
                .collect(),
            runner_setting: RunnerSetting { disable_update: true },
        }
    }

    fn is_as_it_should_be(&self, found: &ScaleSet, group: i64) -> bool {
        let sorted = |labels: &[WireLabel]| {
            let mut names: Vec<_> =
                labels.iter().map(|label| label.name.to_ascii_lowercase()).collect();
            names.sort_unstable();
            names
        };
        found.runner_group_id == group && sorted(&found.labels) == sorted(&self.body(group).labels)
    }
}

impl ActionsService {
    /// The group of that name.
    ///
    /// # Errors
    /// `NotFound`; `Unauthorized`, `RateLimited`, `Backend`.
    pub async fn group(&self, name: &str) -> Result<Group> {
        let doing = format!("find runner group {name}");
        let path = "_apis/runtime/runnergroups/";
        let query = [("groupName", name)];
        let list: List<Group> =
            self.call(&doing, Method::GET, path, &query, NOTHING, Token::Admin).await?;
        let mut found = list.value.into_iter();
        found
            .find(|group| group.name.eq_ignore_ascii_case(name))
            .ok_or_else(|| Error::not_found(format!("runner group {name}")))
    }

    /// The scale set of that name in a group.
    ///
    /// # Errors
    /// `Unauthorized`, `RateLimited`, `Backend`.
    pub async fn find(&self, name: &str, group: i64) -> Result<Option<ScaleSet>> {
        let doing = format!("find scale set {name}");
        let group = group.to_string();
        let query = [("runnerGroupId", group.as_str()), ("name", name)];
        let list: List<ScaleSet> =
            self.call(&doing, Method::GET, SETS, &query, NOTHING, Token::Admin).await?;
        Ok(list.value.into_iter().find(|set| set.name.eq_ignore_ascii_case(name)))
    }

    /// Makes sure that there is a scale set as `spec` says: finds it, makes it, or changes it.
    ///
    /// # Errors
    /// `NotFound` for the group; `Unauthorized`, `RateLimited`, `Backend`.
    ///
    /// # Cancel safety
    /// May be dropped at any moment: repeat it.
    pub async fn ensure(&self, spec: &ScaleSetSpec) -> Result<ScaleSet> {
        let group = match &spec.group {
            Some(name) => self.group(name).await?.id,
            None => DEFAULT_GROUP,
        };
        let name = &spec.name;
        let body = spec.body(group);
        match self.find(name, group).await? {
            Some(found) if spec.is_as_it_should_be(&found, group) => Ok(found),
            Some(found) => {
                let doing = format!("change scale set {name}");
                let path = format!("{SETS}/{}", found.id);
                let call = self.call(&doing, Method::PATCH, &path, &[], Some(&body), Token::Admin);
                Ok(call.await?)
            }
            None => {
                let doing = format!("make scale set {name}");
                let call = self.call(&doing, Method::POST, SETS, &[], Some(&body), Token::Admin);
                Ok(call.await?)
            }
        }
    }

    /// Removes a scale set. One that does not exist is removed.
    ///
    /// # Errors
    /// `Unauthorized`, `RateLimited`, `Backend`.
    ///
    /// # Cancel safety
    /// May be dropped at any moment: repeat it.
    pub async fn delete(&self, scale_set: i64) -> Result<()> {
        let doing = format!("remove scale set {scale_set}");
        let path = format!("{SETS}/{scale_set}");
        let call = self.call_raw(&doing, Method::DELETE, &path, &[], NOTHING, Token::Admin);
        gone(&doing, call.await)
    }

    /// How many jobs and runners a scale set has now.
    ///
    /// # Errors
    /// `Unauthorized`, `RateLimited`, `Backend`.
    pub async fn statistics(&self, scale_set: i64) -> Result<Option<Statistics>> {
        let doing = format!("look at scale set {scale_set}");
        let path = format!("{SETS}/{scale_set}");
        let set: ScaleSet =
            self.call(&doing, Method::GET, &path, &[], NOTHING, Token::Admin).await?;
        Ok(set.statistics)
    }

    /// Registers a runner of a scale set that takes one job. A runner of that name that is there already,
    /// such as one whose answer got lost, gives way if it has no job.
    ///
    /// # Errors
    /// `Busy` when a runner of that name has a job; `Unauthorized`, `RateLimited`, `Backend`.
    ///
    /// # Cancel safety
    /// May be dropped at any moment: a runner that was made by then is found by its name.
    pub async fn register(
        &self,
        scale_set: i64,
        name: impl AsRef<str> + Send,
        work_folder: &str,
    ) -> Result<(RunnerReference, Secret<String>)> {
        let name = name.as_ref();
        match self.generate(scale_set, name, work_folder).await {
            Err(error) if error.is_name_taken() => {
                if let Some(runner) = self.runner(name).await? {
                    self.remove(&runner).await?;
                }
                Ok(self.generate(scale_set, name, work_folder).await?)
            }
            result => Ok(result?),
        }
    }

    async fn generate(
        &self,
        scale_set: i64,
        name: &str,
        work_folder: &str,
    ) -> Result<(RunnerReference, Secret<String>), ServiceError> {
        let doing = format!("register runner {name}");
        let path = format!("{SETS}/{scale_set}/generatejitconfig");
        let body = json!({ "name": name, "workFolder": work_folder });
        let JitConfig { runner, encoded } =
            self.call(&doing, Method::POST, &path, &[], Some(&body), Token::Admin).await?;
        Ok((runner, Secret::new(encoded)))
    }

    /// The runner of that name.
    ///
    /// # Errors
    /// `Unauthorized`, `RateLimited`, `Backend`.
    pub async fn runner(&self, name: impl AsRef<str> + Send) -> Result<Option<RunnerReference>> {
        let name = name.as_ref();
        let doing = format!("find runner {name}");
        let query = [("agentName", name)];
        let list: List<RunnerReference> =
            self.call(&doing, Method::GET, AGENTS, &query, NOTHING, Token::Admin).await?;
        Ok(list.value.into_iter().find(|runner| runner.name == name))
    }

    /// Removes a runner that has no job. One that does not exist is removed.
    ///
    /// # Errors
    /// `Busy` while it has a job; `Unauthorized`, `RateLimited`, `Backend`.
    ///
    /// # Cancel safety
    /// May be dropped at any moment: repeat it.
    pub async fn remove(&self, runner: &RunnerReference) -> Result<()> {
        let doing = format!("remove runner {}", runner.name);
        let path = format!("{AGENTS}/{}", runner.id);
        match self.call_raw(&doing, Method::DELETE, &path, &[], NOTHING, Token::Admin).await {
            Err(error) if error.is_running() => Err(Error::busy(format!("runner {}", runner.name))),
            result => gone(&doing, result),
        }
    }
}

/// What is removed now, or was not there. The service has nothing to say then; a page does not come from it.
fn gone(doing: &str, result: Result<Bytes, ServiceError>) -> Result<()> {
    match result {
        Ok(answer) if !answer.is_empty() => {
            let why = "a page came in place of the service's word that it is removed";
            Err(Error::backend("github", doing, std::io::Error::other(why)))
        }
        Err(error) if !error.is_missing() => Err(error.into()),
        _ => Ok(()),
    }
}
