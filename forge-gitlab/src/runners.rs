//! Keeps the profiles' runners at GitLab as they should be: created, verified, corrected, removed.
//!
//! What must not happen is that a runner is made again and again, or that one which jobs wait for is taken
//! away, because GitLab was out of reach or said something odd. So only two answers have consequences: that
//! a token is *not known* (403 to a verification), upon which the runner is created anew where the
//! configuration says, which is how operators move runners; and a runner that differs from what it should
//! be, which is corrected. Every other failure leaves all as it is until the next time.
//!
//! Source: `POST /user/runners`, `/runners/verify`, `/runners/:id` in GitLab's `lib/api`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use reqwest::Method;
use runner_core::{ProfileName, Result, Secret, error::chain};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use crate::{
    admin::{self, Admin},
    client::{send, send_once},
    config::{GitlabConfig, Place, ProfileConfig},
    error::refused,
    files,
    forge::{Health, Inner},
    terms::Terms,
};

/// How long before its end a token is renewed.
const RENEW: SignedDuration = SignedDuration::from_hours(1);

/// A runner of ours at GitLab, as it is kept.
#[derive(Clone, Serialize, Deserialize)]
struct Kept {
    id: u64,
    token: String,
    place: Place,
    #[serde(default)]
    expires_at: Option<Timestamp>,
}

impl Kept {
    fn expires_soon(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at.duration_since(now) < RENEW)
    }
}

/// The tokens with which jobs are asked for.
pub(crate) struct Tokens {
    by_profile: Mutex<BTreeMap<ProfileName, watch::Sender<Option<Secret<String>>>>>,
    doubt: Notify,
}

impl Tokens {
    /// Those that were named, and those that a predecessor was given.
    pub(crate) fn load(config: &GitlabConfig) -> Result<Self> {
        let tokens = Self { by_profile: Mutex::default(), doubt: Notify::new() };
        tokens.take_named(config, &config.profiles)?;
        Ok(tokens)
    }

    fn of(&self, profile: &ProfileName) -> watch::Sender<Option<Secret<String>>> {
        let mut all = self.by_profile.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(profile.clone()).or_insert_with(|| watch::channel(None).0).clone()
    }

    /// A profile's token; waits until there is one.
    pub(crate) async fn token(&self, profile: &ProfileName) -> Secret<String> {
        let mut tokens = self.of(profile).subscribe();
        loop {
            let token = tokens.borrow_and_update().clone();
            if let Some(token) = token {
                return token;
            }
            // Its sender lives as long as this.
            let _ = tokens.changed().await;
        }
    }

    /// GitLab does not know a profile's token: verify it soon.
    pub(crate) fn doubt(&self, _profile: &ProfileName) {
        self.look_again();
    }

    /// Looks after all runners soon.
    pub(crate) fn look_again(&self) {
        self.doubt.notify_one();
    }

    /// Takes on the tokens that profiles name now, or do not name any more.
    pub(crate) fn take_named(
        &self,
        config: &GitlabConfig,
        profiles: &[ProfileConfig],
    ) -> Result<()> {
        for profile in profiles {
            let token = kept_token(config, profile)?.map(|(_, token)| token.expose().clone());
            self.set(&profile.profile, token);
        }
        Ok(())
    }

    fn set(&self, profile: &ProfileName, token: Option<String>) {
        self.of(profile).send_if_modified(|now| {
            let changes = now.as_ref().map(Secret::expose) != token.as_ref();
            *now = token.map(Secret::new);
            changes
        });
    }
}

fn path(config: &GitlabConfig, profile: &ProfileName) -> std::path::PathBuf {
    config.state_dir.join("tokens").join(profile.as_str())
}

/// A profile's token as it was named or is kept, with the runner's number where that is known.
pub(crate) fn kept_token(
    config: &GitlabConfig,
    profile: &ProfileConfig,
) -> Result<Option<(Option<u64>, Secret<String>)>> {
    if let Some(token) = &profile.token {
        return Ok(Some((None, token.clone())));
    }
    let kept: Option<Kept> = files::read_json(&path(config, &profile.profile))?;
    Ok(kept.map(|kept| (Some(kept.id), Secret::new(kept.token))))
}

/// Looks after the runners for the life of the forge.
pub(crate) async fn administer(inner: Arc<Inner>) {
    loop {
        let terms = inner.terms();
        if let Some(administration) = &terms.administration {
            let admin = Admin::new(inner.client.clone(), administration.clone());
            let keeper = Keeper { inner: &inner, terms: &terms, admin: &admin };
            keeper.look_at_all().await;
        }
        // What was looked after on other terms may have put a token in the place of one that is named.
        if let Err(error) = inner.tokens.take_named(&inner.config, &inner.terms().profiles) {
            tracing::error!(error = chain(&error), "A token that is kept cannot be read.");
        }
        tokio::select! {
            () = tokio::time::sleep(inner.config.limits.verify_interval) => (),
            () = inner.tokens.doubt.notified() => (),
        }
    }
}

