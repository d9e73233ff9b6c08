//! One queue over several monitors: each a process of its own with machines of its own, at one GitHub over real HTTP,
//! killed, frozen and lied to at the awkward moments.

mod paper;

use std::{
    fs::Permissions,
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
};

use fake_github::{JobRequest, JobStatus};
use monitor::{
    doctor::{self, Check, Outcome, Patient},
    reload::Source,
};
use paper::{Answer, Setting, TOKEN, World, job, uuid};
use reqwest::{Method, StatusCode};
use serde_json::Value;

#[test]
#[ignore = "the process that the other tests start"]
fn the_service_itself() {
    paper::service();
}

const SERVO: &str =
    "repositories = [{ name = \"acme/widgets\", most = 9 }]\nreserve_timeout = \"10m\"\n";

fn setting(servo: String, workers: u64) -> Setting {
    Setting {
        servo: Some(servo),
        profile: format!("min_idle = {workers}\nmax = {}", workers.max(1)),
        ..Setting::default()
    }
}

/// Monitors with so many idle workers each; the first is the queue, which asks the others and these addresses.
fn fleet(first: u64, others: &[u64], more: &[SocketAddr], lines: &str) -> (World, Vec<World>) {
    let mut members: Vec<World> = Vec::new();
    for workers in others {
        let its = setting(SERVO.to_owned(), *workers);
        members.push(match members.first() {
            None => World::new(&its),
            Some(world) => world.beside(&its),
        });
    }
    for (member, workers) in members.iter().zip(others) {
        member.idle(*workers);
    }
    let addresses = members.iter().map(|member| member.http).chain(more.iter().copied());
    let servers = servers(&members[0], addresses);
    let servo = format!("{SERVO}{lines}\n{servers}");
    let queue = members[0].beside(&setting(servo, first));
    queue.idle(first);
    (queue, members)
}

/// The line that names the monitors at these addresses, with a token that is in a file beside `member`.
fn servers(member: &World, addresses: impl IntoIterator<Item = SocketAddr>) -> String {
    let token = member.path().join("peer-token");
    std::fs::write(&token, TOKEN).unwrap();
    let servers = addresses
        .into_iter()
        .map(|address| format!("{{ url = \"http://{address}\", token = {{ file = {token:?} }} }}"));
    format!("queue.servers = [{}]", servers.collect::<Vec<_>>().join(", "))
}

impl World {
    fn enqueue(&self, id: &str, count: u32) -> String {
        let query = job(id, "acme/widgets", 7);
        let path = format!("/profile/linux/enqueue/{count}?{query}");
        let placed = self.ask(Method::POST, &path);
        assert_eq!(placed.status, StatusCode::OK, "{}", placed.text());
        placed.text()
    }

    fn take_place(&self, id: &str, token: &str) -> Answer {
        self.post(&format!("/take/{id}?token={token}"))
    }

    /// Asks as a workflow does, until it is given something.
    fn have(&self, id: &str, token: &str) -> Value {
        let mut told = Value::Null;
        self.until("it is served", |world| {
            let answer = world.take_place(id, token);
            if answer.is_something() {
                told = answer.json();
                return true;
            }
            assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.text());
            assert!(answer.headers.contains_key("retry-after"));
            assert_eq!(answer.text(), "");
            false
        });
        told
    }

    /// The reservations that hold here.
    fn held(&self) -> Vec<String> {
        let held = self.ask(Method::GET, "/api/v2/reservations").json();
        let held = held.as_array().unwrap().iter();
        held.map(|held| held["id"].as_str().unwrap().to_owned()).collect()
    }

    fn holds_nothing(&self) {
        self.until("nothing is reserved", |world| world.held().is_empty());
    }

    fn place(&self, id: &str) -> Value {
        let places = self.ask(Method::GET, "/api/v2/queue").json();
        let places = places.as_array().unwrap().iter();
        places.into_iter().find(|place| place["id"] == id).cloned().unwrap_or_default()
    }

    fn loans(&self) -> usize {
        std::fs::read_dir(self.path().join("data/loans")).map_or(0, Iterator::count)
    }

    fn release_all(&self) {
        for id in self.held() {
            let released = self.ask(Method::DELETE, &format!("/api/v2/reservations/{id}"));
            assert!(released.status.is_success());
        }
    }
}

