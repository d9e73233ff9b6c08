//! The queue over several monitors: whoever waits here may be served by another monitor's idle workers, or by some
//! of each.
//!
//! A monitor is asked to reserve for a short while, under the name of the entry, which it labels at its forge; what
//! was promised is confirmed when the entry is taken. So that nothing leaks whoever dies:
//!
//! * What is asked of whom is on this host's disk before it is asked (`loan`), and the name is the same each time:
//!   a lost answer is found by asking again, and a killed process's promises by the next process.
//! * Whatever is not confirmed ends by itself, at the monitor that promised it.
//! * All or nothing: if one monitor does not promise, or confirm, what the others did is given back, and the entry
//!   keeps its place.
//!
//! `broker` asks, renews and gives back; here is what the API asks of it.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use runner_core::{
    Clock, Error, EventLog, Pool, ProfileName, ReservationId, Result, WorkerName,
    queue::{Place, Stand, Take},
    reservation::Reservation,
};
use tokio::sync::Mutex as AsyncMutex;
use tokio_util::task::AbortOnDropHandle;

use crate::config::{PeerConfig, ServoConfig};

mod broker;
mod loan;
mod peer;

use loan::{Loan, Loans, Part, Stage};
use peer::{Counts, Peer, Unheard};

/// For how long after its end a promise may still be there: clocks differ, and requests take a while.
const SLACK: SignedDuration = SignedDuration::from_secs(10);

/// Of a monitor that was taken out of the configuration.
const NOT_ASKED: &str = "it is not in queue.servers any more";

/// As many as one request may ask for.
const MANY: u32 = 1000;

/// The other monitors. Clones share them.
#[derive(Clone)]
pub struct Peers(Arc<Inner>);

struct Inner {
    peers: Mutex<BTreeMap<String, Arc<Peer>>>,
    /// For how long a promise is asked for that is not confirmed yet.
    hold: Duration,
    pool: Arc<Pool>,
    events: EventLog,
    clock: Clock,
    files: Loans,
    /// One is worked on by whoever has locked it.
    loans: Mutex<BTreeMap<ReservationId, Arc<AsyncMutex<Loan>>>>,
    seen: Mutex<BTreeMap<String, Seen>>,
}

/// What is known of a monitor.
#[derive(Debug, Clone, Default)]
struct Seen {
    /// What it had when it last said so.
    counts: BTreeMap<ProfileName, Counts>,
    /// Why it does not say so now, and since when.
    blind: Option<(Timestamp, String)>,
}

/// What asking for an entry gave.
pub enum Taken {
    /// Its workers: the reservation here, if some are here, and those at other monitors.
    Taken {
        /// Those here.
        here: Option<Reservation>,
        /// Those elsewhere, each with the name of its monitor.
        elsewhere: Vec<(String, WorkerName)>,
    },
    /// It waits still.
    Waits(Box<Place>),
    /// It is to be asked for again, for this reason.
    Later(String),
}

/// How many workers are idle, by profile.
pub type Idle = BTreeMap<ProfileName, u32>;

/// What a look at another monitor gave.
pub enum Survey {
    /// It reserves for us; so many are idle there.
    Well(Idle),
    /// It says what it has, and does not reserve for us, for this reason.
    Refused(String),
    /// It does not say what it has, for this reason.
    Unheard(String),
}

/// Looks at a monitor as it would be asked for workers, and changes nothing there.
pub async fn survey(config: &PeerConfig) -> Survey {
    let peer = match Peer::new(config.clone()) {
        Ok(peer) => peer,
        Err(error) => return Survey::Unheard(format!("{error:#}")),
    };
    let counts = match peer.counts().await {
        Ok(counts) => counts,
        Err(Unheard(why)) => return Survey::Unheard(why),
    };
    // Nobody has this one: ending it needs the same rights as making one, and does nothing.
    let nobody = format!("looked-at-{}", uuid::Uuid::new_v4());
    let nobody = ReservationId::new(nobody).expect("letters, digits and dashes");
    match peer.release(&nobody).await {
        Ok(()) => Survey::Well(idle(&counts)),
        Err(Unheard(why)) => Survey::Refused(why),
    }
}

fn idle(counts: &BTreeMap<ProfileName, Counts>) -> Idle {
    counts.iter().map(|(profile, counts)| (profile.clone(), counts.idle)).collect()
}

