//! Reads server-sent events.

use bytes::{Buf, BytesMut};
use reqwest::Response;

/// How long one event may be. A part of a log is about 256 KiB, and more when it is not text.
const LONGEST: usize = 64 << 20;

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// Its kind.
    pub event: String,
    /// Its data.
    pub data: String,
}

/// The events of an answer, as they come.
pub struct Messages {
    response: Response,
    parser: Parser,
}

impl Messages {
    pub(super) fn new(response: Response) -> Self {
        Self { response, parser: Parser::default() }
    }

    /// The next event; none when the answer has ended, well or not.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.parser.next() {
                return Some(message);
            }
            let part = self.response.chunk().await.ok()??;
            self.parser.buffer.extend_from_slice(&part);
            if self.parser.buffer.len() > LONGEST {
                return None;
            }
        }
    }
}

#[derive(Default)]
struct Parser {
    buffer: BytesMut,
    /// How much of the buffer was searched for the end of a line.
    searched: usize,
    message: Message,
}

impl Parser {
    fn next(&mut self) -> Option<Message> {
        loop {
            let rest = &self.buffer[self.searched..];
            let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                self.searched = self.buffer.len();
                return None;
            };
            let line = self.buffer.split_to(self.searched + end);
            self.buffer.advance(1);
            self.searched = 0;
            let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(&line));
            if line.is_empty() {
                let message = std::mem::take(&mut self.message);
                if !message.data.is_empty() {
                    return Some(message);
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => self.message.event = value.to_owned(),
                "data" => {
                    if !self.message.data.is_empty() {
                        self.message.data.push('\n');
                    }
                    self.message.data.push_str(value);
                }
                // Comments, ids (our data has the offsets) and what later versions may add.
                _ => (),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_however_they_are_cut() {
        let text =
            b":\n\nid: 5\nevent: log\ndata: {\"a\":1}\n\n: hello\ndata: x\ndata: y\r\n\r\ndata: z";
        for size in 1..text.len() {
            let mut parser = Parser::default();
            let mut found = Vec::new();
            for part in text.chunks(size) {
                parser.buffer.extend_from_slice(part);
                while let Some(message) = parser.next() {
                    found.push((message.event, message.data));
                }
            }
            let expected = [("log", "{\"a\":1}"), ("", "x\ny")];
            let expected = expected.map(|(event, data)| (event.to_owned(), data.to_owned()));
            assert_eq!(found, expected, "in parts of {size}");
        }
    }
}
