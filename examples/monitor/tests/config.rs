//! Every mistake in a configuration is named by file, line and key, with the way out.

use std::{net::SocketAddr, path::Path, time::Duration};

use monitor::{
    config::{
        Config, GithubLogin, GithubSource, GitlabConfig, GitlabPlace, HttpConfig, HypervisorKind,
        Reads, SAMPLE, SecretPlace,
    },
    tokens::Role,
};
use runner_core::{Capacity, access::Rules, image::RecipeKind};

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(Path::new("etc/monitor.toml"), text).map_err(|error| error.to_string())
}

#[test]
fn the_sample_is_valid_and_is_the_default() {
    let config = Config::built_in();
    assert_eq!(config.http.listen, SocketAddr::from(([127, 0, 0, 1], 8000)));
    assert_eq!(config.profiles[0].name.as_str(), "micro");
    assert_eq!(config.profiles[0].resources.memory_mib, 256);
}

/// Without one section: from its name to the next.
fn without(text: &str, section: &str) -> String {
    let mut inside = false;
    let outside = text.lines().filter(|line| {
        if line.starts_with('[') {
            inside = *line == section;
        }
        !inside
    });
    outside.collect::<Vec<_>>().join("\n")
}

/// The keys that are commented out must be valid too, and hold the defaults that they claim.
#[test]
fn the_samples_comments_are_true() {
    let uncommented: String = SAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if is_toml(rest) => rest,
            _ => line,
        })
        .map(|line| line.replace("<data dir>", "/var/lib/monitor").replace('…', &"0".repeat(64)))
        .collect::<Vec<_>>()
        .join("\n");
    // A pool has one hypervisor.
    let (qemu, libvirt) = (without(&uncommented, "[libvirt]"), without(&uncommented, "[qemu]"));
    let full = parse(&qemu).unwrap();
    let brief = Config::built_in();
    assert_eq!(full.profiles.len(), 4);
    github_is_as_it_says(&full);
    gitlab_is_as_it_says(&full);
    assert_eq!(full.profiles[0], brief.profiles[0]);
    assert_eq!((full.local, full.pace), (brief.local, brief.pace));
    assert_eq!(full.http.body_limit, brief.http.body_limit);
    assert_eq!(full.hypervisor.accel, brief.hypervisor.accel);
    if cfg!(feature = "libvirt") {
        let default = parse(&format!("[libvirt]\n{}", without(SAMPLE, "[qemu]"))).unwrap();
        let of = |config: Config| match config.hypervisor.kind {
            HypervisorKind::Libvirt(libvirt) => libvirt,
            HypervisorKind::Qemu { .. } => panic!("it is libvirt"),
        };
        let (mut full, default) = (of(parse(&libvirt).unwrap()), of(default));
        assert_eq!(full.pool_dir.take(), Some("/var/lib/libvirt/runners".into()));
        assert_eq!(full.pool.take().as_deref(), Some("runners"));
        assert_eq!(full.profiles.take(), Some("etc/profiles".into()));
        assert_eq!(full, default);
    }
    let of = |http: &HttpConfig| {
        let limits = (http.body_limit, http.max_connections, http.max_streams, http.rate);
        (limits, http.header_timeout, http.body_timeout, http.stall_timeout, http.reads())
    };
    assert_eq!(of(&full.http), of(&brief.http));
    assert!(full.http.tls.is_some());
    let tokens: Vec<(&str, Role)> =
        full.tokens.iter().map(|token| (token.name.as_str(), token.role)).collect();
    assert_eq!(tokens, [("ci", Role::Operate), ("wallboard", Role::Read)]);
}

/// What is shown as GitHub's defaults is what a GitHub has that says nothing.
fn github_is_as_it_says(full: &Config) {
    let text = "[[github]]\nname = \"github\"\nurl = \"https://github.com/acme\"\n\
        token = { file = \"t\" }\nrepositories = [\"acme/widgets\"]\n\
        [[profile]]\nname = \"github-linux\"\nforge = \"github\"\nmemory = \"4GiB\"\nimage = { kind = \"micro\" }\n\
        sources = [\"scale-set\"]\n";
    let brief = parse(text).unwrap().githubs.remove(0);
    let [github] = &full.githubs[..] else { panic!("one GitHub") };
    assert_eq!((github.pace, github.budget), (brief.pace, brief.budget));
    let name = &full.profiles[2].name;
    assert_eq!(github.profiles[name].scale_set, brief.profiles[name].scale_set);
    assert_eq!(github.profiles[name].sources.len(), 3);
    assert_eq!(full.http.webhook_rate, Config::built_in().http.webhook_rate);
}

