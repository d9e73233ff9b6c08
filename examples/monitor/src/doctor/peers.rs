//! Whether each monitor of `queue.servers` can be asked for workers.

use super::{Check, Subject};
use crate::peers::{self, Survey};

pub(super) async fn check(subject: &Subject, say: &impl Fn(&str)) -> Vec<Check> {
    let servers = subject.config.servo.iter().flat_map(|servo| &servo.servers);
    let mut checks = Vec::new();
    for server in servers {
        let name = format!("monitor {}", server.name);
        say(&name);
        checks.push(match peers::survey(server).await {
            Survey::Unheard(why) => {
                let way_out = "see whether it runs, and whether this host reaches the `url` in queue.servers; \
                               whoever waits is served without it until then";
                Check::warning(&name, why, way_out)
            }
            Survey::Refused(why) => Check::warning(
                &name,
                format!("it may be looked at, and reserves nothing: {why}"),
                "a token that may reserve has the role operate there; its file here is read each time",
            ),
            Survey::Well(idle) => of(subject, &name, &idle),
        });
    }
    checks
}

/// What a monitor that answers is good for: its idle workers by profile.
fn of(subject: &Subject, name: &str, idle: &peers::Idle) -> Check {
    let ours = subject.config.profiles.iter().map(|profile| &profile.name);
    let shared: Vec<String> = ours
        .filter_map(|profile| Some(format!("{} idle of {profile}", idle.get(profile)?)))
        .collect();
    if shared.is_empty() {
        let way_out =
            "name a profile alike here and there: whoever waits here for one is served from there";
        return Check::warning(name, "it has none of the profiles that are offered here", way_out);
    }
    Check::ok(name, format!("it lends workers: {}", shared.join(", ")))
}