impl Peers {
    /// Begins to ask other monitors, which ends with the handle. None where nobody can wait for a worker, and nothing
    /// is left of a time when somebody could.
    ///
    /// # Errors
    /// For what an earlier process left that cannot be read, and when this host has nothing to trust others by.
    pub fn start(
        servo: Option<&ServoConfig>,
        data: &Path,
        pool: Arc<Pool>,
        events: EventLog,
        clock: Clock,
    ) -> anyhow::Result<Option<(Self, AbortOnDropHandle<()>)>> {
        let directory = data.join("loans");
        if servo.is_none() && !directory.exists() {
            return Ok(None);
        }
        let (files, left) = Loans::open(directory)?;
        if servo.is_none() && left.is_empty() {
            return Ok(None);
        }
        let loans = left.into_iter().map(|loan| (loan.id.clone(), Arc::new(AsyncMutex::new(loan))));
        let peers = Self(Arc::new(Inner {
            peers: Mutex::default(),
            hold: servo.map_or(Duration::ZERO, |servo| servo.hold),
            pool,
            events,
            clock,
            files,
            loans: Mutex::new(loans.collect()),
            seen: Mutex::default(),
        }));
        peers.configure(servo.map_or(&[], |servo| &servo.servers))?;
        let running = tokio::spawn(broker::run(peers.clone()));
        Ok(Some((peers, AbortOnDropHandle::new(running))))
    }

    /// Asks these monitors from now on. Whoever is not among them any more is not asked; what it promised ends by
    /// itself.
    ///
    /// # Errors
    /// When this host has nothing to trust others by; those asked before stay.
    pub fn configure(&self, configs: &[PeerConfig]) -> anyhow::Result<()> {
        let old = self.peers().clone();
        let of = |config: &PeerConfig| match old.get(&config.name) {
            Some(peer) if peer.is_of(config) => Ok(peer.clone()),
            _ => Peer::new(config.clone()).map(Arc::new),
        };
        let new = configs.iter().map(|config| Ok((config.name.clone(), of(config)?)));
        let new = new.collect::<anyhow::Result<BTreeMap<String, Arc<Peer>>>>()?;
        *self.peers() = new;
        self.seen().retain(|name, _| self.peers().contains_key(name));
        Ok(())
    }

    /// Each monitor that is asked: whether it can be, and how many workers of each profile it had idle when it last
    /// said so.
    pub fn figures(&self) -> Vec<(String, bool, Idle)> {
        let seen = self.seen();
        let figure = |(name, seen): (&String, &Seen)| {
            (name.clone(), seen.blind.is_none(), idle(&seen.counts))
        };
        seen.iter().map(figure).collect()
    }

    /// How many workers of a profile other monitors may have. Many, as long as one of them never said.
    pub fn most(&self, profile: &ProfileName) -> u32 {
        let seen = self.seen();
        let heard = seen.values().filter(|seen| !seen.counts.is_empty()).count();
        if heard < self.peers().len() {
            return MANY;
        }
        let counts = seen.values().filter_map(|seen| seen.counts.get(profile));
        counts.map(|counts| counts.max).fold(0, u32::saturating_add)
    }

    /// The monitors that cannot be asked, with the reason.
    pub fn blind(&self) -> Vec<String> {
        let seen = self.seen();
        let blind = seen.iter().filter_map(|(name, seen)| Some((name, seen.blind.as_ref()?)));
        let said = |(name, (since, reason)): (&String, &(Timestamp, String))| {
            format!("monitor {name} is not asked for workers: {reason}, since {since:.0}")
        };
        blind.map(said).collect()
    }

    /// What holds an entry up beyond this monitor.
    pub fn reasons(&self, place: &Place) -> Vec<String> {
        match place.stand {
            Stand::Waiting => self.blind(),
            Stand::Marking | Stand::Ready => Vec::new(),
        }
    }

    /// Whether an entry was taken whose workers are, in part, elsewhere.
    pub fn is_taken(&self, id: &ReservationId) -> bool {
        let loan = self.loan(id);
        // Whoever works on it now is about to make it so, or to end it.
        loan.is_some_and(|loan| loan.try_lock().is_ok_and(|loan| loan.stage == Stage::Taken))
    }

    /// Takes what an entry waited for, here and elsewhere, if all of it is there. Taken again, it is the same.
    ///
    /// # Errors
    /// As [`Pool::take`].
    ///
    /// # Cancel safety
    /// Repeat it to be sure.
    pub async fn take(&self, id: &ReservationId) -> Result<Taken> {
        let pool = &self.0.pool;
        let Some(loan) = self.loan(id) else {
            let is_alone = self.peers().is_empty();
            return match is_alone {
                true => pool.take(id).await.map(Taken::from),
                false => self.take_here(id).await,
            };
        };
        let Ok(mut loan) = loan.try_lock_owned() else {
            return Ok(match pool.ask_after(id).await {
                Ok(place) => Taken::Waits(Box::new(place)),
                Err(Error::NotFound { .. }) => Taken::Later("it is being asked for".to_owned()),
                Err(error) => return Err(error),
            });
        };
        match loan.stage {
            Stage::Asking | Stage::Over => return self.take_here(id).await,
            Stage::Taken => (),
            Stage::Held => {
                let place = pool.ask_after(id).await?;
                if place.stand != Stand::Ready {
                    return Ok(Taken::Waits(Box::new(place)));
                }
                if let Err(Unheard(why)) = self.confirm(&mut loan).await {
                    return Ok(Taken::Later(why));
                }
            }
        }
        let here = match pool.take(id).await {
            Ok(Take::Taken(held)) => Some(held).filter(|held| held.count > 0),
            Ok(Take::Waits(place)) => return Ok(Taken::Waits(place)),
            // Nothing of it is here, and it was taken before.
            Err(Error::NotFound { .. }) => None,
            Err(error) => return Err(error),
        };
        let elsewhere = loan.parts.iter().flat_map(|(name, part)| {
            part.workers.iter().map(move |worker| (name.clone(), worker.clone()))
        });
        Ok(Taken::Taken { here, elsewhere: elsewhere.collect() })
    }

