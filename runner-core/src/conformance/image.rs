//! The promises of `ImageBuilder`.

use std::{any::Any, collections::BTreeSet, sync::Arc, time::Duration};

use crate::{
    image::{Boot, BuildLog, Image, ImageBuilder, Recipe},
    name::ImageId,
};

/// An image builder to be tested, without any image.
pub struct ImageFixture {
    /// The builder.
    pub builder: Arc<dyn ImageBuilder>,
    /// A recipe that works.
    pub recipe: Recipe,
    /// Whether the files of an image are on this host.
    pub has_files: bool,
    /// Dropped last, such as a temporary directory.
    pub keep: Box<dyn Any + Send + Sync>,
}

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(300);

/// Runs one test.
pub async fn run<F>(fixture: ImageFixture, test: impl FnOnce(Arc<ImageFixture>) -> F)
where
    F: Future<Output = ()>,
{
    tokio::time::timeout(LIMIT, test(Arc::new(fixture))).await.expect("the test took too long");
}

impl ImageFixture {
    async fn build(&self) -> Image {
        self.builder.build(&self.recipe, BuildLog::silent()).await.expect("build")
    }

    async fn ids(&self) -> BTreeSet<ImageId> {
        let images = self.builder.images().await.expect("list");
        images.into_iter().map(|image| image.id).collect()
    }
}

type Fixture = Arc<ImageFixture>;

/// As it was returned, with files that exist.
pub async fn what_is_built_is_listed(fixture: Fixture) {
    let image = fixture.build().await;
    assert_eq!(fixture.builder.images().await.expect("list"), std::slice::from_ref(&image));
    assert_eq!(image.recipe, fixture.recipe);
    assert!(image.id.as_str().starts_with(&format!("{}.", fixture.recipe.profile)), "{}", image.id);
    assert!(image.digest.len() == 64 && image.size_bytes > 0);
    if fixture.has_files {
        let paths = match &image.boot {
            Boot::Kernel { kernel, initrd, .. } => vec![kernel, initrd],
            Boot::Disk { path, .. } => vec![path],
        };
        assert!(paths.iter().all(|path| path.is_absolute() && path.is_file()), "{paths:?}");
    }
}

/// Also within one second.
pub async fn two_builds_are_two_images(fixture: Fixture) {
    let ids = BTreeSet::from([fixture.build().await.id, fixture.build().await.id]);
    assert_eq!(ids.len(), 2);
    assert_eq!(fixture.ids().await, ids);
}

/// Each gives an image of its own.
pub async fn builds_at_once_do_not_disturb_each_other(fixture: Fixture) {
    let (first, second) = futures::join!(fixture.build(), fixture.build());
    assert_eq!(fixture.ids().await, BTreeSet::from([first.id, second.id]));
}

/// When it returns.
pub async fn delete_removes_it_from_the_list(fixture: Fixture) {
    let (first, second) = (fixture.build().await, fixture.build().await);
    fixture.builder.delete(&first.id).await.expect("delete");
    assert_eq!(fixture.ids().await, BTreeSet::from([second.id]));
}

/// Unmaking is idempotent.
pub async fn delete_twice_is_fine(fixture: Fixture) {
    let image = fixture.build().await;
    fixture.builder.delete(&image.id).await.expect("once");
    fixture.builder.delete(&image.id).await.expect("twice");
    let never = ImageId::new("never.1").expect("a valid id");
    fixture.builder.delete(&never).await.expect("what never was");
}

/// At whatever moment it was dropped.
pub async fn a_dropped_build_leaves_nothing_listed(fixture: Fixture) {
    for wait in [0, 1, 10] {
        let build = fixture.builder.build(&fixture.recipe, BuildLog::silent());
        let built = tokio::time::timeout(Duration::from_millis(wait), build).await;
        match built {
            Ok(image) => fixture.builder.delete(&image.expect("build").id).await.expect("delete"),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
        assert_eq!(fixture.ids().await, BTreeSet::new(), "after {wait} ms");
    }
}

/// Whenever it is built.
pub async fn one_recipe_gives_one_digest(fixture: Fixture) {
    assert_eq!(fixture.build().await.digest, fixture.build().await.digest);
}
