//! What was asked, and what was wrong with it.

use std::{collections::VecDeque, fmt};

use jiff::Timestamp;
use serde::Serialize;

/// A request, and how it was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Call {
    /// When it came, by GitLab's clock.
    pub at: Timestamp,
    /// Such as `POST /api/v4/jobs/request`: the method and the path's template, or the path itself where GitLab
    /// has no such path.
    pub route: String,
    /// The path without its query.
    pub path: String,
    /// `None` when there was no answer, or not a whole one, or none yet.
    pub status: Option<u16>,
    /// What the client says it is.
    pub user_agent: Option<String>,
}

/// What GitLab's description does not allow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Violation {
    /// Such as `PUT /api/v4/jobs/7`.
    pub request: String,
    /// Whether it is in the reply. Then it is this fake's.
    pub ours: bool,
    /// What is wrong, in words.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.ours { "reply" } else { "request" };
        write!(f, "{} ({side}): {}", self.request, self.what)
    }
}

/// How many requests are remembered, and how many violations of each side.
const REMEMBERED: usize = 10_000;

#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) calls: VecDeque<Call>,
    /// How many came before those.
    forgotten: usize,
    pub(crate) violations: Vec<Violation>,
    /// How many of those are in requests and in replies.
    kept: [usize; 2],
}

impl Record {
    /// Takes a request down; the number is for [`Record::answered`].
    pub(crate) fn asked(&mut self, call: Call) -> usize {
        if self.calls.len() == REMEMBERED {
            self.calls.pop_front();
            self.forgotten += 1;
        }
        self.calls.push_back(call);
        self.forgotten + self.calls.len() - 1
    }

    pub(crate) fn answered(&mut self, number: usize, status: u16) {
        let place = number.checked_sub(self.forgotten);
        if let Some(call) = place.and_then(|place| self.calls.get_mut(place)) {
            call.status = Some(status);
        }
    }

    pub(crate) fn complain(&mut self, request: &str, ours: bool, what: impl Into<String>) {
        let what = what.into();
        tracing::warn!(request, ours, what, "Violation.");
        // So that many of a client's do not hide ours.
        let kept = &mut self.kept[usize::from(ours)];
        if *kept < REMEMBERED {
            *kept += 1;
            self.violations.push(Violation { request: request.to_owned(), ours, what });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_requests_are_forgotten_and_answers_still_find_theirs() {
        let mut record = Record::default();
        let call = Call {
            at: Timestamp::UNIX_EPOCH,
            route: String::new(),
            path: String::new(),
            status: None,
            user_agent: None,
        };
        let numbers: Vec<_> = (0..=REMEMBERED).map(|_| record.asked(call.clone())).collect();
        assert_eq!(record.calls.len(), REMEMBERED);
        record.answered(numbers[0], 500);
        record.answered(numbers[1], 200);
        record.answered(numbers[REMEMBERED], 201);
        let answered = |place: usize| record.calls[place].status;
        assert_eq!((answered(0), answered(1)), (Some(200), None));
        assert_eq!(answered(REMEMBERED - 1), Some(201));
    }
}
