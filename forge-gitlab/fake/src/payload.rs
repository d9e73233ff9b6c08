//! A job, as a runner gets it.

use serde_json::{Value, json};
use url::Url;

use crate::{
    account::{Project, name},
    ids::JobId,
    job::Job,
    job_spec::{Git, Image, Variable},
    state::State,
};

/// Where a job's clone comes from, with what opens it.
fn repository(project: &Project, token: &str, base: &str) -> String {
    let own = format!("{base}/{}.git", project.path);
    let address = project.options.repository.as_deref().unwrap_or(&own);
    match Url::parse(address) {
        Ok(mut url) if matches!(url.scheme(), "http" | "https") => {
            // Both can be set on whatever has a host.
            let _ = url.set_username("gitlab-ci-token");
            let _ = url.set_password(Some(token));
            url.into()
        }
        _ => address.to_owned(),
    }
}

fn refspecs(git: &Git, job: &Job) -> Vec<String> {
    if !git.refspecs.is_empty() {
        return git.refspecs.clone();
    }
    let pipeline = job.pipeline;
    let own = format!("+refs/pipelines/{pipeline}:refs/pipelines/{pipeline}");
    let name = &git.reference;
    match (git.merge_request, git.tag) {
        (true, _) => vec![own],
        (false, true) => vec![own, format!("+refs/tags/{name}:refs/tags/{name}")],
        (false, false) => vec![own, format!("+refs/heads/{name}:refs/remotes/origin/{name}")],
    }
}

impl State {
    /// What a runner gets that is to do a job.
    pub(crate) fn payload(&self, id: JobId, base: &str) -> Value {
        let job = &self.jobs[&id];
        let spec = &job.spec;
        let project = &self.projects[&job.project];
        let (space, _) = project.path.rsplit_once('/').unwrap_or(("", ""));
        let groups = self.with_parents(project.group);
        let runner = job.runner.and_then(|id| self.runners.get(&id));
        let longest = runner.and_then(|runner| runner.spec.maximum_timeout);
        let timeout = longest.map_or(spec.timeout, |longest| longest.min(spec.timeout)).as_secs();

        let steps = spec.steps.iter().map(|step| {
            let mut step = json!(step);
            if step["timeout"].is_null() {
                step["timeout"] = timeout.into();
            }
            step
        });
        let dependencies = self.dependencies(job).into_iter().map(|other| {
            let mut dependency =
                json!({ "id": other.id, "name": other.spec.name, "token": job.token });
            if let Some(archive) = other.archive(self.now()) {
                dependency["artifacts_file"] = archive.brief_json();
            }
            dependency
        });
        let artifacts: Vec<_> = spec.artifacts.iter().map(|artifacts| json!(artifacts)).collect();
        let waited =
            job.queued.map_or(0.0, |queued| self.now().duration_since(queued).as_secs_f64());
        let host = Url::parse(base).ok();
        let host = host.as_ref().and_then(Url::host_str).unwrap_or("gitlab");

        let mut payload = json!({
            "id": job.id,
            "token": job.token,
            "allow_git_fetch": true,
            "job_info": {
                "id": job.id,
                "name": spec.name,
                "stage": spec.stage,
                "pipeline_id": job.pipeline,
                "project_id": project.id,
                "project_name": name(&project.path),
                "project_full_path": project.path,
                "namespace_id": groups.first().map_or(project.id.0, |group| group.0),
                "root_namespace_id": groups.last().map_or(project.id.0, |group| group.0),
                "organization_id": 1,
                "instance_id": self.instance,
                "instance_uuid": self.instance,
                "user_id": job.user,
                "scoped_user_id": null,
                "time_in_queue_seconds": waited,
                "project_jobs_running_on_instance_runners_count":
                    self.running_on_instance_runners(job).saturating_sub(1).to_string(),
            },
            "git_info": {
                "repo_url": repository(project, &job.token, base),
                "ref": spec.git.reference,
                "sha": spec.git.sha,
                "before_sha": "0000000000000000000000000000000000000000",
                "ref_type": if spec.git.tag { "tag" } else { "branch" },
                "refspecs": refspecs(&spec.git, job),
                "depth": spec.git.depth,
                "repo_object_format": "sha1",
                "protected": project.options.protected_refs.contains(&spec.git.reference),
            },
            "runner_info": {
                "timeout": timeout,
                "runner_session_url": job.session_url,
            },
            "variables": self.variables(job, project, space, base),
            "steps": steps.collect::<Value>(),
            "hooks": [],
            "inputs": [],
            "image": spec.image.as_ref().map(Image::json),
            "services": spec.services.iter().map(Image::service_json).collect::<Value>(),
            "artifacts": if artifacts.is_empty() { Value::Null } else { artifacts.into() },
            "cache": json!(spec.cache),
            "credentials": [{
                "type": "registry",
                "url": format!("{host}:5050"),
                "username": "gitlab-ci-token",
                "password": job.token,
            }],
            "features": {
                "trace_sections": true,
                "failure_reasons": self.settings.failure_reasons,
                "token_mask_prefixes": ["glpat-", "glcbt-", "glrt-"],
            },
            "dependencies": dependencies.collect::<Value>(),
        });
        if let Some(secrets) = &spec.secrets {
            payload["secrets"] = secrets.clone();
        }
        for (name, value) in &spec.parts {
            payload[name] = value.clone();
        }
        for (pointer, value) in &spec.payload {
            put(&mut payload, pointer, value.clone());
        }
        payload
    }

