//! Repositories, over smart HTTP, for whoever runs a job of theirs. Git itself does the work.

use std::{path::PathBuf, process::Stdio};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, StatusCode,
    header::{AUTHORIZATION, WWW_AUTHENTICATE},
};
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::{
    exchange::{Answer, Refusal, Reply, Request},
    state::{Shared, State},
};

/// What a clone or a fetch asks for.
const SERVICES: [&str; 2] = ["/info/refs", "/git-upload-pack"];

/// The project's path and the service of a request for a repository.
pub(crate) fn split(path: &str) -> Option<(&str, &str)> {
    let (project, service) = path.strip_prefix('/')?.split_once(".git/")?;
    Some((project, &path[path.len() - service.len() - 1..]))
}

/// Answers a request for a repository.
pub(crate) async fn answer(shared: &Shared, request: &Request) -> Reply {
    let found = find(&shared.look(), request);
    let answer = match found {
        Ok((repository, service)) => serve(repository, service, request).await,
        Err(refusal) => Err(refusal),
    };
    // What git says is for git to describe.
    Reply { odd: true, ..answer.unwrap_or_else(Refusal::into_reply) }
}

/// The repository, for whoever may have it.
fn find<'a>(state: &State, request: &'a Request) -> Result<(PathBuf, &'a str), Refusal> {
    let unauthorized = || {
        Refusal::new(401, "HTTP Basic: Access denied")
            .with(WWW_AUTHENTICATE, "Basic realm=\"GitLab\"")
    };
    let (path, service) = split(&request.path).ok_or_else(|| Refusal::not_found("Project"))?;
    let token = password(request).ok_or_else(unauthorized)?;
    let mut jobs = state.jobs.values();
    let job = jobs.find(|job| job.token == token && job.status.is_at_work());
    let own = state.projects.get(&job.ok_or_else(unauthorized)?.project);
    let own = own.filter(|project| project.path == path);
    let directory = own.and_then(|project| project.options.served_repository.clone());
    let directory = directory.ok_or_else(|| Refusal::not_found("Project"))?;
    let pushes = request.query.iter().any(|(_, value)| value == "git-receive-pack");
    if pushes || !SERVICES.contains(&service) {
        return Err(Refusal::forbidden_because("You are not allowed to push code"));
    }
    Ok((directory, service))
}

/// What Basic authentication says after the colon. Whoever has a job's token may call himself anything.
fn password(request: &Request) -> Option<String> {
    let basic = request.header(AUTHORIZATION.as_str())?.strip_prefix("Basic ")?;
    let pair = String::from_utf8(BASE64.decode(basic.trim()).ok()?).ok()?;
    Some(pair.split_once(':')?.1.to_owned())
}

/// What `git http-backend` says, which speaks CGI (RFC 3875).
async fn serve(repository: PathBuf, service: &str, request: &Request) -> Answer {
    let failed = |what: &str| Refusal::new(500, format!("500 Internal Server Error - {what}"));
    let variable = |name: &str| request.header(name).unwrap_or_default();
    let query =
        url::form_urlencoded::Serializer::new(String::new()).extend_pairs(&request.query).finish();
    let mut child = Command::new("git")
        .arg("http-backend")
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_PROJECT_ROOT", &repository)
        .env("GIT_PROTOCOL", variable("git-protocol"))
        .env("PATH_INFO", service)
        .env("QUERY_STRING", query)
        .env("REQUEST_METHOD", if request.method == Method::POST { "POST" } else { "GET" })
        .env("CONTENT_TYPE", variable("content-type"))
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", variable("content-encoding"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(&format!("git: {error}")))?;
    let input = child.stdin.take();
    let body = request.body.clone();
    // Git may stop reading when it has enough, and says itself whether it had.
    let feed = async move {
        if let Some(mut input) = input {
            let _ = input.write_all(&body).await;
        }
    };
    let (output, ()) = tokio::join!(child.wait_with_output(), feed);
    let output = output.map_err(|error| failed(&format!("git: {error}")))?.stdout;
    reply(output).ok_or_else(|| failed("git said nothing"))
}

/// Headers, an empty line, and the body.
fn reply(output: Vec<u8>) -> Option<Reply> {
    let end = output.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&output[..end]).into_owned();
    let body = Bytes::from(output).slice(end + 4..);
    let mut reply = Reply::raw(200, "application/octet-stream", body);
    for line in head.lines() {
        let (name, value) = line.split_once(':')?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("status") {
            reply.status = StatusCode::from_bytes(value.get(..3)?.as_bytes()).ok()?;
        } else {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            reply.headers.insert(name, HeaderValue::from_str(value).ok()?);
        }
    }
    Some(reply)
}
