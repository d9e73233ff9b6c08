//! The real `monitor serve` against a GitHub over real HTTP, on a host where no machine can be made: what it
//! proves itself with, what it does without, and what it tells of it.

mod process;

use std::{fs, path::PathBuf};

use fake_github::{FakeGitHub, Fault, FaultRule, Level, Permissions};
use process::{Process, eventually, get, serve};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const CONFIG: &str = r#"
[http]
listen = "127.0.0.1:0"
[qemu]
binary = "/no/such/qemu"
accel = "tcg"
vcpus = 2
memory = "1GiB"
disk = "1GiB"
[pace]
look_every = "200ms"
[[github]]
name = "github"
url = "PLACE"
LOGIN
repositories = ["acme/widgets"]
list_every = "200ms"
list_quietly_every = "200ms"
poll_every = "500ms"
[[profile]]
name = "linux"
forge = "github"
image = { kind = "disk", path = "/no/such/disk.qcow2", sha256 = "SHA" }
memory = "256MiB"
min_idle = 0
"#;

/// A GitHub with the organisation `acme` of the enterprise `big`, and a service for some of it.
struct World {
    github: FakeGitHub,
    runtime: Runtime,
    dir: TempDir,
    service: Option<Process>,
}

impl World {
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let github = runtime.block_on(FakeGitHub::builder().ghes().start()).unwrap();
        github.organisation_of("big", "acme");
        github.repository("acme", "widgets");
        Self { github, runtime, dir: process::dir(), service: None }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a service for this place, which proves itself like this; more is said of the profile at the end.
    fn start(&mut self, place: &str, login: &str, profile: &str) {
        let place = format!("{}/{place}", self.github.web_url());
        let config = CONFIG.replace("PLACE", &place).replace("LOGIN", login);
        let config = config.replace("SHA", &"0".repeat(64)) + profile;
        fs::write(self.file("monitor.toml"), config).unwrap();
        self.service = None;
        self.service = Some(Process::start(serve(self.dir.path(), &[])));
    }

