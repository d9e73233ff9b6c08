//! What a job consists of, in which order, and which of it is done after which outcome.

use crate::{payload::Payload, script::is_after_script};

/// A stage of a job. Each is a section of the trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Says what runs it, and puts the files of variables in place.
    Prepare,
    /// The hook of this index, before or after the sources.
    Hook(usize),
    Sources,
    RestoreCache,
    Dependencies,
    /// The step of this index.
    Step(usize),
    StoreCache,
    Upload,
}

/// How it is with a job when a stage's turn comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SoFar {
    Well,
    Failed,
    /// It is to end, and to clear up after itself.
    Cancelled,
}

/// All stages of a job, in order.
pub(crate) fn stages(job: &Payload) -> Vec<Stage> {
    let hooks = |name: &'static str| {
        let named = job.hooks.iter().enumerate().filter(move |(_, hook)| hook.name == name);
        named.map(|(n, _)| Stage::Hook(n))
    };
    let mut stages = vec![Stage::Prepare];
    stages.extend(hooks("pre_get_sources_script"));
    stages.push(Stage::Sources);
    stages.extend(hooks("post_get_sources_script"));
    if !job.cache.is_empty() {
        stages.push(Stage::RestoreCache);
    }
    if job.dependencies.iter().any(|dependency| dependency.artifacts_file.is_some()) {
        stages.push(Stage::Dependencies);
    }
    let steps = |after: bool| {
        let steps = job.steps.iter().enumerate();
        steps.filter(move |(_, step)| is_after_script(step) == after).map(|(n, _)| Stage::Step(n))
    };
    stages.extend(steps(false));
    stages.extend(steps(true));
    if !job.cache.is_empty() {
        stages.push(Stage::StoreCache);
    }
    if !job.artifacts.is_empty() {
        stages.push(Stage::Upload);
    }
    stages
}

impl Stage {
    /// Whether it is done. As at gitlab-runner, a job whose script was never begun has nothing to clear up
    /// after, and one that is cancelled before that is over at once.
    pub(crate) fn is_due(self, job: &Payload, so_far: SoFar, scripted: bool) -> bool {
        let success = so_far == SoFar::Well;
        let over = so_far == SoFar::Cancelled && !scripted;
        match self {
            Self::Prepare
            | Self::Hook(_)
            | Self::Sources
            | Self::RestoreCache
            | Self::Dependencies => success,
            Self::Step(n) => {
                let step = &job.steps[n];
                let has_lines = step.script.iter().any(|line| !line.trim().is_empty());
                let wanted = match so_far {
                    SoFar::Cancelled => is_after_script(step),
                    SoFar::Well | SoFar::Failed => step.when.holds(success),
                };
                has_lines && wanted && (success || scripted)
            }
            Self::StoreCache => !over && job.cache.iter().any(|cache| cache.when.holds(success)),
            Self::Upload => {
                !over && job.artifacts.iter().any(|artifact| artifact.when.holds(success))
            }
        }
    }

    /// The name of its section, and what is shown above it. GitLab's pages know these names.
    pub(crate) fn section(self, job: &Payload, success: bool) -> (String, String) {
        let (name, header) = match self {
            Self::Prepare => ("prepare_executor", "Preparing the machine"),
            Self::Hook(n) => {
                return (job.hooks[n].name.clone(), format!("Running {}", job.hooks[n].name));
            }
            Self::Sources => ("get_sources", "Getting source from Git repository"),
            Self::RestoreCache => ("restore_cache", "Restoring cache"),
            Self::Dependencies => ("download_artifacts", "Downloading artifacts"),
            Self::Step(n) => {
                let name = &job.steps[n].name;
                let header = match name.as_str() {
                    "script" => r#"Executing "step_script" stage of the job script"#.to_owned(),
                    "after_script" => "Running after_script".to_owned(),
                    other => format!("Running step {other}"),
                };
                let name = if name == "script" { "step_script" } else { name };
                let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' };
                return (name.chars().map(plain).collect(), header);
            }
            Self::StoreCache if success => ("archive_cache", "Saving cache for successful job"),
            Self::StoreCache => ("archive_cache_on_failure", "Saving cache for failed job"),
            Self::Upload if success => {
                ("upload_artifacts_on_success", "Uploading artifacts for successful job")
            }
            Self::Upload => ("upload_artifacts_on_failure", "Uploading artifacts for failed job"),
        };
        (name.to_owned(), header.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job() -> Payload {
        serde_json::from_value(json!({
            "id": 1, "token": "t",
            "hooks": [{"name": "post_get_sources_script", "script": ["true"]}],
            "steps": [
                {"name": "after_script", "script": ["a"], "when": "always", "allow_failure": true},
                {"name": "script", "script": ["s"], "when": "on_success"},
                {"name": "rescue", "script": ["r"], "when": "on_failure"},
                {"name": "release", "script": [" "], "when": "on_success"},
            ],
            "cache": [{"key": "k", "paths": ["p"]}],
            "artifacts": [{"paths": ["a"], "when": "on_failure"}],
            "dependencies": [{"id": 2, "token": "t"}],
        }))
        .ok()
        .unwrap()
    }

    fn due(so_far: SoFar, scripted: bool) -> Vec<Stage> {
        let job = job();
        let due = |stage: &Stage| stage.is_due(&job, so_far, scripted);
        stages(&job).into_iter().filter(due).collect()
    }

    #[test]
    fn what_is_done_follows_from_the_outcome() {
        use Stage::*;
        let order = [
            Prepare,
            Sources,
            Hook(0),
            RestoreCache,
            Step(1),
            Step(2),
            Step(3),
            Step(0),
            StoreCache,
            Upload,
        ];
        assert_eq!(stages(&job()), order);
        let well = [Prepare, Sources, Hook(0), RestoreCache, Step(1), Step(0), StoreCache];
        assert_eq!(due(SoFar::Well, false), well);
        assert_eq!(due(SoFar::Failed, true), [Step(2), Step(0), Upload]);
        assert_eq!(due(SoFar::Cancelled, true), [Step(0), Upload]);
        // No script was begun.
        assert_eq!(due(SoFar::Failed, false), [Upload]);
        assert_eq!(due(SoFar::Cancelled, false), []);
    }
}
