//! `monitor openapi`: the API's description, without a service.

use std::io::{self, ErrorKind, Write};

use anyhow::Context;

use crate::http::openapi;

pub fn openapi() -> anyhow::Result<u8> {
    match io::stdout().lock().write_all(openapi::document().as_bytes()) {
        // As with `… | head`.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(0),
        written => written.map(|()| 0).context("could not write the document"),
    }
}
