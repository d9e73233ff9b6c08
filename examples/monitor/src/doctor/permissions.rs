//! Whether the data and cache directories, the token's file and `/dev/kvm` can be used.

use std::{
    fs::{self, OpenOptions},
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{Check, Outcome, Subject};
use crate::{config::Accel, data_dir, token::Token};

const KVM: &str = "/dev/kvm";

pub(super) fn check(subject: &Subject) -> Vec<Check> {
    let data = directory("data directory", &subject.data_dir, true);
    let usable = data.outcome != Outcome::Failure;
    let mut checks = vec![data, directory("cache directory", &subject.cache_dir, false)];
    if usable {
        checks.push(token(subject));
    }
    if subject.config.hypervisor.accel != Accel::Tcg {
        checks.push(kvm());
    }
    checks
}

/// Whether files can be made in a directory, or in what it will be made in.
fn directory(name: &str, path: &Path, private: bool) -> Check {
    let shown = path.display();
    let (there, is_it) = existing(path);
    let metadata = match fs::metadata(&there) {
        Ok(metadata) if metadata.is_dir() => metadata,
        Ok(_) => {
            let way_out = format!("move {} away, or choose another directory", there.display());
            return Check::failure(name, format!("{} is no directory", there.display()), way_out);
        }
        Err(error) => {
            let way_out = format!("run as a user who may see {}", there.display());
            return Check::failure(name, format!("{}: {error}", there.display()), way_out);
        }
    };
    if let Err(error) = tempfile::Builder::new().prefix(".doctor-").tempfile_in(&there) {
        let owner = metadata.uid();
        let way_out = format!(
            "run as user {owner}, to whom it belongs, give it away with chown, \
             or mount its file system so that it can be written to"
        );
        let found = format!("nothing can be written to {}: {error}", there.display());
        return Check::failure(name, found, way_out);
    }
    if private && is_it && metadata.mode() & 0o077 != 0 {
        let found =
            format!("{shown} can be entered by others (mode {:o})", metadata.mode() & 0o777);
        return Check::warning(name, found, format!("run: chmod 700 {shown}"));
    }
    if is_it {
        Check::ok(name, format!("{shown} can be written to"))
    } else {
        Check::ok(name, format!("{shown} will be made"))
    }
}

/// The path, or what there is of it; and whether that is all of it.
fn existing(path: &Path) -> (PathBuf, bool) {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let is_there = |path: &Path| !matches!(fs::symlink_metadata(path), Err(error) if error.kind() == ErrorKind::NotFound);
    let there = path.ancestors().find(|path| is_there(path)).unwrap_or(Path::new("/"));
    (there.to_owned(), there == path)
}

fn token(subject: &Subject) -> Check {
    let name = "API token";
    let file = subject.config.http.token_file.clone();
    let file = file.unwrap_or_else(|| data_dir::token_file(&subject.data_dir));
    let shown = file.display().to_string();
    match Token::of_client(None, &file) {
        Ok(Some(_)) => Check::ok(name, "there is one, for its owner only"),
        Ok(None) => Check::ok(name, format!("one will be generated into {shown}")),
        Err(error) => {
            let way_out = format!("(umask 077; openssl rand -hex 32 > {shown})");
            Check::failure(name, format!("{error:#}"), format!("mend it, or make one: {way_out}"))
        }
    }
}

fn kvm() -> Check {
    let name = "hardware acceleration";
    match OpenOptions::new().read(true).write(true).open(KVM) {
        Ok(_) => Check::ok(name, format!("{KVM} can be opened")),
        Err(error) if error.kind() == ErrorKind::NotFound => Check::warning(
            name,
            format!("there is no {KVM}; machines are emulated, several times slower"),
            "switch virtualization on in the firmware, or nested virtualization on the host of \
             this machine; then: modprobe kvm_intel or kvm_amd",
        ),
        Err(error) => Check::warning(
            name,
            format!("{KVM} cannot be opened: {error}; machines are emulated, several times slower"),
            "add the service's user to the group of that file: usermod -aG kvm USER, \
             and start the service anew",
        ),
    }
}
