//! From what the agent says to [`runner_core::Error`].

use runner_core::{Error, WorkerName};

use crate::transport::CallError;

const BACKEND: &str = "guest agent";

/// What a refusal of the agent, or the complaint of a program in the guest, is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Complaint {
    Missing,
    Full,
    Directory,
    Other,
}

impl Complaint {
    /// Reads `text`, in which glibc's, musl's and busybox's words for an `errno` all look alike.
    pub(crate) fn of(text: &str) -> Self {
        let has = |words: &str| text.contains(words);
        if has("No space left on device") || has("Disk quota exceeded") || has("File too large") {
            Self::Full
        } else if has("Is a directory") {
            Self::Directory
        } else if has("No such file or directory") || has("Not a directory") {
            Self::Missing
        } else {
            Self::Other
        }
    }
}

/// An instance that has ended is not found; all else that keeps the agent from answering is a failure of the
/// backend, after which the guest may be well.
pub(crate) fn call(instance: &WorkerName, doing: impl Into<String>, error: CallError) -> Error {
    match error {
        CallError::Gone => gone(instance),
        error => Error::backend(BACKEND, doing, error),
    }
}

pub(crate) fn gone(instance: &WorkerName) -> Error {
    Error::not_found(format!("instance {instance}"))
}

pub(crate) fn failed(
    doing: impl Into<String>,
    why: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::backend(BACKEND, doing, why)
}

pub(crate) fn full(path: &str, needed_bytes: usize) -> Error {
    Error::Exhausted {
        resource: format!("disk space in the guest for {path}"),
        needed: format!("{needed_bytes} bytes"),
        available: "less".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_told_apart_by_their_words() {
        let of = Complaint::of;
        let missing = "failed to open file '/a' (mode: 'r'): No such file or directory";
        assert_eq!(of(missing), Complaint::Missing);
        assert_eq!(of("cat: write error: No space left on device"), Complaint::Full);
        assert_eq!(of("failed to read file: Is a directory"), Complaint::Directory);
        assert_eq!(of("Permission denied"), Complaint::Other);
    }
}
