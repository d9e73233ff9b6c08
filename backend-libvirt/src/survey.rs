//! What a daemon has for instances, looked at before there is any: for whoever asks whether it will work.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use runner_core::{Hint, Result};

use crate::{
    config::LibvirtConfig,
    connection::{Connection, OnEvent},
    network::Plug,
    storage::StorageConfig,
    uri::Driver,
    xml::Tree,
};

/// How long a daemon may take that is only looked at.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a daemon has for instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// Of libvirt's daemon.
    pub daemon: Version,
    /// Of the emulator that it runs machines with; none while it finds none.
    pub hypervisor: Option<Version>,
    /// What runs the guests' code by translation.
    pub translated: Option<PathBuf>,
    /// What runs the guests' code on the host's processor.
    pub accelerated: Option<PathBuf>,
    /// The numbers of the user and the group that machines run as, if libvirt says so. A daemon of a single user
    /// does not.
    pub user: Option<(u32, u32)>,
    /// What instances would be plugged into.
    pub network: State,
    /// Where their disks would be.
    pub storage: State,
}

/// A version, as libvirt tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// As in `9`.0.0.
    pub major: u32,
    /// As in 9.`0`.0.
    pub minor: u32,
    /// As in 9.0.`0`.
    pub release: u32,
}

/// Whether something that instances need is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing of libvirt's is needed.
    NotNeeded,
    /// It is active.
    Active,
    /// It is there, and the first instance will start it.
    Inactive,
    /// It is not there, and the first instance will make it.
    ToBeMade,
    /// It is not there, and nobody makes it.
    Missing,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.release)
    }
}

impl From<u32> for Version {
    /// libvirt's way to put three numbers into one.
    fn from(number: u32) -> Self {
        Self { major: number / 1_000_000, minor: number / 1_000 % 1_000, release: number % 1_000 }
    }
}

/// Looks at what `config` would use. Changes nothing.
///
/// # Errors
/// `Unauthorized` when the daemon refuses us, `Backend` when it cannot be reached or asked.
///
/// # Cancel safety
/// Cancel safe.
pub async fn survey(config: &LibvirtConfig) -> Result<Survey> {
    let unheard: OnEvent = Arc::new(|_| {});
    let connection =
        Connection::open(config.uri.clone(), PATIENCE, Some(unheard), Hint::default()).await?;
    let asked = async {
        let versions = connection.versions().await?;
        let capabilities = connection.capabilities().await?;
        let network = match &config.network.plug {
            Plug::Network { name, make } => match connection.network(name).await? {
                Some(seen) => State::of(seen.live.is_some()),
                None => State::without(make.is_some()),
            },
            Plug::User | Plug::Bridge { .. } => State::NotNeeded,
        };
        let storage = match &config.storage {
            StorageConfig::Pool { name, make } => match connection.pool(name).await? {
                Some(active) => State::of(active),
                None => State::without(make.is_some()),
            },
            StorageConfig::Directory { .. } => State::NotNeeded,
        };
        Ok((versions, capabilities, network, storage))
    };
    let asked: Result<_, crate::connection::Failure> = asked.await;
    let ((daemon, hypervisor), capabilities, network, storage) =
        asked.map_err(|failure| failure.doing("look at the host"))?;
    let wanted = match config.uri.driver() {
        Driver::Qemu => "qemu",
        Driver::Test => "test",
    };
    let emulators = Emulators::read(&capabilities)?;
    Ok(Survey {
        daemon: daemon.into(),
        hypervisor: hypervisor.map(Version::from),
        translated: emulators.of(wanted),
        accelerated: emulators.of("kvm"),
        user: user(&capabilities)?,
        network,
        storage,
    })
}

impl State {
    fn of(active: bool) -> Self {
        if active { Self::Active } else { Self::Inactive }
    }

    fn without(is_made: bool) -> Self {
        if is_made { Self::ToBeMade } else { Self::Missing }
    }
}

/// The emulators of this architecture's machines, each with the type of domain it runs.
struct Emulators(Vec<(String, PathBuf)>);

