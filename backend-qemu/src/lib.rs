//! Instances as QEMU processes, and the images they boot.

mod disk;
pub mod images;
mod micro;
pub mod seed;

pub use images::{ImageConfig, ImageStore};
