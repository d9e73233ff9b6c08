//! Artifacts: those of earlier jobs into the guest, and the job's own to GitLab.
//!
//! Source: `POST` and `GET /jobs/:id/artifacts` in GitLab's `lib/api/ci/runner.rb`; which formats there are
//! is in `commands/helpers/artifacts_uploader.go` of gitlab-runner.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};

use reqwest::{
    Method, RequestBuilder,
    header::LOCATION,
    multipart::{Form, Part},
};
use runner_core::{Error, Result};

use crate::{
    archive,
    client::{Client, pause, send_once},
    error::{self, failed, refused},
    job::LiveJob,
    luggage::{Luggage, TRANSFER, blocking},
    patterns::Patterns,
    payload::{Artifact, Dependency},
    variables::Variables,
};

/// How often a transfer is tried whose failure may pass.
const ATTEMPTS: u32 = 3;
/// How many redirects are followed.
const REDIRECTS: u32 = 3;

/// What was uploaded, for the trace.
pub(crate) struct Uploaded {
    pub files: usize,
    pub notes: Vec<String>,
}

/// Unpacks the artifacts of an earlier job in the project's directory.
pub(crate) async fn download(
    client: &Client,
    job: &LiveJob,
    dependency: &Dependency,
    luggage: &Luggage<'_>,
    limit: u64,
) -> Result<usize> {
    let path = |kind: &str| job.dir().join(format!("dependency-{}.{kind}", dependency.id));
    let (zip, tar) = (path("zip"), path("tar"));
    let mut attempt = 1;
    loop {
        match fetch(client, dependency, &zip, limit).await {
            Ok(()) => break,
            Err(error @ Error::Backend { .. }) if attempt < ATTEMPTS => {
                let why = error::BACKEND;
                tracing::warn!(job = job.id(), %error, why, "Downloading artifacts again.");
                tokio::time::sleep(pause(attempt + 2)).await;
                attempt += 1;
            }
            Err(error) => return Err(error),
        }
    }
    let (from, to) = (zip.clone(), tar.clone());
    let count =
        blocking("unpack artifacts", move || archive::zip_to_tar(&from, &to, limit)).await?;
    luggage.unpack(&tar).await?;
    crate::files::remove(&zip)?;
    crate::files::remove(&tar)?;
    Ok(count)
}

async fn fetch(client: &Client, from: &Dependency, to: &Path, limit: u64) -> Result<()> {
    let doing = "download artifacts";
    let path = format!("jobs/{}/artifacts?direct_download=true", from.id);
    let mut request = client
        .request(Method::GET, &path)
        .header("JOB-TOKEN", from.token.expose())
        .timeout(TRANSFER);
    for _ in 0..=REDIRECTS {
        let response = request.send().await;
        let mut response = response.map_err(|error| error::unreachable(doing, error))?;
        if response.status().is_redirection()
            && let Some(address) = response.headers().get(LOCATION).and_then(|l| l.to_str().ok())
        {
            // A storage elsewhere has its own signature in the address, and no business with the token.
            request = client.elsewhere(Method::GET, address)?.timeout(TRANSFER);
            if client.is_home(address) {
                request = request.header("JOB-TOKEN", from.token.expose());
            }
            continue;
        }
        let status = response.status().as_u16();
        if status != 200 {
            let name = if from.name.is_empty() { from.id.to_string() } else { from.name.clone() };
            return Err(match status {
                404 => Error::not_found(format!("the artifacts of job {name}")),
                401 | 403 => Error::unauthorized(
                    format!("GitLab, asked for the artifacts of job {name},"),
                    format!("it answered {status} to the token of the job that depends on it"),
                ),
                status => failed(doing, format!("GitLab answered {status}")),
            });
        }
        let mut file = File::create(to).map_err(|error| failed(doing, error))?;
        let mut size = 0;
        while let Some(piece) =
            response.chunk().await.map_err(|error| error::unreachable(doing, error))?
        {
            size += piece.len() as u64;
            if size > limit {
                return Err(Error::invalid("the artifacts", format!("more than {limit} bytes")));
            }
            file.write_all(&piece).map_err(|error| failed(doing, error))?;
        }
        return Ok(());
    }
    Err(failed(doing, "it is redirected again and again"))
}

