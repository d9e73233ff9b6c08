//! Networks as libvirt writes them down.

use std::{collections::BTreeSet, fmt, net::Ipv4Addr, str::FromStr};

use runner_core::{Error, OwnerId, Result, WorkerName};
use serde::{Deserialize, Serialize};

use crate::{
    domain::{MacAddress, id},
    xml::{Tree, element},
};

/// The addresses of a network, such as `10.20.30.0/24`: between 4 and 65536 of them. The first is the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    network: u32,
    bits: u8,
}

impl FromStr for Subnet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = |reason: &str| Error::invalid(format!("subnet {text:?}"), reason);
        let form = || invalid("write it like 10.20.30.0/24");
        let (address, bits) = text.split_once('/').ok_or_else(form)?;
        let address: Ipv4Addr = address.parse().map_err(|_| form())?;
        let bits: u8 = bits.parse().map_err(|_| form())?;
        if !(16..=30).contains(&bits) {
            return Err(invalid("it has between 16 and 30 bits"));
        }
        let network = u32::from(address);
        if network & (u32::MAX >> bits) != 0 {
            return Err(invalid("it begins with the address of a network"));
        }
        Ok(Self { network, bits })
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.network), self.bits)
    }
}

impl TryFrom<String> for Subnet {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> String {
        subnet.to_string()
    }
}

/// The document of a network of ours.
pub(super) fn document(owner: &OwnerId, name: &str, nat: bool, subnet: Subnet) -> Result<String> {
    let address = |index: u32| Ipv4Addr::from(subnet.network + index);
    // A quarter for those who were given no address, the rest to be given.
    let last_dynamic = (1u32 << (32 - subnet.bits)) / 4 + 1;
    let range =
        element("range").attribute("start", address(2)).attribute("end", address(last_dynamic));
    let ip = element("ip")
        .attribute("address", address(1))
        .attribute("prefix", subnet.bits)
        .child(element("dhcp").child(range));
    let mut network = element("network")
        .child(element("name").text(name))
        .child(element("uuid").text(id(owner, "network", name)))
        // A bridge that waits for loops to show holds back each guest's first packets.
        .child(element("bridge").attribute("stp", "off").attribute("delay", 0))
        .child(ip);
    if nat {
        network = network.child(element("forward").attribute("mode", "nat"));
    }
    Ok(Tree::of(network)?.into_xml())
}

/// An address that a network keeps for one card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) mac: String,
    pub(crate) name: String,
    pub(crate) ip: Ipv4Addr,
}

impl Host {
    /// Whose it is, if it is the entry of an instance of `owner`.
    pub(crate) fn worker(&self, owner: &OwnerId) -> Option<WorkerName> {
        let name = WorkerName::new(&self.name).ok()?;
        let ours = MacAddress::of(owner, &name).to_string();
        ours.eq_ignore_ascii_case(&self.mac).then_some(name)
    }

    pub(crate) fn document(&self) -> Result<String> {
        let host = element("host")
            .attribute("mac", &self.mac)
            .attribute("name", &self.name)
            .attribute("ip", self.ip);
        Ok(Tree::of(host)?.into_xml())
    }
}

/// What a network gives to those who ask for an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dhcp {
    /// The host's own address, where names are asked for too.
    pub(crate) gateway: Ipv4Addr,
    bits: u32,
    ranges: Vec<(u32, u32)>,
    pub(crate) hosts: Vec<Host>,
}

impl Dhcp {
    /// That of a network; none if it gives no IPv4 addresses.
    ///
    /// # Errors
    /// `Invalid` for what libvirt would not write.
    pub(crate) fn read(document: &str) -> Result<Option<Self>> {
        let tree = Tree::parse("the document of a network", document)?;
        for ip in tree.children(tree.root(), "ip") {
            let of = |node, name: &str| tree.attribute(node, name);
            let Some(gateway) = of(ip, "address").and_then(|text| text.parse::<Ipv4Addr>().ok())
            else {
                continue;
            };
            let mask = of(ip, "netmask").and_then(|mask| mask.parse::<Ipv4Addr>().ok());
            let bits = mask.map(|mask| u32::from(mask).leading_ones());
            let bits = bits.or_else(|| of(ip, "prefix")?.parse().ok());
            let (Some(bits @ 1..=30), Some(dhcp)) = (bits, tree.child(ip, "dhcp")) else {
                continue;
            };
            let address =
                |node, name: &str| of(node, name).and_then(|text| text.parse::<Ipv4Addr>().ok());
            let ranges = tree.children(dhcp, "range").into_iter().filter_map(|range| {
                Some((address(range, "start")?.into(), address(range, "end")?.into()))
            });
            let hosts = tree.children(dhcp, "host").into_iter().filter_map(|host| {
                Some(Host {
                    mac: of(host, "mac").unwrap_or_default().to_owned(),
                    name: of(host, "name").unwrap_or_default().to_owned(),
                    ip: address(host, "ip")?,
                })
            });
            let (ranges, hosts) = (ranges.collect(), hosts.collect());
            return Ok(Some(Self { gateway, bits, ranges, hosts }));
        }
        Ok(None)
    }

