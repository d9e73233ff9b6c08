//! Reservations, as labels at GitHub.

use std::collections::BTreeSet;

use runner_core::{Error, Label, ProfileName, ReservationId, Result, RunnerId};
use tokio::time::Instant;

use super::{CONFIRMS, Inner};
use crate::{
    error::{Explain, number},
    labels, mark,
    runners::GithubRunner,
};

impl Inner {
    pub(super) async fn reserve(&self, id: &RunnerId, reservation: &ReservationId) -> Result<()> {
        let not_found = || Error::not_found(format!("runner {id}"));
        if reservation.as_str().bytes().any(|b| b.is_ascii_uppercase()) {
            let reason = "GitHub does not keep the case of labels, so use lower-case letters";
            return Err(Error::invalid(format!("reservation {reservation}"), reason));
        }
        let number = number(id.as_str()).ok_or_else(not_found)?;
        let runner = self.known(number).await?;
        let marked = labels::reserved_for(runner.labels.iter().map(|label| &*label.name));
        match marked {
            Some(marked) if marked == *reservation => return Ok(()),
            Some(_) => return Err(Error::busy(format!("runner {id}"))),
            None if runner.busy => return Err(Error::busy(format!("runner {id}"))),
            None => {}
        }
        let now = self.client.clock().now();
        let marks = labels::marks(reservation, &self.config.owner, now);
        self.put_labels(number, marks.into()).await?.then_some(()).ok_or_else(not_found)
    }

    pub(super) async fn release(&self, id: &RunnerId) -> Result<()> {
        let Some(number) = number(id.as_str()) else { return Ok(()) };
        let runner = match self.known(number).await {
            Err(error) if error.is_not_found() => return Ok(()),
            runner => runner?,
        };
        let is_marked =
            labels::reserved_for(runner.labels.iter().map(|label| &*label.name)).is_some();
        if !is_marked || runner.busy {
            return Ok(()); // The mark of a busy runner goes with it.
        }
        let worker = mark::worker(&runner.name, &self.config.owner);
        let profile = worker.and_then(|worker| worker.parts()).map(|(profile, _)| profile);
        let Some(profile) = profile else { return Ok(()) };
        let own = self.profile(&profile).map(|own| own.labels.clone()).unwrap_or_default();
        self.put_labels(number, self.labels(&profile, &own)).await.map(|_| ())
    }

    /// What a runner offers that is not reserved.
    pub(super) fn labels(&self, profile: &ProfileName, labels: &BTreeSet<Label>) -> Vec<String> {
        let mut all: Vec<String> = labels.iter().map(ToString::to_string).collect();
        if !all.iter().any(|label| label.eq_ignore_ascii_case(profile.as_str())) {
            all.push(profile.to_string());
        }
        all
    }

    /// A runner as it is known, or else asked for.
    async fn known(&self, id: u64) -> Result<GithubRunner> {
        let recent = self.view().began().is_some_and(|began| Instant::now() < began + CONFIRMS);
        if let Some(runner) = self.view().get(id).cloned().filter(|_| recent) {
            return Ok(runner);
        }
        let doing = format!("look at runner {id}");
        let runner = self.client.runner(id).await.explain(&doing, &self.client)?;
        runner.ok_or_else(|| Error::not_found(format!("runner {id}")))
    }

    async fn put_labels(&self, id: u64, labels: Vec<String>) -> Result<bool> {
        let doing = format!("label runner {id}");
        let done = self.client.set_labels(id, &labels).await.explain(&doing, &self.client)?;
        if done {
            self.view().labelled(id, labels, Instant::now());
        }
        Ok(done)
    }
}
