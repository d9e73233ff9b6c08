//! What the guest's shell is given: a script that shows and runs the lines of a step.
//!
//! A job's own lines are the job's own program and go into the file as they are. Everything else of a
//! payload reaches a shell as an argument or in the environment, or between quotes that [`quote`] makes.

use runner_core::guest::Command;

use crate::{payload::Step, variables::Variables};

/// Runs a script by the shell that jobs expect, if the guest has it, or else by `sh`.
const LAUNCH: &str =
    r#"if command -v bash >/dev/null 2>&1; then exec bash -- "$1"; fi; exec sh -- "$1""#;

/// The text of a script for these lines.
pub(crate) fn text(lines: &[String]) -> String {
    let mut text = String::from(
        "set -e\nif (set -o pipefail) 2>/dev/null; then set -o pipefail; fi\nset +o noclobber\n",
    );
    for line in lines.iter().map(|line| line.trim()) {
        let mut shown = line.lines();
        let first = shown.next().unwrap_or_default();
        let more = if shown.next().is_some() { " # collapsed multi-line command" } else { "" };
        let shown = quote(&format!("\x1b[32;1m$ {first}{more}\x1b[0;m"));
        text.push_str(&format!("printf '%s\\n' {shown}\n{line}\n"));
    }
    text
}

/// Runs the script at `path` with the job's variables.
pub(crate) fn command(path: &str, dir: &str, variables: &Variables) -> Command {
    Command {
        argv: ["/bin/sh", "-c", LAUNCH, "sh", path].map(str::to_owned).to_vec(),
        env: variables.environment(),
        working_dir: Some(dir.to_owned()),
        merge_stderr: true,
    }
}

/// A word that a shell takes for exactly this text.
pub(crate) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Whether a step is the one that clears up: it runs whatever happened, for a short time, and its own
/// outcome is of no account.
pub(crate) fn is_after_script(step: &Step) -> bool {
    step.name == "after_script"
}

#[cfg(test)]
mod tests {
    use std::process;

    use super::*;

    fn run(shell: &str, lines: &[&str]) -> (Option<i32>, String) {
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("script");
        std::fs::write(&path, text(&lines)).unwrap();
        let output = process::Command::new(shell).arg(&path).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout)
            .replace("\x1b[32;1m", "")
            .replace("\x1b[0;m", "");
        (output.status.code(), text)
    }

    #[test]
    fn each_line_is_shown_and_run_until_one_fails() {
        for shell in ["sh", "bash"] {
            let (code, text) =
                run(shell, &["echo 'it'\\''s'", "cd /", "pwd", "(exit 7)", "echo never"]);
            assert_eq!(code, Some(7), "{shell}");
            assert_eq!(text, "$ echo 'it'\\''s'\nit's\n$ cd /\n$ pwd\n/\n$ (exit 7)\n", "{shell}");
        }
    }

    #[test]
    fn lines_are_one_program() {
        let lines =
            ["if true; then", "X='a b'", "fi", "echo \"$X\"", "for i in 1 2\ndo echo $i\ndone"];
        let (code, text) = run("sh", &lines);
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("\na b\n") && text.ends_with("\n1\n2\n"), "{text}");
        assert!(text.contains("$ for i in 1 2 # collapsed multi-line command"), "{text}");
    }

    #[test]
    fn what_is_shown_is_not_run() {
        let (code, text) = run("sh", &["true '$(exit 3)' `true` # $(exit 4)", "true \\\\ %s %d"]);
        assert_eq!(code, Some(0));
        assert_eq!(text, "$ true '$(exit 3)' `true` # $(exit 4)\n$ true \\\\ %s %d\n");
    }
}
