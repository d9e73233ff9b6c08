//! The images on this host: built into a directory, listed from it, deleted out of it.
//!
//! ```text
//! ROOT/linux.20260102T030405Z/     an image: image.json, and the files it boots from
//! ROOT/.building-ID/               a build; it holds a lock on its file `lock` for as long as it lives
//! ROOT/.deleting-ID.N/             an image, or what a build left, on its way out
//! ROOT/.lock                       held for the moment in which one of these becomes another
//! ```
//!
//! Only a rename makes an image or ends it, so a list never meets half of one. Whatever else is in the
//! directory is not ours and is left alone.

mod directory;
mod hash;
mod room;
mod verify;
pub(crate) mod work;

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use jiff::Timestamp;
use runner_core::{
    Error, ImageBuilder, ImageId, Result,
    image::{Boot, BuildLog, Image, Recipe, RecipeKind},
};

use self::{
    directory::{Building, Directory},
    work::blocking,
};
pub(crate) use self::{
    hash::{hex, sha256_file, sha256_of},
    room::{bytes, check_room, disk_failed},
    work::Work,
};
use crate::{disk, micro};

/// Who failed, in the errors of this file and of the recipes.
pub(crate) const BACKEND: &str = "images";

/// Where images are kept and what they are made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfig {
    /// Where the images are. Made when missing; one directory may serve several processes.
    pub root: PathBuf,
    /// Where packages and what was made of them are kept between builds. Made when missing, safe to
    /// delete between builds, and best on the file system of `root`, where images share its files.
    pub cache: PathBuf,
    /// Options for every call of `apt-get` and `apt-cache`, such as `-o` and `Dir::Etc::sourcelist=FILE`.
    pub apt_options: Vec<String>,
}

impl ImageConfig {
    /// Images in `root`, the cache in `cache`, and the host's own package sources.
    pub fn new(root: impl Into<PathBuf>, cache: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), cache: cache.into(), apt_options: Vec::new() }
    }
}

/// Builds images into a directory. Clones share it, and so may other processes.
///
/// The digest of a disk image is the SHA-256 of its disk; that of a micro image is the SHA-256 of
/// the output of `sha256sum command-line initrd kernel`, where the command line ends without a new line.
#[derive(Debug, Clone)]
pub struct ImageStore {
    directory: Directory,
    cache: PathBuf,
    apt_options: Vec<String>,
}

impl ImageStore {
    /// Opens the directory and sweeps out what builds that died have left in it.
    ///
    /// # Errors
    /// `Backend` when a directory can be neither found nor made, or the sweep fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn open(config: ImageConfig) -> Result<Self> {
        blocking("open the images", move || {
            let store = Self {
                directory: Directory::open(&config.root)?,
                cache: directory::make(&config.cache)?,
                apt_options: config.apt_options,
            };
            store.directory.sweep()?;
            Ok(store)
        })
        .await
    }

    /// Where the images are, as an absolute path.
    pub fn root(&self) -> &Path {
        self.directory.root()
    }

    /// Reads all of an image, and compares it with its digest.
    ///
    /// # Errors
    /// `Invalid` for one that is not what was built any more, `Backend` for one that cannot be read.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn verify(&self, image: &Image) -> Result<()> {
        let work = Work::new(BuildLog::silent());
        let _stop_when_dropped = work.cancellation().drop_guard();
        let image = image.clone();
        blocking("check an image", move || verify::verify(&image, &work)).await
    }

    /// Everything of a build but the rename that makes it an image.
    fn prepare(&self, recipe: &Recipe, work: &Work) -> Result<(Building, Image)> {
        self.directory.sweep()?;
        for broken in self.directory.delete_broken(&recipe.profile)? {
            work.line(broken);
        }
        work.check()?;
        let building = self.directory.begin(&recipe.profile, Timestamp::now())?;
        let content = match &recipe.kind {
            RecipeKind::Micro {} => {
                micro::build(&self.cache, &self.apt_options, None, building.path(), work)?
            }
            RecipeKind::MicroWith { files, sha256 } => {
                let added = Some((files.as_path(), sha256.as_str()));
                micro::build(&self.cache, &self.apt_options, added, building.path(), work)?
            }
            RecipeKind::Disk { path, sha256, user_data } => {
                disk::build(path, sha256, *user_data, building.path(), work)?
            }
            // The enum may grow; an older builder says so rather than guess.
            other => return Err(Error::unsupported(format!("image recipe {other:?}"))),
        };
        let image = Image {
            id: building.id().clone(),
            recipe: recipe.clone(),
            built_at: Timestamp::now(),
            digest: content.digest,
            size_bytes: building.seal()?,
            boot: within(content.boot, &building.destination()),
        };
        building.describe(&image)?;
        work.check()?;
        Ok((building, image))
    }
}

#[async_trait]
impl ImageBuilder for ImageStore {
    async fn build(&self, recipe: &Recipe, log: BuildLog) -> Result<Image> {
        let work = Work::new(log);
        let _stop_when_dropped = work.cancellation().drop_guard();
        let (store, recipe) = (self.clone(), recipe.clone());
        let (building, image) = blocking("build an image", {
            let work = work.clone();
            move || store.prepare(&recipe, &work)
        })
        .await?;
        // Not on the blocking pool: there is no await between the rename and the answer, so a build that
        // is dropped has not made an image. It takes a rename and the sync of a directory.
        building.commit()?;
        work.line(format!("built in {:.1} s", work.elapsed().as_secs_f64()));
        Ok(image)
    }

    async fn delete(&self, id: &ImageId) -> Result<()> {
        let (directory, id) = (self.directory.clone(), id.clone());
        blocking("delete an image", move || directory.delete(&id)).await
    }

    async fn images(&self) -> Result<Vec<Image>> {
        let directory = self.directory.clone();
        blocking("list the images", move || {
            directory.sweep()?;
            directory.images()
        })
        .await
    }
}

/// What a recipe made, with paths relative to the directory of the build.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) boot: Boot,
    pub(crate) digest: String,
}

/// `boot` with its relative paths taken to be in `directory`.
fn within(boot: Boot, directory: &Path) -> Boot {
    match boot {
        Boot::Kernel { kernel, initrd, command_line } => Boot::Kernel {
            kernel: directory.join(kernel),
            initrd: directory.join(initrd),
            command_line,
        },
        Boot::Disk { path, format, user_data } => {
            Boot::Disk { path: directory.join(path), format, user_data }
        }
        // Recipes make the two above and nothing else.
        other => other,
    }
}
