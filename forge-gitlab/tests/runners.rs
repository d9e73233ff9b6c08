//! Runners at GitLab: made, verified, corrected and removed.

#![expect(dead_code, reason = "other tests use the rest of the common parts")]

mod common;

use std::{os::unix::fs::PermissionsExt, time::Duration};

use common::{PROFILE, config, profile, until};
use fake_gitlab::{FakeGitLab, Fault, Place as At, RunnerId, RunnerView, Scope};
use forge_gitlab::{Administration, GitlabConfig, GitlabForge, Health, Place, ProfileConfig};
use runner_core::{Clock, Secret};
use tempfile::TempDir;

struct Fixture {
    gitlab: FakeGitLab,
    config: GitlabConfig,
    _directory: TempDir,
}

impl Fixture {
    async fn new() -> Self {
        let gitlab = FakeGitLab::start().await.unwrap();
        gitlab.configure(|settings| settings.long_poll = Duration::from_millis(200));
        let project = gitlab.project("acme/infra/app");
        let token = gitlab.access_token(gitlab.admin(), &[Scope::Api]);
        let directory = TempDir::new().unwrap();
        let mut config = config(&gitlab, &directory);
        let mut profile = ProfileConfig::new(profile());
        profile.maximum_timeout = Some(Duration::from_secs(3600));
        config.profiles.push(profile);
        config.administration = Some(Administration {
            token: Secret::new(token),
            place: Place::Project(project.0),
            expose_runners: true,
        });
        Self { gitlab, config, _directory: directory }
    }

    async fn open(&self) -> GitlabForge {
        GitlabForge::open(self.config.clone(), Clock::system()).await.unwrap()
    }

    /// The only runner there is, once there is one.
    async fn runner(&self) -> RunnerView {
        until("there is a runner", async || self.gitlab.runners().len() == 1).await;
        self.gitlab.runner_view(self.gitlab.runners()[0]).unwrap()
    }

    fn calls(&self, route: &str) -> usize {
        self.gitlab.calls().iter().filter(|call| call.route.ends_with(route)).count()
    }

    /// Waits until all runners were looked at once more.
    async fn looked(&self) {
        let before = self.calls("POST /api/v4/runners/verify");
        until("it verifies", async || self.calls("POST /api/v4/runners/verify") > before + 1).await;
    }

    fn token_file(&self) -> std::path::PathBuf {
        self.config.state_dir.join("tokens").join(PROFILE)
    }
}

