//! What an edit of a configuration changes, in words: what is applied at once, and what waits for a restart.

use std::{collections::BTreeMap, fmt, time::Duration};

use runner_core::{Profile, ProfileName, image::RecipeKind};
use toml::{Table, Value};

use super::{Config, GithubConfig, GithubProfile, PeerConfig, github, gitlab, local_forge};

/// What an edit changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Of the profiles, of who may use them and of whom else is asked for workers, in words. Applied at once.
    pub profiles: Vec<String>,
    /// The keys of the rest, such as `http.listen`. They wait for a restart. Never their values: some are
    /// nobody's business.
    pub restart: Vec<String>,
}

impl Changes {
    /// From a configuration and its text to another.
    pub fn between(old: (&Config, &str), new: (&Config, &str)) -> Self {
        let gitlabs = gitlab::edits(&old.0.gitlabs, &new.0.gitlabs);
        let mut profiles = profiles(&old.0.profiles, &new.0.profiles);
        let githubs = github::edits(&old.0.githubs, &new.0.githubs);
        let mut restart = keys(&table(old.1), &table(new.1));
        for forges in [gitlabs, githubs] {
            profiles.extend(forges.live);
            restart.extend(forges.restart);
        }
        if let (Some(before), Some(now)) = (&old.0.servo, &new.0.servo) {
            profiles.extend(servers(&before.servers, &now.servers));
            restart.retain(|key| key != "servo.queue.servers");
        }
        Self { profiles, restart }
    }

    /// Whether nothing changes but comments and order.
    pub fn is_empty(&self) -> bool {
        self.profiles.is_empty() && self.restart.is_empty()
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing changes");
        }
        f.write_str(&self.profiles.join("; "))?;
        if !self.restart.is_empty() {
            let sep = if self.profiles.is_empty() { "" } else { "; " };
            write!(f, "{sep}{} after a restart", self.restart.join(", "))?;
        }
        Ok(())
    }
}

impl Config {
    /// Holds back what a service that was started with `started` cannot take: a forge elsewhere was told of its
    /// profiles at the start. Gives what waits for a restart.
    pub fn hold_back(&mut self, started: &Self) -> Vec<String> {
        let mut waits = Vec::new();
        // Whom else to ask is taken from an edit by a service that has a queue from its start.
        if started.servo.is_none() {
            self.servo = None;
        }
        let githubs = &self.githubs;
        let unsettled = |name: &ProfileName| {
            of_github(githubs, name)
                .zip(of_github(&started.githubs, name))
                .map(|(now, before)| now.unsettled(before))
        };
        let is_gitlab = |profile: &Profile| {
            let mut all = started.gitlabs.iter().filter(|gitlab| !gitlab.run_single);
            all.any(|gitlab| gitlab.name == profile.forge)
        };
        let all = std::mem::take(&mut self.profiles);
        for mut profile in all {
            let before = started.profiles.iter().find(|before| before.name == profile.name);
            match before {
                _ if profile.forge == local_forge() => (),
                // A GitLab takes on all of a profile.
                None if is_gitlab(&profile) => (),
                Some(before) if before.forge == profile.forge && is_gitlab(&profile) => (),
                Some(before) if before.forge == profile.forge => {
                    if before.labels != profile.labels {
                        waits.push(format!("profile.{}.labels", profile.name));
                        profile.labels.clone_from(&before.labels);
                    }
                    let keys = unsettled(&profile.name).unwrap_or_default();
                    waits.extend(keys.iter().map(|key| format!("profile.{}.{key}", profile.name)));
                }
                other => {
                    waits.push(format!("profile.{}", profile.name));
                    match other {
                        Some(before) => profile = before.clone(),
                        None => continue,
                    }
                }
            }
            self.profiles.push(profile);
        }
        waits
    }
}

fn of_github<'a>(all: &'a [GithubConfig], profile: &ProfileName) -> Option<&'a GithubProfile> {
    all.iter().find_map(|github| github.profiles.get(profile))
}

