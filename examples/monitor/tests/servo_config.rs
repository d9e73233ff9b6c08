//! `[guests]` and `[servo]`: what is refused, and what follows from them.

use std::path::Path;

use monitor::config::{Config, Reads};

const GITHUB: &str =
    "[[github]]\nname = \"github\"\nurl = \"https://github.com/acme\"\ntoken = { file = \"t\" }\n";

fn parse(sections: &str) -> Result<Config, String> {
    let text = format!(
        "{sections}\n[[profile]]\nname = \"linux\"\nimage = {{ kind = \"micro\" }}\nmemory = \"64MiB\"\n"
    );
    Config::parse(Path::new("monitor.toml"), &text).map_err(|error| error.to_string())
}

fn refused(sections: &str, words: &[&str]) {
    let error = parse(sections).expect_err(sections);
    for word in words {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
}

#[test]
fn mistakes_are_named_by_line_and_key_with_the_way_out() {
    refused(
        "[guests]\nlisten = \"127.0.0.1:8000\"",
        &[":2:", "guests.listen", "address of their own"],
    );
    refused("[guests]\nlisten = \"0.0.0.0:8001\"", &["guests.listen", "url = "]);
    refused(
        "[guests]\nlisten = \"127.0.0.1:8001\"\nurl = \"https://x\"",
        &[":3:", "guests.url", "http://"],
    );
    refused("[guests]\nlisten = \"127.0.0.1:8001\"\nurl = \"http://a b\"", &["guests.url"]);
    let networks =
        "[guests]\nlisten = \"127.0.0.1:8001\"\nnetworks = [\"10.0.0.0/8\", \"10.0.0.1\"]";
    refused(networks, &[":3:", "guests.networks[1]", "192.168.122.0/24"]);
    refused("[guests]\nlisten = \"127.0.0.1:8001\"\nrate = \"often\"", &["guests.rate"]);
    refused("[guests]\nlisten = \"127.0.0.1:8001\"\nlisen = 1", &["lisen"]);
    let one = "repositories = [{ name = \"acme/widgets\" }]";
    refused(&format!("[servo]\n{one}"), &["servo.forge", "which [[github]]"]);
    refused(
        &format!("[servo]\nforge = \"elsewhere\"\n{one}\n{GITHUB}"),
        &["servo.forge", "no [[github]] elsewhere"],
    );
    for name in ["acme", "acme/", "/widgets", "acme/*", "acme/widgets/x"] {
        let section = format!("[servo]\nrepositories = [{{ name = \"{name}\" }}]\n{GITHUB}");
        refused(&section, &["servo.repositories[0]", "OWNER/NAME"]);
    }
    let twice =
        "[servo]\nrepositories = [{ name = \"acme/widgets\" }, { name = \"Acme/Widgets\" }]\n";
    refused(&format!("{twice}{GITHUB}"), &["servo.repositories[1]", "already"]);
    refused(
        &format!("[servo]\nartifact_prefix = \"../\"\n{one}\n{GITHUB}"),
        &["servo.artifact_prefix"],
    );
    refused(
        "[servo]\nexternal_base_url = \"ci0.example.org\"",
        &["servo.external_base_url", "https://"],
    );
    refused("[servo]\nreserve_timeout = \"0s\"", &["servo.reserve_timeout", "above zero"]);
    refused("[servo]\nscreenshot_rate = \"x\"", &["servo.screenshot_rate"]);
    let server = |url: &str| format!("{{ url = \"{url}\", token = {{ file = \"t\" }} }}");
    let servers = |all: &[String]| format!("[servo]\nqueue.servers = [{}]", all.join(", "));
    for open in ["http://ci1.example.org", "http://8.8.8.8:8000"] {
        let section = servers(&[server(open)]);
        refused(&section, &[":2:", "servo.queue.servers[0]", "https://", "token"]);
    }
    let twice = servers(&[server("https://ci1.example.org"), server("https://CI1.example.org/")]);
    refused(&twice, &["servo.queue.servers[1]", "already"]);
    refused(
        "[servo]\nqueue.servers = [{ url = \"https://ci1.example.org\", token = \"hunter2\" }]",
        &["a secret is not written here"],
    );
    refused("[servo]\nqueue.hold = \"1s\"", &["servo.queue.hold", "5s"]);
    let near = servers(&[server("http://127.0.0.1:8000"), server("http://10.1.2.3:8000/")]);
    let servo = parse(&near).unwrap().servo.unwrap();
    let urls: Vec<&str> = servo.servers.iter().map(|server| &*server.url).collect();
    assert_eq!(urls, ["http://127.0.0.1:8000", "http://10.1.2.3:8000"]);
    assert_eq!(servo.hold.as_secs(), 60);
}

#[test]
fn an_empty_section_has_servos_own_numbers_and_nobody_who_may_reserve_by_an_artifact() {
    let servo = parse("[servo]").unwrap().servo.unwrap();
    assert!(servo.proof.is_none());
    assert_eq!(servo.reserve_timeout.as_secs(), 60);
    let text = format!("[servo]\nrepositories = [{{ name = \"acme/widgets\" }}]\n{GITHUB}");
    let proof = parse(&text).unwrap().servo.unwrap().proof.unwrap();
    assert_eq!((&*proof.prefix, proof.max_age.as_secs()), ("servo-ci-runners_", 300));
    assert!(!proof.repositories[0].forks);
    assert!(parse("").unwrap().servo.is_none());
}

#[test]
fn looking_needs_a_token_where_machines_speak_from_this_hosts_own_address() {
    let reads = |sections: &str| parse(sections).unwrap().http.reads();
    assert_eq!(reads(""), Reads::Open);
    assert_eq!(reads("[guests]\nlisten = \"127.0.0.1:8001\""), Reads::Token);
    let open = "[http]\nreads = \"open\"\n[guests]\nlisten = \"127.0.0.1:8001\"";
    assert_eq!(reads(open), Reads::Open);
    if cfg!(feature = "libvirt") {
        let libvirt = "[libvirt]\nsubnet = \"10.9.8.0/24\"\n[guests]\nlisten = \"10.9.8.1:8001\"";
        let config = parse(libvirt).unwrap();
        assert_eq!(config.http.reads(), Reads::Open);
        let guests = config.guests.unwrap();
        assert!(guests.is_machines("10.9.8.77".parse().unwrap()));
        assert!(!guests.is_machines("10.9.9.77".parse().unwrap()));
    }
}

#[test]
fn the_host_that_others_ask_for_is_a_name_of_this_service() {
    let names = |sections: &str| parse(sections).unwrap().http.names;
    let servo = "[servo]\nexternal_base_url = \"https://ci0.example.org:444/\"";
    assert_eq!(names(servo), ["ci0.example.org"]);
    let remote = "[http]\nlisten = \"0.0.0.0:80\"\nallow_remote = true\n";
    assert!(names(&format!("{remote}{servo}")).is_empty(), "any name is known there already");
}
