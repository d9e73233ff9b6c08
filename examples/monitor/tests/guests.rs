//! Machines that ask: how each proves which it is, and what it is given.

mod paper;

use std::fs;

use paper::{Setting, TOKEN, World};
use reqwest::{Method, StatusCode};
use serde_json::Value;

#[test]
#[ignore = "the process that the other tests start"]
fn the_service_itself() {
    paper::service();
}

/// With these lines in `[guests]`, and machines that do not become runners by themselves.
fn sleepy(guests: &str) -> World {
    World::new(&Setting {
        servo: None,
        guests: guests.to_owned(),
        asleep: true,
        ..Setting::default()
    })
}

/// Two machines that have not asked for anything yet, and whose runners are not online.
fn started(world: &World) -> [(String, String); 2] {
    world.until("two machines are there", |world| world.machines().len() == 2);
    let machines = world.machines();
    let found = machines.into_iter().map(|machine| {
        let secret = world.told_line(&machine, "monitor-token").unwrap();
        (machine, secret)
    });
    found.collect::<Vec<_>>().try_into().unwrap()
}

#[test]
fn each_machine_gets_its_own_secret_and_its_runners_once_also_after_a_restart() {
    let mut world = sleepy("");
    let [(one, secret), (two, other)] = started(&world);
    assert_ne!(secret, other);
    assert!(secret.starts_with(&format!("{one}.")), "{secret}");
    assert_eq!(world.told_line(&one, "monitor-url").unwrap(), world.guests_url());
    world.kill();
    world.start();
    let handed = world.ask_as(&secret, "/github-jitconfig");
    assert_eq!(handed.status, StatusCode::OK, "{}", handed.text());
    assert_eq!(handed.json().as_str(), world.told_line(&one, "jit-config").as_deref());
    assert_eq!(world.ask_as(&secret, "/github-jitconfig").json(), Value::Null);
    let handed = world.ask_as(&other, "/github-jitconfig").json();
    assert_eq!(handed.as_str(), world.told_line(&two, "jit-config").as_deref());
    // A restart brings nothing back.
    world.kill();
    world.start();
    assert_eq!(world.ask_as(&secret, "/github-jitconfig").json(), Value::Null);
}

#[test]
fn a_secret_ends_with_its_worker_and_leaves_nothing() {
    let world = sleepy("");
    let [(one, secret), _] = started(&world);
    assert_eq!(world.ask_as(&secret, "/boot").status, StatusCode::NOT_FOUND);
    let retired = world.ask(Method::POST, &format!("/api/v2/workers/{one}/retire"));
    assert!(retired.status.is_success(), "{}", retired.text());
    world.until("its machine is gone", |world| !world.machines().contains(&one));
    world.until("its secret means nothing", |world| {
        world.ask_as(&secret, "/github-jitconfig").status == StatusCode::FORBIDDEN
    });
    let guests = world.path().join("data/guests");
    world.until("nothing is kept for it", |_| {
        !fs::read_dir(&guests)
            .unwrap()
            .flatten()
            .any(|file| file.file_name().to_str().unwrap().starts_with(&format!("{one}.")))
    });
    let log = world.log();
    assert!(!log.contains(&secret) && !log.contains(TOKEN));
}

#[test]
fn what_proves_nothing_gets_nothing_and_lies_about_addresses_are_not_believed() {
    let world = sleepy("");
    let [(one, secret), (_, other)] = started(&world);
    let forged = format!("{one}.{}", other.split_once('.').unwrap().1);
    for wrong in ["", "x", "a.b", TOKEN, &forged, &secret[..secret.len() - 1]] {
        let answer = world.ask_as(wrong, "/github-jitconfig");
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{wrong:?}: {}", answer.text());
        assert!(answer.headers["content-type"].to_str().unwrap().starts_with("text/plain"));
    }
    let url = format!("{}/github-jitconfig", world.guests_url());
    world.give_address(&one, "10.7.7.7");
    for header in [("X-Real-IP", "10.7.7.7"), ("Forwarded", "for=10.7.7.7")] {
        let answer = world.send(Method::GET, &url, |request| request.header(header.0, header.1));
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{header:?}");
    }
}

