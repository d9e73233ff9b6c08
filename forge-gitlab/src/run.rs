//! Sees one job through in its guest, stage by stage, from wherever a predecessor had come.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use runner_core::{Guest, ProcessId, Result, guest::Command};

use crate::{
    error::failed,
    forge::{Inner, end},
    job::{AtStage, LiveJob, Wish},
    script::{self, is_after_script},
    sections,
    sources::{self, Sources},
    stages::{SoFar, Stage, stages},
    state::Row,
    update::{Reason, Verdict},
    variables::Variables,
};

/// How long to wait for news before looking at the clock.
const LOOK: Duration = Duration::from_secs(1);
/// How long a guest that was ready may take to get a job's first files.
const PREPARE_LIMIT: Duration = Duration::from_secs(180);
/// How long what clears up may take, where the job does not say.
const AFTER_SCRIPT: Duration = Duration::from_secs(300);

mod files;
mod process;

use process::{Ran, Stop};

/// One job, in its guest.
pub(crate) struct Run<'a> {
    inner: &'a Inner,
    worker: &'a Row,
    job: &'a LiveJob,
    guest: &'a dyn Guest,
    variables: Variables,
    stages: Vec<Stage>,
    /// The project's directory in the guest.
    dir: String,
    /// A directory of ours beside it.
    tmp: String,
}

/// How a stage ended.
enum Outcome {
    Done,
    /// The job has failed; what clears up comes still.
    Failed(Reason, Option<u8>, Option<String>),
    /// The job ends here.
    Over(Reason, String),
}

impl<'a> Run<'a> {
    pub(crate) fn new(
        inner: &'a Inner,
        worker: &'a Row,
        job: &'a LiveJob,
        guest: &'a dyn Guest,
    ) -> Self {
        let payload = &job.payload;
        let builds = inner.config.builds_dir.trim_end_matches('/');
        let path = payload.requester().project.filter(|path| is_plain(path));
        let path =
            path.map_or_else(|| format!("project-{}", payload.job_info.project_id), str::to_owned);
        let (dir, tmp) = (format!("{builds}/{path}"), format!("{builds}/{path}.tmp"));
        let ours = [
            ("CI", "true".to_owned()),
            ("CI_BUILDS_DIR", builds.to_owned()),
            ("CI_CONCURRENT_ID", "0".to_owned()),
            ("CI_CONCURRENT_PROJECT_ID", "0".to_owned()),
            ("CI_DISPOSABLE_ENVIRONMENT", "true".to_owned()),
            ("CI_PROJECT_DIR", dir.clone()),
            ("CI_RUNNER_VERSION", env!("CARGO_PKG_VERSION").to_owned()),
            ("CI_SERVER", "yes".to_owned()),
            ("GITLAB_CI", "true".to_owned()),
        ];
        let variables = Variables::new(payload, &ours, tmp.clone());
        Self { inner, worker, job, guest, variables, stages: stages(payload), dir, tmp }
    }

    /// Goes on until the job's end is written down.
    pub(crate) async fn to_the_end(&self) -> Result<()> {
        loop {
            let progress = self.job.progress();
            if progress.verdict.is_some() {
                return Ok(());
            }
            match self.job.wish() {
                Wish::Abort(why) => return self.end(Reason::UnknownFailure, None, Some(&why)),
                Wish::Cancel if self.so_far() != SoFar::Cancelled => {
                    self.job.change(|progress, _| {
                        let reason = Reason::UnknownFailure;
                        progress.failure = Some(Verdict::Failed { reason, exit_code: None });
                    })?
                }
                Wish::Cancel | Wish::Run => (),
            }
            let Some(stage) = self.stages.get(progress.stage).copied() else {
                return self.end_well_or_not();
            };
            let so_far = self.so_far();
            let (sections, now) = (self.job.payload.features.trace_sections, self.now());
            let section = stage.section(&self.job.payload, so_far == SoFar::Well);
            if progress.at.is_none() {
                if !stage.is_due(&self.job.payload, so_far, progress.scripted) {
                    self.job.change(|progress, _| progress.stage += 1)?;
                    continue;
                }
                self.job.change(|progress, text| {
                    sections::start(text, sections, &section.0, &section.1, now);
                    progress.scripted |= matches!(stage, Stage::Step(_));
                    progress.at =
                        Some(AtStage { began_at: now, attempt: 0, cursor: 0, in_token: false });
                })?;
            }
            let outcome = self.perform(stage).await?;
            let now = self.now();
            self.job.change(|progress, text| {
                if let Outcome::Failed(_, _, Some(why)) = &outcome {
                    text.line(format!("\x1b[31;1mERROR: {why}\x1b[0;m"));
                }
                sections::end(text, sections, &section.0, now);
                progress.at = None;
                progress.stage += 1;
                // From here on the job has left marks on the machine.
                progress.started_at.get_or_insert(now);
                match outcome {
                    Outcome::Done => (),
                    Outcome::Failed(reason, exit_code, _) => {
                        progress.failure.get_or_insert(Verdict::Failed { reason, exit_code });
                    }
                    Outcome::Over(reason, why) => {
                        end(
                            progress,
                            text,
                            Verdict::Failed { reason, exit_code: None },
                            Some(&why),
                        );
                    }
                }
            })?;
        }
    }

    fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    fn so_far(&self) -> SoFar {
        match self.job.progress().failure {
            Some(Verdict::Failed { reason: Reason::UnknownFailure, .. }) => SoFar::Cancelled,
            Some(_) => SoFar::Failed,
            None => SoFar::Well,
        }
    }

    fn end(&self, reason: Reason, exit_code: Option<u8>, why: Option<&str>) -> Result<()> {
        self.job.change(|progress, text| {
            end(progress, text, Verdict::Failed { reason, exit_code }, why)
        })
    }

    fn end_well_or_not(&self) -> Result<()> {
        self.job.change(|progress, text| {
            let verdict = progress.failure.clone().unwrap_or(Verdict::Success);
            let why = match &verdict {
                Verdict::Failed { reason: Reason::UnknownFailure, .. } => Some("canceled"),
                Verdict::Failed { reason: Reason::JobExecutionTimeout, .. } => {
                    Some("a step took longer than it may")
                }
                Verdict::Failed { reason: Reason::RunnerSystemFailure, .. } => {
                    Some("what it needs could not be provided, see above")
                }
                _ => None,
            };
            end(progress, text, verdict, why);
        })
    }

    /// When the job must be over.
    fn deadline(&self) -> Timestamp {
        let start = self.job.progress().started_at.unwrap_or_else(|| self.now());
        later(start, self.job.payload.runner_info.timeout())
    }

    /// Whether nothing of the job has begun for so long that another machine should have it.
    pub(crate) fn is_not_getting_ready(&self) -> bool {
        let progress = self.job.progress();
        let since = progress.at.filter(|_| progress.started_at.is_none()).map(|at| at.began_at);
        since.is_some_and(|since| self.now() >= later(since, PREPARE_LIMIT))
    }

    /// Whether the job's deadline passed at least `by` ago.
    pub(crate) fn is_late(&self, by: Duration) -> bool {
        self.now() >= later(self.deadline(), by)
    }

    async fn perform(&self, stage: Stage) -> Result<Outcome> {
        match stage {
            Stage::Prepare => self.prepare().await,
            Stage::Hook(n) => {
                let lines = &self.job.payload.hooks[n].script;
                let ran = self.run_script("hook", lines, &[], self.deadline(), true).await?;
                Ok(self.judge(ran, Reason::ScriptFailure))
            }
            Stage::Sources => self.get_sources().await,
            Stage::Step(n) => self.step(n).await,
            Stage::RestoreCache | Stage::Dependencies | Stage::StoreCache | Stage::Upload => {
                self.carry_luggage(stage).await
            }
        }
    }

    async fn prepare(&self) -> Result<Outcome> {
        let payload = &self.job.payload;
        self.job.change(|_, text| {
            text.line(format!(
                "Running on {}, a machine of profile {} that is this job's alone",
                self.worker.name, self.worker.profile
            ));
            if let Some(image) = &payload.image {
                text.line(format!(
                    "WARNING: image {} is not used: the job runs in the machine's own system",
                    image.name
                ));
            }
            for name in self.variables.unusable() {
                text.line(format!("WARNING: variable {name:?} cannot be passed to a process"));
            }
        })?;
        let ready = async {
            self.guest.ready().await?;
            for (path, content) in self.variables.files() {
                self.guest.write_file(&path, content.as_bytes(), 0o600).await?;
            }
            Ok(Outcome::Done)
        };
        let late = || failed("prepare the guest", "it took too long");
        tokio::time::timeout(PREPARE_LIMIT, ready).await.unwrap_or_else(|_| Err(late()))
    }

    async fn get_sources(&self) -> Result<Outcome> {
        let command = match sources::sources(&self.job.payload, &self.variables, &self.dir) {
            Ok(Sources::Git(command)) => *command,
            Ok(Sources::None) => {
                self.job.say("Skipping Git repository setup")?;
                Command { working_dir: Some(self.dir.clone()), ..Command::new(["true"]) }
            }
            Ok(Sources::Empty) => {
                self.job.say("Skipping Git repository setup and creating an empty directory")?;
                let empty = r#"rm -rf -- "$1" && mkdir -p -- "$1""#;
                Command::new(["/bin/sh", "-c", empty, "empty", &self.dir])
            }
            Err(error) => {
                return Ok(Outcome::Failed(Reason::ScriptFailure, None, Some(error.to_string())));
            }
        };
        let attempts = sources::attempts(&self.variables);
        loop {
            let attempt = self.job.progress().at.map_or(0, |at| at.attempt);
            let id = self.process("sources", attempt)?;
            self.guest.spawn(&id, &command).await?;
            let ran = self.follow(&id, self.deadline(), true).await?;
            match &ran {
                Ran::Ended(exit) if !exit.success() && attempt + 1 < attempts => {
                    self.job.change(|progress, text| {
                        text.line(format!("WARNING: {exit}: trying again"));
                        if let Some(at) = &mut progress.at {
                            (at.attempt, at.cursor, at.in_token) = (attempt + 1, 0, false);
                        }
                    })?;
                }
                _ => return Ok(self.judge(ran, Reason::RunnerSystemFailure)),
            }
        }
    }

