//! What somebody does to a GitLab who owns it: makes things, looks behind the API, and breaks it.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::{
    FakeGitLab,
    access::Scope,
    account::{Level, Place, ProjectOptions},
    faults::{Fault, FaultId, UnknownRoute},
    ids::{GroupId, JobId, PipelineId, ProjectId, RunnerId, UserId},
    job::{JobView, Status},
    job_spec::JobSpec,
    record::{Call, Violation},
    runner::RunnerSpec,
    settings::Settings,
    state::State,
};

/// A runner as GitLab knows it, at one time.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RunnerView {
    /// Its number.
    pub id: RunnerId,
    /// What its owner decided.
    pub spec: RunnerSpec,
    /// What opens it.
    pub token: String,
    /// Until when. `None` for ever.
    pub token_expires: Option<Timestamp>,
    /// When it was heard of last, to within 40 min.
    pub contacted: Option<Timestamp>,
    /// The machines that use its token.
    pub managers: Vec<ManagerView>,
}

/// A machine that uses a runner's token.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ManagerView {
    /// What tells it from others.
    pub system_id: String,
}

impl FakeGitLab {
    // Accounts.

    /// Whoever administers the instance, `root`.
    pub fn admin(&self) -> UserId {
        self.admin
    }

    /// The user of a name, made when there is none.
    pub fn user(&self, username: &str) -> UserId {
        self.shared.change(|state| state.add_user(username, false))
    }

    /// The group of a path such as `acme/infra`, made with the groups that it is in when there is none.
    pub fn group(&self, path: &str) -> GroupId {
        self.shared.change(|state| state.add_group(path))
    }

    /// The project of a path such as `acme/infra/app`, made with its groups when there is none. It is a user's own
    /// when there is one of that name.
    pub fn project(&self, path: &str) -> ProjectId {
        self.shared.change(|state| state.add_project(path))
    }

    /// Changes what the owner of a project decides. Nothing, when there is no such project. `change` must not ask
    /// this GitLab for anything, which waits for it.
    pub fn configure_project(&self, id: ProjectId, change: impl FnOnce(&mut ProjectOptions)) {
        self.shared.change(|state| {
            if let Some(project) = state.projects.get_mut(&id) {
                change(&mut project.options);
            }
        });
    }

    /// Makes a user a member, in addition to what it is by other places.
    pub fn member(&self, user: UserId, place: Place, level: Level) {
        self.shared.change(|state| {
            state.members.retain(|(other, at, _)| (*other, *at) != (user, place));
            state.members.push((user, place, level));
        });
    }

    /// Deletes a project. Its runners are orphaned, and its jobs refused.
    pub fn delete_project(&self, id: ProjectId) {
        self.shared.change(|state| state.projects.remove(&id));
    }

    /// Deletes a group. Its runners are orphaned.
    pub fn delete_group(&self, id: GroupId) {
        self.shared.change(|state| state.groups.remove(&id));
    }

    /// A personal access token without an end.
    pub fn access_token(&self, user: UserId, scopes: &[Scope]) -> String {
        self.shared.change(|state| state.add_access_token(user, scopes, None))
    }

    /// A personal access token that lasts for so long, by [`FakeGitLab::clock`].
    pub fn access_token_for(&self, user: UserId, scopes: &[Scope], lasts: Duration) -> String {
        let lasts = SignedDuration::try_from(lasts).unwrap_or(SignedDuration::MAX);
        let end = self.now().saturating_add(lasts).ok();
        self.shared.change(|state| state.add_access_token(user, scopes, end))
    }

    /// Makes a personal access token good for nothing.
    pub fn revoke(&self, token: &str) {
        self.shared.change(|state| {
            if let Some(token) = state.access_tokens.get_mut(token) {
                token.revoked = true;
            }
        });
    }

    /// The deprecated token that registers runners of a place, when [`Settings::registration_tokens`] are good.
    /// `None` when there is no such place.
    pub fn registration_token(&self, place: Place) -> Option<String> {
        let state = self.shared.look();
        match place {
            Place::Instance => Some(state.registration_token.clone()),
            Place::Group(id) => Some(state.groups.get(&id)?.registration_token.clone()),
            Place::Project(id) => Some(state.projects.get(&id)?.registration_token.clone()),
        }
    }

