//! Collapsible sections of a trace, as GitLab's pages show them, with the time each took.
//!
//! Source: "Custom collapsible sections" in GitLab's documentation of job logs.

use jiff::Timestamp;

use crate::job::Text;

/// Begins a section.
pub(crate) fn start(text: &mut Text, sections: bool, name: &str, header: &str, now: Timestamp) {
    if sections {
        text.raw(&format!("section_start:{}:{name}\r\x1b[0K", now.as_second()));
    }
    text.raw(&format!("\x1b[0K\x1b[36;1m{header}\x1b[0;m\n"));
}

/// Ends it.
pub(crate) fn end(text: &mut Text, sections: bool, name: &str, now: Timestamp) {
    if sections {
        text.raw(&format!("section_end:{}:{name}\r\x1b[0K", now.as_second()));
    }
}
