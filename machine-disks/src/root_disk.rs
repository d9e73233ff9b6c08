//! Which kind of disk an instance gets from its image.

use std::{
    collections::HashMap,
    fmt,
    fs::OpenOptions,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use runner_core::image::DiskFormat;
use serde::{Deserialize, Serialize};

use crate::{clone, overlay};

/// How instances get their disks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskMode {
    /// A reflink of a raw image where the file system has them, an overlay otherwise.
    #[default]
    Auto,
    /// A qcow2 file that has what the instance wrote, and shows its image beneath. Made in microseconds on
    /// any file system; each access goes through a table.
    Overlay,
    /// A file that shares the image's blocks. Made in milliseconds, as fast as a raw disk. Raw images get an
    /// error where the file system has none.
    Reflink,
    /// A file of its own. Made at the speed of the disk, and the room for it is needed each time.
    Copy,
}

/// The kind of disk that an image's instances get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// See [`DiskMode::Overlay`].
    Overlay,
    /// See [`DiskMode::Reflink`].
    Reflink,
    /// See [`DiskMode::Copy`].
    Copy,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Overlay => "overlay",
            Self::Reflink => "reflink",
            Self::Copy => "copy",
        })
    }
}

/// A kind of disk, and why it is that one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The kind.
    pub kind: Kind,
    /// Why, as an operator would say it.
    pub why: String,
}

/// Makes the disks of instances, in the way that was asked for or that is best here.
///
/// What is best is found out once for each pair of file systems, and said in the log.
#[derive(Debug, Default)]
pub struct RootDisks {
    mode: DiskMode,
    chosen: Mutex<HashMap<Place, Choice>>,
}

/// Where a choice holds: the file systems of image and instances, and the image's format.
type Place = (u64, u64, bool);

impl RootDisks {
    /// Disks made in this way.
    pub fn new(mode: DiskMode) -> Self {
        Self { mode, chosen: Mutex::default() }
    }

    /// Makes the disk of an instance as `NAME.FORMAT` in `directory`, and returns its path and format. Its
    /// guest sees `size_bytes`, rounded up to 512, or the size of the image if that is more.
    ///
    /// A qcow2 image always gives an overlay: it is made of layers already.
    ///
    /// # Errors
    /// `Unsupported` or `CrossesDevices` for [`DiskMode::Reflink`] where it cannot be done, `AlreadyExists`
    /// when the disk is there, `InvalidInput` as for [`overlay::create`], those of the file system.
    pub fn make(
        &self,
        image: &Path,
        format: DiskFormat,
        size_bytes: u64,
        directory: &Path,
        name: &str,
    ) -> io::Result<(PathBuf, DiskFormat)> {
        let size = size_bytes.max(overlay::virtual_size(image, format)?);
        let kind = self.choose(image, format, directory)?.kind;
        let own = if kind == Kind::Overlay { DiskFormat::Qcow2 } else { format };
        let path = directory.join(format!("{name}.{own}"));
        match kind {
            Kind::Overlay => overlay::create(&path, size, Some((image, format)))?,
            Kind::Reflink => clone::reflink(image, &path).and_then(|()| grow(&path, size))?,
            Kind::Copy => clone::copy(image, &path).and_then(|()| grow(&path, size))?,
        }
        Ok((path, own))
    }

    /// The kind of disk that instances in `directory` get from `image`, and why.
    ///
    /// # Errors
    /// Those of looking at the two. What [`DiskMode::Reflink`] cannot do shows when it is done.
    pub fn choose(&self, image: &Path, format: DiskFormat, directory: &Path) -> io::Result<Choice> {
        let device = |path: &Path| Ok::<_, io::Error>(path.metadata()?.dev());
        let place = (device(image)?, device(directory)?, format == DiskFormat::Raw);
        let known = self.chosen.lock().unwrap_or_else(PoisonError::into_inner).get(&place).cloned();
        if let Some(choice) = known {
            return Ok(choice);
        }
        let choice = decide(self.mode, image, format, directory)?;
        let mut chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        if chosen.insert(place, choice.clone()).is_none() {
            let (kind, why) = (choice.kind, &choice.why);
            tracing::info!(%kind, why, instances = %directory.display(), "Chose the kind of disk.");
        }
        Ok(choice)
    }
}

