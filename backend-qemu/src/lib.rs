//! Runs instances as plain QEMU processes, one each, that outlive whoever started them, and builds the images
//! they boot.
//!
//! Read instances in this order: [`config`] says what can be chosen; `directory.rs` and `instance_dir.rs` how
//! an instance lies on disk, and how its lock tells whether it lives; [`argv`] what QEMU is told, `create.rs` and `process.rs` how it starts and ends; `watch.rs` what is noticed in
//! between; `agent.rs` and `conversation.rs` how its guest is spoken to; [`hypervisor`] ties it together.
//!
//! Then images: [`images`] is where they lie and how a half-made one stays hidden; `disk.rs` and `micro.rs`
//! are the two kinds of recipe.
//!
//! **Invariant:** nothing here must be running for an instance to go on, or to be found again.
//!
//! **Invariant:** nothing outside the configured roots is written, and nothing in them that lacks our mark.

pub mod accel;
mod agent;
pub mod argv;
pub mod config;
mod console;
mod conversation;
mod create;
mod directory;
mod disk;
mod environment;
mod error;
mod host;
pub mod hypervisor;
pub mod images;
mod instance_dir;
mod lines;
mod micro;
mod process;
mod qmp;
mod socket;
mod watch;

pub use config::{Accel, QemuConfig};
pub use hypervisor::QemuHypervisor;
pub use images::{ImageConfig, ImageStore};
