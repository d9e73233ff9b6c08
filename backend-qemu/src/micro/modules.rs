//! The kernel modules that the guest needs, and the files by which `modprobe` finds them.
//!
//! A package holds no `modules.dep`: that is made where it is installed. Each module names what it needs
//! in its own `.modinfo`, so the order is worked out from there.

use std::collections::{BTreeMap, BTreeSet};

use goblin::elf::Elf;
use runner_core::{Error, Result};

use super::archive::{Archive, missing};
use crate::images::BACKEND;

/// Without these there is no guest, or not the one that is promised.
const REQUIRED: &[&str] = &[
    "isofs",
    "overlay",
    "qemu_fw_cfg",
    "virtio_blk",
    "virtio_console",
    "virtio_net",
    "virtio_pci",
    "virtio_rng",
];

/// These are welcome: a kernel may have them built in or not at all.
const OPTIONAL: &[&str] = &[
    "button",
    "evdev",
    "nls_ascii",
    "nls_cp437",
    "nls_utf8",
    "pvpanic_mmio",
    "pvpanic_pci",
    "vfat",
];

/// What the guest needs, with everything that it depends on.
#[derive(Debug)]
pub(super) struct Modules<'a> {
    /// By path below the directory of the kernel's modules.
    pub(super) files: BTreeMap<&'a str, &'a [u8]>,
    /// The content of `modules.dep`.
    pub(super) dep: String,
    /// The content of `modules.alias`.
    pub(super) alias: String,
    /// The content of `modules.builtin`.
    pub(super) builtin: &'a [u8],
}

#[derive(Debug)]
struct Module<'a> {
    path: &'a str,
    content: &'a [u8],
    needs: Vec<String>,
    aliases: Vec<&'a str>,
}

/// The modules of the kernel `version`.
///
/// # Errors
/// `Backend` when one is missing or cannot be read.
pub(super) fn select<'a>(archive: &'a Archive, version: &str) -> Result<Modules<'a>> {
    let directories = ["lib/modules", "usr/lib/modules"].map(|root| format!("{root}/{version}/"));
    let below = |path: &'a str| {
        directories.iter().find_map(|directory| path.strip_prefix(directory.as_str()))
    };
    let mut shipped = BTreeMap::new();
    let mut builtin = None;
    for (path, content) in archive.files() {
        let Some(path) = below(path) else { continue };
        if path == "modules.builtin" {
            builtin = Some(content);
        }
        let file = path.rsplit('/').next().unwrap_or(path);
        if let Some((name, extension)) = file.split_once(".ko") {
            shipped.insert(name.replace('-', "_"), (path, content, extension));
        }
    }
    let builtin = builtin.ok_or_else(|| missing("modules.builtin"))?;
    let built_in: BTreeSet<String> = String::from_utf8_lossy(builtin)
        .lines()
        .filter_map(|line| line.rsplit('/').next()?.strip_suffix(".ko"))
        .map(|name| name.replace('-', "_"))
        .collect();

    let mut chosen: BTreeMap<String, Module<'a>> = BTreeMap::new();
    let mut open: Vec<String> = OPTIONAL
        .iter()
        .filter(|name| shipped.contains_key(**name))
        .chain(REQUIRED)
        .map(|name| (*name).to_owned())
        .collect();
    while let Some(name) = open.pop() {
        if chosen.contains_key(&name) || built_in.contains(&name) {
            continue;
        }
        let (path, content, extension) =
            shipped.get(&name).ok_or_else(|| missing(&format!("kernel module {name}")))?;
        let module = module(path, content, extension)?;
        open.extend(module.needs.iter().cloned());
        chosen.insert(name, module);
    }
    Ok(Modules {
        dep: dep(&chosen),
        alias: alias(&chosen),
        builtin,
        files: chosen.into_values().map(|m| (m.path, m.content)).collect(),
    })
}

fn module<'a>(path: &'a str, content: &'a [u8], extension: &str) -> Result<Module<'a>> {
    let failed = |reason: String| Error::backend(BACKEND, format!("read module {path}"), reason);
    if !extension.is_empty() {
        return Err(failed(format!("it is compressed as {extension}")));
    }
    let elf = Elf::parse(content).map_err(|error| failed(error.to_string()))?;
    let info = elf
        .section_headers
        .iter()
        .find(|section| elf.shdr_strtab.get_at(section.sh_name) == Some(".modinfo"))
        .and_then(|section| content.get(section.file_range()?))
        .ok_or_else(|| failed("it has no .modinfo".to_owned()))?;
    let fields = || {
        info.split(|byte| *byte == 0)
            .filter_map(|field| std::str::from_utf8(field).ok()?.split_once('='))
    };
    Ok(Module {
        path,
        content,
        needs: fields()
            .filter(|(key, _)| *key == "depends")
            .flat_map(|(_, names)| names.split(','))
            .filter(|name| !name.is_empty())
            .map(|name| name.replace('-', "_"))
            .collect(),
        aliases: fields().filter(|(key, _)| *key == "alias").map(|(_, alias)| alias).collect(),
    })
}

/// A line for each module, with all that it needs, what is needed most coming last.
fn dep(modules: &BTreeMap<String, Module<'_>>) -> String {
    let mut text = String::new();
    for (name, module) in modules {
        let mut order = Vec::new();
        visit(name, modules, &mut order);
        // The module itself is last, and has the line.
        order.pop();
        let needs: String =
            order.iter().rev().map(|name| format!(" {}", modules[*name].path)).collect();
        text += &format!("{}:{needs}\n", module.path);
    }
    text
}

fn visit<'a>(name: &'a str, modules: &'a BTreeMap<String, Module<'_>>, order: &mut Vec<&'a str>) {
    // What is not there is built in. The kernel's build refuses circles.
    if let Some(module) = modules.get(name)
        && !order.contains(&name)
    {
        for need in &module.needs {
            visit(need, modules, order);
        }
        order.push(name);
    }
}

fn alias(modules: &BTreeMap<String, Module<'_>>) -> String {
    modules
        .iter()
        .flat_map(|(name, module)| module.aliases.iter().map(move |alias| (alias, name)))
        .map(|(alias, name)| format!("alias {alias} {name}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_most_comes_last() {
        let module = |path, needs: &[&str]| Module {
            path,
            content: &[],
            needs: needs.iter().map(|need| (*need).to_owned()).collect(),
            aliases: vec!["x"],
        };
        let modules = BTreeMap::from([
            ("net".to_owned(), module("net.ko", &["failover", "virtio"])),
            ("failover".to_owned(), module("failover.ko", &["virtio"])),
            ("virtio".to_owned(), module("virtio.ko", &["builtin"])),
        ]);
        assert_eq!(
            dep(&modules),
            "failover.ko: virtio.ko\nnet.ko: failover.ko virtio.ko\nvirtio.ko:\n"
        );
        assert!(alias(&modules).starts_with("alias x failover\n"));
    }
}
