//! Whether QEMU is there, new enough, and has the devices that machines get.

use std::{path::Path, process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};

use super::Check;

/// The oldest version that the tests have seen.
const OLDEST: (u32, u32) = (7, 2);

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What every machine has.
const DEVICES: [&str; 7] = [
    "VGA",
    "pvpanic-pci",
    "virtio-blk-pci",
    "virtio-net-pci",
    "virtio-rng-pci",
    "virtio-serial-pci",
    "virtserialport",
];

pub(super) async fn check(program: &Path) -> Vec<Check> {
    let program = program.display().to_string();
    let install = "install it: apt install qemu-system-x86, or name it in [qemu] binary";
    let version = match ask(&program, &["--version"]).await {
        Ok(answer) => answer,
        Err(error) => {
            let found = format!("{program} cannot be run: {error}");
            return vec![Check::failure("QEMU", found, install)];
        }
    };
    let first = version.lines().next().unwrap_or_default();
    let Some(number) = number(first) else {
        let found = format!("{program} says it is {first:?}, which is no QEMU");
        return vec![Check::failure("QEMU", found, install)];
    };
    let mut checks = vec![if number < OLDEST {
        let found = format!("{first} is older than {}.{}", OLDEST.0, OLDEST.1);
        Check::warning("QEMU", found, "use a newer one; nobody has tried this one")
    } else {
        Check::ok("QEMU", first)
    }];
    checks.push(devices(&program).await);
    checks
}

async fn devices(program: &str) -> Check {
    let name = "QEMU devices";
    let way_out = "install the full QEMU of the distribution: apt install qemu-system-x86";
    let all = async {
        Ok::<_, String>((
            ask(program, &["-device", "help"]).await?,
            ask(program, &["-netdev", "help"]).await?,
        ))
    };
    let (devices, networks) = match all.await {
        Ok(answers) => answers,
        Err(error) => {
            return Check::failure(name, format!("they cannot be listed: {error}"), way_out);
        }
    };
    let has = |device: &str| devices.contains(&format!("name \"{device}\""));
    let mut missing: Vec<&str> = DEVICES.into_iter().filter(|device| !has(device)).collect();
    if !networks.lines().any(|line| line.trim() == "user") {
        missing.push("user networking");
    }
    if missing.is_empty() {
        Check::ok(name, "it has all that machines need")
    } else {
        Check::failure(name, format!("it lacks {}", missing.join(", ")), way_out)
    }
}

async fn ask(program: &str, args: &[&str]) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await;
    let output = output.map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()))?;
    let output = output.map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{}: {}", output.status, complaint.lines().next().unwrap_or("it said nothing")))
}

/// `QEMU emulator version 7.2.17 (Debian …)` is 7.2.
fn number(line: &str) -> Option<(u32, u32)> {
    let rest = line.strip_prefix("QEMU emulator version ")?;
    let mut parts = rest.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(number("QEMU emulator version 7.2.17 (Debian 1:7.2+dfsg-7)"), Some((7, 2)));
        assert_eq!(number("QEMU emulator version 10.0.0"), Some((10, 0)));
        assert_eq!(number("something 1.2"), None);
    }
}
