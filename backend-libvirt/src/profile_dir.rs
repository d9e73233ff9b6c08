//! What an operator keeps of a profile: `PROFILES/KEY/{guest.xml,user-data,meta-data,boot-script}`, the layout that
//! [Servo's runners](https://github.com/servo/ci-runners) have. Each file may be missing, and may be a link.
//!
//! | file | becomes |
//! |---|---|
//! | `guest.xml` | the template of the domain's document; see `domain.rs` for what is set in it |
//! | `user-data` | `user-data` on the seed disk, byte for byte |
//! | `meta-data` | `meta-data` on the seed disk, but for `instance-id` and `local-hostname`, which become the instance's name |
//! | `boot-script` | `boot-script` on the seed disk, byte for byte |
//!
//! What the instance itself is told (a registration, say) is `user-data` on the seed disk if the profile has none of
//! its own, and otherwise the file `runner-data` beside it: whoever writes `user-data` has it mount the disk
//! labelled `CIDATA` and read that. Nothing is substituted within a file, so nothing that an instance is told can
//! change what the operator wrote. An image that is a kernel finds what it is told where it always does, whatever
//! the profile has.
//!
//! An instance has a seed disk if its image asks for one or its profile has one of the last three files.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use machine_disks::seed::{self, Seed};
use runner_core::{
    Error, ProfileName, Result,
    hypervisor::InstanceSpec,
    image::{Boot, UserDataDelivery},
};

use crate::domain::Template;

/// What an instance is told, on the seed disk, if the profile has user data of its own.
const RUNNER_DATA: &str = "runner-data";
const BOOT_SCRIPT: &str = "boot-script";
/// What `meta-data` says of the instance: what we set.
const OF_THE_INSTANCE: [&str; 2] = ["instance-id", "local-hostname"];

/// The files of one profile.
#[derive(Debug, Clone)]
pub(crate) struct ProfileFiles {
    pub(crate) template: Template,
    user_data: Option<String>,
    meta_data: Option<String>,
    boot_script: Option<Vec<u8>>,
}

impl ProfileFiles {
    /// Those of a profile without a directory: the built-in template and nothing else.
    pub(crate) fn none() -> Self {
        let template = Template::builtin();
        Self { template, user_data: None, meta_data: None, boot_script: None }
    }

    /// Reads the directory of `profile` in `profiles`. Blocks.
    ///
    /// # Errors
    /// `Invalid`, naming the file and, where it has one, the line, for what cannot be read or used.
    pub(crate) fn read(profiles: &Path, profile: &ProfileName) -> Result<Self> {
        let directory = profiles.join(profile.as_str());
        let template = match Template::read(&directory.join("guest.xml")) {
            Err(error) if error.is_not_found() => Template::builtin(),
            result => result?,
        };
        let meta_data = text(&directory.join("meta-data"))?;
        let files = Self {
            template,
            user_data: text(&directory.join("user-data"))?,
            meta_data,
            boot_script: content(&directory.join(BOOT_SCRIPT))?,
        };
        if let Some(text) = &files.meta_data {
            // Told now, and not when an instance is made.
            let error =
                |reason| Error::invalid(directory.join("meta-data").display().to_string(), reason);
            own_meta_data(text, "x").map_err(error)?;
        }
        Ok(files)
    }

    /// Whether there is user data that an instance can find more beside.
    pub(crate) fn tells(&self) -> bool {
        self.user_data.is_some()
    }

    /// What the seed disk of an instance holds, if it has one.
    ///
    /// # Errors
    /// `Invalid` for more than fits, or for user data that the image takes no disk for.
    pub(crate) fn seed(&self, spec: &InstanceSpec) -> Result<Option<Vec<u8>>> {
        let (asked, told) = match &spec.image.boot {
            Boot::Disk { user_data, .. } => {
                (*user_data == UserDataDelivery::NoCloud, spec.user_data.as_ref())
            }
            _ => (false, None),
        };
        let own =
            self.user_data.is_some() || self.meta_data.is_some() || self.boot_script.is_some();
        if !asked && !own {
            return Ok(None);
        }
        let told = told.map(|text| text.expose().as_str());
        let mut files: Vec<(&str, &[u8])> = Vec::new();
        if let (Some(told), Some(_)) = (told, &self.user_data) {
            files.push((RUNNER_DATA, told.as_bytes()));
        }
        if let Some(script) = &self.boot_script {
            files.push((BOOT_SCRIPT, script));
        }
        let meta_data = match &self.meta_data {
            None => None,
            Some(text) => {
                let what = || format!("meta-data of profile {}", spec.profile);
                let own = own_meta_data(text, spec.name.as_str());
                Some(own.map_err(|reason| Error::invalid(what(), reason))?)
            }
        };
        let seed = Seed {
            name: &spec.name,
            meta_data: meta_data.as_deref(),
            user_data: self.user_data.as_deref().or(told).unwrap_or_default(),
            files: &files,
        };
        seed::volume(seed).map(Some)
    }
}

