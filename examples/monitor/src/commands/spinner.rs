//! Shows that something goes on, on a terminal only.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How often it turns.
const TURN: Duration = Duration::from_millis(120);

/// A line on standard error that turns while one waits. Elsewhere than on a terminal there is none.
#[derive(Clone)]
pub struct Spinner(ProgressBar);

impl Spinner {
    /// Shows what goes on.
    pub fn start(text: String) -> Self {
        // Draws nothing where standard error is no terminal.
        let bar = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}");
        bar.set_style(style.expect("it is a valid template"));
        bar.set_message(text);
        if !bar.is_hidden() {
            bar.enable_steady_tick(TURN);
        }
        Self(bar)
    }

    /// Shows how much of a job's files, which have so many bytes, is sent.
    pub fn sending(bytes: u64) -> Self {
        let bar = ProgressBar::new(bytes);
        let template = "{spinner} sending the files {wide_bar} {bytes}/{total_bytes} {eta}";
        bar.set_style(ProgressStyle::with_template(template).expect("it is a valid template"));
        Self(bar)
    }

    /// So much more is done.
    pub fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// None at all.
    pub fn none() -> Self {
        Self(ProgressBar::hidden())
    }

    /// Shows what goes on now.
    pub fn show(&self, text: String) {
        self.0.set_message(text);
    }

    /// Does something that writes to the terminal.
    pub fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        self.0.suspend(write)
    }

    /// Goes away without a trace.
    pub fn end(&self) {
        self.0.finish_and_clear();
    }
}
