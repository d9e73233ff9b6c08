//! A registration is never lost, never doubled, and never taken from a running job.

mod github;

use std::time::Duration;

use fake_github::{Fault, JobRequest};
use forge_github::{Group, breaker::BreakerLimits};
use github::{Fixture, MARKED, PROFILE, fixture, fixture_with, impatient};
use runner_core::{
    Error, Forge, ProfileName, ReservationId, RunnerId,
    forge::{Runner, RunnerStatus},
};

const MINT: &str = "generate-jitconfig";
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(90);

/// One registration is left, and its secret works: a ghost's would not.
async fn assert_usable(fixture: &Fixture, secret: &runner_core::Secret<String>) {
    assert_eq!(fixture.truth(), [MARKED]);
    fixture.github.connect(secret.expose()).expect("the guest can become this runner");
    assert_eq!(fixture.names().await.unwrap(), ["a-1"]);
}

#[tokio::test]
async fn a_registration_is_marked_and_labelled() {
    let fixture = fixture().await;
    fixture.register("a-1").await.unwrap();
    let runner = &fixture.github.runners()[0];
    assert_eq!((runner.name.as_str(), runner.group), (MARKED, 1));
    assert_eq!(runner.labels, ["linux", "a"], "the profile's own name too");
    assert_eq!(fixture.calls("POST", MINT), 1);
    assert_eq!(fixture.github.calls().len(), 1, "one call is enough");
    fixture.assert_clean();
}

/// The effect took place, and nobody was told.
#[tokio::test]
async fn a_lost_answer_leaves_one_usable_registration() {
    for fault in [Fault::LostReply, Fault::Truncated, Fault::Garbage] {
        let fixture = fixture().await;
        fixture.fault(|on| on.path(format!("*{MINT}")), fault.clone());
        let registration = fixture.register("a-1").await.unwrap();
        assert_usable(&fixture, &registration.secret.unwrap()).await;
        assert_eq!(fixture.calls("POST", MINT), 2, "{fault:?}");
        fixture.assert_clean();
    }
}

#[tokio::test]
async fn a_name_that_a_ghost_has_is_freed() {
    let fixture = fixture().await;
    let ghost = fixture.register("a-1").await.unwrap();
    let registration = fixture.register("a-1").await.unwrap();
    assert_ne!(ghost.id, registration.id);
    assert!(fixture.github.connect(ghost.secret.unwrap().expose()).is_err());
    assert_usable(&fixture, &registration.secret.unwrap()).await;
    fixture.assert_clean();
}

#[tokio::test]
async fn a_name_that_stays_taken_is_an_error_and_costs_little() {
    let fixture = fixture().await;
    let conflict = || Fault::Status { status: 409, retry_after: None, message: None };
    for _ in 0..9 {
        fixture.fault(|on| on.path(format!("*{MINT}")), conflict());
    }
    let error = fixture.register("a-1").await.err().unwrap();
    assert_eq!(error.kind(), "backend", "the pool goes on with another name");
    assert!(fixture.github.calls().len() <= 6);
    fixture.github.clear_faults();
    fixture.register("a-2").await.unwrap();
    fixture.assert_clean();
}

#[tokio::test]
async fn while_github_is_down_registering_fails_soon_and_leaves_nothing_unseen() {
    let fixture = fixture().await;
    fixture.github.fault(fake_github::FaultRule::always(Fault::Status {
        status: 502,
        retry_after: None,
        message: None,
    }));
    let error = fixture.register("a-1").await.err().unwrap();
    assert!(matches!(error, Error::Backend { .. }), "{error:?}");
    assert!(fixture.github.calls().len() <= 2, "{:?}", fixture.github.calls());
    fixture.github.clear_faults();
    assert_eq!(fixture.names().await.unwrap(), [] as [&str; 0]);
    fixture.assert_clean();
}

