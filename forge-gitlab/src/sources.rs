//! Puts the job's commit into the guest with the guest's own git.
//!
//! What the payload says reaches git as words, never as text of a script. The job's token is in the
//! environment of this one process: the address that stays in `.git/config` is without it.

use runner_core::{Error, Result, guest::Command};
use url::Url;

use crate::{payload::Payload, variables::Variables};

/// `$1` is the directory; the rest are the words for fetch: options, the remote and the refspecs.
const SCRIPT: &str = r#"set -ef
dir=$1; shift
git --version >/dev/null || { echo "the machine has no git"; exit 69; }
[ "$GL_STRATEGY" != clone ] || rm -rf -- "$dir"
if [ ! -d "$dir/.git" ]; then
    if [ "$GL_FORMAT" = sha256 ]; then
        git init -q --object-format=sha256 -- "$dir"
    else
        git init -q -- "$dir"
    fi
fi
cd -- "$dir"
rm -f .git/index.lock .git/shallow.lock .git/HEAD.lock .git/config.lock
# The machine is of one job alone, and its image may have been filled by somebody else.
git config --global --replace-all safe.directory "*"
git config fetch.recurseSubmodules false
git remote add origin "$GL_URL" 2>/dev/null || git remote set-url origin "$GL_URL"
echo "Fetching changes${GL_DEPTH:+ with git depth set to $GL_DEPTH}..."
git fetch ${GL_DEPTH:+--depth "$GL_DEPTH"} --force "$@"
[ "$GL_CHECKOUT" != no ] || { echo "Skipping Git checkout"; exit 0; }
echo "Checking out $(printf %.8s "$GL_SHA") as detached HEAD (ref is $GL_REF)..."
git -c advice.detachedHead=false checkout -f -q "$GL_SHA"
[ -z "$GL_CLEAN" ] || git clean $GL_CLEAN
! git lfs version >/dev/null 2>&1 || git lfs pull
case $GL_SUBMODULES in
    normal) recursive= ;;
    recursive) recursive=--recursive ;;
    *) echo "Skipping Git submodules setup"; exit 0 ;;
esac
echo "Updating/initializing submodules..."
git submodule sync $recursive -- $GL_SUBMODULE_PATHS
git submodule update --init $recursive ${GL_SUBMODULE_DEPTH:+--depth "$GL_SUBMODULE_DEPTH"} --force \
    $GL_SUBMODULE_FLAGS -- $GL_SUBMODULE_PATHS
[ -z "$GL_CLEAN" ] || git submodule foreach -q $recursive "git clean $GL_CLEAN"
"#;

/// What to do about sources.
pub(crate) enum Sources {
    /// Nothing.
    None,
    /// An empty directory.
    Empty,
    /// Run this.
    Git(Box<Command>),
}

/// How often fetching is tried that fails: 1 to 10.
pub(crate) fn attempts(variables: &Variables) -> u32 {
    let wanted = variables.value("GET_SOURCES_ATTEMPTS").and_then(|text| text.parse().ok());
    wanted.unwrap_or(1).clamp(1, 10)
}

