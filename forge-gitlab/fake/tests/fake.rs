//! What this GitLab does, seen by a client that does as it is told.

#[path = "fake/access.rs"]
mod access;
#[path = "fake/artifacts.rs"]
mod artifacts;
#[path = "fake/cancel.rs"]
mod cancel;
#[path = "fake/client.rs"]
mod client;
#[path = "fake/control.rs"]
mod control;
#[path = "fake/faults.rs"]
mod faults;
#[path = "fake/https.rs"]
mod https;
#[path = "fake/payload.rs"]
mod payload;
#[path = "fake/pipelines.rs"]
mod pipelines;
#[path = "fake/polling.rs"]
mod polling;
#[path = "fake/queue.rs"]
mod queue;
#[path = "fake/runners.rs"]
mod runners;
#[path = "fake/trace.rs"]
mod trace;
#[path = "fake/update.rs"]
mod update;
