//! What systemd is told, and what it hands over: readiness, liveness, a status line, a listening socket.
//! Elsewhere than under systemd all of it does nothing.

use std::{net::TcpListener, sync::Arc, time::Duration};

use anyhow::Context;
use listenfd::ListenFd;
use runner_core::{Pace, Status, worker::Phase};
use sd_notify::NotifyState;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};

use crate::reload::ConfigState;

/// How often the status line is renewed at most.
const STATUS_EVERY: Duration = Duration::from_secs(2);

/// How long beyond its pace the pool may be silent before it counts as stuck.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// The socket that a socket unit has for us. No child inherits it.
///
/// # Errors
/// For one that is no TCP socket, or more than one.
pub fn listener() -> anyhow::Result<Option<TcpListener>> {
    let mut passed = ListenFd::from_env();
    if passed.len() > 1 {
        anyhow::bail!(
            "systemd passes {} sockets and one is used; leave one ListenStream= in the socket unit",
            passed.len()
        );
    }
    let way_out = "the socket of the socket unit cannot be used; \
                   give it one ListenStream=ADDRESS:PORT";
    passed.take_tcp_listener(0).context(way_out)
}

/// The service answers.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The configuration is being read again; [`ready`] ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// The service ends, having this to do.
pub fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// Keeps the status line and the watchdog fed, until dropped. The watchdog goes hungry when the pool has not
/// looked around for much longer than it should have: a restart hurts no machine.
pub async fn attend(
    mut statuses: watch::Receiver<Arc<Status>>,
    config: watch::Receiver<Arc<ConfigState>>,
    pace: Pace,
) {
    let patience = 2 * (pace.look_every + pace.look_limit) + STUCK_AFTER;
    let watchdog = sd_notify::watchdog_enabled();
    let every = watchdog.map_or(STATUS_EVERY, |limit| STATUS_EVERY.min(limit / 3));
    let mut tick = tokio::time::interval(every.max(Duration::from_millis(10)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut heard, mut told) = (Instant::now(), String::new());
    loop {
        tick.tick().await;
        if statuses.has_changed().unwrap_or(false) {
            heard = Instant::now();
        }
        let line = line(&statuses.borrow_and_update(), &config.borrow());
        if line != told {
            tell(&[NotifyState::Status(&line)]);
            told = line;
        }
        if watchdog.is_some() && heard.elapsed() < patience {
            tell(&[NotifyState::Watchdog]);
        }
    }
}

/// The service in a line, for `systemctl status`.
fn line(status: &Status, config: &ConfigState) -> String {
    let count = |wanted: &dyn Fn(&Phase) -> bool| {
        status.workers.iter().filter(|worker| wanted(&worker.phase)).count()
    };
    let queued: usize = status.queued.values().map(Vec::len).sum();
    let mut line = format!(
        "workers: {} idle, {} busy, {} starting; {queued} jobs wait",
        count(&|phase| matches!(phase, Phase::Idle | Phase::Reserved)),
        count(&|phase| matches!(phase, Phase::Busy)),
        count(&|phase| matches!(phase, Phase::Starting)),
    );
    if status.draining {
        line.push_str("; draining");
    }
    if config.refused.is_some() {
        line.push_str("; the configuration file was refused, the last good one is in use");
    }
    line
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd could not be told.");
    }
}
