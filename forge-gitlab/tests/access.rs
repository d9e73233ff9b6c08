//! Jobs that may not run here: they fail, say why, and no machine is asked for.

#![expect(dead_code, reason = "other tests use the rest of the common parts")]

mod common;

use common::{Fixture, until};
use fake_gitlab::{JobSpec, JobView, Status, Variable};
use forge_gitlab::{GitlabConfig, GitlabForge, ImageRule};
use runner_core::{
    Clock, Forge, ProfileName,
    access::{Names, Rules},
};

fn groups(names: &[&str]) -> Names {
    let projects_in_groups = names.iter().map(|name| (*name).to_owned()).collect();
    Names { projects_in_groups, ..Names::default() }
}

/// A job that is refused, while nobody ever saw it wait.
async fn refused(fixture: &Fixture, job: JobSpec) -> JobView {
    let mut changes = fixture.forge().changes();
    let id = fixture.submit(job);
    let over = fixture.over(id);
    tokio::pin!(over);
    loop {
        tokio::select! {
            view = &mut over => return view,
            () = changes.next() => {
                let queued = fixture.forge().queued_jobs().await.unwrap();
                assert!(queued.is_empty(), "a machine would be made for it: {queued:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_job_fails_and_names_the_rule() {
    let deny = Rules { deny: groups(&["acme/infra"]), allow: Names::default() };
    let fixture = Fixture::with(|config| config.profiles[0].access = deny).await;
    let job = refused(&fixture, JobSpec::new("build", ["true"])).await;
    let log = job.log();
    assert_eq!(job.status, Status::Failed, "{log}");
    let expected = "root may not run a job of acme/infra/app on profile a: the profile's rules deny the \
                    projects in group \"acme/infra\"";
    assert!(log.contains(expected), "{log}");
    fixture.assert_spoke_as_described();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_instances_rules_hold_where_the_profiles_say_nothing() {
    let allow = |names: &[&str]| Rules { deny: Names::default(), allow: groups(names) };
    let fixture = Fixture::with(|config| config.access = allow(&["acme/infr"])).await;
    let job = refused(&fixture, JobSpec::new("build", ["true"])).await;
    assert!(job.log().contains("no rule allows it"), "{}", job.log());
    let fixture = Fixture::with(|config| config.access = allow(&["acme"])).await;
    assert_eq!(fixture.run(JobSpec::new("build", ["true"])).await.status, Status::Success);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_becomes_somebody_else_by_a_variable() {
    let users = vec!["ada".to_owned()];
    let allow = Names { users, ..Names::default() };
    let rules = Rules { deny: Names::default(), allow };
    let fixture = Fixture::with(|config| config.access = rules).await;
    let spec = JobSpec::new("build", ["true"]).variable(Variable::new("GITLAB_USER_LOGIN", "ada"));
    let job = refused(&fixture, spec).await;
    assert!(job.log().contains("somebody unknown may not"), "{}", job.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_that_nobody_has_are_refused_and_images_go_to_their_profile() {
    let other = ProfileName::new("rust").unwrap();
    let rule = ImageRule {
        image: Some("rust:*".to_owned()),
        services: Vec::new(),
        profile: other.clone(),
    };
    let fixture = Fixture::with(|config| {
        let mut profile = config.profiles[0].clone();
        profile.profile = other.clone();
        config.profiles.push(profile);
        config.images.push(rule);
    })
    .await;
    let mut spec = JobSpec::new("build", ["true"]);
    spec.services = vec![fake_gitlab::Image::new("postgres:16")];
    let job = refused(&fixture, spec).await;
    assert!(job.log().contains("no profile here has its services: postgres:16"), "{}", job.log());

    let mut spec = JobSpec::new("build", ["true"]);
    spec.image = Some(fake_gitlab::Image::new("rust:1.90"));
    fixture.submit(spec);
    until("it waits", async || fixture.forge().queued_jobs().await.unwrap().len() == 1).await;
    assert_eq!(fixture.forge().queued_jobs().await.unwrap()[0].profile.as_ref(), Some(&other));
}

#[tokio::test]
async fn what_is_not_safe_is_refused_at_the_start() {
    let fixture = Fixture::new().await;
    let refused = async |change: &dyn Fn(&mut GitlabConfig)| {
        let mut config = fixture.config.clone();
        config.state_dir = fixture.directory.path().join("other");
        change(&mut config);
        GitlabForge::open(config, Clock::system()).await.err().expect("refused").to_string()
    };
    let error = refused(&|config| config.allow_http = false).await;
    assert!(error.contains("in the clear"), "{error}");
    let error = refused(&|config| config.profiles[0].gateway = true).await;
    assert!(error.contains("gateway"), "{error}");
    let error = refused(&|config| config.profiles[0].token = None).await;
    assert!(error.contains("token"), "{error}");
    let error = refused(&|config| config.url = "ftp://host/".parse().unwrap()).await;
    assert!(error.contains("https"), "{error}");
}
