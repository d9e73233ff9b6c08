//! What a job says, as it comes in.

use bytes::Bytes;

/// The log of a job.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trace {
    content: Vec<u8>,
    /// Of how many bytes each piece was that was added.
    pub(crate) pieces: Vec<usize>,
}

/// What became of a piece.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Appended {
    /// The trace has this many bytes now, the piece's last ones among them.
    Until(usize),
    /// The piece does not follow what is there, which has this many bytes.
    Gap(usize),
}

impl Trace {
    pub(crate) fn len(&self) -> usize {
        self.content.len()
    }

    pub(crate) fn content(&self) -> Bytes {
        Bytes::copy_from_slice(&self.content)
    }

    /// Adds a piece that starts at byte `start`.
    ///
    /// A piece that ends where the trace ends is not added, and not refused: it was here before, and its answer
    /// was lost. GitLab compares nothing but the sizes (`lib/gitlab/ci/trace.rb`,
    /// `app/services/ci/append_build_trace_service.rb`).
    pub(crate) fn append(&mut self, start: usize, piece: &[u8]) -> Appended {
        if start == self.content.len() {
            self.content.extend_from_slice(piece);
            self.pieces.push(piece.len());
        }
        let size = self.content.len();
        if start.checked_add(piece.len()) == Some(size) {
            Appended::Until(size)
        } else {
            Appended::Gap(size)
        }
    }

    pub(crate) fn forget(&mut self) {
        self.content.clear();
    }

    /// As a runner gives it: `crc32:` and the CRC-32 (IEEE) in eight digits.
    pub(crate) fn checksum(&self) -> String {
        format!("crc32:{:08x}", crc32fast::hash(&self.content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_whose_answer_was_lost_can_be_sent_again() {
        let mut trace = Trace::default();
        assert_eq!(trace.append(0, b"one "), Appended::Until(4));
        assert_eq!(trace.append(4, b"two"), Appended::Until(7));
        assert_eq!(trace.append(4, b"two"), Appended::Until(7));
        assert_eq!(trace.append(4, b"twenty"), Appended::Gap(7));
        assert_eq!(trace.append(9, b"three"), Appended::Gap(7));
        assert_eq!(&trace.content()[..], b"one two");
    }

    #[test]
    fn the_checksum_is_that_of_the_specification() {
        let mut trace = Trace::default();
        trace.append(0, b"123456789");
        assert_eq!(trace.checksum(), "crc32:cbf43926");
    }
}
