//! GitHub Apps: who they are, where they are installed, and how they prove themselves.

use std::sync::OnceLock;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use rsa::{
    RsaPrivateKey, RsaPublicKey,
    pkcs1::{EncodeRsaPrivateKey, LineEnding},
    pkcs1v15::{Signature, VerifyingKey},
    signature::Verifier,
};
use serde::Deserialize;
use serde_json::Value;
use sha2::Sha256;

use crate::{
    access::{Permissions, unauthorized},
    exchange::Refusal,
    state::State,
};

/// How much a clock may differ from GitHub's.
const DRIFT: SignedDuration = SignedDuration::from_secs(60);
/// How far ahead a proof may end.
const LONGEST: SignedDuration = SignedDuration::from_secs(600);
const BITS: usize = 2048;

/// An App as its owner knows it.
#[derive(Clone)]
pub struct App {
    /// Its number.
    pub id: i64,
    /// What GitHub recommends to use in place of the number.
    pub client_id: String,
    /// Its name in addresses.
    pub slug: String,
    /// What it signs its proofs with: PEM, PKCS #1, as GitHub gives it out. Apps of one process share it.
    pub private_key: String,
}

/// An App as GitHub knows it.
pub(crate) struct AppRecord {
    pub(crate) id: i64,
    pub(crate) client_id: String,
    pub(crate) slug: String,
    pub(crate) owner: String,
    pub(crate) permissions: Permissions,
    pub(crate) events: Vec<String>,
    pub(crate) created: Timestamp,
}

/// An account that lets an App in.
#[derive(Clone)]
pub(crate) struct Installation {
    pub(crate) id: i64,
    pub(crate) app: i64,
    /// An organisation, a user or an enterprise.
    pub(crate) account: String,
    pub(crate) kind: &'static str,
    /// `None` for all.
    pub(crate) repositories: Option<Vec<i64>>,
    pub(crate) created: Timestamp,
}

struct Key {
    public: VerifyingKey<Sha256>,
    pem: String,
}

/// Making one takes a processor for a second or so.
static KEY: OnceLock<Key> = OnceLock::new();

fn key() -> &'static Key {
    KEY.get_or_init(|| {
        let private = RsaPrivateKey::new(&mut rand::rng(), BITS).expect("2048 bits are a size");
        let pem = private.to_pkcs1_pem(LineEnding::LF).expect("a new key has a PEM form");
        let public = VerifyingKey::new(RsaPublicKey::from(&private));
        Key { public, pem: pem.to_string() }
    })
}

/// What apps sign with.
pub(crate) fn private_key() -> String {
    key().pem.clone()
}

#[derive(Deserialize)]
struct Header {
    alg: String,
}

#[derive(Deserialize)]
struct Claims {
    iat: Option<i64>,
    exp: Option<i64>,
    iss: Option<Value>,
}

/// The App that signed a proof.
///
/// # Errors
/// With what GitHub says of a proof that is none.
pub(crate) fn verify(state: &State, proof: &str) -> Result<i64, Refusal> {
    let undecodable = || unauthorized("A JSON web token could not be decoded");
    let (signed, signature) = proof.rsplit_once('.').ok_or_else(undecodable)?;
    let (header, claims) = signed.split_once('.').ok_or_else(undecodable)?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| undecodable());
    let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| undecodable())?;
    let claims: Claims = serde_json::from_slice(&decode(claims)?).map_err(|_| undecodable())?;
    let signature = Signature::try_from(&decode(signature)?[..]).map_err(|_| undecodable())?;
    let issuer = match claims.iss {
        Some(Value::String(text)) => text,
        Some(Value::Number(number)) => number.to_string(),
        _ => return Err(unauthorized("'Issuer' claim ('iss') must be an Integer")),
    };
    let app = state.apps.iter().find(|app| app.client_id == issuer || app.id.to_string() == issuer);
    let app =
        app.ok_or_else(|| Refusal::new(http::StatusCode::NOT_FOUND, "Integration not found"))?;
    if header.alg != "RS256" || key().public.verify(signed.as_bytes(), &signature).is_err() {
        return Err(undecodable());
    }
    let time = |claim: Option<i64>| claim.and_then(|claim| Timestamp::from_second(claim).ok());
    let now = state.now();
    let issued = time(claims.iat).ok_or_else(|| {
        unauthorized(
            "'Issued at' claim ('iat') must be an Integer representing the time that the assertion \
             was issued",
        )
    })?;
    let expires = time(claims.exp).ok_or_else(|| {
        unauthorized(
            "'Expiration time' claim ('exp') must be a numeric value representing the future time at \
             which the assertion expires",
        )
    })?;
    if issued.duration_since(now) > DRIFT {
        return Err(unauthorized(
            "'Issued at' claim ('iat') must be an Integer representing the time that the assertion \
             was issued",
        ));
    }
    if expires <= now {
        return Err(unauthorized(
            "'Expiration time' claim ('exp') must be a numeric value representing the future time at \
             which the assertion expires",
        ));
    }
    if expires.duration_since(now) > LONGEST {
        return Err(unauthorized("'Expiration time' claim ('exp') is too far in the future"));
    }
    Ok(app.id)
}
