//! QEMU and the image store keep what their traits promise.

#[path = "common/micro.rs"]
mod micro;
#[path = "common/parts.rs"]
mod parts;

mod hypervisor {
    use std::sync::Arc;

    use backend_qemu::{Accel, QemuConfig, QemuHypervisor};
    use futures::{FutureExt, future::BoxFuture};
    use runner_core::{
        Hypervisor, OwnerId, Resources, WorkerName,
        conformance::hypervisor::HypervisorFixture,
        guest::Command,
        hypervisor::{InstanceSpec, Network},
    };

    use super::micro;

    async fn fixture() -> Option<HypervisorFixture> {
        let image = micro::image().await?;
        let directory = tempfile::tempdir().unwrap();
        let owner = OwnerId::new("conformance").unwrap();
        let mut config = QemuConfig::new(directory.path(), owner);
        config.accel = Accel::Tcg;
        config.capacity = Some(Resources { vcpus: 8, memory_mib: 4096, ..Resources::default() });
        let spec = move |name: &str| InstanceSpec {
            name: WorkerName::new(name).unwrap(),
            profile: image.recipe.profile.clone(),
            image: image.clone(),
            resources: Resources { vcpus: 1, memory_mib: 192, ..Resources::default() },
            network: Network::Restricted,
            user_data: None,
        };
        Some(HypervisorFixture {
            hypervisor: open(config.clone()).await,
            spec: Box::new(spec),
            reopen: Some(Box::new(move || open(config.clone()))),
            power_off: Some(Command::new(["poweroff", "-f"])),
            keep: Box::new(directory),
        })
    }

    fn open(config: QemuConfig) -> BoxFuture<'static, Arc<dyn Hypervisor>> {
        async move {
            let hypervisor: Arc<dyn Hypervisor> =
                Arc::new(QemuHypervisor::open(config).await.unwrap());
            hypervisor
        }
        .boxed()
    }

    runner_core::hypervisor_conformance!(fixture().await);
}

mod micro_images {
    use super::{images, micro, parts};

    async fn fixture() -> Option<runner_core::conformance::image::ImageFixture> {
        if !parts::has_apt() {
            parts::skip("apt");
            return None;
        }
        Some(images::fixture(|_| micro::recipe()).await)
    }

    runner_core::image_conformance!(fixture().await);
}

mod disk_images {
    use std::path::Path;

    use runner_core::{
        ProfileName,
        image::{Recipe, RecipeKind, UserDataDelivery},
    };
    use sha2::{Digest, Sha256};

    use super::images;

    fn recipe(directory: &Path) -> Recipe {
        let (path, content) = (directory.join("disk.raw"), vec![7; 1 << 20]);
        std::fs::write(&path, &content).unwrap();
        let hash = Sha256::digest(&content);
        Recipe {
            profile: ProfileName::new("large").unwrap(),
            kind: RecipeKind::Disk {
                path,
                sha256: hash.iter().map(|byte| format!("{byte:02x}")).collect(),
                user_data: UserDataDelivery::NoCloud,
            },
        }
    }

    runner_core::image_conformance!(Some(images::fixture(recipe).await));
}

mod images {
    use std::{path::Path, sync::Arc};

    use backend_qemu::{ImageConfig, ImageStore};
    use runner_core::{conformance::image::ImageFixture, image::Recipe};

    use super::parts;

    pub async fn fixture(recipe: impl FnOnce(&Path) -> Recipe) -> ImageFixture {
        let cache = parts::shared_cache();
        std::fs::create_dir_all(&cache).unwrap();
        // Beside the cache, so that images can share its files.
        let directory = tempfile::tempdir_in(&cache).unwrap();
        let config = ImageConfig::new(directory.path().join("images"), cache);
        ImageFixture {
            builder: Arc::new(ImageStore::open(config).await.unwrap()),
            recipe: recipe(directory.path()),
            has_files: true,
            keep: Box::new(directory),
        }
    }
}
