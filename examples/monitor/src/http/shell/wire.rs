//! What the two ends of a shell's WebSocket tell each other in text messages. Binary messages are bytes: what
//! is typed, and what is shown.

use runner_core::{ProcessId, guest::TerminalSize};
use serde::{Deserialize, Serialize};

/// What a client asks for. The first is `open` or `attach`, and no other is.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// Open a shell.
    Open {
        /// The program and its arguments; a login shell if empty.
        #[serde(default)]
        command: Vec<String>,
        /// Its terminal; without one it has pipes.
        #[serde(default)]
        terminal: Option<Window>,
        /// What kind of terminal that is, as `TERM` has it.
        #[serde(default)]
        term: Option<String>,
    },
    /// Use a shell that is open.
    Attach {
        /// Its name, as `opened` told it.
        session: ProcessId,
        /// How many bytes of what it has shown are known already.
        #[serde(default)]
        from: u64,
    },
    /// Change the size of the terminal.
    Resize(Window),
    /// Nothing more will be typed.
    EndInput {},
    /// Close the shell, with all that runs in it.
    Close {},
}

/// What the service tells.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tell {
    /// The shell is open.
    Opened {
        /// Its name.
        session: ProcessId,
    },
    /// It has ended and all that it showed was sent: its exit code, or 128 and the number of the signal that
    /// ended it.
    Exit(u8),
    /// It was closed by the service, and why. `exit` follows.
    Closed {
        /// Why.
        detail: String,
    },
    /// Something was not done, and why. The shell may be well; the connection ends.
    Problem {
        /// A status as HTTP has them.
        status: u16,
        /// What is wrong, and the way out.
        detail: String,
    },
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// In a row.
    pub cols: u16,
    /// How many rows.
    pub rows: u16,
}

impl From<Window> for TerminalSize {
    fn from(window: Window) -> Self {
        Self { columns: window.cols, rows: window.rows }
    }
}
