//! The runners of ours as last listed, with what we did since.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use runner_core::{OwnerId, WorkerName};
use tokio::time::Instant;

use crate::{mark, runners::GithubRunner};

/// For how long a list may still lack a runner that was registered before it was begun.
const SETTLE: Duration = Duration::from_secs(10);

/// A change of ours.
enum Change {
    Registered(Box<GithubRunner>),
    Removed,
    Labelled(Vec<String>),
}

/// What is known of the runners of one owner.
pub(crate) struct View {
    owner: OwnerId,
    began: Option<Instant>,
    /// Whoever whispers that a list may differ was heard since it was begun.
    pub hinted: bool,
    runners: BTreeMap<u64, GithubRunner>,
    /// What we did that the list may not show.
    changes: BTreeMap<u64, (Instant, Change)>,
    /// Names of runners that are gone, for as long as somebody may ask about them.
    gone: HashMap<u64, (Instant, String)>,
    /// Of which it was believed, unseen, that GitHub removed them.
    believed: HashMap<u64, Instant>,
    /// Registrations that share their name with a better one: since when.
    pub hidden: BTreeMap<u64, Instant>,
}

/// For how long the name of a runner that is gone is kept.
const GONE: Duration = Duration::from_secs(3600);

impl View {
    pub fn new(owner: OwnerId) -> Self {
        Self {
            owner,
            began: None,
            hinted: false,
            runners: BTreeMap::new(),
            changes: BTreeMap::new(),
            gone: HashMap::new(),
            believed: HashMap::new(),
            hidden: BTreeMap::new(),
        }
    }

    /// When the last list was begun, if there is one.
    pub fn began(&self) -> Option<Instant> {
        self.began
    }

    /// Whether a runner is on its way, so that its coming online is worth looking for.
    pub fn is_starting(&self) -> bool {
        self.runners.values().any(|runner| !runner.is_online() && !runner.busy)
    }

    /// Takes in a whole list that was begun then.
    pub fn take(&mut self, list: Vec<GithubRunner>, began: Instant) {
        let ours = list.into_iter().filter(|runner| self.worker(runner).is_some());
        let listed: BTreeMap<u64, GithubRunner> = ours.map(|runner| (runner.id, runner)).collect();
        for (id, runner) in std::mem::replace(&mut self.runners, listed) {
            if !self.runners.contains_key(&id) {
                self.gone.insert(id, (began, runner.name));
            }
        }
        self.gone.retain(|_, (at, _)| *at + GONE > began);
        let (gone, runners) = (&self.gone, &self.runners);
        self.believed.retain(|id, at| {
            *at + GONE > began || gone.contains_key(id) || runners.contains_key(id)
        });
        self.began = Some(began);
        self.changes.retain(|id, (at, change)| match change {
            Change::Registered(runner) => {
                let lacks = !self.runners.contains_key(id);
                if lacks && *at + SETTLE > began {
                    self.runners.insert(*id, runner.as_ref().clone());
                }
                lacks && *at + SETTLE > began
            }
            Change::Removed if *at >= began => {
                self.runners.remove(id);
                true
            }
            Change::Labelled(labels) if *at >= began => {
                if let Some(runner) = self.runners.get_mut(id) {
                    relabel(runner, labels);
                }
                true
            }
            Change::Removed | Change::Labelled(_) => false,
        });
    }

    pub fn registered(&mut self, runner: GithubRunner, now: Instant) {
        self.changes.insert(runner.id, (now, Change::Registered(Box::new(runner.clone()))));
        self.runners.insert(runner.id, runner);
    }

    pub fn removed(&mut self, id: u64, now: Instant) {
        if let Some(runner) = self.runners.remove(&id) {
            self.gone.insert(id, (now, runner.name));
        }
        self.changes.insert(id, (now, Change::Removed));
        self.hidden.remove(&id);
    }

    pub fn labelled(&mut self, id: u64, labels: Vec<String>, now: Instant) {
        if let Some(runner) = self.runners.get_mut(&id) {
            relabel(runner, &labels);
        }
        // What it was registered with is not to come back.
        if let Some((_, Change::Registered(runner))) = self.changes.get_mut(&id) {
            return relabel(runner, &labels);
        }
        self.changes.insert(id, (now, Change::Labelled(labels)));
    }

    /// A list that lacks this runner does not lag behind.
    pub fn settled(&mut self, id: u64) {
        self.changes.remove(&id);
    }