impl Emulators {
    fn read(capabilities: &str) -> Result<Self> {
        let tree = Tree::parse("the daemon's capabilities", capabilities)?;
        let mut found = Vec::new();
        for guest in tree.children(tree.root(), "guest") {
            let is_hvm = tree.child(guest, "os_type").is_some_and(|kind| tree.text(kind) == "hvm");
            let arch = tree.child(guest, "arch");
            let arch = arch.filter(|arch| tree.attribute(*arch, "name") == Some("x86_64"));
            let (true, Some(arch)) = (is_hvm, arch) else { continue };
            let emulator = |node| tree.child(node, "emulator").map(|node| tree.text(node));
            let usual = emulator(arch);
            for domain in tree.children(arch, "domain") {
                let kind = tree.attribute(domain, "type").unwrap_or_default().to_owned();
                let path = emulator(domain).or_else(|| usual.clone()).unwrap_or_default();
                found.push((kind, PathBuf::from(path)));
            }
        }
        Ok(Self(found))
    }

    fn of(&self, kind: &str) -> Option<PathBuf> {
        let mut found = self.0.iter().filter(|(other, _)| other == kind);
        found.next().map(|(_, path)| path.clone())
    }
}

/// Who runs machines, of what libvirt calls discretionary access control: `+UID:+GID`.
fn user(capabilities: &str) -> Result<Option<(u32, u32)>> {
    let tree = Tree::parse("the daemon's capabilities", capabilities)?;
    let host = tree.child(tree.root(), "host");
    let models = host.map(|host| tree.children(host, "secmodel")).unwrap_or_default();
    let mut labels = models.into_iter().filter_map(|model| {
        let name = tree.child(model, "model").map(|name| tree.text(name))?;
        let label = tree.child(model, "baselabel").map(|label| tree.text(label))?;
        let (user, group) = label.split_once(':').filter(|_| name == "dac")?;
        let number = |text: &str| text.trim_start_matches('+').parse().ok();
        Some((number(user)?, number(group)?))
    });
    Ok(labels.next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emulators_are_found_by_type_and_architecture() {
        let text = "<capabilities><host/>\
            <guest><os_type>hvm</os_type><arch name='i686'><emulator>/bin/i386</emulator>\
            <domain type='qemu'/></arch></guest>\
            <guest><os_type>hvm</os_type><arch name='x86_64'><emulator>/bin/x86</emulator>\
            <domain type='qemu'/><domain type='kvm'><emulator>/bin/kvm</emulator></domain></arch>\
            </guest></capabilities>";
        let emulators = Emulators::read(text).unwrap();
        assert_eq!(emulators.of("qemu"), Some("/bin/x86".into()));
        assert_eq!(emulators.of("kvm"), Some("/bin/kvm".into()));
        assert_eq!(emulators.of("xen"), None);
        assert!(Emulators::read("<capabilities>").is_err());
    }

    #[test]
    fn whoever_runs_machines_is_found_by_number() {
        let of = |models: &str| {
            user(&format!("<capabilities><host>{models}</host></capabilities>")).unwrap()
        };
        let dac = "<secmodel><model>dac</model><doi>0</doi>\
            <baselabel type='kvm'>+64055:+104</baselabel>\
            <baselabel type='qemu'>+64055:+104</baselabel></secmodel>";
        let other = "<secmodel><model>apparmor</model><doi>0</doi></secmodel>";
        assert_eq!(of(&format!("{other}{dac}")), Some((64055, 104)));
        assert_eq!(of(other), None);
        assert_eq!(of(&dac.replace("dac", "selinux")), None);
        assert_eq!(of(&dac.replace("+64055", "libvirt-qemu")), None);
    }

    #[test]
    fn versions_are_three_numbers() {
        assert_eq!(Version::from(9_000_000).to_string(), "9.0.0");
        assert_eq!(Version::from(7_002_022).to_string(), "7.2.22");
    }

    #[tokio::test]
    async fn the_test_driver_is_surveyed() {
        let uri = crate::LibvirtUri::new("test:///default").unwrap();
        let owner = runner_core::OwnerId::new("us").unwrap();
        let mut config = LibvirtConfig::new(uri, owner, "/nonexistent");
        config.network.plug = Plug::Network { name: "default".to_owned(), make: None };
        let survey = survey(&config).await.unwrap();
        assert!(survey.daemon > Version { major: 6, minor: 0, release: 0 });
        assert_eq!(survey.network, State::Active);
        config.network.plug = Plug::Network { name: "elsewhere".to_owned(), make: None };
        assert_eq!(super::survey(&config).await.unwrap().network, State::Missing);
    }
}
