//! The address of a network card, and ids that follow from a name.

use std::fmt;

use runner_core::{OwnerId, WorkerName};
use uuid::Uuid;

/// Of the ids that we give to what has no room for a mark.
const OURS: Uuid = Uuid::from_u128(0x3f0c_6d2e_93f5_4b0e_9d5a_57a1_3b6c_0f12);

/// The id of a thing of ours that has no room for a mark: libvirt lets us choose it, and nobody else has it.
pub(crate) fn id(owner: &OwnerId, kind: &str, name: &str) -> Uuid {
    // None of the three has a slash.
    Uuid::new_v5(&OURS, format!("{owner}/{kind}/{name}").as_bytes())
}

/// The address of a network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct MacAddress([u8; 6]);

impl MacAddress {
    /// That of an instance: 40 bits of a hash in the range for locally administered addresses.
    ///
    /// It follows from owner and name, so that an entry somewhere with this address and this name is known to be
    /// ours without a mark of its own. Names are not used twice, and neither are addresses.
    pub(crate) fn of(owner: &OwnerId, name: &WorkerName) -> Self {
        let hash = id(owner, "card", name.as_str());
        let [a, b, c, d, e, ..] = *hash.as_bytes();
        Self([0x52, a, b, c, d, e])
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_local_to_here_and_of_one_instance() {
        let (us, them) = (OwnerId::new("us").unwrap(), OwnerId::new("them").unwrap());
        let (one, two) = (WorkerName::new("a-1").unwrap(), WorkerName::new("a-2").unwrap());
        let mac = MacAddress::of(&us, &one);
        assert_eq!(mac, MacAddress::of(&us, &one));
        assert_ne!(mac, MacAddress::of(&us, &two));
        assert_ne!(mac, MacAddress::of(&them, &one));
        // Locally administered, and of one card.
        assert_eq!(mac.0[0] & 0b11, 0b10);
        assert_eq!(mac.to_string().len(), 17);
    }
}
