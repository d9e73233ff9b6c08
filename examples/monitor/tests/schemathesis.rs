//! Holds a service over fakes against its own OpenAPI document, by requests that nobody thought of.

mod common;

use std::{
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::TOKEN;
use monitor::{
    client::Client,
    compose::Backends,
    config::Config,
    data_dir::DataDir,
    serve::{Base, Service},
    token::Token,
};
use runner_core::{Clock, fake::FakeWorld};
use serde_json::Value;
use tokio::runtime::Runtime;

/// Nothing of it is limited so tightly that a fast client would be told to wait.
const CONFIG: &str = r#"
[http]
listen = "127.0.0.1:0"
rate = "off"
body_limit = "4MiB"
[[profile]]
name = "micro"
labels = ["linux"]
image = { kind = "micro" }
memory = "256MiB"
min_idle = 2
max = 4
"#;

fn is_required() -> bool {
    let required = std::env::var("RUNNER_TEST_REQUIRE").unwrap_or_default();
    required.split([',', ' ']).any(|part| part == "schemathesis")
}

/// Where the script is, and whether what it needs is there.
fn script() -> Option<Command> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut command = Command::new(root.join("scripts/schemathesis"));
    let cache = std::env::var_os("RUNNER_CACHE").map_or(root.join("cache/test"), Into::into);
    command.env("RUNNER_CACHE", &cache);
    let installed = std::fs::read_dir(cache).into_iter().flatten().flatten().any(|entry| {
        let is_it = entry.file_name().to_string_lossy().starts_with("schemathesis-");
        is_it && entry.path().join("ok").exists()
    });
    installed.then_some(command)
}

async fn start(data: &Path) -> Service {
    let world = FakeWorld::new(Clock::system());
    world.set_boot_time(Duration::ZERO);
    let config = Config::parse(Path::new("monitor.toml"), CONFIG).unwrap();
    let backends = Backends {
        hypervisor: Arc::new(world.hypervisor()),
        builder: Arc::new(world.builder()),
        forges: Default::default(),
    };
    let base = Base::open(DataDir::lock(data).unwrap()).await.unwrap();
    let listener = tokio::net::TcpListener::bind(config.http.listen).await.unwrap();
    let token = Token::new(TOKEN).unwrap();
    Service::start(&config, base, backends, token, listener).await.unwrap()
}

/// Ends every job before long, so that whoever waits for its log does not wait for ever.
async fn cancel_everything(client: Client, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        for state in ["queued", "running"] {
            let page: Value = client.list(&format!("/jobs?limit=500&state={state}")).await.unwrap();
            for job in page["jobs"].as_array().unwrap() {
                client.cancel(job["id"].as_str().unwrap()).await.unwrap();
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[test]
fn schemathesis_finds_nothing() {
    let Some(mut command) = script() else {
        assert!(
            !is_required(),
            "schemathesis is required and missing; run scripts/schemathesis --install"
        );
        println!("skipped: schemathesis is missing");
        return;
    };
    let data = tempfile::tempdir().unwrap();
    let runtime = Runtime::new().unwrap();
    let service = runtime.block_on(start(&data.path().join("data")));
    let url = format!("http://{}", service.address());
    let file = data.path().join("token");
    std::fs::write(&file, TOKEN).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&file, mode).unwrap();
    let client = Client::new(&url, Some(&file), None, data.path()).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let reaper = runtime.spawn(async move { cancel_everything(client, &stopped).await });
    let output = command
        .args([&url, "--max-examples", "60", "--workers", "2", "--request-timeout", "60"])
        .env("MONITOR_API_TOKEN", TOKEN)
        .output()
        .unwrap();
    stop.store(true, Ordering::Relaxed);
    runtime.block_on(reaper).unwrap();
    runtime.block_on(service.stop());
    let said = common::said(&output);
    println!("{said}");
    assert!(output.status.success(), "{said}");
    assert!(said.contains("SCHEMATHESIS_SEED="), "{said}");
}
