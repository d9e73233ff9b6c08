//! A real Prometheus scrapes the service; every alert rule and every query of the dashboard is tried on it.

mod common;

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use common::{Server, TOKEN, eventually, said, tool};
use serde_json::Value;
use tempfile::TempDir;

/// Panels that tell of what did not happen in these tests.
const MAY_BE_EMPTY: &[&str] = &["What is held, and why"];

fn monitoring() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("monitoring")
}

fn promtool(args: &[&str]) -> Option<Command> {
    let mut command = Command::new(tool("prometheus", "prometheus/usr/bin/promtool")?);
    command.args(args).current_dir(monitoring());
    Some(command)
}

/// A Prometheus of our own.
struct Prometheus {
    child: Child,
    url: String,
    runtime: tokio::runtime::Runtime,
    _dir: TempDir,
}

impl Prometheus {
    fn start(server: &Server) -> Option<Self> {
        let program = tool("prometheus", "prometheus/usr/bin/prometheus")?;
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let file = dir.path().join(name);
            fs::write(&file, text).unwrap();
            file.to_str().unwrap().to_owned()
        };
        let token = file("token", TOKEN);
        // The configuration that is documented, for this service and with our patience.
        let config = fs::read_to_string(monitoring().join("prometheus.yml")).unwrap();
        let config = config
            .replace("/etc/prometheus/monitor-token", &token)
            .replace("127.0.0.1:8000", &server.address.to_string())
            .replace("[alerts.yml]", &format!("[{:?}]", monitoring().join("alerts.yml")));
        assert!(config.contains(&token) && config.contains(&server.address.to_string()));
        let config =
            format!("global: {{ scrape_interval: 250ms, evaluation_interval: 1s }}\n{config}");
        let config = file("prometheus.yml", &config);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new(program)
            .arg(format!("--config.file={config}"))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let url = format!("http://127.0.0.1:{port}");
        let runtime = tokio::runtime::Runtime::new().unwrap();
        Some(Self { child, url, runtime, _dir: dir })
    }

    /// What is answered, once anything is.
    fn ask(&self, path: &str, query: &[(&str, &str)]) -> Option<Value> {
        self.runtime.block_on(async {
            monitor::http::tls::prepare();
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            let mut url = reqwest::Url::parse(&format!("{}{path}", self.url)).unwrap();
            url.query_pairs_mut().extend_pairs(query);
            let answer = client.get(url).send().await.ok()?;
            serde_json::from_slice(&answer.bytes().await.ok()?).ok()
        })
    }

    /// The samples that a query gives; fails for one that cannot be parsed.
    fn query(&self, query: &str) -> Vec<Value> {
        let answer = self.ask("/api/v1/query", &[("query", query)]).unwrap();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().unwrap().clone()
    }

    fn value(&self, query: &str) -> Option<f64> {
        self.query(query).first()?["value"][1].as_str()?.parse().ok()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn prometheus_reads_what_the_service_did() {
    let server = Server::start();
    let Some(prometheus) = Prometheus::start(&server) else { return };
    eventually(|| {
        let answer = prometheus.ask("/api/v1/targets", &[])?;
        let targets = answer["data"]["activeTargets"].as_array()?.clone();
        (targets.first()?["health"] == "up").then_some(())
    });
    for _ in 0..2 {
        let job = server.submit("true");
        server.wait(&job, "succeeded");
    }
    let jobs = r#"sum(monitor_jobs_total{outcome="succeeded",profile="micro"})"#;
    eventually(|| (prometheus.value(jobs) == Some(2.0)).then_some(()));
    eventually(|| {
        (prometheus.value(r#"sum(monitor_workers{phase="idle"})"#)? >= 1.0).then_some(())
    });
    assert_eq!(prometheus.value("min(monitor_source_seen)"), Some(1.0));
    // Nothing is amiss, so nothing fires.
    let rules = eventually(|| {
        let answer = prometheus.ask("/api/v1/rules", &[])?;
        let groups = answer["data"]["groups"].as_array()?.clone();
        let rules = groups.first()?["rules"].as_array()?.clone();
        rules.iter().all(|rule| rule["health"] == "ok").then_some(rules)
    });
    assert!(rules.len() > 10);
    for rule in rules {
        assert_ne!(rule["state"], "firing", "{rule}");
        let runbook = rule["annotations"]["runbook"].as_str().unwrap_or_default();
        assert!(runbook.len() > 40, "{} says too little of what to do", rule["name"]);
    }
    every_query_of_the_dashboard_works(&server, &prometheus);
}

fn every_query_of_the_dashboard_works(server: &Server, prometheus: &Prometheus) {
    let text = fs::read_to_string(monitoring().join("dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let documented = monitor::metrics::page();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap();
            let query = query.replace("$instance", ".*").replace("$__rate_interval", "1m");
            assert!(!query.contains('$'), "{query}");
            queries.push((title.to_owned(), query));
        }
    }
    assert!(queries.len() > 30);
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    for (title, query) in &queries {
        let names = query.split(|c| !is_name(c)).filter(|word| word.starts_with("monitor_"));
        for name in names.collect::<BTreeSet<_>>() {
            let name = name.trim_end_matches("_bucket").trim_end_matches("_count");
            assert!(documented.contains(&format!("`{name}`")), "{title}: {name} is no metric");
        }
        if MAY_BE_EMPTY.contains(&title.as_str()) {
            prometheus.query(query);
            continue;
        }
        // A rate takes two scrapes; a quantile, something that happened between them.
        let last = eventually(|| {
            if query.contains("monitor_job") || query.contains("monitor_worker") {
                let job = server.submit("true");
                server.wait(&job, "succeeded");
            }
            prometheus.query(query).into_iter().next()
        });
        assert!(last["value"][1].is_string(), "{title}: {last}");
    }
}

#[test]
fn promtool_finds_nothing_in_what_is_told() {
    let Some(mut check) = promtool(&["check", "metrics"]) else { return };
    let server = Server::start();
    let job = server.submit("true");
    server.wait(&job, "succeeded");
    let text = eventually(|| {
        let text = server.get("/metrics").text();
        text.contains("monitor_job_run_duration_seconds_bucket").then_some(text)
    });
    check.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = check.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", said(&output));
}

#[test]
fn the_alert_rules_fire_when_they_should_and_not_before() {
    let Some(mut check) = promtool(&["check", "rules", "alerts.yml"]) else { return };
    let output = check.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let output = promtool(&["test", "rules", "alerts_test.yml"]).unwrap().output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let rules = fs::read_to_string(monitoring().join("alerts.yml")).unwrap();
    let tests = fs::read_to_string(monitoring().join("alerts_test.yml")).unwrap();
    for name in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(&format!("alertname=\"{name}\"")), "{name} has no test");
    }
    let documented = monitor::metrics::page();
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let names = rules.split(|c| !is_name(c)).filter(|word| word.starts_with("monitor_"));
    for name in names {
        assert!(documented.contains(&format!("`{name}`")), "{name} is no metric");
    }
}
