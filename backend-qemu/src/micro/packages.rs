//! Which packages, in which version, and their download.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use runner_core::{Error, Result};

use crate::images::{BACKEND, Work, bytes, check_room, disk_failed, sha256_file};

/// A package as the distribution describes it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) sha256: String,
    pub(super) size: u64,
    section: String,
    /// Each is a choice, of which any one will do.
    depends: Vec<Vec<String>>,
}

impl Package {
    /// The name of its file in the cache.
    pub(super) fn file_name(&self) -> String {
        format!("{}_{}.deb", self.name, self.version.replace(':', "%3a"))
    }
}

/// How to call apt: with the host's package lists, but a cache of our own, so that it needs no root and
/// is fast also where the host keeps none.
#[derive(Debug)]
pub(super) struct Apt {
    directory: PathBuf,
    options: Vec<String>,
}

impl Apt {
    pub(super) fn new(directory: PathBuf, options: &[String]) -> Self {
        let options = options.to_vec();
        Self { directory, options }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .arg("-o")
            .arg(format!("Dir::Cache={}", self.directory.display()))
            .args(["-o", "Dir::Cache::pkgcache=pkgcache.bin"])
            .args(["-o", "Dir::Cache::srcpkgcache=srcpkgcache.bin"])
            // Root would otherwise download as another user, who may not write to our directory.
            .args(["-o", "APT::Sandbox::User=root"])
            .args(&self.options)
            .current_dir(&self.directory);
        command
    }

    /// The descriptions of `names` that apt can install, and where that version is one that nobody
    /// offers for download, of the newest that somebody does.
    fn describe(&self, names: &BTreeSet<String>, work: &Work) -> Result<BTreeMap<String, Package>> {
        let mut found = self.show(&["--no-all-versions"], names, work)?;
        let local: BTreeSet<String> =
            names.iter().filter(|name| !found.contains_key(*name)).cloned().collect();
        if !local.is_empty() {
            for (name, package) in self.show(&["--all-versions"], &local, work)? {
                found.entry(name).or_insert(package);
            }
        }
        Ok(found)
    }

    fn show(
        &self,
        flags: &[&str],
        names: &BTreeSet<String>,
        work: &Work,
    ) -> Result<BTreeMap<String, Package>> {
        let mut command = self.command("apt-cache");
        command.arg("show").args(flags).args(names);
        let mut found = BTreeMap::new();
        for package in parse(&self.ask(command, work)?) {
            found.entry(package.name.clone()).or_insert(package);
        }
        Ok(found)
    }

