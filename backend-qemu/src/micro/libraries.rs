//! The shared libraries that programs need, found as the dynamic loader will find them.

use std::collections::BTreeMap;

use goblin::elf::Elf;
use runner_core::{Error, Result};

use super::archive::{Archive, missing};
use crate::images::BACKEND;

/// Where the loader looks, in its order, with the distribution's directories first.
const DIRECTORIES: [&str; 6] =
    ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib64", "lib64", "usr/lib", "lib"];

/// Every library that `programs` need, directly or not, by path in the guest; and their loaders.
///
/// # Errors
/// `Backend` naming the library that no package holds, and who needs it.
pub(super) fn closure<'a>(
    archive: &'a Archive,
    programs: &[(String, &'a [u8])],
) -> Result<BTreeMap<String, &'a [u8]>> {
    let mut found: BTreeMap<String, &'a [u8]> = BTreeMap::new();
    let mut loader = None;
    let mut open: Vec<(String, &'a [u8])> = programs.to_vec();
    while let Some((path, content)) = open.pop() {
        let elf = Elf::parse(content)
            .map_err(|error| Error::backend(BACKEND, format!("read program {path}"), error))?;
        if let Some(interpreter) = elf.interpreter {
            let content = archive.file(interpreter).ok_or_else(|| missing(interpreter))?;
            found.insert(interpreter.trim_start_matches('/').to_owned(), content);
            loader = interpreter.rsplit('/').next();
        }
        for name in elf.libraries {
            // The loader is a library too, and it is in memory before any other.
            if Some(name) == loader || found.keys().any(|path| path.ends_with(&format!("/{name}")))
            {
                continue;
            }
            let library = DIRECTORIES
                .iter()
                .find_map(|directory| archive.file(&format!("{directory}/{name}")))
                .ok_or_else(|| missing(&format!("{name}, which {path} needs,")))?;
            let path = format!("{}/{name}", DIRECTORIES[0]);
            found.insert(path.clone(), library);
            open.push((path, library));
        }
    }
    Ok(found)
}
