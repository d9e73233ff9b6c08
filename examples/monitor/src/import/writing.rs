//! Writes our configuration, section by section, and notes what became of each setting it uses.

use std::{
    fmt::Write,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use runner_core::Secret;
use toml::Value;

use super::{
    Fate, Imported, Note, Sources,
    settings::{Said, Setting, Settings},
    size,
};
use crate::token::Token;

/// Where its web server listens unless it is told otherwise.
const PORT: u16 = 8000;
/// What stands for "as much as there is": its settings count neither processors nor disk space.
const ALL_VCPUS: u32 = 4096;
const ALL_DISK: &str = "1024TiB";

/// The file of the API token.
pub const API_TOKEN: &str = "api-token";

/// The configuration as far as it is written.
pub struct Writing {
    text: String,
    notes: Vec<Note>,
    secrets: Vec<(&'static str, Secret<String>)>,
    /// Whether there is a GitHub for profiles to belong to.
    pub has_github: bool,
    /// The repositories whose jobs are asked for.
    pub repositories: Vec<String>,
    /// Where machines are served.
    pub guests: Option<SocketAddr>,
    /// The directory of profiles.
    pub profiles: Option<String>,
}

/// A text as TOML has it.
pub fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

fn list(texts: &[String]) -> String {
    Value::Array(texts.iter().map(|text| Value::String(text.clone())).collect()).to_string()
}

impl Writing {
    pub fn new(sources: &Sources<'_>) -> Self {
        let (settings, env) = (sources.settings.0.display(), sources.env.0.display());
        let made = format!("Made by `monitor import-servo` from {settings} and {env}.");
        let text = format!("# {}\n", made.replace(char::is_control, "\u{fffd}"));
        let profiles = sources.profiles.map(|path| path.display().to_string());
        Self {
            text,
            notes: Vec::new(),
            secrets: Vec::new(),
            has_github: false,
            repositories: Vec::new(),
            guests: None,
            profiles,
        }
    }

    /// Whether there is an API token among the secrets.
    pub fn has_api_token(&self) -> bool {
        self.secrets.iter().any(|(name, _)| *name == API_TOKEN)
    }

    pub fn section(&mut self, head: &str) {
        let _ = writeln!(self.text, "\n{head}");
    }

    /// Writes `key = value`; `value` is TOML already.
    pub fn key(&mut self, key: &str, value: &str) {
        let _ = writeln!(self.text, "{key} = {value}");
    }

    pub fn note(&mut self, setting: &Setting, fate: Fate) {
        let place = Some((setting.file.clone(), setting.line));
        self.notes.push(Note { place, key: setting.key(), fate });
    }

    /// Notes what is in neither file.
    pub fn by_hand(&mut self, key: &str, what: impl Into<String>) {
        let note = Note { place: None, key: key.to_owned(), fate: Fate::ByHand(what.into()) };
        self.notes.push(note);
    }

    /// The number of seconds that a setting says, as a duration of ours. Zero and whatever is none are noted.
    pub fn seconds(&mut self, setting: Option<Setting>, becomes: &str) -> Option<String> {
        let setting = setting?;
        match setting.number().filter(|seconds| (1..=u64::from(u32::MAX)).contains(seconds)) {
            Some(seconds) => {
                let value = format!("{seconds}s");
                self.note(&setting, Fate::Becomes(format!("{becomes} = \"{value}\"")));
                Some(value)
            }
            None => {
                let why = "it is no number of seconds above zero; the default holds".to_owned();
                self.note(&setting, Fate::LeftOut(why));
                None
            }
        }
    }

    /// The size that a setting says, in MiB.
    pub fn mib(&mut self, setting: &Setting) -> Option<u64> {
        let read = setting.text().ok_or("it is no size in quotes").and_then(size::mib);
        read.map_err(|why| self.note(setting, Fate::LeftOut(why.to_owned()))).ok()
    }

    pub fn http(&mut self, settings: &mut Settings) {
        self.section("[http]");
        let listen = settings.take(&["listen_on"]);
        let listen = listen.and_then(|setting| self.listen(&setting));
        let listen = listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], PORT)));
        self.key("listen", &quoted(&listen.to_string()));
        if !listen.ip().is_loopback() {
            self.key("allow_remote", "true");
        }
        if let Some((file, line, secret)) = settings.secret("SERVO_CI_MONITOR_API_TOKEN") {
            let fate = match Token::new(secret.expose()) {
                Ok(_) => {
                    self.key("token_file", &quoted(API_TOKEN));
                    self.secrets.push((API_TOKEN, secret));
                    Fate::Becomes(
                        "http.token_file = \"api-token\", which only you may read".to_owned(),
                    )
                }
                // It says what is wrong and never what was there.
                Err(error) => Fate::LeftOut(format!("{error}; one is made at the first start")),
            };
            let key = "SERVO_CI_MONITOR_API_TOKEN".to_owned();
            self.notes.push(Note { place: Some((file, line)), key, fate });
        }
    }

    /// One of the addresses: one that only this host reaches, if there is one.
    fn listen(&mut self, setting: &Setting) -> Option<SocketAddr> {
        let texts = match &setting.said {
            Said::Texts(texts) => texts.clone(),
            Said::Text(text) => vec![text.clone()],
            _ => Vec::new(),
        };
        let address = |text: &String| {
            let ip = text.trim_matches(['[', ']']).parse::<IpAddr>();
            ip.map(|ip| SocketAddr::new(ip, PORT)).or_else(|_| text.parse()).ok()
        };
        let all: Vec<SocketAddr> = texts.iter().filter_map(address).collect();
        let local = all.iter().find(|address| address.ip().is_loopback());
        let chosen = local.or(all.first()).copied();
        let others = all.iter().filter(|other| Some(**other) != chosen);
        let others: Vec<String> = others.map(ToString::to_string).collect();
        match chosen {
            None => {
                let why = "it names no address; the default holds";
                self.note(setting, Fate::LeftOut(why.to_owned()));
            }
            Some(chosen) if others.is_empty() && all.len() == texts.len() => {
                self.note(setting, Fate::Becomes(format!("http.listen = \"{chosen}\"")));
            }
            Some(chosen) => {
                let elsewhere = all.iter().find(|other| **other != chosen).copied();
                self.guests = elsewhere.filter(|_| others.len() == 1 && all.len() == texts.len());
                if let Some(guests) = self.guests {
                    let what =
                        format!("http.listen = \"{chosen}\", and guests.listen = \"{guests}\"");
                    self.note(setting, Fate::Becomes(what));
                    return Some(chosen);
                }
                let others =
                    if others.is_empty() { "the rest".to_owned() } else { others.join(", ") };
                let what = format!(
                    "http.listen = \"{chosen}\" is taken; the API has one address, so put a proxy in front of \
                     it, or a [guests] section for what machines ask, for {others}"
                );
                self.note(setting, Fate::ByHand(what));
            }
        }
        chosen
    }

    pub fn libvirt(&mut self, settings: &mut Settings) {
        self.section("[libvirt]");
        if let Some(setting) = settings.take(&["LIBVIRT_DEFAULT_URI"]) {
            let uri = setting.text().unwrap_or_default().to_owned();
            self.key("uri", &quoted(&uri));
            self.note(&setting, Fate::Becomes("libvirt.uri".to_owned()));
        }
        let pages = settings.take(&["available_1g_hugepages"]);
        let memory = settings.take(&["available_normal_memory"]);
        let room = memory.as_ref().and_then(|setting| self.mib(setting));
        let huge = pages.as_ref().and_then(|setting| {
            let pages = setting.number().and_then(|pages| u32::try_from(pages).ok());
            if pages.is_none() {
                self.note(setting, Fate::LeftOut("it is no number of huge pages".to_owned()));
            }
            pages
        });
        match (room, huge) {
            (Some(mib), _) => {
                self.key("vcpus", &ALL_VCPUS.to_string());
                self.key("memory", &format!("\"{mib}MiB\""));
                self.key("huge_pages", &huge.unwrap_or(0).to_string());
                self.key("disk", &quoted(ALL_DISK));
                if let Some(memory) = &memory {
                    let text = memory.text().unwrap_or_default();
                    let was = format!("libvirt.memory = \"{mib}MiB\", which is what {text} says");
                    self.note(memory, Fate::Becomes(was));
                }
                let what = format!(
                    "lower {ALL_VCPUS} and {ALL_DISK} to what the host has: Servo's settings count neither"
                );
                self.by_hand("libvirt.vcpus and libvirt.disk", what);
            }
            (None, Some(_)) => self.by_hand(
                "libvirt.memory",
                "say what all machines may take together, huge_pages included; without, it is what the host has",
            ),
            (None, None) => (),
        }
        if let (Some(setting), Some(huge)) = (&pages, huge) {
            let fate = match room {
                Some(_) => Fate::Becomes(format!("libvirt.huge_pages = {huge}")),
                None => Fate::LeftOut(
                    "without available_normal_memory, all of the host's count".to_owned(),
                ),
            };
            self.note(setting, fate);
        }
        if let Some(profiles) = self.profiles.clone() {
            self.key("profiles", &quoted(&profiles));
        } else {
            let what = "name the directory that has guest.xml and the like of each profile";
            self.by_hand("libvirt.profiles", what);
        }
    }

    pub fn github(&mut self, settings: &mut Settings, repositories: &[String]) {
        let token = settings.secret("GITHUB_TOKEN");
        let every = settings.take(&["api_cache_timeout"]);
        let scope = settings.take(&["github_api_scope"]);
        let prefix = settings.take(&["allowed_qualified_repo_prefix"]);
        let Some((scope, url)) = scope.and_then(|scope| self.github_url(scope)) else {
            for setting in every.iter().chain(&prefix) {
                self.note(setting, Fate::LeftOut("there is no github_api_scope".to_owned()));
            }
            self.by_hand("[[github]]", "without a scope, profiles take jobs of the local queue");
            return;
        };
        self.has_github = true;
        self.section("[[github]]");
        self.key("name", "\"github\"");
        self.key("url", &quoted(&url));
        self.note(&scope, Fate::Becomes(format!("github.url = \"{url}\"")));
        self.key("token", "{ file = \"github-token\" }");
        match token {
            Some((file, line, secret)) if !secret.expose().trim().is_empty() => {
                self.secrets.push(("github-token", secret));
                let fate =
                    Fate::Becomes("the file github-token, which only you may read".to_owned());
                let key = "GITHUB_TOKEN".to_owned();
                self.notes.push(Note { place: Some((file, line)), key, fate });
            }
            _ => self.by_hand("github-token", "put a token for GitHub into this file, mode 0600"),
        }
        if let Some(every) = self.seconds(every, "github.list_every") {
            self.key("list_every", &quoted(&every));
        }
        let asked = self.repositories(prefix, repositories);
        // A repository's own runners are asked for there anyway.
        self.repositories.clone_from(&asked);
        if !asked.is_empty() {
            self.key("repositories", &list(&asked));
        } else if url.trim_start_matches("https://").matches('/').count() < 2 {
            self.key("webhook", "[{ file = \"github-webhook\" }]");
            let secret: String =
                rand::random::<[u8; 32]>().iter().map(|b| format!("{b:02x}")).collect();
            self.secrets.push(("github-webhook", Secret::new(secret)));
            self.by_hand(
                "github-webhook",
                "make a webhook at GitHub with the secret in this file, or name the repositories that are asked \
                 for queued jobs: --repository OWNER/NAME",
            );
        }
    }

    /// The repositories whose jobs are asked for, and whose workflows may reserve.
    fn repositories(&mut self, prefix: Option<Setting>, more: &[String]) -> Vec<String> {
        let mut asked = more.to_vec();
        let Some(setting) = prefix else { return asked };
        let text = setting.text().unwrap_or_default();
        match text.split_once('/') {
            Some((owner, name)) if is_plain(owner) && is_plain(name) => {
                if !asked.iter().any(|known| known.eq_ignore_ascii_case(text)) {
                    asked.insert(0, text.to_owned());
                }
                let what = format!(
                    "\"{text}\" in github.repositories and servo.repositories, in full and as no prefix"
                );
                self.note(&setting, Fate::Becomes(what));
            }
            _ => {
                let what = "name each repository that may reserve: --repository OWNER/NAME; a prefix would let \
                            in whoever is called alike";
                self.note(&setting, Fate::ByHand(what.to_owned()));
            }
        }
        asked
    }

    fn github_url(&mut self, scope: Setting) -> Option<(Setting, String)> {
        let text = scope.text().unwrap_or_default();
        let parts: Vec<&str> = text.trim_matches('/').split('/').collect();
        let url = match parts[..] {
            ["repos", owner, repository] => format!("https://github.com/{owner}/{repository}"),
            ["orgs", owner] => format!("https://github.com/{owner}"),
            ["enterprises", name] => format!("https://github.com/enterprises/{name}"),
            _ => {
                let why = "it is none of /repos/OWNER/NAME, /orgs/NAME and /enterprises/NAME";
                self.note(&scope, Fate::LeftOut(why.to_owned()));
                return None;
            }
        };
        Some((scope, url))
    }

    pub fn pace(&mut self, settings: &mut Settings) {
        let every = settings.take(&["monitor_poll_interval"]);
        if let Some(every) = self.seconds(every, "pace.look_every") {
            self.section("[pace]");
            self.key("look_every", &quoted(&every));
        }
    }

    pub fn finish(mut self) -> Imported {
        self.notes.sort_by(|a, b| {
            let of_file = |note: &Note| (note.place.is_none(), note.place.clone());
            of_file(a).cmp(&of_file(b))
        });
        Imported { config: self.text, secrets: self.secrets, notes: self.notes }
    }
}

/// Whether it is one part of a repository's name.
fn is_plain(part: &str) -> bool {
    let of_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !part.is_empty() && part.bytes().all(of_name)
}

/// The host of an address.
pub fn host_of(url: &str) -> Option<String> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let authority = rest.split('/').next()?;
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next()?,
        None => authority.split(':').next()?,
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':');
    (!host.is_empty() && host.bytes().all(plain)).then(|| host.to_ascii_lowercase())
}

/// The number of processors that a domain's document asks for.
pub fn vcpus_of(guest: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(guest).ok()?;
    let (_, rest) = text.split_once("<vcpu")?;
    let (_, rest) = rest.split_once('>')?;
    let (number, _) = rest.split_once('<')?;
    number.trim().parse().ok().filter(|number| *number > 0)
}
