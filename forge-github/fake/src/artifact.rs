//! Artifacts and logs: named in the API, fetched from another host.

use std::io::{Cursor, Write};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use zip::{ZipWriter, write::SimpleFileOptions};

use crate::{
    exchange::{Addresses, Refusal},
    ids::{hex, node, random_text},
    state::State,
    time::seconds,
};

/// How long a link to a file is good.
const LINK: SignedDuration = SignedDuration::from_mins(1);
/// How long an artifact is kept.
const KEPT: SignedDuration = SignedDuration::from_hours(90 * 24);

#[derive(Debug, Clone)]
pub(crate) struct Artifact {
    pub(crate) id: i64,
    pub(crate) run: i64,
    pub(crate) repository: i64,
    pub(crate) name: String,
    /// A zip archive, or what is said to be one.
    pub(crate) archive: Bytes,
    pub(crate) created: Timestamp,
}

/// Where a file can be fetched for a while.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) content_type: &'static str,
    pub(crate) content: Bytes,
    pub(crate) until: Timestamp,
}

impl Artifact {
    pub(crate) fn is_expired(&self, now: Timestamp) -> bool {
        now.duration_since(self.created) > KEPT
    }

    pub(crate) fn json(&self, state: &State, addresses: &Addresses) -> Value {
        let repository = state.repository_by_id(self.repository);
        let name = repository.map(|r| r.full_name()).unwrap_or_default();
        let url = format!("{}/repos/{name}/actions/artifacts/{}", addresses.api, self.id);
        let run = state.runs.get(&self.run).map(|run| {
            json!({
                "id": run.id,
                "repository_id": run.repository,
                "head_repository_id": run.head_repository,
                "head_branch": run.branch,
                "head_sha": run.sha,
            })
        });
        let expires = self.created.saturating_add(KEPT).unwrap_or(Timestamp::MAX);
        json!({
            "id": self.id,
            "node_id": node("Artifact", self.id),
            "name": self.name,
            "size_in_bytes": self.archive.len(),
            "url": url,
            "archive_download_url": format!("{url}/zip"),
            "expired": self.is_expired(state.now()),
            "digest": format!("sha256:{}", hex(&Sha256::digest(&self.archive))),
            "created_at": seconds(self.created),
            "updated_at": seconds(self.created),
            "expires_at": seconds(expires),
            "workflow_run": run,
        })
    }
}

/// A zip archive of files.
pub(crate) fn zip<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Bytes {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        // Memory does not run out of room, and the names are a caller's of this test double.
        archive.start_file(name, SimpleFileOptions::default()).expect("a name for a file");
        archive.write_all(content).expect("memory takes it");
    }
    archive.finish().expect("memory takes it").into_inner().into()
}

impl State {
    /// Keeps an archive with a run.
    pub(crate) fn add_artifact(
        &mut self,
        run: i64,
        name: &str,
        archive: Bytes,
    ) -> Result<i64, Refusal> {
        let repository = self.runs.get(&run).ok_or_else(Refusal::not_found)?.repository;
        let (id, created) = (self.next_id(), self.now());
        let name = name.to_owned();
        self.artifacts.insert(id, Artifact { id, run, repository, name, archive, created });
        Ok(id)
    }

    /// An address on the other host, good for a minute.
    pub(crate) fn link(
        &mut self,
        addresses: &Addresses,
        content_type: &'static str,
        content: Bytes,
    ) -> String {
        let until = self.now().saturating_add(LINK).unwrap_or(Timestamp::MAX);
        let now = self.now();
        self.storage_links.retain(|_, link| link.until > now);
        let signature = random_text(40);
        self.storage_links.insert(signature.clone(), Link { content_type, content, until });
        format!("{}/files/{signature}", addresses.storage)
    }
}
