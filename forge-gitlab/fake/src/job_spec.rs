//! What a job is to do, as somebody wrote it down for GitLab.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A job to be: a script, and everything that is optional.
///
/// The fields are what `.gitlab-ci.yml` has, in the words of the payload that a runner gets. What has no field
/// here goes into the payload by [`JobSpec::with_part`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct JobSpec {
    /// Unique within its pipeline.
    pub name: String,
    /// Jobs of a stage run when those of the stage before succeeded.
    pub stage: String,
    /// What to run, in order.
    pub steps: Vec<Step>,
    /// As `.gitlab-ci.yml` has them. Those of the project override them.
    pub variables: Vec<Variable>,
    /// What a runner must be able to do.
    pub tags: Vec<String>,
    /// What to run in.
    pub image: Option<Image>,
    /// What runs beside it.
    pub services: Vec<Image>,
    /// What is kept of it.
    pub artifacts: Vec<Artifacts>,
    /// What is kept from job to job.
    pub cache: Vec<Cache>,
    /// Names of the jobs whose artifacts it gets. `None` for all of the stages before.
    pub dependencies: Option<Vec<String>>,
    /// Names of the jobs that it waits for, instead of the stages before.
    pub needs: Option<Vec<String>>,
    /// How long it may take, in whole seconds. 1 h.
    pub timeout: Duration,
    /// Whether its pipeline succeeds without it.
    pub allow_failure: bool,
    /// Exit codes with which its pipeline succeeds without it.
    pub allow_failure_exit_codes: Vec<i32>,
    /// Whether it waits for somebody to start it.
    pub manual: bool,
    /// What it runs for: a branch or a tag.
    pub git: Git,
    /// Secrets from elsewhere, as the payload has them. `None` for none.
    pub secrets: Option<Value>,
    /// More parts of the payload, by name.
    pub(crate) parts: Vec<(String, Value)>,
    /// Parts of the payload that are not what GitLab would send, by JSON pointer.
    pub(crate) payload: Vec<(String, Value)>,
}

/// Part of a job.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Step {
    /// `script`, `after_script` or `release`.
    pub name: String,
    /// Lines of shell.
    pub script: Vec<String>,
    /// `on_success`, `on_failure` or `always`.
    pub when: String,
    /// Whether the job succeeds without it.
    pub allow_failure: bool,
    /// How long it may take, in whole seconds. `None` for as long as the job.
    pub timeout: Option<u64>,
}

/// A variable of a job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Variable {
    /// Its name.
    pub key: String,
    /// What it holds, or the contents of the file that it names.
    pub value: String,
    /// Whether everybody may know it.
    pub public: bool,
    /// Whether it must not be in the trace.
    pub masked: bool,
    /// Whether the job gets a file with the value, and its path.
    #[serde(default)]
    pub file: bool,
    /// Whether a `$` in it is just that.
    #[serde(default)]
    pub raw: bool,
}

/// An image, or a service.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Image {
    /// Such as `debian:13`.
    pub name: String,
    /// Another name for a service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// Instead of its own.
    pub entrypoint: Option<Vec<String>>,
    /// Instead of its own, for a service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// For a service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variables: Option<Vec<Variable>>,
    /// `always`, `if-not-present` or `never`, tried in order.
    pub pull_policy: Option<Vec<String>>,
}

/// Files of a job that are kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Artifacts {
    /// Of the archive.
    pub name: Option<String>,
    /// Whether what git does not know is among them.
    pub untracked: bool,
    /// Patterns.
    pub paths: Vec<String>,
    /// Patterns of what is not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// `on_success`, `on_failure` or `always`.
    pub when: String,
    /// For how long, such as `7d` or `1 week`; `never`, or `None`, for ever.
    pub expire_in: Option<String>,
    /// `archive`, or a kind of report such as `junit`.
    pub artifact_type: String,
    /// `zip`, `gzip` or `raw`.
    pub artifact_format: String,
}

/// Files that jobs hand on.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Cache {
    /// Jobs with the same key share.
    pub key: String,
    /// Whether what git does not know is among them.
    pub untracked: bool,
    /// Patterns.
    pub paths: Vec<String>,
    /// `pull-push`, `pull` or `push`.
    pub policy: String,
    /// `on_success`, `on_failure` or `always`.
    pub when: String,
    /// Where to look when there is nothing under the key.
    pub fallback_keys: Vec<String>,
}

/// What a job runs for.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Git {
    /// Name of the branch or tag.
    pub reference: String,
    /// Whether it is a tag.
    pub tag: bool,
    /// The commit.
    pub sha: String,
    /// What to fetch. Empty for GitLab's own choice.
    pub refspecs: Vec<String>,
    /// How many commits. 0 for all.
    pub depth: u32,
    /// Whether the pipeline is one of a merge request, for which a runner must know `refspecs`.
    pub merge_request: bool,
}

impl Default for Git {
    fn default() -> Self {
        Self {
            reference: "main".to_owned(),
            tag: false,
            sha: "b83d6e391c22777fca1ed3012fce84f633d7fed0".to_owned(),
            refspecs: Vec::new(),
            depth: 20,
            merge_request: false,
        }
    }
}

