//! What Servo's monitor answers to workflows and machines, as our sections `[guests]` and `[servo]`.

use std::path::Path;

use super::{
    Fate,
    settings::{Said, Setting, Settings},
    writing::{API_TOKEN, Writing, host_of, quoted},
};

impl Writing {
    /// Where machines ask for what they are handed.
    pub fn guests(&mut self) {
        let Some(listen) = self.guests else { return };
        self.section("[guests]");
        self.key("listen", &quoted(&listen.to_string()));
        let profiles = self.profiles.clone();
        if let Some(profiles) = profiles.filter(|profiles| has_boot_scripts(Path::new(profiles))) {
            self.key("boot_scripts", &quoted(&profiles));
        }
    }

    /// The paths of Servo's monitor.
    pub fn servo(&mut self, settings: &mut Settings) {
        self.section("[servo]");
        let base_url =
            settings.take(&["external_base_url"]).and_then(|setting| self.base_url(&setting));
        let age = settings.take(&["tokenless_select_artifact_max_age"]);
        if let Some(age) = self.seconds(age, "servo.artifact_max_age") {
            self.key("artifact_max_age", &quoted(&age));
        }
        let timeout = settings.take(&["monitor_reserve_timeout"]);
        if let Some(timeout) = self.seconds(timeout, "servo.reserve_timeout") {
            self.key("reserve_timeout", &quoted(&timeout));
        }
        if let Some(setting) = settings.take(&["IMAGE_DEPS_DIR"]) {
            self.key("image_deps", &quoted(setting.text().unwrap_or_default()));
            self.note(&setting, Fate::Becomes("servo.image_deps".to_owned()));
        }
        let repositories = self.repositories.clone();
        if !repositories.is_empty() {
            let all: Vec<String> =
                repositories.iter().map(|name| format!("{{ name = {} }}", quoted(name))).collect();
            self.key("repositories", &format!("[{}]", all.join(", ")));
            let what = "runs for forks' commits, which Servo's monitor lets in, are refused unless you add forks = \
                        true; and a repository has 8 workers reserved at a time, unless you add most";
            self.by_hand("servo.repositories", what);
        }
        if let Some(setting) = settings.take(&["queue", "servers"]) {
            self.servers(&setting, base_url.as_deref());
        }
    }

    fn base_url(&mut self, setting: &Setting) -> Option<String> {
        let url = setting.text().filter(|url| {
            let plain = |b: u8| b.is_ascii_graphic() && !b"\"'\\<>`?#@".contains(&b);
            host_of(url).is_some() && url.bytes().all(plain)
        });
        let Some(url) = url else {
            let why = "it is no address such as https://ci.example.org/";
            self.note(setting, Fate::LeftOut(why.to_owned()));
            return None;
        };
        let url = url.trim_end_matches('/');
        self.key("external_base_url", &quoted(url));
        let what =
            format!("servo.external_base_url = \"{url}\", whose host is a name of this service");
        self.note(setting, Fate::Becomes(what));
        Some(url.to_owned())
    }

    /// The other monitors. All of Servo's have one token.
    fn servers(&mut self, setting: &Setting, own: Option<&str>) {
        let Said::Texts(all) = &setting.said else {
            let why = "it is no list of addresses".to_owned();
            return self.note(setting, Fate::LeftOut(why));
        };
        let same = |url: &str| Some(url.trim_end_matches('/')) == own;
        let (usable, others): (Vec<&String>, Vec<&String>) = all
            .iter()
            .filter(|url| !same(url))
            .partition(|url| url.starts_with("https://") && host_of(url).is_some());
        if !others.is_empty() || !self.has_api_token() {
            let what = "name the others in servo.queue.servers, each with its address, https://, and the file \
                        of a token whose role there is operate";
            return self.note(setting, Fate::ByHand(what.to_owned()));
        }
        if usable.is_empty() {
            let why = "it names no other monitor".to_owned();
            return self.note(setting, Fate::LeftOut(why));
        }
        let servers: Vec<String> = usable
            .iter()
            .map(|url| {
                format!("{{ url = {}, token = {{ file = {} }} }}", quoted(url), quoted(API_TOKEN))
            })
            .collect();
        self.key("queue.servers", &format!("[{}]", servers.join(", ")));
        let what = "servo.queue.servers, the others with the token that all of them have; each must run this \
                    service, too"
            .to_owned();
        self.note(setting, Fate::Becomes(what));
    }
}

/// Whether a profile of the directory has one.
fn has_boot_scripts(profiles: &Path) -> bool {
    let profiles = std::fs::read_dir(profiles).into_iter().flatten().flatten();
    profiles.into_iter().any(|profile| profile.path().join("boot-script").is_file())
}
