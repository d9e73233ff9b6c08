//! What an operator should be told: kept until somebody asks, the latest of it.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

/// How much is kept that nobody asked for.
const MOST: usize = 1000;

/// Sentences, the oldest first.
#[derive(Default)]
pub(crate) struct News(Mutex<VecDeque<String>>);

impl News {
    pub(crate) fn tell(&self, text: impl Into<String>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == MOST {
            kept.pop_front();
        }
        kept.push_back(text.into());
    }

    pub(crate) fn take(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_is_kept_and_told_once() {
        let news = News::default();
        for n in 0..MOST + 2 {
            news.tell(n.to_string());
        }
        let told = news.take();
        assert_eq!((told.len(), told[0].as_str()), (MOST, "2"));
        assert_eq!(news.take(), [] as [&str; 0]);
    }
}