/// The same of GitLab.
fn gitlab_is_as_it_says(full: &Config) {
    let text = "[[gitlab]]\nname = \"gitlab\"\nurl = \"https://gitlab.example.org\"\n\
        token = { file = \"t\" }\nrunner_type = \"group\"\ngroup_id = 42\n\
        [[profile]]\nname = \"gitlab-linux\"\nforge = \"gitlab\"\nlabels = [\"linux\", \"x64\"]\n\
        memory = \"4GiB\"\nimage = { kind = \"micro\" }\n";
    let brief = parse(text).unwrap().gitlabs.remove(0);
    let [gitlab] = &full.gitlabs[..] else { panic!("one GitLab") };
    assert_eq!((gitlab.limits, &gitlab.builds_dir), (brief.limits, &brief.builds_dir));
    assert_eq!((gitlab.allow_http, gitlab.run_single), (brief.allow_http, brief.run_single));
    let of = |gitlab: &GitlabConfig| gitlab.administration.clone().unwrap();
    assert_eq!(
        (of(gitlab).place, of(&brief).place),
        (GitlabPlace::Group(42), GitlabPlace::Group(42))
    );
    assert_eq!(of(gitlab).expose_runners, of(&brief).expose_runners);
    let name = &full.profiles[3].name;
    let (mut says, default) = (gitlab.profiles[name].clone(), &brief.profiles[name]);
    assert_eq!(says.maximum_timeout.take(), Some(Duration::from_secs(7200)));
    assert_eq!(
        says.token.take(),
        Some(SecretPlace::File("/etc/monitor/gitlab-linux-token".into()))
    );
    assert_eq!(says.access.allow.users, ["ada"]);
    says.access = Rules::default();
    assert_eq!(says, *default);
}

/// A key with its value, or a table's head; not a sentence.
fn is_toml(line: &str) -> bool {
    let key = line.split_once(" = ").map_or("", |(key, _)| key);
    let is_key = !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    is_key || line.starts_with("[") && line.ends_with("]")
}

#[test]
fn paths_start_at_the_files_directory() {
    let text = r#"
data = { dir = "state" }
[[profile]]
name = "debian"
memory = "1GiB"
start_timeout = "1m30s"
image = { kind = "disk", path = "debian.qcow2", sha256 = "SHA", user_data = "nocloud" }
"#;
    let config = parse(&text.replace("SHA", &"A".repeat(64))).unwrap();
    assert_eq!(config.data_dir, Path::new("etc/state"));
    assert_eq!(config.profiles[0].timeouts.start, Duration::from_secs(90));
    let RecipeKind::Disk { path, sha256, .. } = &config.profiles[0].recipe.kind else {
        panic!("not a disk");
    };
    assert_eq!(path, Path::new("etc/debian.qcow2"));
    assert_eq!(*sha256, "a".repeat(64));
}

