//! A job's variables: which value holds, what is expanded, what is a file, what is secret.
//!
//! As gitlab-runner does it (`common/spec/variables.go`): later ones override earlier ones; `$NAME` and
//! `${NAME}` are replaced once, and by nothing where there is no such variable; a *raw* one is left as it
//! is; a *file* one is written to a file in the guest, and its value is the path.

use std::collections::{BTreeMap, BTreeSet};

use crate::payload::{Payload, Variable};

/// The variables of one job.
pub(crate) struct Variables {
    all: BTreeMap<String, Variable>,
    /// Below which files are put.
    files_dir: String,
    /// Values that no trace may show.
    secrets: BTreeSet<String>,
}

impl Variables {
    /// Those of the payload, over those of `ours`.
    pub(crate) fn new(job: &Payload, ours: &[(&str, String)], files_dir: String) -> Self {
        let mut secrets = BTreeSet::from([job.token.expose().clone()]);
        let ours = ours.iter().map(|(key, value)| Variable {
            key: (*key).to_owned(),
            value: value.clone(),
            masked: false,
            file: false,
            raw: true,
        });
        let mut all = BTreeMap::new();
        for variable in ours.chain(job.variables.iter().cloned()) {
            // Also one that is overridden: it is no less secret for that.
            if variable.masked {
                secrets.insert(variable.value.clone());
            }
            all.insert(variable.key.clone(), variable);
        }
        secrets.extend(job.credentials.iter().map(|given| given.password.clone()));
        secrets.extend(job.dependencies.iter().map(|needed| needed.token.expose().clone()));
        if let Ok(url) = url::Url::parse(&job.git_info.repo_url) {
            secrets.extend(url.password().map(str::to_owned));
        }
        let mut variables = Self { all, files_dir, secrets };
        let expanded: Vec<(String, String)> = variables
            .all
            .values()
            .filter(|variable| !variable.raw)
            .map(|variable| (variable.key.clone(), variables.expand(&variable.value)))
            .collect();
        for (key, value) in expanded {
            if let Some(variable) = variables.all.get_mut(&key) {
                if variable.masked {
                    variables.secrets.insert(value.clone());
                }
                variable.value = value;
            }
        }
        variables.secrets.retain(|secret| !secret.trim().is_empty());
        variables
    }

    /// What a process sees.
    pub(crate) fn environment(&self) -> BTreeMap<String, String> {
        let usable =
            |variable: &&Variable| is_name(&variable.key) && !variable.value.contains('\0');
        let values = self.all.values().filter(usable);
        values.map(|variable| (variable.key.clone(), self.value_of(variable))).collect()
    }

    /// Variables that no process can have: their names are not of the form that shells know.
    pub(crate) fn unusable(&self) -> Vec<&str> {
        let keys = self.all.values().filter(|v| !is_name(&v.key) || v.value.contains('\0'));
        keys.map(|variable| variable.key.as_str()).collect()
    }

    /// Paths and contents of the files to write.
    pub(crate) fn files(&self) -> Vec<(String, &str)> {
        let files = self.all.values().filter(|variable| variable.file && is_name(&variable.key));
        files.map(|variable| (self.value_of(variable), variable.value.as_str())).collect()
    }

    /// The value that a process sees, unless it is empty.
    pub(crate) fn value(&self, key: &str) -> Option<String> {
        let value = self.value_of(self.all.get(key)?);
        (!value.is_empty()).then_some(value)
    }

    pub(crate) fn secrets(&self) -> impl Iterator<Item = &str> {
        self.secrets.iter().map(String::as_str)
    }

    fn value_of(&self, variable: &Variable) -> String {
        if variable.file && is_name(&variable.key) {
            format!("{}/{}", self.files_dir, variable.key)
        } else {
            variable.value.clone()
        }
    }

    /// Replaces `$NAME` and `${NAME}`, once.
    pub(crate) fn expand(&self, text: &str) -> String {
        let (mut out, mut rest) = (String::new(), text);
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            let after = &rest[at + 1..];
            let (name, length) = match after.strip_prefix('{') {
                // Without its end it is no name, and is dropped with what opened it.
                Some(braced) => match braced.find('}') {
                    Some(end) => (&braced[..end], end + 2),
                    None => ("", 1),
                },
                None => {
                    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
                    let end = after.find(|c| !is_part(c)).unwrap_or(after.len());
                    let starts_with_digit = after.starts_with(|c: char| c.is_ascii_digit());
                    let end = if starts_with_digit { 1 } else { end };
                    if end == 0 && after.starts_with('$') { ("$", 1) } else { (&after[..end], end) }
                }
            };
            match self.all.get(name) {
                Some(variable) => out.push_str(&self.value_of(variable)),
                // Two are one, and one before anything else stays.
                None if length == 0 || name == "$" => out.push('$'),
                None => (),
            }
            rest = &after[length..];
        }
        out.push_str(rest);
        out
    }
}

fn is_name(key: &str) -> bool {
    key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && key.bytes().next().is_some_and(|byte| !byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn variables(list: Value) -> Variables {
        let job = json!({
            "id": 1, "token": "job-token", "variables": list,
            "git_info": {"repo_url": "https://gitlab-ci-token:url-token@host/p.git"},
        });
        let job: Payload = serde_json::from_value(job).ok().unwrap();
        Variables::new(&job, &[("OURS", "o".to_owned()), ("B", "ours".to_owned())], "/f".to_owned())
    }

    #[test]
    fn references_are_expanded_once_and_raw_values_not_at_all() {
        let all = variables(json!([
            {"key": "A", "value": "a"},
            {"key": "B", "value": "<$A>"},
            {"key": "C", "value": "${B}$A$NONE${NONE}x"},
            {"key": "RAW", "value": "$A", "raw": true},
            {"key": "FILE", "value": "content $A", "file": true},
            {"key": "PATH_OF", "value": "at $FILE"},
            {"key": "ODD", "value": "$ 5$ $$A ${A $1x $"},
        ]));
        let value = |key: &str| all.value(key).unwrap();
        assert_eq!(value("B"), "<a>");
        assert_eq!(value("C"), "<$A>ax");
        assert_eq!(value("RAW"), "$A");
        assert_eq!(value("FILE"), "/f/FILE");
        assert_eq!(value("PATH_OF"), "at /f/FILE");
        assert_eq!(all.files(), [("/f/FILE".to_owned(), "content a")]);
        assert_eq!(value("ODD"), "$ 5$ $A A x $");
        assert_eq!(value("OURS"), "o");
    }

    #[test]
    fn later_values_override_and_all_masked_ones_are_secret() {
        let all = variables(json!([
            {"key": "A", "value": "first", "masked": true},
            {"key": "A", "value": "second"},
            {"key": "S", "value": "se$A", "masked": true},
            {"key": "EMPTY", "value": " ", "masked": true},
        ]));
        assert_eq!(all.value("A").unwrap(), "second");
        let secrets: Vec<&str> = all.secrets().collect();
        assert_eq!(secrets, ["first", "job-token", "se$A", "sesecond", "url-token"]);
    }

    #[test]
    fn what_no_process_can_have_is_left_out_and_named() {
        let all = variables(json!([{"key": "a-b", "value": "x"}, {"key": "N", "value": "\0"}]));
        assert_eq!(all.unusable(), ["N", "a-b"]);
        assert!(!all.environment().contains_key("a-b"));
    }
}
