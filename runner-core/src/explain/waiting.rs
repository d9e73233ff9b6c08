//! Why a reservation waits, and why a job waits for its reservation.

use jiff::Timestamp;

use super::{Explanation, age, find, say};
use crate::{
    name::ReservationId,
    queue::{self, Stand},
    reservation::Reservation,
    status::Status,
};

/// Why a reservation waits, how far it has come, and what will free what it needs. None if none of that name
/// waits.
pub fn waiting_reservation(
    id: &ReservationId,
    status: &Status,
    now: Timestamp,
) -> Option<Explanation> {
    let place = status.queue.iter().find(|place| place.entry.id == *id)?;
    let outlook = queue::outlook(place, status, now);
    let entry = &place.entry;
    let mut told = Explanation {
        subject: format!("reservation {id}"),
        summary: String::new(),
        estimate: outlook.estimate,
        lines: Vec::new(),
    };
    let fewest = match entry.at_least {
        all if all == entry.count => String::new(),
        fewer => format!(", or at least {fewer},"),
    };
    told.say(format!(
        "{} asked {} ago for {} workers{fewest} of profile {}",
        entry.owner,
        say(outlook.waited),
        entry.count,
        entry.profile
    ));
    match place.stand {
        Stand::Waiting => (),
        Stand::Marking => {
            told.summary = "its workers are promised, and being marked at their forge".to_owned();
        }
        Stand::Ready => told.summary = "its workers are ready: take it".to_owned(),
    }
    if place.stand == Stand::Waiting {
        told.say(match place.ahead {
            0 => format!("it is the first in line for profile {}", entry.profile),
            ahead => format!("{ahead} are served before it, who need {}", place.ahead_workers),
        });
        if !entry.kept.is_empty() {
            let kept: Vec<&str> = entry.kept.iter().map(|name| name.as_str()).collect();
            told.say(format!("kept for it: {}; it lacks {}", kept.join(", "), place.missing));
        }
        for line in outlook.reasons.iter().chain(&outlook.chances) {
            told.say(line.clone());
        }
        let first = outlook.reasons.first().or(outlook.chances.first());
        told.summary = match (place.ahead, first) {
            (0, Some(reason)) => reason.clone(),
            (0, None) => "it waits for its workers".to_owned(),
            (ahead, Some(reason)) => format!("{ahead} are served before it; {reason}"),
            (ahead, None) => format!("{ahead} are served before it"),
        };
        told.say(match told.estimate {
            Some(after) => format!("it is likely to be served in {}", say(after)),
            None => "nothing tells when it will be served".to_owned(),
        });
    }
    told.say(format!("it is given up at {:.0} unless it is asked after before", place.until));
    Some(told)
}

/// Why a job waits that asks for a reservation.
pub(super) fn tell_of_reservation(
    told: &mut Explanation,
    id: &ReservationId,
    status: &Status,
    now: Timestamp,
) {
    if let Some(reservation) = status.reservations.iter().find(|held| held.id == *id) {
        told.say(format!("it runs on workers of reservation {id} only"));
        let phases = phases(reservation, status);
        told.summary = format!("it waits for its reservation: {phases}");
        told.say(phases);
        return;
    }
    if let Some(waiting) = waiting_reservation(id, status, now) {
        told.say(format!("reservation {id} is in the queue"));
        told.summary = format!("its reservation waits: {}", waiting.summary);
        told.estimate = waiting.estimate;
        told.lines.extend(waiting.lines);
        return;
    }
    let Some(ended) = status.ended.iter().find(|ended| ended.reservation.id == *id) else {
        told.summary = format!("there is no reservation {id}, and none is remembered");
        told.say("it waits until that reservation is made, or until it is cancelled");
        return;
    };
    let ago = say(age(ended.at, now));
    told.say(format!("reservation {id} ended {ago} ago: {}", ended.why));
    let profile = &ended.reservation.profile;
    let Some(offered) = status.offered.iter().find(|offered| offered.name == *profile) else {
        told.summary = format!("its reservation is over, and profile {profile} is not offered");
        return;
    };
    told.summary = format!("it gets a fresh worker of profile {profile} under reservation {id}");
    let none = Default::default();
    let counts = status.profiles.get(profile).unwrap_or(&none);
    for reason in super::held(offered, &offered.forge, status) {
        told.say(reason);
    }
    let chances = super::chances(offered, counts, status, now);
    told.estimate = chances.first().and_then(|chance| chance.after);
    if let Some(chance) = chances.first() {
        told.say(chance.text.clone());
    }
    told.say(match told.estimate {
        Some(after) => format!("it is likely to start in {}", say(after)),
        None => "nothing tells when it will start".to_owned(),
    });
}

fn phases(reservation: &Reservation, status: &Status) -> String {
    let lost = (reservation.count as usize).saturating_sub(reservation.workers.len());
    let of_workers = reservation.workers.iter().map(|name| match find(status, name) {
        Some(worker) => format!("{name} is {}", worker.phase.word()),
        None => format!("{name} is gone"),
    });
    let lost = (lost > 0).then(|| format!("{lost} lost and to be replaced"));
    of_workers.chain(lost).collect::<Vec<_>>().join(", ")
}
