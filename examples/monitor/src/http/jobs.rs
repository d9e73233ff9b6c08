//! Jobs of the local queue: submit, list, show, cancel, fetch what they left.

use poem::Body;
use poem_openapi::{
    ApiRequest, ApiResponse, Multipart, OpenApi,
    param::{Path, Query},
    payload::{Binary, Json},
    types::multipart::{JsonField, Upload},
};
use runner_core::{
    JobId, Label, ProfileName, WorkerName,
    local::{self, InputFile},
};

use super::{Operate, Shared, problem::Problem, strict::Strict};

pub mod model;

use model::{Job, JobPage, JobStateName, NewJob};

/// How many jobs a page has at most.
const PAGE: u32 = 500;

/// How many jobs are looked through for a page of those that are wanted.
const SEARCH: u32 = 10_000;

pub struct JobsApi(pub Shared);

/// A job, with its input files beside it or in it.
#[derive(ApiRequest)]
enum Submission {
    /// Input files are in the job, in base64.
    Json(Json<Strict<NewJob>>),
    /// Input files are parts of their own.
    Multipart(JobForm),
}

/// A job and its input files. The name of each file's part is where the job finds it.
#[derive(Multipart)]
#[oai(deny_unknown_fields)]
struct JobForm {
    /// The job.
    job: JsonField<Strict<NewJob>>,
    /// Files with mode 0644.
    file: Vec<Upload>,
    /// Files with mode 0755.
    executable: Vec<Upload>,
}

#[derive(ApiResponse)]
enum Submitted {
    /// The job is queued, durably.
    #[oai(status = 201)]
    Queued(
        Json<Job>,
        /// Where it is.
        #[oai(header = "Location")]
        String,
    ),
}

#[derive(ApiResponse)]
enum Outputs {
    /// What the job left, as a tar archive.
    #[oai(status = 200, content_type = "application/x-tar")]
    Tar(Binary<Body>),
}

#[OpenApi]
impl JobsApi {
    /// Submit a job
    #[oai(path = "/jobs", method = "post", operation_id = "submit_job")]
    async fn submit(&self, _by: Operate, submission: Submission) -> Result<Submitted, Problem> {
        let (job, mut files) = match submission {
            Submission::Json(Json(Strict(job))) => (job, Vec::new()),
            Submission::Multipart(form) => {
                let mut files = take(form.file, 0o644).await?;
                files.extend(take(form.executable, 0o755).await?);
                (form.job.0.0, files)
            }
        };
        let (spec, inputs) = job.into_spec()?;
        if let Some(wanted) = &spec.profile {
            self.check_offered(wanted)?;
        }
        files.extend(inputs);
        let size: u64 = files.iter().map(|file| file.content.len() as u64).sum();
        let limit = self.0.0.input_limit;
        if size > limit {
            let detail = format!("the input files have {size} bytes together and may have {limit}");
            return Err(Problem::too_large(detail));
        }
        let job = self.0.0.queue.submit(spec, files).await?;
        let location = format!("{}/jobs/{}", super::API, job.id);
        Ok(Submitted::Queued(Json(job.into()), location))
    }

