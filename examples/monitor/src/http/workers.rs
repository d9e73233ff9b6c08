//! Workers: what they show, and what may be asked of them.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{StreamExt, future, stream, stream::BoxStream};
use jiff::{SignedDuration, Timestamp};
use poem::{Body, web::sse::Event};
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    param::{Header, Path, Query},
    payload::{Binary, EventStream, Json},
    types::ToJSON,
};
use runner_core::{
    Error, ProcessId, WorkerName,
    guest::{Command, Output, Signal, exec},
    hypervisor::Png,
    pool::HoldRequest,
    wish::Hold,
};
use serde::Deserialize;
use tokio::time::{Instant, timeout};

use super::{
    Admin, KEEP_ALIVE, Operate, Shared,
    log::LogPart,
    pool::model::{PhaseName, WorkerInfo},
    problem::Problem,
    shell::worker_name,
    strict::{Strict, given},
};
use crate::config::units::Period;

/// How long a picture of a screen is good enough for the next who asks.
const FRESH: Duration = Duration::from_secs(2);
/// How long one is kept.
const PICTURE_KEPT: Duration = Duration::from_secs(60);
/// How long a picture may take.
const PICTURE_LIMIT: Duration = Duration::from_secs(10);
/// How long a machine may be kept.
const LONGEST_HOLD: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long a command may run unless it says otherwise, and at most.
const COMMAND_LIMIT: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));
/// How much output of a command is kept, in bytes, of each kind.
const OUTPUT_KEPT: usize = 1 << 20;

pub struct WorkersApi(pub Shared);

/// The last pictures of screens.
#[derive(Default)]
pub struct Pictures(Mutex<BTreeMap<WorkerName, (Instant, Bytes)>>);

impl Pictures {
    /// The last one, if it is not older than this.
    pub fn within(&self, age: Duration, worker: &WorkerName) -> Option<Bytes> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, (at, _)| at.elapsed() < PICTURE_KEPT);
        kept.get(worker).filter(|(at, _)| at.elapsed() < age).map(|(_, png)| png.clone())
    }

    fn put(&self, worker: WorkerName, png: Bytes) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.insert(worker, (Instant::now(), png));
    }
}

impl Shared {
    /// What is on a worker's screen now.
    pub(super) async fn picture(&self, worker: &WorkerName) -> Result<Bytes, Problem> {
        let taken = timeout(PICTURE_LIMIT, self.0.hypervisor.screenshot(worker)).await;
        let Ok(taken) = taken else {
            let limit = PICTURE_LIMIT.as_secs();
            let detail = format!("{worker} did not show its screen within {limit} s");
            return Err(Problem::new(poem::http::StatusCode::GATEWAY_TIMEOUT, detail));
        };
        let Png(png) = taken?;
        self.0.pictures.put(worker.clone(), png.clone());
        Ok(png)
    }
}

/// Some workers, by name.
#[derive(Object)]
struct WorkerPage {
    /// The workers.
    workers: Vec<WorkerInfo>,
    /// `after` of the next page, if there is one.
    #[oai(skip_serializing_if_is_none)]
    next: Option<String>,
}

#[derive(ApiResponse)]
enum ConsoleText {
    /// What the machine wrote, as it wrote it.
    #[oai(status = 200, content_type = "text/plain; charset=utf-8")]
    Bytes(Binary<Body>),
}

#[derive(ApiResponse)]
enum Picture {
    /// The machine's screen.
    #[oai(status = 200, content_type = "image/png")]
    Png(Binary<Vec<u8>>),
}

#[derive(ApiResponse)]
enum Done {
    /// It is as asked.
    #[oai(status = 204)]
    Done,
}

#[derive(ApiResponse)]
enum Dismissed {
    /// It goes: its machine is destroyed in a moment.
    #[oai(status = 202)]
    Accepted,
}

