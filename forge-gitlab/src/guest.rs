//! The inside of a Linux guest in which GitLab's own runner program takes the job: a shell script, and what it
//! is given.
//!
//! [`START`] runs at boot: it takes the runner's token from the machine's user data, has `gitlab-runner
//! run-single` run one job, and switches the machine off. It is plain POSIX shell, with a test on busybox in
//! a real machine.

use runner_core::{Error, Result, Secret};
use url::Url;

/// To be run at boot, as root.
pub const START: &str = include_str!("../guest/start.sh");

/// What [`START`] is to find as the machine's user data.
///
/// # Errors
/// `Invalid` for a token that is more than one word.
pub fn user_data(url: &Url, token: &Secret<String>) -> Result<Secret<String>> {
    let text = token.expose();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._=-".contains(&b);
    if text.is_empty() || !text.bytes().all(plain) {
        let reason = "it must be one word of letters, digits and ._=-";
        return Err(Error::invalid("the token of a runner", reason));
    }
    Ok(Secret::new(format!("gitlab-url={url}\ngitlab-token={text}\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_is_lines_that_no_token_can_add_to() {
        let url: Url = "https://gitlab.example.org/sub".parse().unwrap();
        let data = user_data(&url, &Secret::new("glrt-t1_abc.01".to_owned())).unwrap();
        let expected = "gitlab-url=https://gitlab.example.org/sub\ngitlab-token=glrt-t1_abc.01\n";
        assert_eq!(data.expose(), expected);
        for odd in ["", "a b", "a\ngitlab-url=http://evil", "$(reboot)"] {
            assert!(user_data(&url, &Secret::new(odd.to_owned())).is_err(), "{odd}");
        }
    }
}
