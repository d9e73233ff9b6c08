//! Makes what the pool's task decided durable, in the order in which it was decided, many decisions at once.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, oneshot};

use crate::{
    error::{Error, Result, chain},
    store::{Row, RowKey, Store},
};

/// How long to wait after a store that failed.
const AGAIN: Duration = Duration::from_secs(1);

/// What is to be written. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<Shared>);

#[derive(Default)]
struct Shared {
    open: Mutex<Open>,
    news: Notify,
}

#[derive(Default)]
struct Open {
    /// The newest of each row: what was written over before it was durable need not be.
    rows: BTreeMap<RowKey, Row>,
    /// Who waits for what is in `rows`.
    asking: Vec<oneshot::Sender<Result<()>>>,
}

impl Ledger {
    /// Has `rows` written, and goes on trying until they are, whoever waits for it.
    pub fn post(&self, rows: impl IntoIterator<Item = Row>) {
        let mut open = self.open();
        open.rows.extend(rows.into_iter().map(|row| (row.key(), row)));
        drop(open);
        self.0.news.notify_one();
    }

    /// As [`post`](Self::post); the answer comes when they are durable, or could not be made so at once.
    pub fn write<const N: usize>(
        &self,
        rows: [Row; N],
    ) -> impl Future<Output = Result<()>> + Send + use<N> {
        let (done, ended) = oneshot::channel();
        {
            let mut open = self.open();
            open.rows.extend(rows.map(|row| (row.key(), row)));
            open.asking.push(done);
        }
        self.0.news.notify_one();
        async move { ended.await.unwrap_or_else(|_| Err(failed("the pool has ended"))) }
    }

    /// Waits until one row is durable as it was decided last. One that is so already asks nothing of the store.
    pub async fn settled(&self, key: &RowKey) -> Result<()> {
        while self.open().rows.contains_key(key) {
            self.write([]).await?;
        }
        Ok(())
    }

    /// Writes until it is dropped.
    pub async fn keep(self, store: Store) {
        loop {
            let (rows, asking) = {
                let mut open = self.open();
                (open.rows.clone(), std::mem::take(&mut open.asking))
            };
            if rows.is_empty() && asking.is_empty() {
                self.0.news.notified().await;
                // What is about to be decided shares the flush of the disk.
                tokio::task::yield_now().await;
                continue;
            }
            let written: Vec<Row> = rows.values().cloned().collect();
            let result = store.write_rows(written).await;
            if result.is_ok() {
                let mut open = self.open();
                // What was decided meanwhile is still to be written.
                open.rows.retain(|key, row| rows.get(key) != Some(row));
            }
            let error = result.err().map(|error| chain(&error));
            for ask in asking {
                let _ = ask.send(error.as_ref().map_or(Ok(()), |error| Err(failed(error))));
            }
            if error.is_some() {
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(why: &str) -> Error {
    Error::backend("store", "make it durable", std::io::Error::other(why.to_owned()))
}