/// The operator's `meta-data`, for the instance called `name`.
///
/// It is YAML, and read as far as needed: lines, in which an entry goes on for as long as lines are indented. Or it
/// is JSON, which is YAML too.
///
/// # Errors
/// Why it cannot be used, for an operator.
fn own_meta_data(text: &str, name: &str) -> Result<String, String> {
    let text = text.trim_start_matches('\u{feff}');
    if text.trim_start().starts_with('{') {
        let mut entries: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text)
            .map_err(|error| format!("it begins like JSON and cannot be read as that: {error}"))?;
        for key in OF_THE_INSTANCE {
            entries.insert(key.to_owned(), name.into());
        }
        return Ok(serde_json::Value::Object(entries).to_string() + "\n");
    }
    let mut own = String::new();
    for key in OF_THE_INSTANCE {
        // A worker's name is a host name label, so the quotes are enough.
        own.push_str(&format!("{key}: \"{name}\"\n"));
    }
    let mut dropping = false;
    for (index, line) in text.lines().enumerate() {
        let indented = line.starts_with([' ', '\t']);
        if line.trim().is_empty() || line.starts_with('#') || (indented && !dropping) {
            own.push_str(line);
            own.push('\n');
            continue;
        }
        if indented || (line == "---" && index == 0) {
            continue;
        }
        let Some((key, _)) = line.split_once(':') else {
            return Err(format!("line {}: it is no list of `key: value`", index + 1));
        };
        dropping = OF_THE_INSTANCE.contains(&key.trim().trim_matches(['"', '\'']));
        if !dropping {
            own.push_str(line);
            own.push('\n');
        }
    }
    Ok(own)
}

/// A file that may be missing, no larger than a seed disk.
fn content(path: &Path) -> Result<Option<Vec<u8>>> {
    let most = seed::MAX_USER_DATA_BYTES;
    let invalid = |reason: String| Error::invalid(path.display().to_string(), reason);
    let read = || {
        let mut content = Vec::new();
        // One byte more than fits shows that there is more.
        File::open(path)?.take(most as u64 + 1).read_to_end(&mut content)?;
        Ok::<_, io::Error>(content)
    };
    match read() {
        Ok(content) if content.len() > most => {
            Err(invalid(format!("it has more than {most} bytes, which is the most")))
        }
        Ok(content) => Ok(Some(content)),
        Err(error)
            if error.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_err() =>
        {
            Ok(None)
        }
        Err(error) => Err(invalid(format!("it cannot be read: {error}"))),
    }
}