#[tokio::test]
async fn a_group_is_found_by_its_name_and_asked_for_once() {
    let by_name = |name: &'static str| {
        move |config: &mut forge_github::GithubConfig| {
            impatient(config);
            let profile = config.profiles.get_mut(&ProfileName::new(PROFILE).unwrap()).unwrap();
            profile.group = Group::Name(name.to_owned());
        }
    };
    let fixture = fixture_with(|_| {}, by_name("default")).await;
    fixture.register("a-1").await.unwrap();
    fixture.register("a-2").await.unwrap();
    assert_eq!(fixture.github.runners()[0].group, 1);
    assert_eq!(fixture.calls("GET", "runner-groups"), 1);
    fixture.assert_clean();

    let fixture = fixture_with(|_| {}, by_name("no such")).await;
    let error = fixture.register("a-1").await.err().unwrap().to_string();
    assert!(
        error.contains("has no runner group \"no such\" that we may see, but Default"),
        "{error}"
    );
    fixture.assert_clean();
}

#[tokio::test]
async fn anothers_runners_are_neither_seen_nor_touched() {
    let fixture = fixture().await;
    let mut theirs = github::spec("a-1");
    theirs.owner = runner_core::OwnerId::new("another").unwrap();
    assert!(matches!(fixture.forge.register(&theirs).await, Err(Error::Invalid { .. })));
    fixture.register("a-1").await.unwrap();
    let credentials = forge_github::Credentials::Token(forge_github::SecretFrom::File(
        fixture.token_file.clone(),
    ));
    let other = github::open(
        &fixture.github,
        "acme",
        credentials,
        |_| {},
        |config| {
            impatient(config);
            config.owner = theirs.owner.clone();
        },
    );
    other.register(&theirs).await.unwrap();
    assert_eq!(fixture.truth().len(), 2);
    assert_eq!(fixture.names().await.unwrap(), ["a-1"]);
    let ours = other.runners().await.unwrap();
    assert_eq!(ours.len(), 1);
    fixture.assert_clean();
}

/// GitHub decides at the moment of asking, not an earlier list.
#[tokio::test]
async fn a_runner_that_just_took_a_job_stays() {
    let fixture =
        fixture_with(|_| {}, |config| config.pace.list_every = Duration::from_secs(3600)).await;
    let id = {
        let registration = fixture.register("a-1").await.unwrap();
        assert_eq!(fixture.runners().await.unwrap()[0].status, RunnerStatus::Offline);
        let session = fixture.github.connect(registration.secret.unwrap().expose()).unwrap();
        fixture.github.enqueue(JobRequest::new("acme/widgets", [PROFILE])).unwrap();
        fixture.github.next_job(&session, Duration::from_secs(10)).await.unwrap().unwrap();
        registration.id
    };
    assert!(fixture.deregister(&id).await.unwrap_err().is_busy());
    assert!(fixture.abandon(&id).await.unwrap_err().is_busy());
    assert_eq!(fixture.truth(), [MARKED]);
    fixture.assert_clean();
}

/// GitHub answers 404 also to whoever lost a permission: a machine must not die of that.
#[tokio::test]
async fn not_found_alone_does_not_make_a_runner_gone() {
    let fixture = fixture().await;
    let (id, session) = fixture.busy("a-1").await;
    let not_found = || Fault::Status { status: 404, retry_after: None, message: None };
    fixture.fault(|on| on.method("DELETE"), not_found());
    let error = fixture.deregister(&id).await.unwrap_err();
    assert_eq!(error.kind(), "backend", "{error:?}");
    // Nor when it may not be listed either.
    for _ in 0..2 {
        fixture.github.fault(fake_github::FaultRule::once(not_found()));
    }
    let error = fixture.deregister(&id).await.unwrap_err();
    assert_eq!(error.kind(), "unauthorized", "{error:?}");
    fixture.finish(&session);
    fixture.deregister(&id).await.unwrap();
    fixture.assert_clean();
}

/// A proxy's page says 200 to anything.
#[tokio::test]
async fn a_page_in_place_of_an_answer_neither_removes_a_runner_nor_marks_it() {
    let fixture = fixture().await;
    let page = || Fault::Html { status: 200 };
    let idle = fixture.register("a-2").await.unwrap().id;
    fixture.fault(|on| on.method("PUT"), page());
    let reservation = ReservationId::new("r1").unwrap();
    let error = fixture.reserve(&idle, &reservation).await.unwrap_err();
    assert_eq!(error.kind(), "backend", "{error:?}");
    fixture.deregister(&idle).await.unwrap();

    let (id, session) = fixture.busy("a-1").await;
    fixture.fault(|on| on.method("DELETE"), page());
    let error = fixture.deregister(&id).await.unwrap_err();
    assert_eq!(error.kind(), "backend", "{error:?}");
    assert!(fixture.deregister(&id).await.unwrap_err().is_busy());
    fixture.finish(&session);
    fixture.deregister(&id).await.unwrap();
    fixture.assert_clean();
}

