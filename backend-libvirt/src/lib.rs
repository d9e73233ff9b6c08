//! Runs instances as libvirt domains, here or on another host.
//!
//! Read in this order: [`config`] says what can be chosen; `connection.rs` how libvirt is called, and `events.rs`
//! how it calls us; `domain.rs` what it is told a machine is, `virt_type.rs` what runs it, and `profile_dir.rs` what of
//! that is the operator's; `storage.rs` where a machine's disks are, and `network.rs` what it is plugged into;
//! `create.rs`, `turn.rs`, `found.rs` and `hypervisor.rs` how an instance begins, is found and ends; `watch.rs` and `exit.rs`
//! what is noticed in between; `agent.rs` and `console.rs` how its inside is reached.
//!
//! **Invariant:** a domain is ours if its metadata says so, with our owner and the domain's own name. No other is
//! listed or touched, whatever it is called.
//!
//! **Invariant:** no call of libvirt blocks a thread of the runtime.

#![deny(unsafe_code)]

mod agent;
pub mod config;
mod connection;
mod console;
mod create;
mod domain;
mod error;
#[expect(unsafe_code, reason = "the crate `virt` has no wrapper for events")]
mod events;
mod exit;
mod filter;
mod found;
#[cfg(test)]
mod golden;
pub mod hypervisor;
pub mod network;
mod profile_dir;
mod screenshot;
mod storage;
pub mod survey;
mod turn;
mod uri;
mod virt_type;
mod watch;
mod xml;

pub use config::{LibvirtConfig, Virt};
pub use hypervisor::LibvirtHypervisor;
pub use machine_disks::DiskMode;
pub use network::NetworkConfig;
pub use storage::StorageConfig;
pub use uri::LibvirtUri;
