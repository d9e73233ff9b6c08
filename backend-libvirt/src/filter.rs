//! What a restricted guest reaches: a filter of libvirt's between its card and everything else.
//!
//! The rules are of the link layer (`ebtables`), so they hold on any bridge, whatever the host's own firewall says
//! and whether or not the kernel passes bridged packets to it. They keep no state: an answer is known by where it
//! comes from.

use std::net::Ipv4Addr;

use runner_core::{OwnerId, ProfileName, Result};
use serde::{Deserialize, Serialize};

use crate::{
    domain::id,
    xml::{Element, Tree, element},
};

/// Something that restricted guests reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Allowed {
    /// How.
    pub protocol: Protocol,
    /// Whom.
    pub address: Ipv4Addr,
    /// At which port.
    pub port: u16,
}

/// How something is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Packets.
    Udp,
}

impl Protocol {
    fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// The filter's name and id. A filter has no room for a mark: with this id it is ours.
pub(crate) fn identity(owner: &OwnerId, profile: &ProfileName) -> (String, uuid::Uuid) {
    (format!("runner.{owner}.{profile}"), id(owner, "filter", profile.as_str()))
}

/// The document that defines the filter of a profile: its guests get an address, ask `dns` for names, and reach
/// what is `allowed`. Nothing else gets out or in.
///
/// # Errors
/// None that happens: all text is ours.
pub(crate) fn document(
    owner: &OwnerId,
    profile: &ProfileName,
    dns: Option<Ipv4Addr>,
    allowed: &[Allowed],
) -> Result<String> {
    let (name, uuid) = identity(owner, profile);
    let mut filter = element("filter")
        .attribute("name", name)
        .attribute("chain", "root")
        .child(element("uuid").text(uuid))
        // Whoever has no address can say nothing else, and whoever lies about its card says nothing.
        .child(rule("accept", "out").child(own(element("arp"))))
        .child(rule("accept", "in").child(element("arp")))
        .child(rule("accept", "out").child(ip("udp", "srcportstart", 68, "dstportstart", 67, true)))
        .child(rule("accept", "in").child(ip(
            "udp",
            "srcportstart",
            67,
            "dstportstart",
            68,
            false,
        )));
    let resolver = dns.into_iter().flat_map(|address| {
        [Protocol::Udp, Protocol::Tcp].map(|protocol| Allowed { protocol, address, port: 53 })
    });
    let mut all: Vec<Allowed> = resolver.chain(allowed.iter().copied()).collect();
    all.sort();
    all.dedup();
    for Allowed { protocol, address, port } in all {
        let there = own(element("ip"))
            .attribute("dstipaddr", address)
            .attribute("protocol", protocol.word())
            .attribute("dstportstart", port);
        let back = element("ip")
            .attribute("srcipaddr", address)
            .attribute("protocol", protocol.word())
            .attribute("srcportstart", port);
        filter = filter.child(rule("accept", "out").child(there));
        filter = filter.child(rule("accept", "in").child(back));
    }
    let rest = element("rule")
        .attribute("action", "drop")
        .attribute("direction", "inout")
        .attribute("priority", 1000);
    Ok(Tree::of(filter.child(rest))?.into_xml())
}

fn rule(action: &str, direction: &str) -> Element {
    element("rule")
        .attribute("action", action)
        .attribute("direction", direction)
        .attribute("priority", 100)
}

/// Only as itself: libvirt puts the card's address there.
fn own(packet: Element) -> Element {
    packet.attribute("srcmacaddr", "$MAC")
}

fn ip(
    protocol: &str,
    one: &'static str,
    port: u16,
    other: &'static str,
    other_port: u16,
    own_only: bool,
) -> Element {
    let packet = element("ip");
    let packet = if own_only { own(packet) } else { packet };
    packet.attribute("protocol", protocol).attribute(one, port).attribute(other, other_port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::compare;

    #[test]
    fn a_filter_lets_through_what_is_allowed_once_and_drops_the_rest() {
        let (owner, profile) = (OwnerId::new("us").unwrap(), ProfileName::new("linux").unwrap());
        let at = |last, port| Allowed {
            protocol: Protocol::Tcp,
            address: Ipv4Addr::new(10, 0, 0, last),
            port,
        };
        let udp = Allowed { protocol: Protocol::Udp, ..at(9, 123) };
        let dns = Some(Ipv4Addr::new(10, 0, 0, 1));
        let allowed = [at(1, 8000), udp, at(9, 443), at(1, 8000)];
        let text = document(&owner, &profile, dns, &allowed).unwrap();
        compare("filter.xml", &text);
        assert_eq!(text.matches("8000").count(), 2);
    }

    #[test]
    fn two_profiles_and_two_owners_have_filters_of_their_own() {
        let of = |owner: &str, profile: &str| {
            identity(&OwnerId::new(owner).unwrap(), &ProfileName::new(profile).unwrap())
        };
        let all = [of("a", "b-c"), of("a-b", "c"), of("a", "b")];
        for (index, one) in all.iter().enumerate() {
            for other in &all[index + 1..] {
                assert!(one.0 != other.0 && one.1 != other.1, "{one:?} {other:?}");
            }
        }
    }
}