#[tokio::test]
async fn a_runner_whose_life_passed_between_two_lists_is_gone() {
    let fixture = fixture().await;
    let (id, session) = fixture.busy("a-1").await;
    fixture.finish(&session);
    fixture.deregister(&id).await.unwrap();
    assert_eq!(fixture.names().await.unwrap(), [] as [&str; 0]);
    fixture.assert_clean();
}

#[tokio::test]
async fn a_runner_knows_its_job() {
    let fixture = fixture().await;
    fixture.busy("a-1").await;
    fixture.queued_jobs().await.unwrap();
    let Runner { status, .. } = fixture.runners().await.unwrap().remove(0);
    let job = fixture.github.jobs()[0].id.to_string();
    assert_eq!(status, RunnerStatus::Busy(Some(runner_core::JobId::new(job).unwrap())));
    fixture.assert_clean();
}

#[tokio::test]
async fn a_reservation_takes_a_runner_from_all_others_and_gives_it_back() {
    let fixture = fixture().await;
    let id = fixture.register("a-1").await.unwrap().id;
    let reservation = ReservationId::new("6e1d").unwrap();
    fixture.names().await.unwrap();
    fixture.reserve(&id, &reservation).await.unwrap();
    let labels = fixture.github.runners()[0].labels.clone();
    assert!(labels.contains(&"reserved-for:6e1d".to_owned()), "{labels:?}");
    assert!(labels.iter().any(|label| label.starts_with("reserved-since:")), "{labels:?}");
    assert!(labels.contains(&"reserved-by:conformance".to_owned()), "{labels:?}");
    assert!(!labels.contains(&PROFILE.to_owned()), "{labels:?}");
    let before = fixture.github.calls().len();
    fixture.reserve(&id, &reservation).await.unwrap();
    fixture.release(&id).await.unwrap();
    fixture.release(&id).await.unwrap();
    // GitHub does not let go of what is read-only.
    assert_eq!(fixture.github.runners()[0].labels, ["linux", PROFILE]);
    assert_eq!(fixture.calls("PUT", "/labels"), 2, "repeating costs no change");
    assert_eq!(fixture.github.calls().len(), before + 1, "what is known is not asked for");
    let shouted = ReservationId::new("Mine").unwrap();
    assert!(matches!(fixture.reserve(&id, &shouted).await, Err(Error::Invalid { .. })));
    fixture.assert_clean();
}

#[tokio::test]
async fn a_profile_whose_runners_never_come_online_is_stopped_without_a_call() {
    let fixture = fixture_with(
        |_| {},
        |config| {
            impatient(config);
            config.breaker = BreakerLimits { after: 2, ..BreakerLimits::default() };
        },
    )
    .await;
    for name in ["a-1", "a-2"] {
        let id = fixture.register(name).await.unwrap().id;
        fixture.deregister(&id).await.unwrap();
    }
    let calls = fixture.github.calls().len();
    let error = fixture.register("a-3").await.err().unwrap();
    let words = runner_core::error::chain(&error);
    assert!(words.contains("2 runners of a in a row never came online"), "{words}");
    assert_eq!(fixture.github.calls().len(), calls);
    assert_eq!(fixture.figures().breaker[&ProfileName::new(PROFILE).unwrap()].failures, 2);
    fixture.assert_clean();
}

