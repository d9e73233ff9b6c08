//! Whatever GitHub answers: an error in words, never a short list, and it goes on by itself.

mod github;

use std::time::Duration;

use fake_github::{Fault, FaultRule, Limits};
use forge_github::{DemandSource, Freshness, GithubForge, jobs::PollSource};
use github::{Fixture, fixture, fixture_with, impatient};
use runner_core::{Error, Forge, Result, error::chain};

fn status(status: u16) -> Fault {
    Fault::Status { status, retry_after: None, message: None }
}

/// What a list says while GitHub has this fault; and that it is whole again right after.
async fn listing(fixture: &Fixture, fault: Fault) -> String {
    // The list is another than last time, so that there is a document to spoil.
    fixture.register("a-1").await.unwrap();
    fixture.fault(|on| on.path("*/actions/runners?*"), fault.clone());
    let error = fixture.names().await.expect_err(&format!("{fault:?}"));
    assert_eq!(fixture.names().await.unwrap(), ["a-1"], "it goes on by itself after {fault:?}");
    assert!(fixture.figures().health.is_well());
    chain(&error)
}

#[tokio::test]
async fn each_fault_is_an_error_that_says_what_it_is() {
    let fixture =
        fixture_with(|client| client.call_limit = Duration::from_secs(2), impatient).await;
    let table = [
        (status(401), "the token is wrong, revoked or expired"),
        (status(403), "the credentials lack a permission"),
        (status(404), "or the credentials may not see it"),
        (status(500), "GitHub answered 500"),
        (status(503), "GitHub answered 503"),
        (Fault::Html { status: 200 }, "is not what GitHub describes, but \"<"),
        (Fault::Html { status: 503 }, "something that is not GitHub's API answered 503"),
        (Fault::Html { status: 403 }, "something that is not GitHub's API answered 403"),
        (Fault::Reset, "github could not list the runners of organization acme"),
        (Fault::Hang, "no answer within 2 s"),
        (Fault::Truncated, "github could not list the runners of organization acme"),
        (Fault::Garbage, "is not what GitHub describes"),
    ];
    for (fault, words) in table {
        let said = listing(&fixture, fault.clone()).await;
        assert!(said.contains(words), "{fault:?} says: {said}");
        assert!(!said.contains(&fixture.token), "{said}");
    }
    fixture.assert_clean();
}

#[tokio::test]
async fn a_revoked_token_says_which_permission_to_grant_where() {
    let fixture = fixture().await;
    fixture.github.revoke(&fixture.token);
    let error = fixture.names().await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }));
    let words = error.to_string();
    assert!(
        words.contains("organization permission \"Self-hosted runners: read and write\" on acme"),
        "{words}"
    );
    let health = serde_json::to_string(&fixture.figures().health).unwrap();
    assert!(health.contains("Bad credentials"), "{health}");
    fixture.assert_clean();
}

/// Page 2 fails, or is not there, and what was on it is not gone.
#[tokio::test]
async fn a_list_of_several_pages_is_whole_or_an_error() {
    let fixture = fixture().await;
    for number in 1..=101 {
        fixture.register(&format!("a-{number}")).await.unwrap();
    }
    assert_eq!(fixture.names().await.unwrap().len(), 101);
    for fault in [status(502), Fault::Reset, Fault::Garbage, Fault::ShortList] {
        fixture.register("a-101").await.unwrap();
        fixture.fault(|on| on.path("*/actions/runners?*page=2"), fault.clone());
        let names = fixture.names().await;
        match (&fault, names) {
            // Read once more, it was whole.
            (Fault::ShortList, names) => assert_eq!(names.unwrap().len(), 101),
            (_, names) => assert!(names.is_err(), "{fault:?}"),
        }
    }
    fixture.register("a-1").await.unwrap();
    fixture.github.fault(FaultRule::always(Fault::ShortList).path("*/actions/runners?*page=1"));
    let error = fixture.names().await.unwrap_err();
    assert!(
        chain(&error).contains("the list of runners is not whole: it has 50 of 101"),
        "{error:?}"
    );
    fixture.github.clear_faults();
    assert_eq!(fixture.names().await.unwrap().len(), 101);
    fixture.assert_clean();
}

/// Runners come and go while the pages are read.
#[tokio::test]
async fn a_list_that_changes_while_it_is_read_lacks_nobody_that_stays() {
    let fixture = fixture().await;
    let mut ids = Vec::new();
    for number in 1..=101 {
        ids.push(fixture.register(&format!("a-{number}")).await.unwrap().id);
    }
    let slow = Fault::Slow { piece: 4096, pause_ms: 5 };
    fixture.github.fault(FaultRule::always(slow).path("*/actions/runners?*"));
    let forge: std::sync::Arc<GithubForge> = fixture.forge.clone();
    let removing = async {
        for id in &ids[..10] {
            forge.deregister(id).await.unwrap();
        }
    };
    let looking = async {
        let mut whole = 0;
        for _ in 0..5 {
            match fixture.names().await {
                Ok(names) => {
                    let staying = (11..=101).all(|n| names.contains(&format!("a-{n}")));
                    assert!(staying, "{names:?}");
                    whole += 1;
                }
                Err(error) => assert!(chain(&error).contains("not whole"), "{error:?}"),
            }
        }
        whole
    };
    let (_, whole) = futures::join!(removing, looking);
    assert!(whole > 0);
    fixture.assert_clean();
}

