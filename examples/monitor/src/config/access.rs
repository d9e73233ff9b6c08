//! Who may use a profile, or whatever a forge's section offers: rules to deny and to allow.

use runner_core::access::{Names, Rules};
use toml::Spanned;

use super::{ConfigError, place::Source};

/// What a section says of it: the values of its keys `deny` and `allow`.
#[derive(Default)]
pub(super) struct Access {
    pub deny: Option<Spanned<Names>>,
    pub allow: Option<Spanned<Names>>,
}

impl Access {
    /// The first of its keys that is there.
    pub fn first_key(&self) -> Option<&'static str> {
        let keys = [("deny", self.deny.is_some()), ("allow", self.allow.is_some())];
        keys.into_iter().find_map(|(key, is_there)| is_there.then_some(key))
    }

    /// The rules of the section at `key`. Names that can never match are refused, and so is a list of nobody:
    /// whether it was to let in everybody or no one is not to be guessed.
    pub fn rules(self, source: &Source<'_>, key: &str) -> Result<Rules, ConfigError> {
        let names = |list: &str, said: Option<Spanned<Names>>, alone: fn(Names) -> Rules| {
            let Some(said) = said else { return Ok(Names::default()) };
            let refuse = |problem: &str| {
                Err(source.problem(Some(said.span()), format!("{key}.{list}"), problem))
            };
            if said.get_ref().is_empty() {
                return refuse("name users, projects or projects_in_groups, or leave it out");
            }
            match alone(said.get_ref().clone()).check() {
                Err(error) => refuse(&error.to_string()),
                Ok(()) => Ok(said.into_inner()),
            }
        };
        Ok(Rules {
            deny: names("deny", self.deny, |deny| Rules { deny, ..Rules::default() })?,
            allow: names("allow", self.allow, |allow| Rules { allow, ..Rules::default() })?,
        })
    }
}
