//! Images, the recipes they are built from, and who builds them.

use std::{fmt, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    error::Result,
    name::{ImageId, ProfileName},
};

/// How to make an image. The same recipe gives an equally good image whenever it is built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    /// The profile the image is for.
    pub profile: ProfileName,
    /// What to build.
    pub kind: RecipeKind,
}

/// The kinds of recipe there are words for. A builder refuses those it does not know
/// with [`Error::Unsupported`](crate::Error::Unsupported).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum RecipeKind {
    /// A small Linux in memory, made of the distribution's own kernel, busybox and guest agent.
    Micro {},
    /// The same, with files of the operator's on top.
    MicroWith {
        /// A tar archive of them. What it has at `/opt/runner/start.sh` is run at boot, as root.
        files: PathBuf,
        /// What the archive must hold, as 64 hexadecimal digits.
        sha256: String,
    },
    /// A disk that exists already.
    Disk {
        /// Where it is. It is never written to.
        path: PathBuf,
        /// What it must hold, as 64 hexadecimal digits.
        sha256: String,
        /// How user data reaches the guest.
        user_data: UserDataDelivery,
    },
}

/// How user data reaches a guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UserDataDelivery {
    /// It does not: the guest agent is all there is. An instance with user data is refused.
    #[default]
    None,
    /// A NoCloud seed disk, for guests with cloud-init.
    NoCloud,
}

/// An immutable bootable thing on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its name, unique on this host.
    pub id: ImageId,
    /// What it was built from. An image whose recipe differs from its profile's is replaced.
    pub recipe: Recipe,
    /// When the build ended.
    pub built_at: Timestamp,
    /// SHA-256 over its content, as 64 hexadecimal digits.
    pub digest: String,
    /// What it takes on disk, in bytes.
    pub size_bytes: u64,
    /// How to boot it.
    pub boot: Boot,
}

/// How to boot an image. Paths are absolute; every instance shares the files and none writes to them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "boot", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Boot {
    /// A kernel and an initial file system in memory; no disk is needed.
    Kernel {
        /// `bzImage`, or `vmlinux` with a PVH note.
        kernel: PathBuf,
        /// A cpio archive in the `newc` form.
        initrd: PathBuf,
        /// The kernel's command line.
        command_line: String,
    },
    /// The firmware boots this disk.
    Disk {
        /// The disk.
        path: PathBuf,
        /// Its format.
        format: DiskFormat,
        /// How user data reaches the guest.
        user_data: UserDataDelivery,
    },
}

/// The format of a disk file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// QEMU copy on write, version 2 or 3.
    Qcow2,
    /// The disk's bytes and nothing else.
    Raw,
}

impl fmt::Display for DiskFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        })
    }
}

/// Takes the progress of a build, a line at a time, as an operator would read it.
#[derive(Clone)]
pub struct BuildLog(Arc<dyn Fn(&str) + Send + Sync>);

impl BuildLog {
    /// Hands each line to `take`, which must not block.
    pub fn new(take: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }

    /// Throws the lines away.
    pub fn silent() -> Self {
        Self::new(|_| ())
    }

    /// Says one line.
    pub fn line(&self, line: impl AsRef<str>) {
        (self.0)(line.as_ref());
    }
}

/// Builds, deletes and lists images on this host.
///
/// # Contract
/// - An image is listed only when it is whole: a build that is dropped, fails or is killed leaves nothing
///   that [`images`](Self::images) shows, and what it did leave is swept by the next build or list.
/// - Two builds at once, of one recipe or of several, do not disturb each other.
/// - Deleting is idempotent: an image that does not exist is deleted already.
#[async_trait]
pub trait ImageBuilder: Send + Sync + 'static {
    /// Builds `recipe` under a new id, `PROFILE.BUILD-TIME`, telling `log` what it does.
    ///
    /// # Errors
    /// `Unsupported` for a kind it does not know, `Invalid` for a recipe that cannot work (a file that is
    /// missing or whose hash differs), `Exhausted` for a full disk, `Backend` for the rest.
    ///
    /// # Cancel safety
    /// Dropping it stops the build and leaves nothing that a list shows.
    async fn build(&self, recipe: &Recipe, log: BuildLog) -> Result<Image>;

    /// Deletes an image. The caller sees to it that no instance uses it.
    ///
    /// # Errors
    /// `Backend` when files could not be removed; the image may be listed still.
    ///
    /// # Cancel safety
    /// Repeat it to be sure.
    async fn delete(&self, id: &ImageId) -> Result<()>;

    /// Every image of ours on this host, or an error: never a part of them.
    ///
    /// # Errors
    /// `Backend` when the list could not be read in full.
    ///
    /// # Cancel safety
    /// Cancel safe.
    async fn images(&self) -> Result<Vec<Image>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_reads_back_as_it_was_written() {
        let recipe = Recipe {
            profile: ProfileName::new("linux").unwrap(),
            kind: RecipeKind::Disk {
                path: "/images/a.qcow2".into(),
                sha256: "0".repeat(64),
                user_data: UserDataDelivery::NoCloud,
            },
        };
        let text = serde_json::to_string(&recipe).unwrap();
        assert_eq!(serde_json::from_str::<Recipe>(&text).unwrap(), recipe);
    }
}
