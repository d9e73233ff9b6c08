//! Whether the `gitlab-runner` lives that a job belongs to. It takes up no job of a predecessor: when it is
//! dead, so are its jobs.

use std::{fs, io};

use serde::{Deserialize, Serialize};

const PROGRAM: &str = "gitlab-runner";

/// A process of this host, told from all others that had its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pid: u32,
    /// In ticks since the host booted.
    started: u64,
    boot: String,
}

struct Stat {
    program: String,
    is_dead: bool,
    parent: u32,
    started: u64,
}

impl Process {
    /// The `gitlab-runner` that called us, with whatever programs between. None if nothing is called so.
    pub fn caller() -> Option<Self> {
        let boot = boot()?;
        let mut pid = std::os::unix::process::parent_id();
        while pid > 0 {
            let stat = stat(pid).ok().flatten()?;
            if stat.program == PROGRAM {
                return Some(Self { pid, started: stat.started, boot });
            }
            pid = stat.parent;
        }
        None
    }

    /// False only for what is dead for certain.
    pub fn may_live(&self) -> bool {
        match (boot(), stat(self.pid)) {
            (Some(boot), _) if boot != self.boot => false,
            (_, Ok(Some(stat))) => stat.started == self.started && !stat.is_dead,
            (_, Ok(None)) => false,
            (_, Err(_)) => true,
        }
    }
}

fn boot() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim().to_owned())
}

/// None if there is no such process.
fn stat(pid: u32) -> io::Result<Option<Stat>> {
    let text = match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text?,
    };
    let odd = || io::Error::other(format!("/proc/{pid}/stat cannot be understood"));
    // The name may hold anything, parentheses too.
    let (head, tail) = text.rsplit_once(") ").ok_or_else(odd)?;
    let (_, program) = head.split_once('(').ok_or_else(odd)?;
    let fields: Vec<&str> = tail.split(' ').collect();
    let number = |n: usize| fields.get(n).and_then(|field| field.parse::<u64>().ok());
    Ok(Some(Stat {
        program: program.to_owned(),
        is_dead: matches!(fields.first(), Some(&("Z" | "X"))),
        parent: number(1).and_then(|pid| u32::try_from(pid).ok()).ok_or_else(odd)?,
        started: number(19).ok_or_else(odd)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_its_successors() {
        let pid = std::process::id();
        let me =
            Process { pid, started: stat(pid).unwrap().unwrap().started, boot: boot().unwrap() };
        assert!(me.may_live());
        assert!(!Process { started: me.started + 1, ..me.clone() }.may_live());
        assert!(!Process { boot: "another".to_owned(), ..me.clone() }.may_live());
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let started = stat(child.id()).unwrap().unwrap().started;
        let it = Process { pid: child.id(), started, ..me };
        assert!(it.may_live());
        child.kill().unwrap();
        while it.may_live() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!it.may_live());
    }
}
