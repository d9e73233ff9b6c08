//! Runs instances as plain QEMU processes, one each, that outlive whoever started them.
//!
//! Read in this order: [`config`] says what can be chosen; `directory.rs` how an instance lies on disk, and
//! how its lock tells whether it lives; `argv.rs` what QEMU is told; `create.rs` and `process.rs` how it starts
//! and ends; `watch.rs` what is noticed in between; [`hypervisor`] ties it together.
//!
//! **Invariant:** nothing here must be running for an instance to go on, or to be found again.
//!
//! **Invariant:** nothing outside the configured root is written, and nothing in it that lacks our mark.

pub mod accel;
mod agent;
pub mod argv;
pub mod config;
mod console;
mod create;
mod directory;
mod error;
mod host;
pub mod hypervisor;
mod lines;
mod lock;
pub mod overlay;
mod process;
mod qmp;
mod socket;
mod watch;

pub use config::{Accel, QemuConfig};
pub use hypervisor::QemuHypervisor;