#[test]
fn every_mistake_is_named_with_the_way_out() {
    let profile =
        "[[profile]]\nname = \"micro\"\nmemory = \"256MiB\"\nimage = { kind = \"micro\" }\n";
    // What is written before the profile, what after it, and what must be said.
    let table: &[(&str, &str, &[&str])] = &[
        ("[http]\nlisten = \"8000\"\n", "", &[":2:", "http.listen"]),
        ("[http]\nlisten = \"0.0.0.0:8000\"\n", "", &[":2:", "http.listen", "allow_remote = true"]),
        ("[http]\nlisten = \"[::]:8000\"\n", "", &[":2:", "http.listen", "allow_remote = true"]),
        ("[http]\nlissten = \"x\"\n", "", &[":2:", "lissten", "expected one of", "`listen`"]),
        ("[http]\nnames = \"ci\"\n", "", &[":2:", "http.names", "sequence"]),
        ("[http]\nbody_limit = 5\n", "", &[":2:", "http.body_limit", "512MiB"]),
        ("[http]\nbody_limit = \"0B\"\n", "", &[":2:", "http.body_limit", "96MiB"]),
        ("[http]\nnames = [\"http://ci\"]\n", "", &[":2:", "http.names[0]", "leave out scheme"]),
        ("[http]\nnames = [\"ci\", \"\"]\n", "", &[":2:", "http.names[1]", "not a host name"]),
        ("[http]\nreads = \"all\"\n", "", &[":2:", "http.reads", "`open`", "`token`"]),
        ("[http]\nrate = \"fast\"\n", "", &[":2:", "http.rate", "\"fast\" is not a rate", "50/s"]),
        ("[http]\nrate = \"0/s\"\n", "", &[":2:", "http.rate", "a number above zero"]),
        ("[http]\nrate = \"5/d\"\n", "", &[":2:", "http.rate", "units s, m and h"]),
        ("[http]\nrate = 5\n", "", &[":2:", "http.rate", "string"]),
        (
            "[http]\nheader_timeout = \"0s\"\n",
            "",
            &[":2:", "http.header_timeout", "default is 20s"],
        ),
        ("[http]\nbody_timeout = \"0s\"\n", "", &[":2:", "http.body_timeout", "default is 30s"]),
        ("[http]\nstall_timeout = \"0s\"\n", "", &[":2:", "http.stall_timeout", "default is 60s"]),
        ("[http]\nstall_timeout = 60\n", "", &[":2:", "http.stall_timeout", "\"90s\""]),
        ("[http]\nmax_connections = 0\n", "", &[":2:", "http.max_connections", "at least 1"]),
        ("[http]\nmax_streams = 0\n", "", &[":2:", "http.max_streams", "default is 2048"]),
        ("[http]\nmax_streams = -1\n", "", &[":2:", "http.max_streams", "integer `-1`"]),
        ("[http]\ntls = { cert = \"c\" }\n", "", &[":2:", "http.tls", "missing field `key`"]),
        ("[http.tls]\ncert = \"c\"\nkeys = \"k\"\n", "", &[":3:", "http.tls", "keys", "`key`"]),
        ("[http]\ntls = true\n", "", &[":2:", "http.tls", "boolean"]),
        ("[[token]]\nname = \"ci\"\nrole = \"root\"\n", "", &[":3:", "token[0].role", "`operate`"]),
        (
            "[[token]]\nname = \"CI\"\nrole = \"read\"\n",
            "",
            &[":2:", "token[0].name", "lower-case"],
        ),
        (
            "[[token]]\nname = \"admin\"\nrole = \"read\"\n",
            "",
            &[":2:", "token[0].name", "token_file"],
        ),
        (
            "[[token]]\nrole = \"read\"\nfile = \"x\"\n",
            "",
            &[":1:", "token[0]", "missing field `name`"],
        ),
        (
            "[[token]]\nname = \"ci\"\nfile = \"x\"\n",
            "",
            &[":1:", "token[0]", "missing field `role`"],
        ),
        (
            "[[token]]\nname = \"ci\"\nrole = \"read\"\n",
            "",
            &[":1:", "token[0]", "either file or credential"],
        ),
        (
            "[[token]]\nname = \"ci\"\nrole = \"read\"\nfile = \"x\"\ncredential = \"y\"\n",
            "",
            &[":1:", "token[0]", "either file or credential"],
        ),
        (
            "[[token]]\nname = \"ci\"\nrole = \"read\"\ncredential = \"../x\"\n",
            "",
            &[":4:", "token[0].credential", "LoadCredential="],
        ),
        (
            "[[token]]\nname = \"ci\"\nrole = \"read\"\ntoken = \"planted-7c\"\n",
            "",
            &[":4:", "token[0]", "unknown field `token`", "`file`"],
        ),
        (
            "[[token]]\nname = \"ci\"\nrole = \"read\"\nfile = \"x\"\n\
             [[token]]\nname = \"ci\"\nrole = \"admin\"\nfile = \"y\"\n",
            "",
            &[":6:", "token[1].name", "a token ci already", "rename"],
        ),
        ("token = \"x\"\n", "", &[":1:", "token", "sequence"]),
        ("[htttp]\n", "", &[":1:", "htttp", "`http`"]),
        ("[http\n", "", &[":1:", "]"]),
        ("[http]\nlisten =\n", "", &[":2:"]),
        ("[qemu]\naccel = \"xen\"\n", "", &[":2:", "qemu.accel", "`auto`", "`kvm`", "`tcg`"]),
        ("[qemu]\nvcpus = -1\n", "", &[":2:", "qemu.vcpus", "u32"]),
        ("[qemu]\nmemory = \"2GiB\"\n", "", &[":2:", "qemu", "vcpus, memory and disk together"]),
        (
            "[qemu]\nmemory = \"lots\"\n",
            "",
            &[":2:", "qemu.memory", "\"lots\" is not a size", "2GiB"],
        ),
        ("[qemu]\nmemory = \"2GB\"\n", "", &[":2:", "qemu.memory", "GiB"]),
        ("[qemu]\nmemory = \"1000KiB\"\n", "", &[":2:", "qemu.memory", "whole number of MiB"]),
        ("[qemu]\n[libvirt]\n", "", &[":2:", "libvirt", "one hypervisor", "remove"]),
        ("[libvirt]\npool_dir = \"/x\"\n", "", &[":2:", "libvirt.pool_dir", "pool ="]),
        ("[libvirt]\npool = \"x\"\ndisks = \"copy\"\n", "", &[":3:", "libvirt.disks", "overlays"]),
        ("[libvirt]\nuri = \"xen:///\"\n", "", &[":1:", "libvirt", "qemu:///system"]),
        ("[libvirt]\nsubnet = \"10.0.0.1\"\n", "", &[":1:", "libvirt", "10.20.30.0/24"]),
        ("[libvirt]\nreach = [\"1.2.3.4\"]\n", "", &[":2:", "libvirt.reach", "tcp:192.0.2.1:443"]),
        ("", "reach = [\"tcp:192.0.2.1:443\"]\n", &["profile[0].reach", "restricted"]),
        (
            "",
            "network = \"restricted\"\nreach = [\"tcp:192.0.2.1:443\"]\n",
            &["profile[0].reach", "[libvirt]"],
        ),
        ("[libvirt]\ndisks = \"raw\"\n", "", &[":2:", "libvirt.disks", "`overlay`", "`reflink`"]),
        (
            "[local]\ntimeout = \"soon\"\n",
            "",
            &[":2:", "local.timeout", "\"soon\" is not a duration", "90s"],
        ),
        ("[local]\ntimeout = 90\n", "", &[":2:", "local.timeout", "\"90s\""]),
        ("[local]\nkill_grace = \"5\"\n", "", &[":2:", "local.kill_grace", "add a unit"]),
        ("[pace]\nlook_every = \"0s\"\n", "", &[":2:", "pace.look_every", "above zero"]),
        ("[pace]\nmax_actions = 0\n", "", &[":2:", "pace.max_actions", "at least 1"]),
        ("", "min_idle = 3\nmax = 2\n", &[":5:", "profile[0].min_idle", "3 is above max = 2"]),
        ("", "min_idle = 0\nmax = 0\n", &[":6:", "profile[0].max", "at least 1"]),
        ("", "vcpus = 0\n", &[":1:", "vcpus of profile micro", "at least 1"]),
        ("", "forge = \"github\"\n", &[":5:", "profile[0].forge", "[[github]]"]),
        ("", "forge = \"Git Hub\"\n", &[":5:", "profile[0].forge", "lower-case"]),
        ("", "labels = [\"a,b\"]\n", &[":5:", "profile[0].labels[0]", "comma"]),
        ("", "network = \"closed\"\n", &[":5:", "profile[0].network", "`open`", "`restricted`"]),
        ("", "start_timeout = \"0s\"\n", &["start timeout of profile micro", "above zero"]),
        ("", "disk = \"10 GB\"\n", &[":5:", "profile[0].disk", "GiB"]),
        ("", "max = 2\nmax = 3\n", &[":6:", "duplicate key"]),
        (
            "",
            "[[profile]]\nname = \"micro\"\nmemory = \"1GiB\"\nimage = { kind = \"micro\" }\n",
            &[":6:", "profile[1].name", "already", "rename"],
        ),
        (
            "",
            "[[profile]]\nname = \"Big\"\nmemory = \"1GiB\"\nimage = { kind = \"micro\" }\n",
            &[":6:", "profile[1].name", "lower-case"],
        ),
        (
            "",
            "[[profile]]\nname = \"b\"\nimage = { kind = \"micro\" }\n",
            &[":5:", "profile[1]", "missing field `memory`"],
        ),
        (
            "",
            "[[profile]]\nname = \"b\"\nmemory = \"1GiB\"\n",
            &[":5:", "profile[1]", "missing field `image`"],
        ),
        (
            "",
            "[[profile]]\nmemory = \"1GiB\"\nimage = { kind = \"micro\" }\n",
            &[":5:", "missing field `name`"],
        ),
        (
            "",
            "[[profile]]\nname = \"b\"\nmemory = \"1GiB\"\nimage = { kind = \"tiny\" }\n",
            &[":8:", "profile[1].image", "`micro`", "`disk`"],
        ),
        (
            "",
            "[[profile]]\nname = \"b\"\nmemory = \"1GiB\"\nimage = { kind = \"disk\", path = \"x\" }\n",
            &[":8:", "profile[1].image", "missing field `sha256`"],
        ),
        (
            "",
            "[[profile]]\nname = \"b\"\nmemory = \"1GiB\"\nimage = { kind = \"disk\", path = \"x\", sha256 = \"ab\" }\n",
            &[":8:", "profile[1].image", "64 hexadecimal digits", "sha256sum"],
        ),
        (
            "",
            "[[profile]]\nname = \"b\"\nmemory = \"1GiB\"\nimage = { kind = \"micro\", path = \"x\" }\n",
            &[":8:", "profile[1].image", "unknown field `path`"],
        ),
    ];
    for (before, after, says) in table {
        let text = format!("{before}{profile}{after}");
        let error = parse(&text).err().unwrap_or_else(|| panic!("was taken:\n{text}"));
        assert!(error.starts_with("etc/monitor.toml:"), "no file in: {error}");
        for part in *says {
            assert!(error.contains(part), "{part:?} is not in: {error}\nof:\n{text}");
        }
        assert!(!error.contains('\n'), "more than a line: {error}");
        assert!(!error.contains("planted-7c"), "a secret in the wrong place is told: {error}");
    }
    let error = parse("[http]\n").unwrap_err();
    assert!(error.contains("at least one [[profile]]"), "{error}");
}

