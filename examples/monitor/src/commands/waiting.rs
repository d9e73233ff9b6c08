//! Says what a job waits for, as long as it waits.

use std::time::Duration;

use serde::Deserialize;

use crate::client::{Client, ClientError};

/// How often to look.
const PAUSE: Duration = Duration::from_millis(250);

#[derive(Deserialize)]
struct EventPage {
    events: Vec<Event>,
    next: u64,
}

#[derive(Deserialize)]
struct Event {
    id: u64,
    subject: String,
    text: String,
}

/// Tells of everything that happens to images, machines and the job itself until a machine has the job.
/// Returns when there is nothing to tell any more, also when the service does not answer.
pub async fn tell(client: &Client, id: &str, say: impl Fn(String)) {
    // What was decided a moment after the job came may be told already; what came before it is not its.
    let Ok(EventPage { events, .. }) = client.list("/events?limit=100").await else { return };
    let is_it = |event: &&Event| event.subject.ends_with(id);
    let Some(mut next) = events.iter().find(is_it).map(|event| event.id) else { return };
    loop {
        let waits = client.job(id).await.is_ok_and(|job| job.state == "queued");
        let page: Result<EventPage, ClientError> =
            client.list(&format!("/events?after={next}&limit=200")).await;
        let Ok(page) = page else { return };
        next = page.next;
        if !waits {
            return;
        }
        let concerns = |event: &&Event| {
            let kinds = ["image of ", "profile ", "worker ", "hypervisor"];
            kinds.iter().any(|kind| event.subject.starts_with(kind)) || event.subject.contains(id)
        };
        for event in page.events.iter().filter(concerns) {
            say(event.text.clone());
        }
        tokio::time::sleep(PAUSE).await;
    }
}