    /// What apt answers; nothing, when it knows none of the packages: whoever needs one finds it missing.
    fn ask(&self, command: Command, work: &Work) -> Result<String> {
        /// About what apt's own cache takes.
        const CACHE_BYTES: u64 = 80 << 20;

        let (name, output) = work.output(command)?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() && !said.contains("No packages found") {
            // Apt says a full disk in words only.
            check_room(&self.directory, CACHE_BYTES)?;
            return Err(Error::backend(BACKEND, format!("ask {name}"), said.trim()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Everything that `names` depend on, and themselves: more than anyone needs, but in one call.
    fn closure(&self, names: &[&str], work: &Work) -> Result<BTreeSet<String>> {
        let mut command = self.command("apt-cache");
        command.args(["depends", "--recurse"]);
        for kind in ["recommends", "suggests", "conflicts", "breaks", "replaces", "enhances"] {
            command.arg(format!("--no-{kind}"));
        }
        command.args(names);
        Ok(self
            .ask(command, work)?
            .lines()
            .filter(|line| line.starts_with(|first: char| first.is_ascii_alphanumeric()))
            .filter(|line| !line.contains(':'))
            .map(str::to_owned)
            .collect())
    }
}

/// The kernel that `kernel` stands for, `programs`, and every library package that these depend on,
/// sorted by name.
///
/// # Errors
/// `Backend` when apt does not know one of them, with the way out.
pub(super) fn resolve(
    apt: &Apt,
    kernel: &str,
    programs: &[&str],
    work: &Work,
) -> Result<Vec<Package>> {
    let roots: Vec<&str> = programs.iter().copied().chain([kernel]).collect();
    let known = apt.describe(&apt.closure(&roots, work)?, work)?;
    let find = |name: &str| {
        known.get(name).ok_or_else(|| {
            Error::backend(
                BACKEND,
                format!("find package {name}"),
                "apt offers no such package; run `apt-get update`, and see that the main section of \
                 Debian is among its sources",
            )
        })
    };
    let meta = find(kernel)?;
    let concrete = meta
        .depends
        .iter()
        .flatten()
        .find(|name| name.starts_with("linux-image-"))
        .map_or(Ok(meta), |name| find(name))?;

    let mut chosen = BTreeMap::from([(concrete.name.clone(), concrete.clone())]);
    let mut open = Vec::new();
    for program in programs {
        open.push(find(program)?);
    }
    while let Some(package) = open.pop() {
        if chosen.insert(package.name.clone(), package.clone()).is_some() {
            continue;
        }
        for choice in &package.depends {
            let library = choice
                .iter()
                .filter_map(|name| known.get(name))
                .find(|package| package.section.rsplit('/').next() == Some("libs"));
            open.extend(library);
        }
    }
    Ok(chosen.into_values().collect())
}

/// Downloads what `directory` does not hold yet. Every file it returns has the hash of its package.
///
/// # Errors
/// `Exhausted` for a full disk, `Backend` when a download fails or has another hash.
pub(super) fn download(
    apt: &Apt,
    directory: &Path,
    packages: Vec<Package>,
    work: &Work,
) -> Result<Vec<(Package, PathBuf)>> {
    let mut missing = Vec::new();
    for package in &packages {
        if !holds(&directory.join(package.file_name()), package, work)? {
            missing.push(package);
        }
    }
    if !missing.is_empty() {
        let size = missing.iter().map(|package| package.size).sum();
        check_room(directory, size)?;
        for package in &missing {
            work.line(format!(
                "downloading {} {} ({})",
                package.name,
                package.version,
                bytes(package.size)
            ));
        }
        fetch(apt, directory, &missing, size, work)?;
    }
    Ok(packages
        .into_iter()
        .map(|package| {
            let path = directory.join(package.file_name());
            (package, path)
        })
        .collect())
}

fn fetch(apt: &Apt, directory: &Path, missing: &[&Package], size: u64, work: &Work) -> Result<()> {
    let failed = |error| {
        let doing = format!("write to {}", directory.display());
        disk_failed(directory, size, doing, error)
    };
    let here =
        tempfile::Builder::new().prefix(".download-").tempdir_in(directory).map_err(failed)?;
    let mut command = apt.command("apt-get");
    command.args(["-q", "download"]).current_dir(here.path());
    command.args(missing.iter().map(|p| format!("{}={}", p.name, p.version)));
    if let Err(error) = work.run(command) {
        work.check()?;
        // Apt says a full disk in words only.
        check_room(directory, size)?;
        return Err(error);
    }
    // By their hash and not by their name, which is apt's affair.
    let mut by_hash = BTreeMap::new();
    for entry in fs::read_dir(here.path()).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        by_hash.insert(sha256_file(&path, work)?.0, path);
    }
    for package in missing {
        let path = by_hash.get(&package.sha256).ok_or_else(|| {
            Error::backend(
                BACKEND,
                format!("download {} {}", package.name, package.version),
                format!("no file that came has its SHA-256, {}", package.sha256),
            )
        })?;
        fs::rename(path, directory.join(package.file_name())).map_err(failed)?;
    }
    Ok(())
}

/// Whether `path` is the file of `package`, whole.
fn holds(path: &Path, package: &Package, work: &Work) -> Result<bool> {
    Ok(path.exists() && sha256_file(path, work)?.0 == package.sha256)
}

/// The packages of `apt-cache show`, but for those without a hash: nobody offers them for download.
fn parse(text: &str) -> impl Iterator<Item = Package> {
    text.split("\n\n").filter_map(|stanza| {
        let mut fields: BTreeMap<&str, String> = BTreeMap::new();
        let mut last = "";
        for line in stanza.lines() {
            if line.starts_with([' ', '\t']) {
                // A field goes on.
                if let Some(value) = fields.get_mut(last) {
                    value.push_str(line);
                }
            } else if let Some((name, value)) = line.split_once(':') {
                fields.insert(name, value.trim().to_owned());
                last = name;
            }
        }
        let depends = ["Pre-Depends", "Depends"]
            .iter()
            .filter_map(|field| fields.get(field))
            .flat_map(|value| value.split(','))
            .map(|choice| choice.split('|').filter_map(bare_name).collect())
            .collect();
        Some(Package {
            name: fields.remove("Package")?,
            version: fields.remove("Version")?,
            sha256: fields.remove("SHA256")?.to_ascii_lowercase(),
            size: fields.remove("Size")?.parse().ok()?,
            section: fields.remove("Section").unwrap_or_default(),
            depends,
        })
    })
}

/// `libc6` of `libc6:any (>= 2.34)`.
fn bare_name(dependency: &str) -> Option<String> {
    let name = dependency.split_whitespace().next()?;
    Some(name.split(':').next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_read_with_its_choices() {
        let text = "Package: a\nVersion: 1:2-3\nSection: libs\nSize: 12\nSHA256: AB\n\
                    Pre-Depends: x:any (>= 1), y | z (= 2)\nDescription: some\n Depends: no\n\n\
                    Package: local\nVersion: 1\n";
        let packages: Vec<Package> = parse(text).collect();
        assert_eq!(packages.len(), 1);
        assert_eq!(packages[0].depends, [vec!["x"], vec!["y", "z"]]);
        assert_eq!(packages[0].sha256, "ab");
        assert_eq!(packages[0].file_name(), "a_1%3a2-3.deb");
    }
}
