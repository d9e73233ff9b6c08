//! libvirt keeps what the trait promises, with other people's domains beside ours all the time.

#[expect(dead_code, reason = "other tests use the rest of it")]
mod common;

use std::sync::Arc;

use backend_libvirt::{LibvirtConfig, LibvirtHypervisor, LibvirtUri, Virt};
use futures::{FutureExt, future::BoxFuture};
use runner_core::{
    Hypervisor, OwnerId, Resources, WorkerName,
    conformance::hypervisor::HypervisorFixture,
    guest::Command,
    hypervisor::{InstanceSpec, Network},
    image::Image,
};

fn config(uri: LibvirtUri, directory: &tempfile::TempDir) -> LibvirtConfig {
    let owner = OwnerId::new("conformance").unwrap();
    let mut config = LibvirtConfig::new(uri, owner, directory.path());
    config.virt = Virt::Qemu;
    config.capacity = Some(Resources { vcpus: 8, memory_mib: 4096, ..Resources::default() });
    config
}

fn spec(image: Image) -> Box<dyn Fn(&str) -> InstanceSpec + Send + Sync> {
    Box::new(move |name: &str| InstanceSpec {
        name: WorkerName::new(name).unwrap(),
        profile: image.recipe.profile.clone(),
        image: image.clone(),
        resources: Resources { vcpus: 1, memory_mib: 192, ..Resources::default() },
        network: Network::Restricted,
        user_data: None,
    })
}

fn open(config: LibvirtConfig) -> BoxFuture<'static, Arc<dyn Hypervisor>> {
    async move {
        let hypervisor: Arc<dyn Hypervisor> =
            Arc::new(LibvirtHypervisor::open(config).await.unwrap());
        hypervisor
    }
    .boxed()
}

/// A real daemon.
mod qemu {
    use super::{
        common::{libvirtd::Libvirtd, micro, neighbours::Neighbours},
        *,
    };

    async fn fixture() -> Option<HypervisorFixture> {
        let libvirtd = Arc::new(Libvirtd::start()?);
        let spec = spec(micro::image().await?);
        let directory = tempfile::tempdir().unwrap();
        let config = config(libvirtd.uri.clone(), &directory);
        let others = spec(Neighbours::OTHERS);
        let neighbours = Neighbours::new(libvirtd.clone(), config.clone(), others).await;
        Some(HypervisorFixture {
            hypervisor: open(config.clone()).await,
            spec,
            reopen: Some(Box::new(move || open(config.clone()))),
            power_off: Some(Command::new(["poweroff", "-f"])),
            keep: Box::new((neighbours, libvirtd, directory)),
        })
    }

    runner_core::hypervisor_conformance!(fixture().await);
}

/// libvirt's own pretence, as far as that goes.
mod test_driver {
    use jiff::Timestamp;
    use runner_core::{
        ImageId, ProfileName,
        image::{Boot, Recipe, RecipeKind},
    };

    use super::*;

    async fn fixture() -> Option<HypervisorFixture> {
        let directory = tempfile::tempdir().unwrap();
        let [kernel, initrd] = ["kernel", "initrd"].map(|name| directory.path().join(name));
        std::fs::write(&kernel, "").unwrap();
        std::fs::write(&initrd, "").unwrap();
        let image = Image {
            id: ImageId::new("linux.1").unwrap(),
            recipe: Recipe {
                profile: ProfileName::new("linux").unwrap(),
                kind: RecipeKind::Micro {},
            },
            built_at: Timestamp::UNIX_EPOCH,
            digest: "0".repeat(64),
            size_bytes: 0,
            boot: Boot::Kernel { kernel, initrd, command_line: String::new() },
        };
        let root = tempfile::tempdir().unwrap();
        let config = config(LibvirtUri::new("test:///default").unwrap(), &root);
        Some(HypervisorFixture {
            hypervisor: open(config).await,
            spec: spec(image),
            reopen: None,
            power_off: None,
            keep: Box::new((root, directory)),
        })
    }

    runner_core::hypervisor_conformance!(fixture().await);
}
