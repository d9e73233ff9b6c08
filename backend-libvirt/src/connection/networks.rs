//! Calls about networks, the addresses they keep, and filters.

use std::net::IpAddr;

use uuid::Uuid;
use virt::{
    connect::Connect,
    error::{Error, ErrorNumber},
    network::Network,
    sys,
};

use super::{Connection, Failure, Kind};

/// A network, whoever's it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) id: Uuid,
    /// Its document, if it is active.
    pub(crate) live: Option<String>,
    /// The document it will have when it is started again, if it lasts.
    pub(crate) stored: Option<String>,
}

/// An address that a network is to keep, or to keep no longer.
#[derive(Debug, Clone)]
pub(crate) struct HostChange {
    pub(crate) add: bool,
    /// The `<host>` element.
    pub(crate) host: String,
    /// In the network as it is now.
    pub(crate) live: bool,
    /// In the network as it will be.
    pub(crate) stored: bool,
}

impl Connection {
    /// The network of this name.
    pub(crate) async fn network(&self, name: &str) -> Result<Option<Seen>, Failure> {
        let name = name.to_owned();
        self.call(Kind::Look, move |connect| {
            let look = || {
                let network = connect.lookup_network_by_name(&name)?;
                Ok(Seen {
                    id: network.uuid()?,
                    live: network.is_active()?.then(|| network.xml_desc(0)).transpose()?,
                    stored: network.is_persistent()?.then(|| stored(&network)).transpose()?,
                })
            };
            present(look())
        })
        .await
    }

    /// Defines a network that lasts and is started with the host, without starting it now.
    pub(crate) async fn define_network(&self, document: String) -> Result<(), Failure> {
        self.call(Kind::Act, move |connect| {
            connect.define_network_xml(&document)?.set_autostart(true).map(|_| ())
        })
        .await
    }

    /// Starts a network. Fine when it is active.
    pub(crate) async fn start_network(&self, id: Uuid) -> Result<(), Failure> {
        self.call(Kind::Act, move |connect| {
            let network = connect.lookup_network_by_uuid(id)?;
            match network.create() {
                // Someone else was faster.
                Err(_) if network.is_active()? => Ok(()),
                result => result,
            }
        })
        .await
    }

    /// Changes which addresses a network keeps. Fine when one that is to go is gone.
    pub(crate) async fn change_host(&self, id: Uuid, change: HostChange) -> Result<(), Failure> {
        self.call(Kind::Act, move |connect| {
            let network = match present(connect.lookup_network_by_uuid(id))? {
                Some(network) => network,
                None if !change.add => return Ok(()),
                None => connect.lookup_network_by_uuid(id)?,
            };
            for (wanted, flag) in [
                (change.live, sys::VIR_NETWORK_UPDATE_AFFECT_LIVE),
                (change.stored, sys::VIR_NETWORK_UPDATE_AFFECT_CONFIG),
            ] {
                if wanted {
                    update(&network, &change, flag)?;
                }
            }
            Ok(())
        })
        .await
    }

    /// The id of the filter of this name.
    pub(crate) async fn filter(&self, name: &str) -> Result<Option<Uuid>, Failure> {
        let name = name.to_owned();
        self.call(Kind::Look, move |connect| {
            present(connect.lookup_nwfilter_by_name(&name).and_then(|filter| filter.uuid()))
        })
        .await
    }

    /// Makes a filter, or changes it for all who have it.
    pub(crate) async fn define_filter(&self, document: String) -> Result<(), Failure> {
        self.call(Kind::Act, move |connect| connect.define_nwfilter_xml(&document).map(|_| ()))
            .await
    }

    /// The addresses of a domain's cards, without those that hold on its own links only: as the network gave them,
    /// or else as its agent tells. None for one that does not run, or has none yet. The table of neighbours, a third
    /// source of libvirt's, is not asked: it fails on newer kernels.
    pub(crate) async fn addresses(&self, domain: Uuid) -> Result<Vec<IpAddr>, Failure> {
        let given = self.given_addresses(domain).await?;
        if !given.is_empty() {
            return Ok(given);
        }
        let source = sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT;
        self.addresses_by(Kind::Act, domain, source).await
    }

    /// The addresses that the network gave to a domain's cards: nothing that the guest says.
    pub(crate) async fn given_addresses(&self, domain: Uuid) -> Result<Vec<IpAddr>, Failure> {
        let source = sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE;
        self.addresses_by(Kind::Look, domain, source).await
    }

    /// A source that cannot tell knows of none.
    async fn addresses_by(
        &self,
        kind: Kind,
        domain: Uuid,
        source: sys::virDomainInterfaceAddressesSource,
    ) -> Result<Vec<IpAddr>, Failure> {
        let asked = self.call(kind, move |connect| Ok(of_domain(connect, domain, source))).await?;
        Ok(asked.unwrap_or_default())
    }
}

fn stored(network: &Network) -> Result<String, Error> {
    match network.xml_desc(sys::VIR_NETWORK_XML_INACTIVE) {
        // A driver with one document for both does not know the word for the other.
        Err(error) if error.code().known() == Some(ErrorNumber::InvalidArg) => network.xml_desc(0),
        result => result,
    }
}

fn update(network: &Network, change: &HostChange, flag: u32) -> Result<(), Error> {
    let command = match change.add {
        true => sys::VIR_NETWORK_UPDATE_COMMAND_ADD_LAST,
        false => sys::VIR_NETWORK_UPDATE_COMMAND_DELETE,
    };
    let section = sys::VIR_NETWORK_SECTION_IP_DHCP_HOST;
    let updated = network.update(command, section, -1, &change.host, flag);
    match updated {
        // Someone else removed it, or the network ended.
        Err(_) if !change.add && !holds(network, &change.host, flag)? => Ok(()),
        result => result,
    }
}

/// Whether the network keeps the address of this entry.
fn holds(network: &Network, host: &str, flag: u32) -> Result<bool, Error> {
    let document = match flag == sys::VIR_NETWORK_UPDATE_AFFECT_LIVE {
        true if !network.is_active()? => return Ok(false),
        true => network.xml_desc(0)?,
        false => network.xml_desc(sys::VIR_NETWORK_XML_INACTIVE)?,
    };
    // An entry is known by the address of the card, which nothing else in the document has.
    let mac = host.split('"').find(|part| part.matches(':').count() == 5).unwrap_or(host);
    Ok(document.to_ascii_lowercase().contains(&mac.to_ascii_lowercase()))
}

fn of_domain(
    connect: &Connect,
    domain: Uuid,
    source: sys::virDomainInterfaceAddressesSource,
) -> Result<Vec<IpAddr>, Error> {
    let interfaces = connect.lookup_domain_by_uuid(domain)?.interface_addresses(source, 0)?;
    let all = interfaces.into_iter().flat_map(|interface| interface.addrs);
    let all = all.filter_map(|address| address.addr.parse::<IpAddr>().ok());
    Ok(all
        .filter(|address| match address {
            IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local(),
            IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
        })
        .collect())
}

/// None for what does not exist.
fn present<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Err(error)
            if matches!(
                error.code().known(),
                Some(ErrorNumber::NoNetwork | ErrorNumber::NoNwfilter)
            ) =>
        {
            Ok(None)
        }
        result => result.map(Some),
    }
}
