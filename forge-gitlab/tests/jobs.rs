//! Jobs from GitLab to a guest and back.

#![expect(dead_code, reason = "other tests use the rest of the common parts")]

mod common;

use std::time::Duration;

use common::{Fixture, until};
use fake_gitlab::{Fault, JobSpec, Status, Variable};
use runner_core::Forge;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_runs_and_its_trace_arrives() {
    let fixture = Fixture::new().await;
    let job = fixture.run(JobSpec::new("build", ["echo hello", "pwd"]).after(["echo bye"])).await;
    let log = job.log();
    assert_eq!(job.status, Status::Success, "{log}");
    let dir = format!("{}/acme/infra/app", fixture.config.builds_dir);
    for expected in ["$ echo hello", "\nhello\n", &format!("\n{dir}\n"), "\nbye\n", "Job succeeded"]
    {
        assert!(log.contains(expected), "{expected:?} in {log}");
    }
    for section in ["prepare_executor", "get_sources", "step_script", "after_script"] {
        assert!(log.contains(&format!(":{section}\r")), "{section} in {log}");
    }
    assert!(!job.trace_is_wrong);
    assert!(fixture.forge().runners().await.unwrap().is_empty(), "a worker takes one job");
    until("nothing is kept of it", async || {
        std::fs::read_dir(fixture.config.state_dir.join("jobs")).unwrap().count() == 0
    })
    .await;
    fixture.assert_spoke_as_described();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_that_fails_fails_the_job_with_its_code() {
    let fixture = Fixture::new().await;
    let spec = JobSpec::new("build", ["echo one", "(exit 42)", "echo never"])
        .after(["echo status $CI_JOB_STATUS", "exit 9"]);
    let job = fixture.run(spec).await;
    let log = job.log();
    assert_eq!((job.status, job.exit_code), (Status::Failed, Some(42)), "{log}");
    assert_eq!(job.failure_reason.as_deref(), Some("script_failure"));
    assert!(log.contains("status failed") && !log.contains("\nnever"), "{log}");
    assert!(
        log.contains("after_script failed, but job will continue unaffected: exit code 9"),
        "{log}"
    );
    fixture.assert_spoke_as_described();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variables_reach_the_script_and_secrets_never_the_trace() {
    let fixture = Fixture::new().await;
    let lines = [
        "echo plain=$PLAIN raw=$RAW",
        "cat \"$FILE\"",
        "printf 'hun'; sleep 0.3; echo 'ter2!!'",
        "echo $SECRET | sed 's/./& /g'",
    ];
    let spec = JobSpec::new("build", lines)
        .variable(Variable::new("BASE", "b"))
        .variable(Variable::new("PLAIN", "<$BASE>"))
        .variable(Variable::raw("RAW", "<$BASE>"))
        .variable(Variable::file("FILE", "content\n"))
        .variable(Variable::masked("SECRET", "hunter2!!"));
    let job = fixture.run(spec).await;
    let log = job.log();
    assert_eq!(job.status, Status::Success, "{log}");
    assert!(log.contains("plain=<b> raw=<$BASE>") && log.contains("\ncontent\n"), "{log}");
    assert!(!log.contains("hunter2!!") && log.contains("[MASKED]"), "{log}");
    assert!(log.contains("h u n t e r 2 ! !"), "the script had it: {log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_cancelled_clears_up() {
    let fixture = Fixture::new().await;
    let spec =
        JobSpec::new("long", ["echo begun", "sleep 1000"]).after(["echo cleared $CI_JOB_STATUS"]);
    let id = fixture.submit(spec);
    let driver = fixture.worker("a-1").await;
    fixture.gitlab.watch(id, true);
    fixture.gitlab.until_job(id, |job| job.log().contains("\nbegun")).await.unwrap();
    fixture.gitlab.cancel(id);
    let job = fixture.over(id).await;
    let log = job.log();
    assert_eq!(job.status, Status::Canceled, "{log}");
    assert!(log.contains("cleared canceled"), "{log}");
    driver.await.unwrap().unwrap();
    fixture.assert_spoke_as_described();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_gone_at_gitlab_ends_at_once() {
    let fixture = Fixture::new().await;
    let id = fixture.submit(JobSpec::new("long", ["sleep 1000"]));
    let driver = fixture.worker("a-1").await;
    fixture.until_busy("a-1").await;
    assert!(fixture.gitlab.delete_job(id));
    let ended = tokio::time::timeout(Duration::from_secs(20), driver).await;
    ended.expect("it ends").unwrap().unwrap();
    assert!(fixture.forge().runners().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_takes_too_long_is_ended() {
    let fixture = Fixture::new().await;
    let spec = JobSpec::new("long", ["echo begun", "sleep 1000"]).timeout(Duration::from_secs(2));
    let job = fixture.run(spec).await;
    let log = job.log();
    assert_eq!(job.status, Status::Failed, "{log}");
    assert_eq!(job.failure_reason.as_deref(), Some("job_execution_timeout"), "{log}");
    assert!(log.contains("execution took longer than 2 seconds"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_cancelled_at_once_clears_nothing_up() {
    let fixture = Fixture::new().await;
    let cleared = fixture.directory.path().join("cleared");
    let spec = JobSpec::new("long", ["echo begun", "sleep 1000"])
        .after([format!("touch {}", cleared.display())]);
    let id = fixture.submit(spec);
    let driver = fixture.worker("a-1").await;
    fixture.gitlab.watch(id, true);
    fixture.gitlab.until_job(id, |job| job.log().contains("\nbegun")).await.unwrap();
    assert!(fixture.gitlab.cancel_at_once(id));
    let ended = tokio::time::timeout(Duration::from_secs(90), driver).await;
    ended.expect("it ends").unwrap().unwrap();
    assert_eq!(fixture.gitlab.job_view(id).unwrap().status, Status::Canceled);
    assert!(!cleared.exists(), "GitLab has forgotten the job: nothing of it may go on");
    assert!(fixture.forge().runners().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_with_a_time_of_its_own_leaves_time_to_clear_up() {
    let fixture = Fixture::new().await;
    let mut spec = JobSpec::new("long", ["echo kept >kept", "sleep 1000"])
        .after(["echo cleared $CI_JOB_STATUS"])
        .variable(Variable::new("RUNNER_SCRIPT_TIMEOUT", "2s"));
    let mut kept = fake_gitlab::Artifacts::archive(["kept"]);
    kept.when = "always".to_owned();
    spec.artifacts = vec![kept];
    let job = fixture.run(spec).await;
    let log = job.log();
    assert_eq!(job.failure_reason.as_deref(), Some("job_execution_timeout"), "{log}");
    assert!(log.contains("\ncleared failed\n"), "{log}");
    assert!(log.contains("ERROR: Job failed: a step took longer than it may"), "{log}");
    assert_eq!(names(&job.artifacts[0]), ["kept"], "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_of_megabytes_arrives_whole() {
    let fixture = Fixture::with(|config| config.limits.trace_bytes = 16 << 20).await;
    let lines = "seq 1 900000";
    let job = fixture.run(JobSpec::new("talk", [lines])).await;
    assert_eq!(job.status, Status::Success);
    assert!(job.trace.len() > 6_000_000 && !job.trace_is_wrong, "{}", job.trace.len());
    assert!(job.trace_pieces.iter().all(|size| *size <= 1 << 20));
    let log = job.log();
    let expected: String = (1..=900_000).map(|n| format!("{n}\n")).collect();
    assert!(log.contains(&expected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_over_its_limit_is_cut_and_the_job_goes_on() {
    let fixture = Fixture::with(|config| config.limits.trace_bytes = 10_000).await;
    let job = fixture
        .run(JobSpec::new("talk", ["seq 1 5000; sleep 0.5; echo more; sleep 0.5", "exit 3"]))
        .await;
    let log = job.log();
    assert_eq!((job.status, job.exit_code), (Status::Failed, Some(3)));
    assert!(
        log.contains("longer than 10000 bytes") && log.ends_with("exit code 3\x1b[0;m\n"),
        "{log}"
    );
    assert_eq!(log.matches("is cut here").count(), 1);
    assert!(job.trace.len() < 11_000, "{}", job.trace.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_goes_wrong_with_the_trace_it_arrives_whole() {
    let fixture = Fixture::new().await;
    let on = |fault: Fault, route: &str| fixture.gitlab.inject(fault.on(route)).unwrap();
    let patch = "PATCH /jobs/{id}/trace";
    on(Fault::status(500).times(2), patch);
    on(Fault::new(fake_gitlab::FaultKind::LostAnswer).after(2).times(1), patch);
    on(Fault::status(429).retry_after(Duration::from_secs(1)).after(3).times(1), patch);
    on(Fault::new(fake_gitlab::FaultKind::LostAnswer).times(1), "PUT /jobs/{id}");
    fixture.gitlab.configure(|settings| {
        settings.storing_answers = 1;
        settings.trace_update_interval = Duration::from_secs(1);
    });
    let lines = ["for i in 1 2 3 4 5 6; do echo line $i; sleep 0.4; done"];
    let job = fixture.run(JobSpec::new("build", lines)).await;
    let log = job.log();
    assert_eq!(job.status, Status::Success, "{log}");
    assert!(!job.trace_is_wrong);
    let expected: String = (1..=6).map(|n| format!("line {n}\n")).collect();
    assert!(log.contains(&expected), "{log}");
    assert!(fixture.gitlab.faults_happened() >= 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn artifacts_reach_the_jobs_that_depend_on_them() {
    let fixture = Fixture::new().await;
    let make = [
        "mkdir -p out/deep",
        "echo one >out/deep/a.txt",
        "echo no >out/b.o",
        "ln -s deep/a.txt out/l",
    ];
    let make = JobSpec::new("make", make).stage("build").artifacts(["out/**/*.txt", "out/l"]);
    let take = ["cat out/deep/a.txt out/l", "ls out"];
    let take = JobSpec::new("take", take).stage("test").needs(["make"]);
    let jobs = fixture.pipeline([make, take]);
    let driver = fixture.worker("a-1").await;
    let made = fixture.over(jobs[0]).await;
    assert_eq!(made.status, Status::Success, "{}", made.log());
    assert_eq!(made.artifacts.iter().filter(|a| a.kind == "archive").count(), 1);
    driver.await.unwrap().unwrap();
    // The next machine has nothing of the first.
    std::fs::remove_dir_all(&fixture.config.builds_dir).unwrap();
    let driver = fixture.worker("a-2").await;
    let took = fixture.over(jobs[1]).await;
    let log = took.log();
    assert_eq!(took.status, Status::Success, "{log}");
    assert!(log.contains("\none\none\n") && log.contains("\ndeep\nl\n"), "{log}");
    driver.await.unwrap().unwrap();
    fixture.assert_spoke_as_described();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_is_there_for_the_next_job() {
    let fixture = Fixture::new().await;
    let spec = |lines: &[&str]| {
        let mut spec = JobSpec::new("build", lines.iter().copied());
        spec.cache = vec![fake_gitlab::Cache::new("key/$CI_PROJECT_ID", ["kept/*", "none"])];
        spec
    };
    // More names than fit into one call.
    let fill = "mkdir kept; cd kept; for i in $(seq 1 9000); do echo $i >\"a long name, with blanks $i\"; done";
    let first = fixture.run(spec(&[fill])).await;
    assert!(first.log().contains("Created cache key/"), "{}", first.log());
    std::fs::remove_dir_all(&fixture.config.builds_dir).unwrap();
    let second = fixture.run(spec(&["ls kept | wc -l", "cat kept/*' 9000'"])).await;
    let log = second.log();
    assert_eq!(second.status, Status::Success, "{log}");
    assert!(log.contains("Successfully extracted cache") && log.contains("\n9000\n"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_are_uploaded_also_by_jobs_that_fail() {
    let fixture = Fixture::new().await;
    let report = fake_gitlab::Artifacts::report("junit", ["r/*.xml"]);
    let mut spec =
        JobSpec::new("test", ["mkdir r; echo '<one/>' >r/1.xml; echo '<two/>' >r/2.xml", "false"]);
    spec.artifacts = vec![report];
    let job = fixture.run(spec).await;
    assert_eq!(job.status, Status::Failed, "{}", job.log());
    let report = job.artifacts.iter().find(|artifact| artifact.kind == "junit").expect("a report");
    let mut text = String::new();
    let mut members = flate2::read::MultiGzDecoder::new(&report.content[..]);
    std::io::Read::read_to_string(&mut members, &mut text).unwrap();
    assert_eq!(text, "<one/>\n<two/>\n");
    fixture.assert_spoke_as_described();
}

/// The files of an archive, in order.
fn names(archive: &fake_gitlab::Artifact) -> Vec<String> {
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(archive.content.clone())).unwrap();
    let mut names: Vec<String> =
        (0..zip.len()).map(|n| zip.by_index(n).unwrap().name().unwrap().into_owned()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn artifacts_are_those_that_the_job_asked_for_and_are_kept_as_long() {
    let fixture = Fixture::new().await;
    let at = fixture.directory.path().join("git");
    std::fs::create_dir(&at).unwrap();
    let (sha, url) = (repository(&at), format!("file://{}/top", at.display()));
    let mut archive = fake_gitlab::Artifacts::archive(["out", "*.log"]);
    archive.name = Some("of-$CI_JOB_NAME".to_owned());
    archive.untracked = true;
    archive.exclude = vec!["out/**/*.o".to_owned(), "secret".to_owned()];
    archive.expire_in = Some("2 days".to_owned());
    let mut failures = fake_gitlab::Artifacts::report("codequality", ["report.json"]);
    failures.artifact_format = "raw".to_owned();
    failures.when = "on_failure".to_owned();
    let run = async |last: &str| {
        let lines = [
            "mkdir -p out/d; touch out/a out/d/b.o out/d/c x.log secret untracked 'with blank'",
            "echo '{}' >report.json",
            last,
        ];
        let mut spec = JobSpec::new("build", lines)
            .variable(Variable::new("GIT_STRATEGY", "fetch"))
            .variable(Variable::new("HOME", at.display().to_string()))
            .with_payload("/git_info/repo_url", url.clone().into())
            .with_payload("/git_info/sha", sha.clone().into())
            .with_payload(
                "/git_info/refspecs",
                serde_json::json!(["+refs/heads/main:refs/heads/m"]),
            );
        spec.artifacts = vec![archive.clone(), failures.clone()];
        let job = fixture.gitlab.job(fixture.project, spec.tags([common::PROFILE]));
        let driver = fixture.worker(&format!("a-{}", job.0)).await;
        let view = fixture.over(job).await;
        driver.await.unwrap().unwrap();
        view
    };
    let job = run("true").await;
    let kinds: Vec<&str> = job.artifacts.iter().map(|artifact| artifact.kind.as_str()).collect();
    assert_eq!(kinds, ["archive"], "{}", job.log());
    let made = &job.artifacts[0];
    assert_eq!(made.name, "of-build.zip");
    // What git tracks is there by its path alone, and nothing was tracked.
    let expected = ["out/a", "out/d/c", "report.json", "untracked", "with blank", "x.log"];
    assert_eq!(names(made), expected, "{}", job.log());
    let kept = made.expires.expect("an end").duration_since(fixture.gitlab.now());
    assert!((47..=48).contains(&kept.as_hours()), "{kept}");

    let job = run("false").await;
    let kinds: Vec<&str> = job.artifacts.iter().map(|artifact| artifact.kind.as_str()).collect();
    assert_eq!(kinds, ["codequality"], "{}", job.log());
    assert_eq!((&*job.artifacts[0].content, &*job.artifacts[0].format), (&b"{}\n"[..], "raw"));
    fixture.assert_spoke_as_described();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn artifacts_that_cannot_be_had_fail_the_job_and_say_so() {
    let fixture = Fixture::new().await;
    let make = JobSpec::new("make", ["echo >f"]).stage("build").artifacts(["f"]);
    let take = JobSpec::new("take", ["echo never"]).stage("test").needs(["make"]);
    let jobs = fixture.pipeline([make, take]);
    let driver = fixture.worker("a-1").await;
    fixture.over(jobs[0]).await;
    driver.await.unwrap().unwrap();
    fixture.gitlab.inject(Fault::status(404).on("GET /jobs/{id}/artifacts")).unwrap();
    let driver = fixture.worker("a-2").await;
    let job = fixture.over(jobs[1]).await;
    let log = job.log();
    assert_eq!(job.failure_reason.as_deref(), Some("runner_system_failure"), "{log}");
    assert!(log.contains("the artifacts of job make") && !log.contains("\nnever"), "{log}");
    driver.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn artifacts_survive_redirects_and_failures_on_their_way() {
    let fixture = Fixture::new().await;
    fixture.gitlab.configure(|settings| {
        settings.redirected_uploads = 1;
        settings.object_storage = true;
    });
    let upload = Fault::status(503).on("POST /jobs/{id}/artifacts").times(1);
    fixture.gitlab.inject(upload).unwrap();
    let download = Fault::new(fake_gitlab::FaultKind::Truncated);
    fixture.gitlab.inject(download.on("GET /jobs/{id}/artifacts").times(1)).unwrap();
    let make = JobSpec::new("make", ["seq 1 100000 >f"]).stage("build").artifacts(["f"]);
    let take = JobSpec::new("take", ["tail -n 1 f"]).stage("test").needs(["make"]);
    let jobs = fixture.pipeline([make, take]);
    for (job, name) in jobs.into_iter().zip(["a-1", "a-2"]) {
        let driver = fixture.worker(name).await;
        let job = fixture.over(job).await;
        assert_eq!(job.status, Status::Success, "{}", job.log());
        driver.await.unwrap().unwrap();
    }
}

/// A repository with two commits and a submodule, on a web of files.
fn repository(at: &std::path::Path) -> String {
    let script = r#"set -e
export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a
git init -q -b main sub; cd sub; echo sub >s; git add s; git commit -qm s; cd ..
git init -q -b main top; cd top; echo one >f; git add f; git commit -qm one
git -c protocol.file.allow=always submodule add -q "$PWD/../sub" sub
echo two >f; git commit -qam two; git rev-parse HEAD"#;
    let out =
        std::process::Command::new("sh").args(["-c", script]).current_dir(at).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sources_are_fetched_as_the_job_asks() {
    let fixture = Fixture::new().await;
    let at = fixture.directory.path().join("git");
    std::fs::create_dir(&at).unwrap();
    let sha = repository(&at);
    let url = format!("file://{}/top", at.display());
    let git = |spec: JobSpec| {
        spec.variable(Variable::new("GIT_STRATEGY", "fetch"))
            .variable(Variable::new("HOME", at.display().to_string()))
            .variable(Variable::new("GIT_ALLOW_PROTOCOL", "file"))
            .with_payload("/git_info/repo_url", url.clone().into())
            .with_payload("/git_info/sha", sha.clone().into())
            .with_payload("/git_info/depth", 1.into())
            .with_payload(
                "/git_info/refspecs",
                serde_json::json!(["+refs/heads/main:refs/remotes/origin/main"]),
            )
    };
    let submit = async |spec: JobSpec| {
        let job = fixture.gitlab.job(fixture.project, spec.tags([common::PROFILE]));
        let driver = fixture.worker(&format!("a-{}", job.0)).await;
        let view = fixture.over(job).await;
        driver.await.unwrap().unwrap();
        view
    };
    let spec =
        git(JobSpec::new("build", ["cat f sub/s", "git log --oneline | wc -l", "touch junk"]))
            .variable(Variable::new("GIT_SUBMODULE_STRATEGY", "recursive"));
    let job = submit(spec).await;
    let log = job.log();
    assert_eq!(job.status, Status::Success, "{log}");
    assert!(log.contains("\ntwo\nsub\n") && log.contains("git depth set to 1"), "{log}");
    // Again in the same place, as in an image that was filled before: clean.
    let job = submit(git(JobSpec::new("build", ["test ! -e junk", "cat f"]))).await;
    assert_eq!(job.status, Status::Success, "{}", job.log());
    // A commit that there is not.
    let spec = git(JobSpec::new("build", ["echo never"]).after(["echo nothing to clear up"]))
        .with_payload("/git_info/sha", "0123456789012345678901234567890123456789".into())
        .variable(Variable::new("GET_SOURCES_ATTEMPTS", "2"));
    let job = submit(spec).await;
    let log = job.log();
    assert_eq!(job.failure_reason.as_deref(), Some("runner_system_failure"), "{log}");
    assert_eq!(log.matches("Fetching changes").count(), 2, "{log}");
    assert!(!log.contains("\nnever") && !log.contains("\nnothing"), "{log}");
}