    /// Whether it may be believed, unseen, that GitHub removed a runner: the first time only.
    pub fn believe(&mut self, id: u64) -> bool {
        self.believed.insert(id, Instant::now()).is_none()
    }

    pub fn get(&self, id: u64) -> Option<&GithubRunner> {
        self.runners.get(&id)
    }

    /// The name of a runner that is or was ours.
    pub fn name(&self, id: u64) -> Option<&str> {
        let gone = || self.gone.get(&id).map(|(_, name)| name.as_str());
        self.get(id).map(|runner| runner.name.as_str()).or_else(gone)
    }

    fn worker(&self, runner: &GithubRunner) -> Option<WorkerName> {
        mark::worker(&runner.name, &self.owner)
    }

    /// The runners of ours, one for each worker: where several share a name, the one that works, or else the
    /// youngest. The others are hidden.
    pub fn ours(&mut self, now: Instant) -> Vec<(WorkerName, GithubRunner)> {
        let mut best: BTreeMap<WorkerName, &GithubRunner> = BTreeMap::new();
        let rank = |runner: &GithubRunner| (runner.busy, runner.is_online(), runner.id);
        let mut hidden = BTreeMap::new();
        for runner in self.runners.values() {
            let Some(worker) = self.worker(runner) else { continue };
            let other = match best.get(&worker) {
                Some(known) if rank(known) > rank(runner) => Some(runner),
                _ => best.insert(worker, runner),
            };
            if let Some(other) = other {
                hidden.insert(other.id, self.hidden.get(&other.id).copied().unwrap_or(now));
            }
        }
        let ours = best.into_iter().map(|(worker, runner)| (worker, runner.clone())).collect();
        self.hidden = hidden;
        ours
    }
}

fn relabel(runner: &mut GithubRunner, labels: &[String]) {
    runner.labels =
        labels.iter().map(|name| crate::runners::RunnerLabel { name: name.clone() }).collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runner(id: u64, name: &str, status: &str, busy: bool) -> GithubRunner {
        let (name, status) = (name.to_owned(), status.to_owned());
        GithubRunner { id, name, status, busy, labels: Vec::new(), version: None }
    }

    fn view() -> View {
        View::new(OwnerId::new("me").unwrap())
    }

    fn ids(view: &mut View) -> Vec<u64> {
        view.ours(Instant::now()).iter().map(|(_, runner)| runner.id).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_registered_is_not_ours() {
        let mut view = view();
        let list = [
            runner(1, "a-1_me", "offline", false),
            runner(2, "a-1_you", "offline", false),
            runner(3, "a-1", "offline", false),
        ];
        view.take(list.into(), Instant::now());
        assert_eq!(ids(&mut view), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_was_begun_before_does_not_undo_what_we_did() {
        let (mut view, began) = (view(), Instant::now());
        let [a, b] = [runner(1, "a-1_me", "online", false), runner(2, "a-2_me", "offline", false)];
        view.take(vec![a.clone()], began);
        let later = began + Duration::from_millis(1);
        view.removed(1, later);
        view.registered(b, later);
        assert_eq!(ids(&mut view), [2]);
        view.take(vec![a.clone()], began);
        assert_eq!(ids(&mut view), [2]);
        // One that was begun after is believed, if it is not still settling.
        view.take(vec![a], later + SETTLE);
        assert_eq!(ids(&mut view), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_runner_that_a_list_has_shown_is_gone_with_the_next_that_lacks_it() {
        let (mut view, now) = (view(), Instant::now());
        let made = runner(2, "a-2_me", "offline", false);
        view.registered(made.clone(), now);
        view.take(Vec::new(), now + Duration::from_secs(1));
        assert_eq!(ids(&mut view), [2], "a list may lag behind");
        view.take(vec![made], now + Duration::from_secs(2));
        view.take(Vec::new(), now + Duration::from_secs(3));
        assert_eq!(ids(&mut view), [] as [u64; 0]);
        assert_eq!(view.name(2), Some("a-2_me"), "somebody may ask");
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_with_one_name_the_one_that_works_is_listed() {
        let mut view = view();
        let list = [
            runner(1, "a-1_me", "online", true),
            runner(2, "a-1_me", "offline", false),
            runner(3, "a-1_me", "online", false),
        ];
        view.take(list.into(), Instant::now());
        assert_eq!(ids(&mut view), [1]);
        assert_eq!(view.hidden.keys().copied().collect::<Vec<_>>(), [2, 3]);
    }
}