fn decide(
    mode: DiskMode,
    image: &Path,
    format: DiskFormat,
    directory: &Path,
) -> io::Result<Choice> {
    let choice = |kind, why: &str| Ok(Choice { kind, why: why.to_owned() });
    match (mode, format) {
        (DiskMode::Overlay, _) => choice(Kind::Overlay, "it was asked for"),
        (_, DiskFormat::Qcow2) => choice(Kind::Overlay, "a qcow2 image is made of layers already"),
        (DiskMode::Reflink, _) => choice(Kind::Reflink, "it was asked for"),
        (DiskMode::Copy, _) => choice(Kind::Copy, "it was asked for"),
        (DiskMode::Auto, _) => match clone::probe(image, directory)? {
            Ok(()) => choice(Kind::Reflink, "the file system has reflinks"),
            Err(reason) => choice(Kind::Overlay, &reason.to_string()),
        },
    }
}

/// Gives a raw disk a hole at its end.
fn grow(path: &Path, size_bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(size_bytes.next_multiple_of(512))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(directory: &Path) -> PathBuf {
        let path = directory.join("image.raw");
        std::fs::write(&path, vec![7; (1 << 20) + 512]).unwrap();
        path
    }

    #[test]
    fn each_kind_of_disk_begins_with_the_image_and_has_the_size() {
        let here = tempfile::tempdir().unwrap();
        let image = raw(here.path());
        let (auto, whole) = (RootDisks::new(DiskMode::Auto), RootDisks::new(DiskMode::Copy));
        let make = |disks: &RootDisks, name: &str| {
            disks.make(&image, DiskFormat::Raw, 3 << 20, here.path(), name).unwrap()
        };
        let (copy, format) = make(&whole, "copy");
        assert_eq!(
            (copy.as_path(), format),
            (here.path().join("copy.raw").as_path(), DiskFormat::Raw)
        );
        let content = std::fs::read(&copy).unwrap();
        assert_eq!(content.len(), 3 << 20);
        assert!(content.starts_with(&std::fs::read(&image).unwrap()));

        let chosen = auto.choose(&image, DiskFormat::Raw, here.path()).unwrap();
        let (path, format) = make(&auto, "auto");
        assert_eq!(overlay::virtual_size(&path, format).unwrap(), 3 << 20);
        match clone::probe(&image, here.path()).unwrap() {
            Ok(()) => assert_eq!((chosen.kind, format), (Kind::Reflink, DiskFormat::Raw)),
            Err(why) => {
                assert_eq!((chosen.kind, format), (Kind::Overlay, DiskFormat::Qcow2));
                assert_eq!(chosen.why, why.to_string());
            }
        }
    }

    #[test]
    fn a_disk_is_never_smaller_than_its_image() {
        let here = tempfile::tempdir().unwrap();
        let image = raw(here.path());
        for mode in [DiskMode::Overlay, DiskMode::Copy] {
            let disks = RootDisks::new(mode);
            let name = format!("{mode:?}");
            let (path, format) =
                disks.make(&image, DiskFormat::Raw, 512, here.path(), &name).unwrap();
            assert_eq!(overlay::virtual_size(&path, format).unwrap(), (1 << 20) + 512);
        }
    }

    #[test]
    fn a_qcow2_image_gives_an_overlay_in_every_mode() {
        let here = tempfile::tempdir().unwrap();
        let image = here.path().join("image.qcow2");
        overlay::create(&image, 1 << 20, None).unwrap();
        for mode in [DiskMode::Auto, DiskMode::Overlay, DiskMode::Reflink, DiskMode::Copy] {
            let name = format!("{mode:?}");
            let (path, format) = RootDisks::new(mode)
                .make(&image, DiskFormat::Qcow2, 2 << 20, here.path(), &name)
                .unwrap();
            assert_eq!(format, DiskFormat::Qcow2);
            assert_eq!(overlay::virtual_size(&path, format).unwrap(), 2 << 20);
            assert!(std::fs::metadata(path).unwrap().len() < 1 << 20);
        }
    }

    #[test]
    fn a_reflink_that_was_asked_for_and_cannot_be_is_an_error_and_no_overlay() {
        let here = tempfile::tempdir().unwrap();
        let image = raw(here.path());
        let disks = RootDisks::new(DiskMode::Reflink);
        let made = disks.make(&image, DiskFormat::Raw, 2 << 20, here.path(), "disk");
        match clone::probe(&image, here.path()).unwrap() {
            Ok(()) => assert_eq!(made.unwrap().1, DiskFormat::Raw),
            Err(why) => {
                assert_eq!(made.unwrap_err().kind(), why.kind());
                assert!(!here.path().join("disk.raw").exists());
            }
        }
    }
}
