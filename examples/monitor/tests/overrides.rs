//! Policy overrides over the API and the command line: begun, explained, kept over a crash, and ended.

mod common;

use common::{Server, TOKEN, eventually, said};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const PATH: &str = "/api/v2/override";
/// Beside `micro`, which has one to three machines: the host has room for 8 processors.
const LARGE: &str = r#"
[[profile]]
name = "large"
image = { kind = "micro" }
memory = "256MiB"
vcpus = 3
min_idle = 2
max = 2
"#;

fn idle(server: &Server, profile: &str) -> Vec<String> {
    let page = server.get(&format!("/api/v2/workers?phase=idle&profile={profile}")).json();
    let workers = page["workers"].as_array().unwrap().iter();
    workers.map(|worker| worker["name"].as_str().unwrap().to_owned()).collect()
}

fn waits_for(server: &Server, counts: [usize; 2]) {
    let is = || [idle(server, "micro").len(), idle(server, "large").len()];
    let mut last = [0; 2];
    eventually(|| {
        last = is();
        (last == counts).then_some(())
    });
}

fn end(server: &Server) -> StatusCode {
    server.send(Method::DELETE, PATH, |request| request.bearer_auth(TOKEN)).status
}

fn events(server: &Server) -> String {
    server.get("/api/v2/events?limit=1000").text()
}

#[test]
fn an_override_has_others_give_way_is_kept_over_a_crash_and_ends_with_its_workers() {
    let mut server = Server::configured("", LARGE);
    waits_for(&server, [1, 2]);
    assert_eq!(server.get(PATH).status, StatusCode::NOT_FOUND);

    // Seven machines of one processor leave no room for two of three.
    let wish = json!({ "counts": { "micro": 7 }, "duration": "2h", "purpose": "a release" });
    let foreseen = server.post(&format!("{PATH}/preview"), &wish);
    assert_eq!(foreseen.status, StatusCode::OK, "{}", foreseen.text());
    let foreseen = foreseen.json();
    let actions = foreseen["actions"].as_array().unwrap();
    let retires = actions.iter().filter(|action| action["action"] == "retire").count();
    assert_eq!(retires, 2, "{foreseen:#}");
    assert!(actions[0]["why"].as_str().unwrap().contains("gives way"), "{foreseen:#}");
    assert_eq!(server.get(PATH).status, StatusCode::NOT_FOUND, "a preview does nothing");
    waits_for(&server, [1, 2]);

    let begun = server.post(PATH, &wish);
    assert_eq!(begun.status, StatusCode::CREATED, "{}", begun.text());
    let begun = begun.json();
    assert_eq!(begun["allotted"], foreseen["allotted"], "what was foreseen comes");
    assert_eq!(begun["allotted"]["micro"]["granted"], 7);
    assert_eq!(begun["allotted"]["large"]["granted"], 0);
    waits_for(&server, [7, 0]);
    let again = server.post(PATH, &json!({ "counts": { "large": 1 } }));
    assert_eq!(again.status, StatusCode::CONFLICT, "{}", again.text());
    assert!(again.text().contains("overrides until"), "{}", again.text());

    // A job of a profile that gives way is told why it waits.
    let job = json!({ "profile": "large", "script": "true" });
    let large = server.post("/api/v2/jobs", &job).json()["id"].as_str().unwrap().to_owned();
    let told = eventually(|| {
        let told = server.get(&format!("/api/v2/jobs/{large}/explain")).text();
        told.contains("gives way to the policy override").then_some(told)
    });
    assert!(told.contains("leaves it 0"), "{told}");

    server.crash();
    server.restart();
    waits_for(&server, [7, 0]);
    let kept = server.get(PATH).json();
    assert_eq!((&kept["purpose"], &kept["until"]), (&begun["purpose"], &begun["until"]));
    let claimed = kept["claimed"].as_array().unwrap().len();
    assert_eq!(claimed, 7, "{kept:#}");

    // Seven jobs at once, one for each of its workers, and it is over.
    let jobs: Vec<String> =
        (0..7).map(|_| server.submit("while [ ! -e go ]; do sleep 0.05; done")).collect();
    for job in &jobs {
        let running = server.wait(job, "running");
        let worker = running["worker"].as_str().unwrap().to_owned();
        let path = format!("/api/v2/workers/{worker}/exec");
        let go = json!({ "argv": ["/bin/sh", "-c", "touch go"] });
        assert_eq!(server.post(&path, &go).status, StatusCode::OK);
    }
    for job in &jobs {
        server.wait(job, "succeeded");
    }
    eventually(|| (server.get(PATH).status == StatusCode::NOT_FOUND).then_some(()));
    server.wait(&large, "succeeded");
    waits_for(&server, [1, 2]);
    let events = events(&server);
    assert!(events.contains("end policy override: none of its workers is left"), "{events}");
}

