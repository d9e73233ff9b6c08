//! Makes a configuration of ours from the settings of [Servo's monitor](https://github.com/servo/ci-runners), and
//! says of every one of them what becomes of it.
//!
//! Nothing is guessed silently: what has no equivalent is told by its line, and so is what an operator must still
//! do by hand. Secrets go into files of their own and are never told.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use runner_core::Secret;

mod profiles;
mod servo;
mod settings;
mod size;
mod writing;

use settings::{Said, Setting, Settings};
pub use settings::{Unreadable, hash_of};
use writing::Writing;

/// What is read.
pub struct Sources<'a> {
    /// `monitor.toml`: what it is called, and its text.
    pub settings: (&'a Path, &'a str),
    /// `.env`: what it is called, and its text.
    pub env: (&'a Path, &'a str),
    /// The directory with `KEY/{guest.xml,user-data,meta-data,boot-script}` for each profile.
    pub profiles: Option<&'a Path>,
    /// The images of profiles, by their keys: where each is, and its SHA-256.
    pub images: &'a BTreeMap<String, (PathBuf, String)>,
    /// Repositories whose queued jobs are asked for.
    pub repositories: &'a [String],
}

/// What comes of it.
pub struct Imported {
    /// The text of our configuration.
    pub config: String,
    /// The files beside it that hold a secret.
    pub secrets: Vec<(&'static str, Secret<String>)>,
    /// What became of each setting, in the order of the files.
    pub notes: Vec<Note>,
}

/// What became of one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The file and the line; none for what is in neither file.
    pub place: Option<(PathBuf, usize)>,
    /// The setting.
    pub key: String,
    /// What became of it.
    pub fate: Fate,
}

/// What became of a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is taken over, as this.
    Becomes(String),
    /// It is left out, for this reason.
    LeftOut(String),
    /// An operator must do this.
    ByHand(String),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((file, line)) = &self.place {
            write!(f, "{}:{line}: ", file.display())?;
        }
        // Both are others' text: a terminal is to show it, not to obey it.
        let tame = |text: &str| text.replace(char::is_control, "\u{fffd}");
        let key = tame(&self.key);
        match &self.fate {
            Fate::Becomes(what) => write!(f, "{key}: becomes {}", tame(what)),
            Fate::LeftOut(why) => write!(f, "{key}: left out: {}", tame(why)),
            Fate::ByHand(what) => write!(f, "{key}: by hand: {}", tame(what)),
        }
    }
}

/// Why a setting of theirs has no equivalent, for those that are known.
const LEFT_OUT: &[(&str, &str)] = &[
    ("github_api_suffix", "runners are called as their workers; several hosts may share a GitHub"),
    ("monitor_thread_send_timeout", "no request waits for the loop"),
    ("monitor_thread_recv_timeout", "no request waits for the loop"),
    (
        "main_repo_path",
        "images are built outside; machines fetch a mirror at /cache, if [servo] names a directory as cache",
    ),
    ("dont_update_cached_servo_repo", "images are built outside; nothing is injected into them"),
    ("libvirt_template_guest_prefix", "machines are told apart by a mark in their metadata"),
    ("libvirt_rebuild_guest_prefix", "machines are told apart by a mark in their metadata"),
    ("libvirt_runner_guest_prefix", "machines are told apart by a mark in their metadata"),
    ("libvirt_prefix", "machines are told apart by a mark in their metadata"),
    ("zfs_prefix", "disks are in a storage pool of libvirt's, or in the data directory"),
    ("zfs_clone_prefix", "disks are in a storage pool of libvirt's, or in the data directory"),
    ("zvol_block_device_timeout", "disks are files"),
    ("dot_cargo_path", "images are built outside; nothing is injected into them"),
    ("monitor_data_path", "its data is of no use here; [data] dir says where ours goes"),
    ("queue_member", "whoever names this monitor in queue.servers asks it; nothing is set here"),
];

/// Makes our configuration. What it makes is not checked here: whoever writes it reads it first.
///
/// # Errors
/// For a file that cannot be read as what it is, by its line; never with what the line holds.
pub fn import(sources: &Sources<'_>) -> Result<Imported, Unreadable> {
    let mut settings = Settings::read(sources.settings, sources.env)?;
    let mut out = Writing::new(sources);
    out.http(&mut settings);
    out.libvirt(&mut settings);
    out.guests();
    out.github(&mut settings, sources.repositories);
    out.servo(&mut settings);
    out.pace(&mut settings);
    profiles::write(&mut out, &mut settings, sources);
    for setting in settings.rest() {
        out.leave_out(setting);
    }
    Ok(out.finish())
}

impl Writing {
    /// Notes what nobody asked for.
    fn leave_out(&mut self, setting: Setting) {
        let key = setting.key();
        let known = LEFT_OUT.iter().find(|(known, _)| *known == key);
        let is_on = setting.said == Said::Flag(true);
        let fate = match (known, key.as_str()) {
            (Some((_, why)), _) => Fate::LeftOut((*why).to_owned()),
            (None, "dont_create_runners") if is_on => Fate::ByHand(
                "pause each profile once it runs: monitor profiles set NAME --pause".to_owned(),
            ),
            (None, "dont_register_runners") if is_on => Fate::ByHand(
                "runners are always registered; point [[github]] at a repository for trials"
                    .to_owned(),
            ),
            (None, "destroy_all_non_busy_runners") if is_on => Fate::ByHand(
                "it is no setting here: `monitor retire WORKER` ends one that has no job"
                    .to_owned(),
            ),
            (
                None,
                "dont_create_runners" | "dont_register_runners" | "destroy_all_non_busy_runners",
            ) => Fate::LeftOut("it is off".to_owned()),
            (None, _) => {
                Fate::LeftOut("it is no setting of Servo's monitor that is known".to_owned())
            }
        };
        self.note(&setting, fate);
    }
}