async fn until_well(forge: &GitlabForge) {
    until("it is well", async || forge.health()[&profile()] == Health::Well).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_is_made_once_and_as_it_should_be() {
    let fixture = Fixture::new().await;
    let forge = fixture.open().await;
    let made = fixture.runner().await;
    until_well(&forge).await;
    assert_eq!(made.spec.tags, [PROFILE]);
    assert_eq!(made.spec.description, PROFILE);
    assert_eq!(made.spec.maximum_timeout, Some(Duration::from_secs(3600)));
    assert!(matches!(made.spec.place, At::Project(_)) && !made.spec.run_untagged);
    assert_eq!(
        std::fs::metadata(fixture.token_file()).unwrap().permissions().mode() & 0o777,
        0o600
    );
    fixture.looked().await;
    drop(forge);
    let _successor = fixture.open().await;
    fixture.looked().await;
    assert_eq!(fixture.gitlab.runners(), [made.id]);
    let violations = fixture.gitlab.violations();
    assert!(violations.is_empty(), "{violations:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_changed_is_corrected() {
    let fixture = Fixture::new().await;
    let _forge = fixture.open().await;
    let made = fixture.runner().await;
    fixture.gitlab.configure_runner(made.id, |spec| {
        spec.tags = vec!["other".to_owned()];
        spec.description = "mine".to_owned();
        spec.maximum_timeout = None;
        spec.paused = true;
    });
    // Pausing is what GitLab's pages are for.
    let mut expected = made.spec.clone();
    expected.paused = true;
    until("it is corrected", async || {
        fixture.gitlab.runner_view(made.id).is_some_and(|now| now.spec == expected)
    })
    .await;
    let corrections = fixture.calls("PUT /api/v4/runners/{id}");
    fixture.looked().await;
    assert_eq!(fixture.calls("PUT /api/v4/runners/{id}"), corrections, "once is enough");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_is_not_wanted_is_taken_away() {
    let mut fixture = Fixture::new().await;
    fixture.config.profiles[0].maximum_timeout = None;
    let _forge = fixture.open().await;
    let made = fixture.runner().await;
    assert_eq!(made.spec.maximum_timeout, None);
    let limit = Some(Duration::from_secs(600));
    fixture.gitlab.configure_runner(made.id, |spec| spec.maximum_timeout = limit);
    until("it is corrected", async || {
        fixture.gitlab.runner_view(made.id).is_some_and(|now| now.spec.maximum_timeout.is_none())
    })
    .await;
    let violations = fixture.gitlab.violations();
    assert!(violations.is_empty(), "{violations:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_that_was_deleted_is_made_anew() {
    let fixture = Fixture::new().await;
    let forge = fixture.open().await;
    let first = fixture.runner().await;
    assert!(fixture.gitlab.delete_runner(first.id));
    until("there is another", async || {
        fixture.gitlab.runners().first().is_some_and(|id| *id != first.id)
    })
    .await;
    until_well(&forge).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_or_odd_answers_change_nothing() {
    let fixture = Fixture::new().await;
    let _forge = fixture.open().await;
    let made = fixture.runner().await;
    until("its token is written", async || fixture.token_file().exists()).await;
    let token = std::fs::read(fixture.token_file()).unwrap();
    for status in [401, 404, 422, 500] {
        let fault = Fault::status(status).on("POST /runners/verify").times(6);
        fixture.gitlab.inject(fault).unwrap();
        let before = fixture.gitlab.faults_happened();
        until("it was refused", async || fixture.gitlab.faults_happened() >= before + 2).await;
        fixture.gitlab.clear_faults();
    }
    fixture.gitlab.go_down();
    tokio::time::sleep(Duration::from_millis(300)).await;
    fixture.gitlab.come_up();
    fixture.looked().await;
    assert_eq!(fixture.gitlab.runners(), [made.id]);
    assert_eq!(std::fs::read(fixture.token_file()).unwrap(), token);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_on_offer_any_more_is_removed() {
    for change in [
        (|config| config.profiles[0].exposed = false) as fn(&mut GitlabConfig),
        |config| config.administration.as_mut().unwrap().expose_runners = false,
        |config| config.profiles.clear(),
    ] {
        let mut fixture = Fixture::new().await;
        let forge = fixture.open().await;
        fixture.runner().await;
        until("its token is written", async || fixture.token_file().exists()).await;
        drop(forge);
        change(&mut fixture.config);
        let _forge = fixture.open().await;
        until("it is gone", async || fixture.gitlab.runners().is_empty()).await;
        until("and its token", async || !fixture.token_file().exists()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_moves_where_the_configuration_says() {
    let mut fixture = Fixture::new().await;
    let forge = fixture.open().await;
    let first = fixture.runner().await;
    until_well(&forge).await;
    drop(forge);
    fixture.config.administration.as_mut().unwrap().place = Place::Instance;
    let forge = fixture.open().await;
    until("it moved", async || {
        let runners = fixture.gitlab.runners();
        let place = |id: &RunnerId| fixture.gitlab.runner_view(*id).map(|view| view.spec.place);
        runners.len() == 1 && runners[0] != first.id && place(&runners[0]) == Some(At::Instance)
    })
    .await;
    until_well(&forge).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_whose_token_was_lost_is_not_left_behind() {
    let fixture = Fixture::new().await;
    // GitLab makes it and the answer never comes: as if the process had died between both.
    let fault = Fault::new(fake_gitlab::FaultKind::LostAnswer).on("POST /user/runners").times(1);
    fixture.gitlab.inject(fault).unwrap();
    let forge = fixture.open().await;
    until_well(&forge).await;
    until("one is left", async || fixture.gitlab.runners().len() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_renewed_before_it_expires() {
    let fixture = Fixture::new().await;
    let lifetime = Some(Duration::from_secs(1800));
    fixture.gitlab.configure(|settings| settings.runner_token_lifetime = lifetime);
    let forge = fixture.open().await;
    let made = fixture.runner().await;
    until("it has another token", async || {
        fixture.gitlab.runner_view(made.id).is_some_and(|now| now.token != made.token)
    })
    .await;
    fixture.gitlab.configure(|settings| settings.runner_token_lifetime = None);
    until("the last one has no end", async || {
        let now = fixture.gitlab.runner_view(made.id).unwrap();
        let kept = std::fs::read_to_string(fixture.token_file()).unwrap();
        now.token_expires.is_none() && kept.contains(&now.token)
    })
    .await;
    until_well(&forge).await;
    assert_eq!(fixture.gitlab.runners(), [made.id]);
}
