//! The runner program: which version there is, and until when GitHub accepts the one that an image carries.
//!
//! GitHub stops giving jobs to a runner 30 days after a newer version was released, whatever it changed
//! (docs.github.com, "Runner software updates on self-hosted runners"). A single-use runner cannot update itself:
//! it would do so for each job anew. So an image says which version it carries, and has a deadline.

use std::{collections::BTreeMap, fmt, ops::Bound, str::FromStr};

use jiff::{SignedDuration, Timestamp};
use runner_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::{
    budget::Priority,
    client::Client,
    error::{ApiError, Explain},
};

/// For how long GitHub accepts a version after a newer one was released.
pub const ACCEPTED: SignedDuration = SignedDuration::from_hours(30 * 24);
/// How long before that is over it is worth a warning.
pub const WARN_BEFORE: SignedDuration = SignedDuration::from_hours(5 * 24);

/// A version of the runner program, such as `2.330.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunnerVersion(u32, u32, u32);

impl FromStr for RunnerVersion {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let odd = || Error::invalid(format!("runner version {text:?}"), "it is not like 2.330.0");
        let mut parts = text.strip_prefix('v').unwrap_or(text).split('.').map(|part| {
            let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            part.parse().ok().filter(|_| digits)
        });
        let version = (|| Some(Self(parts.next()??, parts.next()??, parts.next()??)))();
        version.filter(|_| parts.next().is_none()).ok_or_else(odd)
    }
}

impl TryFrom<String> for RunnerVersion {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<RunnerVersion> for String {
    fn from(version: RunnerVersion) -> Self {
        version.to_string()
    }
}

impl fmt::Display for RunnerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// The runner program for one kind of machine, as GitHub offers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunnerProgram {
    /// `linux`, `win` or `osx`.
    pub os: String,
    /// `x64`, `arm64` or `arm`.
    pub architecture: String,
    /// Which version.
    pub version: RunnerVersion,
    /// Where it is.
    pub url: String,
    /// The SHA-256 of what is there, in lower-case hexadecimal. An image build that finds another stops.
    pub sha256: String,
}

#[derive(Deserialize)]
struct Offer {
    os: String,
    architecture: String,
    download_url: String,
    filename: String,
    #[serde(default)]
    sha256_checksum: Option<String>,
}

impl Offer {
    fn program(self) -> Result<RunnerProgram, ApiError> {
        let odd = |what: &str| {
            ApiError::nonsense(format!("the runner program {:?} {what}", self.filename))
        };
        let stem = self.filename.strip_suffix(".tar.gz").or(self.filename.strip_suffix(".zip"));
        let version = stem.and_then(|stem| stem.rsplit_once('-')).map(|(_, version)| version);
        let version = version.and_then(|version| version.parse().ok());
        let sha256 = self.sha256_checksum.clone().unwrap_or_default().to_ascii_lowercase();
        if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(odd("has no SHA-256"));
        }
        Ok(RunnerProgram {
            version: version.ok_or_else(|| odd("does not tell its version"))?,
            os: self.os,
            architecture: self.architecture,
            url: self.download_url,
            sha256,
        })
    }
}

impl Client {
    /// The runner programs that GitHub offers: one for each kind of machine, all of the newest version.
    ///
    /// # Errors
    /// `Unauthorized`, `RateLimited`; `Backend`, also for a program without checksum.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn runner_programs(&self) -> Result<Vec<RunnerProgram>> {
        let path = format!("{}/actions/runners/downloads", self.place().scope().path());
        let programs = async {
            let offers: Vec<Offer> =
                self.get(&path, Priority::Poll, "the list of programs").await?;
            if offers.is_empty() {
                return Err(ApiError::nonsense("GitHub offers no runner program at all"));
            }
            offers.into_iter().map(Offer::program).collect()
        };
        programs.await.explain("list the runner programs", self)
    }
}

/// Until when GitHub accepts a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Deadline {
    /// The version that an image carries.
    pub version: RunnerVersion,
    /// The newest there is.
    pub newest: RunnerVersion,
    /// When GitHub may begin to refuse it: at the earliest that it can be.
    pub refused_from: Timestamp,
}

impl Deadline {
    /// What to tell the operator, if it is time to.
    pub fn warning(&self, now: Timestamp) -> Option<String> {
        let left = self.refused_from.duration_since(now);
        let Self { version, newest, refused_from } = self;
        if left.is_negative() || left.is_zero() {
            return Some(format!(
                "GitHub may refuse runner {version} since {refused_from}: rebuild the image with {newest}"
            ));
        }
        let days = left.as_hours() / 24;
        (left <= WARN_BEFORE).then(|| {
            format!(
                "GitHub will refuse runner {version} from {refused_from} on, in {days} days: rebuild the image \
                 with {newest}"
            )
        })
    }
}

/// Remembers when each version was known to be the newest, since GitHub does not say when it released one.
/// Plain data: keep it, and the deadlines stay exact over a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions(BTreeMap<RunnerVersion, Seen>);

/// When a version was the newest, as far as was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    first: Timestamp,
    last: Timestamp,
}

/// How many versions are remembered: years of them.
const REMEMBERED: usize = 64;

