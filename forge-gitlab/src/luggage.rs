//! Moves files between the host and a guest as tar archives, through the guest's agent.
//!
//! So the guest needs no way to GitLab, and none of its tokens: all it needs is `sh`, `find`, `xargs` and `tar`.

use std::{
    fs::File,
    io::{Read, Write},
    path::Path,
    time::Duration,
};

use runner_core::{
    Error, Guest, ProcessId, Result,
    guest::{Command, ExitStatus, Output, exec},
};

use crate::{error::failed, patterns::Patterns};

/// What is carried in one piece, in bytes.
const PIECE: usize = 8 << 20;
/// How long a list of files may be, in bytes.
const MAX_LIST: usize = 64 << 20;

/// Lists what is below `$1`… as paths that begin with `./`; names that hold a new line cannot be told.
const LIST: &str = r#"for root do
    [ -e "./$root" ] || [ -L "./$root" ] || continue
    find "./$root" \( -type f -o -type l \) ! -name '*
*' -print
done"#;
const UNTRACKED: &str = "git -c core.quotepath=off ls-files --others";
/// Several archives, one after the other, where the names are too many for one call: not every `tar` reads
/// names from a file.
const PACK: &str = r#"tr '\n' '\0' <"$2" | xargs -0 tar -cf - >"$1""#;
const UNPACK: &str = r#"cat -- "$1"/* | tar -xof - -C "$2" && rm -rf -- "$1""#;

/// Runs the tools of one stage of one job in its guest.
pub(crate) struct Luggage<'a> {
    pub guest: &'a dyn Guest,
    /// Begins the name of every process, so that a successor finds what its predecessor began.
    pub process: String,
    /// The project's directory.
    pub dir: &'a str,
    /// A directory of ours beside it.
    pub tmp: &'a str,
}

/// What was packed.
pub(crate) struct Packed {
    pub files: usize,
    /// What was wrong with the paths.
    pub notes: Vec<String>,
}

impl Luggage<'_> {
    /// Packs what `patterns` name into `to` on the host: tar archives, one after the other. Nothing is written if
    /// that is nothing.
    pub(crate) async fn pack(
        &self,
        patterns: &Patterns,
        untracked: bool,
        limit: u64,
        to: &Path,
    ) -> Result<Packed> {
        let mut notes: Vec<String> =
            patterns.refused.iter().map(|path| format!("WARNING: {path}")).collect();
        let mut argv = vec![LIST.to_owned(), "list".to_owned()];
        argv.extend(patterns.roots.iter().cloned());
        let listed = self.sh("list", argv).await?;
        let mut files: Vec<&str> = listed.lines().map(plain).collect();
        files.retain(|path| patterns.includes(path));
        let others;
        if untracked {
            others =
                self.sh("untracked", vec![UNTRACKED.to_owned(), "untracked".to_owned()]).await?;
            files.extend(others.lines().map(plain).filter(|path| patterns.keeps(path)));
        }
        files.sort_unstable();
        files.dedup();
        if files.is_empty() {
            notes.push("WARNING: no files match".to_owned());
            return Ok(Packed { files: 0, notes });
        }
        let list: String = files.iter().map(|path| format!("./{path}\n")).collect();
        let (list_path, tar) = (format!("{}/{}.list", self.tmp, self.process), self.tar());
        self.guest.write_file(&list_path, list.as_bytes(), 0o600).await?;
        let argv = [PACK, "pack", &tar, &list_path].map(str::to_owned).to_vec();
        self.sh("pack", argv).await?;
        let mut file = File::create(to).map_err(|error| failed("make an archive", error))?;
        let mut at = 0;
        loop {
            let piece = self.guest.read_file(&tar, at, PIECE).await?;
            if piece.is_empty() {
                break;
            }
            at += piece.len() as u64;
            if at > limit {
                return Err(Error::Exhausted {
                    resource: "room for an archive".to_owned(),
                    needed: format!("more than {limit} bytes"),
                    available: format!("{limit} bytes"),
                });
            }
            file.write_all(&piece).map_err(|error| failed("write an archive", error))?;
        }
        Ok(Packed { files: files.len(), notes })
    }

    /// Unpacks a tar archive of the host in the project's directory.
    pub(crate) async fn unpack(&self, from: &Path) -> Result<()> {
        let parts = format!("{}/{}.parts", self.tmp, self.process);
        let mut file = File::open(from).map_err(|error| failed("open an archive", error))?;
        let mut piece = Vec::new();
        for number in 0.. {
            piece.clear();
            let read = Read::take(&mut file, PIECE as u64).read_to_end(&mut piece);
            read.map_err(|error| failed("read an archive", error))?;
            if piece.is_empty() && number > 0 {
                break;
            }
            self.guest.write_file(&format!("{parts}/{number:08}"), &piece, 0o600).await?;
        }
        let argv = [UNPACK, "unpack", &parts, self.dir].map(str::to_owned).to_vec();
        self.sh("unpack", argv).await.map(drop)
    }

    fn tar(&self) -> String {
        format!("{}/{}.tar", self.tmp, self.process)
    }

    /// Runs a script of ours in the project's directory; returns what it printed.
    async fn sh(&self, name: &str, script_and_arguments: Vec<String>) -> Result<String> {
        let mut argv = vec!["/bin/sh".to_owned(), "-c".to_owned()];
        argv.extend(script_and_arguments);
        let command = Command { working_dir: Some(self.dir.to_owned()), ..Command::new(argv) };
        let id = ProcessId::new(format!("{}-{name}", self.process))?;
        let (mut out, mut complaint, mut too_long) = (Vec::new(), Vec::new(), false);
        let exit = exec(self.guest, &id, &command, |output| match output {
            Output::Stdout(text) if out.len() + text.len() > MAX_LIST => too_long = true,
            Output::Stdout(text) => out.extend_from_slice(text),
            Output::Stderr(text) if complaint.len() < 2048 => complaint.extend_from_slice(text),
            Output::Stderr(_) => (),
        })
        .await?;
        let doing = format!("{name} files in the guest");
        if too_long {
            return Err(failed(doing, "there are far too many"));
        }
        if exit != ExitStatus::Code(0) {
            let complaint = String::from_utf8_lossy(&complaint);
            return Err(failed(doing, format!("{exit}: {}", complaint.trim())));
        }
        // A name that is no text cannot be named by a pattern either.
        Ok(String::from_utf8_lossy(&out).into_owned())
    }
}

fn plain(path: &str) -> &str {
    path.trim_start_matches("./")
}

/// Waits for work of a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(failed(doing, error)),
        Err(panic) => Err(failed(doing, panic)),
    }
}

/// How long moving one archive to or from GitLab may take.
pub(crate) const TRANSFER: Duration = Duration::from_secs(3600);
