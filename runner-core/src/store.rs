//! What must outlive the process: one SQLite file, readable with `sqlite3`.
//!
//! Writes are transactions without an await inside, on a thread for blocking work, so that a dropped future
//! or a killed process leaves a whole transaction or none. The file is in WAL mode: a commit survives
//! `kill -9`; a *durable* one survives power loss too.
//!
//! Losing the file is survivable. A file that was deleted under the running process is written anew from
//! the open connection; one that is damaged is moved aside and an empty one takes its place, and whoever
//! holds state in memory, having [listened](Store::renewals), writes it again.

use std::{
    fs,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use rusqlite::{Connection, Transaction, params};
use rusqlite_migration::{M, Migrations};
use tokio::sync::watch;

use crate::{
    error::{Error, Result},
    event::{EVENTS_KEPT, Event},
    name::{OwnerId, WorkerName},
    worker::Record,
};

mod rows;
mod wishes;

pub(crate) use rows::{Promises, Row, RowKey};
pub(crate) use wishes::Wishes;

const MIGRATIONS: &[M<'static>] = &[
    M::up(include_str!("store/1.sql")),
    M::up(include_str!("store/2.sql")),
    M::up(include_str!("store/3.sql")),
];

/// How many statements are kept as SQLite has prepared them: more than there are.
const STATEMENTS: usize = 128;

/// The store. Clones share one connection.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    /// None for a store in memory.
    path: Option<PathBuf>,
    open: Mutex<Open>,
    renewed: watch::Sender<Renewal>,
    /// How many transactions failed.
    failures: AtomicU64,
}

struct Open {
    connection: Connection,
    /// Tells the file that is open from one that took its name. Zero in memory, which is also what is open
    /// after the file was closed and its successor could not be opened.
    inode: u64,
    /// How long the file was, in bytes. Nothing here makes it shorter.
    length: u64,
}

/// How often the store had to be begun anew, and why the last time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Renewal {
    /// How often. Whoever sees it change writes again what it holds in memory.
    pub count: u64,
    /// What happened, in words; empty if nothing ever did.
    pub reason: String,
}

