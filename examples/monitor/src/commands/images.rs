//! `monitor images`: what machines boot.

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::{ClientArgs, age, out, table};

#[derive(Args)]
pub struct ImagesArgs {
    /// Print what the API answers
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Deserialize)]
struct Image {
    id: String,
    profile: String,
    built_at: String,
    digest: String,
    size_bytes: u64,
}

pub async fn images(args: ImagesArgs) -> anyhow::Result<u8> {
    let mut status: Value = args.client.client()?.list("/status").await?;
    let images = status["images"].take();
    if args.json {
        out::json(&images)?;
        return Ok(0);
    }
    let images: Vec<Image> = serde_json::from_value(images)?;
    let row = |image: Image| {
        let digest = image.digest.chars().take(12).collect();
        let built = format!("{} ago", age::ago(&image.built_at));
        [image.id, image.profile, built, age::size(image.size_bytes), digest]
    };
    let rows = images.into_iter().map(row).collect();
    table::print(["IMAGE", "PROFILE", "BUILT", "SIZE", "DIGEST"], rows)?;
    Ok(0)
}
