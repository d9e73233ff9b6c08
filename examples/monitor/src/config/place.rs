//! Where in a configuration something is wrong: file, line and key, so that an editor can jump there.

use std::{
    fmt, io,
    ops::Range,
    path::{Path, PathBuf},
};

/// What is wrong with a configuration, where, and the way out.
#[derive(Debug)]
pub struct ConfigError {
    file: Option<PathBuf>,
    line: Option<usize>,
    key: String,
    problem: String,
}

impl ConfigError {
    /// For what has no place in a file, such as a flag.
    pub fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { file: None, line: None, key: key.into(), problem: problem.into() }
    }

    /// For a file that cannot be read.
    pub fn unreadable(path: &Path, error: &io::Error) -> Self {
        let way_out = "name a readable file with --config, or leave it out for the built-in one";
        Self::new("", format!("could not read {}: {error}; {way_out}", path.display()))
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", file.display())?;
            if let Some(line) = self.line {
                write!(f, "{line}:")?;
            }
            f.write_str(" ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.problem)
    }
}

impl std::error::Error for ConfigError {}

/// A configuration's text and where it came from.
pub(super) struct Source<'a> {
    pub file: &'a Path,
    pub text: &'a str,
}

impl Source<'_> {
    /// A problem with `key`, whose value is at `span`.
    pub fn problem(
        &self,
        span: Option<Range<usize>>,
        key: impl Into<String>,
        problem: impl Into<String>,
    ) -> ConfigError {
        ConfigError {
            file: Some(self.file.to_owned()),
            line: span.map(|span| self.line_at(span.start)),
            key: key.into(),
            problem: problem.into(),
        }
    }

    /// The line of `key` in the table whose head is at `head`, or the head itself.
    pub fn key_in(&self, head: &Range<usize>, key: &str) -> Range<usize> {
        let mut start = head.end;
        for line in self.text.get(head.end..).unwrap_or_default().split_inclusive('\n') {
            if line.trim_start().starts_with('[') {
                break;
            }
            let rest = line.trim_start().strip_prefix(key);
            if rest.is_some_and(|rest| rest.trim_start().starts_with('=')) {
                return start..start + line.len();
            }
            start += line.len();
        }
        head.clone()
    }

    fn line_at(&self, offset: usize) -> usize {
        let before = self.text.get(..offset).unwrap_or(self.text);
        before.matches('\n').count() + 1
    }
}
