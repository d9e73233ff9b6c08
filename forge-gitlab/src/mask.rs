//! Keeps secrets out of a trace that comes in pieces.
//!
//! What may be the beginning of a secret is held back until it is clear. What is held is so much of the
//! *input* that has not been taken: a successor that reads on from there comes to the same result.

use aho_corasick::{AhoCorasick, Input, MatchKind};

const MASK: &[u8] = b"[MASKED]";
/// A shorter secret would mask half of the text, and hides nothing that cannot be guessed.
const SHORTEST: usize = 1;
/// The lines of a secret with several lines are secret one by one, if they are as long as this.
const SHORTEST_LINE: usize = 8;

/// Replaces secrets in a stream by `[MASKED]`, and what follows the prefix of a token.
pub(crate) struct Masker {
    phrases: Vec<Vec<u8>>,
    search: Option<AhoCorasick>,
    /// How many of the phrases, from the first, are secrets; the others are prefixes of tokens.
    secrets: usize,
    held: Vec<u8>,
    /// The last thing taken was the prefix of a token, and what follows it is masked.
    in_token: bool,
}

impl Masker {
    /// `in_token` is what a predecessor's [`Masker::in_token`] was where it stopped.
    pub(crate) fn new<'a>(
        secrets: impl IntoIterator<Item = &'a str>,
        token_prefixes: &[String],
        in_token: bool,
    ) -> Self {
        let mut phrases: Vec<Vec<u8>> = Vec::new();
        for secret in secrets {
            let lines = secret.lines().map(str::trim_end);
            let lines = lines.filter(|line| line.len() >= SHORTEST_LINE && *line != secret);
            // Terminals and files differ in how a line ends.
            for phrase in std::iter::once(secret.trim_end_matches(['\r', '\n'])).chain(lines) {
                if phrase.len() >= SHORTEST && !phrase.trim().is_empty() {
                    phrases.push(phrase.as_bytes().to_vec());
                }
            }
        }
        phrases.sort();
        phrases.dedup();
        let secrets = phrases.len();
        phrases
            .extend(token_prefixes.iter().filter(|p| p.len() > 1).map(|p| p.clone().into_bytes()));
        let search = (!phrases.is_empty()).then(|| {
            // Fails only beyond billions of states.
            let builder =
                AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&phrases);
            builder.expect("a job's secrets are few")
        });
        Self { phrases, search, secrets, held: Vec::new(), in_token }
    }

    /// Takes a piece in; returns what is clear.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(piece);
        self.take(false)
    }

    /// Takes the end in; returns what was held back.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let out = self.take(true);
        self.in_token = false;
        out
    }

    /// How much of the end of the input has not been taken, in bytes.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// Whether what comes next belongs to a token.
    pub(crate) fn in_token(&self) -> bool {
        self.in_token
    }

    fn take(&mut self, at_end: bool) -> Vec<u8> {
        let held = std::mem::take(&mut self.held);
        let Some(search) = &self.search else {
            return held;
        };
        let (mut out, mut at) = (Vec::with_capacity(held.len()), 0);
        while at < held.len() {
            if self.in_token {
                let rest = &held[at..];
                at += rest.iter().take_while(|byte| is_token_byte(**byte)).count();
                if at < held.len() {
                    self.in_token = false;
                }
                continue;
            }
            let found = search.find(Input::new(&held).span(at..held.len()));
            let open = if at_end { None } else { self.open_end(&held, at) };
            match (found, open) {
                // It may become a longer secret, or another that begins before.
                (Some(found), Some(open)) if open <= found.start() => {
                    out.extend_from_slice(&held[at..open]);
                    at = open;
                    break;
                }
                (Some(found), _) => {
                    out.extend_from_slice(&held[at..found.start()]);
                    if found.pattern().as_usize() >= self.secrets {
                        out.extend_from_slice(&held[found.range()]);
                        self.in_token = true;
                    }
                    out.extend_from_slice(MASK);
                    at = found.end();
                }
                (None, open) => {
                    let open = open.unwrap_or(held.len());
                    out.extend_from_slice(&held[at..open]);
                    at = open;
                    break;
                }
            }
        }
        self.held = held[at..].to_vec();
        out
    }

    /// Where, from `from` on, the first text begins that more input may turn into a phrase.
    fn open_end(&self, held: &[u8], from: usize) -> Option<usize> {
        let longest = self.phrases.iter().map(Vec::len).max().unwrap_or(0);
        let first = held.len().saturating_sub(longest.saturating_sub(1)).max(from);
        (first..held.len()).find(|start| {
            let tail = &held[*start..];
            self.phrases.iter().any(|phrase| phrase.len() > tail.len() && phrase.starts_with(tail))
        })
    }
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'=')
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    fn whole(secrets: &[&str], prefixes: &[&str], text: &str) -> String {
        let prefixes: Vec<String> = prefixes.iter().map(|p| (*p).to_owned()).collect();
        let mut masker = Masker::new(secrets.iter().copied(), &prefixes, false);
        let mut out = masker.push(text.as_bytes());
        out.extend(masker.finish());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn secrets_are_masked() {
        for (secrets, text, expected) in [
            (&["hunter2"][..], "a hunter2 b", "a [MASKED] b"),
            (&["abc", "abcd"], "abcd abc ab", "[MASKED] [MASKED] ab"),
            (&["abc", "bcd"], "xbcd abc", "x[MASKED] [MASKED]"),
            (&["aab"], "aaab", "a[MASKED]"),
            (&["a", ""], "banana", "b[MASKED]n[MASKED]n[MASKED]"),
            (&[], "nothing", "nothing"),
            (&["line one\nline two!"], "x line one\r\nline two! y", "x [MASKED]\r\n[MASKED] y"),
            (&["key\n"], "key", "[MASKED]"),
        ] {
            assert_eq!(whole(secrets, &[], text), expected, "{secrets:?} in {text:?}");
        }
    }

    #[test]
    fn what_follows_the_prefix_of_a_token_is_masked() {
        let text = "token glpat-abc_12.3 and glpat-";
        assert_eq!(whole(&[], &["glpat-"], text), "token glpat-[MASKED] and glpat-[MASKED]");
        assert_eq!(whole(&["glpat-abc"], &["glpat-"], "glpat-abc!"), "[MASKED]!");
    }

    #[test]
    fn nothing_clear_is_held_back() {
        let mut masker = Masker::new(["secret"], &[], false);
        assert_eq!(masker.push(b"hello sec"), b"hello ");
        assert_eq!(masker.held(), 3);
        assert_eq!(masker.push(b"tion\n"), b"section\n");
        assert_eq!(masker.held(), 0);
    }

    #[test]
    fn pieces_and_successors_make_no_difference() {
        let (secrets, prefixes) = (["abab", "abc", "bb", "cabba"], ["ca-".to_owned()]);
        let mut random = StdRng::seed_from_u64(1);
        for _ in 0..5_000 {
            let length = random.random_range(0..40);
            let text: Vec<u8> = (0..length).map(|_| b"abc- "[random.random_range(0..5)]).collect();
            let mut masker = Masker::new(secrets, &prefixes, false);
            let mut expected = masker.push(&text);
            expected.extend(masker.finish());

            let (mut out, mut at) = (Vec::new(), 0);
            let mut masker = Masker::new(secrets, &prefixes, false);
            while at < text.len() {
                let end = (at + random.random_range(1..6)).min(text.len());
                out.extend(masker.push(&text[at..end]));
                at = end;
                if random.random_range(0..4) == 0 {
                    // A successor that begins with what was not taken.
                    at -= masker.held();
                    masker = Masker::new(secrets, &prefixes, masker.in_token());
                    let end = (at + 7).min(text.len());
                    out.extend(masker.push(&text[at..end]));
                    at = end;
                }
            }
            out.extend(masker.finish());
            let text = String::from_utf8_lossy(&text);
            assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&expected), "{text}");
        }
    }
}
