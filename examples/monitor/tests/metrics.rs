//! What `/metrics` tells of a service that ran.

mod common;

use std::collections::BTreeMap;

use common::{Server, eventually};
use reqwest::Method;

/// The value of a series, as it is written.
fn value(text: &str, series: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

fn scrape(server: &Server) -> String {
    let answer = server.get("/metrics");
    assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4");
    answer.text()
}

/// Asks until a series has this value.
fn reaches(server: &Server, series: &str, wanted: f64) -> String {
    eventually(|| {
        let text = scrape(server);
        (value(&text, series) == Some(wanted)).then_some(text)
    })
}

#[test]
fn a_run_is_counted() {
    let server = Server::start();
    reaches(&server, r#"monitor_workers{phase="idle",profile="micro"}"#, 1.0);
    let good = server.submit("true");
    server.wait(&good, "succeeded");
    let bad = server.submit("exit 3");
    server.wait(&bad, "failed");
    reaches(&server, r#"monitor_jobs_total{outcome="succeeded",profile="micro"}"#, 1.0);
    let text = reaches(&server, r#"monitor_jobs_total{outcome="failed",profile="micro"}"#, 1.0);
    let is = |series: &str, wanted: f64| assert_eq!(value(&text, series), Some(wanted), "{series}");
    is(r#"monitor_jobs_queued_total{forge="local"}"#, 2.0);
    is(r#"monitor_profile_max_workers{profile="micro"}"#, 3.0);
    is(r#"monitor_source_seen{source="forge local"}"#, 1.0);
    is(r#"monitor_source_seen{source="hypervisor"}"#, 1.0);
    is(r#"monitor_build_info{version="0.1.0"}"#, 1.0);
    is("monitor_events_uncounted_total", 0.0);
    is("monitor_store_errors_total", 0.0);
    is(r#"monitor_image_builds_total{profile="micro",result="ok"}"#, 1.0);
    // The first worker was ready before its job came.
    let hot = r#"monitor_job_start_duration_seconds_count{profile="micro",start="hot"}"#;
    assert!(value(&text, hot) >= Some(1.0), "{text}");
    let boots = r#"monitor_worker_boot_duration_seconds_count{profile="micro"}"#;
    assert!(value(&text, boots) >= Some(2.0), "{text}");
    let calls = r#"monitor_forge_calls_total{call="register",forge="local",result="ok"}"#;
    assert!(value(&text, calls) >= Some(2.0), "{text}");
    let created = r#"monitor_hypervisor_calls_total{call="create",result="ok"}"#;
    assert!(value(&text, created) >= Some(2.0), "{text}");
    assert!(value(&text, "process_open_fds") > Some(5.0), "{text}");
    reaches(&server, r#"monitor_workers_retired_total{profile="micro",why="runner_gone"}"#, 2.0);
}

#[test]
fn blindness_is_timed_while_it_lasts_and_stops_at_its_end() {
    let server = Server::start();
    reaches(&server, r#"monitor_source_seen{source="hypervisor"}"#, 1.0);
    server.host.blind(true);
    reaches(&server, r#"monitor_source_seen{source="hypervisor"}"#, 0.0);
    let series = r#"monitor_source_blind_seconds_total{source="hypervisor"}"#;
    let during = eventually(|| value(&scrape(&server), series).filter(|blind| *blind > 0.3));
    let errors = r#"monitor_hypervisor_calls_total{call="instances",result="backend"}"#;
    assert!(value(&scrape(&server), errors) >= Some(1.0));
    server.host.blind(false);
    reaches(&server, r#"monitor_source_seen{source="hypervisor"}"#, 1.0);
    let after = value(&scrape(&server), series).unwrap();
    assert!(after >= during);
    // Many looks later it is the same.
    let looks = r#"monitor_hypervisor_calls_total{call="instances",result="ok"}"#;
    let so_far = value(&scrape(&server), looks).unwrap();
    eventually(|| (value(&scrape(&server), looks)? >= so_far + 5.0).then_some(()));
    assert_eq!(value(&scrape(&server), series), Some(after));
}

#[test]
fn requests_are_counted_by_route_and_have_an_id() {
    let server = Server::start();
    let first = server.get("/api/v2/jobs/nothing-1");
    let second = server.get("/api/v2/jobs/nothing-2");
    assert_eq!(first.status.as_u16(), 404);
    assert_ne!(first.headers["x-request-id"], second.headers["x-request-id"]);
    server.get("/no/such/path");
    let brew = Method::from_bytes(b"BREW").unwrap();
    server.send(brew, "/healthz", |request| request.bearer_auth(common::TOKEN));
    let refused =
        server.send(Method::GET, "/healthz", |request| request.header("Host", "elsewhere.example"));
    assert_eq!(refused.status.as_u16(), 421);
    let text = scrape(&server);
    let count = |route: &str, method: &str, status: u16| {
        let series = format!(
            r#"monitor_http_requests_total{{method="{method}",route="{route}",status="{status}"}}"#
        );
        value(&text, &series)
    };
    assert_eq!(count("/api/v2/jobs/:param0", "GET", 404), Some(2.0), "{text}");
    assert_eq!(count("none", "GET", 404), Some(1.0), "{text}");
    assert_eq!(count("none", "GET", 421), Some(1.0), "{text}");
    assert_eq!(count("/healthz", "other", 405), Some(1.0), "{text}");
    assert!(!text.contains("nothing-1") && !text.contains("elsewhere"), "{text}");
}

#[test]
fn names_of_workers_and_jobs_are_never_labels() {
    let server = Server::start();
    let job = server.submit("true");
    let worker = server.wait(&job, "succeeded")["worker"].as_str().unwrap().to_owned();
    let text = reaches(&server, r#"monitor_jobs_total{outcome="succeeded",profile="micro"}"#, 1.0);
    assert!(!text.contains(&format!("\"{worker}\"")) && !text.contains(&format!("\"{job}\"")));
    let mut labels: BTreeMap<&str, usize> = BTreeMap::new();
    for series in text.lines().filter(|line| !line.starts_with('#')) {
        let name = series.split(['{', ' ']).next().unwrap();
        *labels.entry(name.trim_end_matches("_bucket")).or_default() += 1;
    }
    let most = labels.iter().max_by_key(|(_, count)| **count).unwrap();
    assert!(*most.1 < 400, "{most:?}");
}

#[test]
fn every_metric_that_is_told_is_in_the_documentation() {
    let server = Server::start();
    let job = server.submit("true");
    server.wait(&job, "succeeded");
    let text = reaches(&server, r#"monitor_jobs_total{outcome="succeeded",profile="micro"}"#, 1.0);
    let page = monitor::metrics::page();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        assert!(page.contains(&format!("| `{name}` | {kind} |")), "{line} is not documented");
        assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
    }
}
