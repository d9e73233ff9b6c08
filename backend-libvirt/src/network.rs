//! What instances are plugged into: that it is there, what addresses it keeps for them, and what they reach.

pub(crate) mod document;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

use runner_core::{
    Error, OwnerId, ProfileName, Result, WorkerName,
    hypervisor::{InstanceSpec, Network},
};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

pub use self::document::Subnet;
use self::document::{Dhcp, Host};
pub use crate::filter::{Allowed, Protocol};
use crate::{
    connection::{
        Connection, Failure,
        networks::{HostChange, Seen},
    },
    domain::{DomainNetwork, MacAddress, NetworkSource},
    error, filter,
};

/// How often an address is chosen anew because someone else just took it.
const ATTEMPTS: usize = 5;

/// What instances are plugged into, and what they reach there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkConfig {
    /// What they are plugged into.
    pub plug: Plug,
    /// Whether guests are kept from each other. On a bridge with other ports, only ports that are kept apart too are
    /// out of reach. Takes Linux 4.18 and libvirt 6.2.
    pub isolated: bool,
    /// What restricted guests reach, whatever their profile: the monitor.
    pub allow: BTreeSet<Allowed>,
    /// What the restricted guests of a profile reach besides.
    pub allow_profile: BTreeMap<ProfileName, BTreeSet<Allowed>>,
}

/// What instances are plugged into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Plug {
    /// The emulator itself: needs no network and no rights. Guests reach what the host reaches, slowly, and never
    /// each other; restricted ones have their cable unplugged, and so reach nothing, whatever is allowed.
    User,
    /// A bridge that the host has. It is not looked after, and nobody keeps addresses for guests there.
    Bridge {
        /// The bridge's name.
        name: String,
    },
    /// A network of libvirt's, made active when it is not.
    Network {
        /// The network's name.
        name: String,
        /// What to make, if there is no network of that name. What there is stays as it is.
        make: Option<MakeNetwork>,
    },
}

/// A network to be made. It stays when nobody uses it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MakeNetwork {
    /// Whether guests reach beyond the host, with the host's address. Otherwise they reach the host and each other.
    pub nat: bool,
    /// The addresses it has. Nobody else near the host may have them.
    pub subnet: Subnet,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            plug: Plug::User,
            isolated: true,
            allow: BTreeSet::new(),
            allow_profile: BTreeMap::new(),
        }
    }
}

/// The networks of one owner on one host.
pub(crate) struct Networks {
    connection: Arc<Connection>,
    config: NetworkConfig,
    owner: OwnerId,
    /// Held from looking for a free address until it is taken, and while a network is made.
    turn: Mutex<()>,
    /// The filters that are as they should be.
    filters: Mutex<BTreeSet<ProfileName>>,
}

impl Networks {
    pub(crate) fn new(connection: Arc<Connection>, config: NetworkConfig, owner: OwnerId) -> Self {
        let (turn, filters) = (Mutex::default(), Mutex::default());
        Self { connection, config, owner, turn, filters }
    }

    /// Sees to it that there is something to plug `spec` into, with an address kept for it, and says how to plug it
    /// in. To be undone by [`unplug`](Self::unplug) when the instance is gone, however far this came.
    ///
    /// # Errors
    /// `Backend` when the network is not there and none is to be made, or could not be made or started; `Invalid`
    /// when someone else's filter has the name of ours.
    ///
    /// # Cancel safety
    /// May be dropped at any moment; what it kept by then is swept later.
    pub(crate) async fn plug(&self, spec: &InstanceSpec) -> Result<DomainNetwork> {
        let restricted = match spec.network {
            Network::Open => false,
            Network::Restricted => true,
        };
        let (source, dns) = match &self.config.plug {
            Plug::User => {
                return Ok(DomainNetwork {
                    source: NetworkSource::User,
                    isolated: false,
                    filter: None,
                    connected: !restricted,
                });
            }
            Plug::Bridge { name } => (NetworkSource::Bridge(name.clone()), None),
            Plug::Network { name, make } => {
                let seen = self.ensure(name, *make).await?;
                let dns = self.keep_address(name, seen, &spec.name).await?;
                (NetworkSource::Network(name.clone()), dns)
            }
        };
        let filter = match restricted {
            true => Some(self.filter(&spec.profile, dns).await?),
            false => None,
        };
        Ok(DomainNetwork { source, isolated: self.config.isolated, filter, connected: true })
    }