#[test]
fn every_mistake_about_github_is_named_with_the_way_out() {
    let place = "[[github]]\nname = \"gh\"\nurl = \"https://github.com/acme\"\n";
    let token = "token = { file = \"t\" }\n";
    let profile = "[[profile]]\nname = \"micro\"\nmemory = \"1GiB\"\nimage = { kind = \"micro\" }\n\
        forge = \"gh\"\n";
    // What `[[github]]` says, what the profile says, and what must be said.
    let table: &[(&str, &str, &[&str])] = &[
        ("", "", &[":1:", "github[0]", "token = {", "or app"]),
        ("token = \"planted-7c\"\n", "", &[":4:", "github[0].token", "{ file = … }"]),
        ("token = { planted-7c = \"x\" }\n", "", &[":4:", "github[0].token", "{ file = … }"]),
        ("token = { file = [\"planted-7c\"] }\n", "", &[":4:", "github[0].token", "{ file = … }"]),
        (
            "token = { file = \"a\", environment = \"B\" }\n",
            "",
            &[":4:", "github[0].token", "{ file = … }"],
        ),
        (
            "token = { environment = \"planted-7c\" }\n",
            "",
            &[":4:", "github[0].token", "not its value"],
        ),
        ("token = { credential = \"../x\" }\n", "", &[":4:", "LoadCredential="]),
        (
            "token = { file = \"t\" }\napp = { id = \"Iv1\", key = { file = \"k\" } }\n",
            "",
            &[":5:", "github[0].app", "remove either"],
        ),
        ("app = { id = \"Iv1\" }\n", "", &[":4:", "github[0].app", "missing field `key`"]),
        ("TOKENrepositories = [\"widgets\"]\n", "", &[":5:", "repositories[0]", "OWNER/NAME"]),
        (
            "TOKENrepositories = [\"evil/x\"]\n",
            "",
            &[":5:", "repositories[0]", "organization acme"],
        ),
        ("TOKENhook = 7\n", "", &[":5:", "github[0].hook", "webhook ="]),
        (
            "TOKENhook = \"app\"\nwebhook = [{ file = \"w\" }]\n",
            "",
            &[":5:", "github[0].hook", "no App"],
        ),
        (
            "TOKENhook = \"mine\"\nwebhook = [{ file = \"w\" }]\n",
            "",
            &[":5:", "github[0].hook", "\"app\""],
        ),
        ("TOKENlimits = \"none\"\n", "", &[":5:", "github[0].limits", "github.com has limits"]),
        (
            "TOKENlimits = \"none\"\npoints_per_minute = 9\n",
            "",
            &[":5:", "github[0].limits", "remove either"],
        ),
        ("TOKENpoints_per_minute = 901\n", "", &[":5:", "points_per_minute", "1 to 900"]),
        ("TOKENregistrations_per_minute = 0\n", "", &[":5:", "1 to 180", "default is 180"]),
        ("TOKENcalls_at_once = 101\n", "", &[":5:", "calls_at_once", "1 to 100"]),
        ("TOKENpoll_every = \"0s\"\n", "", &[":5:", "github[0].poll_every", "default is 30s"]),
        ("TOKENtoken_file = \"x\"\n", "", &[":5:", "unknown field `token_file`", "`token`"]),
        ("TOKEN", "", &["profile[0].sources", "webhook or repositories", "scale-set"]),
        ("TOKEN", "sources = [\"poll\"]\n", &[":10:", "profile[0].sources", "repositories to ask"]),
        ("TOKEN", "sources = [\"webhook\"]\n", &[":10:", "profile[0].sources", "no webhook"]),
        ("TOKEN", "sources = [\"carrier-pigeon\"]\n", &[":10:", "`scale-set`", "`poll`"]),
        (
            "TOKENrepositories = [\"acme/x\"]\n",
            "sources = [\"poll\", \"poll\"]\n",
            &[":11:", "profile[0].sources", "twice"],
        ),
        (
            "TOKEN",
            "sources = [\"scale-set\"]\ngroup = 7\n",
            &[":11:", "profile[0].group", "by its name"],
        ),
        (
            "TOKENrepositories = [\"acme/x\"]\n",
            "[[profile]]\nname = \"b\"\nmemory = \"1GiB\"\nimage = { kind = \"micro\" }\nscale_set = \"x\"\n",
            &[":15:", "profile[1].scale_set", "[[github]]"],
        ),
        (
            "TOKENrepositories = [\"acme/x\"]\n[[github]]\nname = \"gh\"\nurl = \"https://github.com/b\"\n",
            "",
            &[":7:", "github[1].name", "already", "rename"],
        ),
    ];
    let refused = |text: &str, says: &[&str]| {
        let error = parse(text).err().unwrap_or_else(|| panic!("was taken:\n{text}"));
        for part in says {
            assert!(error.contains(part), "{part:?} is not in: {error}\nof:\n{text}");
        }
        assert!(!error.contains('\n'), "more than a line: {error}");
        assert!(!error.contains("planted-7c"), "a secret in the wrong place is told: {error}");
    };
    for (github, more, says) in table {
        refused(&format!("{place}{}{profile}{more}", github.replace("TOKEN", token)), says);
    }
    let url =
        |url: &str| format!("{}{token}{profile}", place.replace("https://github.com/acme", url));
    refused(&url("http://github.com/acme"), &[":3:", "github[0].url", "https://"]);
    refused(&url("https://me:planted-7c@github.com/acme"), &[":3:", "password"]);
    refused(&format!("{}{token}{profile}", place.replace("gh", "local")), &[":2:", "already"]);
    let long = profile.replace("micro\"\nmemory", &format!("{}\"\nmemory", "x".repeat(40)));
    let polls = "repositories = [\"acme/x\"]\n";
    refused(&format!("{place}{token}{polls}{long}"), &["profile[0].name", "room for 55"]);
}