    /// An address that nobody has: one that is not given to strangers if there is one, and otherwise one that is
    /// given to them last.
    pub(crate) fn free(&self, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        let size = 1u64 << (32 - self.bits);
        let network = u32::from(self.gateway) & (u32::MAX << (32 - self.bits));
        // Neither the network's own address nor the one for all.
        let all = || (1..size - 1).map(|index| network + index as u32);
        let dynamic =
            |ip: u32| self.ranges.iter().any(|(start, end)| (*start..=*end).contains(&ip));
        let free = |ip: &u32| {
            let ip = Ipv4Addr::from(*ip);
            ip != self.gateway
                && !taken.contains(&ip)
                && !self.hosts.iter().any(|host| host.ip == ip)
        };
        let outside = all().find(|ip| !dynamic(*ip) && free(ip));
        outside.or_else(|| all().rev().find(free)).map(Ipv4Addr::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::compare;

    const THEIRS: &str = "<network><name>cinet</name><forward mode='nat'/>
      <ip family='ipv6' address='fd00::1' prefix='64'/>
      <ip address='192.168.100.1' netmask='255.255.255.248'>
        <dhcp>
          <range start='192.168.100.3' end='192.168.100.5'/>
          <host mac='52:54:00:00:00:01' name='printer' ip='192.168.100.2'/>
          <host mac='52:54:00:00:00:02' ip='192.168.100.4'/>
        </dhcp>
      </ip></network>";

    #[test]
    fn addresses_beside_the_dynamic_ones_are_given_first() {
        let dhcp = Dhcp::read(THEIRS).unwrap().unwrap();
        let mut taken = BTreeSet::new();
        let mut given = Vec::new();
        while let Some(ip) = dhcp.free(&taken) {
            taken.insert(ip);
            given.push(ip.octets()[3]);
        }
        // 1 is the host's, 2 and 4 are someone's, 3 to 5 are dynamic.
        assert_eq!(given, [6, 5, 3]);
    }

    #[test]
    fn only_an_entry_with_our_name_and_our_card_is_ours() {
        let (us, them) = (OwnerId::new("us").unwrap(), OwnerId::new("them").unwrap());
        let name = WorkerName::new("linux-17").unwrap();
        let mac = MacAddress::of(&us, &name).to_string();
        let ip = Ipv4Addr::LOCALHOST;
        let ours = Host { mac: mac.to_uppercase(), name: name.to_string(), ip };
        assert_eq!(ours.worker(&us), Some(name.clone()));
        assert_eq!(ours.worker(&them), None);
        let other = Host { name: "linux-18".to_owned(), ..ours.clone() };
        assert_eq!(other.worker(&us), None);
        let dhcp = Dhcp::read(THEIRS).unwrap().unwrap();
        assert!(dhcp.hosts.iter().all(|host| host.worker(&us).is_none()));
        assert_eq!(dhcp.hosts.len(), 2);
    }

    #[test]
    fn a_network_without_addresses_to_give_has_none() {
        for text in [
            "<network/>",
            "<network><ip address='10.0.0.1' prefix='24'/></network>",
            "<network><ip address='10.0.0.1' prefix='32'><dhcp/></ip></network>",
            "<network><ip address='fd00::1' prefix='64'><dhcp/></ip></network>",
            "<network><ip address='x' prefix='y'><dhcp/></ip></network>",
        ] {
            assert_eq!(Dhcp::read(text).unwrap(), None, "{text}");
        }
        assert!(Dhcp::read("<network").is_err());
    }

    #[test]
    fn a_subnet_says_which_rule_it_breaks() {
        for (text, reason) in [
            ("10.0.0.0", "like 10.20.30.0/24"),
            ("10.0.0/24", "like 10.20.30.0/24"),
            ("10.0.0.0/31", "between 16 and 30"),
            ("10.0.0.0/8", "between 16 and 30"),
            ("10.0.0.1/24", "the address of a network"),
        ] {
            let error = text.parse::<Subnet>().unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        assert_eq!("10.0.0.4/30".parse::<Subnet>().unwrap().to_string(), "10.0.0.4/30");
    }

    #[test]
    fn a_network_of_ours_as_libvirt_is_told() {
        let us = OwnerId::new("us").unwrap();
        let subnet = "10.77.3.0/24".parse().unwrap();
        for (nat, golden) in [(true, "network-nat.xml"), (false, "network-isolated.xml")] {
            let text = document(&us, "a <name> & 'more'", nat, subnet).unwrap();
            compare(golden, &text);
            let dhcp = Dhcp::read(&text).unwrap().unwrap();
            assert_eq!(dhcp.free(&BTreeSet::new()), Some(Ipv4Addr::new(10, 77, 3, 66)));
        }
        let ip = Ipv4Addr::new(10, 0, 0, 7);
        let host = Host { mac: "52:00:00:00:00:01".to_owned(), name: "a-1".to_owned(), ip };
        let expected = "<host mac=\"52:00:00:00:00:01\" name=\"a-1\" ip=\"10.0.0.7\"/>\n";
        assert_eq!(host.document().unwrap(), expected);
    }

    #[test]
    fn the_smallest_network_has_an_address_to_give() {
        let us = OwnerId::new("us").unwrap();
        let text = document(&us, "a", true, "10.0.0.4/30".parse().unwrap()).unwrap();
        let dhcp = Dhcp::read(&text).unwrap().unwrap();
        assert_eq!(dhcp.gateway, Ipv4Addr::new(10, 0, 0, 5));
        assert_eq!(dhcp.free(&BTreeSet::new()), Some(Ipv4Addr::new(10, 0, 0, 6)));
    }
}
