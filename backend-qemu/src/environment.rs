//! What other programs see of our environment: nothing but what is named here.
//!
//! Ours holds secrets, such as the token of the API, and `/proc/PID/environ` shows a program's environment for
//! as long as it lives. A QEMU lives longer than we do.

use std::ffi::OsString;

/// Where programs, and the files they need for a moment, are found.
const PLACES: [&str; 3] = ["HOME", "PATH", "TMPDIR"];
/// How a host reaches the sources of its packages, and where it has them configured.
const PACKAGE_SOURCES: [&str; 11] = [
    "ALL_PROXY",
    "APT_CONFIG",
    "FTP_PROXY",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "all_proxy",
    "ftp_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// The environment of QEMU.
pub(crate) fn of_qemu() -> Vec<(&'static str, OsString)> {
    let mut environment = ours(&PLACES);
    environment.push(("LANG", "C".into()));
    environment
}

/// The environment of the programs that build images. They end with the build.
pub(crate) fn of_builds() -> Vec<(&'static str, OsString)> {
    let mut environment = ours(&PLACES);
    environment.extend(ours(&PACKAGE_SOURCES));
    // Their words are read.
    environment.push(("LC_ALL", "C.UTF-8".into()));
    environment
}

fn ours(names: &[&'static str]) -> Vec<(&'static str, OsString)> {
    names.iter().filter_map(|name| Some((*name, std::env::var_os(name)?))).collect()
}
