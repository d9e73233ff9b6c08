//! A libvirtd of its own for each test, and a guest to boot.

pub mod fixture;
pub mod guest;
pub mod libvirtd;
#[path = "../../../backend-qemu/tests/common/micro.rs"]
pub mod micro;
pub mod neighbours;
#[path = "../../../backend-qemu/tests/common/parts.rs"]
pub mod parts;
