//! What machines may ask this service for: where it is served, and how they are known.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use serde::Deserialize;
use toml::Spanned;

use super::{
    ConfigError, HypervisorConfig, HypervisorKind, NetworkKind, place::Source, units::Rate,
};

/// What machines may ask this service for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestsConfig {
    /// Where machines are served, and nobody else.
    pub listen: SocketAddr,
    /// The address by which machines reach that. Made of `listen`, if none.
    pub url: Option<String>,
    /// Addresses that are machines'. They may fetch files without further proof, and are not let into the API.
    pub networks: Vec<IpNet>,
    /// Whose word is taken for the address of whoever asks.
    pub proxies: Vec<IpAddr>,
    /// Where profiles have their boot scripts, each in a directory of its name.
    pub boot_scripts: Option<PathBuf>,
    /// How often each address may ask. As often as it likes, if none.
    pub rate: Option<Rate>,
}

/// How often a machine asks that has nothing else to do: a start, and a mirror's many small files.
const RATE: &str = "500/s";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Guests {
    listen: Spanned<SocketAddr>,
    url: Option<Spanned<String>>,
    networks: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    proxies: Vec<IpAddr>,
    boot_scripts: Option<PathBuf>,
    rate: Option<Spanned<String>>,
}

pub(super) fn guests(
    source: &Source<'_>,
    base: &Path,
    http: SocketAddr,
    hypervisor: &HypervisorConfig,
    section: Option<Guests>,
) -> Result<Option<GuestsConfig>, ConfigError> {
    let Some(section) = section else { return Ok(None) };
    let listen = *section.listen.get_ref();
    if listen == http && listen.port() != 0 {
        let problem = "the API listens there; machines are served at an address of their own";
        return Err(source.problem(Some(section.listen.span()), "guests.listen", problem));
    }
    if let Some(url) = &section.url {
        let text = url.get_ref();
        let plain = |b: u8| b.is_ascii_graphic() && !b"\"'\\`$#?@".contains(&b);
        if !text.starts_with("http://") || !text.bytes().all(plain) {
            let problem = format!(
                "{text:?} is not an address such as http://192.168.122.1:8001 that machines reach"
            );
            return Err(source.problem(Some(url.span()), "guests.url", problem));
        }
    } else if listen.ip().is_unspecified() {
        let problem = "say by which address machines reach it: url = \"http://…\"";
        return Err(source.problem(Some(section.listen.span()), "guests.listen", problem));
    }
    let mut networks = Vec::new();
    match section.networks {
        Some(named) => {
            for (index, network) in named.into_iter().enumerate() {
                match network.get_ref().parse::<IpNet>() {
                    Ok(parsed) => networks.push(parsed.trunc()),
                    Err(_) => {
                        let key = format!("guests.networks[{index}]");
                        let problem = format!(
                            "{:?} is not a network such as 192.168.122.0/24",
                            network.get_ref()
                        );
                        return Err(source.problem(Some(network.span()), key, problem));
                    }
                }
            }
        }
        None => networks.extend(own_network(hypervisor)),
    }
    let rate = match section.rate {
        None => Some(RATE.parse().expect("it is a rate")),
        Some(rate) if rate.get_ref() == "off" => None,
        Some(rate) => match rate.get_ref().parse::<Rate>() {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                let (span, problem) = (rate.span(), error.to_string());
                return Err(source.problem(Some(span), "guests.rate", problem));
            }
        },
    };
    Ok(Some(GuestsConfig {
        listen,
        url: section.url.map(|url| url.into_inner().trim_end_matches('/').to_owned()),
        networks,
        proxies: section.proxies.into_iter().map(|address| address.to_canonical()).collect(),
        boot_scripts: section.boot_scripts.map(|path| base.join(path)),
        rate,
    }))
}

/// The addresses of a network that is the machines' own.
fn own_network(hypervisor: &HypervisorConfig) -> Option<IpNet> {
    match &hypervisor.kind {
        HypervisorKind::Libvirt(libvirt)
            if matches!(libvirt.network.kind, NetworkKind::Nat | NetworkKind::Isolated) =>
        {
            libvirt.network.subnet.parse::<IpNet>().ok().map(|network| network.trunc())
        }
        _ => None,
    }
}

/// Whether machines come from the address of this host itself: its emulators speak for them.
pub(super) fn speak_from_loopback(hypervisor: &HypervisorConfig) -> bool {
    match &hypervisor.kind {
        HypervisorKind::Qemu { .. } => true,
        HypervisorKind::Libvirt(libvirt) => libvirt.network.kind == NetworkKind::User,
    }
}

impl GuestsConfig {
    /// Whether an address is a machine's.
    pub fn is_machines(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }
}
