//! How GitLab writes the time.

use jiff::Timestamp;

/// In JSON: milliseconds.
pub(crate) fn millis(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}
