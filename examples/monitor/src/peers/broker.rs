//! Asks other monitors for whoever waits here, the first in line first; renews what they promised, and gives back
//! what is not needed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::future::join_all;
use jiff::SignedDuration;
use runner_core::{
    ProfileName, ReservationId, Status,
    event::What,
    plan::Subject,
    queue::{Place, Stand},
};
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::task::JoinMap;

use super::{Loan, Part, Peers, Seen, Stage, Unheard};

/// How often the queue and the loans are looked at.
const EVERY: Duration = Duration::from_millis(500);
/// How often a monitor is asked what it has.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// For how long others keep workers for somebody who lacks some here.
const COLLECT: SignedDuration = SignedDuration::from_secs(120);
/// How long somebody waits for whom others could not be had.
const REST: Duration = Duration::from_secs(3);

/// Asks until it is dropped.
pub async fn run(peers: Peers) {
    tokio::join!(watch_all(&peers), serve(peers.clone()));
}

/// Learns what each monitor has, as long as it is to be asked.
async fn watch_all(peers: &Peers) {
    let mut watches: JoinMap<String, ()> = JoinMap::new();
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(_) = watches.join_next() => continue,
            _ = tick.tick() => (),
        }
        let names: Vec<String> = peers.peers().keys().cloned().collect();
        for name in names {
            if !watches.contains_key(&name) {
                watches.spawn(name.clone(), watch(peers.clone(), name));
            }
        }
    }
}

/// Learns what a monitor has, again and again, until it is not to be asked any more.
async fn watch(peers: Peers, name: String) {
    while let Some(peer) = peers.peer(&name) {
        let counts = peer.counts().await;
        let now = peers.0.clock.now();
        let news = {
            let mut seen = peers.seen();
            // It may be another that is asked by now.
            if peers.peer(&name).is_none_or(|now| !Arc::ptr_eq(&now, &peer)) {
                continue;
            }
            let before = seen.get(&name).map(|seen| seen.blind.is_some());
            let seen = seen.entry(name.clone()).or_default();
            match counts {
                Ok(counts) => {
                    *seen = Seen { counts, blind: None };
                    (before == Some(true)).then(|| "is asked for workers again".to_owned())
                }
                Err(Unheard(reason)) => {
                    let since = seen.blind.as_ref().map_or(now, |(since, _)| *since);
                    let news = format!("is not asked for workers: {reason}");
                    seen.blind = Some((since, reason));
                    (before != Some(true)).then_some(news)
                }
            }
        };
        if let Some(news) = news {
            let text = format!("monitor {name} {news}");
            peers.0.events.record(now, Subject::Pool, What::Note { text });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    peers.seen().remove(&name);
}

async fn serve(peers: Peers) {
    let mut tasks: JoinMap<ReservationId, bool> = JoinMap::new();
    // Those for whom others could not be had, until when nobody is asked for them.
    let mut resting: BTreeMap<ReservationId, Instant> = BTreeMap::new();
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some((id, ended)) = tasks.join_next() => {
                if !ended.unwrap_or(false) {
                    resting.insert(id, Instant::now() + REST);
                }
                continue;
            }
            _ = tick.tick() => (),
        }
        resting.retain(|_, until| *until > Instant::now());
        let status = peers.0.pool.status();
        if status.at.is_none() {
            // Who waits is not known yet.
            continue;
        }
        // A loan that could not be read after a crash has promised nothing.
        let counted = status.queue.iter().filter(|place| place.entry.elsewhere > 0);
        for place in counted.filter(|place| peers.loan(&place.entry.id).is_none()) {
            let _ = peers.count_off(&place.entry.id).await;
        }
        // Before loans are tended, which would keep whoever has one from another.
        for place in first_in_line(&status) {
            let id = place.entry.id.clone();
            if !tasks.contains_key(&id) && !resting.contains_key(&id) {
                tasks.spawn(id, borrow(peers.clone(), place.clone(), status.clone()));
            }
        }
        let loans: Vec<_> =
            peers.loans().iter().map(|(id, loan)| (id.clone(), loan.clone())).collect();
        for (id, loan) in loans {
            if !tasks.contains_key(&id)
                && let Ok(loan) = loan.try_lock_owned()
            {
                tasks.spawn(id, tend(peers.clone(), loan, status.clone()));
            }
        }
    }
}