    // Runners.

    /// Creates a runner, as an administrator would. Gives its token, too.
    pub fn runner(&self, spec: RunnerSpec) -> (RunnerId, String) {
        self.shared.change(|state| {
            let id = state.add_runner(spec);
            (id, state.runners[&id].token.clone())
        })
    }

    /// A runner as it is now. `None` when there is no such runner.
    pub fn runner_view(&self, id: RunnerId) -> Option<RunnerView> {
        let state = self.shared.look();
        let runner = state.runners.get(&id)?;
        let managers = runner.managers.keys();
        let managers = managers.map(|system_id| ManagerView { system_id: system_id.clone() });
        Some(RunnerView {
            id,
            spec: runner.spec.clone(),
            token: runner.token.clone(),
            token_expires: runner.token_expires,
            contacted: runner.contacted,
            managers: managers.collect(),
        })
    }

    /// All runners there are.
    pub fn runners(&self) -> Vec<RunnerId> {
        self.shared.look().runners.keys().copied().collect()
    }

    /// Changes what the owner of a runner decided. Nothing, when there is no such runner. `change` must not ask this
    /// GitLab for anything, which waits for it.
    pub fn configure_runner(&self, id: RunnerId, change: impl FnOnce(&mut RunnerSpec)) {
        self.shared.change(|state| {
            if let Some(runner) = state.runners.get_mut(&id) {
                change(&mut runner.spec);
            }
            state.wake_runner(id);
        });
    }

    /// Deletes a runner at GitLab, so that its token is good for nothing. `false` when there is none.
    pub fn delete_runner(&self, id: RunnerId) -> bool {
        self.shared.change(|state| state.delete_runner(id))
    }

    // Jobs.

    /// A pipeline of one job, by `root`.
    pub fn job(&self, project: ProjectId, spec: JobSpec) -> JobId {
        let (_, jobs) = self.pipeline(self.admin, project, [spec]);
        jobs[0]
    }

    /// A pipeline that a user started, and its jobs in the order given. Stages are in the order in which jobs
    /// name them; a job runs when all of the stages before did well, or all that it needs.
    ///
    /// # Panics
    ///
    /// When there is no such project.
    pub fn pipeline(
        &self,
        user: UserId,
        project: ProjectId,
        jobs: impl IntoIterator<Item = JobSpec>,
    ) -> (PipelineId, Vec<JobId>) {
        self.shared.change(|state| {
            assert!(state.projects.contains_key(&project), "there is no project {project}");
            let id = state.add_pipeline(project, user, jobs.into_iter().collect());
            (id, state.pipelines[&id].jobs.clone())
        })
    }

    /// What GitLab says of a pipeline, such as `running`. `None` when there is no such pipeline.
    pub fn pipeline_status(&self, id: PipelineId) -> Option<String> {
        let state = self.shared.look();
        let pipeline = state.pipelines.get(&id)?;
        Some(pipeline.status(&state).to_owned())
    }

    /// A job as it is now. `None` when there is no such job.
    pub fn job_view(&self, id: JobId) -> Option<JobView> {
        Some(self.shared.look().jobs.get(&id)?.view())
    }

    /// Waits until a job is as `enough` says, and gives it as it was then. `None` when there is no such job any
    /// more.
    ///
    /// # Cancel safety
    ///
    /// Looks only.
    pub async fn until_job(&self, id: JobId, enough: impl Fn(&JobView) -> bool) -> Option<JobView> {
        let look = |state: &mut State| state.jobs.get(&id).map(|job| job.view());
        let enough = |job: Option<JobView>| match job {
            None => Some(None),
            Some(job) => enough(&job).then_some(Some(job)),
        };
        self.shared.until_enough(look, enough).await
    }