    /// Takes what is here, where nobody else has promised anything, or does so no more.
    async fn take_here(&self, id: &ReservationId) -> Result<Taken> {
        self.count_off(id).await?;
        self.0.pool.take(id).await.map(Taken::from)
    }

    /// Has an entry need all of its workers here again.
    async fn count_off(&self, id: &ReservationId) -> Result<()> {
        match self.0.pool.count_elsewhere(id, 0).await {
            Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Has all monitors hold what they promised for as long as was asked for.
    async fn confirm(&self, loan: &mut Loan) -> Result<(), Unheard> {
        if let Some(gone) = loan.parts.keys().find(|name| self.peer(name).is_none()) {
            let why = format!("monitor {gone}: {NOT_ASKED}");
            self.give_back(loan).await;
            return Err(Unheard(why));
        }
        let until = self.after(loan.duration);
        loan.parts.values_mut().for_each(|part| part.until = part.until.max(until));
        self.write(loan).await?;
        let answers = self.ask_all(loan, loan.duration).await;
        let (mut unheard, mut lost) = (None, None);
        for (name, answer) in answers {
            match answer {
                Ok(Some(workers)) => {
                    loan.parts.get_mut(&name).expect("it was asked").workers = workers;
                }
                Ok(None) => {
                    // Nothing of it is left there.
                    loan.parts.remove(&name);
                    lost = Some(format!("monitor {name} has lost the workers that it promised"));
                }
                Err(Unheard(why)) => unheard = Some(format!("monitor {name}: {why}")),
            }
        }
        if let Some(why) = lost {
            self.give_back(loan).await;
            return Err(Unheard(why));
        }
        if let Some(why) = unheard {
            return Err(Unheard(why));
        }
        loan.enter(Stage::Taken, self.0.clock.now());
        self.write(loan).await
    }

    /// Gives back what other monitors promised under a name. Fine when there is nothing.
    pub async fn release(&self, id: &ReservationId) {
        if let Some(loan) = self.loan(id) {
            let mut loan = loan.lock_owned().await;
            if loan.stage != Stage::Over {
                self.give_back(&mut loan).await;
            }
        }
    }

    /// The entry needs what it had elsewhere here again; who promised it is told so soon.
    async fn give_back(&self, loan: &mut Loan) {
        loan.end(self.0.clock.now());
        // What cannot be written down now is found as it was, and given back, by the next process.
        let _ = self.write(loan).await;
    }

    /// Asks every monitor of a loan for its part.
    async fn ask_all(
        &self,
        loan: &Loan,
        duration: Duration,
    ) -> Vec<(String, Result<Option<Vec<WorkerName>>, Unheard>)> {
        let asks = loan.parts.iter().map(|(name, part)| async move {
            let answer = match self.peer(name) {
                Some(peer) => peer.reserve(loan.wish(part, duration)).await,
                None => Err(Unheard(NOT_ASKED.to_owned())),
            };
            (name.clone(), answer)
        });
        join_all(asks).await
    }

    async fn write(&self, loan: &Loan) -> Result<(), Unheard> {
        self.0.files.put(loan).await.map_err(|error| {
            tracing::error!(%error, reservation = %loan.id, "A loan could not be written down.");
            Unheard(format!("it could not be written down: {error}"))
        })
    }

    /// When a promise of that length has ended for sure that is made now.
    fn after(&self, duration: Duration) -> Timestamp {
        let duration = SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
        let until = self.0.clock.now().saturating_add(duration.saturating_add(SLACK));
        until.unwrap_or(Timestamp::MAX)
    }

    fn peer(&self, name: &str) -> Option<Arc<Peer>> {
        self.peers().get(name).cloned()
    }

    fn peers(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Peer>>> {
        self.0.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn loan(&self, id: &ReservationId) -> Option<Arc<AsyncMutex<Loan>>> {
        self.loans().get(id).cloned()
    }

    fn loans(&self) -> MutexGuard<'_, BTreeMap<ReservationId, Arc<AsyncMutex<Loan>>>> {
        self.0.loans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<String, Seen>> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Take> for Taken {
    fn from(take: Take) -> Self {
        match take {
            Take::Taken(held) => Self::Taken { here: Some(held), elsewhere: Vec::new() },
            Take::Waits(place) => Self::Waits(place),
        }
    }
}
