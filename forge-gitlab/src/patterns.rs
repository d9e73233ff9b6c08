//! Which files of a project a list of paths names, as artifacts and caches give them.
//!
//! A path is relative to the project's directory, or below it; it may hold `*`, `**`, `?`, `[…]` and
//! `{…,…}`. One that names a directory names all that is in it. Matching is done here and not in the guest,
//! which need only list its files.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// Paths that name files, and paths that take files out again.
pub(crate) struct Patterns {
    include: GlobSet,
    exclude: GlobSet,
    /// What to list, so that every file that may be named is in it: relative, without a `/` at the end.
    pub(crate) roots: Vec<String>,
    /// Paths that name nothing, and why.
    pub(crate) refused: Vec<String>,
}

impl Patterns {
    /// `dir` is the project's directory.
    pub(crate) fn new(dir: &str, include: &[String], exclude: &[String]) -> Self {
        let (mut roots, mut refused) = (Vec::new(), Vec::new());
        let mut set = |paths: &[String], roots: &mut Vec<String>| {
            let mut builder = GlobSetBuilder::new();
            for path in paths {
                match relative(dir, path) {
                    Ok(path) => {
                        roots.push(root(&path));
                        for glob in globs(&path) {
                            match GlobBuilder::new(&glob).literal_separator(true).build() {
                                Ok(glob) => drop(builder.add(glob)),
                                Err(error) => refused.push(format!("{path}: {}", error.kind())),
                            }
                        }
                    }
                    Err(reason) => refused.push(format!("{path}: {reason}")),
                }
            }
            builder.build().unwrap_or_else(|_| GlobSet::empty())
        };
        let include = set(include, &mut roots);
        let exclude = set(exclude, &mut Vec::new());
        roots.sort();
        roots.dedup();
        refused.dedup();
        Self { include, exclude, roots, refused }
    }

    /// Whether a file of this path, relative to the project's directory, is named.
    pub(crate) fn includes(&self, path: &str) -> bool {
        self.include.is_match(path) && self.keeps(path)
    }

    /// Whether a file that is named otherwise is not taken out.
    pub(crate) fn keeps(&self, path: &str) -> bool {
        path != ".git" && !path.starts_with(".git/") && !self.exclude.is_match(path)
    }
}

/// Itself, and all that is below it.
fn globs(path: &str) -> Vec<String> {
    match path {
        "." => vec!["**".to_owned()],
        path => vec![path.to_owned(), format!("{path}/**")],
    }
}

fn relative(dir: &str, path: &str) -> Result<String, &'static str> {
    let path = match path.strip_prefix(dir) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => rest.trim_start_matches('/'),
        _ => path,
    };
    if path.starts_with('/') {
        return Err("it is outside of the project's directory");
    }
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => (),
            ".." => return Err("it leads out of the project's directory"),
            part => parts.push(part),
        }
    }
    Ok(if parts.is_empty() { ".".to_owned() } else { parts.join("/") })
}

/// The part before the first component with a wildcard.
fn root(path: &str) -> String {
    let plain = |part: &&str| !part.contains(['*', '?', '[', '{', '\\']);
    let parts: Vec<&str> = path.split('/').take_while(plain).collect();
    if parts.is_empty() { ".".to_owned() } else { parts.join("/") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(include: &[&str], exclude: &[&str]) -> Patterns {
        let list = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        Patterns::new("/b/p", &list(include), &list(exclude))
    }

    #[test]
    fn a_table_of_paths() {
        for (include, exclude, path, expected) in [
            (&["out/"][..], &[][..], "out/a/b", true),
            (&["out"], &[], "out", true),
            (&["out"], &[], "outer", false),
            (&["*.txt"], &[], "a.txt", true),
            (&["*.txt"], &[], "d/a.txt", false),
            (&["**/*.txt"], &[], "a.txt", true),
            (&["**/*.txt"], &[], "d/e/a.txt", true),
            (&["d/*/x"], &[], "d/e/x/y", true),
            (&["./d/./f"], &[], "d/f", true),
            (&["/b/p/d"], &[], "d/f", true),
            (&["/b/pq/d"], &[], "d/f", false),
            (&["{a,b}/f"], &[], "b/f", true),
            (&["."], &[], "any/thing", true),
            (&["."], &[], ".git/config", false),
            (&["."], &[], ".gitignore", true),
            (&["out"], &["out/**/*.o"], "out/x/a.o", false),
            (&["out"], &["out/**/*.o"], "out/x/a.c", true),
            (&["out"], &["out/tmp"], "out/tmp/a", false),
        ] {
            let found = patterns(include, exclude).includes(path);
            assert_eq!(found, expected, "{path} in {include:?} without {exclude:?}");
        }
    }

    #[test]
    fn only_what_may_match_is_listed() {
        let all = patterns(&["out/*.log", "src/a", "target/**/x", "out/b?"], &["never"]);
        assert_eq!(all.roots, ["out", "src/a", "target"]);
        assert_eq!(patterns(&["*.log", "d"], &[]).roots, [".", "d"]);
    }

    #[test]
    fn what_leads_outside_is_refused() {
        let all = patterns(&["../x", "/etc/passwd", "a/../../b", "ok", "a[b"], &[]);
        assert_eq!(all.refused.len(), 4, "{:?}", all.refused);
        assert!(!all.includes("../x") && all.includes("ok"));
    }
}
