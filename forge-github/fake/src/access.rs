//! Who asks, and what they may.

use std::collections::BTreeMap;

use http::{Method, header::AUTHORIZATION};
use jiff::Timestamp;

use crate::{
    app::verify,
    exchange::{Refusal, Request},
    ids::random_text,
    scope::Scope,
    state::State,
};

/// How far a permission goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// To look.
    Read,
    /// To look and to change.
    Write,
}

/// Permissions by GitHub's names for them, such as `organization_self_hosted_runners`.
pub type Permissions = BTreeMap<String, Level>;

impl Level {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// Whoever sent a request.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    Anonymous,
    Classic { login: String, scopes: Vec<String> },
    FineGrained(Grant),
    App(i64),
    Installation { id: i64, grant: Grant },
}

/// What a token opens: some of an account's repositories, or all.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    /// The organisation or user.
    pub(crate) account: String,
    pub(crate) permissions: Permissions,
    /// `None` for all of the account's.
    pub(crate) repositories: Option<Vec<i64>>,
}

/// A token that was handed out.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub(crate) caller: Caller,
    pub(crate) expires: Option<Timestamp>,
}

/// What an operation asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Need {
    Nothing,
    Token,
    App,
    Installation,
    /// A classic token that manages an enterprise's runners. Apps and fine-grained tokens never do.
    Enterprise,
    Permission {
        name: &'static str,
        level: Level,
        scopes: &'static [&'static str],
    },
}

impl Caller {
    /// Whose quota a request is charged to.
    pub(crate) fn quota(&self) -> String {
        match self {
            Self::Anonymous => "anonymous".to_owned(),
            Self::Classic { login, .. } => format!("user {login}"),
            Self::FineGrained(grant) => format!("user {}", grant.account),
            Self::App(id) => format!("app {id}"),
            Self::Installation { id, .. } => format!("installation {id}"),
        }
    }
}

impl Need {
    /// What the documentation says of an operation.
    pub(crate) fn of(method: &Method, template: &str) -> Self {
        let level = if method == Method::GET { Level::Read } else { Level::Write };
        let permission = |name, scopes| Self::Permission { name, level, scopes };
        let parts: Vec<_> = template.split('/').skip(1).collect();
        match parts[..] {
            ["meta" | "rate_limit"] => Self::Nothing,
            ["app", ..] | [.., "installation"] => Self::App,
            ["installation", ..] => Self::Installation,
            ["enterprises", ..] => Self::Enterprise,
            ["orgs", _, "actions", ..] => {
                permission("organization_self_hosted_runners", &["admin:org"])
            }
            ["orgs", _, "hooks", ..] => permission("organization_hooks", &["admin:org_hook"]),
            ["repos", _, _, "actions", "runners", ..] => permission("administration", &["repo"]),
            ["repos", _, _, "actions", ..] => permission("actions", &["repo"]),
            ["repos", _, _, "hooks", ..] => {
                permission("repository_hooks", &["repo", "admin:repo_hook"])
            }
            ["repos", _, _, "contents", ..] => permission("contents", &["repo"]),
            ["repos", _, _] => permission("metadata", &["repo"]),
            _ => Self::Token,
        }
    }

    /// # Errors
    /// With what GitHub answers to a caller who may not.
    pub(crate) fn check(&self, state: &State, request: &Request) -> Result<(), Refusal> {
        let caller = &request.caller;
        match (self, caller) {
            (Self::Nothing, _) | (Self::App, Caller::App(_)) => Ok(()),
            (Self::App, _) => Err(unauthorized("A JSON web token could not be decoded")),
            (_, Caller::Anonymous) => Err(unauthorized("Requires authentication")),
            (Self::Installation, Caller::Installation { .. }) | (Self::Token, _) => Ok(()),
            (Self::Enterprise, Caller::Classic { scopes, .. }) => {
                let enough = ["manage_runners:enterprise", "admin:enterprise"];
                classic(scopes, &enough)
            }
            (Self::Permission { scopes, .. }, Caller::Classic { scopes: held, .. }) => {
                classic(held, scopes)
            }
            (
                Self::Permission { name, level, .. },
                Caller::FineGrained(grant) | Caller::Installation { grant, .. },
            ) => {
                // What a token does not reach does not exist for it.
                grant.reaches(state, &request.scope()?)?;
                let held = grant.permissions.get(*name);
                // Whoever may anything may see that a repository is there.
                if *name == "metadata" || held.is_some_and(|held| held >= level) {
                    Ok(())
                } else {
                    Err(Refusal::forbidden(inaccessible(caller)))
                }
            }
            _ => Err(Refusal::forbidden(inaccessible(caller))),
        }
    }

    /// What the reply tells of it, as `X-Accepted-GitHub-Permissions` does.
    pub(crate) fn accepted(&self) -> Option<String> {
        match self {
            Self::Permission { name, level, .. } => Some(format!("{name}={}", level.name())),
            _ => None,
        }
    }
}

impl Grant {
    fn reaches(&self, state: &State, scope: &Scope) -> Result<(), Refusal> {
        let reached = match scope {
            Scope::Enterprise(_) => false,
            Scope::Organisation(login) => login.eq_ignore_ascii_case(&self.account),
            Scope::Repository { owner, name } => {
                let id = state.repository(owner, name)?.id;
                owner.eq_ignore_ascii_case(&self.account) && self.has_repository(id)
            }
        };
        if reached { Ok(()) } else { Err(Refusal::not_found()) }
    }

    pub(crate) fn has_repository(&self, id: i64) -> bool {
        self.repositories.as_ref().is_none_or(|ids| ids.contains(&id))
    }
}

/// Who a request is from, by its `Authorization`.
///
/// # Errors
/// With what GitHub answers to a token that is none, or none any more.
pub(crate) fn identify(state: &State, request: &Request) -> Result<Caller, Refusal> {
    let Some(value) = request.headers.get(AUTHORIZATION) else { return Ok(Caller::Anonymous) };
    let bad = || unauthorized("Bad credentials");
    let value = value.to_str().map_err(|_| bad())?;
    let (scheme, secret) = value.split_once(' ').ok_or_else(bad)?;
    if !scheme.eq_ignore_ascii_case("bearer") && !scheme.eq_ignore_ascii_case("token") {
        return Err(bad());
    }
    if secret.split('.').count() == 3 {
        return verify(state, secret).map(Caller::App);
    }
    let token = state.tokens.get(secret).ok_or_else(bad)?;
    if token.expires.is_some_and(|expires| expires <= state.now()) {
        return Err(bad());
    }
    Ok(token.caller.clone())
}

pub(crate) fn unauthorized(message: &str) -> Refusal {
    Refusal::new(http::StatusCode::UNAUTHORIZED, message)
}

/// A new secret, by the prefix that tells its kind.
pub(crate) fn secret(prefix: &str) -> String {
    format!("{prefix}{}", random_text(36))
}

fn classic(held: &[String], enough: &[&str]) -> Result<(), Refusal> {
    if held.iter().any(|scope| enough.contains(&scope.as_str())) {
        Ok(())
    } else {
        Err(Refusal::forbidden("Must have admin rights to Repository."))
    }
}

fn inaccessible(caller: &Caller) -> &'static str {
    match caller {
        Caller::FineGrained(_) | Caller::Classic { .. } => {
            "Resource not accessible by personal access token"
        }
        _ => "Resource not accessible by integration",
    }
}
