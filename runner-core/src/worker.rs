//! A worker: instance, runner and our own record, joined by one name, and the phase that follows from them.

use std::{fmt, time::Duration};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    forge::{Runner, RunnerStatus},
    hypervisor::{ExitReason, Instance, InstanceState},
    name::{ForgeName, ImageId, JobId, ProfileName, ReservationId, RunnerId, WorkerName},
    profile::Timeouts,
    resources::Resources,
};

/// What we wrote down before the first side effect, so that a killed process leaves something to find.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The worker.
    pub name: WorkerName,
    /// What it was made for.
    pub profile: ProfileName,
    /// Where it registers.
    pub forge: ForgeName,
    /// What it boots.
    pub image: ImageId,
    /// What it takes.
    pub resources: Resources,
    /// When it was decided on.
    pub created_at: Timestamp,
    /// Its registration, once there is one.
    pub runner: Option<RunnerId>,
}

/// What a list says about one worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look<T> {
    /// It is listed.
    Seen(T),
    /// The list is whole and it is not in it.
    Absent,
    /// No list says anything: it failed, or it is older than our last action on the worker.
    Unknown,
}

impl<T> Look<T> {
    /// What was seen.
    pub fn seen(&self) -> Option<&T> {
        match self {
            Self::Seen(seen) => Some(seen),
            Self::Absent | Self::Unknown => None,
        }
    }

    /// Whether it is certain that the thing is not there.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

/// What an action in flight does to a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flight {
    /// It is being provisioned.
    Making,
    /// It is being retired.
    Unmaking,
    /// Its registration is being marked, or something else that does not change its phase.
    Touching,
}

/// Everything known about one worker at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    /// The name that joins the parts.
    pub name: WorkerName,
    /// What we wrote down, unless it was lost.
    pub record: Option<Record>,
    /// What the hypervisor says.
    pub instance: Look<Instance>,
    /// What the forge says.
    pub runner: Look<Runner>,
    /// The forge of a runner that has no record.
    pub seen_at: Option<ForgeName>,
    /// Whether something of ours runs in the guest: asked only where there is no record to tell.
    pub guest_busy: Option<bool>,
    /// The action of ours that is in flight, or whose effect no list shows yet.
    pub in_flight: Option<Flight>,
    /// Whether a driver attends to it.
    pub driven: bool,
    /// When its runner was last seen online; of a machine without a record, at least since when it is known.
    pub last_online: Option<Timestamp>,
    /// The reservation that holds it.
    pub reservation: Option<ReservationId>,
}

/// Where a worker is in its life. Derived from facts at every look, never stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Not online yet.
    Starting,
    /// Ready for a job.
    Idle,
    /// Ready, and promised to someone.
    Reserved,
    /// It has a job, or may have one.
    Busy,
    /// A list that would tell is missing, so nothing is decided about it.
    Unseen,
    /// Its life is over and it is being retired.
    Over(Ending),
}

impl Phase {
    /// A word for tables and counters.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Idle => "idle",
            Self::Reserved => "reserved",
            Self::Busy => "busy",
            Self::Unseen => "unseen",
            Self::Over(_) => "over",
        }
    }
}

/// Why a worker's life is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// Its runner had its job, or was removed at the forge.
    RunnerGone,
    /// The machine stopped.
    Stopped(ExitReason),
    /// The machine is not there although we had made one, or were about to.
    Vanished,
    /// The process that was making it died before it was registered.
    NeverRegistered,
    /// Its runner did not come online in time.
    StartTimedOut(Duration),
    /// Its runner was online, and then offline for too long.
    LostContact(Duration),
    /// A machine of ours that no record explains.
    Orphan,
    /// A registration of ours without record and machine.
    Ghost,
    /// It is being retired; the event that began it says why.
    Retiring,
}

impl Ending {
    /// Whether the machine was seen dead, so that no job can be running on it. One that a list merely
    /// lacks is not: a list may lie, so its forge is asked before anything is destroyed.
    pub fn machine_is_dead(&self) -> bool {
        matches!(self, Self::Stopped(_))
    }

    /// A word for counters and filters: the ending without its details. Never changes.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::RunnerGone => "runner_gone",
            Self::Stopped(reason) => reason.kind(),
            Self::Vanished => "vanished",
            Self::NeverRegistered => "never_registered",
            Self::StartTimedOut(_) => "start_timed_out",
            Self::LostContact(_) => "lost_contact",
            Self::Orphan => "orphan",
            Self::Ghost => "ghost",
            Self::Retiring => "retiring",
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RunnerGone => f.write_str("its runner is gone from the forge: the job is over"),
            Self::Stopped(reason) => write!(f, "its machine stopped: {reason}"),
            Self::Vanished => f.write_str("its machine is not there"),
            Self::NeverRegistered => f.write_str("it was never registered: its maker died"),
            Self::StartTimedOut(limit) => {
                write!(f, "its runner did not come online within {} s", limit.as_secs())
            }
            Self::LostContact(limit) => {
                write!(f, "its runner was offline for more than {} s", limit.as_secs())
            }
            Self::Orphan => f.write_str("no record explains this machine, and nothing runs in it"),
            Self::Ghost => f.write_str("no record or machine belongs to this registration"),
            Self::Retiring => f.write_str("it is being retired"),
        }
    }
}