/// Takes every worker that a monitor has.
fn exhaust(world: &World, workers: u64) -> Vec<String> {
    let ids: Vec<String> = (0..workers).map(|_| uuid()).collect();
    for id in &ids {
        assert!(world.take(id).is_something());
    }
    ids
}

#[test]
fn whoever_waits_is_served_by_another_monitor_and_its_job_runs_there() {
    let (queue, members) = fleet(1, &[1], &[], "");
    let there = &members[0];
    exhaust(&queue, 1);
    let id = uuid();
    let token = queue.enqueue(&id, 1);
    let taken = queue.have(&id, &token);
    assert_eq!(taken["runner"]["monitor"], there.http.to_string(), "{taken}");
    assert_eq!(there.marked(&id).len(), 1, "GitHub has it marked when it is answered");
    assert_eq!(queue.have(&id, &token), taken, "taken again, it is the same");
    assert_eq!(queue.get(&format!("/queue/{id}")).json()["state"], "taken");
    assert_eq!(there.held(), std::slice::from_ref(&id));
    let label = format!("reserved-for:{id}");
    let queued = queue.github.enqueue(JobRequest::new("acme/widgets", [label])).unwrap();
    queue.until("its job is over", |world| {
        world.github.job(queued.id).unwrap().status == JobStatus::Completed
    });
    there.holds_nothing();
    // Nobody was told the token.
    for world in [&queue, there] {
        let told = [world.log(), world.ask(Method::GET, "/api/v2/events?limit=1000").text()];
        assert!(told.iter().all(|text| !text.contains(TOKEN)));
    }
}

#[test]
fn a_gang_over_three_monitors_is_all_or_nothing() {
    let (queue, mut members) = fleet(1, &[1, 1], &[], "queue_timeout = \"10m\"");
    let last = members[1].http.to_string();
    members[1].kill();
    queue.until("the one that is down is known", |world| {
        world.get("/readyz").json()["warnings"].to_string().contains(&last)
    });
    assert_eq!(queue.get("/readyz").status, StatusCode::OK, "others' troubles are not its own");
    let id = uuid();
    let token = queue.enqueue(&id, 3);
    for _ in 0..3 {
        let answer = queue.take_place(&id, &token);
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        let why = answer.headers["x-reason"].to_str().unwrap();
        assert!(why.contains(&last) && why.contains("could not be reached"), "{why}");
    }
    let place = queue.place(&id);
    assert!(place["reasons"].to_string().contains(&last), "{place}");
    assert_eq!((&place["elsewhere"], members[0].held().len()), (&0.into(), 0), "{place}");
    members[1].start();
    let taken = queue.have(&id, &token);
    assert_eq!(taken.as_array().map(Vec::len), Some(3), "{taken}");
    assert_eq!(queue.marked(&id).len(), 3);
    assert_eq!((members[0].held().len(), members[1].held().len()), (1, 1));
    // It ends everywhere.
    queue.release_all();
    queue.holds_nothing();
    members.iter().for_each(World::holds_nothing);
    queue.until("no loan is left", |world| world.loans() == 0);
}

#[test]
fn a_queue_that_is_killed_completes_what_it_began_or_gives_it_back() {
    let (mut queue, members) = fleet(1, &[1], &[], "queue_timeout = \"10m\"");
    let there = &members[0];
    exhaust(&queue, 1);
    for moment in 0..4 {
        let id = uuid();
        let token = queue.enqueue(&id, 1);
        queue.until("the moment", |world| match moment {
            0 => true,
            1 => world.loans() > 0,
            2 => !there.records().is_empty(),
            _ => world.place(&id)["stand"] == "ready",
        });
        queue.kill();
        queue.start();
        let taken = queue.have(&id, &token);
        assert_eq!(taken["runner"]["monitor"], there.http.to_string(), "{moment}: {taken}");
        assert_eq!((there.held(), there.marked(&id).len()), (vec![id.clone()], 1), "{moment}");
        queue.kill();
        queue.start();
        assert_eq!(queue.have(&id, &token)["id"], taken["id"], "{moment}: taken again");
        let released = queue.ask(Method::DELETE, &format!("/api/v2/reservations/{id}"));
        assert!(released.status.is_success(), "{}", released.text());
        there.holds_nothing();
        there.idle(1);
    }
    // Whoever does not come back leaves nothing.
    queue.configure(|config| config.replace("queue_timeout = \"10m\"", "queue_timeout = \"3s\""));
    queue.kill();
    queue.start();
    let id = uuid();
    queue.until("others have promised", |world| {
        // A busy machine may take longer over it than its patience.
        if world.place(&id) == Value::Null {
            world.enqueue(&id, 1);
        }
        !there.records().is_empty()
    });
    queue.kill();
    queue.start();
    there.holds_nothing();
    queue.until("no loan is left", |world| world.loans() == 0);
    assert_eq!(queue.place(&id), Value::Null);
}

