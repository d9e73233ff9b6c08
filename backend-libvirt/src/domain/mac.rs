//! The address of a network card.

use std::fmt;

/// The address of a network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct MacAddress([u8; 6]);

impl MacAddress {
    /// One that nobody has: 40 random bits in the range for locally administered addresses, beside the
    /// `52:54:00` that other tools use.
    pub(crate) fn random() -> Self {
        let [_, a, b, c, d, e, ..] = rand::random::<[u8; 8]>();
        Self([0x52, a, b, c, d, e])
    }

    /// For texts that are compared.
    #[cfg(test)]
    pub(crate) fn new(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}
