//! `monitor import-servo`: a configuration of ours from the settings of Servo's monitor.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::Args;

use super::out;
use crate::{
    config::Config,
    import::{self, Fate, Sources},
};

#[derive(Args)]
pub struct ImportArgs {
    /// The settings of Servo's monitor
    #[arg(value_name = "MONITOR.TOML")]
    settings: PathBuf,
    /// Its variables, secrets among them
    #[arg(value_name = ".ENV")]
    env: PathBuf,
    /// The directory to write monitor.toml and the secrets' files into; nothing there is overwritten
    #[arg(long, value_name = "DIR", default_value = "imported")]
    output: PathBuf,
    /// Its directory of profiles, each with guest.xml and the like; the default is `profiles` beside or above
    /// its settings, where there is one
    #[arg(long, value_name = "DIR")]
    profiles: Option<PathBuf>,
    /// The image of a profile: it is read for its hash
    #[arg(long = "image", value_name = "PROFILE=FILE", value_parser = image)]
    images: Vec<(String, PathBuf)>,
    /// A repository whose queued jobs are asked for; may be given again
    #[arg(long = "repository", value_name = "OWNER/NAME")]
    repositories: Vec<String>,
}

fn image(text: &str) -> Result<(String, PathBuf), String> {
    let (profile, file) = text.split_once('=').ok_or("write it as PROFILE=FILE")?;
    Ok((profile.to_owned(), file.into()))
}

pub fn import(args: ImportArgs) -> anyhow::Result<u8> {
    let read = |file: &Path| {
        fs::read_to_string(file).with_context(|| format!("could not read {}", file.display()))
    };
    let (settings, env) = (read(&args.settings)?, read(&args.env)?);
    let profiles = args.profiles.clone().or_else(|| profiles_of(&args.settings));
    let profiles = profiles.map(|dir| {
        let shown = dir.display().to_string();
        fs::canonicalize(dir).with_context(|| format!("could not read {shown}"))
    });
    let profiles = profiles.transpose()?;
    let mut images = BTreeMap::new();
    for (profile, file) in &args.images {
        let read = || -> anyhow::Result<_> {
            let file = fs::canonicalize(file)?;
            let sha256 = import::hash_of(&file)?;
            Ok((file, sha256))
        };
        let image = read().with_context(|| format!("could not read {}", file.display()))?;
        images.insert(profile.clone(), image);
    }
    let imported = import::import(&Sources {
        settings: (&args.settings, &settings),
        env: (&args.env, &env),
        profiles: profiles.as_deref(),
        images: &images,
        repositories: &args.repositories,
    })?;
    let file = args.output.join("monitor.toml");
    Config::parse(&file, &imported.config).context(
        "what Servo's settings come to would be refused, so nothing was written; change them there",
    )?;
    let mut made = DirBuilder::new();
    let made = made.recursive(true).mode(0o700).create(&args.output);
    made.with_context(|| format!("could not make {}", args.output.display()))?;
    let names = imported.secrets.iter().map(|(name, _)| *name).chain(["monitor.toml"]);
    for name in names {
        let file = args.output.join(name);
        if file.symlink_metadata().is_ok() {
            bail!("{} is there already; name another directory with --output", file.display());
        }
    }
    for (name, secret) in &imported.secrets {
        write(&args.output.join(name), &format!("{}\n", secret.expose().trim()))?;
    }
    write(&file, &imported.config)?;
    for note in &imported.notes {
        out::line(note.to_string())?;
    }
    let by_hand = imported.notes.iter().filter(|note| matches!(note.fate, Fate::ByHand(_)));
    let by_hand = match by_hand.count() {
        0 => String::new(),
        count => format!(", and {count} of the lines above are left to you"),
    };
    out::line(format!(
        "wrote {}, which is valid{by_hand}; check it with: monitor check --config {}",
        file.display(),
        file.display()
    ))?;
    Ok(0)
}

/// Where its repository has them: beside the settings, or beside the directory that the settings are in.
fn profiles_of(settings: &Path) -> Option<PathBuf> {
    let beside = settings.parent()?;
    let places = [beside.join("profiles"), beside.join("../profiles")];
    places.into_iter().find(|place| place.is_dir())
}

/// Makes a file that only its owner may read.
fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(0o600).open(file);
    let written = opened.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.with_context(|| format!("could not write {}", file.display()))
}
