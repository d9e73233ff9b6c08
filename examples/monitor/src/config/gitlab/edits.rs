//! What an edit changes of GitLabs: what is taken on at once, and what waits for a restart. Never a value.

use super::{GitlabConfig, GitlabProfile};
use crate::config::edits::{Edits, changed};

/// From these GitLabs to those.
pub(in crate::config) fn edits(old: &[GitlabConfig], new: &[GitlabConfig]) -> Edits {
    Edits::of("gitlab", (old, new), |gitlab| &gitlab.name, between)
}

fn between(edits: &mut Edits, old: &GitlabConfig, new: &GitlabConfig) {
    let name = &new.name;
    if old.run_single || new.run_single {
        if old != new {
            edits.restart.push(format!("gitlab.{name}"));
        }
        return;
    }
    let live = changed(&[
        ("administration", old.administration != new.administration),
        ("deny", old.access.deny != new.access.deny),
        ("allow", old.access.allow != new.access.allow),
        ("images", old.images != new.images),
    ]);
    edits.live.extend(live.map(|live| format!("forge {name}: {live} changed")));
    let (before, now) = (&old.limits, &new.limits);
    edits.wait(
        &format!("gitlab.{name}"),
        &[
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
        ],
    );
    for (profile, now) in &new.profiles {
        let before = old.profiles.get(profile);
        if let Some(words) = before.and_then(|before| of_profile(before, now)) {
            edits.live.push(format!("profile {profile}: {words} changed"));
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