    /// Waits until a job is over.
    ///
    /// # Cancel safety
    ///
    /// Looks only.
    pub async fn until_over(&self, id: JobId) -> Option<JobView> {
        self.until_job(id, |job| job.status.is_over()).await
    }

    /// All jobs that are in a state.
    pub fn jobs(&self, status: Status) -> Vec<JobId> {
        let state = self.shared.look();
        let jobs = state.jobs.values().filter(|job| job.status == status);
        jobs.map(|job| job.id).collect()
    }

    /// Cancels a job, as a user does: at once when it waits for a runner, or when its runner did not offer
    /// `cancel_gracefully`; else it goes on as [`Status::Canceling`]. `false` when it is over.
    pub fn cancel(&self, id: JobId) -> bool {
        self.shared.change(|state| state.cancel(id, false))
    }

    /// Cancels a job at once, whatever its runner offered. `false` when it is over.
    pub fn cancel_at_once(&self, id: JobId) -> bool {
        self.shared.change(|state| state.cancel(id, true))
    }

    /// Deletes a job, though it may run. `false` when there is none.
    pub fn delete_job(&self, id: JobId) -> bool {
        self.shared.change(|state| state.delete_job(id))
    }

    /// Erases what a job said and left, though it may run. `false` when there is none.
    pub fn erase(&self, id: JobId) -> bool {
        self.shared.change(|state| state.erase(id))
    }

    /// Looks at the trace of a job as it comes, or stops looking. Its runner is asked for it more often then.
    pub fn watch(&self, id: JobId, watched: bool) {
        self.shared.change(|state| {
            if let Some(job) = state.jobs.get_mut(&id) {
                job.watched = watched;
            }
        });
    }

    // Behaviour.

    /// Changes how GitLab behaves, from the next request on. `change` must not ask this GitLab for anything, which
    /// waits for it.
    pub fn configure(&self, change: impl FnOnce(&mut Settings)) {
        self.shared.change(|state| change(&mut state.settings));
    }

    /// Puts a fault between clients and GitLab.
    ///
    /// # Errors
    ///
    /// When it is for a route that GitLab does not have.
    pub fn inject(&self, fault: Fault) -> Result<FaultId, UnknownRoute> {
        self.shared.change(|state| state.faults.inject(fault))
    }

    /// Takes a fault out again. `false` when it was taken out before.
    pub fn remove_fault(&self, id: FaultId) -> bool {
        self.shared.change(|state| state.faults.remove(id))
    }

    /// Takes all faults out. What hangs goes on hanging.
    pub fn clear_faults(&self) {
        self.shared.change(|state| state.faults.clear());
    }

    /// How often something went wrong on purpose.
    pub fn faults_happened(&self) -> u64 {
        self.shared.look().faults.happened
    }

    /// Makes GitLab go away: what is being asked is cut off, and so is what is asked from now on, by a reset. The
    /// port stays its own.
    pub fn go_down(&self) {
        self.shared.change(|state| state.down = true);
    }

    /// Brings GitLab back.
    pub fn come_up(&self) {
        self.shared.change(|state| state.down = false);
    }

    /// The last requests, 10,000 at most, oldest first.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.look().record.calls.iter().cloned().collect()
    }

    /// Waits until [`FakeGitLab::calls`] are as `enough` says.
    ///
    /// # Cancel safety
    ///
    /// Looks only.
    pub async fn until_calls(&self, enough: impl Fn(&[Call]) -> bool) {
        let look = |state: &mut State| state.record.calls.iter().cloned().collect::<Vec<_>>();
        self.shared.until_enough(look, |calls| enough(&calls).then_some(())).await;
    }

    /// Waits until so many requests for a job are held.
    ///
    /// # Cancel safety
    ///
    /// Looks only.
    pub async fn until_held(&self, requests: usize) {
        self.shared.until(|state| (state.held == requests).then_some(())).await;
    }

    /// What was said that GitLab's description does not allow, by clients or by this fake. The first
    /// 10,000 of each.
    pub fn violations(&self) -> Vec<Violation> {
        self.shared.look().record.violations.clone()
    }
}
