//! What an edit changes of the forges of one kind.

use runner_core::ForgeName;

/// What an edit changes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Edits {
    /// In words. Taken on at once.
    pub live: Vec<String>,
    /// The keys that wait for a restart.
    pub restart: Vec<String>,
}

impl Edits {
    /// From these forges of a kind to those. One that comes or goes waits for a restart.
    pub fn of<T>(
        kind: &str,
        (old, new): (&[T], &[T]),
        name: fn(&T) -> &ForgeName,
        between: fn(&mut Self, &T, &T),
    ) -> Self {
        let mut edits = Self::default();
        for now in new {
            match old.iter().find(|before| name(before) == name(now)) {
                Some(before) => between(&mut edits, before, now),
                None => edits.restart.push(format!("{kind}.{}", name(now))),
            }
        }
        let gone = old.iter().filter(|before| !new.iter().any(|now| name(now) == name(before)));
        edits.restart.extend(gone.map(|before| format!("{kind}.{}", name(before))));
        edits
    }

    /// Those keys of a section that changed wait for a restart.
    pub fn wait(&mut self, section: &str, keys: &[(&str, bool)]) {
        let keys = keys.iter().filter(|(_, is_changed)| *is_changed);
        self.restart.extend(keys.map(|(key, _)| format!("{section}.{key}")));
    }
}

/// Those that changed, in words.
pub(super) fn changed(all: &[(&str, bool)]) -> Option<String> {
    let words: Vec<&str> = all.iter().filter(|(_, is)| *is).map(|(word, _)| *word).collect();
    (!words.is_empty()).then(|| words.join(", "))
}
