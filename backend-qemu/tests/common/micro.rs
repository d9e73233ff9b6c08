//! The guest that tests boot: the micro image, built once for each run of the tests.

use std::fs::{self, File};

use backend_qemu::{ImageConfig, ImageStore};
use runner_core::{
    ImageBuilder, ProfileName,
    image::{BuildLog, Image, Recipe, RecipeKind},
};
use serde::{Deserialize, Serialize};

use super::parts;

/// What one test leaves for the others of its run.
#[derive(Serialize, Deserialize)]
struct Built {
    run: String,
    image: Image,
}

pub fn recipe() -> Recipe {
    Recipe { profile: ProfileName::new("linux").unwrap(), kind: RecipeKind::Micro {} }
}

/// The image, or nothing, with a word about it, where something is missing to build or to boot it.
pub async fn image() -> Option<Image> {
    if !parts::has("qemu-system-x86_64") {
        parts::skip("qemu");
        return None;
    }
    let cache = parts::shared_cache();
    let root = cache.join("test-images");
    fs::create_dir_all(&root).unwrap();
    // Tests are processes; one of them builds, the others wait for it.
    let lock = File::create(root.join(".test-lock")).unwrap();
    lock.lock().unwrap();

    let note = root.join(".test-image.json");
    let last = fs::read(&note).ok();
    let last = last.and_then(|text| serde_json::from_slice::<Built>(&text).ok());
    let process = || format!("process {}", std::process::id());
    let run = std::env::var("NEXTEST_RUN_ID").unwrap_or_else(|_| process());
    if let Some(last) = last.filter(|last| last.run == run) {
        return Some(last.image);
    }
    if !parts::has_apt() {
        parts::skip("apt");
        return None;
    }
    let config = ImageConfig::new(&root, cache);
    let store = ImageStore::open(config).await.unwrap();
    let log = BuildLog::new(|line| println!("{line}"));
    let built = store.build(&recipe(), log).await.unwrap();
    // The oldest of the same content stays, so that another run that uses it is not disturbed.
    let all = store.images().await.unwrap();
    let image = all.iter().find(|image| image.digest == built.digest);
    let image = image.unwrap().clone();
    for other in all.iter().filter(|other| other.id != image.id) {
        store.delete(&other.id).await.unwrap();
    }
    let built = Built { run, image };
    fs::write(&note, serde_json::to_vec(&built).unwrap()).unwrap();
    Some(built.image)
}
