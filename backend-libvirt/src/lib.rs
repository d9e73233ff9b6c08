//! Runs instances as libvirt domains, here or on another host.

mod connection;
mod domain;
mod error;
mod events;
mod filter;
pub mod network;
mod profile_dir;
mod storage;
mod uri;
mod xml;
