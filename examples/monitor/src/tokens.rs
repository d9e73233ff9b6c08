//! Who may come in: several tokens, each with a name and a role.

use std::{env, fmt, path::PathBuf, sync::Arc};

use anyhow::{Context, bail};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use crate::token::Token;

/// The name of the token that is generated where there is none.
pub const ADMIN: &str = "admin";

/// The variable in which systemd says where a service's credentials are.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// What a token allows. Each role allows what those before it do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// To look.
    Read,
    /// To run jobs, and to reserve, hold and retire workers.
    Operate,
    /// Everything, machines' insides included.
    Admin,
}

/// What people call a token. It may be shown anywhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct TokenName(Arc<str>);

/// Where a token of the configuration is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenPlace {
    /// In a file.
    File(PathBuf),
    /// Among the credentials that systemd gave to the service, by this name.
    Credential(String),
}

/// A token of the configuration.
#[derive(Debug, Clone)]
pub struct NamedToken {
    /// What people call it.
    pub name: TokenName,
    /// What it allows.
    pub role: Role,
    /// Where it is.
    pub place: TokenPlace,
}

/// Whoever sent a token that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The token's name.
    pub name: TokenName,
    /// What it allows.
    pub role: Role,
}

/// Every token that opens the door. Of each, only a hash is kept.
#[derive(Clone)]
pub struct Tokens(Arc<[Entry]>);

struct Entry {
    holder: Holder,
    hash: [u8; 32],
}

impl Tokens {
    /// `admin` and the tokens of a configuration, read from where they are.
    ///
    /// # Errors
    /// For a token that is missing, exposed, guessable, or the same as another.
    pub fn open(admin: Token, named: &[NamedToken]) -> anyhow::Result<Self> {
        let mut entries = vec![Entry::admin(&admin)];
        for token in named {
            let name = &token.name;
            let text = token.place.read().with_context(|| format!("token {name}"))?;
            let hash = hash(text.expose());
            if let Some(same) = entries.iter().find(|entry| entry.hash == hash) {
                let other = &same.holder.name;
                bail!("token {name} is the same as token {other}; give each its own");
            }
            let holder = Holder { name: name.clone(), role: token.role };
            entries.push(Entry { holder, hash });
        }
        Ok(Self(entries.into()))
    }

    /// Whose token this is. Takes as long whichever it is, or almost is.
    pub fn holder(&self, text: &str) -> Option<&Holder> {
        let hash = hash(text);
        // One more than the index, and zero for none.
        let mut found = 0_u32;
        for (number, entry) in (1..).zip(self.0.iter()) {
            found.conditional_assign(&number, entry.hash.ct_eq(&hash));
        }
        let index = usize::try_from(found).ok()?.checked_sub(1)?;
        self.0.get(index).map(|entry| &entry.holder)
    }
}

impl From<Token> for Tokens {
    /// Just the administrator's.
    fn from(admin: Token) -> Self {
        Self([Entry::admin(&admin)].into())
    }
}

impl Entry {
    fn admin(token: &Token) -> Self {
        let holder = Holder { name: TokenName(ADMIN.into()), role: Role::Admin };
        Self { holder, hash: hash(token.expose()) }
    }
}

/// All hashes are of one length, so that comparing them does not tell a token's.
fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

impl TokenPlace {
    fn read(&self) -> anyhow::Result<Token> {
        let (path, found) = match self {
            Self::File(path) => (path.clone(), Token::from_file(path)?),
            Self::Credential(name) => {
                let Some(dir) = env::var_os(CREDENTIALS) else {
                    bail!(
                        "credential {name} is systemd's to give, and {CREDENTIALS} is not set; \
                         add LoadCredential={name}:FILE to the service, or use file = \"…\""
                    );
                };
                let path = PathBuf::from(dir).join(name);
                let token = Token::from_credential(&path)?;
                (path, token)
            }
        };
        match found {
            Some(token) => Ok(token),
            None => {
                let path = path.display();
                bail!(
                    "there is no file {path}; make one: (umask 077; openssl rand -hex 32 > {path})"
                )
            }
        }
    }
}

impl TokenName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TokenName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let of_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let starts_well = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
        if !starts_well || text.len() > 63 || !text.bytes().all(of_name) {
            return Err(format!(
                "token name {text:?}: use up to 63 lower-case letters, digits and dashes, \
                 a letter first"
            ));
        }
        if text == ADMIN {
            return Err(format!("the token {ADMIN} is the one in token_file; choose another name"));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for TokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Role {
    /// Its word in a configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Admin => ADMIN,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, path::Path};

    use super::*;

    fn named(dir: &Path, name: &str, text: &str, role: Role) -> NamedToken {
        let file = dir.join(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let name = TokenName::try_from(name.to_owned()).unwrap();
        NamedToken { name, role, place: TokenPlace::File(file) }
    }

    fn refusal(named: &[NamedToken]) -> String {
        let admin = Token::new("the-first").unwrap();
        format!("{:#}", Tokens::open(admin, named).err().unwrap())
    }

    #[test]
    fn each_token_is_told_by_its_name_wherever_it_is_in_the_list() {
        let dir = tempfile::tempdir().unwrap();
        let ci = named(dir.path(), "ci", "the-second\n", Role::Operate);
        let wall = named(dir.path(), "wall", "the-third\n", Role::Read);
        let tokens = Tokens::open(Token::new("the-first").unwrap(), &[ci, wall]).unwrap();
        let who = |text| tokens.holder(text).map(|holder| (holder.name.as_str(), holder.role));
        assert_eq!(who("the-first"), Some(("admin", Role::Admin)));
        assert_eq!(who("the-second"), Some(("ci", Role::Operate)));
        assert_eq!(who("the-third"), Some(("wall", Role::Read)));
        for wrong in ["", "the", "the-first ", "the-firsT", "the-fourth"] {
            assert_eq!(who(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn guessable_missing_exposed_and_repeated_tokens_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let sample = named(dir.path(), "ci", "ChangeMe\n", Role::Read);
        let text = refusal(&[sample]);
        assert!(text.contains("token ci") && text.contains("sample"), "{text}");
        let same = named(dir.path(), "ci", "the-first\n", Role::Read);
        let text = refusal(&[same]);
        assert!(text.contains("token ci is the same as token admin"), "{text}");
        assert!(!text.contains("the-first"), "{text}");
        let mut missing = named(dir.path(), "ci", "x", Role::Read);
        missing.place = TokenPlace::File(dir.path().join("none"));
        let text = refusal(&[missing]);
        assert!(text.contains("there is no file") && text.contains("openssl rand"), "{text}");
        for mode in [0o644, 0o640, 0o604, 0o620] {
            let exposed = named(dir.path(), "ci", "the-second\n", Role::Read);
            fs::set_permissions(dir.path().join("ci"), fs::Permissions::from_mode(mode)).unwrap();
            let text = refusal(&[exposed]);
            assert!(text.contains("chmod 600"), "{mode:o}: {text}");
        }
    }

    #[test]
    fn names_are_words_and_the_administrators_is_taken() {
        for bad in ["", "CI", "-ci", "7", "a b", "admin", &"x".repeat(64)] {
            assert!(TokenName::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
        assert!(TokenName::try_from("ci-2".to_owned()).is_ok());
    }
}
