//! The configuration of the official `gitlab-runner`, with the runners that are kept here.
//!
//! For operators who let that program serve a profile, or who move away: the tokens are the same, so jobs
//! find the same runners. Two programs must not serve one runner at the same time.

use runner_core::Result;

use crate::{config::GitlabConfig, runners};

/// A `config.toml` for `gitlab-runner`, with a `[[runners]]` for each profile that has a token. It holds the
/// tokens: keep it with mode 0600.
///
/// `executor` is one of gitlab-runner's, such as `shell` or `custom`; its own settings are left to the reader.
///
/// # Errors
/// `Backend` when what is kept cannot be read.
pub fn config_toml(config: &GitlabConfig, executor: &str) -> Result<String> {
    let mut text = format!("concurrent = {}\ncheck_interval = 0\n", config.profiles.len().max(1));
    for profile in config.profiles.iter().filter(|profile| profile.exposed) {
        let Some((id, token)) = runners::kept_token(config, profile)? else { continue };
        text.push_str("\n[[runners]]\n");
        let mut line = |key: &str, value: &str| {
            text.push_str(&format!("  {key} = {}\n", basic_string(value)));
        };
        line("name", &profile.description);
        line("url", config.url.as_str());
        line("token", token.expose());
        line("executor", executor);
        line("builds_dir", &config.builds_dir);
        if let Some(id) = id {
            text.push_str(&format!("  id = {id}\n"));
        }
        text.push_str(&format!(
            "  limit = 1\n  output_limit = {}\n",
            config.limits.trace_bytes >> 10
        ));
    }
    Ok(text)
}

/// As TOML writes text.
fn basic_string(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use runner_core::{OwnerId, ProfileName, Secret};

    use super::*;
    use crate::ProfileConfig;

    #[test]
    fn it_says_what_gitlab_runner_reads() {
        let directory = tempfile::tempdir().unwrap();
        let owner = OwnerId::new("tests").unwrap();
        let url = "https://gitlab.example.org/".parse().unwrap();
        let mut config = GitlabConfig::new(url, directory.path(), owner);
        for (name, token) in [("a", Some("glrt-1")), ("b", None)] {
            let mut profile = ProfileConfig::new(ProfileName::new(name).unwrap());
            profile.token = token.map(|token| Secret::new(token.to_owned()));
            profile.description = "the \"best\" \\ of\nall".to_owned();
            config.profiles.push(profile);
        }
        let text = config_toml(&config, "shell").unwrap();
        let read: toml::Table = text.parse().unwrap();
        let runners = read["runners"].as_array().unwrap();
        assert_eq!(runners.len(), 1, "one has no token yet");
        assert_eq!(runners[0]["name"].as_str(), Some("the \"best\" \\ of\nall"));
        assert_eq!(runners[0]["token"].as_str(), Some("glrt-1"));
        assert_eq!(runners[0]["url"].as_str(), Some("https://gitlab.example.org/"));
        assert_eq!(runners[0]["output_limit"].as_integer(), Some(4096));
        assert_eq!(read["concurrent"].as_integer(), Some(2));
    }
}
