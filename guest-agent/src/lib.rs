//! Turns any way to reach a QEMU guest agent into a [`Guest`](runner_core::Guest).
//!
//! A backend brings a [`Transport`]: one command in, one answer out. [`AgentGuest`] makes the rest of it, from
//! the few things that every agent can do since QEMU 2.5: run a program, ask how it went, and open, read, write
//! and seek in files.
//!
//! Read [`transport`] first, then `process.rs`, which says how a process lives in the guest, then
//! `follow.rs`; and `session.rs`, which brings a program of ours, `guest/session.rs`, into the guest.
//!
//! **Invariant:** nothing that a caller passes becomes shell text. The scripts are constants; what varies
//! reaches them as arguments and environment.
//!
//! **Invariant:** the guest is not trusted. What it answers is checked, and bounded by what was asked for.

mod agent;
mod environment;
mod error;
mod files;
mod follow;
mod guest;
mod open_file;
mod process;
mod session;
pub mod transport;

pub use guest::AgentGuest;
pub use transport::{CallError, Transport};
