//! Which deliveries were accepted already: the last so many of them.

use std::collections::{HashSet, VecDeque};

use uuid::Uuid;

/// A bounded set that forgets its oldest member first.
#[derive(Debug)]
pub(super) struct Seen {
    most: usize,
    order: VecDeque<Uuid>,
    all: HashSet<Uuid>,
}

impl Seen {
    /// Remembers the last `most`, at least one.
    pub(super) fn new(most: usize) -> Self {
        Self { most: most.max(1), order: VecDeque::new(), all: HashSet::new() }
    }

    pub(super) fn contains(&self, delivery: &Uuid) -> bool {
        self.all.contains(delivery)
    }

    /// False if it was there.
    pub(super) fn insert(&mut self, delivery: Uuid) -> bool {
        if !self.all.insert(delivery) {
            return false;
        }
        self.order.push_back(delivery);
        if self.order.len() > self.most
            && let Some(oldest) = self.order.pop_front()
        {
            self.all.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_first() {
        let ids: Vec<Uuid> = (0..4).map(Uuid::from_u128).collect();
        let mut seen = Seen::new(3);
        assert!(ids.iter().all(|id| seen.insert(*id)));
        assert!(!seen.contains(&ids[0]));
        assert!(!seen.insert(ids[1]));
        assert!(seen.insert(ids[0]));
        assert!(!seen.contains(&ids[1]));
        assert_eq!((seen.order.len(), seen.all.len()), (3, 3));
    }
}
