//! What throw-away machines are made of on a disk, without a process for each piece.
//!
//! [`overlay`] is a fresh disk, [`clone`] a copy of one, and [`root_disk`] which of the two an instance gets.
//! [`seed`] tells a guest with cloud-init who it is. [`entries`] is the directory of each instance: the record
//! that is written before anything else is made, and removed after everything else is gone; [`lock`] is how the
//! kernel tells who lives, and [`private`] how files come to be whole or not at all.
//!
//! [`admission`] says what an instance must be like to be made at all.
//!
//! Everything here blocks on the disk. None of it is about a hypervisor.

pub mod admission;
pub mod clone;
pub mod entries;
mod error;
pub mod lock;
pub mod overlay;
pub mod private;
pub mod root_disk;
pub mod seed;

pub use entries::{Entries, Entry, Mark};
pub use root_disk::{DiskMode, RootDisks};
