//! Asks for lists and takes the answers in.

use super::*;

impl Engine {
    pub(super) fn look_everywhere(&mut self) {
        self.look(Source::Hypervisor);
        self.look(Source::Builder);
        let forges: Vec<ForgeName> = self.hands.forges.keys().cloned().collect();
        for forge in forges {
            self.look(Source::Forge(forge));
        }
    }

    /// Asks for one list; if it is being asked already, once more when that is answered.
    pub(super) fn look(&mut self, source: Source) {
        if let Some((_, again)) = self.looking.get_mut(&source) {
            *again = true;
            return;
        }
        self.tick += 1;
        self.looking.insert(source.clone(), (self.tick, false));
        let (hands, limit) = (self.hands.clone(), self.pace.look_limit);
        match &source {
            Source::Hypervisor => {
                let recorded: BTreeSet<WorkerName> = self.records.keys().cloned().collect();
                self.looks.spawn(source, async move {
                    let ask = observe::ask_hypervisor(&*hands.hypervisor, &recorded);
                    Answer::Hypervisor(within(limit, "list the instances", ask).await)
                });
            }
            Source::Forge(name) => {
                let forge = hands.forges[name].clone();
                self.looks.spawn(source, async move {
                    let ask = observe::ask_forge(&*forge);
                    Answer::Forge(within(limit, "list the runners and jobs", ask).await)
                });
            }
            Source::Builder => {
                self.looks.spawn(source, async move {
                    let ask = observe::ask_builder(&*hands.builder);
                    Answer::Builder(within(limit, "list the images", ask).await)
                });
            }
        }
    }

    /// Takes a list in.
    pub(super) fn take_answer(&mut self, source: Source, answer: Result<Answer, JoinError>) {
        let Some((began, again)) = self.looking.remove(&source) else {
            return;
        };
        let answer = answer.unwrap_or_else(|panic| source.failed(crashed("list", panic)));
        let (subject, sight) = match (&source, answer) {
            (Source::Forge(name), Answer::Forge(answer)) => {
                let view = self.views.forges.get_mut(name);
                let sight = view.and_then(|(_, view)| view.take(answer, began));
                (Subject::Forge(name.clone()), sight)
            }
            (_, Answer::Hypervisor(answer)) => {
                (Subject::Hypervisor, self.views.host.take(answer, began))
            }
            (_, Answer::Builder(answer)) => {
                (Subject::Builder, self.views.images.take(answer, began))
            }
            (_, Answer::Forge(_)) => return,
        };
        match sight {
            Some(plan::Sight::Blind(reason)) => self.say(subject, What::Blind { reason }),
            Some(_) => self.say(subject, What::Sighted),
            None => (),
        }
        if again {
            self.look(source);
        }
    }

    pub(super) fn observe(&mut self) -> Observed {
        let now = self.now();
        let driven: BTreeSet<WorkerName> = self.drives.keys().cloned().collect();
        let known = Known {
            records: &self.records,
            promised: self.queue.promised().collect(),
            actions: &self.actions,
            driven: &driven,
            last_online: &mut self.last_online,
        };
        let workers = self.views.join(known, now);
        let views = &self.views;
        self.actions.retain(|subject, action| !views.show(subject, action));
        let is_stale = |b: &Backoff| b.not_before.duration_since(now).as_secs() < -3600;
        let is_gone = |subject: &Subject| match subject {
            Subject::Worker(name) => {
                !workers.contains_key(name) && !self.actions.contains_key(subject)
            }
            _ => false,
        };
        self.backoff.retain(|subject, backoff| !is_stale(backoff) && !is_gone(subject));
        let highest =
            workers.keys().filter_map(|name| name.parts()).map(|(_, serial)| serial).max();
        self.serial = self.serial.max(highest.map_or(1, |serial| serial.saturating_add(1)));
        Observed {
            workers,
            hypervisor: self.views.host.sight.clone(),
            capacity: (self.views.host.sight == plan::Sight::Seen)
                .then(|| self.views.host.seen.capacity.clone()),
            forges: self
                .views
                .forges
                .iter()
                .map(|(n, (f, v))| (n.clone(), view_of(&**f, v)))
                .collect(),
            builder: self.views.images.sight.clone(),
            images: self.views.images.seen.clone(),
            reservations: self.queue.reservations.clone(),
            waiting: self.queue.entries.clone(),
            needs: Vec::new(),
            ended: BTreeSet::new(),
            backoff: self.backoff.clone(),
            in_flight: self.actions.keys().cloned().collect(),
            next_serial: self.serial,
        }
    }
}

fn view_of(forge: &dyn crate::Forge, view: &View<observe::ForgeAnswer>) -> ForgeView {
    let capabilities = forge.capabilities();
    ForgeView {
        sight: view.sight.clone(),
        drives: !capabilities.guest_pulls,
        reserves: capabilities.reserves,
        forgets_after: capabilities.forgets_after,
        queued: view.seen.queued.clone(),
    }
}

impl Source {
    fn failed(&self, error: Error) -> Answer {
        match self {
            Self::Hypervisor => Answer::Hypervisor(Err(error)),
            Self::Forge(_) => Answer::Forge(Err(error)),
            Self::Builder => Answer::Builder(Err(error)),
        }
    }
}
