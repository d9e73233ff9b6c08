//! A GitHub App's proof of who it is.
//!
//! An App signs a JWT with its key and exchanges it for a token of one installation, good for an hour
//! (docs.github.com, "Authenticating as a GitHub App installation").

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use runner_core::Secret;
use rustls::{
    SignatureScheme,
    crypto::ring::sign::any_supported_type,
    pki_types::{PrivateKeyDer, pem::PemObject},
};
use serde::{Deserialize, Serialize};

use crate::error::{Answer, ApiError};

/// How long a proof holds. GitHub allows ten minutes, by its own clock.
const HOLDS: SignedDuration = SignedDuration::from_mins(9);
/// How far a proof is dated back, for clocks that differ.
const BACK: SignedDuration = SignedDuration::from_secs(60);
/// How long before its end a token is replaced: longer than any call takes.
const EARLY: SignedDuration = SignedDuration::from_mins(5);

/// What an installation's token is asked with: nothing, so that it has all that the App was granted.
#[derive(Serialize)]
pub(crate) struct AskToken {}

/// An installation, as far as it matters.
#[derive(Deserialize)]
pub(crate) struct Installation {
    pub id: u64,
    #[serde(default)]
    pub suspended_at: Option<String>,
}

/// The token of an installation as GitHub sends it.
#[derive(Deserialize)]
pub(crate) struct SentToken {
    token: String,
    expires_at: Timestamp,
}

/// The token of an installation.
#[derive(Clone)]
pub(crate) struct InstallationToken {
    pub token: Secret<String>,
    expires_at: Timestamp,
}

impl From<SentToken> for InstallationToken {
    fn from(sent: SentToken) -> Self {
        Self { token: Secret::new(sent.token), expires_at: sent.expires_at }
    }
}

impl InstallationToken {
    /// Whether it is to be replaced.
    pub fn is_stale(&self, now: Timestamp) -> bool {
        self.expires_at.duration_since(now) < EARLY
    }

    /// Whether it is of any use.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.expires_at <= now
    }
}

/// Signs a proof with RS256: RSA, PKCS #1 v1.5, SHA-256, which is what TLS 1.2 signs with too, so rustls does it.
pub(crate) fn proof(id: &str, key: &Secret<String>, now: Timestamp) -> Answer<Secret<String>> {
    let bad =
        |why: &str| ApiError::credentials(format!("the key of App {id} cannot be used: {why}"));
    let der = PrivateKeyDer::from_pem_slice(key.expose().as_bytes())
        .map_err(|_| bad("it is not a private key in PEM, which begins with -----BEGIN"))?;
    let key =
        any_supported_type(&der).map_err(|_| bad("it is not an RSA key of 2048 bits or more"))?;
    let signer = key
        .choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256])
        .ok_or_else(|| bad("it is not an RSA key"))?;
    let encode = |json: serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
    let header = encode(serde_json::json!({ "alg": "RS256", "typ": "JWT" }));
    let claims = encode(serde_json::json!({
        "iat": (now - BACK).as_second(),
        "exp": (now + HOLDS).as_second(),
        "iss": id,
    }));
    let signed = format!("{header}.{claims}");
    let signature = signer.sign(signed.as_bytes()).map_err(|error| bad(&error.to_string()))?;
    Ok(Secret::new(format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_replaced_before_its_end_and_of_use_until_then() {
        let now = Timestamp::UNIX_EPOCH;
        let ends_in = |seconds| {
            let expires_at = now + SignedDuration::from_secs(seconds);
            let sent = SentToken { token: "ghs_x".to_owned(), expires_at };
            let token = InstallationToken::from(sent);
            (token.is_stale(now), token.is_over(now))
        };
        assert_eq!(ends_in(300), (false, false));
        assert_eq!(ends_in(299), (true, false));
        assert_eq!(ends_in(0), (true, true));
    }
}
