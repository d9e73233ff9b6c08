//! What goes wrong, on order: by route, by count, by chance.

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

/// How an answer goes wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Fault {
    /// This status, without any effect.
    Status {
        /// 400 to 599.
        status: u16,
        /// What `Retry-After` says, in seconds.
        #[serde(default)]
        retry_after: Option<u64>,
        /// What the body's `message` says.
        #[serde(default)]
        message: Option<String>,
    },
    /// The hourly quota is used up: 403, nothing remaining, and it comes back after so many seconds.
    PrimaryLimit {
        /// Seconds.
        reset_after: u64,
    },
    /// Too much at once: 403 that says so, with or without `Retry-After`.
    SecondaryLimit {
        /// Seconds.
        #[serde(default)]
        retry_after: Option<u64>,
    },
    /// The caller's token ends here, for good: 401 for this request and all later ones.
    ExpiredToken,
    /// A page for people, as from a proxy or in an outage, without any effect.
    Html {
        /// 200 is a status, too.
        status: u16,
    },
    /// The connection is reset before anything happens.
    Reset,
    /// It has its effect, and the connection is reset in place of the answer.
    LostReply,
    /// Nothing happens and nothing is answered, for as long as the client stays.
    Hang,
    /// It has its effect, and the connection ends in the middle of the body.
    Truncated,
    /// It has its effect, and the body is the first half of what it should be, well-formed as HTTP.
    Garbage,
    /// It has its effect, and the body comes in pieces.
    Slow {
        /// Bytes.
        piece: usize,
        /// Milliseconds between two pieces.
        pause_ms: u64,
    },
    /// A list that lacks its last half, says nothing about it, and has no next page. `total_count` stays.
    ShortList,
}

/// Which requests a fault is for. What is not said does not matter.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct On {
    /// Such as `POST`.
    pub method: Option<String>,
    /// The path and query, without the prefix of a GHES, with `*` for anything: `*/actions/runners?*&page=2*`.
    pub path: Option<String>,
    /// GitHub's name of the operation, or `scale-set/…`, or `storage`; with `*` for anything.
    pub operation: Option<String>,
}

/// A fault, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// Which requests.
    #[serde(default)]
    pub on: On,
    /// How many of them go well first.
    #[serde(default)]
    pub skip: u64,
    /// How many of them go wrong; `None` for all that come.
    #[serde(default)]
    pub times: Option<u64>,
    /// How likely it is that one goes wrong, from 0 to 1.
    #[serde(default = "certain")]
    pub probability: f64,
    /// How.
    pub fault: Fault,
}

fn certain() -> f64 {
    1.0
}

impl FaultRule {
    /// `fault`, for every request.
    pub fn always(fault: Fault) -> Self {
        Self { on: On::default(), skip: 0, times: None, probability: 1.0, fault }
    }

    /// `fault`, for the next request only.
    pub fn once(fault: Fault) -> Self {
        Self { times: Some(1), ..Self::always(fault) }
    }

    /// Only for this method.
    #[must_use]
    pub fn method(mut self, method: impl Into<String>) -> Self {
        self.on.method = Some(method.into());
        self
    }

    /// Only for these paths; see [`On::path`].
    #[must_use]
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.on.path = Some(path.into());
        self
    }

    /// Only for these operations; see [`On::operation`].
    #[must_use]
    pub fn operation(mut self, operation: impl Into<String>) -> Self {
        self.on.operation = Some(operation.into());
        self
    }

    /// Only after so many have gone well.
    #[must_use]
    pub fn skip(mut self, skip: u64) -> Self {
        self.skip = skip;
        self
    }

    /// So many times.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    /// With this likelihood, from 0 to 1.
    #[must_use]
    pub fn probability(mut self, probability: f64) -> Self {
        self.probability = probability;
        self
    }
}

/// The faults that are ordered.
pub(crate) struct Faults {
    rules: Vec<FaultRule>,
    chance: StdRng,
}

impl Default for Faults {
    fn default() -> Self {
        Self { rules: Vec::new(), chance: StdRng::seed_from_u64(0) }
    }
}

impl Faults {
    pub(crate) fn add(&mut self, rule: FaultRule) {
        self.rules.push(rule);
    }

    pub(crate) fn clear(&mut self) {
        self.rules.clear();
    }

    pub(crate) fn seed(&mut self, seed: u64) {
        self.chance = StdRng::seed_from_u64(seed);
    }

    pub(crate) fn rules(&self) -> &[FaultRule] {
        &self.rules
    }

    /// What goes wrong with this request: the first rule that strikes.
    pub(crate) fn strike(&mut self, method: &str, path: &str, operation: &str) -> Option<Fault> {
        let chance = &mut self.chance;
        for rule in self.rules.iter_mut().filter(|rule| rule.times != Some(0)) {
            if !rule.on.is(method, path, operation) {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            if rule.probability < 1.0 && !chance.random_bool(rule.probability.clamp(0.0, 1.0)) {
                continue;
            }
            if let Some(times) = &mut rule.times {
                *times -= 1;
            }
            return Some(rule.fault.clone());
        }
        None
    }
}

impl On {
    fn is(&self, method: &str, path: &str, operation: &str) -> bool {
        self.method.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(method))
            && self.path.as_ref().is_none_or(|pattern| is_like(path, pattern))
            && self.operation.as_ref().is_none_or(|pattern| is_like(operation, pattern))
    }
}

/// Whether a text is of a pattern, in which `*` stands for anything.
fn is_like(text: &str, pattern: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return text == pattern };
    let Some(text) = text.strip_prefix(start) else { return false };
    let starts = text.char_indices().map(|(at, _)| at).chain([text.len()]);
    starts.into_iter().any(|at| is_like(&text[at..], rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_anchored_at_both_ends() {
        assert!(is_like("/orgs/acme/actions/runners?per_page=100&page=2", "*runners?*page=2"));
        assert!(!is_like("/orgs/acme/actions/runners?per_page=100&page=21", "*runners?*page=2"));
        assert!(is_like("", "*"));
        assert!(is_like("ab", "ab"));
        assert!(!is_like("ab", "a"));
        assert!(!is_like("xab", "a*"));
    }

    #[test]
    fn a_rule_skips_strikes_and_is_done() {
        let mut faults = Faults::default();
        faults.add(FaultRule::once(Fault::Reset).method("get").skip(1).times(2));
        let strikes: Vec<_> = (0..5).map(|_| faults.strike("GET", "/", "").is_some()).collect();
        assert_eq!(strikes, [false, true, true, false, false]);
        assert_eq!(faults.strike("POST", "/", ""), None);
    }

    #[test]
    fn chance_repeats_itself_by_its_seed() {
        let storm = |seed| {
            let mut faults = Faults::default();
            faults.seed(seed);
            faults.add(FaultRule::always(Fault::Reset).probability(0.5));
            (0..64).map(|_| faults.strike("GET", "/", "").is_some()).collect::<Vec<_>>()
        };
        assert_eq!(storm(7), storm(7));
        assert_ne!(storm(7), storm(8));
        let struck = storm(7).into_iter().filter(|struck| *struck).count();
        assert!((16..48).contains(&struck), "{struck} of 64");
    }
}
