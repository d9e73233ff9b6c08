//! Begins, previews and ends policy overrides. Decided from memory, answered when it is durable.

use super::*;

impl Engine {
    pub(super) fn override_policy(
        &mut self,
        request: OverrideRequest,
        answer: oneshot::Sender<Result<OverrideStatus>>,
    ) {
        let policy = match self.allow_override(request) {
            Ok(policy) => policy,
            Err(error) => return drop(answer.send(Err(error))),
        };
        let (asked, until) = (policy.words(), policy.until);
        let purpose = if policy.purpose.is_empty() { "no purpose" } else { &policy.purpose };
        let text = format!("{asked}, until {until:.0}: {purpose}");
        self.say(Subject::Override, What::Asked { by: policy.by.clone(), text });
        self.desired.policy = Some(policy.clone());
        let OverridePreview { status, .. } = self.foresee(policy);
        let written = self.write_override();
        tokio::spawn(async move {
            let _ = answer.send(outcome(written).await.map(|()| status));
        });
    }

    pub(super) fn preview_override(&mut self, request: OverrideRequest) -> Result<OverridePreview> {
        let policy = self.allow_override(request)?;
        Ok(self.foresee(policy))
    }

    fn allow_override(&self, request: OverrideRequest) -> Result<Override> {
        if let Some(active) = &self.desired.policy {
            let what = format!(
                "the policy, which {} overrides until {:.0} ({}),",
                active.by,
                active.until,
                active.words()
            );
            return Err(Error::Busy { what });
        }
        if self.desired.draining {
            return Err(Error::Busy { what: "the pool, which is being emptied,".to_owned() });
        }
        Override::new(request, &self.configured, &self.desired.paused, self.now())
    }

    /// What comes of an override, by the same plan that would be carried out.
    fn foresee(&mut self, policy: Override) -> OverridePreview {
        let (observed, now) = (self.observe(), self.now());
        let desired = Desired { policy: Some(policy.clone()), ..self.desired.clone() };
        let plan = plan::plan(&observed, &desired, now);
        let status = OverrideStatus { policy, allotted: plan.allotted };
        OverridePreview { status, actions: plan.actions, held: plan.held }
    }

    pub(super) fn end_override(
        &mut self,
        by: String,
        answer: oneshot::Sender<Result<Option<Override>>>,
    ) {
        let ended = self.desired.policy.take();
        if let Some(policy) = &ended {
            let text = format!("to end it ({})", policy.words());
            self.say(Subject::Override, What::Asked { by, text });
        }
        let written = self.write_override();
        tokio::spawn(async move {
            let _ = answer.send(outcome(written).await.map(|()| ended));
        });
    }

    /// Writes down which workers the override has. What is not written is claimed again after a restart.
    pub(super) fn claim(&mut self, claims: &BTreeMap<ProfileName, BTreeSet<WorkerName>>) {
        let Some(policy) = &mut self.desired.policy else { return };
        if policy.claim(claims) {
            self.write_override();
        }
    }

    /// Writes the override as it is now, after every earlier one.
    pub(super) fn write_override(&mut self) -> oneshot::Receiver<Result<()>> {
        let (store, policy) = (self.hands.store.clone(), self.desired.policy.clone());
        let earlier = self.override_write.take();
        let (told, written) = oneshot::channel();
        self.override_write = Some(tokio::spawn(async move {
            if let Some(earlier) = earlier {
                let _ = earlier.await;
            }
            // Fails when nobody waits for it, which is fine.
            let _ = told.send(store.put_override(policy).await);
        }));
        written
    }
}

async fn outcome(written: oneshot::Receiver<Result<()>>) -> Result<()> {
    let ended = std::io::Error::other("it ended before");
    written.await.unwrap_or_else(|_| Err(Error::backend("store", "write the override", ended)))
}
