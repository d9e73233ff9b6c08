//! What an edit changes of GitLabs: what is taken on at once, and what waits for a restart. Never a value.

use super::{GitlabConfig, GitlabProfile};

/// What an edit changes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::config) struct Edits {
    /// In words. Taken on at once.
    pub live: Vec<String>,
    /// The keys that wait for a restart.
    pub restart: Vec<String>,
}

/// From these GitLabs to those.
pub(in crate::config) fn edits(old: &[GitlabConfig], new: &[GitlabConfig]) -> Edits {
    let mut edits = Edits::default();
    for section in new {
        let name = &section.name;
        match old.iter().find(|before| before.name == *name) {
            Some(before) => edits.between(before, section),
            None => edits.restart.push(format!("gitlab.{name}")),
        }
    }
    let gone = old.iter().filter(|before| !new.iter().any(|now| now.name == before.name));
    edits.restart.extend(gone.map(|before| format!("gitlab.{}", before.name)));
    edits
}

impl Edits {
    fn between(&mut self, old: &GitlabConfig, new: &GitlabConfig) {
        let name = &new.name;
        if old.run_single || new.run_single {
            if old != new {
                self.restart.push(format!("gitlab.{name}"));
            }
            return;
        }
        let live = changed(&[
            ("administration", old.administration != new.administration),
            ("deny", old.access.deny != new.access.deny),
            ("allow", old.access.allow != new.access.allow),
            ("images", old.images != new.images),
        ]);
        if let Some(live) = live {
            self.live.push(format!("forge {name}: {live} changed"));
        }
        let (before, now) = (&old.limits, &new.limits);
        let keys = [
            ("url", old.url != new.url),
            ("allow_http", old.allow_http != new.allow_http),
            ("authorities", old.authorities != new.authorities),
            ("trace_limit", before.trace_bytes != now.trace_bytes),
            ("artifact_limit", before.artifact_bytes != now.artifact_bytes),
            ("cache_limit", before.cache_bytes != now.cache_bytes),
            ("jobs_ahead", before.jobs_ahead != now.jobs_ahead),
            ("job_wait", before.job_wait != now.job_wait),
            ("kill_grace", before.kill_grace != now.kill_grace),
            ("check_every", before.check_every != now.check_every),
            ("verify_every", before.verify_every != now.verify_every),
            ("keep_alive", before.keep_alive != now.keep_alive),
            ("builds_dir", old.builds_dir != new.builds_dir),
        ];
        let keys = keys.into_iter().filter(|(_, is_changed)| *is_changed);
        self.restart.extend(keys.map(|(key, _)| format!("gitlab.{name}.{key}")));
        for (profile, now) in &new.profiles {
            let before = old.profiles.get(profile);
            if let Some(words) = before.and_then(|before| of_profile(before, now)) {
                self.live.push(format!("profile {profile}: {words} changed"));
            }
        }
    }
}

fn of_profile(old: &GitlabProfile, new: &GitlabProfile) -> Option<String> {
    changed(&[
        ("deny", old.access.deny != new.access.deny),
        ("allow", old.access.allow != new.access.allow),
        ("exposed", old.exposed != new.exposed),
        ("runner_token", old.token != new.token),
        ("tags", old.tags != new.tags),
        ("description", old.description != new.description),
        ("run_untagged", old.run_untagged != new.run_untagged),
        ("protected_only", old.protected_only != new.protected_only),
        ("maximum_timeout", old.maximum_timeout != new.maximum_timeout),
        ("gateway", old.gateway != new.gateway),
    ])
}

fn changed(all: &[(&str, bool)]) -> Option<String> {
    let words: Vec<&str> = all.iter().filter(|(_, is)| *is).map(|(word, _)| *word).collect();
    (!words.is_empty()).then(|| words.join(", "))
}
