//! What a job left, and until when.

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::job::Job;

/// A file that a job left.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Artifact {
    /// `archive`, or a kind of report.
    pub kind: String,
    /// `zip`, `gzip` or `raw`.
    pub format: String,
    /// As the runner called it.
    pub name: String,
    /// The file.
    pub content: Bytes,
    /// Until when it is kept. `None` for ever.
    pub expires: Option<Timestamp>,
}

/// Kinds that a runner compresses by itself, from `Enums::Ci::JobArtifact` of GitLab. All others are text as it is.
const GZIP: [&str; 11] = [
    "annotations",
    "cluster_applications",
    "cobertura",
    "cyclonedx",
    "dotenv",
    "jacoco",
    "junit",
    "metadata",
    "metrics",
    "metrics_referee",
    "network_referee",
];

/// The format that files of a kind have.
pub(crate) fn format_of(kind: &str) -> &'static str {
    match kind {
        "archive" | "lsif" => "zip",
        kind if GZIP.contains(&kind) => "gzip",
        _ => "raw",
    }
}

impl Artifact {
    pub(crate) fn is_there(&self, now: Timestamp) -> bool {
        self.expires.is_none_or(|end| now < end)
    }

    pub(crate) fn brief_json(&self) -> Value {
        json!({ "filename": self.name, "size": self.content.len() })
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "file_type": self.kind,
            "file_format": self.format,
            "filename": self.name,
            "size": self.content.len(),
        })
    }
}

impl Job {
    /// What jobs after it can have of it.
    pub(crate) fn archive(&self, now: Timestamp) -> Option<&Artifact> {
        let mut artifacts = self.artifacts.iter();
        artifacts.find(|artifact| artifact.kind == "archive" && artifact.is_there(now))
    }
}

/// A time span as `.gitlab-ci.yml` has it: `3 mins 4 sec`, `1 week and 2 days`, `7d`, `42` (seconds), `never`.
/// `Ok(None)` for ever, `Err` for what is none.
pub(crate) fn time_span(text: &str) -> Result<Option<SignedDuration>, ()> {
    let text = text.trim().to_ascii_lowercase();
    if text.is_empty() || text == "never" {
        return Ok(None);
    }
    let mut total = SignedDuration::ZERO;
    let mut rest = text.as_str();
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        rest = rest.strip_prefix("and ").unwrap_or(rest);
        if rest.is_empty() {
            return Ok(Some(total));
        }
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let count: i64 = rest[..digits].parse().map_err(|_| ())?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let seconds = match &rest[..letters] {
            "" | "s" | "sec" | "secs" | "second" | "seconds" => 1,
            "m" | "min" | "mins" | "minute" | "minutes" => 60,
            "h" | "hr" | "hrs" | "hour" | "hours" => 3600,
            "d" | "day" | "days" => 24 * 3600,
            "w" | "week" | "weeks" => 7 * 24 * 3600,
            "mo" | "mos" | "month" | "months" => 30 * 24 * 3600,
            "y" | "yr" | "yrs" | "year" | "years" => 365 * 24 * 3600 + 6 * 3600,
            _ => return Err(()),
        };
        rest = &rest[letters..];
        let part = count.checked_mul(seconds).ok_or(())?;
        total = total.checked_add(SignedDuration::from_secs(part)).ok_or(())?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_spans_are_read_as_people_write_them() {
        let seconds = |text| time_span(text).map(|span| span.map(|span| span.as_secs()));
        assert_eq!(seconds("42"), Ok(Some(42)));
        assert_eq!(seconds("42 seconds"), Ok(Some(42)));
        assert_eq!(seconds("3 mins 4 sec"), Ok(Some(184)));
        assert_eq!(seconds("2h20min"), Ok(Some(8400)));
        assert_eq!(seconds("3 weeks and 2 days"), Ok(Some(23 * 86_400)));
        assert_eq!(seconds("7d"), Ok(Some(7 * 86_400)));
        assert_eq!(seconds("never"), Ok(None));
        assert_eq!(seconds("soon"), Err(()));
        assert_eq!(seconds("1 fortnight"), Err(()));
        assert_eq!(seconds("99999999999999999999 days"), Err(()));
        assert_eq!(seconds("9223372036854775807 weeks"), Err(()));
    }
}
