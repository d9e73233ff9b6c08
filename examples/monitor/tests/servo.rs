//! The interface of Servo's monitor, row by row, on a service that is a process of its own with a GitHub over real
//! HTTP: asked as its workflows ask, with curl and jq, and directly.

mod paper;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use fake_github::JobStatus;
use paper::{Answer, Setting, TOKEN, World, eventually, has, job, uuid};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

#[test]
#[ignore = "the process that the other tests start"]
fn the_service_itself() {
    paper::service();
}

/// Two idle workers, and `acme/widgets` may reserve.
fn world() -> World {
    let world = World::new(&Setting {
        servo: Some(
            "repositories = [{ name = \"acme/widgets\", most = 3 }]\nreserve_timeout = \"10m\"\n\
             external_base_url = \"https://ci0.example.org/\"\nscreenshot_rate = \"1/h\""
                .to_owned(),
        ),
        ..Setting::default()
    });
    world.idle(2);
    world
}

fn said(answer: &Answer, status: StatusCode, words: &[&str]) {
    let text = answer.text();
    assert_eq!(answer.status, status, "{text}");
    let kind = answer.headers["content-type"].to_str().unwrap();
    assert!(kind.starts_with("text/plain"), "{kind}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
    assert!(!text.contains('{'), "{text}");
}

#[test]
fn the_dashboard_is_told_in_servos_words() {
    let world = world();
    let told = world.get("/dashboard.json");
    assert_eq!(told.status, StatusCode::OK);
    assert!(told.headers["content-type"].to_str().unwrap().starts_with("application/json"));
    // Whoever has it already is told so, as long as nothing happens; an image is a second older each second.
    world.until("it is known", |world| {
        let tag = world.get("/dashboard.json").headers["etag"].clone();
        let url = format!("{}/dashboard.json", world.url());
        let again = world.send(Method::GET, &url, |request| request.header("if-none-match", &tag));
        again.status == StatusCode::NOT_MODIFIED && again.body.is_empty()
    });
    let told = told.json();
    let counts = &told["profile_runner_counts"]["linux"];
    let keys = [
        "target",
        "healthy",
        "started_or_crashed",
        "idle",
        "reserved",
        "busy",
        "excess_healthy",
        "wanted",
        "image_age",
    ];
    for key in keys {
        assert!(counts.get(key).is_some(), "{key} is not in {counts}");
    }
    assert_eq!(
        (&counts["idle"], &counts["target"], &counts["wanted"]),
        (&json!(2), &json!(2), &json!(0))
    );
    assert!(counts["image_age"]["secs"].is_u64(), "{counts}");
    let runners = told["runners"].as_array().unwrap();
    assert_eq!(runners.len(), 2);
    for runner in runners {
        let id = runner["id"].as_u64().unwrap();
        assert_eq!(runner["runner"]["id"], id);
        assert_eq!(runner["runner"]["status"], "Idle");
        let url = format!("https://ci0.example.org/runner/{id}/screenshot.png");
        assert_eq!(runner["screenshot_url"], url);
    }
    let page = world.get("/dashboard.html");
    assert!(page.headers["content-type"].to_str().unwrap().starts_with("text/html"));
    assert!(page.text().contains("<td>linux</td>"), "{}", page.text());
    let text = world.get("/dashboard.txt").text();
    assert!(text.contains("2 idle, 2 healthy, 2 target"), "{text}");
}

#[test]
fn a_take_gives_a_runner_that_its_job_alone_finds() {
    let world = world();
    let (id, run) = (uuid(), world.run("acme/widgets", "x64"));
    world.until("the run's job is over", |world| {
        world
            .github
            .jobs()
            .iter()
            .filter(|job| job.run == run)
            .all(|job| job.status == JobStatus::Completed)
    });
    let worked = world
        .github
        .jobs()
        .into_iter()
        .filter(|job| job.run == run)
        .find_map(|job| job.runner)
        .unwrap();
    let worked = worked.split('_').next().unwrap().to_owned();
    world.until("its machine is gone", |world| !world.machines().contains(&worked));
    world.idle(2);
    let query = job(&id, "acme/widgets", run);
    let taken = world.ask(Method::POST, &format!("/profile/linux/take?{query}"));
    assert!(taken.is_something(), "{}", taken.text());
    let taken = taken.json();
    let number = taken["id"].as_u64().unwrap();
    assert_eq!(taken["runner"]["id"], number);
    let labels = taken["runner"]["labels"].as_array().unwrap();
    assert_eq!(labels[0], format!("reserved-for:{id}"));
    assert!(labels[1].as_str().unwrap().starts_with("reserved-since:"));
    assert_eq!(labels[2], format!("reserved-by:acme/widgets/actions/runs/{run}"));
    world.until("GitHub has it marked", |world| world.marked(&id).len() == 1);
    let marked = world.marked(&id).remove(0).name;
    assert!(marked.starts_with(&format!("linux-{number}_")), "{marked}");
    // Asked again, it is the same; for another job, it is refused.
    let again = world.ask(Method::POST, &format!("/profile/linux/take?{query}")).json();
    assert_eq!(again["id"], number);
    let other = job(&id, "acme/gadgets", run);
    let other = world.ask(Method::POST, &format!("/profile/linux/take?{other}"));
    said(&other, StatusCode::CONFLICT, &[&id, "another"]);
    // The job that names it runs there.
    let mut request = fake_github::JobRequest::new("acme/widgets", [format!("reserved-for:{id}")]);
    request.run = Some(run);
    let queued = world.github.enqueue(request).unwrap();
    world.until("its job is over", |world| {
        world.github.job(queued.id).unwrap().status == JobStatus::Completed
    });
    assert_eq!(world.github.job(queued.id).unwrap().runner.as_deref(), Some(&*marked));
}

#[test]
fn takes_are_all_or_nothing() {
    let world = world();
    let take = |count: &str| {
        let query = job(&uuid(), "acme/widgets", 7);
        world.ask(Method::POST, &format!("/profile/linux/take/{count}?{query}"))
    };
    let none = take("3");
    assert_eq!((none.status, none.json()), (StatusCode::OK, Value::Null));
    assert!(!none.is_something());
    let both = take("2");
    assert_eq!(both.json().as_array().map(Vec::len), Some(2), "{}", both.text());
    for runner in both.json().as_array().unwrap() {
        assert!(runner["id"].is_u64() && runner["runner"].is_object());
    }
}

#[test]
fn what_is_malformed_unknown_or_not_allowed_is_said_in_a_line_of_text() {
    let world = world();
    let query = job(&uuid(), "acme/widgets", 7);
    let take = |path: &str| world.ask(Method::POST, path);
    said(&take("/profile/linux/take"), StatusCode::BAD_REQUEST, &["unique_id", "UUID"]);
    let odd = job("not-a-uuid", "acme/widgets", 7);
    said(&take(&format!("/profile/linux/take?{odd}")), StatusCode::BAD_REQUEST, &["unique_id"]);
    let odd = job(&uuid(), "widgets", 7);
    said(&take(&format!("/profile/linux/take?{odd}")), StatusCode::BAD_REQUEST, &["OWNER/NAME"]);
    for count in ["0", "-1", "x", "99999999999999999999"] {
        let path = format!("/profile/linux/take/{count}?{query}");
        said(&take(&path), StatusCode::BAD_REQUEST, &["count"]);
    }
    for profile in ["windows", "..%2f", "UPPER"] {
        let path = format!("/profile/{profile}/take?{query}");
        said(&take(&path), StatusCode::NOT_FOUND, &["no profile"]);
    }
    for (method, path) in [
        (Method::POST, format!("/profile/linux/take?{query}")),
        (Method::POST, format!("/profile/linux/take/2?{query}")),
    ] {
        let url = format!("{}{path}", world.url());
        let answer = world.send(method.clone(), &url, |request| request);
        said(&answer, StatusCode::UNAUTHORIZED, &["token"]);
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        let wrong = world.send(method, &url, |request| request.bearer_auth("wrong"));
        said(&wrong, StatusCode::UNAUTHORIZED, &["token"]);
    }
    let wrong = world.get("/profile/linux/take");
    said(&wrong, StatusCode::METHOD_NOT_ALLOWED, &["POST"]);
    assert_eq!(wrong.headers["allow"], "POST, OPTIONS");
    said(&world.get("/runner/999/screenshot.png"), StatusCode::NOT_FOUND, &["999"]);
    said(&world.get("/runner/nobody/screenshot/now"), StatusCode::NOT_FOUND, &["nobody"]);
    said(&world.get("/profile/none/screenshot.png"), StatusCode::NOT_FOUND, &["no profile"]);
    assert_eq!(world.status()["profiles"]["linux"]["idle"], 2, "nothing was taken");
}

#[test]
fn screens_are_shown_and_new_pictures_are_rationed() {
    let world = world();
    let told = world.get("/dashboard.json").json();
    let ids = told["runners"].as_array().unwrap().iter().map(|runner| runner["id"].as_u64());
    let id = ids.max().flatten().unwrap();
    let is_picture = |answer: &Answer| {
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        assert_eq!(answer.headers["content-type"], "image/png");
        assert!(answer.body.starts_with(b"\x89PNG"));
    };
    let first = world.get(&format!("/runner/{id}/screenshot/now"));
    is_picture(&first);
    let again = world.get(&format!("/runner/{id}/screenshot/now"));
    said(&again, StatusCode::TOO_MANY_REQUESTS, &["screenshot_rate"]);
    assert!(again.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 0);
    let cached = world.get(&format!("/runner/{id}/screenshot.png"));
    is_picture(&cached);
    assert_eq!(cached.body, first.body, "it is the one that was taken");
    let of_profile = world.get("/profile/linux/screenshot.png");
    is_picture(&of_profile);
    assert_eq!(of_profile.body, first.body, "it is that of the newest machine");
}

#[test]
fn a_workflow_without_secrets_reserves_by_its_artifact_once() {
    let world = world();
    let (id, run) = (uuid(), world.run("acme/widgets", "later"));
    let path = format!("/select-runner?{}", job(&id, "acme/widgets", run));
    said(&world.post(&path), StatusCode::FORBIDDEN, &["no artifact"]);
    world.upload(run, &id, "acme/widgets", "linux", 2);
    let taken = world.post(&path);
    assert_eq!(taken.json().as_array().map(Vec::len), Some(2), "{}", taken.text());
    world.until("GitHub has them marked", |world| world.marked(&id).len() == 2);
    // Asked again by the same job, it is the same.
    assert_eq!(world.post(&path).json().as_array().map(Vec::len), Some(2));
    let released = world.ask(Method::DELETE, &format!("/api/v2/reservations/{id}"));
    assert!(released.status.is_success(), "{}", released.text());
    world
        .until("nothing is reserved", |world| world.status()["profiles"]["linux"]["reserved"] == 0);
    said(&world.post(&path), StatusCode::FORBIDDEN, &["used"]);
}

#[test]
fn proofs_of_others_for_others_or_for_more_than_is_allowed_are_refused() {
    let world = world();
    let select = |id: &str, repository: &str, run: i64| {
        world.post(&format!("/select-runner?{}", job(id, repository, run)))
    };
    let run = world.run("acme/gadgets", "later");
    let id = uuid();
    world.upload(run, &id, "acme/gadgets", "linux", 1);
    said(&select(&id, "acme/gadgets", run), StatusCode::FORBIDDEN, &["acme/gadgets", "may not"]);
    said(&select(&id, "acme/widgets", run), StatusCode::FORBIDDEN, &["no such run"]);
    let run = world.run("acme/widgets", "later");
    let id = uuid();
    world.upload(run, &id, "acme/widgets", "linux", 4);
    said(&select(&id, "acme/widgets", run), StatusCode::CONFLICT, &["4 runners", "3 at a time"]);
    let id = uuid();
    world.upload(run, &id, "acme/widgets", "windows", 1);
    said(&select(&id, "acme/widgets", run), StatusCode::NOT_FOUND, &["windows"]);
    let id = uuid();
    world.upload(run, &uuid(), "acme/widgets", "linux", 1);
    said(&select(&id, "acme/widgets", run), StatusCode::FORBIDDEN, &["no artifact"]);
    assert_eq!(world.status()["profiles"]["linux"]["reserved"], 0);
}

#[test]
fn github_that_cannot_be_asked_is_worth_another_try() {
    let world = world();
    let (id, run) = (uuid(), world.run("acme/widgets", "later"));
    world.upload(run, &id, "acme/widgets", "linux", 1);
    let down =
        json!({ "on": { "path": "*/artifacts*" }, "times": 100, "fault": { "kind": "reset" } });
    let url = format!("{}/_fake/faults", world.github.web_url());
    let ordered = world.send(Method::POST, &url, |request| request.json(&down));
    assert!(ordered.status.is_success(), "{}", ordered.text());
    let path = format!("/select-runner?{}", job(&id, "acme/widgets", run));
    let answer = world.post(&path);
    said(&answer, StatusCode::SERVICE_UNAVAILABLE, &["try again"]);
    assert!(answer.headers.contains_key("retry-after"));
    world.github.clear_faults();
    let taken = eventually("it is granted", || {
        let answer = world.post(&path);
        answer.status.is_success().then_some(answer)
    });
    assert!(taken.is_something(), "the proof was not used up: {}", taken.text());
}

fn runner_select(world: &World, way: &str, id: &str, run: i64) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servo/runner-select.sh");
    Command::new("sh")
        .arg(script)
        .args([way, &world.url(), id, "acme/widgets", &run.to_string(), "ubuntu-latest"])
        .output()
        .unwrap()
}

