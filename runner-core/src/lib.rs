//! Keeps pools of single-use CI runners in virtual machines.

pub mod changes;
pub mod error;
pub mod forge;
pub mod guest;
pub mod hypervisor;
pub mod image;
pub mod name;
pub mod profile;
pub mod resources;
pub mod secret;

pub use changes::{Changes, Hint};
pub use error::{Error, Result, Retry};
pub use forge::Forge;
pub use guest::Guest;
pub use hypervisor::Hypervisor;
pub use image::ImageBuilder;
pub use name::*;
pub use profile::Profile;
pub use resources::{Capacity, Resources};
pub use secret::Secret;