#[tokio::test]
async fn an_unchanged_list_costs_nothing_of_the_hour() {
    let fixture = fixture_with(|_| {}, impatient).await;
    fixture.github.set_limits(Limits::GITHUB);
    fixture.register("a-1").await.unwrap();
    fixture.names().await.unwrap();
    let left = |fixture: &Fixture| fixture.figures().budget.hourly["core"].remaining;
    let before = left(&fixture);
    for _ in 0..5 {
        assert_eq!(fixture.names().await.unwrap(), ["a-1"]);
    }
    assert_eq!(left(&fixture), before);
    assert_eq!(fixture.figures().budget.unchanged, 5);
    fixture.assert_clean();
}

#[tokio::test]
async fn a_limit_is_told_with_its_time_and_obeyed() {
    let fixture = fixture().await;
    for fault in [
        Fault::SecondaryLimit { retry_after: Some(90) },
        Fault::Status { status: 429, retry_after: Some(90), message: None },
    ] {
        let fixture = github::fixture().await;
        fixture.fault(|on| on, fault);
        let Err(Error::RateLimited { wait }) = fixture.names().await else { panic!("limited") };
        assert_eq!(wait.as_secs(), 90);
        let calls = fixture.github.calls().len();
        let Err(Error::RateLimited { wait }) = fixture.names().await else { panic!("limited") };
        assert!(wait.as_secs() > 60);
        assert_eq!(fixture.github.calls().len(), calls, "nothing is asked meanwhile");
        assert_eq!(fixture.figures().budget.refused, 1);
        fixture.assert_clean();
    }
    fixture.github.set_limits(Limits::GITHUB);
    fixture.fault(|on| on, Fault::PrimaryLimit { reset_after: 1200 });
    let Err(Error::RateLimited { wait }) = fixture.names().await else { panic!("limited") };
    assert!((1100..=1200).contains(&wait.as_secs()), "{wait:?}");
    assert!(fixture.figures().budget.hourly["core"].reset_in_seconds > 1000);
    fixture.assert_clean();
}

#[tokio::test]
async fn github_down_for_a_whole_job_disturbs_nothing() {
    let fixture = fixture().await;
    let (id, session) = fixture.busy("a-1").await;
    assert_eq!(fixture.names().await.unwrap(), ["a-1"]);
    fixture.github.fault(FaultRule::always(Fault::Reset));
    for _ in 0..3 {
        assert!(fixture.runners().await.is_err());
        assert!(fixture.queued_jobs().await.is_err());
        assert!(fixture.deregister(&id).await.is_err());
    }
    fixture.finish(&session);
    fixture.github.clear_faults();
    assert_eq!(fixture.names().await.unwrap(), [] as [&str; 0]);
    fixture.deregister(&id).await.unwrap();
    fixture.assert_clean();
}

#[tokio::test]
async fn demand_that_cannot_be_asked_for_says_what_it_takes() {
    let fixture = fixture().await;
    let repositories = vec!["acme/widgets".parse().unwrap(), "acme/gone".parse().unwrap()];
    let poll = PollSource::new(fixture.client().clone(), repositories, Duration::ZERO);
    let error: Result<_> = poll.queued(Freshness::Now).await;
    let words = chain(&error.unwrap_err());
    assert!(words.contains("\"Actions: read\" on acme/gone"), "{words}");
    assert!(!poll.health().is_well());
    fixture.assert_clean();
}

#[tokio::test]
async fn runner_programs_have_a_version_and_a_checksum() {
    let fixture = fixture().await;
    let programs = fixture.client().runner_programs().await.unwrap();
    let offered = fixture.github.downloads();
    assert_eq!(programs.len(), offered.len());
    assert!(programs.iter().any(|program| program.os == "linux" && program.architecture == "x64"));
    fixture.assert_clean();
}

/// Every call that octocrab can make goes the same way.
#[tokio::test]
async fn octocrab_spends_from_the_same_budget() {
    let fixture = fixture().await;
    let before = fixture.figures().budget.calls.values().sum::<u64>();
    let org = fixture.client().octocrab().orgs("acme").get().await;
    assert_eq!(org.unwrap().login, "acme");
    assert_eq!(fixture.figures().budget.calls.values().sum::<u64>(), before + 1);
    fixture.assert_clean();
}