#[test]
fn what_a_monitor_promised_outlives_it_and_ends_by_itself_if_nobody_confirms_it() {
    let (mut queue, mut members) =
        fleet(1, &[1], &[], "queue_timeout = \"10m\"\nqueue.hold = \"8s\"");
    exhaust(&queue, 1);
    let id = uuid();
    let token = queue.enqueue(&id, 1);
    queue.until("it is promised", |world| world.place(&id)["stand"] == "ready");
    members[0].kill();
    members[0].start();
    queue.have(&id, &token);
    assert_eq!(members[0].held(), std::slice::from_ref(&id));
    let released = queue.ask(Method::DELETE, &format!("/api/v2/reservations/{id}"));
    assert!(released.status.is_success());
    members[0].holds_nothing();
    members[0].idle(1);
    // The queue dies for good.
    let id = uuid();
    queue.enqueue(&id, 1);
    queue.until("it is promised again", |_| !members[0].records().is_empty());
    queue.kill();
    members[0].holds_nothing();
    members[0].idle(1);
}

#[test]
fn a_monitor_that_freezes_or_dies_in_the_middle_keeps_nobody_from_the_others() {
    let (queue, mut members) =
        fleet(1, &[2, 1], &[], "queue_timeout = \"10m\"\nqueue.hold = \"20s\"");
    exhaust(&queue, 1);
    // The one with more is asked first, and does not answer.
    queue.until("both are known", |world| {
        // More than all of them may have, which is refused then.
        let id = uuid();
        let path = format!("/profile/linux/enqueue/5?{}", job(&id, "acme/widgets", 7));
        let answer = world.ask(Method::POST, &path);
        world.ask(Method::DELETE, &format!("/api/v2/reservations/{id}"));
        answer.status == StatusCode::BAD_REQUEST
    });
    members[0].signal("STOP");
    let id = uuid();
    let token = queue.enqueue(&id, 1);
    let taken = queue.have(&id, &token);
    assert_eq!(taken["runner"]["monitor"], members[1].http.to_string(), "{taken}");
    assert!(queue.get("/readyz").text().contains(&members[0].http.to_string()));
    members[0].signal("CONT");
    // It may have taken in by now what it was asked then.
    members[0].holds_nothing();
    members[0].idle(2);
    // One that dies between its promise and the take: all of it is given back, and had from elsewhere.
    members[1].release_all();
    members[1].idle(1);
    let id = uuid();
    let token = queue.enqueue(&id, 3);
    queue.until("all is promised", |world| world.place(&id)["stand"] == "ready");
    members[1].kill();
    let refused = queue.take_place(&id, &token);
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{}", refused.text());
    members[0].holds_nothing();
    members[1].start();
    assert_eq!(queue.have(&id, &token).as_array().map(Vec::len), Some(3));
    assert_eq!(queue.marked(&id).len(), 3);
}

/// What the doctor says of another monitor.
fn examine(world: &World, server: SocketAddr) -> Check {
    let source = Source { file: Some(world.path().join("monitor.toml")), ..Source::default() };
    let examined = doctor::examine(Patient { source, boots: false }, |_| ());
    let checks = world.runtime.block_on(examined);
    let name = format!("monitor {server}");
    checks.into_iter().find(|check| check.name == name).unwrap()
}

