//! Servo's profiles as ours.

use runner_core::{Label, ProfileName};

use super::{
    Fate, Sources,
    settings::{Setting, Settings},
    writing::{Writing, quoted, vcpus_of},
};

/// How many of a profile's newest images Servo's monitor keeps.
const IMAGES_KEPT: u32 = 3;
/// Where the image of a profile is looked for that nobody named, with a hash that nothing has.
const IMAGES: &str = "/var/lib/libvirt/images";
const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What one profile takes.
struct Memory {
    mib: u64,
    huge_pages: bool,
}

/// Writes every profile.
pub fn write(out: &mut Writing, settings: &mut Settings, sources: &Sources<'_>) {
    let start = settings.take(&["monitor_start_timeout"]);
    let start = out.seconds(start, "start_timeout of every profile");
    let age = settings.take(&["base_image_max_age"]);
    let age = out.seconds(age, "image_max_age of every profile");
    for key in settings.profiles() {
        if let Err(error) = ProfileName::new(&key) {
            let what = format!("{error}; rename it there, and import it again");
            out.by_hand(&format!("profiles.{key}"), what);
            continue;
        }
        profile(out, settings, sources, &key);
        for (ours, value) in [("start_timeout", &start), ("image_max_age", &age)] {
            if let Some(value) = value {
                out.key(ours, &quoted(value));
            }
        }
        out.key("images_kept", &IMAGES_KEPT.to_string());
    }
}

fn profile(out: &mut Writing, settings: &mut Settings, sources: &Sources<'_>, key: &str) {
    let mut take = |name: &str| settings.take(&["profiles", key, name]);
    out.section("[[profile]]");
    out.key("name", &quoted(key));
    if out.has_github {
        out.key("forge", "\"github\"");
    }
    if let Some(setting) = take("profile_name") {
        let fate = match setting.text() == Some(key) {
            true => Fate::Becomes("its name".to_owned()),
            false => Fate::LeftOut(format!("its name is its key, {key}")),
        };
        out.note(&setting, fate);
    }
    if let Some(setting) = take("github_runner_label") {
        match Label::new(setting.text().unwrap_or_default()) {
            Ok(label) => {
                out.key("labels", &format!("[{}]", quoted(label.as_str())));
                out.note(&setting, Fate::Becomes(format!("labels = [\"{label}\"]")));
            }
            Err(error) => out.note(&setting, Fate::LeftOut(error.to_string())),
        }
    }
    image(out, sources, key);
    if let Some(setting) = take("image_type") {
        let fate = match setting.text() {
            Some("Rust") => Fate::LeftOut("every image is an image of its own".to_owned()),
            _ => Fate::LeftOut("only \"Rust\" is known".to_owned()),
        };
        out.note(&setting, fate);
    }
    let files = sources.profiles.map(|profiles| profiles.join(key));
    match files.and_then(|files| vcpus_of(&files.join("guest.xml"))) {
        Some(vcpus) => out.key("vcpus", &vcpus.to_string()),
        None => out.by_hand(&format!("vcpus of profile {key}"), "say how many; it is 1 without"),
    }
    let memory = memory(out, take("requires_1g_hugepages"), take("requires_normal_memory"), key);
    out.key("memory", &format!("\"{}MiB\"", memory.mib));
    if memory.huge_pages {
        out.key("huge_pages", "true");
    }
    counts(out, take("target_count"), key);
}

fn image(out: &mut Writing, sources: &Sources<'_>, key: &str) {
    let files = sources.profiles.map(|profiles| profiles.join(key));
    let has_user_data = files.is_some_and(|files| files.join("user-data").exists());
    let user_data = if has_user_data { "nocloud" } else { "none" };
    let image = |path: &str, sha256: &str| {
        let path = quoted(path);
        format!(
            "{{ kind = \"disk\", path = {path}, sha256 = \"{sha256}\", user_data = \"{user_data}\" }}"
        )
    };
    match sources.images.get(key) {
        Some((path, sha256)) => out.key("image", &image(&path.display().to_string(), sha256)),
        None => {
            out.key("image", &image(&format!("{IMAGES}/{key}.qcow2"), NO_HASH));
            let what = "name its image, which Servo's monitor built itself: --image KEY=FILE, or path and \
                        sha256 in what was written; until then no image is built";
            out.by_hand(&format!("image of profile {key}"), what);
        }
    }
}

fn memory(out: &mut Writing, huge: Option<Setting>, normal: Option<Setting>, key: &str) -> Memory {
    let pages = huge.as_ref().and_then(|setting| {
        let pages = setting.number().filter(|pages| *pages <= u64::from(u32::MAX));
        if pages.is_none() {
            out.note(setting, Fate::LeftOut("it is no number of huge pages".to_owned()));
        }
        pages
    });
    let mib = normal.as_ref().and_then(|setting| out.mib(setting));
    if let (Some(setting), Some(pages)) = (&huge, pages) {
        let fate = match pages {
            0 => Fate::LeftOut("its memory is ordinary".to_owned()),
            _ => Fate::Becomes(format!("memory = \"{}MiB\" of huge pages", pages * 1024)),
        };
        out.note(setting, fate);
    }
    if let Some(pages) = pages.filter(|pages| *pages > 0) {
        if let (Some(setting), Some(_)) = (&normal, mib) {
            let why = "a machine's memory is of one kind; what its emulator takes beside it is not counted";
            out.note(setting, Fate::LeftOut(why.to_owned()));
        }
        return Memory { mib: pages * 1024, huge_pages: true };
    }
    match (&normal, mib) {
        (Some(setting), Some(mib)) if mib > 0 => {
            let text = setting.text().unwrap_or_default();
            let was = format!("memory = \"{mib}MiB\", which is what {text} says");
            out.note(setting, Fate::Becomes(was));
            Memory { mib, huge_pages: false }
        }
        _ => {
            out.by_hand(&format!("memory of profile {key}"), "say how much; 1GiB stands there");
            Memory { mib: 1024, huge_pages: false }
        }
    }
}

/// Its count is of all workers, busy ones included: so many are kept ready, and no more are made.
fn counts(out: &mut Writing, count: Option<Setting>, key: &str) {
    let said = count
        .as_ref()
        .map(|setting| (setting, setting.number().and_then(|count| u32::try_from(count).ok())));
    let (min_idle, max) = match said {
        Some((setting, Some(0))) => {
            let what = format!(
                "none is kept ready, and one is made for a job or an override that asks for it; `monitor \
                 profiles set {key} --pause` makes none at all"
            );
            out.note(setting, Fate::ByHand(what));
            (0, 1)
        }
        Some((setting, Some(count))) => {
            out.note(setting, Fate::Becomes(format!("min_idle = {count} and max = {count}")));
            (count, count)
        }
        Some((setting, None)) => {
            out.note(
                setting,
                Fate::LeftOut("it is no number of workers; none is kept ready".to_owned()),
            );
            (0, 1)
        }
        None => (0, 1),
    };
    out.key("min_idle", &min_idle.to_string());
    out.key("max", &max.to_string());
}
