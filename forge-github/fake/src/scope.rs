//! Where runners, groups and hooks belong.

use std::{fmt, str::FromStr};

use crate::contract::Parameters;

/// An enterprise, an organisation or a repository. Names are compared as GitHub does it, without regard to
/// case.
#[derive(Debug, Clone, Eq)]
pub enum Scope {
    /// By its slug.
    Enterprise(String),
    /// By its login.
    Organisation(String),
    /// By its owner's login and its own name.
    Repository {
        /// An organisation, or a user.
        owner: String,
        /// Without the owner.
        name: String,
    },
}

/// What is no scope.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is none of ORG, OWNER/REPO and enterprises/SLUG")]
pub struct NotAScope(String);

impl Scope {
    pub(crate) fn of(parameters: &Parameters) -> Option<Self> {
        let text = |name| parameters.get(name).cloned();
        if let Some(slug) = text("enterprise") {
            return Some(Self::Enterprise(slug));
        }
        if let Some(login) = text("org") {
            return Some(Self::Organisation(login));
        }
        Some(Self::Repository { owner: text("owner")?, name: text("repo")? })
    }

    /// The scope's part of a path in the API, such as `/orgs/acme`.
    pub fn path(&self) -> String {
        match self {
            Self::Enterprise(slug) => format!("/enterprises/{slug}"),
            Self::Organisation(login) => format!("/orgs/{login}"),
            Self::Repository { owner, name } => format!("/repos/{owner}/{name}"),
        }
    }
}

impl PartialEq for Scope {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Enterprise(a), Self::Enterprise(b))
            | (Self::Organisation(a), Self::Organisation(b)) => a.eq_ignore_ascii_case(b),
            (Self::Repository { owner, name }, Self::Repository { owner: o, name: n }) => {
                owner.eq_ignore_ascii_case(o) && name.eq_ignore_ascii_case(n)
            }
            _ => false,
        }
    }
}

impl FromStr for Scope {
    type Err = NotAScope;

    fn from_str(text: &str) -> Result<Self, NotAScope> {
        let parts: Vec<_> = text.split('/').collect();
        match parts[..] {
            _ if parts.contains(&"") => Err(NotAScope(text.to_owned())),
            ["enterprises", slug] => Ok(Self::Enterprise(slug.to_owned())),
            [owner, name] => {
                Ok(Self::Repository { owner: owner.to_owned(), name: name.to_owned() })
            }
            [login] => Ok(Self::Organisation(login.to_owned())),
            _ => Err(NotAScope(text.to_owned())),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Enterprise(slug) => write!(f, "enterprises/{slug}"),
            Self::Organisation(login) => f.write_str(login),
            Self::Repository { owner, name } => write!(f, "{owner}/{name}"),
        }
    }
}
