//! Metrics by OTLP, as a receiver made of OpenTelemetry's own message types reads them.

mod common;

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use common::{Server, TOKEN, eventually, tool};
use monitor::metrics::otlp::{self, Target};
use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// A receiver in a process of its own.
struct Receiver {
    child: Child,
    port: u16,
    answer: PathBuf,
    exports: mpsc::Receiver<Value>,
    _dir: TempDir,
}

impl Receiver {
    fn start(port: u16) -> Option<Self> {
        let python = tool("opentelemetry-proto", "python/bin/python3")?;
        let dir = tempfile::tempdir().unwrap();
        let answer = dir.path().join("answer");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/otlp_receiver.py");
        let mut child = Command::new(python)
            .arg(script)
            .arg(&answer)
            .arg(port.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = lines.next().unwrap().unwrap().parse().unwrap();
        let (send, exports) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if send.send(serde_json::from_str(&line).unwrap()).is_err() {
                    return;
                }
            }
        });
        Some(Self { child, port, answer, exports, _dir: dir })
    }

    fn next(&self) -> Value {
        self.exports.recv_timeout(Duration::from_secs(60)).expect("an export comes")
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Every series of an export, written as Prometheus would.
fn series(export: &Value) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    for (name, metric) in export["metrics"].as_object().unwrap() {
        for point in metric["points"].as_array().unwrap() {
            let labels = point["labels"].as_object().unwrap();
            let labels: BTreeMap<&str, String> =
                labels.iter().map(|(k, v)| (k.as_str(), v.as_str().unwrap().to_owned())).collect();
            let mut put = |suffix: &str, more: Option<String>, value: f64| {
                let mut labels: Vec<_> =
                    labels.iter().map(|(key, value)| format!("{key}={value:?}")).collect();
                labels.extend(more.map(|bound| format!("le={bound:?}")));
                let labels = labels.join(",");
                let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
                all.insert(format!("{name}{suffix}{labels}"), value);
            };
            if metric["kind"] != "histogram" {
                put("", None, point["value"].as_f64().unwrap());
                continue;
            }
            put("_count", None, point["count"].as_f64().unwrap());
            put("_sum", None, point["sum"].as_f64().unwrap());
            let bounds = point["bounds"].as_array().unwrap().iter();
            let bounds = bounds.map(|bound| bound.as_f64().unwrap().to_string());
            let below = point["below"].as_array().unwrap().iter();
            for (bound, below) in bounds.chain(["+Inf".to_owned()]).zip(below) {
                put("_bucket", Some(bound), below.as_f64().unwrap());
            }
        }
    }
    all
}

/// Every series of a scrape.
fn scraped(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let line = |line: &str| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        (series.to_owned(), value.parse().unwrap())
    };
    lines.map(line).collect()
}

#[test]
fn what_is_sent_is_what_prometheus_reads() {
    let Some(receiver) = Receiver::start(0) else { return };
    let server = Server::start();
    let job = server.submit("true");
    server.wait(&job, "succeeded");
    let endpoint = format!("http://127.0.0.1:{}", receiver.port);
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20planted"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "100"),
        ("OTEL_RESOURCE_ATTRIBUTES", "host.name=h1"),
    ];
    let target = Target::read(|name| {
        let found = variables.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| (*value).to_owned())
    });
    let target = target.unwrap().unwrap();
    let stop = CancellationToken::new();
    let done = server
        .inside(|service| otlp::begin(service.metrics().clone(), target, stop.clone()).unwrap());
    // What two exports say alike was so in between, too.
    let export = eventually(|| {
        while receiver.exports.try_recv().is_ok() {}
        let before = receiver.next();
        let text = server.get("/metrics").text();
        let after = receiver.next();
        let (first, there, last) = (series(&before), scraped(&text), series(&after));
        let done = r#"monitor_jobs_total{outcome="succeeded",profile="micro"}"#;
        if first.get(done) != Some(&1.0) || there.keys().ne(last.keys()) {
            return None;
        }
        // The scrape itself opens files.
        let same = first.iter().filter(|(name, value)| {
            last.get(*name) == Some(value) && !name.starts_with("process_")
        });
        let mut compared = 0;
        for (name, value) in same {
            // JSON costs the last digit.
            let scraped = there[name];
            let close = (scraped - value).abs() <= value.abs() * 1e-12;
            let gauge = after["metrics"][name.split('{').next()?]["kind"] == "gauge";
            if !close && gauge {
                return None; // It went there and back.
            }
            assert!(close, "{name}: {scraped} and {value}");
            compared += 1;
        }
        // Most of it stands still while nothing is done; calls to the backends do not.
        if compared * 10 < there.len() * 6 {
            return None;
        }
        // Each kind and text is that of the scrape.
        for (name, metric) in after["metrics"].as_object().unwrap() {
            let kind = if metric["kind"] == "sum" { "counter" } else { metric["kind"].as_str()? };
            assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name} is a {kind}");
            let help = metric["help"].as_str().unwrap();
            assert!(text.contains(&format!("# HELP {name} {help}\n")), "{name}: {help}");
            let unit = metric["unit"].as_str().unwrap();
            assert_eq!(unit == "s", name.contains("_seconds"), "{name} has unit {unit:?}");
            assert_eq!(unit == "By", name.contains("_bytes"), "{name} has unit {unit:?}");
        }
        Some(after)
    });
    assert_eq!(export["path"], "/v1/metrics");
    assert_eq!(export["authorization"], "Bearer planted");
    assert_eq!(export["resource"]["service.name"], "monitor");
    assert_eq!(export["resource"]["host.name"], "h1");
    stop.cancel();
    eventually(|| done.is_finished().then_some(()));
}

