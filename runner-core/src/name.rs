//! Names are types: a worker's name is never taken for a profile's.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The longest name, in bytes: what a host name label, a libvirt domain and GitHub's runner names all accept.
pub const MAX_NAME: usize = 63;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:expr, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// Checks `text` and makes it a name.
            ///
            /// # Errors
            /// [`Error::Invalid`] naming the rule that `text` breaks.
            pub fn new(text: impl AsRef<str>) -> Result<Self, Error> {
                let text = text.as_ref();
                let check: fn(&str) -> Result<(), &'static str> = $check;
                if text.is_empty() {
                    return Err(Error::invalid($what, "it is empty"));
                }
                if text.len() > $max {
                    return Err(Error::invalid($what, format!("it is longer than {} bytes", $max)));
                }
                check(text).map_err(|rule| Error::invalid(format!("{} {text:?}", $what), rule))?;
                Ok(Self(text.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self, Error> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self, Error> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }
    };
}

fn host_name_label(text: &str) -> Result<(), &'static str> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if !text.bytes().all(allowed) {
        return Err("use lower-case letters, digits and '-' only");
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Err("it must start and end with a letter or digit");
    }
    Ok(())
}

fn file_name(text: &str) -> Result<(), &'static str> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if !text.bytes().all(allowed) {
        return Err("use letters, digits, '-', '_' and '.' only");
    }
    if text.starts_with(['.', '-']) {
        return Err("it must not start with '.' or '-'");
    }
    Ok(())
}

fn printable(text: &str) -> Result<(), &'static str> {
    if text.chars().any(char::is_control) {
        return Err("it must not hold control characters");
    }
    Ok(())
}

name!(
    /// What a profile is called: lower-case letters, digits and `-`, at most 40 bytes.
    ProfileName, "profile name", 40, host_name_label
);
name!(
    /// What joins instance, runner and record: `PROFILE-SERIAL`, valid as a host name.
    WorkerName, "worker name", MAX_NAME, host_name_label
);
name!(
    /// What a forge is called in one pool, such as `local` or `github`.
    ForgeName, "forge name", 40, host_name_label
);
name!(
    /// An image: `PROFILE.BUILD-TIME`, valid as a file name.
    ImageId, "image id", 120, file_name
);
name!(
    /// Who owns what a pool makes: written into every instance and every runner, so that two pools that
    /// share a host or a forge never touch each other's.
    OwnerId, "owner id", 40, host_name_label
);
name!(
    /// A runner as its forge knows it. Opaque: only the forge reads it.
    RunnerId, "runner id", 200, printable
);
name!(
    /// A job as its forge knows it. Opaque outside that forge.
    JobId, "job id", 200, file_name
);
name!(
    /// A reservation: a random UUID, or whatever its owner chose.
    ReservationId, "reservation id", 120, file_name
);
name!(
    /// A process in a guest, named by whoever spawned it, so that it can be found again.
    ProcessId, "process id", 120, file_name
);
name!(
    /// A word that jobs ask for and profiles offer. Forges compare without regard to case; so does this.
    Label, "label", 256, |text| {
        printable(text)?;
        if text.contains(',') { Err("it must not hold a comma") } else { Ok(()) }
    }
);

impl Label {
    /// Whether both are the same label, whatever their case.
    pub fn matches(&self, other: &Label) -> bool {
        self.as_str().eq_ignore_ascii_case(other.as_str())
    }
}

impl WorkerName {
    /// The `serial`-th worker of `profile`.
    pub fn of(profile: &ProfileName, serial: u64) -> Self {
        // 40 bytes, a dash and the 20 digits of u64 stay within 63, and each part is a host name label.
        Self(format!("{profile}-{serial}").into())
    }

    /// Profile and serial, if the name has that form. Names made by others need not.
    pub fn parts(&self) -> Option<(ProfileName, u64)> {
        let (profile, serial) = self.0.rsplit_once('-')?;
        Some((ProfileName::new(profile).ok()?, serial.parse().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_which_rule_it_breaks() {
        let error = ProfileName::new("Linux").unwrap_err().to_string();
        assert_eq!(
            error,
            "profile name \"Linux\" is not valid: use lower-case letters, digits and '-' only"
        );
        assert!(ProfileName::new("").is_err());
        assert!(ProfileName::new("-a").is_err());
        assert!(ProfileName::new("a".repeat(41)).is_err());
        assert!(ImageId::new("../etc").is_err());
        assert!(ImageId::new("..").is_err());
        assert!(Label::new("a,b").is_err());
    }

    #[test]
    fn a_worker_name_keeps_profile_and_serial() {
        let profile = ProfileName::new("linux-22-04").unwrap();
        let worker = WorkerName::of(&profile, 17);
        assert_eq!(worker.as_str(), "linux-22-04-17");
        assert_eq!(worker.parts(), Some((profile, 17)));
        assert_eq!(WorkerName::new("odd").unwrap().parts(), None);
        assert_eq!(WorkerName::new("linux-x").unwrap().parts(), None);
    }

    #[test]
    fn the_longest_worker_name_is_valid() {
        let profile = ProfileName::new("a".repeat(40)).unwrap();
        let worker = WorkerName::of(&profile, u64::MAX);
        assert_eq!(WorkerName::new(worker.as_str()).unwrap(), worker);
    }
}