impl Worker {
    /// The profile it belongs to, by record, instance or name.
    pub fn profile(&self) -> Option<ProfileName> {
        match (&self.record, self.instance.seen()) {
            (Some(record), _) => Some(record.profile.clone()),
            (None, Some(instance)) => Some(instance.profile.clone()),
            (None, None) => self.name.parts().map(|(profile, _)| profile),
        }
    }

    /// Its registration, as listed or as recorded.
    pub fn runner_id(&self) -> Option<RunnerId> {
        let seen = self.runner.seen().map(|runner| runner.id.clone());
        seen.or_else(|| self.record.as_ref()?.runner.clone())
    }

    /// Its forge, as recorded or where it was seen.
    pub fn forge(&self) -> Option<&ForgeName> {
        self.record.as_ref().map(|record| &record.forge).or(self.seen_at.as_ref())
    }

    /// The job its runner has, where the forge tells.
    pub fn job(&self) -> Option<&JobId> {
        match &self.runner.seen()?.status {
            RunnerStatus::Busy(job) => job.as_ref(),
            RunnerStatus::Offline | RunnerStatus::Idle => None,
        }
    }

    /// When it was made.
    pub fn created_at(&self) -> Option<Timestamp> {
        let recorded = self.record.as_ref().map(|record| record.created_at);
        recorded.or_else(|| self.instance.seen().map(|instance| instance.created_at))
    }

    /// What it takes from the host, unless it is certain that it takes nothing.
    pub fn holds(&self) -> Option<&Resources> {
        match (&self.instance, &self.record) {
            (Look::Seen(instance), _) => Some(&instance.resources),
            (Look::Absent, Some(record)) if self.in_flight == Some(Flight::Making) => {
                Some(&record.resources)
            }
            (Look::Unknown, Some(record)) => Some(&record.resources),
            (Look::Absent | Look::Unknown, _) => None,
        }
    }

    /// Where it is in its life.
    pub fn phase(&self, timeouts: &Timeouts, now: Timestamp) -> Phase {
        let busy = matches!(self.runner.seen(), Some(Runner { status: RunnerStatus::Busy(_), .. }));
        match self.in_flight {
            // Its job began before a list showed the machine.
            Some(Flight::Making) if busy => return Phase::Busy,
            Some(Flight::Unmaking) if self.instance.is_absent() => {
                return Phase::Over(Ending::Retiring);
            }
            _ if busy => (),
            Some(Flight::Making) => return Phase::Starting,
            Some(Flight::Unmaking) => return Phase::Over(Ending::Retiring),
            Some(Flight::Touching) | None => (),
        }
        let instance = match &self.instance {
            Look::Unknown => return if busy { Phase::Busy } else { Phase::Unseen },
            Look::Absent => return self.phase_of_the_absent(),
            Look::Seen(instance) => instance,
        };
        if let InstanceState::Stopped(reason) = &instance.state {
            return Phase::Over(Ending::Stopped(reason.clone()));
        }
        let Some(record) = &self.record else {
            return self.orphan_phase(busy, timeouts.offline, now);
        };
        let runner = match &self.runner {
            Look::Unknown => return Phase::Unseen,
            Look::Absent if record.runner.is_some() => return Phase::Over(Ending::RunnerGone),
            Look::Absent => return Phase::Over(Ending::NeverRegistered),
            Look::Seen(runner) => runner,
        };
        match (&runner.status, self.last_online) {
            (RunnerStatus::Busy(_), _) => Phase::Busy,
            (RunnerStatus::Idle, _) if self.reservation.is_some() => Phase::Reserved,
            (RunnerStatus::Idle, _) => Phase::Idle,
            (RunnerStatus::Offline, None) if is_past(record.created_at, timeouts.start, now) => {
                Phase::Over(Ending::StartTimedOut(timeouts.start))
            }
            (RunnerStatus::Offline, Some(last)) if is_past(last, timeouts.offline, now) => {
                Phase::Over(Ending::LostContact(timeouts.offline))
            }
            (RunnerStatus::Offline, _) => Phase::Starting,
        }
    }

    fn phase_of_the_absent(&self) -> Phase {
        match (&self.record, &self.runner) {
            // Registering comes before creating, so there never was a machine.
            (Some(Record { runner: None, .. }), Look::Absent) => {
                Phase::Over(Ending::NeverRegistered)
            }
            // There may be a registration whose id we were never told: the record must stay until it shows.
            (Some(Record { runner: None, .. }), Look::Unknown) => Phase::Unseen,
            (Some(_), _) => Phase::Over(Ending::Vanished),
            (None, _) => Phase::Over(Ending::Ghost),
        }
    }

    /// A machine without a record: the forge or the guest itself must say that it is idle. A forge that
    /// lists no runner for it cannot be asked about it, so one list is not enough.
    fn orphan_phase(&self, busy: bool, patience: Duration, now: Timestamp) -> Phase {
        if busy || self.guest_busy == Some(true) {
            return Phase::Busy;
        }
        let watched = self.last_online.is_some_and(|since| is_past(since, patience, now));
        match (&self.runner, self.guest_busy) {
            (Look::Unknown, _) | (_, None) => Phase::Unseen,
            (Look::Absent, Some(_)) if !watched => Phase::Unseen,
            (Look::Seen(_) | Look::Absent, Some(_)) => Phase::Over(Ending::Orphan),
        }
    }
}

/// Whether `limit` has passed since `start`.
pub(crate) fn is_past(start: Timestamp, limit: Duration, now: Timestamp) -> bool {
    let limit = SignedDuration::try_from(limit).unwrap_or(SignedDuration::MAX);
    now.duration_since(start) >= limit
}