#[test]
fn an_edit_tells_at_once_who_is_asked_and_metrics_and_doctor_know_them() {
    let (mut queue, mut members) = fleet(1, &[1, 1], &[], "queue_timeout = \"10m\"");
    let [first, second] = [members[0].http, members[1].http];
    let (both, one) = (servers(&members[0], [first, second]), servers(&members[0], [first]));
    queue.edit(|config| config.replace(&both, &one));
    let usable = |world: &World, server: SocketAddr| {
        let told = world.get("/metrics").text();
        let start = format!("monitor_queue_server_usable{{server=\"{server}\"}} ");
        told.lines().find_map(|line| line.strip_prefix(&start)).map(str::to_owned)
    };
    queue.until("only one is asked", |world| {
        usable(world, first).as_deref() == Some("1") && usable(world, second).is_none()
    });
    let idle =
        format!("monitor_queue_server_idle_workers{{profile=\"linux\",server=\"{first}\"}} 1");
    queue.until("what is idle there is told", |world| world.get("/metrics").text().contains(&idle));
    // Three are more than the two monitors have.
    let id = uuid();
    let path = format!("/profile/linux/enqueue/3?{}", job(&id, "acme/widgets", 7));
    assert_eq!(queue.ask(Method::POST, &path).status, StatusCode::BAD_REQUEST);
    queue.edit(|config| config.replace(&one, &both));
    queue.until("the other is asked again", |world| usable(world, second).as_deref() == Some("1"));
    let told = queue.ask(Method::GET, "/api/v2/events?limit=1000").text();
    for change in [format!("queue.servers: {second} removed"), format!("{second} added")] {
        assert!(told.contains(&change), "{told}");
    }
    assert_eq!(queue.get("/readyz").json()["warnings"], serde_json::json!([]), "no restart");
    let token = queue.enqueue(&id, 3);
    assert_eq!(queue.have(&id, &token).as_array().map(Vec::len), Some(3));

    // One that lets us look only, and one that is away.
    let viewer = members[0].path().join("viewer-token");
    std::fs::write(&viewer, "planted-viewer-token-77d1").unwrap();
    std::fs::set_permissions(&viewer, Permissions::from_mode(0o600)).unwrap();
    let role = format!("\n[[token]]\nname = \"viewer\"\nrole = \"read\"\nfile = {viewer:?}\n");
    members[0].configure(|config| config + &role);
    members[0].kill();
    members[0].start();
    members[1].kill();
    let token = members[0].path().join("peer-token");
    std::fs::write(&token, "planted-viewer-token-77d1").unwrap();
    let [looks, away] = [first, second].map(|server| examine(&queue, server));
    assert_eq!([looks.outcome, away.outcome], [Outcome::Warning; 2], "{looks:?} {away:?}");
    let why = looks.found;
    assert!(why.contains("reserves nothing") && why.contains("refused the token"), "{why}");
    assert!(away.found.contains("could not be reached"), "{}", away.found);
    std::fs::write(&token, TOKEN).unwrap();
    let well = examine(&queue, first);
    assert_eq!((well.outcome, &*well.found), (Outcome::Ok, "it lends workers: 0 idle of linux"));
}

/// Something at an address that answers every request with this, or never.
fn somebody(answer: Option<&'static str>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let Some(answer) = answer else {
                silent.push(stream);
                continue;
            };
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    address
}

#[test]
fn what_is_no_monitor_is_named_with_the_reason_and_the_others_serve() {
    let silent = somebody(None);
    let page = somebody(Some("HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n<html></html>"));
    let elsewhere = somebody(Some(
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
    ));
    let closed = somebody(Some("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n"));
    let (queue, members) = fleet(1, &[1], &[silent, page, elsewhere, closed], "");
    let reasons = [
        (silent, "in time"),
        (page, "no monitor answers"),
        (elsewhere, "302"),
        (closed, "refused the token"),
    ];
    queue.until("each is named with its reason", |world| {
        let told = world.get("/readyz").json()["warnings"].clone();
        let told: Vec<&str> = told.as_array().unwrap().iter().filter_map(Value::as_str).collect();
        reasons.iter().all(|(address, reason)| {
            told.iter().any(|line| line.contains(&address.to_string()) && line.contains(reason))
        })
    });
    exhaust(&queue, 1);
    let id = uuid();
    let token = queue.enqueue(&id, 1);
    assert!(queue.have(&id, &token)["id"].is_u64());
    assert_eq!(members[0].held(), [id]);
}