#[test]
fn every_mistake_about_gitlab_is_named_with_the_way_out() {
    let place = "[[gitlab]]\nname = \"gl\"\nurl = \"https://gitlab.example.org\"\n";
    let token = "token = { file = \"t\" }\nrunner_type = \"instance\"\n";
    let profile = "[[profile]]\nname = \"micro\"\nmemory = \"1GiB\"\nimage = { kind = \"micro\" }\n\
        forge = \"gl\"\n";
    // What `[[gitlab]]` says, what the profile says, and what must be said.
    let table: &[(&str, &str, &[&str])] = &[
        ("", "", &["profile[0].runner_token", "or give its forge the token"]),
        ("", "runner_token = \"planted-7c\"\n", &[":9:", "runner_token", "{ file = … }"]),
        ("", "runner_token = { environment = \"planted-7c\" }\n", &[":9:", "not its value"]),
        ("token = \"planted-7c\"\n", "", &[":4:", "gitlab[0].token", "{ file = … }"]),
        ("token = { file = \"t\" }\n", "", &[":1:", "gitlab[0].runner_type", "\"project\""]),
        ("expose_runners = false\n", "", &[":4:", "gitlab[0].expose_runners", "token ="]),
        ("runner_type = \"group\"\n", "", &[":4:", "gitlab[0].runner_type", "token ="]),
        ("TOKENgroup_id = 7\n", "", &[":6:", "gitlab[0].group_id", "change runner_type"]),
        (
            "token = { file = \"t\" }\nrunner_type = \"group\"\n",
            "",
            &[":5:", "gitlab[0].group_id", "group_id = 42"],
        ),
        (
            "token = { file = \"t\" }\nrunner_type = \"project\"\ngroup_id = 1\n",
            "",
            &[":5:", "gitlab[0].project_id", "project_id = 42"],
        ),
        (
            "token = { file = \"t\" }\nrunner_type = \"shared\"\n",
            "",
            &[":5:", "runner_type", "`instance`", "`project`"],
        ),
        ("TOKENjobs_ahead = 0\n", "", &[":6:", "gitlab[0].jobs_ahead", "1 to 100"]),
        ("TOKENjob_wait = \"0s\"\n", "", &[":6:", "gitlab[0].job_wait", "default is 3600s"]),
        ("TOKENtrace_limit = \"0B\"\n", "", &[":6:", "gitlab[0].trace_limit", "above zero"]),
        ("TOKENbuilds_dir = \"work\"\n", "", &[":6:", "gitlab[0].builds_dir", "absolute"]),
        ("run_single = true\n", "", &[":4:", "gitlab[0].run_single", "token ="]),
        (
            "TOKENrun_single = true\nallow = { users = [\"ada\"] }\n",
            "",
            &[":6:", "gitlab[0].run_single", "remove deny and allow"],
        ),
        (
            "TOKENrun_single = true\nimages = [{ image = \"a\", profile = \"micro\" }]\n",
            "",
            &[":6:", "gitlab[0].run_single", "remove images"],
        ),
        (
            "TOKENrun_single = true\n",
            "deny = { users = [\"eve\"] }\n",
            &[":12:", "profile[0].deny", "remove deny"],
        ),
        (
            "TOKENrun_single = true\n",
            "runner_token = { file = \"t\" }\n",
            &[":12:", "profile[0].runner_token", "taken in the machine"],
        ),
        ("TOKENtags = [\"x\"]\n", "", &[":6:", "unknown field `tags`"]),
        ("TOKENallow = {}\n", "", &[":6:", "gitlab[0].allow", "projects_in_groups"]),
        (
            "TOKENdeny = { projects = [\"app\"] }\n",
            "",
            &[":6:", "gitlab[0].deny", "deny.projects \"app\"", "full path"],
        ),
        ("TOKENdeny = { groups = [\"a\"] }\n", "", &[":6:", "`groups`", "`projects_in_groups`"]),
        ("TOKEN", "allow = { users = [\"a/b\"] }\n", &[":11:", "profile[0].allow", "no '/'"]),
        ("TOKEN", "deny = { users = [] }\n", &[":11:", "profile[0].deny", "leave it out"]),
        (
            "TOKENimages = [{ image = \"a[b\", profile = \"micro\" }]\n",
            "",
            &[":6:", "gitlab[0].images[0]", "a[b"],
        ),
        (
            "TOKENimages = [{ image = \"rust\", profile = \"big\" }]\n",
            "",
            &[":6:", "gitlab[0].images[0].profile", "no profile big with forge = \"gl\""],
        ),
        ("TOKEN", "tags = []\n", &[":11:", "profile[0].tags", "run_untagged = true"]),
        ("TOKEN", "maximum_timeout = \"5m\"\n", &[":11:", "maximum_timeout", "10m at least"]),
        ("TOKEN", "gateway = true\n", &[":11:", "profile[0].gateway", "`allow`"]),
        (
            "TOKENallow = { users = [\"ada\"] }\n",
            "gateway = true\n",
            &[":12:", "profile[0].gateway", "exposed = false"],
        ),
        ("TOKEN", "sources = [\"poll\"]\n", &[":11:", "profile[0].sources", "[[github]]"]),
        (
            "TOKEN",
            "[[profile]]\nname = \"b\"\nmemory = \"1GiB\"\nimage = { kind = \"micro\" }\nexposed = true\n",
            &[":15:", "profile[1].exposed", "[[gitlab]]"],
        ),
        (
            "TOKEN[[gitlab]]\nname = \"gl\"\nurl = \"https://b\"\n",
            "",
            &[":7:", "gitlab[1].name", "already", "rename"],
        ),
        (
            "TOKEN[[github]]\nname = \"gl\"\nurl = \"https://github.com/b\"\ntoken = { file = \"t\" }\n",
            "",
            &[":2:", "gitlab[0].name", "already", "rename"],
        ),
    ];
    let refused = |text: &str, says: &[&str]| {
        let error = parse(text).err().unwrap_or_else(|| panic!("was taken:\n{text}"));
        for part in says {
            assert!(error.contains(part), "{part:?} is not in: {error}\nof:\n{text}");
        }
        assert!(!error.contains('\n'), "more than a line: {error}");
        assert!(!error.contains("planted-7c"), "a secret in the wrong place is told: {error}");
    };
    for (gitlab, more, says) in table {
        refused(&format!("{place}{}{profile}{more}", gitlab.replace("TOKEN", token)), says);
    }
    let url =
        |url: &str| format!("{}{token}{profile}", place.replace("https://gitlab.example.org", url));
    refused(&url("http://gitlab.example.org"), &[":3:", "gitlab[0].url", "allow_http"]);
    refused(&url("https://me:planted-7c@gitlab.example.org"), &[":3:", "nobody's account"]);
    refused(&url("gitlab.example.org"), &[":3:", "not an address", "https://"]);
    // A gateway that somebody may use is taken, and so is one that is not on offer.
    for more in
        ["gateway = true\nallow = { users = [\"ada\"] }\n", "gateway = true\nexposed = false\n"]
    {
        parse(&format!("{place}{token}{profile}{more}")).unwrap();
    }
}

