//! A profile whose jobs come from a runner scale set: heard, registered and run through the forge.

mod github;

use std::{sync::Arc, time::Duration};

use fake_github::{Conclusion, JobRequest};
use forge_github::{
    Credentials, HttpTransport, ScaleSetListener, SecretFrom, SourceKind,
    scale_set::{ActionsService, ListenerConfig, ProgressFile, ScaleSetSpec},
};
use github::{MARKED, PROFILE, assert_clean, fixture, impatient, open, spec};
use runner_core::{Clock, Forge, ProfileName};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn a_scale_sets_job_runs_on_a_runner_that_the_scale_set_registered() {
    let fixture = fixture().await;
    fixture.github.set_must_acquire(false);
    let profile = ProfileName::new(PROFILE).unwrap();
    let transport = Arc::new(HttpTransport::new(b"").unwrap());
    let client = fixture.client().clone();
    let place = client.place().clone();
    let service = ActionsService::new(Arc::new(client), transport, place, Clock::system());
    let set = ScaleSetSpec { name: "linux-set".to_owned(), labels: Vec::new(), group: None };
    let directory = tempfile::tempdir().unwrap();
    let progress = Arc::new(ProgressFile::new(directory.path().join("progress.json")));
    let config = ListenerConfig::new(set, profile.clone(), "this-host");
    let listener = Arc::new(ScaleSetListener::new(config, service, progress));
    listener.set_capacity(2);
    let credentials = Credentials::Token(SecretFrom::File(fixture.token_file.clone()));
    let forge = open(
        &fixture.github,
        "acme",
        credentials,
        |_| {},
        |config| {
            impatient(config);
            config.sources.push(listener.clone());
            config.registrars.push(listener.clone());
            let profile = config.profiles.get_mut(&profile).unwrap();
            profile.sources = vec![SourceKind::ScaleSet, SourceKind::Poll];
        },
    );

    // Nobody listens yet: asking takes over.
    forge.queued_jobs().await.unwrap();
    assert_eq!(forge.figures().active[&profile], Some(SourceKind::Poll));
    let cancel = CancellationToken::new();
    let (running, until) = (listener.clone(), cancel.clone());
    let run = tokio::spawn(async move { running.run(&until).await });
    fixture.github.enqueue(JobRequest::new("acme/widgets", ["linux-set"])).unwrap();
    while forge.queued_jobs().await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(forge.figures().active[&profile], Some(SourceKind::ScaleSet));
    let job = forge.queued_jobs().await.unwrap().remove(0);
    assert_eq!(job.profile, Some(profile));

    // The name has the owner's mark, and the job goes there although its label is the scale set's.
    let registration = forge.register(&spec("a-1")).await.unwrap();
    assert_eq!(fixture.truth(), [MARKED]);
    assert_eq!(forge.figures().budget.mints, 1, "there is one budget for all registrations");
    let session = fixture.github.connect(registration.secret.unwrap().expose()).unwrap();
    let assigned = fixture.github.next_job(&session, Duration::from_secs(10)).await.unwrap();
    assert!(assigned.is_some());
    assert!(forge.deregister(&registration.id).await.unwrap_err().is_busy());
    fixture.github.finish(&session, Conclusion::Success).unwrap();
    while !forge.queued_jobs().await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    forge.deregister(&registration.id).await.unwrap();
    assert_eq!(fixture.truth(), [] as [&str; 0]);
    cancel.cancel();
    run.await.unwrap();
    assert_clean(&fixture.github);
}