fn text(path: &Path) -> Result<Option<String>> {
    let Some(content) = content(path)? else {
        return Ok(None);
    };
    match String::from_utf8(content) {
        Ok(text) => Ok(Some(text)),
        Err(error) => {
            let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
            let reason = format!("line {line}: it is not UTF-8");
            Err(Error::invalid(path.display().to_string(), reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, process::Command};

    use runner_core::{
        ImageId, Resources, Secret, WorkerName,
        hypervisor::Network,
        image::{DiskFormat, Image, Recipe, RecipeKind},
    };

    use super::*;

    fn spec(boot: Boot, told: Option<&str>) -> InstanceSpec {
        let profile = ProfileName::new("linux").unwrap();
        InstanceSpec {
            name: WorkerName::of(&profile, 17),
            profile: profile.clone(),
            image: Image {
                id: ImageId::new("linux.1").unwrap(),
                recipe: Recipe { profile, kind: RecipeKind::Micro {} },
                built_at: jiff::Timestamp::UNIX_EPOCH,
                digest: "0".repeat(64),
                size_bytes: 0,
                boot,
            },
            resources: Resources::default(),
            network: Network::Open,
            user_data: told.map(|text| Secret::new(text.to_owned())),
        }
    }

    fn disk(user_data: UserDataDelivery) -> Boot {
        Boot::Disk { path: "/disk".into(), format: DiskFormat::Raw, user_data }
    }

    fn kernel() -> Boot {
        let (kernel, initrd) = ("/kernel".into(), "/initrd".into());
        Boot::Kernel { kernel, initrd, command_line: String::new() }
    }

    /// A file of the seed disk that `files` and `spec` make.
    fn on_the_seed(files: &ProfileFiles, spec: &InstanceSpec, file: &str) -> Option<Vec<u8>> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("seed.img");
        fs::write(&path, files.seed(spec).unwrap()?).unwrap();
        let output =
            Command::new("mtype").arg("-i").arg(&path).arg(format!("::{file}")).output().unwrap();
        output.status.success().then_some(output.stdout)
    }

    fn has_mtools() -> bool {
        let there = Command::new("mtype").arg("--version").output().is_ok();
        if !there {
            println!("skipped: mtools is missing");
        }
        there
    }

    fn profile(files: &[(&str, &str)]) -> Result<ProfileFiles> {
        let directory = tempfile::tempdir().unwrap();
        let profile = directory.path().join("linux");
        fs::create_dir(&profile).unwrap();
        for (name, content) in files {
            fs::write(profile.join(name), content).unwrap();
        }
        ProfileFiles::read(directory.path(), &ProfileName::new("linux").unwrap())
    }

    #[test]
    fn without_files_the_seed_is_what_the_image_asks_for() {
        let files = profile(&[]).unwrap();
        assert!(files.seed(&spec(kernel(), Some("told"))).unwrap().is_none());
        assert!(files.seed(&spec(disk(UserDataDelivery::None), None)).unwrap().is_none());
        if !has_mtools() {
            return;
        }
        let spec = spec(disk(UserDataDelivery::NoCloud), Some("told"));
        assert_eq!(on_the_seed(&files, &spec, "user-data").unwrap(), b"told");
        assert!(on_the_seed(&files, &spec, RUNNER_DATA).is_none());
    }

    #[test]
    fn what_an_instance_is_told_lies_beside_the_operators_user_data() {
        let script = "#!/bin/sh\necho $1 {{not}} <a> template\n";
        let files = profile(&[
            ("user-data", "#cloud-config\nrunner: told\n"),
            ("meta-data", "instance-id: one-for-all\npublic-keys:\n  - a\n"),
            ("boot-script", script),
        ])
        .unwrap();
        if !has_mtools() {
            return;
        }
        let spec = spec(disk(UserDataDelivery::None), Some("told"));
        let read = |file| String::from_utf8(on_the_seed(&files, &spec, file).unwrap()).unwrap();
        assert_eq!(read("user-data"), "#cloud-config\nrunner: told\n");
        assert_eq!(read(RUNNER_DATA), "told");
        assert_eq!(read(BOOT_SCRIPT), script);
        assert_eq!(
            read("meta-data"),
            "instance-id: \"linux-17\"\nlocal-hostname: \"linux-17\"\npublic-keys:\n  - a\n"
        );
    }

    #[test]
    fn a_kernel_is_told_elsewhere() {
        let files = profile(&[("boot-script", "x")]).unwrap();
        if !has_mtools() {
            return;
        }
        let spec = spec(kernel(), Some("told"));
        assert_eq!(on_the_seed(&files, &spec, BOOT_SCRIPT).unwrap(), b"x");
        assert_eq!(on_the_seed(&files, &spec, "user-data").unwrap(), b"");
        assert!(on_the_seed(&files, &spec, RUNNER_DATA).is_none());
    }

    #[test]
    fn meta_data_keeps_what_is_not_about_the_instance() {
        for (theirs, ours) in [
            ("", ""),
            ("---\n# a comment\na: b\n", "# a comment\na: b\n"),
            ("\"instance-id\": x\na: b\n", "a: b\n"),
            ("a: b\r\nlocal-hostname:\r\n  long\r\n  name\r\nc: d\r\n", "a: b\nc: d\n"),
            (
                "network-interfaces: |\n  instance-id: x\n",
                "network-interfaces: |\n  instance-id: x\n",
            ),
            ("instance-id-of: x\n", "instance-id-of: x\n"),
        ] {
            let own = own_meta_data(theirs, "n-1").unwrap();
            assert_eq!(own, format!("instance-id: \"n-1\"\nlocal-hostname: \"n-1\"\n{ours}"));
        }
        let json = own_meta_data(" {\"instance-id\": 1, \"a\": [1]}", "n-1").unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let expected =
            serde_json::json!({ "instance-id": "n-1", "local-hostname": "n-1", "a": [1] });
        assert_eq!(json, expected);
    }

    #[test]
    fn what_cannot_be_used_is_told_with_file_and_line() {
        let error = profile(&[("meta-data", "a: b\nwhat is this\n")]).unwrap_err().to_string();
        assert!(error.contains("/linux/meta-data is not valid: line 2: "), "{error}");
        let error = profile(&[("meta-data", "{ a: b }")]).unwrap_err().to_string();
        assert!(error.contains("/linux/meta-data is not valid: it begins like JSON"), "{error}");
        let error = profile(&[("guest.xml", "<domain>\n</a>")]).unwrap_err().to_string();
        assert!(error.contains("/linux/guest.xml is not valid: line 2: "), "{error}");
        let large = "x".repeat(seed::MAX_USER_DATA_BYTES + 1);
        let error = profile(&[("user-data", &large)]).unwrap_err().to_string();
        assert!(error.contains("/linux/user-data is not valid: it has more than"), "{error}");
    }

    #[test]
    fn files_may_be_links_and_a_link_to_nothing_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let (base, linux) = (directory.path().join("base"), directory.path().join("linux"));
        fs::create_dir(&base).unwrap();
        fs::create_dir(&linux).unwrap();
        fs::write(base.join("user-data"), "shared").unwrap();
        symlink("../base/user-data", linux.join("user-data")).unwrap();
        let name = ProfileName::new("linux").unwrap();
        let files = ProfileFiles::read(directory.path(), &name).unwrap();
        assert_eq!(files.user_data.as_deref(), Some("shared"));
        symlink("../base/boot-script", linux.join("boot-script")).unwrap();
        let error = ProfileFiles::read(directory.path(), &name).unwrap_err();
        assert!(error.to_string().contains("/linux/boot-script is not valid"), "{error}");
    }
}
