//! Does what the pool is asked to.

use super::*;

impl Engine {
    pub(super) fn obey(&mut self, command: Command) {
        match command {
            Command::Reserve(request, answer) => self.reserve(request, answer),
            Command::Release(id, why, answer) => self.release(&id, why, answer),
            Command::Prolong(id, until, answer) => self.prolong(&id, until, answer),
            Command::Enqueue(request, answer) => self.enqueue(request, answer),
            Command::CountElsewhere(id, workers, answer) => {
                self.count_elsewhere(&id, workers, answer);
            }
            Command::AskAfter(id, answer) => drop(answer.send(self.ask_after(&id))),
            Command::Take(id, answer) => self.take(id, answer),
            Command::AwaitMark(id, answer) => self.await_mark(id, answer),
            Command::Offer(profiles, answer) => {
                let check = check_profiles(&profiles, &self.hands.forges, &*self.hands.hypervisor);
                if check.is_ok() {
                    self.configured = profiles;
                    self.apply_adjustments();
                }
                let _ = answer.send(check);
            }
            Command::Adjust(profile, adjust, by, answer) => {
                self.adjust(profile, &adjust, by, answer);
            }
            Command::Hold(request, answer) => self.grant_hold(request, answer),
            Command::Unhold(worker, by, answer) => self.end_hold(worker, by, answer),
            Command::Dismiss(worker, by, afterwards, answer) => {
                self.dismiss(worker, by, afterwards, answer);
            }
            Command::Override(request, answer) => self.override_policy(request, answer),
            Command::PreviewOverride(request, answer) => {
                let _ = answer.send(self.preview_override(request));
            }
            Command::EndOverride(by, answer) => self.end_override(by, answer),
            Command::Drain(answer) => {
                self.desired.draining = true;
                self.drained.push(answer);
            }
        }
    }
}