fn profiles(old: &[Profile], new: &[Profile]) -> Vec<String> {
    let find = |all: &[Profile], name| all.iter().find(|profile| profile.name == name).cloned();
    let mut words = Vec::new();
    for profile in new {
        match find(old, profile.name.clone()) {
            None => words.push(format!("profile {} added", profile.name)),
            Some(before) if before == *profile => (),
            Some(before) => {
                let (before, after) = (facts(&before), facts(profile));
                let changed = before.iter().zip(&after).filter(|(old, new)| old != new);
                let changed = changed.map(|((key, old), (_, new))| format!("{key} {old} → {new}"));
                let changed: Vec<String> = changed.collect();
                let changed = match changed.as_slice() {
                    [] => "changed".to_owned(),
                    changed => changed.join(", "),
                };
                words.push(format!("profile {}: {changed}", profile.name));
            }
        }
    }
    let gone = old.iter().filter(|profile| find(new, profile.name.clone()).is_none());
    words.extend(gone.map(|profile| format!("profile {} removed", profile.name)));
    let order = |all: &[Profile], other: &[Profile]| -> Vec<_> {
        let names = all.iter().map(|profile| profile.name.clone());
        names.filter(|name| find(other, name.clone()).is_some()).collect()
    };
    if order(old, new) != order(new, old) {
        words.push("profiles in another order".to_owned());
    }
    words
}

/// What changes of the monitors that are asked for workers, too.
fn servers(old: &[PeerConfig], new: &[PeerConfig]) -> Option<String> {
    let find = |all: &[PeerConfig], name| all.iter().find(|peer| peer.name == name).cloned();
    let now = new.iter().filter_map(|peer| match find(old, peer.name.clone()) {
        None => Some(format!("{} added", peer.name)),
        Some(before) => (before != *peer).then(|| format!("{} changed", peer.name)),
    });
    let gone = old.iter().filter(|peer| find(new, peer.name.clone()).is_none());
    let words: Vec<String> = now.chain(gone.map(|peer| format!("{} removed", peer.name))).collect();
    (!words.is_empty()).then(|| format!("queue.servers: {}", words.join(", ")))
}

/// A profile as the file has it: keys and values, always the same ones.
fn facts(profile: &Profile) -> Vec<(&'static str, String)> {
    let labels: Vec<String> = profile.labels.iter().map(ToString::to_string).collect();
    let image = match &profile.recipe.kind {
        RecipeKind::Micro {} => "micro".to_owned(),
        RecipeKind::MicroWith { files, sha256 } => {
            let short: String = sha256.chars().take(12).collect();
            format!("micro with {} ({short}…)", files.display())
        }
        RecipeKind::Disk { path, sha256, user_data } => {
            let short: String = sha256.chars().take(12).collect();
            format!("disk {} ({short}…, {user_data:?})", path.display())
        }
        other => format!("{other:?}"),
    };
    let max_age = profile.image_max_age.map_or_else(|| "never".to_owned(), period);
    vec![
        ("forge", profile.forge.to_string()),
        ("labels", format!("[{}]", labels.join(", "))),
        ("image", image),
        ("vcpus", profile.resources.vcpus.to_string()),
        ("memory", format!("{}MiB", profile.resources.memory_mib)),
        ("huge_pages", format!("{}MiB", profile.resources.huge_memory_mib)),
        ("disk", format!("{}MiB", profile.resources.disk_mib)),
        ("min_idle", profile.min_idle.to_string()),
        ("max", profile.max.to_string()),
        ("network", format!("{:?}", profile.network).to_lowercase()),
        ("start_timeout", period(profile.timeouts.start)),
        ("offline_timeout", period(profile.timeouts.offline)),
        ("image_max_age", max_age),
        ("images_kept", profile.images_kept.to_string()),
    ]
}

fn period(time: Duration) -> String {
    format!("{} s", time.as_secs_f64())
}

/// Everything but the profiles and their forges elsewhere. A text that is no table has none; it was parsed before.
fn table(text: &str) -> BTreeMap<String, Value> {
    let table: Table = text.parse().unwrap_or_default();
    let mut found = BTreeMap::new();
    let plain = |key: &String| !["profile", "github", "gitlab"].contains(&key.as_str());
    for (key, value) in table.into_iter().filter(|(key, _)| plain(key)) {
        flatten(key, value, &mut found);
    }
    found
}

fn flatten(path: String, value: Value, found: &mut BTreeMap<String, Value>) {
    match value {
        Value::Table(table) => {
            for (key, value) in table {
                flatten(format!("{path}.{key}"), value, found);
            }
        }
        value => drop(found.insert(path, value)),
    }
}

