//! Finds out whether a GitLab can be used as an operator decided. Asks only: nothing changes there.

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use reqwest::{Method, RequestBuilder, StatusCode};
use runner_core::{Result, error::chain};
use serde::Deserialize;
use serde_json::json;

use crate::{
    client::{Client, Reply, send_once},
    config::{Administration, GitlabConfig, Place, ProfileConfig},
};

/// What an access token must be good for, where `api` is not among its scopes.
const SCOPES: [&str; 2] = ["create_runner", "manage_runner"];
/// How long before its end an access token is worth a word, in days.
const SOON: i64 = 14;

/// What was found of a GitLab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// This is as it should be.
    Well(String),
    /// This works, and should be seen to.
    Doubtful {
        /// What.
        found: String,
        /// What to do about it.
        way_out: String,
    },
    /// This is not as it should be.
    Wrong {
        /// What.
        found: String,
        /// What to do about it.
        way_out: String,
    },
}

impl Finding {
    fn wrong(found: impl Into<String>, way_out: impl Into<String>) -> Self {
        Self::Wrong { found: found.into(), way_out: way_out.into() }
    }
}

/// What GitLab says of an access token.
#[derive(Deserialize)]
struct Token {
    scopes: Vec<String>,
    expires_at: Option<Date>,
}

/// Looks at a GitLab as `config` wants to use it.
///
/// # Errors
/// `Invalid` for a configuration that cannot work.
pub async fn examine(config: &GitlabConfig, now: Timestamp) -> Result<Vec<Finding>> {
    config.check()?;
    let client = Client::new(config)?;
    let mut findings = Vec::new();
    if let Some(administration) = &config.administration {
        let asked = administrator(&client, administration, now).await;
        let is_well = !asked.iter().any(|finding| matches!(finding, Finding::Wrong { .. }));
        findings.extend(asked);
        if is_well {
            findings.push(place(&client, administration).await);
        }
    }
    for profile in &config.profiles {
        if let Some(token) = &profile.token {
            findings.push(runner(&client, profile, token.expose()).await);
        }
    }
    Ok(findings)
}

/// Whether the token with which runners are made is good for that.
async fn administrator(
    client: &Client,
    administration: &Administration,
    now: Timestamp,
) -> Vec<Finding> {
    let mend = format!(
        "make an access token with the scopes {} and put it where the configuration says",
        SCOPES.join(" and ")
    );
    let request = client.request(Method::GET, "personal_access_tokens/self");
    let request = request.header("PRIVATE-TOKEN", administration.token.expose());
    let reply = match ask(request).await {
        Ok(reply) => reply,
        Err(finding) => return vec![finding],
    };
    if reply.status != StatusCode::OK {
        return vec![Finding::wrong(reply.complaint(), mend)];
    }
    let Ok(token) = reply.json::<Token>("look at a token") else {
        let found = "what answers there is no GitLab, or one before 15.0";
        return vec![Finding::wrong(found, "name GitLab's address in url")];
    };
    let missing: Vec<&str> = match token.scopes.iter().any(|scope| scope == "api") {
        true => Vec::new(),
        false => {
            let has = |wanted: &&str| token.scopes.iter().any(|scope| scope == wanted);
            SCOPES.into_iter().filter(|scope| !has(scope)).collect()
        }
    };
    if !missing.is_empty() {
        let found = format!("the token lacks the scope {}", missing.join(" and "));
        return vec![Finding::wrong(found, mend)];
    }
    let mut findings =
        vec![Finding::Well(format!("the token is good for {}", token.scopes.join(", ")))];
    if let Some(end) = token.expires_at {
        let today = now.to_zoned(TimeZone::UTC).date();
        let days = today.until(end).map_or(0, |span| i64::from(span.get_days()));
        if days < SOON {
            let found = format!("the token ends on {end}");
            findings.push(Finding::Doubtful { found, way_out: mend });
        }
    }
    findings
}

/// Whether the token's owner may look after runners of the place.
async fn place(client: &Client, administration: &Administration) -> Finding {
    let (path, shown, role) = match administration.place {
        Place::Instance => ("runners/all".to_owned(), "the instance".to_owned(), "administrator"),
        Place::Group(id) => (format!("groups/{id}/runners"), format!("group {id}"), "Owner"),
        Place::Project(id) => {
            (format!("projects/{id}/runners"), format!("project {id}"), "Maintainer")
        }
    };
    let request = client.request(Method::GET, &format!("{path}?per_page=1"));
    match ask(request.header("PRIVATE-TOKEN", administration.token.expose())).await {
        Err(finding) => finding,
        Ok(reply) if reply.status == StatusCode::OK => {
            Finding::Well(format!("its owner sees the runners of {shown}"))
        }
        Ok(reply) if reply.status == StatusCode::NOT_FOUND => Finding::wrong(
            format!("there is no {shown}, or the token's owner does not see it"),
            "write the number that GitLab's pages show, and make the token's owner a member",
        ),
        Ok(reply) => Finding::wrong(
            format!(
                "the token's owner may not look after runners of {shown}: {}",
                reply.complaint()
            ),
            format!("give the token's owner the role {role}"),
        ),
    }
}

/// Whether the token of a runner that was made by hand is known.
async fn runner(client: &Client, profile: &ProfileConfig, token: &str) -> Finding {
    let name = &profile.profile;
    let request = client.request(Method::POST, "runners/verify").json(&json!({ "token": token }));
    match ask(request).await {
        Err(finding) => finding,
        Ok(reply) if reply.status == StatusCode::OK => {
            Finding::Well(format!("the runner of profile {name} is known"))
        }
        Ok(reply) => Finding::wrong(
            format!("the runner's token of profile {name} is not good: {}", reply.complaint()),
            "create a runner on GitLab's pages, and write its token where runner_token says",
        ),
    }
}

async fn ask(request: RequestBuilder) -> Result<Reply, Finding> {
    send_once("answer", request).await.map_err(|error| {
        let way_out =
            "see whether url is right, and whether this host reaches it and trusts its certificate";
        Finding::wrong(format!("it does not answer: {}", chain(&error)), way_out)
    })
}
