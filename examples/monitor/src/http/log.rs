//! Job logs: raw, and as a stream that goes on where it was broken off.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{StreamExt, future, stream};
use poem::{Body, web::sse::Event};
use poem_openapi::{
    ApiResponse, Object, OpenApi, Union,
    param::{Header, Path, Query},
    payload::{Binary, EventStream},
    types::ToJSON,
};

use super::{
    KEEP_ALIVE, Shared,
    jobs::{job_id, model::Job},
    problem::Problem,
};

pub struct LogApi(pub Shared);

#[derive(ApiResponse)]
enum RawLog {
    /// The log's bytes.
    #[oai(status = 200, content_type = "text/plain; charset=utf-8")]
    Bytes(Binary<Body>),
}

/// A part of a job's log: event `log`, whose id is the offset of what comes after it.
#[derive(Object)]
pub struct LogPart {
    /// Where it begins, in bytes from the log's start.
    from: u64,
    /// Where it ends.
    to: u64,
    /// It as text. Exact, unless `base64` is there.
    text: String,
    /// Its exact bytes, where they are not text.
    #[oai(skip_serializing_if_is_none)]
    base64: Option<String>,
}

/// What the stream tells.
#[derive(Union)]
enum LogNews {
    /// A part of the log.
    Part(LogPart),
    /// The job is over: event `end`.
    End(Box<Job>),
}

#[OpenApi]
impl LogApi {
    /// Fetch a job's log
    #[oai(path = "/jobs/:id/log", method = "get", operation_id = "fetch_log")]
    async fn fetch(
        &self,
        id: Path<String>,
        /// How many bytes to leave out at the start.
        #[oai(default)]
        from: Query<u64>,
        /// Whether to go on until the job is over.
        #[oai(default)]
        follow: Query<bool>,
    ) -> Result<RawLog, Problem> {
        let (id, from) = (job_id(&id)?, from.0);
        let queue = &self.0.0.queue;
        let there = queue.job(&id).await?.log_bytes.saturating_sub(from);
        let log = queue.log(&id, from).await?;
        let log = log.map(|part| part.map_err(std::io::Error::other));
        let body = if follow.0 {
            Body::from_bytes_stream(self.0.limited(log)?)
        } else {
            // Never asked for more than there is: that would wait for the job.
            let left = stream::unfold((log, there), |(mut log, left)| async move {
                if left == 0 {
                    return None;
                }
                let part = log.next().await?.map(|part| {
                    let keep = usize::try_from(left).unwrap_or(usize::MAX).min(part.len());
                    part.slice(..keep)
                });
                let taken = part.as_ref().map_or(left, |part| part.len() as u64);
                Some((part, (log, left - taken)))
            });
            Body::from_bytes_stream(left)
        };
        Ok(RawLog::Bytes(Binary(body)))
    }

    /// Follow a job's log
    ///
    /// Events `log` until the job is over, then one event `end` with the job. The id of each event is the
    /// offset after it: a client that lost its stream goes on with `Last-Event-ID` without gap or repeat.
    #[oai(path = "/jobs/:id/log/follow", method = "get", operation_id = "follow_log")]
    async fn follow(
        &self,
        id: Path<String>,
        /// How many bytes to leave out at the start. `Last-Event-ID` goes before it.
        #[oai(default)]
        from: Query<u64>,
        /// The id of the last event that was received.
        #[oai(name = "Last-Event-ID")]
        last: Header<Option<u64>>,
    ) -> Result<EventStream<stream::BoxStream<'static, LogNews>>, Problem> {
        let id = job_id(&id)?;
        let from = last.0.unwrap_or(from.0);
        let queue = self.0.0.queue.clone();
        let log = queue.log(&id, from).await?;
        // A log that cannot be read ends the stream without an end: the client comes back for the rest.
        let parts = log
            .take_while(|part| future::ready(part.is_ok()))
            .filter_map(|part| future::ready(part.ok()))
            .scan(from, |offset, bytes| {
                let part = LogPart::new(*offset, &bytes);
                *offset = part.to;
                future::ready(Some(LogNews::Part(part)))
            });
        let end = stream::once(async move { queue.job(&id).await.ok() })
            .filter_map(|job| future::ready(job.filter(|job| job.state.is_over())))
            .map(|job| LogNews::End(Box::new(job.into())));
        let news = self.0.limited(parts.chain(end))?.boxed();
        Ok(EventStream::new(news).keep_alive(KEEP_ALIVE).to_event(LogNews::into_event))
    }
}

impl LogPart {
    /// What was written from `from` on.
    pub fn new(from: u64, bytes: &Bytes) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let exact = matches!(text, std::borrow::Cow::Borrowed(_));
        Self {
            from,
            to: from + bytes.len() as u64,
            base64: (!exact).then(|| STANDARD.encode(bytes)),
            text: text.into_owned(),
        }
    }

    /// Where it ends.
    pub fn to(&self) -> u64 {
        self.to
    }

    /// Whether it stands for the end.
    pub fn is_end(&self) -> bool {
        self.from == u64::MAX
    }
}

impl LogNews {
    fn into_event(self) -> Event {
        match self {
            Self::Part(part) => {
                Event::message(part.to_json_string()).event_type("log").id(part.to.to_string())
            }
            Self::End(job) => Event::message(job.to_json_string()).event_type("end"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_text_is_told_exactly_too() {
        let part = LogPart::new(3, &Bytes::from_static(b"caf\xc3\xa9\n"));
        assert_eq!((part.to, part.text.as_str(), part.base64), (9, "café\n", None));
        let part = LogPart::new(0, &Bytes::from_static(b"\xff\x00"));
        assert_eq!(STANDARD.decode(part.base64.unwrap()).unwrap(), b"\xff\x00");
    }
}
