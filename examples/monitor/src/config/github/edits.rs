//! What an edit changes of GitHubs: what is taken on at once, and what waits for a restart. Never a value that is
//! nobody's business.

use super::{GithubConfig, GithubLogin, GithubProfile};
use crate::config::edits::{Edits, changed};

/// From these GitHubs to those.
pub(in crate::config) fn edits(old: &[GithubConfig], new: &[GithubConfig]) -> Edits {
    Edits::of("github", (old, new), |github| &github.name, between)
}

fn between(edits: &mut Edits, old: &GithubConfig, new: &GithubConfig) {
    let name = &new.name;
    let live = changed(&[
        ("deny", old.access.deny != new.access.deny),
        ("allow", old.access.allow != new.access.allow),
    ]);
    edits.live.extend(live.map(|live| format!("forge {name}: {live} changed")));
    let is_token = matches!(new.login, GithubLogin::Token(_));
    let (budget, pace) = ((old.budget, new.budget), (old.pace, new.pace));
    edits.wait(
        &format!("github.{name}"),
        &[
            ("url", old.url != new.url),
            ("token", is_token && old.login != new.login),
            ("app", !is_token && old.login != new.login),
            ("authorities", old.authorities != new.authorities),
            ("webhook", old.webhook != new.webhook),
            ("hook", old.hook != new.hook),
            ("repositories", old.repositories != new.repositories),
            ("points_per_minute", budget.0.points_per_minute != budget.1.points_per_minute),
            (
                "registrations_per_minute",
                budget.0.registrations_per_minute != budget.1.registrations_per_minute,
            ),
            ("calls_at_once", budget.0.calls_at_once != budget.1.calls_at_once),
            ("list_every", pace.0.list_every != pace.1.list_every),
            ("list_quietly_every", pace.0.list_quietly_every != pace.1.list_quietly_every),
            ("poll_every", pace.0.poll_every != pace.1.poll_every),
            ("sweep_every", pace.0.sweep_every != pace.1.sweep_every),
            ("job_deadline", pace.0.job_deadline != pace.1.job_deadline),
        ],
    );
    for (profile, now) in &new.profiles {
        let before = old.profiles.get(profile);
        edits.live.extend(
            before
                .into_iter()
                .flat_map(|before| of_profile(before, now))
                .map(|words| format!("profile {profile}: {words}")),
        );
    }
}

fn of_profile(old: &GithubProfile, new: &GithubProfile) -> Vec<String> {
    let mut words = Vec::new();
    if old.access != new.access {
        words.push("who may use it".to_owned());
    }
    if old.runner_version != new.runner_version {
        let shown = |version: &Option<String>| version.clone().unwrap_or("none".to_owned());
        let (before, now) = (shown(&old.runner_version), shown(&new.runner_version));
        words.push(format!("runner_version {before} → {now}"));
    }
    words
}
