//! Whether each GitLab answers, knows our tokens, and lets us look after runners.

use super::{Check, Subject};
use crate::compose::{self, GitlabFinding};

pub(super) async fn check(subject: &Subject) -> Vec<Check> {
    let mut checks = Vec::new();
    for section in &subject.config.gitlabs {
        let name = format!("forge {}", section.name);
        match compose::examine_gitlab(section, &subject.data_dir).await {
            Ok(findings) => checks.extend(findings.into_iter().map(|finding| match finding {
                GitlabFinding::Well(found) => Check::ok(&name, found),
                GitlabFinding::Doubtful { found, way_out } => Check::warning(&name, found, way_out),
                GitlabFinding::Wrong { found, way_out } => Check::failure(&name, found, way_out),
            })),
            Err(error) => {
                let way_out = "put it where the configuration says, readable by the service's user";
                checks.push(Check::failure(&name, format!("{error:#}"), way_out));
            }
        }
    }
    checks
}