fn label(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn the_published_steps_reserve_with_curl_and_jq_and_fall_back_when_nothing_is_free() {
    if !has("curl") || !has("jq") {
        return;
    }
    let world = world();
    let run = world.run("acme/widgets", "later");
    let select = || {
        let id = uuid();
        world.upload(run, &id, "acme/widgets", "linux", 1);
        (label(&runner_select(&world, "select", &id, run)), id)
    };
    for _ in 0..2 {
        let (label, id) = select();
        assert_eq!(label, format!("reserved-for:{id}"));
    }
    // No proof at all.
    let output = runner_select(&world, "select", &uuid(), run);
    assert_eq!(label(&output), "ubuntu-latest");
    let shown = String::from_utf8_lossy(&output.stderr);
    assert!(shown.contains("no artifact"), "the script shows why: {shown}");
}

#[test]
fn machines_fetch_files_and_real_git_clones_a_mirror_over_dumb_http() {
    if !has("git") {
        return;
    }
    let world = World::new(&Setting {
        servo: Some("image_deps = \"deps\"\ncache = \"cache\"".to_owned()),
        asleep: true,
        ..Setting::default()
    });
    let git = |args: &[&str]| {
        let done = Command::new("git")
            .args([
                "-c",
                "user.name=mona",
                "-c",
                "user.email=mona@example.org",
                "-c",
                "init.defaultBranch=main",
            ])
            .args(args)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("HOME", world.path())
            .current_dir(world.path())
            .output()
            .unwrap();
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    git(&["init", "-q", "work"]);
    fs::write(world.path().join("work/readme"), "hello\n").unwrap();
    git(&["-C", "work", "add", "readme"]);
    git(&["-C", "work", "commit", "-q", "-m", "one"]);
    fs::create_dir(world.path().join("cache")).unwrap();
    git(&["clone", "-q", "--mirror", "work", "cache/mirror.git"]);
    git(&["-C", "cache/mirror.git", "update-server-info"]);
    fs::create_dir(world.path().join("deps")).unwrap();
    fs::write(world.path().join("deps/tool.tar"), b"\0\xff tool").unwrap();
    world.until("a machine is there", |world| !world.machines().is_empty());
    let machine = world.machines().remove(0);
    let secret = world.told_line(&machine, "monitor-token").unwrap();
    let tool = world.ask_as(&secret, "/image-deps/tool.tar");
    assert_eq!((tool.status, &*tool.body), (StatusCode::OK, &b"\0\xff tool"[..]));
    let header = format!("http.extraHeader=Authorization: Bearer {secret}");
    let mirror = format!("{}/cache/mirror.git", world.guests_url());
    git(&["-c", &header, "clone", "-q", &mirror, "clone"]);
    assert_eq!(fs::read_to_string(world.path().join("clone/readme")).unwrap(), "hello\n");
    for path in
        ["/image-deps/../token", "/image-deps/%2e%2e/token", "/cache/..%2ftoken", "/cache/none"]
    {
        let answer = world.ask_as(&secret, path);
        assert!(answer.status.is_client_error(), "{path}: {}", answer.status);
    }
    for path in ["/image-deps/tool.tar", "/cache/mirror.git/HEAD"] {
        let url = format!("{}{path}", world.guests_url());
        let answer = world.send(Method::GET, &url, |request| request);
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path} without a proof");
        let answer = world.send(Method::GET, &url, |request| request.bearer_auth(TOKEN));
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path} with the API's token");
    }
}

#[test]
fn without_its_section_none_of_it_is_there() {
    let world = World::new(&Setting { servo: None, ..Setting::default() });
    for path in ["/dashboard.json", "/dashboard.html", "/runner/1/screenshot.png"] {
        assert_eq!(world.get(path).status, StatusCode::NOT_FOUND, "{path}");
    }
    let path = format!("/select-runner?{}", job(&uuid(), "acme/widgets", 7));
    assert_eq!(world.post(&path).status, StatusCode::UNAUTHORIZED);
    assert_eq!(world.ask(Method::POST, &path).status, StatusCode::NOT_FOUND);
}