struct Keeper<'a> {
    inner: &'a Inner,
    terms: &'a Terms,
    admin: &'a Admin,
}

/// What GitLab says of a token.
enum Verified {
    Yes,
    /// It is not known.
    No,
}

impl Keeper<'_> {
    async fn look_at_all(&self) {
        let config = &self.inner.config;
        let profiles = self.terms.profiles.iter();
        for profile in profiles.filter(|profile| profile.token.is_none()) {
            let wanted = profile.exposed && self.admin.exposes();
            let outcome = match wanted {
                true => self.keep(profile).await,
                false => self.retire(&profile.profile).await,
            };
            if let Err(error) = outcome {
                let why = chain(&error);
                tracing::warn!(profile = %profile.profile, why, "A runner at GitLab could not be looked after.");
                if wanted {
                    self.inner.set_health(&profile.profile, Health::Troubled(why));
                }
            }
        }
        // Profiles that are not in the configuration any more.
        let kept = files::names(&config.state_dir.join("tokens")).unwrap_or_default();
        for name in kept.iter().filter_map(|name| ProfileName::new(name).ok()) {
            if self.terms.profile(&name).is_none_or(|profile| profile.token.is_some())
                && let Err(error) = self.retire(&name).await
            {
                tracing::warn!(profile = %name, why = chain(&error), "A runner could not be removed.");
            }
        }
    }

    /// Sees to it that a profile's runner is there and as it should be.
    async fn keep(&self, profile: &ProfileConfig) -> Result<()> {
        let path = path(&self.inner.config, &profile.profile);
        let kept: Option<Kept> = files::read_json(&path)?;
        let kept = match kept {
            Some(kept) if kept.place != self.admin.place() => {
                tracing::info!(profile = %profile.profile, runner = kept.id, "The runner moves.");
                self.tell(&profile.profile, kept.id, "moves to another place");
                self.retire(&profile.profile).await?;
                None
            }
            Some(kept) => match self.verify(&kept).await? {
                Verified::Yes if kept.expires_soon(self.inner.clock.now()) => {
                    Some(self.renew(profile, kept).await?)
                }
                Verified::Yes => Some(kept),
                Verified::No => {
                    let runner = kept.id;
                    tracing::info!(profile = %profile.profile, runner, "The runner was deleted at GitLab: creating it anew.");
                    self.tell(&profile.profile, runner, "was deleted at GitLab; another is made");
                    files::remove(&path)?;
                    self.inner.tokens.set(&profile.profile, None);
                    None
                }
            },
            None => None,
        };
        match kept {
            None => self.create(profile).await,
            Some(kept) => self.correct(profile, &kept).await,
        }
    }

    async fn verify(&self, kept: &Kept) -> Result<Verified> {
        let doing = "verify a runner";
        let request = self.inner.client.request(Method::POST, "runners/verify");
        let body = json!({ "token": kept.token, "system_id": self.inner.system_id });
        let reply = send(doing, request.json(&body)).await?;
        match reply.status.as_u16() {
            200 => Ok(Verified::Yes),
            403 => Ok(Verified::No),
            _ => Err(refused(doing, &reply)),
        }
    }

    /// Changes a token for another before it expires.
    async fn renew(&self, profile: &ProfileConfig, kept: Kept) -> Result<Kept> {
        let doing = "renew a runner's token";
        let request = self.inner.client.request(Method::POST, "runners/reset_authentication_token");
        let reply = send_once(doing, request.json(&json!({ "token": kept.token }))).await?;
        if reply.status.as_u16() != 201 {
            return Err(refused(doing, &reply));
        }
        #[derive(Deserialize)]
        struct Renewed {
            token: String,
            #[serde(default)]
            token_expires_at: Option<Timestamp>,
        }
        let renewed: Renewed = reply.json(doing)?;
        let kept = Kept { token: renewed.token, expires_at: renewed.token_expires_at, ..kept };
        files::write_json(&path(&self.inner.config, &profile.profile), &kept)?;
        tracing::info!(profile = %profile.profile, runner = kept.id, "Renewed a runner's token.");
        self.inner.tokens.set(&profile.profile, Some(kept.token.clone()));
        Ok(kept)
    }

    async fn create(&self, profile: &ProfileConfig) -> Result<()> {
        self.remove_forgotten(profile).await?;
        let wanted = admin::wanted(profile, &profile.description);
        let made = self.admin.create(wanted, &self.mark(&profile.profile)).await?;
        let place = self.admin.place();
        let kept =
            Kept { id: made.id, token: made.token, place, expires_at: made.token_expires_at };
        files::write_json(&path(&self.inner.config, &profile.profile), &kept)?;
        tracing::info!(profile = %profile.profile, runner = kept.id, "Created a runner at GitLab.");
        self.tell(&profile.profile, kept.id, "was created");
        self.inner.tokens.set(&profile.profile, Some(kept.token));
        Ok(())
    }

    /// A runner that a predecessor created and whose token it did not live to write down.
    async fn remove_forgotten(&self, profile: &ProfileConfig) -> Result<()> {
        for runner in self.admin.runners().await? {
            let Some(id) = runner["id"].as_u64() else { continue };
            if runner["description"] != profile.description.as_str() {
                continue;
            }
            let Some(details) = self.admin.runner(id).await? else { continue };
            if details["maintenance_note"] == self.mark(&profile.profile).as_str() {
                tracing::info!(profile = %profile.profile, runner = id, "Removing a runner whose token is lost.");
                self.admin.delete(id).await?;
            }
        }
        Ok(())
    }

    /// Corrects what somebody changed at GitLab, or in the configuration.
    async fn correct(&self, profile: &ProfileConfig, kept: &Kept) -> Result<()> {
        // That it is gone will be seen when it is verified.
        let Some(found) = self.admin.runner(kept.id).await? else { return Ok(()) };
        let drift = drift(&found, &admin::wanted(profile, &profile.description));
        let Some(fields) = drift.as_object().filter(|fields| !fields.is_empty()) else {
            return Ok(());
        };
        let fields: Vec<&str> = fields.keys().map(String::as_str).collect();
        tracing::info!(profile = %profile.profile, runner = kept.id, ?fields, "Correcting a runner at GitLab.");
        self.admin.change(kept.id, &drift).await?;
        let done = format!("differed and was corrected: {}", fields.join(", "));
        self.tell(&profile.profile, kept.id, &done);
        Ok(())
    }

    /// Tells ours from those of others who share a GitLab.
    fn mark(&self, profile: &ProfileName) -> String {
        format!("owner={} profile={profile}", self.inner.config.owner)
    }

    /// Removes a profile's runner at GitLab, and then here. Fine if there is none.
    async fn retire(&self, profile: &ProfileName) -> Result<()> {
        let path = path(&self.inner.config, profile);
        let kept: Option<Kept> = files::read_json(&path)?;
        if let Some(kept) = kept {
            let doing = "remove a runner";
            let request = self.inner.client.request(Method::DELETE, "runners");
            let reply = send(doing, request.json(&json!({ "token": kept.token }))).await?;
            // That the token is not known says that the runner is gone.
            if !matches!(reply.status.as_u16(), 204 | 403 | 404) {
                return Err(refused(doing, &reply));
            }
            tracing::info!(%profile, runner = kept.id, "Removed a runner at GitLab.");
            self.tell(profile, kept.id, "was removed");
        }
        files::remove(&path)?;
        // One that was named instead stays.
        if self.terms.profile(profile).is_none_or(|profile| profile.token.is_none()) {
            self.inner.tokens.set(profile, None);
        }
        Ok(())
    }

    fn tell(&self, profile: &ProfileName, runner: u64, what: &str) {
        self.inner.news.tell(format!("runner {runner} of profile {profile} {what}"));
    }
}