/// Who is served next of each profile. What the first cannot have yet, nobody behind it gets.
fn first_in_line(status: &Status) -> impl Iterator<Item = &Place> {
    let mut profiles: BTreeSet<&ProfileName> = BTreeSet::new();
    let waiting = status.queue.iter().filter(|place| place.stand == Stand::Waiting);
    waiting
        .filter(move |place| profiles.insert(&place.entry.profile))
        .filter(|place| place.entry.elsewhere == 0)
}

/// Has others promise what somebody lacks here, all of it or nothing. Returns whether that is settled.
async fn borrow(peers: Peers, place: Place, status: Arc<Status>) -> bool {
    let entry = &place.entry;
    let here = idle_here(&place, &status);
    if here >= entry.at_least {
        // It is served here in a moment.
        return true;
    }
    let known = peers.loan(&entry.id);
    let slot =
        known.unwrap_or_else(|| Arc::new(AsyncMutex::new(Loan::new(entry, peers.0.clock.now()))));
    let Ok(mut loan) = slot.clone().try_lock_owned() else { return false };
    if loan.stage != Stage::Over {
        return true;
    }
    let parts = plan(&peers, &loan, entry.count - here, entry.at_least - here);
    let Some(parts) = parts else { return false };
    peers.loans().insert(entry.id.clone(), slot);
    loan.parts = parts;
    loan.enter(Stage::Asking, peers.0.clock.now());
    if peers.write(&loan).await.is_err() {
        // Nobody was asked.
        loan.parts.clear();
        loan.enter(Stage::Over, peers.0.clock.now());
        return false;
    }
    let is_whole = renew(&peers, &mut loan).await == Promised::All;
    let is_counted =
        is_whole && peers.0.pool.count_elsewhere(&entry.id, loan.count()).await.is_ok();
    if is_counted {
        loan.enter(Stage::Held, peers.0.clock.now());
        return peers.write(&loan).await.is_ok();
    }
    peers.give_back(&mut loan).await;
    false
}

/// How many workers it may have here at once.
fn idle_here(place: &Place, status: &Status) -> u32 {
    let entry = &place.entry;
    let counts = status.profiles.get(&entry.profile);
    let counts = counts.filter(|counts| {
        counts.offered && !counts.adjustment.as_ref().is_some_and(|adjusted| adjusted.paused)
    });
    let kept = entry.kept.len() as u32;
    counts.map_or(0, |counts| counts.idle.saturating_add(kept).min(counts.max)).min(entry.count)
}