/// What `GIT_STRATEGY` and the others of its kind ask for.
///
/// # Errors
/// `Invalid` for an address that cannot be fetched from, and values that are none.
pub(crate) fn sources(job: &Payload, variables: &Variables, dir: &str) -> Result<Sources> {
    let git = &job.git_info;
    let default = if job.allow_git_fetch { "fetch" } else { "clone" };
    let strategy = variables.value("GIT_STRATEGY").unwrap_or_else(|| default.to_owned());
    match strategy.as_str() {
        "none" => return Ok(Sources::None),
        "empty" => return Ok(Sources::Empty),
        "fetch" | "clone" => (),
        other => return Err(Error::invalid("GIT_STRATEGY", format!("{other:?} is not known"))),
    }
    let invalid = |what: &str, reason: &str| Error::invalid(what, reason);
    let mut plain = Url::parse(&git.repo_url)
        .map_err(|_| invalid("the repository's address", "it cannot be read"))?;
    if !matches!(plain.scheme(), "http" | "https" | "file") {
        return Err(invalid("the repository's address", "use https"));
    }
    let with_token = plain.clone();
    // Addresses without a host have no user either.
    let _ = plain.set_username("").and_then(|()| plain.set_password(None));
    if git.sha.is_empty() || !git.sha.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(invalid("the commit", "it is no hash"));
    }
    let depth = match variables.value("GIT_DEPTH") {
        Some(text) => text.parse().map_err(|_| invalid("GIT_DEPTH", "it is no number"))?,
        None => git.depth,
    };
    let clean = match variables.value("GIT_CLEAN_FLAGS") {
        None => "-ffdx".to_owned(),
        Some(flags) if flags == "none" => String::new(),
        Some(flags) => flags,
    };
    let no_checkout = variables.value("GIT_CHECKOUT").is_some_and(|text| text == "false");
    let options = match variables.value("GIT_FETCH_EXTRA_FLAGS") {
        None => vec!["--prune".to_owned(), "--quiet".to_owned()],
        Some(flags) => flags.split_whitespace().map(str::to_owned).collect(),
    };
    let mut argv = ["/bin/sh", "-c", SCRIPT, "sources", dir].map(str::to_owned).to_vec();
    argv.extend(options);
    argv.push("--".to_owned());
    argv.push("origin".to_owned());
    argv.extend(git.refspecs.iter().cloned());
    let mut env = variables.environment();
    let number = |number: u64| if number == 0 { String::new() } else { number.to_string() };
    let submodule_depth = variables.value("GIT_SUBMODULE_DEPTH").and_then(|text| text.parse().ok());
    let mut set = |key: &str, value: String| drop(env.insert(key.to_owned(), value));
    set("GL_STRATEGY", strategy);
    set("GL_FORMAT", git.repo_object_format.clone().unwrap_or_default());
    set("GL_URL", plain.to_string());
    set("GL_DEPTH", number(depth));
    set("GL_SHA", git.sha.clone());
    set("GL_REF", git.reference.clone());
    set("GL_CHECKOUT", if no_checkout { "no" } else { "yes" }.to_owned());
    set("GL_CLEAN", clean);
    set("GL_SUBMODULES", variables.value("GIT_SUBMODULE_STRATEGY").unwrap_or_default());
    set("GL_SUBMODULE_PATHS", variables.value("GIT_SUBMODULE_PATHS").unwrap_or_default());
    set("GL_SUBMODULE_FLAGS", variables.value("GIT_SUBMODULE_UPDATE_FLAGS").unwrap_or_default());
    set("GL_SUBMODULE_DEPTH", number(submodule_depth.unwrap_or(depth)));
    set("GIT_TERMINAL_PROMPT", "0".to_owned());
    if with_token.password().is_some() {
        // For submodules of the same server as well.
        let root = |url: &Url| {
            let mut root = url.clone();
            root.set_path("/");
            root.to_string()
        };
        set("GIT_CONFIG_COUNT", "1".to_owned());
        set("GIT_CONFIG_KEY_0", format!("url.{}.insteadOf", root(&with_token)));
        set("GIT_CONFIG_VALUE_0", root(&plain));
    }
    let command = Command { argv, env, working_dir: None, merge_stderr: true };
    Ok(Sources::Git(Box::new(command)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn command(variables: serde_json::Value, url: &str, sha: &str) -> Result<Sources> {
        let job: Payload = serde_json::from_value(json!({
            "id": 1, "token": "t", "variables": variables, "allow_git_fetch": true,
            "git_info": {"repo_url": url, "ref": "main", "sha": sha, "depth": 20,
                "refspecs": ["+refs/heads/main:refs/remotes/origin/main"]},
        }))
        .ok()
        .unwrap();
        let all = Variables::new(&job, &[], "/f".to_owned());
        sources(&job, &all, "/b/p")
    }

    #[test]
    fn the_token_is_in_no_argument_and_not_in_the_address_that_stays() {
        let url = "https://gitlab-ci-token:sec-ret@gitlab.example/g/p.git";
        let Ok(Sources::Git(command)) = command(json!([]), url, "abc123") else { panic!() };
        assert!(!command.argv.iter().any(|word| word.contains("sec-ret")));
        assert_eq!(command.env["GL_URL"], "https://gitlab.example/g/p.git");
        assert_eq!(command.env["GIT_CONFIG_VALUE_0"], "https://gitlab.example/");
        assert!(command.env["GIT_CONFIG_KEY_0"].contains("sec-ret@gitlab.example/.insteadOf"));
        assert_eq!(command.env["GL_DEPTH"], "20");
    }

    #[test]
    fn what_cannot_be_fetched_is_refused() {
        let set = |key: &str, value: &str| json!([{"key": key, "value": value}]);
        let url = "https://host/p.git";
        assert!(command(json!([]), url, "--upload-pack=x").is_err());
        assert!(command(json!([]), "ext::sh -c x", "abc").is_err());
        assert!(command(json!([]), "ssh://host/p.git", "abc").is_err());
        assert!(command(set("GIT_STRATEGY", "guess"), url, "abc").is_err());
        assert!(command(set("GIT_DEPTH", "x"), url, "abc").is_err());
        assert!(matches!(command(set("GIT_STRATEGY", "none"), url, ""), Ok(Sources::None)));
        assert!(matches!(command(set("GIT_STRATEGY", "empty"), url, ""), Ok(Sources::Empty)));
    }
}
