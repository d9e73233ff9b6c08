//! What Servo's users complain of and a configuration has to do with, on the real binary: rebuilds that empty a
//! profile (5), profiles that are removed (8), sizes and names that are misread (17).

mod process;
mod real;

use std::{fs, process::Command};

use process::{Process, dir, refused, serve};
use real::Monitor;
use reqwest::Method;
use serde_json::{Value, json};

/// The built images of `micro`, newest last.
fn images(monitor: &Monitor) -> Vec<String> {
    let status = monitor.get("/api/v2/status").unwrap_or_default();
    let images = status["images"].as_array().cloned().unwrap_or_default();
    let mut images: Vec<(String, String)> = images
        .iter()
        .filter(|image| image["profile"] == "micro")
        .map(|image| {
            let text = |key: &str| image[key].as_str().unwrap().to_owned();
            (text("built_at"), text("id"))
        })
        .collect();
    images.sort();
    images.into_iter().map(|(_, id)| id).collect()
}

fn image_of(monitor: &Monitor, worker: &str) -> Value {
    monitor.get(&format!("/api/v2/workers/{worker}")).unwrap()["image"].clone()
}

#[test]
fn complaint_5_a_rebuild_takes_no_worker_away_and_the_old_image_serves_until_the_new_one_is_there()
{
    let Some(mut monitor) = Monitor::new() else { return };
    monitor.config = monitor.config.replace("max = 2\n", "max = 2\nimage_max_age = \"2s\"\n");
    monitor.start();
    let worker = monitor.idle("micro");
    let old = image_of(&monitor, &worker);
    monitor.eventually("the image is built anew", || {
        let images = images(&monitor);
        images.last().filter(|newest| **newest != *old.as_str().unwrap()).map(|_| ())
    });
    // The worker of the old image waits for its job, and does it.
    assert!(monitor.workers("idle").contains(&worker), "{:?}", monitor.events());
    let job = monitor.submit("on the old image", "echo done");
    assert_eq!(monitor.over(&job)["worker"], *worker);
    assert_eq!(monitor.job(&job)["state"], "succeeded");
    // The next one boots a newer image.
    let next = monitor.eventually("another worker", || {
        monitor.workers("idle").into_iter().find(|name| *name != worker)
    });
    assert_ne!(image_of(&monitor, &next), old);
    let retired = format!("retire worker {worker}: workers ready or on their way");
    assert!(!monitor.events().iter().any(|event| event.starts_with(&retired)));
    assert!(monitor.is_up());
}

#[test]
fn complaint_5_a_build_that_fails_is_tried_ever_less_often_and_said_and_the_old_image_serves_on() {
    let Some(mut monitor) = Monitor::new() else { return };
    let files = monitor.dir.path().join("files.tar");
    let tree = monitor.dir.path().join("tree");
    fs::create_dir_all(tree.join("etc")).unwrap();
    fs::write(tree.join("etc/planted"), "here").unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(&tree).arg("-cf").arg(&files).arg("etc");
    assert!(tar.status().unwrap().success());
    let sha256 = monitor::import::hash_of(&files).unwrap();
    let image =
        format!("image = {{ kind = \"micro\", files = \"files.tar\", sha256 = \"{sha256}\" }}");
    monitor.config = monitor
        .config
        .replace("image = { kind = \"micro\" }", &image)
        .replace("max = 2\n", "max = 2\nimage_max_age = \"2s\"\n");
    monitor.start();
    let worker = monitor.idle("micro");
    fs::remove_file(&files).unwrap();
    let failure = monitor.eventually("the build failed thrice", || {
        let status = monitor.get("/api/v2/status")?;
        let failures = status["failures"].as_array()?.clone();
        let of_it = |failure: &Value| failure["subject"] == "image of profile micro";
        failures.into_iter().find(|f| of_it(f) && f["failures"].as_u64() >= Some(3))
    });
    assert!(failure["retry_at"].is_string(), "{failure}");
    let counts = monitor.get("/api/v2/profiles/micro").unwrap()["counts"].clone();
    assert!(counts["build"] == "failed" || counts["build"] == "building", "{counts}");
    assert!(counts["image_built_at"].is_string(), "{counts}");
    let job = monitor.submit("on the old image", "cat /etc/planted");
    assert_eq!(monitor.over(&job)["worker"], *worker);
    assert!(monitor.log(&job).contains("here"), "{}", monitor.log(&job));
    let next = monitor.eventually("another worker of the old image", || {
        monitor.workers("idle").into_iter().find(|name| *name != worker)
    });
    assert!(image_of(&monitor, &next).is_string());
}

#[test]
fn complaint_8_a_profile_that_is_removed_drains_and_its_running_job_ends_well_even_over_a_crash() {
    let Some(mut monitor) = Monitor::new() else { return };
    monitor.start();
    monitor.idle("micro");
    let job =
        monitor.submit("long", "echo begun; while [ ! -e /go ]; do sleep 0.1; done; echo ended");
    monitor.hear(&job, "begun");
    let worker = monitor.job(&job)["worker"].as_str().unwrap().to_owned();
    // Another one is ready beside it; then the profile goes.
    let spare = monitor.idle("micro");
    monitor.config = monitor
        .config
        .replace("name = \"micro\"", "name = \"other\"")
        .replace("min_idle = 1", "min_idle = 0");
    fs::write(monitor.dir.path().join("monitor.toml"), &monitor.config).unwrap();
    monitor.event(&["the configuration was taken", "profile other added; profile micro removed"]);
    monitor.event(&[&format!("retire worker {spare}"), "its profile is not offered any more"]);
    monitor
        .eventually("what was idle is gone", || monitor.workers("idle").is_empty().then_some(()));
    assert!(monitor.workers("busy").contains(&worker), "{:?}", monitor.events());
    let gone = json!({ "profile": "micro", "script": "true" });
    let (status, _) = monitor.ask(Method::POST, "/api/v2/jobs", Some(&gone)).unwrap();
    assert_eq!(status, 400, "a job for what is not offered");

    // The next process finds a job of a profile that it never had.
    monitor.kill();
    monitor.start();
    let path = format!("/api/v2/workers/{worker}/exec");
    monitor.eventually("the worker takes a command", || {
        let go = json!({ "argv": ["/bin/sh", "-c", "touch /go"] });
        let (status, _) = monitor.ask(Method::POST, &path, Some(&go))?;
        (status == 200).then_some(())
    });
    assert_eq!(monitor.over(&job)["state"], "succeeded");
    assert!(monitor.log(&job).contains("ended"));
    monitor.eventually("nothing of the profile is left", || {
        let all = monitor.get("/api/v2/workers")?;
        all["workers"].as_array()?.is_empty().then_some(())
    });
    assert!(monitor.is_up());
    assert!(!monitor.said().contains("panicked"), "{}", monitor.said());
}

