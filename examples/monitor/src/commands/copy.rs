//! `monitor put` and `monitor get`: files into machines and out of them.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::Args;

use super::{ClientArgs, WrongUse};

/// Stands for standard input or output.
const STANDARD: &str = "-";

#[derive(Args)]
pub struct PutArgs {
    /// The machine, by the name of its worker
    worker: String,
    /// The file here; - for standard input
    local: PathBuf,
    /// Its absolute path there; what ends with / is a directory
    remote: String,
    /// Its permission bits there, in octal; without it, those it has here
    #[arg(long, value_name = "MODE", value_parser = permissions)]
    mode: Option<u32>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args)]
pub struct GetArgs {
    /// The machine, by the name of its worker
    worker: String,
    /// The absolute path of the file there
    remote: String,
    /// Where to put it here: a path, a directory, or - for standard output
    #[arg(default_value = ".")]
    local: PathBuf,
    #[command(flatten)]
    client: ClientArgs,
}

pub async fn put(args: PutArgs) -> anyhow::Result<u8> {
    let (content, mode) = if args.local.as_os_str() == STANDARD {
        let mut content = Vec::new();
        io::stdin().read_to_end(&mut content).context("could not read standard input")?;
        (content, 0o644)
    } else {
        let shown = args.local.display();
        let wrong = |error: io::Error| WrongUse(format!("could not read {shown}: {error}"));
        let metadata = fs::metadata(&args.local).map_err(wrong)?;
        if metadata.is_dir() {
            bail!(WrongUse(format!("{shown} is a directory; pack it with tar")));
        }
        let mode = metadata.permissions().mode() & 0o777;
        (fs::read(&args.local).map_err(wrong)?, mode)
    };
    let mut remote = args.remote;
    if remote.ends_with('/') {
        let name = args.local.file_name().and_then(|name| name.to_str());
        let name = name.filter(|_| args.local.as_os_str() != STANDARD);
        remote += name.ok_or_else(|| WrongUse(format!("name the file in {remote}")))?;
    }
    let mode = args.mode.unwrap_or(mode);
    args.client.client()?.put_file(&args.worker, &remote, mode, content).await?;
    Ok(0)
}

pub async fn get(args: GetArgs) -> anyhow::Result<u8> {
    let client = args.client.client()?;
    let mut incoming = client.get_file(&args.worker, &args.remote).await?;
    let early = || format!("{} of {} did not come whole", args.remote, args.worker);
    if args.local.as_os_str() == STANDARD {
        let mut out = io::stdout().lock();
        let mut count = 0;
        while let Some(part) = incoming.next().await.with_context(early)? {
            out.write_all(&part)?;
            count += part.len() as u64;
        }
        out.flush()?;
        check(count, incoming.size).with_context(early)?;
        return Ok(0);
    }
    let target = if args.local.is_dir() {
        let name = Path::new(&args.remote).file_name();
        args.local.join(name.ok_or_else(|| WrongUse(format!("{} is no file", args.remote)))?)
    } else {
        args.local.clone()
    };
    let write = |error: io::Error| anyhow::anyhow!("could not write {}: {error}", target.display());
    // Under another name until it is whole.
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = target.with_file_name(name);
    let fetched = async {
        let mut out = fs::File::create(&partial).map_err(write)?;
        let mut count = 0;
        while let Some(part) = incoming.next().await.with_context(early)? {
            out.write_all(&part).map_err(write)?;
            count += part.len() as u64;
        }
        check(count, incoming.size).with_context(early)?;
        if let Some(mode) = incoming.mode {
            // No program of a stranger's machine runs as its owner here.
            out.set_permissions(fs::Permissions::from_mode(mode & 0o777)).map_err(write)?;
        }
        fs::rename(&partial, &target).map_err(write)
    };
    let fetched = fetched.await;
    if fetched.is_err() {
        let _ = fs::remove_file(&partial);
    }
    fetched.map(|()| 0)
}

fn check(count: u64, size: Option<u64>) -> anyhow::Result<()> {
    match size {
        Some(size) if size != count => bail!("it has {size} bytes and {count} came"),
        _ => Ok(()),
    }
}

fn permissions(text: &str) -> Result<u32, String> {
    let bits = u32::from_str_radix(text, 8).ok().filter(|bits| *bits <= 0o7777);
    bits.ok_or_else(|| "write it in octal, like 644 or 755".to_owned())
}