impl Store {
    /// Opens or makes the file (mode 0600). A file that is not a sound store is moved aside, to its name
    /// with `.damaged-TIME` added, and the [renewal](Self::renewals) says so.
    ///
    /// # Errors
    /// `Backend` when the file can be neither opened nor made.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        blocking(move || {
            // A process that died while it wrote the file anew.
            take_rescued(&path)?;
            let (open, renewal) = match open_file(&path) {
                Ok(open) => (open, Renewal::default()),
                Err(error) if is_damage(&error) => {
                    let aside = move_aside(&path)?;
                    let open = open_file(&path)
                        .map_err(|error| failed(format!("open {}", path.display()), error))?;
                    let reason = format!(
                        "the store was damaged ({error}); it is kept as {} and a new one was begun",
                        aside.display()
                    );
                    (open, Renewal { count: 1, reason })
                }
                Err(error) => return Err(failed(format!("open {}", path.display()), error)),
            };
            Ok(Self::new(Some(path), open, renewal))
        })
        .await
    }

    /// A store that ends with its last clone.
    ///
    /// # Errors
    /// `Backend` when SQLite fails.
    pub fn in_memory() -> Result<Self> {
        let mut connection =
            Connection::open_in_memory().map_err(|error| failed("open in memory", error))?;
        prepare(&mut connection).map_err(|error| failed("prepare in memory", error))?;
        Ok(Self::new(None, Open { connection, inode: 0, length: 0 }, Renewal::default()))
    }

    fn new(path: Option<PathBuf>, open: Open, renewal: Renewal) -> Self {
        let renewed = watch::channel(renewal).0;
        Self(Arc::new(Inner { path, open: Mutex::new(open), renewed, failures: AtomicU64::new(0) }))
    }

    /// Tells when the store was begun anew.
    pub fn renewals(&self) -> watch::Receiver<Renewal> {
        self.0.renewed.subscribe()
    }

    /// How many transactions failed since it was opened.
    pub fn failures(&self) -> u64 {
        self.0.failures.load(Ordering::Relaxed)
    }

    /// Empties the write-ahead log into the file: what was deleted is then on the disk no more.
    ///
    /// # Errors
    /// `Backend` when it could not, such as for a reader that holds on to it.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn tidy(&self) -> Result<()> {
        let inner = self.0.clone();
        blocking(move || {
            let open = inner.lock();
            let tidied =
                open.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            tidied.map_err(|error| failed("tidy up", error))
        })
        .await
    }

    /// Runs `work` in a transaction. Survives the process.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl Fn(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.transact(doing, "NORMAL", work).await
    }

    /// Runs `work` in a transaction. Survives power loss: costs a flush of the disk.
    pub(crate) async fn write_durably<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl Fn(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.transact(doing, "FULL", work).await
    }

    async fn transact<T: Send + 'static>(
        &self,
        doing: &'static str,
        synchronous: &'static str,
        work: impl Fn(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        if self.0.path.is_none() {
            // Memory makes nobody wait; and a test in one thread then repeats itself exactly.
            tokio::task::yield_now().await;
            let result = self.0.transact(doing, synchronous, work);
            tokio::task::yield_now().await;
            return result;
        }
        let inner = self.0.clone();
        blocking(move || inner.transact(doing, synchronous, work)).await
    }

    /// Who owns what the pool makes: `fresh` at the first call, the same ever after.
    ///
    /// # Errors
    /// `Backend` when the store fails.
    pub async fn owner(&self, fresh: OwnerId) -> Result<OwnerId> {
        let text = self
            .write_durably("read the owner", move |tx| {
                tx.execute(
                    "INSERT OR IGNORE INTO meta (key, value) VALUES ('owner', ?1)",
                    [fresh.as_str()],
                )?;
                tx.query_row("SELECT value FROM meta WHERE key = 'owner'", [], |row| {
                    row.get::<_, String>(0)
                })
            })
            .await?;
        OwnerId::new(text)
    }

    /// Whether there is a worker of this name, seen or not.
    ///
    /// # Errors
    /// `Backend` when that cannot be read.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn has_worker(&self, name: &WorkerName) -> Result<bool> {
        let name = name.clone();
        self.write("look for a worker", move |tx| {
            let mut statement = tx.prepare_cached("SELECT 1 FROM workers WHERE name = ?1")?;
            statement.exists([name.as_str()])
        })
        .await
    }

    /// The records of all workers, and the number of the next one.
    pub(crate) async fn records(&self) -> Result<(Vec<Record>, u64)> {
        self.write("read the workers", |tx| {
            let mut statement = tx.prepare("SELECT json FROM workers ORDER BY name")?;
            let records =
                statement.query_map([], json_column::<Record>)?.collect::<Result<_, _>>()?;
            let serial = tx.query_row(
                "SELECT coalesce((SELECT value FROM meta WHERE key = 'next_serial'), '1')",
                [],
                |row| row.get::<_, String>(0),
            )?;
            Ok((records, serial.parse().unwrap_or(1)))
        })
        .await
    }

    /// Writes a record, and that its number is taken.
    pub(crate) async fn put_record(&self, record: Record, next_serial: u64) -> Result<()> {
        self.write("write a worker", move |tx| {
            tx.execute(
                "INSERT OR REPLACE INTO workers (name, profile, forge, runner, created_at, json)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    record.name.as_str(),
                    record.profile.as_str(),
                    record.forge.as_str(),
                    record.runner.as_ref().map(|runner| runner.as_str()),
                    record.created_at.to_string(),
                    to_json(&record)?,
                ],
            )?;
            tx.execute(
                "INSERT INTO meta (key, value) VALUES ('next_serial', ?1)
                 ON CONFLICT (key) DO UPDATE SET value = excluded.value
                 WHERE CAST(value AS INTEGER) < CAST(excluded.value AS INTEGER)",
                [next_serial.to_string()],
            )?;
            Ok(())
        })
        .await
    }

    /// Removes a record.
    pub(crate) async fn remove_record(&self, name: WorkerName) -> Result<()> {
        self.write("remove a worker", move |tx| {
            tx.execute("DELETE FROM workers WHERE name = ?1", [name.as_str()]).map(|_| ())
        })
        .await
    }

    /// The number of the last event.
    pub(crate) async fn last_event(&self) -> Result<u64> {
        self.write("read the last event", |tx| {
            tx.query_row("SELECT coalesce(max(id), 0) FROM events", [], |row| row.get(0))
        })
        .await
    }

    /// Adds events and drops the oldest beyond [`EVENTS_KEPT`].
    pub(crate) async fn write_events(&self, events: Vec<Arc<Event>>) -> Result<()> {
        self.write("write events", move |tx| {
            let mut insert = tx.prepare_cached(
                "INSERT OR REPLACE INTO events (id, at, subject, text, json)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?;
            for event in &events {
                insert.execute(params![
                    event.id,
                    event.at.to_string(),
                    event.subject.to_string(),
                    event.to_string(),
                    to_json(&**event)?,
                ])?;
            }
            let newest = events.last().map_or(0, |event| event.id);
            tx.execute("DELETE FROM events WHERE id <= ?1", [newest.saturating_sub(EVENTS_KEPT)])?;
            Ok(())
        })
        .await
    }

    /// Events after a number, oldest first.
    pub(crate) async fn events_since(&self, after: u64, limit: u32) -> Result<Vec<Event>> {
        // Beyond SQLite's numbers there is nothing.
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        self.write("read events", move |tx| {
            let mut statement =
                tx.prepare_cached("SELECT json FROM events WHERE id > ?1 ORDER BY id LIMIT ?2")?;
            statement.query_map(params![after, limit], json_column::<Event>)?.collect()
        })
        .await
    }
}

