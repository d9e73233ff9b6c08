//! The environment of a command: the agent's own, and what the command adds.

use std::collections::BTreeMap;

use runner_core::guest::Command;

/// For guests whose agent has none, such as one started by a kernel's first process.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The agent's environment with `command`'s on top, as `NAME=value`. An agent that is told an environment
/// passes on nothing else, hence the merge.
pub(crate) fn merged(agent: &BTreeMap<String, String>, command: &Command) -> Vec<String> {
    let mut all = agent.clone();
    all.entry("PATH".to_owned()).or_insert_with(|| DEFAULT_PATH.to_owned());
    all.extend(command.env.clone());
    all.iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// Reads what `/proc/PID/environ` holds.
pub(crate) fn parse(environ: &[u8]) -> BTreeMap<String, String> {
    environ
        .split(|byte| *byte == 0)
        .filter_map(|entry| {
            let (name, value) = std::str::from_utf8(entry).ok()?.split_once('=')?;
            (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_wins_over_the_agent() {
        let agent = parse(b"HOME=/\0A=1\0=odd\0broken\0B=x=y\0");
        let mut command = Command::new(["true"]);
        command.env = [("A".to_owned(), "2".to_owned())].into();
        let path = format!("PATH={DEFAULT_PATH}");
        assert_eq!(merged(&agent, &command), ["A=2", "B=x=y", "HOME=/", &path]);
    }
}
