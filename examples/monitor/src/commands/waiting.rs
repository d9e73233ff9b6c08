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
    subject: String,
    text: String,
}

/// Tells of everything that happens to images, machines and the job itself until a machine has the job.
/// Returns when there is nothing to tell any more, also when the service does not answer.
pub async fn tell(client: &Client, id: &str, say: impl Fn(String)) {
    let Ok(EventPage { mut next, .. }) = client.list("/events?limit=1").await else { return };
    // What was decided a moment before the job came concerns it too.
    next = next.saturating_sub(20);
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
