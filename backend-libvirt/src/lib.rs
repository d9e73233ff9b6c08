//! Runs instances as libvirt domains, here or on another host.

mod domain;
mod profile_dir;
mod storage;
