//! Servo's two files as a list of settings, each with its place.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use runner_core::Secret;
use sha2::{Digest, Sha256};
use toml::{
    Table, Value,
    de::{DeTable, DeValue},
};

/// One setting.
pub struct Setting {
    /// Its path, such as `profiles`, `servo-windows10`, `target_count`.
    pub path: Vec<String>,
    pub file: PathBuf,
    pub line: usize,
    pub said: Said,
}

/// What a setting says.
#[derive(PartialEq)]
pub enum Said {
    Text(String),
    Number(u64),
    Flag(bool),
    Texts(Vec<String>),
    /// Something that none of its settings is.
    Odd,
}

/// All settings of both files that nobody has asked for yet.
pub struct Settings {
    /// Those of `monitor.toml`, and those of `.env` that have one of their names.
    settings: BTreeMap<Vec<String>, Setting>,
    /// The variables that hold a secret.
    secrets: BTreeMap<&'static str, (PathBuf, usize, Secret<String>)>,
}

/// Why a file cannot be read as what it is. Never with what it holds.
#[derive(Debug)]
pub struct Unreadable {
    file: PathBuf,
    line: Option<usize>,
    problem: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        write!(f, " {}", self.problem)
    }
}

impl std::error::Error for Unreadable {}

/// The variables that hold a secret.
const SECRETS: [&str; 2] = ["GITHUB_TOKEN", "SERVO_CI_MONITOR_API_TOKEN"];
/// How its variables begin.
const PREFIX: &str = "SERVO_CI_";

impl Setting {
    /// Its path in one word.
    pub fn key(&self) -> String {
        self.path.join(".")
    }

    pub fn text(&self) -> Option<&str> {
        match &self.said {
            Said::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn number(&self) -> Option<u64> {
        match &self.said {
            Said::Number(number) => Some(*number),
            // In `.env` everything is text.
            Said::Text(text) => text.parse().ok(),
            _ => None,
        }
    }
}

impl Settings {
    pub fn read(toml: (&Path, &str), env: (&Path, &str)) -> Result<Self, Unreadable> {
        let mut all = Self { settings: BTreeMap::new(), secrets: BTreeMap::new() };
        all.read_toml(toml.0, toml.1)?;
        all.read_env(env.0, env.1)?;
        Ok(all)
    }

    fn read_toml(&mut self, file: &Path, text: &str) -> Result<(), Unreadable> {
        let line_at = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
        let broken = |error: toml::de::Error| Unreadable {
            file: file.to_owned(),
            line: error.span().map(|span| line_at(span.start)),
            problem: error.message().to_owned(),
        };
        let lines = DeTable::parse(text).map_err(broken)?;
        let values: Table = text.parse().map_err(broken)?;
        let mut found = Vec::new();
        flatten(&mut Vec::new(), lines.get_ref(), &values, &mut found);
        for (path, at, said) in found {
            let setting = Setting { path, file: file.to_owned(), line: line_at(at), said };
            self.settings.insert(setting.path.clone(), setting);
        }
        Ok(())
    }

    /// Reads `KEY=VALUE`, in quotes or not, with `export` or not.
    fn read_env(&mut self, file: &Path, text: &str) -> Result<(), Unreadable> {
        for (index, line) in text.lines().enumerate() {
            let place = (file.to_owned(), index + 1);
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let line = line.strip_prefix("export ").unwrap_or(line);
            let is_name = |name: &str| {
                !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            };
            let split = line.split_once('=').map(|(name, value)| (name.trim(), value));
            let Some((name, value)) = split.filter(|(name, _)| is_name(name)) else {
                let problem = "this line is not NAME=VALUE".to_owned();
                return Err(Unreadable { file: place.0, line: Some(place.1), problem });
            };
            let value = unquoted(value.trim());
            if let Some(secret) = SECRETS.iter().find(|secret| **secret == name) {
                self.secrets.insert(secret, (place.0, place.1, Secret::new(value)));
                continue;
            }
            let path = match name.strip_prefix(PREFIX) {
                Some(rest) => rest.to_ascii_lowercase(),
                None => name.to_owned(),
            };
            // To be there is enough for a variable that is on or off.
            let said = if path.starts_with("dont_") { Said::Flag(true) } else { Said::Text(value) };
            let setting = Setting { path: vec![path.clone()], file: place.0, line: place.1, said };
            self.settings.entry(vec![path]).or_insert(setting);
        }
        Ok(())
    }

    /// The setting of this path, which is then asked for.
    pub fn take(&mut self, path: &[&str]) -> Option<Setting> {
        let path: Vec<String> = path.iter().map(|part| (*part).to_owned()).collect();
        self.settings.remove(&path)
    }

    /// The secret of this variable, and its place.
    pub fn secret(&mut self, name: &str) -> Option<(PathBuf, usize, Secret<String>)> {
        self.secrets.remove(name)
    }

    /// The keys of the profiles, in the order of the file.
    pub fn profiles(&self) -> Vec<String> {
        let mut keys: Vec<(usize, &String)> = Vec::new();
        for setting in self.settings.values() {
            if let [first, key, ..] = &setting.path[..]
                && first == "profiles"
                && keys.iter().all(|(_, known)| *known != key)
            {
                keys.push((setting.line, key));
            }
        }
        keys.sort();
        keys.into_iter().map(|(_, key)| key.clone()).collect()
    }

    /// Whatever was not asked for, in the order of the files.
    pub fn rest(self) -> Vec<Setting> {
        let mut rest: Vec<Setting> = self.settings.into_values().collect();
        rest.sort_by(|a, b| (&a.file, a.line, &a.path).cmp(&(&b.file, b.line, &b.path)));
        rest
    }
}

fn flatten(
    path: &mut Vec<String>,
    lines: &DeTable<'_>,
    values: &Table,
    found: &mut Vec<(Vec<String>, usize, Said)>,
) {
    for (key, spanned) in lines {
        let name = key.get_ref().to_string();
        let value = values.get(&name);
        path.push(name);
        match (spanned.get_ref(), value) {
            (DeValue::Table(lines), Some(Value::Table(values))) if !lines.is_empty() => {
                flatten(path, lines, values, found);
            }
            (_, value) => {
                found.push((path.clone(), key.span().start, value.map_or(Said::Odd, said)));
            }
        }
        path.pop();
    }
}

fn said(value: &Value) -> Said {
    match value {
        Value::String(text) => Said::Text(text.clone()),
        Value::Integer(number) => u64::try_from(*number).map_or(Said::Odd, Said::Number),
        Value::Boolean(flag) => Said::Flag(*flag),
        Value::Array(all) => {
            let texts = all.iter().map(|value| value.as_str().map(str::to_owned));
            texts.collect::<Option<_>>().map_or(Said::Odd, Said::Texts)
        }
        _ => Said::Odd,
    }
}

fn unquoted(value: &str) -> String {
    for quote in ['"', '\''] {
        if let Some(rest) = value.strip_prefix(quote)
            && let Some((inner, _)) = rest.split_once(quote)
        {
            return inner.to_owned();
        }
    }
    let end = value.find(" #").unwrap_or(value.len());
    value[..end].trim_end().to_owned()
}

/// The SHA-256 of a file, as `sha256sum` prints it.
///
/// # Errors
/// When it cannot be read.
pub fn hash_of(file: &Path) -> io::Result<String> {
    let (mut file, mut hash) = (fs::File::open(file)?, Sha256::new());
    let mut chunk = vec![0; 1 << 20];
    loop {
        match file.read(&mut chunk)? {
            0 => break,
            length => hash.update(&chunk[..length]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
