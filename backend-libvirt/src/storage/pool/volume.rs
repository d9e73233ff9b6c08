//! The names of our volumes, which are their marks.

use runner_core::{ImageId, OwnerId, WorkerName};

use crate::domain::id;

/// What all names begin with, for whoever looks at a pool.
const PREFIX: &str = "runner";

/// What a volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Record,
    Disk,
    Seed,
    UserData,
    Console,
    Exit,
    Image,
    Initrd,
    Whole,
}

const KINDS: [(Kind, &str); 9] = [
    (Kind::Record, "record"),
    (Kind::Disk, "disk.qcow2"),
    (Kind::Seed, "seed.img"),
    (Kind::UserData, "user-data"),
    (Kind::Console, "console.log"),
    (Kind::Exit, "exit.json"),
    (Kind::Image, "image"),
    (Kind::Initrd, "initrd"),
    (Kind::Whole, "whole"),
];

impl Kind {
    pub(super) fn is_of_an_image(self) -> bool {
        matches!(self, Self::Image | Self::Initrd | Self::Whole)
    }

    fn word(self) -> &'static str {
        KINDS.iter().find(|(kind, _)| *kind == self).map_or("", |(_, word)| word)
    }
}

/// Whose a volume is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Of {
    Instance(WorkerName),
    /// Two images of one name differ in their content.
    Image(ImageId, String),
}

/// A volume of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VolumeName {
    pub(super) of: Of,
    pub(super) kind: Kind,
}

impl VolumeName {
    pub(super) fn of_instance(name: &WorkerName, kind: Kind) -> Self {
        Self { of: Of::Instance(name.clone()), kind }
    }

    pub(super) fn of_image(image: &ImageId, digest: &str, kind: Kind) -> Self {
        // As much of it as tells two images apart, and keeps the name short.
        let digest = digest.chars().filter(char::is_ascii_alphanumeric).take(16).collect();
        Self { of: Of::Image(image.clone(), digest), kind }
    }

    pub(super) fn instance(&self) -> Option<&WorkerName> {
        match &self.of {
            Of::Instance(name) => Some(name),
            Of::Image(..) => None,
        }
    }

    pub(super) fn image(&self) -> Option<&ImageId> {
        match &self.of {
            Of::Instance(_) => None,
            Of::Image(image, _) => Some(image),
        }
    }

    /// The name as libvirt has it.
    pub(super) fn render(&self, owner: &OwnerId) -> String {
        let rest = match &self.of {
            Of::Instance(name) => format!("{name}.{}", self.kind.word()),
            Of::Image(image, digest) => format!("{image}.{digest}.{}", self.kind.word()),
        };
        let id = id(owner, "volume", &rest).simple();
        format!("{PREFIX}.{owner}.{id}.{rest}")
    }

    /// The volume of this name, if it is ours.
    pub(super) fn parse(owner: &OwnerId, name: &str) -> Option<Self> {
        let rest = name.strip_prefix(PREFIX)?.strip_prefix('.')?;
        let (_, rest) = rest.strip_prefix(owner.as_str())?.strip_prefix('.')?.split_once('.')?;
        let found = KINDS.iter().find_map(|(kind, word)| {
            let of = rest.strip_suffix(word)?.strip_suffix('.')?;
            let of = match kind.is_of_an_image() {
                false => Of::Instance(WorkerName::new(of).ok()?),
                true => {
                    let (image, digest) = of.rsplit_once('.')?;
                    Of::Image(ImageId::new(image).ok()?, digest.to_owned())
                }
            };
            Some(Self { of, kind: *kind })
        })?;
        (found.render(owner) == name).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(name: &str) -> OwnerId {
        OwnerId::new(name).unwrap()
    }

    #[test]
    fn a_name_reads_back_for_its_owner_and_nobody_else() {
        let name = WorkerName::new("linux-17").unwrap();
        let image = ImageId::new("linux.20260101T000000Z").unwrap();
        for (kind, _) in KINDS {
            let volume = match kind.is_of_an_image() {
                false => VolumeName::of_instance(&name, kind),
                true => VolumeName::of_image(&image, &"ab".repeat(32), kind),
            };
            let text = volume.render(&owner("us"));
            assert!(text.len() < 255 && !text.contains('/'), "{text}");
            assert_eq!(VolumeName::parse(&owner("us"), &text), Some(volume));
            assert_eq!(VolumeName::parse(&owner("them"), &text), None);
            assert_eq!(VolumeName::parse(&owner("u"), &text), None);
        }
    }

    #[test]
    fn the_longest_names_fit_a_file_name() {
        let name = WorkerName::new("a".repeat(63)).unwrap();
        let image = ImageId::new("a".repeat(120)).unwrap();
        let owner = owner(&"a".repeat(40));
        let one = VolumeName::of_instance(&name, Kind::Console).render(&owner);
        let other = VolumeName::of_image(&image, &"a".repeat(64), Kind::Initrd).render(&owner);
        assert!(one.len() <= 255 && other.len() <= 255, "{} {}", one.len(), other.len());
    }

    #[test]
    fn what_is_named_like_ours_is_not_ours() {
        let name = WorkerName::new("linux-17").unwrap();
        let ours = VolumeName::of_instance(&name, Kind::Disk).render(&owner("us"));
        for other in [
            "linux-17.qcow2".to_owned(),
            "runner.us.linux-17.disk.qcow2".to_owned(),
            ours.replace("linux-17", "linux-18"),
            ours.replace("disk.qcow2", "record"),
            format!("{ours}.bak"),
            format!("x{ours}"),
            ours.to_uppercase(),
        ] {
            assert_eq!(VolumeName::parse(&owner("us"), &other), None, "{other}");
        }
    }
}