/// Whom to ask for how many. None if they have fewer than will do.
fn plan(peers: &Peers, loan: &Loan, most: u32, least: u32) -> Option<BTreeMap<String, Part>> {
    let mut offers: Vec<(String, u32)> = peers
        .seen()
        .iter()
        .filter(|(name, seen)| seen.blind.is_none() && !loan.leaving.contains_key(*name))
        .filter_map(|(name, seen)| Some((name.clone(), seen.counts.get(&loan.profile)?.idle)))
        .collect();
    // As few monitors as possible.
    offers.sort_by_key(|(_, idle)| std::cmp::Reverse(*idle));
    let (mut parts, mut left) = (BTreeMap::new(), most);
    for (name, idle) in offers {
        let count = idle.min(left);
        if count > 0 {
            let until = peers.after(peers.0.hold);
            parts.insert(name, Part { count, workers: Vec::new(), until });
            left -= count;
        }
    }
    (most - left >= least && left < most).then_some(parts)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Promised {
    All,
    /// Nothing tells about some.
    Doubtful,
    /// Some have not.
    NotAll,
}

/// Has others promise for a while from now on. Those that did not are out of the loan.
async fn renew(peers: &Peers, loan: &mut Loan) -> Promised {
    let (began, until) = (peers.0.clock.now(), peers.after(peers.0.hold));
    let mut promised = Promised::All;
    for (name, answer) in peers.ask_all(loan, peers.0.hold).await {
        let Some(part) = loan.parts.get_mut(&name) else { continue };
        match answer {
            Ok(Some(workers)) => (part.workers, part.until) = (workers, part.until.max(until)),
            Ok(None) => {
                loan.parts.remove(&name);
                promised = Promised::NotAll;
            }
            Err(Unheard(_)) if peers.peer(&name).is_none() => promised = Promised::NotAll,
            Err(Unheard(why)) => {
                tracing::warn!(monitor = name, reservation = %loan.id, why, "A promise is in doubt.");
                // It may have been made at the last moment.
                part.until = part.until.max(until);
                if promised == Promised::All {
                    promised = Promised::Doubtful;
                }
            }
        }
    }
    if promised == Promised::All {
        loan.renewed = began;
    }
    promised
}

/// Sees to a loan. Returns whether that is settled.
async fn tend(peers: Peers, mut loan: OwnedMutexGuard<Loan>, status: Arc<Status>) -> bool {
    let now = peers.0.clock.now();
    let hold = SignedDuration::try_from(peers.0.hold).unwrap_or(SignedDuration::MAX);
    let age = now.duration_since(loan.renewed);
    match loan.stage {
        // Of a process that was killed: some may have promised.
        Stage::Asking => peers.give_back(&mut loan).await,
        Stage::Held => {
            let place = status.queue.iter().find(|place| place.entry.id == loan.id);
            let is_late = now.duration_since(loan.since) > COLLECT;
            let lacks = place.is_some_and(|place| place.stand == Stand::Waiting);
            if place.is_none() || (lacks && is_late) {
                peers.give_back(&mut loan).await;
            } else if age > hold / 4 {
                // What could not be renewed for long is given up before it ends by itself.
                let is_urgent = age > hold / 3 * 2;
                match renew(&peers, &mut loan).await {
                    Promised::All => drop(peers.write(&loan).await),
                    Promised::Doubtful if !is_urgent => (),
                    Promised::Doubtful | Promised::NotAll => peers.give_back(&mut loan).await,
                }
            }
        }
        Stage::Taken if loan.until() < now => {
            loan.parts.clear();
            loan.enter(Stage::Over, now);
        }
        Stage::Taken | Stage::Over => (),
    }
    // First: from now on the entry is served here, or by others.
    let counts = |place: &Place| place.entry.id == loan.id && place.entry.elsewhere > 0;
    let is_counted = peers.0.pool.status().queue.iter().any(counts);
    if loan.stage == Stage::Over && is_counted && peers.count_off(&loan.id).await.is_err() {
        return true;
    }
    tell_leaving(&peers, &mut loan).await;
    if loan.is_forgotten() && peers.0.files.remove(&loan.id).await.is_ok() {
        peers.loans().remove(&loan.id);
    }
    true
}

/// Tells those who promised what is not needed, until they have heard it or it has ended by itself.
async fn tell_leaving(peers: &Peers, loan: &mut Loan) {
    let (now, id) = (peers.0.clock.now(), &loan.id);
    let releases = loan.leaving.iter().map(|(name, part)| async move {
        let is_blind = peers.seen().get(name).is_none_or(|seen| seen.blind.is_some());
        let gone = match peers.peer(name) {
            _ if part.until < now => true,
            Some(peer) if !is_blind => peer.release(id).await.is_ok(),
            _ => false,
        };
        gone.then(|| name.clone())
    });
    let gone: Vec<String> = join_all(releases).await.into_iter().flatten().collect();
    for name in &gone {
        loan.leaving.remove(name);
    }
    if !gone.is_empty() && !loan.is_forgotten() {
        // What is not written down is told again by the next process.
        let _ = peers.write(loan).await;
    }
}