/// Of two registrations with one name one is our worker's; the other goes, but not at once.
#[tokio::test]
async fn a_registration_that_shares_its_name_is_removed_after_a_while() {
    let forge = |grace| {
        move |config: &mut forge_github::GithubConfig| {
            impatient(config);
            config.pace.tend_every = Duration::from_millis(5);
            config.pace.ghost_grace = grace;
            // Each round of tending begins with a sweep, and so it can be counted.
            config.sources.push(std::sync::Arc::new(Over));
            config.pace.demand.sweep_every = Duration::ZERO;
        }
    };
    for grace in [Duration::from_secs(3600), Duration::ZERO] {
        let fixture = fixture_with(|_| {}, forge(grace)).await;
        let (id, session) = fixture.busy("a-1").await;
        fixture.github.double(id.as_str().parse().unwrap()).unwrap();
        assert_eq!(fixture.names().await.unwrap(), ["a-1"]);
        assert_eq!(fixture.figures().ghosts, 1);
        if grace.is_zero() {
            tokio::time::timeout(
                PATIENCE,
                fixture.github.until(|github| github.runners().len() == 1),
            )
            .await
            .expect("it is removed");
            assert!(fixture.github.runners()[0].job.is_some(), "the one that works stays");
        } else {
            let rounds = || fixture.calls("GET", "/actions/runs?status=queued");
            let before = rounds();
            let some = fixture.github.until(|_| rounds() >= before + 3);
            tokio::time::timeout(PATIENCE, some).await.expect("it is tended");
            assert_eq!(fixture.truth(), [MARKED, MARKED]);
        }
        fixture.finish(&session);
        fixture.assert_clean();
    }
}

#[tokio::test]
async fn what_github_never_gave_is_gone() {
    let fixture = fixture().await;
    for odd in ["not-a-number", "007", "-1"] {
        fixture.deregister(&RunnerId::new(odd).unwrap()).await.unwrap();
    }
    assert_eq!(fixture.github.calls().len(), 0);
}

/// A forge that hears of every runner that its job is over.
async fn told_that_all_is_over() -> Fixture {
    fixture_with(
        |_| {},
        |config| {
            impatient(config);
            config.sources.push(std::sync::Arc::new(Over));
        },
    )
    .await
}

/// Of a dead machine's runner that is believed once. One that is listed after all is removed by us.
#[tokio::test]
async fn a_dead_machines_runner_whose_job_is_over_costs_no_call_unless_github_forgot_it() {
    let fixture = told_that_all_is_over().await;
    let id = fixture.register("a-1").await.unwrap().id;
    assert_eq!(fixture.names().await.unwrap(), ["a-1"]);
    fixture.abandon(&id).await.unwrap();
    assert_eq!(fixture.calls("DELETE", "/runners/"), 0);
    assert_eq!(fixture.names().await.unwrap(), ["a-1"], "GitHub has not removed it");
    fixture.abandon(&id).await.unwrap();
    assert_eq!(fixture.calls("DELETE", "/runners/"), 1);
    assert_eq!(fixture.truth(), [] as [&str; 0]);
    fixture.assert_clean();
}

/// Whoever owns a repository of the organisation can let a runner of the same name end a job there, and GitHub
/// tells of that, signed.
#[tokio::test]
async fn a_living_machines_runner_is_not_over_because_somebody_said_so() {
    let fixture = told_that_all_is_over().await;
    let (busy, session) = fixture.busy("a-1").await;
    let idle = fixture.register("a-2").await.unwrap().id;
    fixture.names().await.unwrap();
    assert!(fixture.deregister(&busy).await.unwrap_err().is_busy());
    fixture.deregister(&idle).await.unwrap();
    assert_eq!(fixture.truth(), [MARKED], "the one that had no job is gone at GitHub, too");
    // A list that lacks it as well is enough: that is two who say so.
    fixture.finish(&session);
    fixture.names().await.unwrap();
    let before = fixture.github.calls().len();
    fixture.deregister(&busy).await.unwrap();
    assert_eq!(fixture.github.calls().len(), before);
    fixture.assert_clean();
}

/// Says of every runner that its job is over.
struct Over;

#[async_trait::async_trait]
impl forge_github::DemandSource for Over {
    fn kind(&self) -> forge_github::SourceKind {
        forge_github::SourceKind::Webhook
    }

    fn health(&self) -> forge_github::Health {
        forge_github::Health::Well
    }

    async fn queued(
        &self,
        _: forge_github::Freshness,
    ) -> runner_core::Result<Vec<forge_github::Waiting>> {
        Ok(Vec::new())
    }

    fn is_over(&self, _: &str) -> bool {
        true
    }

    fn changes(&self) -> runner_core::Changes {
        runner_core::Changes::never()
    }
}