    async fn step(&self, n: usize) -> Result<Outcome> {
        let step = &self.job.payload.steps[n];
        let after = is_after_script(step);
        let began = self.job.progress().at.map_or_else(|| self.now(), |at| at.began_at);
        let limit = |key: &str| -> Option<Duration> {
            let text = self.variables.value(key)?;
            let limit =
                text.parse::<SignedDuration>().ok().and_then(|d| Duration::try_from(d).ok());
            limit.or_else(|| text.parse().ok().map(Duration::from_secs))
        };
        let given = (step.timeout > 0).then(|| Duration::from_secs(step.timeout));
        let limit = if after {
            Some(limit("RUNNER_AFTER_SCRIPT_TIMEOUT").unwrap_or(AFTER_SCRIPT))
        } else {
            limit("RUNNER_SCRIPT_TIMEOUT").into_iter().chain(given).min()
        };
        let deadline = self.deadline();
        let until = limit.map_or(deadline, |limit| later(began, limit).min(deadline));
        let status = match self.so_far() {
            SoFar::Well => "success",
            SoFar::Failed => "failed",
            SoFar::Cancelled => "canceled",
        };
        let name = format!("step-{n}");
        let extra = if after { &[("CI_JOB_STATUS", status)][..] } else { &[] };
        let ran = self.run_script(&name, &step.script, extra, until, !after).await?;
        let outcome = self.judge(ran, Reason::ScriptFailure);
        match outcome {
            Outcome::Failed(reason, code, _)
                if after || (step.allow_failure && reason == Reason::ScriptFailure) =>
            {
                let what = match code {
                    Some(code) => format!("exit code {code}"),
                    None => "it took too long".to_owned(),
                };
                self.job.say(format!(
                    "WARNING: {} failed, but job will continue unaffected: {what}",
                    step.name
                ))?;
                Ok(Outcome::Done)
            }
            outcome => Ok(outcome),
        }
    }

    /// What the end of a process means to the job.
    fn judge(&self, ran: Ran, reason: Reason) -> Outcome {
        match ran {
            Ran::Ended(exit) if exit.success() => Outcome::Done,
            Ran::Ended(exit) => Outcome::Failed(reason, Some(exit.code()), None),
            Ran::Stopped(Stop::Aborted(why)) => Outcome::Over(Reason::UnknownFailure, why),
            Ran::Stopped(Stop::Cancelled) => Outcome::Failed(Reason::UnknownFailure, None, None),
            Ran::Stopped(Stop::TimedOut) if self.is_late(Duration::ZERO) => {
                Outcome::Over(Reason::JobExecutionTimeout, self.took_too_long())
            }
            Ran::Stopped(Stop::TimedOut) => {
                Outcome::Failed(Reason::JobExecutionTimeout, None, None)
            }
        }
    }

    fn took_too_long(&self) -> String {
        let limit = self.job.payload.runner_info.timeout().as_secs();
        format!("execution took longer than {limit} seconds")
    }

    async fn run_script(
        &self,
        name: &str,
        lines: &[String],
        extra: &[(&str, &str)],
        until: Timestamp,
        heeds_cancel: bool,
    ) -> Result<Ran> {
        let id = self.process(name, 0)?;
        let path = format!("{}/{id}.sh", self.tmp);
        self.guest.write_file(&path, script::text(lines).as_bytes(), 0o700).await?;
        let mut command = script::command(&path, &self.dir, &self.variables);
        command.env.extend(extra.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        self.guest.spawn(&id, &command).await?;
        self.follow(&id, until, heeds_cancel).await
    }

    /// The name of a process of this stage: the same for whoever asks again.
    fn process(&self, name: &str, attempt: u32) -> Result<ProcessId> {
        let stage = self.job.progress().stage;
        ProcessId::new(format!("gitlab-{}-{stage}-{name}-{attempt}", self.job.id()))
    }
}

/// A path that leads nowhere else.
fn is_plain(path: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    path.chars().all(plain)
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

fn later(time: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    time.saturating_add(by).unwrap_or(Timestamp::MAX)
}