    /// With a token in a file.
    fn start_with(&mut self, place: &str, token: &str) {
        fs::write(self.file("token"), token).unwrap();
        self.start(place, r#"token = { file = "token" }"#, "");
    }

    fn get(&self, path: &str) -> Value {
        get(&self.service.as_ref().unwrap().url, path)
    }

    /// Why the forge cannot be seen, where it cannot.
    fn blind(&self) -> Option<String> {
        self.get("/readyz")["blind"]["forge github"].as_str().map(str::to_owned)
    }

    fn sees(&self) {
        eventually("it sees GitHub", || self.blind().is_none().then_some(()));
    }

    /// Waits until it is blind for a reason that has all of this.
    fn is_blind(&self, parts: &[&str]) {
        let mut last = None;
        eventually(&format!("it is blind and says {parts:?}"), || {
            let why = self.blind()?;
            let has_all = parts.iter().all(|part| why.contains(part));
            if last.as_ref() != Some(&why) {
                println!("{why}");
                last = Some(why);
            }
            has_all.then_some(())
        });
    }

    /// The forge, as the API tells of it.
    fn forge(&self) -> Value {
        self.get("/api/v2/forges")[0].clone()
    }

    fn metrics(&self) -> String {
        let url = format!("{}/metrics", self.service.as_ref().unwrap().url);
        monitor::http::tls::prepare();
        self.runtime.block_on(async {
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            client.get(url).send().await.unwrap().text().await.unwrap()
        })
    }

    /// All that was sent is as GitHub describes it, and no secret was told.
    fn ends(mut self, secrets: &[&str]) {
        let service = self.service.take().unwrap();
        service.signal("TERM");
        let (code, said) = service.end();
        assert_eq!(code, Some(0), "{said}");
        for secret in secrets {
            assert!(!said.contains(secret), "a secret is in the log");
        }
        let wrong: Vec<String> = self.github.violations().iter().map(ToString::to_string).collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        drop(self.github);
        drop(self.runtime);
    }
}

fn permissions(list: &[(&str, Level)]) -> Permissions {
    list.iter().map(|(name, level)| ((*name).to_owned(), *level)).collect()
}

const FOR_ACME: [(&str, Level); 2] =
    [("organization_self_hosted_runners", Level::Write), ("actions", Level::Read)];

#[test]
fn a_revoked_token_says_what_to_grant_where_and_another_is_taken_from_its_file() {
    let mut world = World::new();
    let scopes = ["repo", "admin:org", "manage_runners:enterprise"];
    let mut token = world.github.classic_token("mona", &scopes);
    for (place, needs) in [
        ("acme/widgets", ["\"Administration: read and write\" on acme/widgets", "scope repo"]),
        ("enterprises/big", ["manage_runners:enterprise", "enterprise big"]),
        ("acme", ["\"Self-hosted runners: read and write\" on acme", "scope admin:org"]),
    ] {
        world.start_with(place, &token);
        world.sees();
        world.github.revoke(&token);
        world.is_blind(&["401", "Bad credentials", needs[0], needs[1]]);
        token = world.github.classic_token("mona", &scopes);
        // As an editor does it, which may leave half of it to be read.
        fs::write(world.file("token"), &token[..8]).unwrap();
        fs::write(world.file("token"), &token).unwrap();
        world.sees();
    }
    world.ends(&[&token]);
}

#[test]
fn a_token_that_may_too_little_says_what_it_lacks() {
    let mut world = World::new();
    let weak = permissions(&[("actions", Level::Read)]);
    let weak = world.github.fine_grained_token("acme", weak);
    world.start_with("acme", &weak);
    world.is_blind(&["403", "the credentials lack a permission", "Self-hosted runners"]);
    let strong = world.github.fine_grained_token("acme", permissions(&FOR_ACME));
    fs::write(world.file("token"), &strong).unwrap();
    world.sees();
    // A file that is away says where it should be.
    fs::remove_file(world.file("token")).unwrap();
    world.is_blind(&["token cannot be read", "No such file"]);
    fs::write(world.file("token"), &strong).unwrap();
    world.sees();
    world.ends(&[&weak, &strong]);
}

#[test]
fn an_app_is_let_in_once_it_is_installed_and_again_once_its_key_is_mended() {
    let mut world = World::new();
    let app = world.github.app("runners", permissions(&FOR_ACME));
    let key = app.private_key.as_str();
    fs::write(world.file("key.pem"), key).unwrap();
    let login = format!("app = {{ id = \"{}\", key = {{ file = \"key.pem\" }} }}", app.client_id);
    world.start("acme", &login, "");
    world.is_blind(&["the App is not installed on organization acme", "install it there"]);
    let installation = world.github.install(&app, "acme").unwrap();
    world.sees();
    // Its hour is over: another token is had, and nobody notices.
    world.github.expire_installation_tokens();
    let exchanges =
        || world.github.calls().iter().filter(|call| call.path.ends_with("access_tokens")).count();
    let before = exchanges();
    eventually("another token is had", || (exchanges() > before).then_some(()));
    world.sees();
    // Nothing of this needs a restart.
    fs::write(world.file("key.pem"), "-----BEGIN NOTHING-----").unwrap();
    world.github.expire_installation_tokens();
    world.is_blind(&["it is not a private key in PEM"]);
    fs::write(world.file("key.pem"), key).unwrap();
    world.sees();
    world.github.uninstall(installation);
    world.is_blind(&["the App is not installed on organization acme"]);
    world.github.install(&app, "acme").unwrap();
    world.sees();
    world.ends(&[key.lines().nth(1).unwrap()]);
}

#[test]
fn an_old_runner_program_is_told_of_five_days_before_github_refuses_it() {
    let mut world = World::new();
    let token = world.github.classic_token("mona", &["repo", "admin:org"]);
    fs::write(world.file("token"), &token).unwrap();
    // What the service saw while it ran, four weeks long.
    let day = |days: i64| jiff::Timestamp::now() - jiff::SignedDuration::from_hours(24 * days);
    let seen = json!({ "2.320.0": { "first": day(60).to_string(), "last": day(26).to_string() } });
    let kept = world.file("data/forges/github");
    fs::create_dir_all(&kept).unwrap();
    fs::write(kept.join("runner-versions.json"), seen.to_string()).unwrap();
    let login = r#"token = { file = "token" }"#;
    world.start("acme", login, "runner_version = \"2.320.0\"\n");
    let program = eventually("it is told of", || {
        let program = world.forge()["profiles"]["linux"]["program"].clone();
        program["warning"].is_string().then_some(program)
    });
    assert_eq!((&program["version"], &program["newest"]), (&json!("2.320.0"), &json!("2.330.0")));
    let warning = program["warning"].as_str().unwrap();
    assert!(warning.contains("in 3 days: rebuild the image with 2.330.0"), "{warning}");
    let event = || {
        let events = world.get("/api/v2/events?limit=1000");
        let mut texts = events["events"].as_array()?.iter().filter_map(|its| its["text"].as_str());
        texts
            .find(|text| text.contains("profile linux: GitHub will refuse runner 2.320.0"))
            .map(str::to_owned)
    };
    eventually("an event says so", event);
    let metrics = world.metrics();
    let series = "monitor_forge_program_refused_timestamp_seconds{forge=\"github\",profile=\"linux\",version=\"2.320.0\"} ";
    let line = metrics.lines().find_map(|line| line.strip_prefix(series));
    let at: f64 = line.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap();
    let left = at - jiff::Timestamp::now().as_second() as f64;
    // To the second: it was told a while after the clock was read.
    assert!((3.0 * 86400.0..=4.0 * 86400.0 + 1.0).contains(&left), "{left}");
    // What is seen is kept: the next start goes on from there.
    let kept: Value =
        serde_json::from_slice(&fs::read(kept.join("runner-versions.json")).unwrap()).unwrap();
    assert!(kept["2.330.0"]["first"].is_string() && kept["2.320.0"]["last"].is_string(), "{kept}");
    world.start("acme", login, "runner_version = \"2.330.0\"\n");
    let program = eventually("the newest needs nothing", || {
        let program = world.forge()["profiles"]["linux"]["program"].clone();
        (program["newest"] == "2.330.0").then_some(program)
    });
    assert!(program["warning"].is_null() && program["refused_from"].is_null(), "{program}");
    world.ends(&[&token]);
}

#[test]
fn a_source_that_cannot_be_relied_upon_is_told_of_with_what_took_over() {
    let mut world = World::new();
    let token = world.github.classic_token("mona", &["repo", "admin:org"]);
    fs::write(world.file("token"), &token).unwrap();
    let rule = FaultRule::always(Fault::Status { status: 503, retry_after: None, message: None });
    world.github.fault(rule.path("*/_apis/*"));
    let sources = "sources = [\"scale-set\", \"poll\"]\n";
    world.start("acme", r#"token = { file = "token" }"#, sources);
    world.sees();
    let linux = |forge: &Value| forge["profiles"]["linux"].clone();
    let forge = eventually("asking takes over", || {
        let forge = world.forge();
        (linux(&forge)["source"] == "poll").then_some(forge)
    });
    assert_eq!(linux(&forge)["order"], json!(["scale-set", "poll"]));
    assert_eq!(linux(&forge)["failed_over"], true);
    assert_eq!(forge["usable"], true, "{forge}");
    let its = |forge: &Value| {
        let sources = forge["sources"].as_array().unwrap().clone();
        sources.into_iter().find(|source| source["kind"] == "scale-set").unwrap()
    };
    let set = eventually("the scale set says why", || {
        let set = its(&world.forge());
        set["reason"].as_str().is_some_and(|why| why.contains("503")).then_some(set)
    });
    assert_eq!((&set["profile"], &set["reliable"]), (&json!("linux"), &json!(false)));
    assert!(set["since"].is_string());
    world.github.clear_faults();
    let forge = eventually("the scale set is asked again", || {
        let forge = world.forge();
        (linux(&forge)["source"] == "scale-set").then_some(forge)
    });
    assert_eq!(linux(&forge)["failed_over"], false);
    assert_eq!(its(&forge)["reliable"], true);
    assert!(
        forge["notes"]
            .as_array()
            .unwrap()
            .iter()
            .any(|note| { note["text"].as_str().unwrap().contains("linux") }),
        "{forge}"
    );
    world.ends(&[&token]);
}