impl JobSpec {
    /// A job of the stage `test` that runs lines of shell.
    pub fn new(
        name: impl Into<String>,
        script: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        Self {
            name: name.into(),
            stage: "test".to_owned(),
            steps: vec![Step::new("script", script)],
            variables: Vec::new(),
            tags: Vec::new(),
            image: None,
            services: Vec::new(),
            artifacts: Vec::new(),
            cache: Vec::new(),
            dependencies: None,
            needs: None,
            timeout: Duration::from_secs(3600),
            allow_failure: false,
            allow_failure_exit_codes: Vec::new(),
            manual: false,
            git: Git::default(),
            secrets: None,
            parts: Vec::new(),
            payload: Vec::new(),
        }
    }

    /// With lines that run whatever became of the script.
    #[must_use]
    pub fn after(mut self, script: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let step = Step::new("after_script", script);
        self.steps.push(Step { when: "always".to_owned(), allow_failure: true, ..step });
        self
    }

    /// Of another stage.
    #[must_use]
    pub fn stage(mut self, stage: impl Into<String>) -> Self {
        self.stage = stage.into();
        self
    }

    /// For runners with these tags.
    #[must_use]
    pub fn tags(mut self, tags: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.tags = tags.into_iter().map(Into::into).collect();
        self
    }

    /// With a variable.
    #[must_use]
    pub fn variable(mut self, variable: Variable) -> Self {
        self.variables.push(variable);
        self
    }

    /// That keeps an archive of files.
    #[must_use]
    pub fn artifacts(mut self, paths: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.artifacts.push(Artifacts::archive(paths));
        self
    }

    /// That may take this long, in whole seconds.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// After these jobs, whatever their stage.
    #[must_use]
    pub fn needs(mut self, jobs: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.needs = Some(jobs.into_iter().map(Into::into).collect());
        self
    }

    /// With another part of the payload, as GitLab's description has it: `hooks`, `inputs`, `run`, `credentials`
    /// and so on.
    #[must_use]
    pub fn with_part(mut self, name: impl Into<String>, value: Value) -> Self {
        self.parts.push((name.into(), value));
        self
    }

    /// With another value anywhere in the payload, by JSON pointer, such as `/cache` and `[null]` of old servers. What the
    /// pointer's last part names is made when it is not there.
    ///
    /// Such a payload is not held to the description: it may be as odd as a client must be able to bear.
    #[must_use]
    pub fn with_payload(mut self, pointer: impl Into<String>, value: Value) -> Self {
        self.payload.push((pointer.into(), value));
        self
    }
}

impl Step {
    /// One that runs while all is well.
    pub fn new(
        name: impl Into<String>,
        script: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        Self {
            name: name.into(),
            script: script.into_iter().map(Into::into).collect(),
            when: "on_success".to_owned(),
            allow_failure: false,
            timeout: None,
        }
    }
}

impl Variable {
    /// One that everybody may know.
    pub fn new(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            value: value.into(),
            public: true,
            masked: false,
            file: false,
            raw: false,
        }
    }

    /// One that must not be in the trace.
    pub fn masked(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { public: false, masked: true, ..Self::new(key, value) }
    }

    /// One whose value a job finds in a file.
    pub fn file(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { public: false, file: true, ..Self::new(key, value) }
    }

    /// One in which a `$` is just that.
    pub fn raw(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { raw: true, ..Self::new(key, value) }
    }
}

impl Image {
    /// With nothing instead of its own.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            alias: None,
            entrypoint: None,
            command: None,
            variables: None,
            pull_policy: None,
        }
    }

    pub(crate) fn json(&self) -> Value {
        let mut image = json!(self);
        image["ports"] = json!([]);
        image["executor_opts"] = json!({});
        image
    }

    /// A service says more of itself than an image.
    pub(crate) fn service_json(&self) -> Value {
        let mut service = self.json();
        service["alias"] = json!(self.alias);
        service["command"] = json!(self.command);
        service["variables"] = json!(self.variables);
        service
    }
}

impl Artifacts {
    /// A zip file of what patterns name.
    pub fn archive(paths: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            name: None,
            untracked: false,
            paths: paths.into_iter().map(Into::into).collect(),
            exclude: Vec::new(),
            when: "on_success".to_owned(),
            expire_in: None,
            artifact_type: "archive".to_owned(),
            artifact_format: "zip".to_owned(),
        }
    }

    /// A report such as `junit`.
    pub fn report(
        kind: impl Into<String>,
        paths: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        Self {
            when: "always".to_owned(),
            artifact_type: kind.into(),
            artifact_format: "gzip".to_owned(),
            ..Self::archive(paths)
        }
    }
}

impl Cache {
    /// Pulled before, and pushed after a success.
    pub fn new(key: impl Into<String>, paths: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            key: key.into(),
            untracked: false,
            paths: paths.into_iter().map(Into::into).collect(),
            policy: "pull-push".to_owned(),
            when: "on_success".to_owned(),
            fallback_keys: Vec::new(),
        }
    }
}