    /// GitLab's own, the job's, those that other jobs left for it, and the project's: the last one of a name counts.
    fn variables(&self, job: &Job, project: &Project, space: &str, base: &str) -> Vec<Value> {
        let spec = &job.spec;
        let git = &spec.git;
        let user = self.users.get(&job.user).map_or("", |user| user.username.as_str());
        let version = self.settings.version.as_str();
        let number = |text: u64| text.to_string();
        let open = [
            ("CI", "true".to_owned()),
            ("GITLAB_CI", "true".to_owned()),
            ("CI_API_V4_URL", format!("{base}/api/v4")),
            ("CI_COMMIT_REF_NAME", git.reference.clone()),
            ("CI_COMMIT_SHA", git.sha.clone()),
            ("CI_JOB_ID", number(job.id.0)),
            ("CI_JOB_NAME", spec.name.clone()),
            ("CI_JOB_STAGE", spec.stage.clone()),
            ("CI_PIPELINE_ID", number(job.pipeline.0)),
            ("CI_PROJECT_ID", number(project.id.0)),
            ("CI_PROJECT_NAME", name(&project.path).to_owned()),
            ("CI_PROJECT_NAMESPACE", space.to_owned()),
            ("CI_PROJECT_PATH", project.path.clone()),
            ("CI_PROJECT_URL", format!("{base}/{}", project.path)),
            ("CI_SERVER_URL", base.to_owned()),
            ("CI_SERVER_VERSION", version.to_owned()),
            ("GITLAB_USER_ID", number(job.user.0)),
            ("GITLAB_USER_LOGIN", user.to_owned()),
        ];
        let open = open.into_iter().map(|(key, value)| Variable::new(key, value));
        let hidden = [
            Variable::masked("CI_JOB_TOKEN", &job.token),
            Variable::masked("CI_REPOSITORY_URL", repository(project, &job.token, base)),
        ];
        let left = self.dependencies(job).into_iter().flat_map(Job::left_variables);
        let all = open.chain(hidden).chain(spec.variables.iter().cloned()).chain(left);
        let all = all.chain(project.options.variables.iter().cloned());
        all.map(|variable| variable_json(&variable)).collect()
    }
}

/// GitLab says of a variable that it is a file, or raw, only when it is.
fn variable_json(variable: &Variable) -> Value {
    let mut value = json!(variable);
    for name in ["file", "raw"] {
        if value[name] == false {
            value.as_object_mut().expect("a variable is an object").remove(name);
        }
    }
    value
}

/// Puts `value` where a JSON pointer says.
fn put(target: &mut Value, pointer: &str, value: Value) {
    if let Some(place) = target.pointer_mut(pointer) {
        *place = value;
        return;
    }
    let Some((parent, last)) = pointer.rsplit_once('/') else { return };
    match target.pointer_mut(parent) {
        Some(Value::Object(fields)) => {
            fields.insert(last.to_owned(), value);
        }
        Some(Value::Array(items)) => items.push(value),
        _ => (),
    }
}
