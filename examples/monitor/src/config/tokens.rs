//! The tokens of a configuration: names, roles, and where each is. Never a token itself.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::{ConfigError, place::Source};
use crate::tokens::{NamedToken, Role, TokenName, TokenPlace};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenSection {
    name: TokenName,
    role: Role,
    file: Option<PathBuf>,
    credential: Option<Spanned<String>>,
}

pub(super) fn tokens(
    source: &Source<'_>,
    base: &Path,
    sections: Vec<Spanned<TokenSection>>,
) -> Result<Vec<NamedToken>, ConfigError> {
    let mut tokens: Vec<NamedToken> = Vec::with_capacity(sections.len());
    for (index, section) in sections.into_iter().enumerate() {
        let (span, key) = (section.span(), format!("token[{index}]"));
        let section = section.into_inner();
        let name = section.name;
        if tokens.iter().any(|other| other.name == name) {
            let place = source.key_in(&span, "name");
            let problem = format!("there is a token {name} already; rename one");
            return Err(source.problem(Some(place), format!("{key}.name"), problem));
        }
        let place = match (section.file, section.credential) {
            (Some(file), None) => TokenPlace::File(base.join(file)),
            (None, Some(credential)) => {
                let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
                let text = credential.get_ref();
                if text.is_empty() || text.starts_with('.') || !text.bytes().all(plain) {
                    let problem = format!(
                        "{text:?} is not the name of a credential; write the ID of LoadCredential="
                    );
                    let place = Some(credential.span());
                    return Err(source.problem(place, format!("{key}.credential"), problem));
                }
                TokenPlace::Credential(credential.into_inner())
            }
            (None, None) | (Some(_), Some(_)) => {
                let problem = "say where the token is: either file or credential";
                return Err(source.problem(Some(span), key, problem));
            }
        };
        tokens.push(NamedToken { name, role: section.role, place });
    }
    Ok(tokens)
}