    /// Gives up the address that is kept for an instance that is gone. Fine if there is none.
    ///
    /// # Errors
    /// `Backend` when it could not be given up.
    ///
    /// # Cancel safety
    /// Repeat it until it succeeds.
    pub(crate) async fn unplug(&self, name: &WorkerName) -> Result<()> {
        self.give_up(|worker| worker == name).await
    }

    /// Gives up the addresses of all instances of ours but the `living`.
    ///
    /// # Errors
    /// `Backend` when one could not be given up.
    ///
    /// # Cancel safety
    /// Repeat it until it succeeds.
    pub(crate) async fn sweep(&self, living: &BTreeSet<WorkerName>) -> Result<()> {
        self.give_up(|worker| !living.contains(worker)).await
    }

    /// The network, made and started when it is not.
    async fn ensure(&self, name: &str, make: Option<MakeNetwork>) -> Result<Seen> {
        let doing = |what: &str| format!("{what} network {name}");
        let look = async || self.connection.network(name).await;
        let is_live = |seen: &Option<Seen>| seen.as_ref().is_some_and(|seen| seen.live.is_some());
        let mut seen = look().await.map_err(|failure| failure.doing(doing("look at")))?;
        if is_live(&seen) {
            return seen.ok_or_else(|| missing(name));
        }
        let _turn = self.turn.lock().await;
        // Whoever had the turn before may have made it, and to make it again would lose the addresses it keeps.
        seen = look().await.map_err(|failure| failure.doing(doing("look at")))?;
        if is_live(&seen) {
            return seen.ok_or_else(|| missing(name));
        }
        if seen.is_none() {
            let make = make.ok_or_else(|| missing(name))?;
            let text = document::document(&self.owner, name, make.nat, make.subnet)?;
            let made = self.connection.define_network(text).await;
            made.map_err(|failure| failure.doing(doing("make")))?;
            tracing::info!(network = name, subnet = %make.subnet, nat = make.nat, "Made a network.");
            seen = look().await.map_err(|failure| failure.doing(doing("look at")))?;
        }
        let network = seen.ok_or_else(|| missing(name))?;
        if network.live.is_none() {
            let started = self.connection.start_network(network.id).await;
            started.map_err(|failure| failure.doing(doing("start")))?;
            tracing::info!(network = name, "Started a network.");
        }
        let seen = look().await.map_err(|failure| failure.doing(doing("look at")))?;
        seen.ok_or_else(|| missing(name))
    }

