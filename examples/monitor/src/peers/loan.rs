//! What other monitors are asked to reserve for somebody who waits here: written down before anybody is asked, so
//! that whatever a killed process leaves is found by the next one, and kept until it is over.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use jiff::Timestamp;
use runner_core::{ProfileName, ReservationId, WorkerName, queue::Entry};
use serde::{Deserialize, Serialize};

use super::peer::Wish;

/// What other monitors reserve for one entry of the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loan {
    pub id: ReservationId,
    pub profile: ProfileName,
    pub owner: String,
    pub purpose: String,
    /// How long it is to hold once it is taken.
    pub duration: Duration,
    /// What monitors promise, or are asked to, by their names.
    pub parts: BTreeMap<String, Part>,
    /// What is given back, and not confirmed yet.
    pub leaving: BTreeMap<String, Part>,
    /// Since when it is in its stage.
    pub since: Timestamp,
    /// When all of them last promised it, all at once.
    pub renewed: Timestamp,
    pub stage: Stage,
}

/// What one monitor reserves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// How many it was asked for.
    pub count: u32,
    /// Those that it promised.
    pub workers: Vec<WorkerName>,
    /// It has ended what it promised by then, if it hears nothing.
    pub until: Timestamp,
}

/// How far a loan has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// They are being asked; some may have promised already.
    Asking,
    /// All have promised, for a while: it can be taken.
    Held,
    /// It was taken: they have promised for as long as it was asked for.
    Taken,
    /// Nothing is promised any more.
    Over,
}

impl Loan {
    pub fn new(entry: &Entry, now: Timestamp) -> Self {
        Self {
            id: entry.id.clone(),
            profile: entry.profile.clone(),
            owner: entry.owner.clone(),
            purpose: entry.purpose.clone(),
            duration: entry.duration,
            parts: BTreeMap::new(),
            leaving: BTreeMap::new(),
            since: now,
            renewed: now,
            stage: Stage::Over,
        }
    }

    pub fn enter(&mut self, stage: Stage, now: Timestamp) {
        (self.stage, self.since) = (stage, now);
    }

    /// Gives everything back.
    pub fn end(&mut self, now: Timestamp) {
        self.leaving.append(&mut self.parts);
        self.enter(Stage::Over, now);
    }

    /// Whether nobody has a part in it any more.
    pub fn is_forgotten(&self) -> bool {
        self.stage == Stage::Over && self.leaving.is_empty()
    }

    /// How many workers were asked for in all.
    pub fn count(&self) -> u32 {
        self.parts.values().map(|part| part.count).sum()
    }

    /// What a monitor is asked for.
    pub fn wish(&self, part: &Part, duration: Duration) -> Wish<'_> {
        let Self { id, profile, owner, purpose, .. } = self;
        Wish { id, profile, count: part.count, owner, purpose, duration }
    }

    /// When the last of them has ended what it promised, if it hears nothing.
    pub fn until(&self) -> Timestamp {
        self.parts.values().map(|part| part.until).max().unwrap_or(Timestamp::MIN)
    }
}

/// The directory with a file for each loan.
#[derive(Clone)]
pub struct Loans(PathBuf);

impl Loans {
    /// The loans in `path`, which is made when there is one, and those that an earlier process left.
    ///
    /// # Errors
    /// For a directory that cannot be read.
    pub fn open(path: PathBuf) -> anyhow::Result<(Self, Vec<Loan>)> {
        let read = || -> io::Result<Vec<Loan>> {
            let mut loans = Vec::new();
            // It is made when there is something to be written.
            if !path.exists() {
                return Ok(loans);
            }
            for file in fs::read_dir(&path)? {
                let file = file?.path();
                match fs::read(&file).map(|text| serde_json::from_slice::<Loan>(&text)) {
                    Ok(Ok(loan)) if file.extension().is_some_and(|kind| kind == "json") => {
                        loans.push(loan);
                    }
                    // Half of one that was being written: nobody was asked for it yet.
                    _ => fs::remove_file(&file)?,
                }
            }
            Ok(loans)
        };
        let loans = read().with_context(|| format!("could not read {}", path.display()))?;
        Ok((Self(path), loans))
    }

    /// Writes a loan down. It is on the disk when this returns.
    pub async fn put(&self, loan: &Loan) -> io::Result<()> {
        let text = serde_json::to_vec(loan)?;
        self.blocking(&loan.id, move |file, directory| {
            if !directory.exists() {
                DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
                directory.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())?;
            }
            let partial = file.with_extension("partial");
            let _ = fs::remove_file(&partial);
            let mut out =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
            out.write_all(&text)?;
            out.sync_all()?;
            fs::rename(partial, file)?;
            File::open(directory)?.sync_all()
        })
        .await
    }

    /// Forgets one that is over.
    pub async fn remove(&self, id: &ReservationId) -> io::Result<()> {
        self.blocking(id, |file, _| match fs::remove_file(file) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
        .await
    }

    async fn blocking(
        &self,
        id: &ReservationId,
        work: impl FnOnce(&Path, &Path) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let (file, directory) = (self.0.join(format!("{id}.json")), self.0.clone());
        tokio::task::spawn_blocking(move || work(&file, &directory)).await?
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[tokio::test]
    async fn a_loan_is_found_by_the_next_process_and_half_of_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("loans");
        let (loans, none) = Loans::open(path.clone()).unwrap();
        assert_eq!(none, []);
        let part = Part { count: 2, workers: Vec::new(), until: Timestamp::UNIX_EPOCH };
        let loan = Loan {
            id: ReservationId::new("r1").unwrap(),
            profile: ProfileName::new("linux").unwrap(),
            owner: "acme/widgets".to_owned(),
            purpose: "a test".to_owned(),
            duration: Duration::from_secs(60),
            parts: [("ci1".to_owned(), part)].into(),
            leaving: BTreeMap::new(),
            since: Timestamp::UNIX_EPOCH,
            renewed: Timestamp::UNIX_EPOCH,
            stage: Stage::Asking,
        };
        loans.put(&loan).await.unwrap();
        loans.put(&Loan { stage: Stage::Held, ..loan.clone() }).await.unwrap();
        fs::write(path.join("r2.partial"), "{").unwrap();
        assert_eq!(fs::metadata(path.join("r1.json")).unwrap().mode() & 0o777, 0o600);
        let (loans, found) = Loans::open(path.clone()).unwrap();
        assert_eq!(found, [Loan { stage: Stage::Held, ..loan.clone() }]);
        loans.remove(&loan.id).await.unwrap();
        loans.remove(&loan.id).await.unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    }
}