#[test]
fn complaint_17_a_size_is_what_it_says_and_one_that_leaves_a_doubt_is_refused() {
    let dir = dir();
    let config = process::CONFIG.replace("SHA", &"0".repeat(64));
    let file = dir.path().join("monitor.toml");
    fs::write(&file, config.replace("256MiB", "512MiB")).unwrap();
    let process = Process::start(serve(dir.path(), &[]));
    let profile = process::get(&process.url, "/api/v2/profiles/disk");
    assert_eq!(profile["resources"]["memory_mib"], 512, "{profile}");
    let capacity = process::eventually("the capacity is known", || {
        let status = process::get(&process.url, "/api/v2/status");
        status["capacity"].is_object().then(|| status["capacity"].clone())
    });
    assert_eq!((&capacity["memory_mib"], &capacity["disk_mib"]), (&json!(1024), &json!(1024)));
    drop(process);
    for doubtful in ["512M", "1G", "1", "512 kB", "1.5GiB"] {
        fs::write(&file, config.replace("256MiB", doubtful)).unwrap();
        refused(serve(dir.path(), &[]), 2, &["monitor.toml:", "memory", "KiB, MiB, GiB"]);
    }
}

#[test]
fn complaint_17_an_unknown_profile_is_refused_and_ends_nothing() {
    let dir = dir();
    let process = Process::start(serve(dir.path(), &[]));
    let token = fs::read_to_string(dir.path().join("data/api-token")).unwrap();
    for name in ["nothing", "..%2f..%2fetc", "%00", "%F0%9F%A6%80"] {
        let found = process::get(&process.url, &format!("/api/v2/profiles/{name}"));
        assert_eq!(found["status"], 404, "{name}: {found}");
    }
    let url = process.url.clone();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let status = runtime.block_on(async {
        monitor::http::tls::prepare();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let wish = json!({ "counts": { "nothing": 1 } });
        let request = client.post(format!("{url}/api/v2/override")).bearer_auth(token.trim());
        request.json(&wish).send().await.unwrap().status().as_u16()
    });
    assert_eq!(status, 404);
    assert_eq!(process::get(&process.url, "/api/v2/profiles/disk")["name"], "disk");
}

#[test]
fn a_profile_that_can_never_fit_is_refused_at_the_start_with_the_arithmetic() {
    let dir = dir();
    let config = process::CONFIG.replace("SHA", &"0".repeat(64));
    let file = dir.path().join("monitor.toml");
    for (from, to, says) in [
        ("256MiB\"", "2GiB\"", "memory: 2048 MiB needed, 1024 MiB of 1024 MiB free"),
        (
            "256MiB\"",
            "2GiB\"\nhuge_pages = true",
            "huge pages: 2048 MiB needed, 0 MiB of 0 MiB free",
        ),
        ("256MiB\"", "256MiB\"\nvcpus = 3", "vCPUs: 3 needed, 2 of 2 free"),
    ] {
        fs::write(&file, config.replace(from, to)).unwrap();
        refused(serve(dir.path(), &[]), 2, &["profile disk", "it can never fit", says]);
    }
    // What has room one after the other is taken.
    let room = config.replace("disk = \"1GiB\"", "disk = \"1GiB\"\nhuge_pages = 2");
    let turns = room.replace("256MiB\"", "2GiB\"\nhuge_pages = true\nmin_idle = 2\nmax = 4");
    fs::write(&file, turns).unwrap();
    let process = Process::start(serve(dir.path(), &[]));
    let profile = process::get(&process.url, "/api/v2/profiles/disk");
    assert_eq!(profile["resources"]["huge_memory_mib"], 2048, "{profile}");
}

#[test]
fn a_half_written_file_changes_nothing_until_it_is_whole() {
    let dir = dir();
    let process = Process::start(serve(dir.path(), &[]));
    let file = dir.path().join("monitor.toml");
    let whole = fs::read_to_string(&file).unwrap() + "max = 7\n";
    let max = || process::get(&process.url, "/api/v2/profiles/disk")["counts"]["max"].clone();
    process::eventually("the pool was seen", || (max() == 2).then_some(()));
    // Cut in the middle of the profile's head, and left so.
    let cut = whole.find("[[profile]]").unwrap() + 5;
    fs::write(&file, &whole[..cut]).unwrap();
    let warned = || process::get(&process.url, "/readyz")["warnings"].to_string();
    process::eventually("it is said", || warned().contains("was refused").then_some(()));
    assert_eq!(max(), 2);
    fs::write(&file, &whole).unwrap();
    process::eventually("the whole file is taken", || (max() == 7).then_some(()));
    assert_eq!(warned(), "[]");
}
