//! The threads on which calls of libvirt block: few, ours, and no obstacle to the end of the process.
//!
//! The runtime's own blocking threads would not do: a runtime that ends waits for them, and a call to a daemon
//! that hangs may never return.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// How long a thread waits for more to do before it ends.
const IDLE: Duration = Duration::from_secs(10);
/// How many jobs may wait for a thread.
const MAX_WAITING: usize = 1024;

type Job = Box<dyn FnOnce() + Send>;

/// A number of threads, made as they are needed.
pub(crate) struct Threads(Arc<Shared>);

struct Shared {
    most: usize,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    over: bool,
}

impl Threads {
    /// At most `most` threads.
    pub(crate) fn new(most: usize) -> Self {
        Self(Arc::new(Shared { most, state: Mutex::default(), wake: Condvar::new() }))
    }

    /// Has `job` done in its turn; false if it will not be done, because too many wait already.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) -> bool {
        let mut state = self.0.lock();
        if state.jobs.len() >= MAX_WAITING {
            return false;
        }
        state.jobs.push_back(Box::new(job));
        if state.idle >= state.jobs.len() {
            self.0.wake.notify_one();
            return true;
        }
        if state.threads < self.0.most {
            let shared = self.0.clone();
            let name = "libvirt-call".to_owned();
            match thread::Builder::new().name(name).spawn(move || shared.work()) {
                Ok(_) => state.threads += 1,
                // Those that there are do it in the end.
                Err(_) if state.threads > 0 => {}
                Err(error) => {
                    tracing::error!(%error, "Could not start a thread for calls of libvirt.");
                    state.jobs.pop_back();
                    return false;
                }
            }
        }
        true
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.0.lock().over = true;
        self.0.wake.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No job runs under the lock, so that there is nothing that a panic could have left half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                // Its caller learns of a panic from the answer that does not come. The thread has more to do.
                let _ = catch_unwind(AssertUnwindSafe(job));
                state = self.lock();
                continue;
            }
            if state.over {
                break;
            }
            state.idle += 1;
            let (woken, waited) =
                self.wake.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if waited.timed_out() && state.jobs.is_empty() {
                break;
            }
        }
        // Under the lock that saw no job: whoever brings one next starts a thread.
        state.threads -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn there_are_never_more_threads_than_allowed() {
        let threads = Threads::new(3);
        let (started, starts) = mpsc::channel();
        let (release, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        for _ in 0..10 {
            let (started, gate) = (started.clone(), gate.clone());
            assert!(threads.run(move || {
                started.send(thread::current().id()).unwrap();
                gate.lock().unwrap().recv().unwrap();
            }));
        }
        let mut ids = Vec::new();
        for n in 0..10 {
            ids.push(starts.recv().unwrap());
            if n == 2 {
                assert!(starts.try_recv().is_err(), "a fourth runs beside three");
            }
            if n >= 2 {
                release.send(()).unwrap();
            }
        }
        release.send(()).unwrap();
        release.send(()).unwrap();
        ids.sort_by_key(|id| format!("{id:?}"));
        ids.dedup();
        assert_eq!(ids.len(), 3);
    }

    #[test]
    fn a_job_that_panics_takes_no_thread_away() {
        let threads = Threads::new(1);
        for _ in 0..3 {
            assert!(threads.run(|| panic!("on purpose")));
        }
        let (done, waiting) = mpsc::channel();
        assert!(threads.run(move || done.send(()).unwrap()));
        waiting.recv().unwrap();
    }

    #[test]
    fn what_was_taken_on_is_done_after_the_end() {
        let threads = Threads::new(1);
        let (done, waiting) = mpsc::channel();
        for n in 0..5 {
            let done = done.clone();
            threads.run(move || done.send(n).unwrap());
        }
        drop((threads, done));
        assert_eq!(waiting.iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    }
}
