//! Waits until the forge keeps a reservation's workers for its job: only then is it answered, for a workflow goes
//! on at once and its job asks for them by their label.

use std::{collections::BTreeSet, time::Duration};

use runner_core::{Error, ForgeName, WorkerName, plan::Sight, reservation::Reservation};

use super::Shared;

/// How long a request waits for the forge. Published workflows give a request up after 30 s.
const LIMIT: Duration = Duration::from_secs(20);

/// Why a reservation was rolled back: its workers are free again.
#[derive(Debug)]
pub struct NotLabelled(String);

impl NotLabelled {
    /// What to tell whoever asked.
    pub fn told(&self) -> String {
        format!("{}; nothing is reserved, try again", self.0)
    }
}

impl Shared {
    /// A reservation that its forge keeps the workers for, or is sure to: a forge that takes a change a second
    /// has a hundred of them only after a while, and jobs wait for their label. One that fails, or does not
    /// answer in time, has the reservation rolled back.
    pub async fn labelled(&self, held: Reservation) -> Result<Reservation, NotLabelled> {
        let Some(forge) = self.labelling_forge(&held) else { return Ok(held) };
        let (pool, before) = (&self.0.pool, self.progress(&forge));
        let why = match tokio::time::timeout(LIMIT, pool.marked(&held.id)).await {
            Ok(Ok(marked)) => return Ok(marked),
            // The pool has rolled it back, and told why.
            Ok(Err(error @ Error::NotFound { .. })) => return Err(NotLabelled(error.to_string())),
            Ok(Err(error)) => format!("forge {forge} could not be asked for its label: {error}"),
            Err(_) if self.is_only_slow(&forge, &before) => return Ok(held),
            Err(_) => {
                let limit = LIMIT.as_secs();
                format!("forge {forge} did not label its workers within {limit} s")
            }
        };
        if let Err(error) = pool.release_because(&held.id, &why).await {
            tracing::error!(
                reservation = %held.id,
                error = runner_core::error::chain(&error),
                "A reservation without its label could not be released; it ends at its time."
            );
        }
        Err(NotLabelled(why))
    }

    /// The forge that labels the workers of a reservation, if one does.
    fn labelling_forge(&self, held: &Reservation) -> Option<ForgeName> {
        let status = self.status();
        let profile = status.offered.iter().find(|profile| profile.name == held.profile)?;
        let remote = self.0.forges.get(&profile.forge)?;
        remote.forge.capabilities().reserves.then(|| profile.forge.clone())
    }

    /// Whether the label is only waiting for its turn, as the forge takes so many changes a while: others got
    /// theirs meanwhile, or calls were put off for their number. One that is refused again and again is rolled
    /// back by the pool.
    fn is_only_slow(&self, forge: &ForgeName, before: &Progress) -> bool {
        let status = self.status();
        let is_seen = status.forges.get(forge) == Some(&Sight::Seen);
        let now = self.progress(forge);
        let others_got_theirs = !now.marked.is_subset(&before.marked);
        (is_seen && others_got_theirs) || now.put_off > before.put_off
    }

    fn progress(&self, forge: &ForgeName) -> Progress {
        let status = self.status();
        let marked = status.workers.iter().filter(|worker| worker.marked.is_some());
        let budget = self.0.forges.get(forge).and_then(|remote| remote.outside.figures().budget);
        Progress {
            marked: marked.map(|worker| worker.name.clone()).collect(),
            put_off: budget.map_or(0, |budget| budget.given_up + budget.refused),
        }
    }
}

/// How far a forge has come with what it is asked for.
struct Progress {
    /// The workers that are labelled.
    marked: BTreeSet<WorkerName>,
    /// How many calls were not made, or refused, for their number.
    put_off: u64,
}
