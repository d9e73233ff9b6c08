//! Whether each profile has an image, and whether it still is what was built.

use std::path::Path;

use runner_core::{
    ImageBuilder,
    error::chain,
    image::{Image, RecipeKind},
};

use super::{Check, Subject};
use crate::compose;

/// The checks, and an image that is whole.
pub(super) async fn check(subject: &Subject) -> (Vec<Check>, Option<Image>) {
    let name = "images";
    let mut all = Vec::new();
    let mut store = None;
    // Opening would make it.
    if subject.data_dir.join("images").exists() {
        let opened = async {
            let store = compose::images(&subject.config, &subject.data_dir).await?;
            let images = store.images().await?;
            Ok::<_, runner_core::Error>((store, images))
        };
        match opened.await {
            Ok((opened, images)) => (store, all) = (Some(opened), images),
            Err(error) => {
                let way_out = "run as the user of the service; see `permissions` above";
                return (vec![Check::failure(name, chain(&error), way_out)], None);
            }
        }
    }
    let (mut checks, mut whole) = (Vec::new(), None);
    for profile in &subject.config.profiles {
        let name = format!("image of {}", profile.name);
        let newest = all.iter().filter(|image| image.recipe == profile.recipe);
        let newest = newest.max_by_key(|image| image.built_at);
        let (Some(image), Some(store)) = (newest, &store) else {
            checks.push(missing(&name, &profile.recipe.kind));
            continue;
        };
        match store.verify(image).await {
            Ok(()) => {
                let found = format!("{} was built {:.0} and is whole", image.id, image.built_at);
                checks.push(Check::ok(&name, found));
                whole.get_or_insert_with(|| image.clone());
            }
            Err(error) => {
                let directory = subject.data_dir.join("images").join(image.id.as_str());
                let way_out = format!(
                    "remove it once no machine uses it, and it is built anew: rm -r {}",
                    directory.display()
                );
                checks.push(Check::failure(&name, chain(&error), way_out));
            }
        }
    }
    (checks, whole)
}

/// What will become of an image that is not built yet.
fn missing(name: &str, kind: &RecipeKind) -> Check {
    match kind {
        RecipeKind::Disk { path, .. } => disk(name, path),
        _ => Check::ok(name, "it is not built yet; the service builds it when it starts"),
    }
}

fn disk(name: &str, path: &Path) -> Check {
    match std::fs::File::open(path) {
        Ok(_) => Check::ok(name, "it is not taken in yet; the service does that when it starts"),
        Err(error) => Check::failure(
            name,
            format!("its disk {} cannot be read: {error}", path.display()),
            "put it there, readable for the service's user, or mend `path` in the profile's image",
        ),
    }
}
