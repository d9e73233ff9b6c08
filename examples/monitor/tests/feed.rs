//! The pool as a stream of changes, and its last hour, over a real socket.

mod common;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    time::Duration,
};

use common::{Server, eventually};
use serde_json::Value;

/// One who follows the pool, and what it knows from what it was told.
struct Follower {
    lines: BufReader<TcpStream>,
    workers: BTreeMap<String, Value>,
    status: Value,
}

impl Follower {
    fn join(server: &Server) -> Self {
        let mut socket = TcpStream::connect(server.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // Of this version, so that the lines come as they are, not in chunks.
        let host = server.address;
        write!(socket, "GET /api/v2/status/follow HTTP/1.0\r\nHost: {host}\r\n\r\n").unwrap();
        let lines = BufReader::new(socket);
        let mut follower = Self { lines, workers: BTreeMap::new(), status: Value::Null };
        assert_eq!(follower.next()["whole"], true);
        follower
    }

    /// Takes in the next event.
    fn next(&mut self) -> Value {
        let mut line = String::new();
        let news: Value = loop {
            line.clear();
            assert_ne!(self.lines.read_line(&mut line).unwrap(), 0, "the stream ended");
            if let Some(data) = line.strip_prefix("data: ") {
                break serde_json::from_str(data).unwrap();
            }
        };
        if news["whole"] == true {
            self.workers.clear();
        }
        for worker in news["workers"].as_array().unwrap() {
            self.workers.insert(worker["name"].as_str().unwrap().to_owned(), worker.clone());
        }
        for name in news["gone"].as_array().unwrap() {
            let gone = self.workers.remove(name.as_str().unwrap());
            assert!(gone.is_some(), "{name} goes and was never there");
        }
        self.status = news["status"].clone();
        news
    }

    fn until(&mut self, mut there: impl FnMut(&Self) -> bool) {
        while !there(self) {
            self.next();
        }
    }

    fn phases(&self, phase: &str) -> usize {
        self.workers.values().filter(|worker| worker["phase"] == phase).count()
    }
}

#[test]
fn who_follows_knows_what_is_there_from_changes_alone() {
    let server = Server::start();
    let mut early = Follower::join(&server);
    early.until(|known| known.phases("idle") == 1);
    let first = early.workers.keys().next().unwrap().clone();
    let id = server.submit("sleep 1; echo done");
    early.until(|known| known.phases("busy") == 1);
    let mut late = Follower::join(&server);
    assert!(late.workers.contains_key(&first), "{:?}", late.workers);
    server.wait(&id, "succeeded");
    for follower in [&mut early, &mut late] {
        follower.until(|known| !known.workers.contains_key(&first));
        follower.until(|known| known.phases("idle") == 1 && known.workers.len() == 1);
        assert_eq!(follower.status["profiles"]["micro"]["idle"], 1);
    }
    assert_eq!(early.workers, late.workers);
}

#[test]
fn the_last_hour_is_told_in_numbers() {
    let server = Server::start();
    let history = eventually(|| {
        let history = server.get("/api/v2/history").json();
        let taken = history["at"].as_array().is_some_and(|at| !at.is_empty());
        taken.then_some(history)
    });
    let count = history["at"].as_array().unwrap().len();
    for phase in ["starting", "idle", "reserved", "busy", "unseen", "over", "queued"] {
        let numbers = history["profiles"]["micro"][phase].as_array().unwrap();
        assert_eq!(numbers.len(), count, "{phase}: {history}");
    }
}