/// The fields of `wanted` that are different in `found`. A field that the server does not tell is no drift.
fn drift(found: &Value, wanted: &Value) -> Value {
    let mut drift = json!({});
    for (field, value) in wanted.as_object().into_iter().flatten() {
        let same = match (field.as_str(), found.get(field)) {
            (_, None) => true,
            ("tag_list", Some(found)) => words(found) == words(value),
            (_, Some(found)) => found == value,
        };
        if !same {
            drift[field] = value.clone();
        }
    }
    drift
}

/// Order and repetition of tags mean nothing.
fn words(list: &Value) -> BTreeSet<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_is_what_differs_and_nothing_else() {
        let wanted = json!({"description": "d", "tag_list": ["a", "b"], "maximum_timeout": 600});
        for (found, expected) in [
            (
                json!({"description": "d", "tag_list": ["b", "a"], "maximum_timeout": 600, "paused": false, "id": 1}),
                json!({}),
            ),
            (
                json!({"description": "x", "tag_list": ["a"], "maximum_timeout": null, "paused": true}),
                wanted.clone(),
            ),
            (json!({"description": "d"}), json!({})),
            (json!({"tag_list": []}), json!({"tag_list": ["a", "b"]})),
        ] {
            assert_eq!(drift(&found, &wanted), expected, "{found}");
        }
    }
}