/// Packs and uploads one kind of artifact. Nothing is uploaded where no file matches.
pub(crate) async fn upload(
    client: &Client,
    job: &LiveJob,
    artifact: &Artifact,
    variables: &Variables,
    luggage: &Luggage<'_>,
    limit: u64,
) -> Result<Uploaded> {
    let expand = |paths: &[String]| -> Vec<String> {
        paths.iter().map(|path| variables.expand(path)).collect()
    };
    let patterns = Patterns::new(luggage.dir, &expand(&artifact.paths), &expand(&artifact.exclude));
    let tar = job.dir().join(format!("{}.tar", luggage.process));
    let packed = luggage.pack(&patterns, artifact.untracked, limit, &tar).await?;
    if packed.files == 0 {
        return Ok(Uploaded { files: 0, notes: packed.notes });
    }
    let format = artifact.artifact_format.as_deref().unwrap_or("zip");
    let pack = match format {
        "zip" => archive::tar_to_zip,
        "gzip" => archive::tar_to_gzip,
        "raw" => archive::tar_to_raw,
        other => return Err(Error::unsupported(format!("artifacts as {other}"))),
    };
    let packed_as = tar.with_extension("packed");
    let (from, to) = (tar.clone(), packed_as.clone());
    let files = blocking("pack artifacts", move || pack(&from, &to)).await?;
    let name = file_name(artifact, variables, format);
    let sent = send(client, job, artifact, variables, &packed_as, &name).await;
    crate::files::remove(&tar)?;
    crate::files::remove(&packed_as)?;
    sent.map(|()| Uploaded { files, notes: packed.notes })
}

/// What GitLab's pages call it.
fn file_name(artifact: &Artifact, variables: &Variables, format: &str) -> String {
    let kind = artifact.artifact_type.as_deref().unwrap_or("archive");
    let plain = if kind == "archive" { "artifacts" } else { kind };
    let name = artifact.name.as_deref().map(|name| variables.expand(name));
    let name = name.filter(|name| !name.is_empty()).unwrap_or_else(|| plain.to_owned());
    let name: String =
        name.rsplit('/').next().unwrap_or(plain).chars().filter(|c| !c.is_control()).collect();
    match format {
        "zip" => format!("{name}.zip"),
        "gzip" => format!("{name}.gz"),
        _ => name,
    }
}

async fn send(
    client: &Client,
    job: &LiveJob,
    artifact: &Artifact,
    variables: &Variables,
    file: &PathBuf,
    name: &str,
) -> Result<()> {
    let doing = "upload artifacts";
    let path = format!("jobs/{}/artifacts?{}", job.id(), query(artifact, variables));
    let mut to = client.request(Method::POST, &path);
    let (mut attempt, mut redirects) = (1, 0);
    loop {
        let this = to.try_clone().ok_or_else(|| failed(doing, "its body is a stream"))?;
        let outcome = send_file(doing, this, job, file, name).await;
        let failure = match outcome {
            Ok(reply) => match reply.status.as_u16() {
                201 => return Ok(()),
                307 | 308 if redirects < REDIRECTS => {
                    let address = reply.header("location").unwrap_or_default();
                    if !client.is_home(address) {
                        return Err(failed(doing, "GitLab wants them sent to another server"));
                    }
                    to = client.elsewhere(Method::POST, address)?;
                    redirects += 1;
                    continue;
                }
                413 => {
                    return Err(Error::invalid("the artifacts", "they are too large for GitLab"));
                }
                408 | 429 | 500..=599 => refused(doing, &reply),
                _ => return Err(refused(doing, &reply)),
            },
            Err(error) => error,
        };
        if attempt == ATTEMPTS {
            return Err(failure);
        }
        tokio::time::sleep(pause(attempt + 2)).await;
        attempt += 1;
    }
}

fn query(artifact: &Artifact, variables: &Variables) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("artifact_type", artifact.artifact_type.as_deref().unwrap_or("archive"));
    query.append_pair("artifact_format", artifact.artifact_format.as_deref().unwrap_or("zip"));
    if let Some(time) = &artifact.expire_in {
        query.append_pair("expire_in", &variables.expand(time));
    }
    query.finish()
}

async fn send_file(
    doing: &str,
    to: RequestBuilder,
    job: &LiveJob,
    file: &PathBuf,
    name: &str,
) -> Result<crate::client::Reply> {
    let part = Part::file(file).await.map_err(|error| failed(doing, error))?;
    let part = part.file_name(name.to_owned());
    let part = part.mime_str("application/octet-stream");
    let part = part.map_err(|error| error::unreachable(doing, error))?;
    let request = to
        .header("JOB-TOKEN", job.payload.token.expose())
        .multipart(Form::new().part("file", part))
        .timeout(TRANSFER);
    send_once(doing, request).await
}