#[test]
fn a_repository_of_its_own_needs_no_list() {
    let text = "[[github]]\nname = \"gh\"\nurl = \"https://github.com/acme/widgets\"\n\
        token = { file = \"t\" }\n[[profile]]\nname = \"micro\"\nmemory = \"1GiB\"\n\
        image = { kind = \"micro\", files = \"f.tar\", sha256 = \"SHA\" }\nforge = \"gh\"\n";
    let config = parse(&text.replace("SHA", &"A".repeat(64))).unwrap();
    let github = &config.githubs[0];
    assert_eq!(github.profiles[&config.profiles[0].name].sources, [GithubSource::Poll]);
    assert_eq!(github.login, GithubLogin::Token(SecretPlace::File("etc/t".into())));
    let RecipeKind::MicroWith { files, sha256 } = &config.profiles[0].recipe.kind else {
        panic!("not with files");
    };
    assert_eq!((files.as_path(), &**sha256), (Path::new("etc/f.tar"), &*"a".repeat(64)));
    let error = parse(&text.replace(", sha256 = \"SHA\"", "")).unwrap_err();
    assert!(error.contains("files and sha256 together"), "{error}");
}

#[test]
fn a_profile_that_can_never_fit_is_refused_with_the_arithmetic() {
    let config = Config::built_in();
    let small = Capacity { vcpus: 8, memory_mib: 128, ..Capacity::default() };
    let error = config.check_fit(&small).unwrap_err().to_string();
    let arithmetic = "memory: 256 MiB needed, 128 MiB of 128 MiB free";
    assert!(error.contains("profile micro") && error.contains(arithmetic), "{error}");
    let enough = Capacity { memory_mib: 256, ..small };
    config.check_fit(&enough).unwrap();
}

#[test]
fn looking_needs_a_token_where_other_hosts_look_unless_it_is_said() {
    let profile =
        "[[profile]]\nname = \"micro\"\nmemory = \"256MiB\"\nimage = { kind = \"micro\" }\n";
    let reads = |http: &str| parse(&format!("[http]\n{http}\n{profile}")).unwrap().http.reads();
    let remote = "listen = \"0.0.0.0:8000\"\nallow_remote = true\n";
    assert_eq!(reads(""), Reads::Open);
    assert_eq!(reads("listen = \"[::1]:8000\""), Reads::Open);
    assert_eq!(reads("reads = \"token\""), Reads::Token);
    assert_eq!(reads(remote), Reads::Token);
    assert_eq!(reads(&format!("{remote}reads = \"open\"")), Reads::Open);
}