/// `monitor serve` without machines.
struct Process {
    child: Child,
    url: String,
    log: PathBuf,
    _dir: TempDir,
}

impl Process {
    fn start(variables: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("monitor.toml");
        let text = format!(
            "[http]\nlisten = \"127.0.0.1:0\"\n[data]\ndir = {:?}\n[qemu]\nbinary = \"/missing\"\n\
             [[profile]]\nname = \"none\"\nmemory = \"64MiB\"\nmin_idle = 0\n\
             image = {{ kind = \"disk\", path = \"/missing\", sha256 = \"{}\" }}\n",
            dir.path().join("data"),
            "0".repeat(64),
        );
        fs::write(&config, text).unwrap();
        let log = dir.path().join("log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_monitor"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OTEL_")) {
            command.env_remove(name);
        }
        let child = command
            .args(["serve", "--config", config.to_str().unwrap(), "--log", "debug"])
            .env("MONITOR_API_TOKEN", TOKEN)
            .env("NO_COLOR", "1")
            .envs(variables.iter().copied())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let url = eventually(|| {
            let text = fs::read_to_string(&log).unwrap();
            let line = text.lines().find(|line| line.contains("listening on http://"))?;
            Some(line[line.find("http://")?..].trim().to_owned())
        });
        Self { child, url, log, _dir: dir }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn metrics(&self) -> BTreeMap<String, f64> {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            monitor::http::tls::prepare();
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            let answer = client.get(format!("{}/metrics", self.url)).send().await.unwrap();
            scraped(&answer.text().await.unwrap())
        })
    }

    /// Ends it by a signal; says how long that took.
    fn stop(&mut self) -> Duration {
        let began = Instant::now();
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let status = eventually(|| self.child.try_wait().unwrap());
        assert!(status.success(), "{status}");
        began.elapsed()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn without_an_endpoint_nothing_is_said_and_nothing_is_sent() {
    let mut process = Process::start(&[]);
    assert!(process.metrics().keys().all(|series| !series.starts_with("monitor_otlp")));
    process.stop();
    let log = process.log();
    assert!(!log.to_lowercase().contains("otlp"), "{log}");
}

#[test]
fn a_receiver_that_is_down_is_told_of_once_and_found_again() {
    if tool("opentelemetry-proto", "python/bin/python3").is_none() {
        return;
    }
    // A port that nobody has.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let endpoint = format!("http://user:planted-pw@127.0.0.1:{port}");
    let mut process = Process::start(&[
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", &format!("{endpoint}/own/path")),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=planted-key"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "50"),
    ]);
    let failed = r#"monitor_otlp_exports_total{result="failed"}"#;
    eventually(|| (*process.metrics().get(failed)? >= 3.0).then_some(()));
    let warnings = || process.log().matches("could not be sent by OTLP").count();
    assert_eq!(warnings(), 1, "{}", process.log());
    let receiver = Receiver::start(port).unwrap();
    let export = receiver.next();
    assert_eq!(export["path"], "/own/path");
    eventually(|| process.log().contains("sent by OTLP again").then_some(()));
    // A receiver that refuses is as one that is down.
    fs::write(&receiver.answer, "503").unwrap();
    eventually(|| (warnings() == 2).then_some(()));
    fs::remove_file(&receiver.answer).unwrap();
    eventually(|| (process.log().matches("OTLP again").count() == 2).then_some(()));
    process.stop();
    let log = process.log();
    assert!(log.contains("it answered 503"), "{log}");
    assert!(!log.contains("planted"), "{log}");
}

#[test]
fn the_last_export_comes_at_the_end_and_a_silent_receiver_delays_nobody() {
    // It takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let mut process = Process::start(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
        ("OTEL_METRIC_EXPORT_INTERVAL", "3600000"),
    ]);
    let took = process.stop();
    assert!(took < Duration::from_secs(30), "{took:?}");
    let (mut connection, _) = silent.accept().unwrap();
    let mut begun = [0; 17];
    connection.read_exact(&mut begun).unwrap();
    assert_eq!(&begun, b"POST /v1/metrics ");
}

#[test]
fn what_the_environment_says_wrongly_is_named_and_keeps_nobody_away() {
    let mut process = Process::start(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
    ]);
    assert!(process.log().contains("OTEL_EXPORTER_OTLP_PROTOCOL=grpc is not supported"));
    process.stop();
}
