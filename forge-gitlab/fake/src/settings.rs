//! What an administrator of GitLab decides, and may change while it runs.

use std::time::Duration;

/// How this GitLab behaves.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// How long a request for a job is held when there is nothing new. Zero turns that off, as older releases
    /// do. 50 s, as workhorse has it.
    pub long_poll: Duration,
    /// How often a runner is to send its trace, in whole seconds. 60 s.
    pub trace_update_interval: Duration,
    /// The same while somebody watches. 3 s.
    pub watched_trace_update_interval: Duration,
    /// How many bytes a trace may have; a job that says more fails. 100 MiB.
    pub trace_limit: u64,
    /// What becomes of a final update whose checksum or size is not that of the trace.
    pub wrong_trace: WrongTrace,
    /// How often a final update that has a checksum is answered with 202 before its 200, because the trace is
    /// still being stored. Never.
    pub storing_answers: u32,
    /// Whether artifacts are on. Off, an upload is answered with 405.
    pub artifacts: bool,
    /// How many bytes a file among the artifacts may have. 100 MiB.
    pub artifact_limit: u64,
    /// Whether artifacts are kept on another host, to which `direct_download` redirects.
    pub object_storage: bool,
    /// How many of the next uploads are answered with 307 to the same address.
    pub redirected_uploads: u32,
    /// Whether a job that was handed to a runner which offers `two_phase_job_commit` waits for its `running`.
    pub two_phase_job_commit: bool,
    /// How long such a job waits without a word. 2 min.
    pub commit_timeout: Duration,
    /// Whether the deprecated registration tokens are good.
    pub registration_tokens: bool,
    /// How long a runner's token is good. `None` for ever.
    pub runner_token_lifetime: Option<Duration>,
    /// How long a job may run without a word of its runner. 1 h.
    pub stuck_after: Duration,
    /// What this GitLab says it is.
    pub version: String,
    /// Why a job can fail, as its payload says.
    pub failure_reasons: Vec<String>,
}

/// What becomes of a final update whose checksum or size is not that of the trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WrongTrace {
    /// 412, and the trace is forgotten, so that it can be sent again from its start. What GitLab's runner is
    /// ready for.
    #[default]
    Refused,
    /// Taken as it is, and only [noted](crate::JobView::trace_is_wrong). What GitLab does.
    Taken,
}

impl Default for Settings {
    fn default() -> Self {
        let reasons = [
            "unknown_failure",
            "script_failure",
            "api_failure",
            "stuck_or_timeout_failure",
            "runner_system_failure",
            "missing_dependency_failure",
            "runner_unsupported",
            "job_execution_timeout",
            "archived_failure",
            "unmet_prerequisites",
            "scheduler_failure",
            "data_integrity_failure",
            "trace_size_exceeded",
            "runner_provisioning_timeout",
            "runner_interrupted",
        ];
        Self {
            long_poll: Duration::from_secs(50),
            trace_update_interval: Duration::from_secs(60),
            watched_trace_update_interval: Duration::from_secs(3),
            trace_limit: 100 << 20,
            wrong_trace: WrongTrace::Refused,
            storing_answers: 0,
            artifacts: true,
            artifact_limit: 100 << 20,
            object_storage: false,
            redirected_uploads: 0,
            two_phase_job_commit: false,
            commit_timeout: Duration::from_secs(120),
            registration_tokens: false,
            runner_token_lifetime: None,
            stuck_after: Duration::from_secs(3600),
            version: "19.4.0-ee".to_owned(),
            failure_reasons: reasons.map(str::to_owned).to_vec(),
        }
    }
}
