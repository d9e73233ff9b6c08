//! Demand from a runner scale set: GitHub assigns jobs to it, and says so on a message session.
//!
//! Read `wire.rs` and `connection.rs`, then `session.rs`; [`service`] makes scale sets and their runners;
//! `outstanding.rs` is what the messages add up to, [`progress`] what of it survives, and [`listener`] the
//! loop around all of it: **process, then write down, then acknowledge**.
//!
//! The protocol is that of <https://github.com/actions/scaleset>; GitHub describes it nowhere else.

mod connection;
mod error;
pub mod listener;
mod outstanding;
pub mod progress;
mod registrar;
pub mod service;
mod session;
mod wire;

pub use self::{
    connection::ActionsService,
    listener::{ListenerConfig, ScaleSetListener},
    outstanding::AssignedJob,
    progress::{Progress, ProgressFile, ProgressStore},
    service::{DEFAULT_GROUP, ScaleSetSpec},
    wire::{Group, RunnerReference, ScaleSet, Statistics, WireLabel},
};
