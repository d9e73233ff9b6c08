//! How systemd sees the service, where there is a unit; and the credentials that it gave.

use std::{env, path::PathBuf, process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};

use super::Check;
use crate::token::Token;

const UNIT: &str = "monitor.service";

/// How long systemd may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn check() -> Vec<Check> {
    let mut checks: Vec<Check> = unit().await.into_iter().collect();
    checks.extend(credential());
    checks
}

async fn unit() -> Option<Check> {
    let name = "systemd unit";
    let mut ask = Command::new("systemctl");
    ask.args(["show", UNIT, "--property=LoadState,ActiveState,SubState,Result,StatusText"]);
    ask.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let answer = timeout(PATIENCE, ask.output()).await.ok()?.ok()?;
    let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
    let property = |key: &str| {
        let mut pairs = answer.lines().filter_map(|line| line.split_once('='));
        pairs
            .find(|(found, _)| *found == key)
            .map(|(_, value)| value.to_owned())
            .unwrap_or_default()
    };
    let (state, result) = (property("ActiveState"), property("Result"));
    match property("LoadState").as_str() {
        "loaded" => (),
        "masked" | "error" | "bad-setting" => {
            let found = format!("{UNIT} is {}", property("LoadState"));
            let way_out = format!("see: systemd-analyze verify {UNIT}; systemctl unmask {UNIT}");
            return Some(Check::failure(name, found, way_out));
        }
        // No systemd, or no unit.
        _ => return None,
    }
    Some(match state.as_str() {
        "active" => Check::ok(name, format!("{UNIT} is active: {}", property("StatusText"))),
        "failed" => Check::failure(
            name,
            format!("{UNIT} failed: {result}"),
            format!("see why: journalctl -u {UNIT} -n 50; then: systemctl restart {UNIT}"),
        ),
        "activating" if property("SubState") == "auto-restart" => Check::failure(
            name,
            format!("{UNIT} ends again and again: {result}"),
            format!("see why: journalctl -u {UNIT} -n 50"),
        ),
        "inactive" => Check::warning(
            name,
            format!("{UNIT} is not running"),
            format!("start it, now and at every boot: systemctl enable --now {UNIT}"),
        ),
        other => Check::ok(name, format!("{UNIT} is {other}")),
    })
}

/// The API token, where systemd gave one to this process.
fn credential() -> Option<Check> {
    let name = "systemd credential";
    let file = PathBuf::from(env::var_os("CREDENTIALS_DIRECTORY")?).join("api-token");
    Some(match Token::from_credential(&file) {
        Ok(Some(_)) => Check::ok(name, "systemd gave the API token"),
        Ok(None) => Check::ok(name, "systemd gave no API token; the one in the file counts"),
        Err(error) => Check::failure(
            name,
            format!("{error:#}"),
            "mend /etc/credstore/monitor.api-token: (umask 077; openssl rand -hex 32 > \
             /etc/credstore/monitor.api-token); then restart the service",
        ),
    })
}
