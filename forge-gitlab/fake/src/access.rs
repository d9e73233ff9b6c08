//! Who asks, and what they may.

use http::header::AUTHORIZATION;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    account::{Level, Place},
    exchange::{Refusal, Request},
    ids::{UserId, random_text},
    state::State,
};

/// What a personal access token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Everything.
    Api,
    /// To look at everything.
    ReadApi,
    /// To look at whom it belongs to.
    ReadUser,
    /// To create runners, and nothing else.
    CreateRunner,
    /// To look at runners, to change them and to delete them.
    ManageRunner,
}

impl Scope {
    /// As GitLab calls it, such as `create_runner`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::ReadApi => "read_api",
            Self::ReadUser => "read_user",
            Self::CreateRunner => "create_runner",
            Self::ManageRunner => "manage_runner",
        }
    }
}

/// A personal access token that was handed out.
#[derive(Debug, Clone)]
pub(crate) struct AccessToken {
    pub(crate) id: u64,
    pub(crate) user: UserId,
    pub(crate) scopes: Vec<Scope>,
    pub(crate) expires: Option<Timestamp>,
    pub(crate) revoked: bool,
}

impl AccessToken {
    pub(crate) fn is_good(&self, now: Timestamp) -> bool {
        !self.revoked && self.expires.is_none_or(|end| now < end)
    }

    pub(crate) fn json(&self, now: Timestamp) -> Value {
        let scopes: Vec<_> = self.scopes.iter().map(|scope| scope.name()).collect();
        json!({
            "id": self.id,
            "name": "token",
            "user_id": self.user,
            "scopes": scopes,
            "revoked": self.revoked,
            "active": self.is_good(now),
            "expires_at": self.expires.map(|end| end.strftime("%Y-%m-%d").to_string()),
        })
    }
}

impl State {
    /// Hands out a token.
    pub(crate) fn add_access_token(
        &mut self,
        user: UserId,
        scopes: &[Scope],
        expires: Option<Timestamp>,
    ) -> String {
        let secret = format!("glpat-{}", random_text(20));
        let id = self.next_id();
        let token = AccessToken { id, user, scopes: scopes.to_vec(), expires, revoked: false };
        self.access_tokens.insert(secret.clone(), token);
        secret
    }

    /// Whoever asks, by a token with any of these scopes. [`Scope::Api`] is among them, always.
    pub(crate) fn caller(&self, request: &Request, scopes: &[Scope]) -> Result<UserId, Refusal> {
        let token = self.access_token(request)?;
        let enough = |scope: &Scope| *scope == Scope::Api || scopes.contains(scope);
        if token.scopes.iter().any(enough) {
            return Ok(token.user);
        }
        let wanted: Vec<_> = [Scope::Api].iter().chain(scopes).map(|scope| scope.name()).collect();
        Err(Refusal::error(
            403,
            json!({
                "error": "insufficient_scope",
                "error_description":
                    "The request requires higher privileges than provided by the access token.",
                "scope": wanted.join(" "),
            }),
        ))
    }

    pub(crate) fn access_token(&self, request: &Request) -> Result<&AccessToken, Refusal> {
        let bearer = || {
            let value = request.header(AUTHORIZATION.as_str())?;
            value.strip_prefix("Bearer ").map(str::trim)
        };
        let secret = request
            .header("private-token")
            .or_else(bearer)
            .or_else(|| request.text("private_token"))
            .ok_or_else(Refusal::unauthorized)?;
        let token = self.access_tokens.get(secret);
        token.filter(|token| token.is_good(self.now())).ok_or_else(Refusal::unauthorized)
    }

    /// Refuses whoever may not do there what takes `level`. Whoever may not even look is told that there is
    /// nothing.
    pub(crate) fn must_be(&self, user: UserId, level: Level, place: Place) -> Result<(), Refusal> {
        match self.level(user, place) {
            Some(own) if own >= level => Ok(()),
            None if place != Place::Instance => Err(Refusal::not_found(match place {
                Place::Project(_) => "Project",
                _ => "Group",
            })),
            _ => Err(Refusal::forbidden()),
        }
    }

    pub(crate) fn is_admin(&self, user: UserId) -> bool {
        self.users.get(&user).is_some_and(|user| user.admin)
    }
}
