//! The configuration is followed while the service runs: good edits are taken, bad ones are told.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use serde_json::Value;

mod process;

use process::{Process, dir, eventually, get, serve};

const PROFILE: &str = r#"
[[profile]]
name = "disk"
image = { kind = "disk", path = "/no/such/disk.qcow2", sha256 = "SHA" }
memory = "256MiB"
"#;

struct Edited {
    process: Process,
    file: PathBuf,
}

impl Edited {
    fn start(dir: &Path) -> Self {
        let process = Process::start(serve(dir, &[]));
        Self { process, file: dir.join("monitor.toml") }
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.file).unwrap()
    }

    /// The text with more for its profile.
    fn with(&self, more: &str) -> String {
        self.text() + more + "\n"
    }

    fn get(&self, path: &str) -> Value {
        get(&self.process.url, path)
    }

    fn max(&self, profile: &str) -> Option<u64> {
        let profiles = self.get("/api/v2/profiles");
        let profiles = profiles.as_array().unwrap();
        let found = profiles.iter().find(|found| found["name"] == profile);
        found.and_then(|found| found["max"].as_u64().or(found["counts"]["max"].as_u64()))
    }

    fn waits_for_max(&self, max: u64) {
        eventually(&format!("max is {max}"), || (self.max("disk") == Some(max)).then_some(()));
    }

    fn waits_for_event(&self, parts: &[&str]) -> String {
        eventually(&format!("an event with {parts:?}"), || {
            let page = self.get("/api/v2/events?after=0&limit=1000");
            let events = page["events"].as_array().unwrap().iter();
            let texts = events.map(|event| event["text"].as_str().unwrap().to_owned());
            texts.into_iter().find(|text| parts.iter().all(|part| text.contains(part)))
        })
    }

    fn warnings(&self) -> String {
        self.get("/readyz")["warnings"].to_string()
    }
}

#[test]
fn whatever_way_an_editor_saves_the_edit_is_taken() {
    let dir = dir();
    let edited = Edited::start(dir.path());
    let text = edited.text();
    let with = |max: u32| format!("{text}max = {max}\n");
    let beside = dir.path().join("monitor.toml~");

    // As with `echo >`: cut off and written.
    fs::write(&edited.file, with(3)).unwrap();
    edited.waits_for_max(3);
    edited.waits_for_event(&["the configuration was taken", "profile disk: max 2 → 3"]);

    // As vim and most others: renamed over it.
    fs::write(&beside, with(4)).unwrap();
    fs::rename(&beside, &edited.file).unwrap();
    edited.waits_for_max(4);

    // As `sed -i` and emacs: away with the old one, then a new one.
    fs::rename(&edited.file, &beside).unwrap();
    fs::write(&edited.file, with(5)).unwrap();
    edited.waits_for_max(5);

    fs::remove_file(&beside).unwrap();
    // As Kubernetes and Nix: a link that leads elsewhere, over a link in its way.
    for (name, max) in [("one", 6), ("two", 7)] {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("monitor.toml"), with(max)).unwrap();
    }
    symlink("one", dir.path().join("now")).unwrap();
    symlink("now/monitor.toml", &beside).unwrap();
    fs::rename(&beside, &edited.file).unwrap();
    edited.waits_for_max(6);
    symlink("two", dir.path().join("next")).unwrap();
    fs::rename(dir.path().join("next"), dir.path().join("now")).unwrap();
    edited.waits_for_max(7);
    assert_eq!(edited.warnings(), "[]");
}

#[test]
fn profiles_come_and_go() {
    let dir = dir();
    let edited = Edited::start(dir.path());
    let text = edited.text();
    let more = PROFILE.replace("SHA", &"1".repeat(64)).replace("\"disk\"\n", "\"other\"\n");
    fs::write(&edited.file, format!("{text}{more}")).unwrap();
    edited.waits_for_event(&["profile other added"]);
    assert!(edited.max("other").is_some() && edited.max("disk").is_some());
    fs::write(&edited.file, &text).unwrap();
    edited.waits_for_event(&["profile other removed"]);
    assert!(edited.max("other").is_none());
}

#[test]
fn a_bad_edit_keeps_the_old_configuration_and_says_so_everywhere() {
    let dir = dir();
    let mut edited = Edited::start(dir.path());
    let good = edited.text();
    let bad = [
        ("max = \"many\"", "max", "invalid type"),
        ("start_timeout = \"0s\"", "start timeout", "above zero"),
        ("maxx = 3", "maxx", "unknown field"),
        ("min_idle = 0\nmax = 0", "max", "at least 1"),
    ];
    for (edit, key, problem) in bad {
        fs::write(&edited.file, edited.with(edit)).unwrap();
        let event = edited.waits_for_event(&["the configuration was refused", key, problem]);
        assert!(event.contains("monitor.toml:") && event.contains("stays"), "{event}");
        edited.process.hear("The configuration was refused");
        let warning = eventually("a warning", || {
            let warning = edited.warnings();
            warning.contains(key).then_some(warning)
        });
        assert!(warning.contains("was refused") && warning.contains("stays"), "{warning}");
        let status = edited.get("/api/v2/status")["warnings"].to_string();
        assert_eq!(status, edited.warnings());
        assert_eq!(edited.max("disk"), Some(2));
        fs::write(&edited.file, &good).unwrap();
        eventually("the warning is gone", || (edited.warnings() == "[]").then_some(()));
    }
    fs::remove_file(&edited.file).unwrap();
    edited.waits_for_event(&["the configuration was refused", "could not read", "monitor.toml"]);
    assert_eq!(edited.max("disk"), Some(2));
}

#[test]
fn a_key_that_needs_a_restart_is_named_and_its_value_is_not() {
    let dir = dir();
    let edited = Edited::start(dir.path());
    let good = edited.text();
    let text = good.replace("accel = \"tcg\"", "accel = \"kvm\"");
    let text = text.replace("[http]", "[http]\nnames = [\"planted.example\"]") + "max = 3\n";
    fs::write(&edited.file, text).unwrap();
    let parts = ["profile disk: max 2 → 3; http.names, qemu.accel after a restart"];
    let event = edited.waits_for_event(&parts);
    assert!(!event.contains("planted.example"), "{event}");
    let says = ["restart the service to use the new http.names, qemu.accel"];
    eventually("it is said", || says.iter().all(|s| edited.warnings().contains(s)).then_some(()));
    // Taken back, there is nothing to restart for.
    fs::write(&edited.file, good).unwrap();
    eventually("the warning is gone", || (edited.warnings() == "[]").then_some(()));
}

#[test]
fn a_hangup_takes_the_file_as_it_is() {
    let dir = dir();
    let mut edited = Edited::start(dir.path());
    edited.process.signal("HUP");
    fs::write(&edited.file, edited.with("max = 9")).unwrap();
    edited.process.signal("HUP");
    edited.waits_for_max(9);
    fs::write(&edited.file, "[[profile]]\n").unwrap();
    edited.process.signal("HUP");
    edited.process.hear("The configuration was refused");
    edited.process.signal("TERM");
    let (code, heard) = edited.process.end();
    assert_eq!(code, Some(0), "{heard}");
}
