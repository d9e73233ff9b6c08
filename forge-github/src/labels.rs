//! Labels, and the marks of a reservation among them.
//!
//! A reserved runner has the labels `reserved-for:ID`, `reserved-since:UNIX-SECONDS` and `reserved-by:OWNER`
//! *instead* of those it was registered with: GitHub hands a job to any runner that has all the labels which
//! the job asks for, so labels that were merely added would not keep anybody out. The reservation's jobs say
//! `runs-on: reserved-for:ID`.
//!
//! What GitHub calls a *read-only* label (`self-hosted`, an operating system's name, an architecture's) cannot
//! be taken away. A job that asks for nothing else may be given a reserved runner; so let jobs ask for a label
//! of the profile's own.

use std::collections::BTreeSet;

use jiff::Timestamp;
use runner_core::{Label, OwnerId, ReservationId};

/// Marks for whom a runner is reserved.
pub const RESERVED_FOR: &str = "reserved-for:";
/// Marks since when, in seconds since 1970.
pub const RESERVED_SINCE: &str = "reserved-since:";
/// Marks whose pool did it.
pub const RESERVED_BY: &str = "reserved-by:";

/// The labels of a runner that is reserved.
pub fn marks(reservation: &ReservationId, owner: &OwnerId, now: Timestamp) -> [String; 3] {
    [
        format!("{RESERVED_FOR}{reservation}"),
        format!("{RESERVED_SINCE}{}", now.as_second()),
        format!("{RESERVED_BY}{owner}"),
    ]
}

/// The reservation that a runner with these labels is marked with. GitHub changes the case of labels as it
/// likes, so the id is in lower case.
pub fn reserved_for<'a>(labels: impl IntoIterator<Item = &'a str>) -> Option<ReservationId> {
    let mut ids = labels.into_iter().filter_map(|label| after(RESERVED_FOR, label));
    ReservationId::new(ids.next()?.to_ascii_lowercase()).ok()
}

/// What a job asks for, parted into ordinary labels and the reservation it wants. None if it asks for a
/// reservation that cannot be, or for two.
pub(crate) fn split(labels: BTreeSet<Label>) -> Option<(BTreeSet<Label>, Option<ReservationId>)> {
    let (marks, ordinary): (BTreeSet<Label>, BTreeSet<Label>) =
        labels.into_iter().partition(|label| after(RESERVED_FOR, label.as_str()).is_some());
    match marks.len() {
        0 => Some((ordinary, None)),
        1 => reserved_for(marks.iter().map(Label::as_str)).map(|id| (ordinary, Some(id))),
        _ => None,
    }
}

/// What follows `prefix`, whatever its case.
fn after<'a>(prefix: &str, label: &'a str) -> Option<&'a str> {
    let head = label.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| &label[prefix.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_back_whatever_github_did_to_their_case() {
        let id = ReservationId::new("6e1d-4a").unwrap();
        let marks = marks(&id, &OwnerId::new("host-3").unwrap(), Timestamp::UNIX_EPOCH);
        assert_eq!(marks, ["reserved-for:6e1d-4a", "reserved-since:0", "reserved-by:host-3"]);
        let shouted = marks.map(|mark| mark.to_uppercase());
        assert_eq!(reserved_for(shouted.iter().map(String::as_str)), Some(id));
        assert_eq!(reserved_for(["linux", "reserved-format:x", "réserved"]), None);
    }

    #[test]
    fn a_job_cannot_ask_for_two_reservations() {
        let labels = |text: &[&str]| text.iter().map(|text| Label::new(text).unwrap()).collect();
        assert_eq!(split(labels(&["reserved-for:a", "reserved-for:b"])), None);
        assert_eq!(split(labels(&["reserved-for:"])), None);
        let (ordinary, id) = split(labels(&["x64", "reserved-for:a"])).unwrap();
        assert_eq!((ordinary, id), (labels(&["x64"]), ReservationId::new("a").ok()));
    }
}