#[test]
fn a_machine_that_was_told_nothing_is_known_by_the_address_that_the_hypervisor_reports_for_it_alone()
 {
    let world = sleepy("proxies = [\"127.0.0.1\"]");
    let [(one, _), (two, _)] = started(&world);
    let url = format!("{}/github-jitconfig", world.guests_url());
    let ask = |address: &'static str| {
        world.send(Method::GET, &url, |request| request.header("X-Real-IP", address))
    };
    assert_eq!(ask("10.7.7.7").status, StatusCode::UNAUTHORIZED);
    world.give_address(&one, "10.7.7.7");
    world.give_address(&two, "10.7.7.7");
    world.until("the addresses are known", |_| ask("10.7.7.7").status == StatusCode::FORBIDDEN);
    world.give_address(&two, "10.7.7.8");
    world.until("they differ", |_| {
        ask("10.7.7.9").status == StatusCode::UNAUTHORIZED && {
            let handed = ask("10.7.7.7");
            handed.status == StatusCode::OK
                && handed.json().as_str() == world.told_line(&one, "jit-config").as_deref()
        }
    });
    assert_eq!(ask("10.7.7.7").json(), Value::Null, "it was handed out");
    let silent = world.send(Method::GET, &url, |request| request);
    assert_eq!(silent.status, StatusCode::UNAUTHORIZED, "a proxy is no machine");
}

#[test]
fn machines_reach_nothing_of_the_api_and_the_api_nothing_of_theirs() {
    let world = sleepy("");
    let [(one, secret), _] = started(&world);
    for path in ["/", "/dashboard.json", "/api/v2/status", "/api/v2/workers", "/metrics", "/readyz"]
    {
        assert_eq!(world.ask_as(&secret, path).status, StatusCode::NOT_FOUND, "{path}");
    }
    let retire = format!("/api/v2/workers/{one}/retire");
    let url = format!("{}{retire}", world.guests_url());
    for token in [TOKEN, &secret] {
        let answer = world.send(Method::POST, &url, |request| request.bearer_auth(token));
        assert!(answer.status.is_client_error(), "{}", answer.status);
    }
    // Its secret is no token.
    let url = format!("{}{retire}", world.url());
    let answer = world.send(Method::POST, &url, |request| request.bearer_auth(&secret));
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    for path in ["/github-jitconfig", "/boot"] {
        assert_eq!(world.get(path).status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(world.ask(Method::GET, path).status, StatusCode::NOT_FOUND, "{path}");
    }
    assert!(world.machines().contains(&one));
}

#[test]
fn who_is_in_a_network_of_machines_is_not_let_into_the_api() {
    let world = sleepy("networks = [\"127.0.0.0/8\"]");
    for path in ["/", "/healthz", "/api/v2/status"] {
        let answer = world.ask(Method::GET, path);
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path}");
        assert!(answer.text().contains("[guests]"), "{}", answer.text());
    }
}

#[test]
fn a_boot_script_is_that_of_the_machines_own_making() {
    let world = World::new(&Setting {
        servo: None,
        guests: "boot_scripts = \"profiles\"".to_owned(),
        profile: "min_idle = 0\nmax = 2".to_owned(),
        asleep: true,
        ..Setting::default()
    });
    let script = world.path().join("profiles/linux/boot-script");
    fs::create_dir_all(script.parent().unwrap()).unwrap();
    fs::write(&script, "#!/bin/sh\necho one\n").unwrap();
    let grow = |count: u32| {
        let url = format!("{}/api/v2/profiles/linux", world.url());
        let wish = serde_json::json!({ "min_idle": count });
        let done =
            world.send(Method::PATCH, &url, |request| request.bearer_auth(TOKEN).json(&wish));
        assert!(done.status.is_success(), "{}", done.text());
        world.until("there are as many", |world| world.machines().len() == count as usize);
    };
    grow(1);
    let one = world.machines().remove(0);
    fs::write(&script, "#!/bin/sh\necho two\n").unwrap();
    grow(2);
    let two = world.machines().into_iter().find(|machine| *machine != one).unwrap();
    for (machine, text) in [(one, "#!/bin/sh\necho one\n"), (two, "#!/bin/sh\necho two\n")] {
        let secret = world.told_line(&machine, "monitor-token").unwrap();
        let answer = world.ask_as(&secret, "/boot");
        assert_eq!(answer.text(), text);
        assert!(answer.headers["content-type"].to_str().unwrap().starts_with("text/plain"));
    }
}
