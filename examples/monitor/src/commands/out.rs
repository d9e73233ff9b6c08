//! What goes to standard output. A reader that has enough, as with `| head`, is no failure.

use std::{
    env,
    io::{self, IsTerminal, Write},
};

use serde_json::Value;

/// Nobody reads standard output any more.
#[derive(Debug)]
pub struct Deaf;

impl std::fmt::Display for Deaf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("nobody reads the output")
    }
}

impl std::error::Error for Deaf {}

/// Writes exactly this.
///
/// # Errors
/// [`Deaf`], or when the output cannot be written, such as to a full disk.
pub fn bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Deaf.into()),
        Err(error) => Err(anyhow::Error::new(error).context("could not write the output")),
    }
}

/// Writes a line.
///
/// # Errors
/// As [`bytes`].
pub fn line(text: impl AsRef<str>) -> anyhow::Result<()> {
    bytes(format!("{}\n", text.as_ref()).as_bytes())
}

/// Writes what the API answered.
///
/// # Errors
/// As [`bytes`].
pub fn json(value: &Value) -> anyhow::Result<()> {
    line(format!("{value:#}"))
}

/// Text from elsewhere: control characters are shown, not obeyed.
pub fn tame(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

/// A colour that carries no meaning alone: the word says it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// All is well.
    Green,
    /// It takes its time, or wants attention.
    Yellow,
    /// It failed.
    Red,
    /// Less important.
    Dim,
}

/// The text in a colour, on a terminal whose owner does not refuse (<https://no-color.org>).
pub fn paint(colour: Colour, text: &str) -> String {
    if !is_colourful() {
        return text.to_owned();
    }
    let code = match colour {
        Colour::Green => 32,
        Colour::Yellow => 33,
        Colour::Red => 31,
        Colour::Dim => 2,
    };
    format!("\u{1b}[{code}m{text}\u{1b}[0m")
}

fn is_colourful() -> bool {
    let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
    !refused && !dumb && io::stdout().is_terminal()
}

/// What colour a state or phase has.
pub fn colour_of(state: &str) -> Option<Colour> {
    match state.split([':', ' ']).next().unwrap_or(state) {
        "succeeded" | "idle" | "ok" => Some(Colour::Green),
        "failed" | "timed" | "timed_out" | "interrupted" | "failure" => Some(Colour::Red),
        "queued" | "starting" | "unseen" | "over" | "cancelled" | "warning" => Some(Colour::Yellow),
        _ => None,
    }
}
