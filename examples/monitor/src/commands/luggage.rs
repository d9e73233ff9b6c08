//! What a job takes along from here: files and environment variables.

use std::{collections::BTreeMap, env, fs, os::unix::fs::PermissionsExt, path::Path};

use super::WrongUse;
use crate::client::Attachment;

/// The files that are named as `FILE` or `FILE=PATH`.
pub fn attachments(files: &[String]) -> anyhow::Result<Vec<Attachment>> {
    let files = files.iter().map(|text| attachment(text));
    Ok(files.collect::<Result<_, WrongUse>>()?)
}

fn attachment(text: &str) -> Result<Attachment, WrongUse> {
    let wrong = |problem: &str| WrongUse(format!("--file {text}: {problem}"));
    let (local, path) = match text.rsplit_once('=') {
        // A file that is there as it is written is meant as it is written.
        Some((local, path)) if !Path::new(text).exists() => (Path::new(local), path.to_owned()),
        _ => {
            let local = Path::new(text);
            let name = local.file_name().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| wrong("say what the job finds it as: FILE=PATH"))?;
            (local, name.to_owned())
        }
    };
    if path.chars().any(char::is_control) {
        return Err(wrong("its name holds control characters"));
    }
    let meta = fs::metadata(local).map_err(|error| wrong(&error.to_string()))?;
    if meta.is_dir() {
        return Err(wrong("it is a directory; pack it with tar"));
    }
    Ok(Attachment {
        path,
        executable: meta.permissions().mode() & 0o111 != 0,
        content: fs::read(local).map_err(|error| wrong(&error.to_string()))?,
    })
}

/// The variables that are named as `NAME=VALUE`, or as `NAME` for the value they have here.
pub fn environment(variables: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut environment = BTreeMap::new();
    for text in variables {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => match env::var(text) {
                Ok(value) => (text.as_str(), value),
                Err(_) => {
                    let problem = format!("--env {text}: it is not set here; write {text}=VALUE");
                    return Err(WrongUse(problem).into());
                }
            },
        };
        environment.insert(name.to_owned(), value);
    }
    Ok(environment)
}