#[test]
fn what_an_override_cannot_have_is_explained_with_what_is_missing() {
    let server = Server::configured("", LARGE);
    waits_for(&server, [1, 2]);
    let job = json!({ "profile": "large", "script": "while [ ! -e go ]; do sleep 0.05; done" });
    let job = server.post("/api/v2/jobs", &job).json()["id"].as_str().unwrap().to_owned();
    let worker = server.wait(&job, "running")["worker"].as_str().unwrap().to_owned();
    let begun = server.post(PATH, &json!({ "counts": { "micro": 8 } })).json();
    let micro = &begun["allotted"]["micro"];
    assert_eq!((&micro["wanted"], &micro["granted"]), (&json!(8), &json!(5)), "{begun:#}");
    let why = micro["explanation"].as_str().unwrap();
    assert_eq!(why, "wanted 8, got 5: vCPUs: 1 needed, 0 of 8 free");
    // What works does not give way.
    waits_for(&server, [5, 0]);
    assert_eq!(server.get(&format!("/api/v2/workers/{worker}")).json()["phase"], "busy");
    let held = server.get("/api/v2/status").json()["held"].to_string();
    assert!(held.contains("wanted 8, got 5: vCPUs"), "{held}");
    // Its room comes to the override when it is over.
    let go = json!({ "argv": ["/bin/sh", "-c", "touch go"] });
    server.post(&format!("/api/v2/workers/{worker}/exec"), &go);
    server.wait(&job, "succeeded");
    waits_for(&server, [8, 0]);
    assert_eq!(end(&server), StatusCode::NO_CONTENT);
    assert_eq!(end(&server), StatusCode::NO_CONTENT);
    waits_for(&server, [1, 2]);
}

#[test]
fn an_override_ends_with_its_time() {
    let server = Server::configured("", LARGE);
    waits_for(&server, [1, 2]);
    server.post(PATH, &json!({ "counts": { "micro": 3 }, "duration": "1s" }));
    eventually(|| events(&server).contains("end policy override: its time is over").then_some(()));
    waits_for(&server, [1, 2]);
}

#[test]
fn an_override_that_cannot_be_is_refused() {
    let server = Server::start();
    let refused = [
        (json!({ "counts": { "nothing": 1 } }), 404, "profile nothing"),
        (json!({ "counts": { "Not A Name": 1 } }), 404, "does not exist"),
        (json!({ "counts": {} }), 400, ""),
        (json!({ "counts": { "micro": 0 } }), 400, "no worker"),
        (json!({ "counts": { "micro": -1 } }), 400, "micro"),
        (json!({ "counts": { "micro": 1 }, "duration": "0s" }), 400, "duration"),
        (json!({ "counts": { "micro": 1 }, "duration": "8d" }), 400, "at most"),
        (json!({ "count": { "micro": 1 } }), 400, "count"),
    ];
    for path in [PATH, "/api/v2/override/preview"] {
        for (wish, status, says) in &refused {
            let answer = server.post(path, wish);
            assert_eq!(answer.status.as_u16(), *status, "{wish}: {}", answer.text());
            assert!(answer.text().contains(says), "{wish}: {}", answer.text());
        }
    }
    let pause = json!({ "paused": true });
    let paused = server.send(Method::PATCH, "/api/v2/profiles/micro", |request| {
        request.bearer_auth(TOKEN).json(&pause)
    });
    assert_eq!(paused.status, StatusCode::OK);
    let answer = server.post(PATH, &json!({ "counts": { "micro": 1 } }));
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(answer.text().contains("resume it first"), "{}", answer.text());
    assert_eq!(server.get(PATH).status, StatusCode::NOT_FOUND);
}

#[test]
fn a_count_beyond_all_hosts_takes_what_there_is() {
    let server = Server::start();
    let begun = server.post(PATH, &json!({ "counts": { "micro": u32::MAX } })).json();
    let micro = &begun["allotted"]["micro"];
    assert_eq!((&micro["wanted"], &micro["granted"]), (&json!(u32::MAX), &json!(8)), "{begun:#}");
}

#[test]
fn the_command_line_begins_shows_previews_and_ends_one() {
    let server = Server::configured("", LARGE);
    waits_for(&server, [1, 2]);
    let run = |args: &[&str]| {
        let output = server.monitor(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(run(&["override", "show"]).contains("nothing overrides"));
    let told = run(&["override", "set", "micro=9", "--dry-run"]);
    assert!(
        told.contains("vCPUs: 1 needed") && told.contains("would retire worker large-"),
        "{told}"
    );
    assert!(run(&["override", "show"]).contains("nothing overrides"));
    let told = run(&["override", "set", "micro=4", "large=0", "--for", "1h", "--why", "a release"]);
    assert!(told.contains("overrides the policy until") && told.contains("a release"), "{told}");
    let shown: Value = serde_json::from_str(&run(&["override", "show", "--json"])).unwrap();
    assert_eq!(shown["counts"], json!({ "micro": 4, "large": 0 }));
    assert!(run(&["override", "end"]).contains("nothing overrides"));
    let refused = |args: &[&str], code: i32, says: &str| {
        let output = server.monitor(args).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", said(&output));
        assert!(said(&output).contains(says), "{}", said(&output));
    };
    refused(&["override", "set", "micro"], 2, "PROFILE=COUNT");
    refused(&["override", "set", "micro=-1"], 2, "not a count");
    refused(&["override", "set", "micro=1", "micro=2"], 2, "twice");
    refused(&["override", "set", "micro=1", "--for", "soon"], 2, "--for");
    refused(&["override", "set", "nothing=1"], 4, "nothing");
}
