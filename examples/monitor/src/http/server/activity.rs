//! Whether a connection is of use: how many requests it has under way, and since when it has none.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use hyper::body::{Body, Frame, SizeHint};
use tokio::{sync::watch, time::timeout};

/// What a connection has under way.
#[derive(Clone)]
pub struct Activity(watch::Sender<usize>);

/// One request under way, until this is dropped.
pub struct Busy(watch::Sender<usize>);

/// A body that keeps its connection busy until all of it was sent, or its receiver has gone.
pub struct BusyBody<B> {
    body: B,
    _busy: Busy,
}

impl Activity {
    pub fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    /// A request begins.
    pub fn begin(&self) -> Busy {
        self.0.send_modify(|busy| *busy += 1);
        Busy(self.0.clone())
    }

    /// Ends when the connection was idle for so long: from its start, or from the end of an answer, until
    /// the head of the next request was there in full.
    pub async fn idle_for(&self, limit: Duration) {
        let mut busy = self.0.subscribe();
        loop {
            // Both wait for ever only if nobody could tell any more, and `self` can.
            let _ = busy.wait_for(|busy| *busy == 0).await;
            // A request may be answered before this is looked at: what counts is that there was one.
            if timeout(limit, busy.changed()).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.send_modify(|busy| *busy -= 1);
    }
}

impl<B> BusyBody<B> {
    pub fn new(body: B, busy: Busy) -> Self {
        Self { body, _busy: busy }
    }
}

impl<B: Body + Unpin> Body for BusyBody<B> {
    type Data = B::Data;

    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_that_are_answered_at_once_keep_their_connection() {
        let activity = Activity::new();
        let (asking, began) = (activity.clone(), Instant::now());
        tokio::spawn(async move {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_secs(20)).await;
                drop(asking.begin());
            }
        });
        activity.idle_for(Duration::from_secs(30)).await;
        assert_eq!(began.elapsed().as_secs(), 230);
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_time_between_requests_counts() {
        let (activity, limit) = (Activity::new(), Duration::from_secs(10));
        let began = Instant::now();
        let ended = tokio::spawn({
            let activity = activity.clone();
            async move { activity.idle_for(limit).await }
        });
        tokio::time::sleep(Duration::from_secs(8)).await;
        let (first, second) = (activity.begin(), activity.begin());
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(first);
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(second);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!ended.is_finished());
        ended.await.unwrap();
        assert_eq!(began.elapsed().as_secs(), 8 + 60 + 60 + 10);
    }
}
