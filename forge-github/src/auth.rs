//! The credentials in use: one token, or one App's installation, for one scope.

use std::sync::{Mutex, MutexGuard, PoisonError};

use http::HeaderValue;
use jiff::Timestamp;

use crate::{
    app::{self, InstallationToken},
    credentials::{Credentials, Reader, bearer, check_kind},
    error::{Answer, ApiError},
    scope::Place,
};

/// On whose behalf a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The token's owner, or the App's installation.
    Us,
    /// The App itself. Only Apps can.
    App,
}

/// Keeps what proves who we are.
pub(crate) enum Auth {
    Token(Reader),
    App(App),
}

pub(crate) struct App {
    id: String,
    key: Reader,
    state: Mutex<State>,
    /// Held by whoever renews the token, so that the others wait for that instead of doing it too.
    renewing: tokio::sync::Semaphore,
}

#[derive(Default)]
struct State {
    /// As configured: not to be looked for.
    fixed: bool,
    installation: Option<u64>,
    token: Option<InstallationToken>,
}

impl Auth {
    pub fn new(credentials: Credentials) -> Self {
        match credentials {
            Credentials::Token(from) => Self::Token(Reader::new(from)),
            Credentials::App { id, key, installation } => Self::App(App {
                id,
                key: Reader::new(key),
                state: Mutex::new(State {
                    fixed: installation.is_some(),
                    installation,
                    token: None,
                }),
                renewing: tokio::sync::Semaphore::new(1),
            }),
        }
    }

    /// The header to use now, if there is one that need not be renewed.
    pub async fn current(&self, place: &Place, now: Timestamp) -> Answer<Option<HeaderValue>> {
        match self {
            Self::Token(reader) => {
                let token = reader.read().await?;
                check_kind(Some(&token), place)?;
                bearer(&token).map(Some)
            }
            Self::App(app) => {
                check_kind(None, place)?;
                let token = app.state().token.clone().filter(|token| !token.is_stale(now));
                token.map(|token| bearer(&token.token)).transpose()
            }
        }
    }

    /// Waits until nobody renews the token.
    pub async fn turn(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        match self {
            Self::Token(_) => None,
            Self::App(app) => app.renewing.acquire().await.ok(), // It is never closed.
        }
    }

    /// The header that proves the App.
    pub async fn proof(&self, now: Timestamp) -> Answer<HeaderValue> {
        match self {
            Self::Token(_) => {
                Err(ApiError::credentials("only a GitHub App can ask that, not a token"))
            }
            Self::App(app) => bearer(&app::proof(&app.id, &app.key.read().await?, now)?),
        }
    }

    /// The installation, where it is known.
    pub fn installation(&self) -> Option<u64> {
        match self {
            Self::Token(_) => None,
            Self::App(app) => app.state().installation,
        }
    }

    /// The installation was found out.
    pub fn found(&self, id: u64) {
        if let Self::App(app) = self {
            app.state().installation = Some(id);
        }
    }

    /// The installation does not exist (any more).
    pub fn lost(&self) {
        if let Self::App(app) = self {
            let mut state = app.state();
            if !state.fixed {
                state.installation = None;
            }
        }
    }

    /// There is a new token.
    pub fn keep(&self, token: InstallationToken) -> Answer<HeaderValue> {
        let header = bearer(&token.token);
        if let Self::App(app) = self {
            app.state().token = Some(token);
        }
        header
    }

    /// A token that should have been renewed, and is still good for a while.
    pub fn last_resort(&self, now: Timestamp) -> Option<HeaderValue> {
        let Self::App(app) = self else { return None };
        let token = app.state().token.clone().filter(|token| !token.is_over(now))?;
        bearer(&token.token).ok()
    }

    /// GitHub refused this header: not again.
    pub fn forget(&self, refused: &HeaderValue) {
        if let Self::App(app) = self {
            let mut state = app.state();
            let is_it =
                |token: &InstallationToken| bearer(&token.token).is_ok_and(|h| h == refused);
            if state.token.as_ref().is_some_and(is_it) {
                state.token = None;
            }
        }
    }
}

impl App {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
