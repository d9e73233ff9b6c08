//! The runner's program: which versions there are, and until when they are taken.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{exchange::Addresses, ids::hex};

/// What GitHub offers.
const VERSION: &str = "2.330.0";

/// One file of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// `linux`, `osx` or `win`.
    pub os: String,
    /// `x64`, `arm` or `arm64`.
    pub architecture: String,
    /// Such as `2.330.0`.
    pub version: String,
    /// What is in the file.
    pub content: Vec<u8>,
}

impl Download {
    /// The file's name, as GitHub names it.
    pub fn filename(&self) -> String {
        let kind = if self.os == "win" { "zip" } else { "tar.gz" };
        format!("actions-runner-{}-{}-{}.{kind}", self.os, self.architecture, self.version)
    }

    pub(crate) fn json(&self, addresses: &Addresses) -> Value {
        let filename = self.filename();
        let (storage, version) = (&addresses.storage, &self.version);
        json!({
            "os": self.os,
            "architecture": self.architecture,
            "download_url": format!("{storage}/actions/runner/releases/download/v{version}/{filename}"),
            "filename": filename,
            "sha256_checksum": hex(&Sha256::digest(&self.content)),
        })
    }
}

/// A version of this fake's own making: its files say what they are, and run nothing.
pub(crate) fn current() -> Vec<Download> {
    let platforms = [
        ("osx", "x64"),
        ("linux", "x64"),
        ("linux", "arm"),
        ("win", "x64"),
        ("osx", "arm64"),
        ("linux", "arm64"),
        ("win", "arm64"),
    ];
    let download = |(os, architecture): (&str, &str)| Download {
        os: os.to_owned(),
        architecture: architecture.to_owned(),
        version: VERSION.to_owned(),
        content: format!("The runner {VERSION} for {os} on {architecture}.\n").into_bytes(),
    };
    platforms.into_iter().map(download).collect()
}
