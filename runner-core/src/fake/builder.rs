//! The fake image builder.

use async_trait::async_trait;

use super::{Call, FakeWorld, World};
use crate::{
    error::{Error, Result},
    image::{Boot, BuildLog, Image, ImageBuilder, Recipe, RecipeKind},
    name::ImageId,
};

/// The image builder of a [`FakeWorld`]. Clones share it.
#[derive(Clone)]
pub struct FakeBuilder(pub(super) FakeWorld);

#[async_trait]
impl ImageBuilder for FakeBuilder {
    async fn build(&self, recipe: &Recipe, log: BuildLog) -> Result<Image> {
        let RecipeKind::Micro {} = recipe.kind else {
            return Err(Error::unsupported("any recipe but micro"));
        };
        log.line("building nothing");
        self.0
            .call(Call::Build(recipe.profile.clone()), |world, now| {
                world.serial += 1;
                let image = Image {
                    id: ImageId::new(format!("{}.{}", recipe.profile, world.serial))?,
                    recipe: recipe.clone(),
                    built_at: now,
                    digest: "0".repeat(64),
                    size_bytes: 1,
                    boot: Boot::Kernel {
                        kernel: "/nowhere/kernel".into(),
                        initrd: "/nowhere/initrd".into(),
                        command_line: String::new(),
                    },
                };
                world.images.push(image.clone());
                Ok(image)
            })
            .await
    }

    async fn delete(&self, id: &ImageId) -> Result<()> {
        self.0
            .call(Call::Delete(id.clone()), |world, _| {
                let used = world.machines.values().find(|machine| machine.instance.image == *id);
                if let Some(machine) = used {
                    let user = &machine.instance.name;
                    world.crimes.push(format!("image {id} was deleted under {user}"));
                }
                world.images.retain(|image| image.id != *id);
                Ok(())
            })
            .await
    }

    async fn images(&self) -> Result<Vec<Image>> {
        self.0.list(Call::Images, |world: &World, _| world.images.clone()).await
    }
}
