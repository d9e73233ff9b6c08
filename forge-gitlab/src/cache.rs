//! Caches: what jobs of a project leave for the next ones, kept on this host.
//!
//! A cache belongs to one project and one key; GitLab sees to it that keys of protected branches differ from
//! others. The oldest go when there is no room.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use runner_core::Result;

use crate::{
    archive,
    error::failed,
    files,
    job::LiveJob,
    luggage::{Luggage, blocking},
    patterns::Patterns,
    payload::Cache,
    variables::Variables,
};

/// What became of one cache, for the trace.
pub(crate) type Note = String;

/// Unpacks a cache, or the first of its fallbacks that there is.
pub(crate) async fn restore(
    root: &Path,
    job: &LiveJob,
    cache: &Cache,
    variables: &Variables,
    luggage: &Luggage<'_>,
) -> Result<Note> {
    if policy(cache, variables) == "push" {
        return Ok("Not downloading the cache, as its policy says".to_owned());
    }
    for key in std::iter::once(&cache.key).chain(&cache.fallback_keys) {
        let key = variables.expand(key);
        let Some(path) = path(root, job, &key).filter(|path| path.exists()) else { continue };
        luggage.unpack(&path).await?;
        touch(&path);
        return Ok(format!("Successfully extracted cache {key}"));
    }
    Ok(format!("No cache {}", variables.expand(&cache.key)))
}

/// Packs a cache in place of the one that there is.
pub(crate) async fn store(
    root: &Path,
    job: &LiveJob,
    cache: &Cache,
    variables: &Variables,
    luggage: &Luggage<'_>,
    limit: u64,
) -> Result<Vec<Note>> {
    if policy(cache, variables) == "pull" {
        return Ok(vec!["Not uploading the cache, as its policy says".to_owned()]);
    }
    let key = variables.expand(&cache.key);
    let Some(path) = path(root, job, &key) else {
        return Ok(vec!["WARNING: a cache without a key is not kept".to_owned()]);
    };
    let paths: Vec<String> = cache.paths.iter().map(|path| variables.expand(path)).collect();
    let patterns = Patterns::new(luggage.dir, &paths, &[]);
    let new = job.dir().join(format!("{}.tar", luggage.process));
    let packed = luggage.pack(&patterns, cache.untracked, limit, &new).await?;
    let mut notes = packed.notes;
    if packed.files > 0 {
        if let Some(parent) = path.parent() {
            files::make_dir(parent)?;
        }
        let (from, whole) = (new.clone(), new.with_extension("whole"));
        let to = whole.clone();
        blocking("join a cache", move || archive::tar_to_tar(&from, &to)).await?;
        files::remove(&new)?;
        let kept = fs::rename(&whole, &path);
        kept.map_err(|error| failed("keep a cache", error))?;
        make_room(root, limit)?;
        notes.push(format!("Created cache {key}: {} files", packed.files));
    }
    Ok(notes)
}

fn policy(cache: &Cache, variables: &Variables) -> String {
    variables.expand(cache.policy.as_deref().unwrap_or("pull-push"))
}

/// None for a key that is empty.
fn path(root: &Path, job: &LiveJob, key: &str) -> Option<PathBuf> {
    let project = job.payload.job_info.project_id;
    if key.is_empty() || project == 0 {
        return None;
    }
    // Any text may be a key, and not any text a file's name.
    let name: String = key
        .bytes()
        .map(|byte| match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'_' => char::from(byte).to_string(),
            byte => format!("%{byte:02x}"),
        })
        .collect();
    let name = if name.len() > 200 {
        format!("{}%%{:08x}", &name[..180], crc32fast::hash(key.as_bytes()))
    } else {
        name
    };
    Some(root.join(project.to_string()).join(name))
}

/// It is needed still.
fn touch(path: &Path) {
    if let Ok(file) = fs::File::open(path) {
        let _ = file.set_modified(SystemTime::now());
    }
}

/// Removes those that were not used for longest, until the others are within `limit` bytes.
fn make_room(root: &Path, limit: u64) -> Result<()> {
    let mut all = Vec::new();
    for project in files::names(root)? {
        for key in files::names(&root.join(&project))? {
            let path = root.join(&project).join(key);
            if let Ok(metadata) = fs::metadata(&path) {
                let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                all.push((used, metadata.len(), path));
            }
        }
    }
    all.sort();
    let mut total: u64 = all.iter().map(|(_, size, _)| size).sum();
    for (_, size, path) in all {
        if total <= limit {
            break;
        }
        files::remove(&path)?;
        total -= size;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_oldest_caches_make_room() {
        let root = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        for (name, age) in [("1/old", 300), ("1/new", 100), ("2/middle", 200)] {
            let path = root.path().join(name);
            files::make_dir(path.parent().unwrap()).unwrap();
            files::write(&path, &[0; 10]).unwrap();
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(now - Duration::from_secs(age)).unwrap();
        }
        make_room(root.path(), 20).unwrap();
        let there = |name: &str| root.path().join(name).exists();
        assert!(!there("1/old") && there("1/new") && there("2/middle"));
    }
}
