//! `monitor doctor` and a GitHub, over real HTTP: what is well, and each failure that it knows.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Command, time::Duration};

use fake_github::{FakeGitHub, Fault, FaultRule, Level, Limits, Permissions};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

const CONFIG: &str = r#"
[qemu]
binary = "/no/such/qemu"
accel = "tcg"
[[github]]
name = "github"
url = "PLACE"
token = { file = "token" }
repositories = ["acme/widgets"]
group = "GROUP"
webhook = [{ file = "webhook" }]
[[profile]]
name = "linux"
forge = "github"
image = { kind = "micro" }
memory = "256MiB"
runner_version = "2.330.0"
"#;

const HERE: &str = "https://ci.example.org/api/v2/forges/github/webhook";
const HERE_PATH: &str = "/api/v2/forges/github/webhook";

/// A GitHub in which all is well, and a host that is to use it.
struct Host {
    github: FakeGitHub,
    hook: i64,
    dir: TempDir,
    _runtime: Runtime,
}

impl Host {
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let builder = FakeGitHub::builder().ghes().limits(Limits::GITHUB);
        let github = runtime.block_on(builder.start()).unwrap();
        let acme = github.organisation("acme");
        github.repository("acme", "widgets");
        let hook = github.hook(&acme, HERE, "s3cret");
        let host = Self { github, hook, dir: tempfile::tempdir().unwrap(), _runtime: runtime };
        host.write("webhook", "s3cret");
        host.let_in(&["repo", "admin:org", "admin:org_hook"]);
        host.configure(|text| text);
        host
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.file(name), content).unwrap();
        fs::set_permissions(self.file(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// With another classic token of these scopes.
    fn let_in(&self, scopes: &[&str]) {
        self.write("token", &self.github.classic_token("mona", scopes));
    }

    fn configure(&self, edit: impl Fn(String) -> String) {
        let place = format!("{}/acme", self.github.web_url());
        let text = CONFIG.replace("PLACE", &place).replace("GROUP", "Default");
        fs::write(self.file("monitor.toml"), edit(text)).unwrap();
    }

    /// What is found of the forge: outcome, name without the forge's, and what is said.
    fn examine(&self) -> Vec<(String, String, String)> {
        let output = Command::new(env!("CARGO_BIN_EXE_monitor"))
            .args(["doctor", "--json", "--no-boot", "--config"])
            .arg(self.file("monitor.toml"))
            .env("MONITOR_DATA", self.file("data"))
            .env("MONITOR_CACHE", self.file("cache"))
            .output()
            .unwrap();
        let report: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
        let text = |check: &Value, key: &str| check[key].as_str().unwrap_or_default().to_owned();
        let token = fs::read_to_string(self.file("token")).unwrap_or_default();
        assert!(token.is_empty() || !report.to_string().contains(&token), "it tells the token");
        let checks = report["checks"].as_array().unwrap().iter().filter_map(|check| {
            let name = text(check, "name");
            let name = name.strip_prefix("forge github: ")?.to_owned();
            let said = format!("{} → {}", text(check, "found"), text(check, "way_out"));
            Some((text(check, "outcome"), name, said))
        });
        checks.collect()
    }

    /// This is not well, and nothing else; it is said with all of these parts.
    #[track_caller]
    fn has(&self, outcome: &str, name: &str, parts: &[&str]) {
        let all = self.examine();
        let ill: Vec<_> = all.iter().filter(|(outcome, ..)| outcome != "ok").collect();
        let [(found, of, said)] = &ill[..] else { panic!("{name}: {all:#?}") };
        assert_eq!((found.as_str(), of.as_str()), (outcome, name), "{said}");
        for part in parts {
            assert!(said.contains(part), "{part:?} is not in: {said}");
        }
    }

    /// All that was sent is as GitHub describes it.
    fn lawful(&self) {
        let wrong: Vec<String> = self.github.violations().iter().map(ToString::to_string).collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

#[test]
fn where_all_is_well_each_check_says_so_and_nothing_is_changed() {
    let host = Host::new();
    let all = host.examine();
    let of = |name: &str| {
        let found = all.iter().find(|(_, of, _)| of == name);
        let (outcome, _, said) = found.unwrap_or_else(|| panic!("{name}: {all:#?}"));
        assert_eq!(outcome, "ok", "{name}: {said}");
        said.clone()
    };
    of("secret");
    assert!(of("access").contains("organization acme"));
    assert!(of("runner group").contains("Default is there"));
    assert!(of("queued jobs").contains("acme/widgets"));
    of("webhook");
    of("clock");
    assert!(of("calls left").contains("of 5000 of core"));
    assert!(of("runner program").contains("2.330.0"));
    let changed = |call: &&fake_github::Call| call.method != "GET" && call.status != Some(404);
    assert_eq!(host.github.calls().iter().filter(changed).count(), 0);
    host.lawful();
}

#[test]
fn who_is_not_let_in_is_told_what_to_grant_where() {
    let host = Host::new();
    host.let_in(&["repo"]);
    host.has("failure", "access", &["403", "\"Self-hosted runners: read and write\" on acme"]);
    host.write("token", "ghp_wrong");
    host.has("failure", "access", &["401", "Bad credentials", "without a restart"]);
    // It may look, and no more.
    let reads: Permissions = [
        ("organization_self_hosted_runners", Level::Read),
        ("actions", Level::Read),
        ("organization_hooks", Level::Read),
    ]
    .map(|(name, level)| (name.to_owned(), level))
    .into();
    host.write("token", &host.github.fine_grained_token("acme", reads));
    host.has("failure", "access", &["remove", "403", "read and write\" on acme"]);
    host.lawful();
}

#[test]
fn secrets_that_others_read_or_nobody_are_told_of() {
    let host = Host::new();
    let open = fs::Permissions::from_mode(0o644);
    fs::set_permissions(host.file("token"), open).unwrap();
    host.has("warning", "secret", &["mode 644", "chmod 600", "token"]);
    host.let_in(&["repo", "admin:org", "admin:org_hook"]);
    fs::remove_file(host.file("webhook")).unwrap();
    let all = host.examine();
    let failures: Vec<_> = all.iter().filter(|(outcome, ..)| outcome == "failure").collect();
    assert!(failures.iter().any(|(_, name, said)| name == "secret" && said.contains("webhook")));
    assert!(failures.iter().any(|(_, name, _)| name == "webhook"), "{all:#?}");
}

#[test]
fn a_group_that_is_not_there_and_a_repository_that_may_not_be_seen_are_named() {
    let host = Host::new();
    host.configure(|text| text.replace("group = \"Default\"", "group = \"Fast\""));
    host.has("failure", "runner group", &["no runner group Fast", "Default"]);
    host.configure(|text| text.replace("acme/widgets", "acme/secret"));
    host.has("warning", "queued jobs", &["acme/secret", "Actions: read"]);
    // With nobody else to tell, it is worse.
    let polls = "memory = \"256MiB\"\nsources = [\"poll\"]";
    host.configure(|text| {
        text.replace("acme/widgets", "acme/secret").replace("memory = \"256MiB\"", polls)
    });
    host.has("failure", "queued jobs", &["acme/secret"]);
}

#[test]
fn a_webhook_that_does_not_deliver_here_is_told_of() {
    let host = Host::new();
    host.let_in(&["repo", "admin:org"]);
    host.has("warning", "webhook", &["cannot be seen", "Webhooks: read"]);
    host.let_in(&["repo", "admin:org", "admin:org_hook"]);
    let hook = host.hook;
    host.configure(|text| text.replace("webhook = ", &format!("hook = {hook}\nwebhook = ")));
    assert!(host.examine().iter().all(|(outcome, ..)| outcome == "ok"));
    host.configure(|text| text.replace("webhook = ", "hook = 4711\nwebhook = "));
    host.has("failure", "webhook", &["no hook delivers here", HERE_PATH]);
    let rule = FaultRule::always(Fault::Status { status: 500, retry_after: None, message: None });
    host.github.fault(rule.path("/orgs/acme/hooks*"));
    host.has("warning", "webhook", &["500"]);
}

#[test]
fn a_clock_that_is_wrong_a_limit_that_is_used_up_and_an_old_program_are_told_of() {
    let host = Host::new();
    host.configure(|text| text.replace("2.330.0", "2.329.0"));
    host.has("warning", "runner program", &["2.329.0", "GitHub offers 2.330.0", "30 days"]);
    host.configure(|text| text);
    // A tenth is left, sooner or later.
    host.github.set_limits(Limits { core: 100, ..Limits::GITHUB });
    let told = (0..20).any(|_| {
        let all = host.examine();
        all.iter().any(|(outcome, name, _)| outcome == "warning" && name == "calls left")
    });
    assert!(told, "{:#?}", host.examine());
    host.github.set_limits(Limits::GITHUB);
    host.github.advance(Duration::from_secs(2 * 3600));
    host.has("failure", "clock", &["behind GitHub's", "set-ntp"]);
}