    /// Has the network keep an address for the instance, if it has any to give, and returns where names are asked
    /// for. An instance for which none is kept asks for one itself, which takes seconds longer.
    async fn keep_address(
        &self,
        network: &str,
        mut seen: Seen,
        name: &WorkerName,
    ) -> Result<Option<Ipv4Addr>> {
        let doing = || format!("keep an address for {name}");
        let mac = MacAddress::of(&self.owner, name).to_string();
        let mut tried = BTreeSet::new();
        let _turn = self.turn.lock().await;
        for _ in 0..ATTEMPTS {
            let (live, stored) = (dhcp(&seen.live)?, dhcp(&seen.stored)?);
            let Some(now) = &live else {
                return Ok(None);
            };
            let own = |dhcp: &Option<Dhcp>| {
                let mut hosts = dhcp.iter().flat_map(|dhcp| &dhcp.hosts);
                hosts.find(|host| host.worker(&self.owner).as_ref() == Some(name)).cloned()
            };
            let (in_live, in_stored) = (own(&live), own(&stored));
            let mut taken = tried.clone();
            taken.extend(stored.iter().flat_map(|dhcp| dhcp.hosts.iter().map(|host| host.ip)));
            let kept = in_live.as_ref().or(in_stored.as_ref()).map(|host| host.ip);
            let Some(ip) = kept.or_else(|| now.free(&taken)) else {
                tracing::debug!(network, worker = %name, "No address is left to be kept.");
                return Ok(Some(now.gateway));
            };
            let host = Host { mac: mac.clone(), name: name.to_string(), ip };
            let change = HostChange {
                add: true,
                host: host.document()?,
                live: in_live.is_none(),
                stored: stored.is_some() && in_stored.is_none(),
            };
            match self.connection.change_host(seen.id, change).await {
                Ok(()) => return Ok(Some(now.gateway)),
                Err(failure @ Failure::Refused { .. }) => {
                    // Someone else's instance may have taken it this instant.
                    tracing::debug!(network, worker = %name, %ip, error = %failure, "An address was refused.");
                    tried.insert(ip);
                }
                Err(failure) => return Err(failure.doing(doing())),
            }
            let again = self.connection.network(network).await;
            let again = again.map_err(|failure| failure.doing(doing()))?;
            seen = again.ok_or_else(|| missing(network))?;
        }
        // It is no worse off than any guest of that network.
        tracing::warn!(network, worker = %name, "The network keeps no address for an instance.");
        Ok(dhcp(&seen.live)?.map(|dhcp| dhcp.gateway))
    }

    async fn give_up(&self, which: impl Fn(&WorkerName) -> bool) -> Result<()> {
        let Plug::Network { name: network, .. } = &self.config.plug else {
            return Ok(());
        };
        let doing = || format!("give up addresses in network {network}");
        let look = self.connection.network(network).await;
        let Some(seen) = look.map_err(|failure| failure.doing(doing()))? else {
            return Ok(());
        };
        let (live, stored) = (dhcp(&seen.live)?, dhcp(&seen.stored)?);
        for (dhcp, is_live) in [(live, true), (stored, false)] {
            for host in dhcp.into_iter().flat_map(|dhcp| dhcp.hosts) {
                if !host.worker(&self.owner).is_some_and(|worker| which(&worker)) {
                    continue;
                }
                let change = HostChange {
                    add: false,
                    host: host.document()?,
                    live: is_live,
                    stored: !is_live,
                };
                let changed = self.connection.change_host(seen.id, change).await;
                changed.map_err(|failure| failure.doing(doing()))?;
            }
        }
        Ok(())
    }

    /// The filter of a profile, made or brought up to date.
    async fn filter(&self, profile: &ProfileName, dns: Option<Ipv4Addr>) -> Result<String> {
        let (name, uuid) = filter::identity(&self.owner, profile);
        let doing = || format!("make network filter {name}");
        let there = self.connection.filter(&name).await;
        let there = there.map_err(|failure| failure.doing(doing()))?;
        if there.is_some_and(|there| there != uuid) {
            let way_out = "it has the name of ours; rename it, or remove it with \
                           `virsh nwfilter-undefine`";
            return Err(Error::invalid(format!("network filter {name} of someone else"), way_out));
        }
        let mut known = self.filters.lock().await;
        if there.is_none() || !known.contains(profile) {
            let own = self.config.allow_profile.get(profile).into_iter().flatten();
            let allowed: Vec<_> = self.config.allow.iter().chain(own).copied().collect();
            let text = filter::document(&self.owner, profile, dns, &allowed)?;
            let made = self.connection.define_filter(text).await;
            made.map_err(|failure| failure.doing(doing()))?;
            known.insert(profile.clone());
        }
        Ok(name)
    }
}

fn dhcp(document: &Option<String>) -> Result<Option<Dhcp>> {
    match document {
        Some(document) => Dhcp::read(document),
        None => Ok(None),
    }
}

fn missing(name: &str) -> Error {
    let way_out = "libvirt has no such network: define it, or have the pool make one";
    error::backend(format!("use network {name}"), way_out)
}
