//! This end's terminal.

use std::{
    io::{self, IsTerminal},
    thread,
};

use bytes::Bytes;
use rustix::termios::{self, OptionalActions, Termios};
use tokio::sync::mpsc;

use crate::http::shell::wire::Window;

/// What is read at once.
const PART: usize = 16 << 10;

/// How much is read ahead of whoever takes it.
const AHEAD: usize = 16;

/// Whether somebody sits here.
pub fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// How large the terminal is; one that does not say is as large as they used to be.
pub fn window() -> Window {
    match termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => {
            Window { cols: size.ws_col, rows: size.ws_row }
        }
        _ => Window { cols: 80, rows: 24 },
    }
}

/// The terminal in raw mode: every key is passed on. As it was again when dropped, also by a panic.
pub struct Raw(Termios);

impl Raw {
    /// Makes the terminal raw.
    ///
    /// # Errors
    /// When standard input is none.
    pub fn enter() -> io::Result<Self> {
        let before = termios::tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // There is nobody to tell that it failed, and no other way.
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Standard input as it comes. The channel is closed at its end.
pub fn input() -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    // A thread of its own, which nobody waits for: it may sit in a read for ever.
    thread::spawn(move || {
        let mut buffer = vec![0; PART];
        loop {
            match rustix::io::read(io::stdin(), &mut buffer) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(count @ 1..) => {
                    let part = Bytes::copy_from_slice(&buffer[..count]);
                    if sender.blocking_send(part).is_err() {
                        return;
                    }
                }
                _ => return,
            }
        }
    });
    receiver
}