fn keys(old: &BTreeMap<String, Value>, new: &BTreeMap<String, Value>) -> Vec<String> {
    let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
    keys.sort();
    keys.dedup();
    keys.into_iter().filter(|key| old.get(*key) != new.get(*key)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const OLD: &str = r#"
        [http]
        listen = "127.0.0.1:8000"
        [qemu]
        accel = "tcg"
        [[profile]]
        name = "linux"
        image = { kind = "micro" }
        memory = "256MiB"
        max = 4
        [[profile]]
        name = "mac"
        image = { kind = "micro" }
        memory = "1GiB"
    "#;

    fn says(new: &str) -> String {
        let parse = |text| Config::parse(Path::new("monitor.toml"), text).unwrap();
        Changes::between((&parse(OLD), OLD), (&parse(new), new)).to_string()
    }

    #[test]
    fn every_kind_of_change_has_its_words() {
        let edits = [
            ("max = 4", "max = 6", "profile linux: max 4 → 6"),
            (
                "max = 4",
                "max = 6\nmin_idle = 3\nlabels = [\"x\"]",
                "profile linux: labels [] → [x], min_idle 1 → 3, max 4 → 6",
            ),
            ("\"mac\"", "\"pc\"", "profile pc added; profile mac removed"),
            ("1GiB", "512MiB", "profile mac: memory 1024MiB → 512MiB"),
            (
                "max = 4",
                "image_max_age = \"1d\"\nmax = 4",
                "profile linux: image_max_age never → 86400 s",
            ),
            ("8000", "8001", "http.listen after a restart"),
            ("accel = \"tcg\"", "", "qemu.accel after a restart"),
            ("max = 4", "max = 5\n# a comment", "profile linux: max 4 → 5"),
            ("[http]", "# a comment\n[http]", "nothing changes"),
            ("1GiB", "1024MiB", "nothing changes"),
        ];
        for (from, to, expected) in edits {
            assert_eq!(says(&OLD.replacen(from, to, 1)), expected);
        }
        let both = OLD.replace("max = 4", "max = 6").replace("8000", "1").replace("tcg", "auto");
        let expected = "profile linux: max 4 → 6; http.listen, qemu.accel after a restart";
        assert_eq!(says(&both), expected);
        let forge = OLD.replacen(
            "[[profile]]",
            "[guests]\nlisten = \"127.0.0.1:8001\"\n[[github]]\nname = \"hub\"\n\
             url = \"https://github.com/acme\"\ntoken = { file = \"t\" }\nrepositories = [\"acme/a\"]\n\
             deny = { users = [\"eve\"] }\n[[profile]]\nforge = \"hub\"",
            1,
        );
        let edits = [
            ("\"eve\"", "\"mallory\"", "forge hub: deny changed"),
            (
                "deny = ",
                "points_per_minute = 90\nallow = { users = [\"ada\"] }\ndeny = ",
                "forge hub: allow changed; github.hub.points_per_minute after a restart",
            ),
            ("\"acme/a\"", "\"acme/b\"", "github.hub.repositories after a restart"),
            ("\"t\"", "\"u\"", "github.hub.token after a restart"),
            ("max = 4", "max = 4\ndeny = { users = [\"eve\"] }", "profile linux: who may use it"),
        ];
        for (from, to, expected) in edits {
            let parse = |text| Config::parse(Path::new("monitor.toml"), text).unwrap();
            let edited = forge.replacen(from, to, 1);
            let changes = Changes::between((&parse(&forge), &forge), (&parse(&edited), &edited));
            assert_eq!(changes.to_string(), expected);
        }
        let servo = format!(
            "{OLD}\n[servo]\nqueue_timeout = \"1m\"\nqueue.servers = [\
             {{ url = \"https://ci1.example.org\", token = {{ file = \"t\" }} }}, \
             {{ url = \"https://ci2.example.org\", token = {{ file = \"t\" }} }}]\n"
        );
        let edits = [
            ("ci2", "ci3", "queue.servers: ci3.example.org added, ci2.example.org removed"),
            ("\"t\" } }]", "\"u\" } }]", "queue.servers: ci2.example.org changed"),
            (
                "1m\"\nqueue.servers",
                "2m\"\nqueue.hold = \"9s\"\nqueue.servers",
                "servo.queue.hold, servo.queue_timeout after a restart",
            ),
        ];
        for (from, to, expected) in edits {
            let parse = |text| Config::parse(Path::new("monitor.toml"), text).unwrap();
            let edited = servo.replacen(from, to, 1);
            let changes = Changes::between((&parse(&servo), &servo), (&parse(&edited), &edited));
            assert_eq!(changes.to_string(), expected);
        }
        let swapped = OLD.replace("linux", "x").replace("mac", "linux").replace("\"x\"", "\"mac\"");
        assert!(says(&swapped).ends_with("profiles in another order"), "{}", says(&swapped));
    }
}