impl Versions {
    /// Takes in what GitHub offers now.
    pub fn seen(&mut self, programs: &[RunnerProgram], now: Timestamp) {
        let Some(newest) = programs.iter().map(|program| program.version).max() else { return };
        let seen = self.0.entry(newest).or_insert(Seen { first: now, last: now });
        seen.last = now.max(seen.last);
        while self.0.len() > REMEMBERED {
            self.0.pop_first();
        }
    }

    /// The newest there is, if any was ever seen.
    pub fn newest(&self) -> Option<RunnerVersion> {
        self.0.last_key_value().map(|(version, _)| *version)
    }

    /// Until when GitHub accepts this version. Where nobody saw when it was the newest, it is taken to have been
    /// when the image was built, if a newer one was not known by then already. None while it is the newest
    /// still, or if nothing was ever seen.
    pub fn deadline(
        &self,
        version: RunnerVersion,
        built_at: Option<Timestamp>,
    ) -> Option<Deadline> {
        let newest = self.newest().filter(|newest| version < *newest)?;
        let newer = self.0.range((Bound::Excluded(version), Bound::Unbounded));
        // The newer one was released before this, and after the later of the others.
        let superseded = newer.map(|(_, seen)| seen.first).min()?;
        let last_newest = self.0.get(&version).map(|seen| seen.last.min(superseded));
        let built = built_at.map(|at| at.min(superseded));
        let released = last_newest.max(built).unwrap_or(superseded);
        let refused_from = released.saturating_add(ACCEPTED).unwrap_or(Timestamp::MAX);
        Some(Deadline { version, newest, refused_from })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> RunnerVersion {
        text.parse().unwrap()
    }

    fn day(day: i64) -> Timestamp {
        Timestamp::from_second(day * 24 * 3600).unwrap()
    }

    fn offer(filename: &str, sha256: Option<&str>) -> Offer {
        Offer {
            os: "linux".to_owned(),
            architecture: "x64".to_owned(),
            download_url: format!("https://github.com/actions/runner/{filename}"),
            filename: filename.to_owned(),
            sha256_checksum: sha256.map(str::to_owned),
        }
    }

    fn programs(text: &str) -> Vec<RunnerProgram> {
        let filename = format!("actions-runner-linux-x64-{text}.tar.gz");
        vec![offer(&filename, Some(&"a".repeat(64))).program().unwrap()]
    }

    #[test]
    fn versions_are_numbers() {
        assert!(version("2.9.0") < version("2.330.0"));
        assert_eq!(version("v2.330.1").to_string(), "2.330.1");
        for odd in ["", "2.330", "2.330.0.1", "2.330.x", "2.+3.0", "2..0"] {
            assert!(odd.parse::<RunnerVersion>().is_err(), "{odd}");
        }
    }

    #[test]
    fn a_program_without_checksum_is_refused() {
        let name = "actions-runner-win-arm64-2.330.0.zip";
        assert!(offer(name, None).program().is_err());
        assert!(offer(name, Some("abc")).program().is_err());
        assert!(offer("runner.zip", Some(&"a".repeat(64))).program().is_err());
        let program = offer(name, Some(&"AB".repeat(32))).program().unwrap();
        assert_eq!((program.version, program.sha256), (version("2.330.0"), "ab".repeat(32)));
    }

    #[test]
    fn an_image_has_a_deadline_once_there_is_a_newer_version_and_a_warning_five_days_before() {
        let mut versions = Versions::default();
        let old = version("2.329.0");
        assert_eq!(versions.deadline(old, Some(day(0))), None, "nothing is known");
        versions.seen(&programs("2.329.0"), day(3));
        assert_eq!(versions.deadline(old, Some(day(0))), None, "it is the newest");
        versions.seen(&programs("2.330.0"), day(10));
        let deadline = versions.deadline(old, Some(day(0))).unwrap();
        assert_eq!(deadline.refused_from, day(33), "released after day 3 at the earliest");
        assert_eq!(deadline.warning(day(27)), None);
        let warning = deadline.warning(day(28)).unwrap();
        assert_eq!(
            warning,
            "GitHub will refuse runner 2.329.0 from 1970-02-03T00:00:00Z on, in 5 days: rebuild the image with \
             2.330.0"
        );
        assert!(deadline.warning(day(33)).unwrap().starts_with("GitHub may refuse"));
        let from = |built_at| versions.deadline(old, built_at).unwrap().refused_from;
        assert_eq!(from(Some(day(5))), day(35), "it was the newest when the image was built");
        assert_eq!(from(Some(day(20))), day(40), "the newer one was there by then");
        assert_eq!(from(None), day(33));
        let older = version("2.328.0");
        assert_eq!(versions.deadline(older, None).unwrap().refused_from, day(33));
    }

    #[test]
    fn what_was_seen_survives_a_restart() {
        let mut versions = Versions::default();
        versions.seen(&programs("2.329.0"), day(3));
        versions.seen(&programs("2.330.0"), day(10));
        let text = serde_json::to_string(&versions).unwrap();
        assert_eq!(serde_json::from_str::<Versions>(&text).unwrap(), versions);
    }
}
