//! Rows of medians.

use std::time::Duration;

/// Prints rows as they come.
pub struct Table(());

impl Table {
    /// Prints the header.
    pub fn begin() -> Self {
        println!("{:<58} {:>12} {:>25} {:>4}  aim", "", "median", "range", "n");
        Self(())
    }

    /// Prints the median of some times.
    pub fn times(&mut self, what: &str, times: &[Duration], aim: &str) {
        let mut sorted = times.to_vec();
        sorted.sort();
        let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else { return };
        let range = format!("{} .. {}", show(*first), show(*last));
        println!("{what:<58} {:>12} {range:>25} {:>4}  {aim}", show(median(times)), sorted.len());
    }

    /// Prints one number.
    pub fn number(&mut self, what: &str, number: String, aim: &str) {
        println!("{what:<58} {number:>12} {:>25} {:>4}  {aim}", "", "");
    }
}

/// The one that so many of a thousand are not above; zero of none.
pub fn per_mille(times: &[Duration], share: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    let index = (sorted.len() * share / 1000).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or_default()
}

/// The middle one; zero of none.
pub fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

pub fn show(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}