/// A machine to keep.
#[derive(Object, Deserialize)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
struct HoldWish {
    /// How long, such as `30m` or `4h`. At most 30 days.
    #[serde(rename = "for")]
    #[oai(rename = "for")]
    time: String,
    /// What for.
    #[serde(default)]
    #[oai(default, validator(max_length = 1000))]
    purpose: String,
}

/// A machine that is kept.
#[derive(Object)]
pub struct HoldInfo {
    /// Who asked.
    by: String,
    /// What for.
    purpose: String,
    /// Since when.
    since: String,
    /// Until when.
    until: String,
}

impl From<&Hold> for HoldInfo {
    fn from(hold: &Hold) -> Self {
        Self {
            by: hold.by.clone(),
            purpose: hold.purpose.clone(),
            since: hold.since.to_string(),
            until: hold.until.to_string(),
        }
    }
}

/// A command for a worker's machine.
#[derive(Object, Deserialize)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
struct CommandWish {
    /// The program and its arguments. Nothing here passes through a shell.
    #[oai(validator(min_items = 1, max_items = 1000))]
    argv: Vec<String>,
    /// Added to the guest's environment.
    #[serde(default)]
    #[oai(default)]
    env: BTreeMap<String, String>,
    /// Where to run it; `/` if nowhere else.
    #[serde(default, deserialize_with = "given")]
    working_dir: Option<String>,
    /// How long it may run, such as `90s`; a minute unless it says otherwise, at most an hour. What runs
    /// longer is killed.
    #[serde(default, deserialize_with = "given")]
    timeout: Option<String>,
}

/// What became of a command.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct CommandResult {
    /// As a shell says it: the code, or 128 plus the signal. 124 for one that ran too long.
    exit_code: u8,
    /// Standard output as text, 1 MiB of it at most.
    stdout: String,
    /// Standard error as text, 1 MiB of it at most.
    stderr: String,
    /// Standard output to the byte, where it is not text.
    stdout_base64: Option<String>,
    /// Standard error to the byte, where it is not text.
    stderr_base64: Option<String>,
    /// Whether there was more output than is told.
    cut: bool,
}

#[OpenApi]
impl WorkersApi {
    /// List workers, by name
    #[oai(path = "/workers", method = "get", operation_id = "list_workers")]
    async fn list(
        &self,
        /// Only workers of this profile.
        profile: Query<Option<String>>,
        /// Only workers in this phase.
        phase: Query<Option<PhaseName>>,
        /// Only workers whose name comes after this one: `next` of the page before.
        after: Query<Option<String>>,
        /// How many at most.
        #[oai(default = "default_limit", validator(minimum(value = "1"), maximum(value = "1000")))]
        limit: Query<u32>,
    ) -> Result<Json<WorkerPage>, Problem> {
        let status = self.0.status();
        let wanted =
            status.workers.iter().map(|worker| WorkerInfo::of(worker, &self.0.0.forges)).filter(
                |worker| {
                    profile.0.as_ref().is_none_or(|name| worker.profile.as_ref() == Some(name))
                        && phase.0.is_none_or(|phase| worker.phase == phase)
                        && after.0.as_ref().is_none_or(|after| worker.name > *after)
                },
            );
        let mut workers: Vec<WorkerInfo> = wanted.collect();
        workers.sort_by(|one, other| one.name.cmp(&other.name));
        let limit = limit.0 as usize;
        let more = workers.len() > limit;
        workers.truncate(limit);
        let next = workers.last().filter(|_| more).map(|worker| worker.name.clone());
        Ok(Json(WorkerPage { workers, next }))
    }

    /// Show a worker
    #[oai(path = "/workers/:name", method = "get", operation_id = "show_worker")]
    async fn show(&self, name: Path<String>) -> Result<Json<WorkerInfo>, Problem> {
        let status = self.0.status();
        let mut workers = status.workers.iter();
        match workers.find(|worker| worker.name.as_str() == name.0) {
            Some(worker) => Ok(Json(WorkerInfo::of(worker, &self.0.0.forges))),
            None => Err(Problem::not_found(format!("worker {:?} does not exist", name.0))),
        }
    }