impl Inner {
    fn transact<T>(
        &self,
        doing: &'static str,
        synchronous: &str,
        work: impl Fn(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let result = self.try_transact(doing, synchronous, work);
        if result.is_err() {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    fn try_transact<T>(
        &self,
        doing: &'static str,
        synchronous: &str,
        work: impl Fn(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let mut open = self.lock();
        self.renew_if_gone(&mut open)?;
        match run(&mut open.connection, synchronous, &work) {
            Err(error) if is_damage(&error) => {
                self.begin_anew(&mut open, &error.to_string())?;
                run(&mut open.connection, synchronous, &work).map_err(|error| failed(doing, error))
            }
            result => result.map_err(|error| failed(doing, error)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // A panic in a transaction rolled it back, so the connection is sound.
        self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Writes the file anew when it is not the one that is open.
    fn renew_if_gone(&self, open: &mut Open) -> Result<()> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        if open.inode == 0 {
            return self.finish_renewal(open, path);
        }
        let gone = match fs::metadata(path) {
            // One page at least is there from the first migration on.
            Ok(metadata) if metadata.len() == 0 => "is empty",
            Ok(metadata) if metadata.ino() != open.inode => "was replaced",
            // Whatever is not in the log beside it, or in memory, is lost; reading tells.
            Ok(metadata) if metadata.len() < open.length => "was cut short",
            Ok(metadata) => {
                open.length = metadata.len();
                return Ok(());
            }
            Err(_) => "is gone",
        };
        let copy = rescued_path(path);
        if gone == "is empty" {
            return self.begin_anew(open, &format!("the file {gone}"));
        }
        if let Err(error) = rescue(&open.connection, &copy) {
            let _ = fs::remove_file(&copy);
            if is_damage(&error) {
                return self.begin_anew(open, &format!("the file {gone}, and {error}"));
            }
            // A full disk, or no directory: what is open still has everything, so try again later.
            return Err(failed(format!("write {} anew, which {gone}", path.display()), error));
        }
        let reason = match gone {
            "was cut short" => "what could still be read of it was written anew",
            _ => "it was written anew and nothing is lost",
        };
        let reason = format!("the store's file {gone}; {reason}");
        replace(open, || {
            if path.exists() {
                move_aside(path)?;
            }
            remove_side_files(path);
            take_rescued(path)?;
            open_file(path).map_err(|error| failed("open the store again", error))
        })?;
        self.say_renewed(reason);
        Ok(())
    }

    /// Ends what failed after the old file had been closed.
    fn finish_renewal(&self, open: &mut Open, path: &Path) -> Result<()> {
        take_rescued(path)?;
        match open_file(path) {
            Ok(opened) => *open = opened,
            Err(error) if is_damage(&error) => return self.begin_anew(open, &error.to_string()),
            Err(error) => return Err(failed("open the store again", error)),
        }
        self.say_renewed(
            "the store was opened again after it could not be written anew".to_owned(),
        );
        Ok(())
    }

    /// Moves a damaged file aside and begins with an empty one.
    fn begin_anew(&self, open: &mut Open, error: &str) -> Result<()> {
        let Some(path) = &self.path else {
            return Err(failed("go on in memory", std::io::Error::other(error.to_owned())));
        };
        let mut kept = String::new();
        replace(open, || {
            if path.exists() {
                let aside = move_aside(path)?;
                kept = format!("; the old one is kept as {}", aside.display());
            }
            remove_side_files(path);
            open_file(path).map_err(|error| failed("begin a new store", error))
        })?;
        self.say_renewed(format!("the store was damaged ({error}); a new one was begun{kept}"));
        Ok(())
    }

    fn say_renewed(&self, reason: String) {
        tracing::error!(reason, "The store was begun anew.");
        self.renewed.send_modify(|renewal| {
            renewal.count += 1;
            renewal.reason = reason;
        });
    }
}

/// Where a file that is gone is written anew, before it takes its name.
fn rescued_path(path: &Path) -> PathBuf {
    path.with_extension("rescued")
}

/// Writes everything that is open into a new file.
fn rescue(connection: &Connection, copy: &Path) -> rusqlite::Result<()> {
    let _ = fs::remove_file(copy);
    remove_side_files(copy);
    // SQLite takes an empty file as it is, and would otherwise make one that everybody may read.
    make_file(copy)?;
    connection.execute("VACUUM INTO ?1", [copy.to_string_lossy()])?;
    open_file(copy).map(drop)
}

/// Gives a file that was written anew the name of the one that is gone.
fn take_rescued(path: &Path) -> Result<()> {
    let copy = rescued_path(path);
    if path.exists() || !copy.exists() {
        return Ok(());
    }
    fs::rename(&copy, path).map_err(|error| failed("put the store back", error))
}

/// Closes the file before `reopen` makes its successor, so that SQLite never has both open.
fn replace(open: &mut Open, reopen: impl FnOnce() -> Result<Open>) -> Result<()> {
    let nothing = Connection::open_in_memory().map_err(|error| failed("close", error))?;
    *open = Open { connection: nothing, inode: 0, length: 0 };
    *open = reopen()?;
    Ok(())
}

fn run<T>(
    connection: &mut Connection,
    synchronous: &str,
    work: &impl Fn(&Transaction<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    connection.pragma_update(None, "synchronous", synchronous)?;
    let transaction = connection.transaction()?;
    let result = work(&transaction)?;
    transaction.commit()?;
    Ok(result)
}

fn open_file(path: &Path) -> rusqlite::Result<Open> {
    let inode = make_file(path)?;
    let mut connection = Connection::open(path)?;
    prepare(&mut connection)?;
    Ok(Open { connection, inode, length: 0 })
}

/// Makes the file unless it is there; returns its inode. SQLite gives its side files the mode of the main
/// file, which may hold secrets in jobs.
fn make_file(path: &Path) -> rusqlite::Result<u64> {
    let mut options = fs::OpenOptions::new();
    options.create(true).truncate(false).read(true).write(true).mode(0o600);
    let made = options.open(path).and_then(|file| file.metadata());
    made.map(|metadata| metadata.ino()).map_err(|error| {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN);
        rusqlite::Error::SqliteFailure(code, Some(error.to_string()))
    })
}

fn prepare(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    connection.pragma_update(None, "secure_delete", "ON")?;
    let check: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if check != "ok" {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
        return Err(rusqlite::Error::SqliteFailure(code, Some(check)));
    }
    Migrations::from_slice(MIGRATIONS).to_latest(connection).map_err(|error| match error {
        rusqlite_migration::Error::RusqliteError { err, .. } => err,
        other => {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ERROR);
            rusqlite::Error::SqliteFailure(code, Some(other.to_string()))
        }
    })
}

/// Whether the file itself is unusable, rather than the disk full or the caller wrong.
fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase, SystemIoFailure};
    match error {
        rusqlite::Error::SqliteFailure(code, text) => {
            let is_short_read = code.extended_code == rusqlite::ffi::SQLITE_IOERR_SHORT_READ;
            matches!(code.code, DatabaseCorrupt | NotADatabase)
                || (code.code == SystemIoFailure && is_short_read)
                || text.as_ref().is_some_and(|text| text.starts_with("no such table"))
        }
        rusqlite::Error::SqlInputError { msg, .. } => msg.starts_with("no such table"),
        _ => false,
    }
}

fn move_aside(path: &Path) -> Result<PathBuf> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".damaged-{}", Timestamp::now().strftime("%Y%m%dT%H%M%S%.3fZ")));
    let aside = path.with_file_name(name);
    fs::rename(path, &aside)
        .map_err(|error| failed(format!("move {} aside", path.display()), error))?;
    remove_side_files(path);
    Ok(aside)
}

fn remove_side_files(path: &Path) {
    for suffix in ["-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        let _ = fs::remove_file(name);
    }
}

fn failed(
    doing: impl Into<String>,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::backend("store", doing, error)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(failed("finish its work", error)),
    }
}

pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> rusqlite::Result<String> {
    serde_json::to_string(value)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

pub(crate) fn json_column<T: serde::de::DeserializeOwned>(
    row: &rusqlite::Row<'_>,
) -> rusqlite::Result<T> {
    let text: String = row.get(0)?;
    serde_json::from_str(&text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
    })
}