    /// List jobs, newest first
    #[oai(path = "/jobs", method = "get", operation_id = "list_jobs")]
    async fn list(
        &self,
        /// Only jobs that come after this one: `next` of the page before.
        after: Query<Option<u64>>,
        /// How many at most.
        #[oai(default = "default_limit", validator(minimum(value = "1"), maximum(value = "500")))]
        limit: Query<u32>,
        /// Only jobs in this state.
        state: Query<Option<JobStateName>>,
        /// Only jobs that name this profile.
        profile: Query<Option<String>>,
        /// Only jobs that this worker has or had.
        worker: Query<Option<String>>,
        /// Only jobs that ask for this label.
        label: Query<Option<String>>,
    ) -> Result<Json<JobPage>, Problem> {
        let queue = &self.0.0.queue;
        let profile = profile.0.map(ProfileName::new).transpose()?;
        let worker = worker.0.map(WorkerName::new).transpose()?;
        let label = label.0.map(Label::new).transpose()?;
        let wanted = |job: &local::Job| {
            state.0.is_none_or(|state| state == JobStateName::from(&job.state))
                && profile.as_ref().is_none_or(|name| job.spec.profile.as_ref() == Some(name))
                && worker.as_ref().is_none_or(|name| job.worker.as_ref() == Some(name))
                && label.as_ref().is_none_or(|label| job.spec.labels.contains(label))
        };
        let (mut jobs, mut below, mut looked) = (Vec::new(), after.0, 0);
        let next = loop {
            let part = queue.jobs(below, PAGE).await?;
            let last = part.len() < PAGE as usize;
            looked += PAGE;
            below = part.last().map(|job| job.number);
            jobs.extend(part.into_iter().filter(wanted));
            if jobs.len() > limit.0 as usize {
                jobs.truncate(limit.0 as usize);
                break jobs.last().map(|job: &local::Job| job.number);
            }
            if last {
                break None;
            }
            if looked >= SEARCH {
                break below;
            }
        };
        let jobs = jobs.into_iter().map(Job::from).collect();
        Ok(Json(JobPage { jobs, next }))
    }

    /// Show a job
    #[oai(path = "/jobs/:id", method = "get", operation_id = "show_job")]
    async fn show(&self, id: Path<String>) -> Result<Json<Job>, Problem> {
        let job = self.0.0.queue.job(&job_id(&id)?).await?;
        Ok(Json(job.into()))
    }

    /// Cancel a job
    ///
    /// At once if it waits; if it runs, its command is asked to end first. Fine when it is over.
    #[oai(path = "/jobs/:id/cancel", method = "post", operation_id = "cancel_job")]
    async fn cancel(&self, _by: Operate, id: Path<String>) -> Result<Json<Job>, Problem> {
        let job = self.0.0.queue.cancel(&job_id(&id)?).await?;
        Ok(Json(job.into()))
    }

    /// Fetch a job's outputs
    #[oai(path = "/jobs/:id/outputs", method = "get", operation_id = "fetch_outputs")]
    async fn outputs(&self, id: Path<String>) -> Result<Outputs, Problem> {
        let id = job_id(&id)?;
        self.0.0.queue.job(&id).await?;
        let tar = self.0.0.queue.outputs(&id).await?;
        Ok(Outputs::Tar(Binary(Body::from_bytes(tar))))
    }
}

impl JobsApi {
    /// A job for a profile that nobody offers would wait for ever.
    fn check_offered(&self, wanted: &ProfileName) -> Result<(), Problem> {
        let profiles = &self.0.0.profiles;
        if profiles.iter().any(|profile| profile.name == *wanted) {
            return Ok(());
        }
        let names: Vec<&str> = profiles.iter().map(|profile| profile.name.as_str()).collect();
        let names = names.join(", ");
        let detail = format!("profile {wanted} is not offered; use one of: {names}");
        Err(Problem::bad_request(detail))
    }
}

/// A text that is not an id names no job.
pub fn job_id(text: &str) -> Result<JobId, Problem> {
    JobId::new(text).map_err(|_| Problem::not_found(format!("job {text:?} does not exist")))
}

fn default_limit() -> u32 {
    50
}

async fn take(uploads: Vec<Upload>, mode: u32) -> Result<Vec<InputFile>, Problem> {
    let mut files = Vec::with_capacity(uploads.len());
    for upload in uploads {
        let Some(path) = upload.file_name().map(str::to_owned) else {
            return Err(Problem::bad_request("each file needs a filename: where the job finds it"));
        };
        let content = upload.into_vec().await.map_err(|error| {
            tracing::error!(%error, "An uploaded file could not be read.");
            Problem::new(
                poem::http::StatusCode::INTERNAL_SERVER_ERROR,
                format!("file {path:?} could not be kept"),
            )
        })?;
        files.push(InputFile { path, mode, content });
    }
    Ok(files)
}