    /// Show a worker's console
    ///
    /// What its machine wrote to its serial console: the last 1 MiB.
    #[oai(path = "/workers/:name/console", method = "get", operation_id = "show_console")]
    async fn console(&self, name: Path<String>) -> Result<ConsoleText, Problem> {
        let worker = worker_name(&name)?;
        let console = self.0.0.hypervisor.console(&worker, false).await?;
        let console = console.map(|part| part.map_err(std::io::Error::other));
        Ok(ConsoleText::Bytes(Binary(Body::from_bytes_stream(console))))
    }

    /// Follow a worker's console
    ///
    /// Events `console` until the machine ends, then one event `end`. The id of each event is the offset
    /// after it, counted from the first byte that was kept when the service was asked.
    #[oai(path = "/workers/:name/console/follow", method = "get", operation_id = "follow_console")]
    async fn follow(
        &self,
        name: Path<String>,
        /// The id of the last event that was received.
        #[oai(name = "Last-Event-ID")]
        last: Header<Option<u64>>,
    ) -> Result<EventStream<BoxStream<'static, LogPart>>, Problem> {
        let worker = worker_name(&name)?;
        let console = self.0.0.hypervisor.console(&worker, true).await?;
        let known = last.0.unwrap_or(0);
        let parts = console
            .take_while(|part| future::ready(part.is_ok()))
            .filter_map(|part| future::ready(part.ok()))
            .scan(0_u64, move |offset, bytes| {
                let from = *offset;
                *offset += bytes.len() as u64;
                let skip = known.saturating_sub(from).min(bytes.len() as u64);
                let rest = bytes.slice(usize::try_from(skip).unwrap_or(bytes.len())..);
                future::ready(Some((!rest.is_empty()).then(|| LogPart::new(from + skip, &rest))))
            })
            .filter_map(future::ready);
        let end = stream::once(future::ready(LogPart::new(u64::MAX, &Bytes::new())));
        let news = self.0.limited(parts.chain(end))?.boxed();
        Ok(EventStream::new(news).keep_alive(KEEP_ALIVE).to_event(|part| {
            if part.is_end() {
                return Event::message("{}").event_type("end");
            }
            let id = part.to().to_string();
            Event::message(part.to_json_string()).event_type("console").id(id)
        }))
    }

    /// Show a worker's screen
    ///
    /// A picture may be two seconds old.
    #[oai(path = "/workers/:name/screenshot", method = "get", operation_id = "show_screen")]
    async fn screenshot(&self, name: Path<String>) -> Result<Picture, Problem> {
        let worker = worker_name(&name)?;
        let png = match self.0.0.pictures.within(FRESH, &worker) {
            Some(png) => png,
            None => self.0.picture(&worker).await?,
        };
        Ok(Picture::Png(Binary(png.into())))
    }

    /// Run a command in a worker's machine
    ///
    /// Answers when the command has ended. It is killed when it runs too long; a client that leaves does not
    /// end it.
    #[oai(path = "/workers/:name/exec", method = "post", operation_id = "run_command")]
    async fn exec(
        &self,
        by: Admin,
        name: Path<String>,
        wish: Json<Strict<CommandWish>>,
    ) -> Result<Json<CommandResult>, Problem> {
        let worker = worker_name(&name)?;
        let Json(Strict(wish)) = wish;
        let limit = match &wish.timeout {
            Some(text) => period("timeout", text, COMMAND_LIMIT.1)?,
            None => COMMAND_LIMIT.0,
        };
        let mut command = Command::new(wish.argv);
        (command.env, command.working_dir) = (wish.env, wish.working_dir);
        command.check()?;
        let guest = self.0.0.hypervisor.guest(&worker).await?;
        self.0.let_in(&worker, by.name()).await?;
        let id = ProcessId::new(format!("exec-{:016x}", rand::random::<u64>()))?;
        tracing::info!(%worker, by = %by.name(), program = command.argv[0], "A command is run.");
        let mut kept = Kept::default();
        let run = exec(&*guest, &id, &command, |output| kept.take(output));
        let code = match timeout(limit, run).await {
            Ok(status) => status?.code(),
            Err(_) => {
                guest.kill(&id, Signal::Kill).await?;
                124
            }
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let exact =
            |bytes: &[u8]| std::str::from_utf8(bytes).is_err().then(|| STANDARD.encode(bytes));
        Ok(Json(CommandResult {
            exit_code: code,
            stdout: text(&kept.stdout),
            stderr: text(&kept.stderr),
            stdout_base64: exact(&kept.stdout),
            stderr_base64: exact(&kept.stderr),
            cut: kept.cut,
        }))
    }

    /// Keep a worker's machine
    ///
    /// Whatever becomes of its job, the machine stays until the time is over, it is let go or retired, or the
    /// pool is emptied. Asking again changes the time.
    #[oai(path = "/workers/:name/hold", method = "post", operation_id = "hold_worker")]
    async fn hold(
        &self,
        by: Operate,
        name: Path<String>,
        wish: Json<Strict<HoldWish>>,
    ) -> Result<Json<HoldInfo>, Problem> {
        let worker = worker_name(&name)?;
        let Json(Strict(wish)) = wish;
        let time = period("for", &wish.time, LONGEST_HOLD)?;
        let until = after(time);
        let (by, purpose) = (by.name().to_string(), wish.purpose);
        let hold = self.0.0.pool.hold(HoldRequest { worker, until, by, purpose }).await?;
        Ok(Json((&hold).into()))
    }

    /// Let a worker's machine go
    ///
    /// Fine when it is not held.
    #[oai(path = "/workers/:name/hold", method = "delete", operation_id = "let_worker_go")]
    async fn unhold(&self, by: Operate, name: Path<String>) -> Result<Done, Problem> {
        let worker = worker_name(&name)?;
        self.0.0.pool.unhold(&worker, by.name().as_str()).await?;
        Ok(Done::Done)
    }

    /// Retire a worker
    ///
    /// Its machine is destroyed, held or reserved as it may be. One that runs a job is refused: cancel the
    /// job first.
    #[oai(path = "/workers/:name/retire", method = "post", operation_id = "retire_worker")]
    async fn retire(&self, by: Operate, name: Path<String>) -> Result<Dismissed, Problem> {
        let worker = worker_name(&name)?;
        match self.0.0.pool.retire(&worker, by.name().as_str()).await {
            Ok(()) => Ok(Dismissed::Accepted),
            Err(error @ Error::Busy { .. }) => {
                let detail = format!("{error}; cancel the job, or wait for its end");
                Err(Problem::new(poem::http::StatusCode::CONFLICT, detail))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// What is kept of a command's output.
#[derive(Default)]
struct Kept {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    cut: bool,
}

impl Kept {
    fn take(&mut self, output: Output<'_>) {
        let (kept, bytes) = match output {
            Output::Stdout(bytes) => (&mut self.stdout, bytes),
            Output::Stderr(bytes) => (&mut self.stderr, bytes),
        };
        let room = OUTPUT_KEPT - kept.len();
        self.cut |= bytes.len() > room;
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// A time that a client wrote, above zero and at most `most`.
pub fn period(key: &str, text: &str, most: Duration) -> Result<Duration, Problem> {
    let parsed = text.parse::<Period>();
    let time = parsed.map_err(|error| Problem::bad_request(format!("{key}: {error}")))?.0;
    if time.is_zero() || time > most {
        let most = runner_core::explain::say(most);
        let detail = format!("{key}: {text:?} must be above zero and at most {most}");
        return Err(Problem::bad_request(detail));
    }
    Ok(time)
}

/// The moment in so long.
pub fn after(time: Duration) -> Timestamp {
    let time = SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX);
    Timestamp::now().saturating_add(time).unwrap_or(Timestamp::MAX)
}

fn default_limit() -> u32 {
    1000
}
