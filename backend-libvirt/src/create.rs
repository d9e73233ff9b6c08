//! From a specification to a domain that runs, or to nothing.

use jiff::Timestamp;
use machine_disks::{Mark, admission};
use runner_core::{
    Error, Result,
    error::chain,
    hypervisor::{ExitReason, Instance, InstanceSpec, InstanceState},
};
use uuid::Uuid;

use crate::{
    connection::{Failure, Life},
    domain::{self, DomainSpec, MacAddress},
    error,
    hypervisor::Inner,
    profile_dir::ProfileFiles,
    turn::Doing,
    watch::Watched,
};

/// Why an instance was not made.
enum Unmade {
    /// It does not run, and will not.
    Failed(Error),
    /// It may, or may soon.
    Unclear(Error),
}

impl From<Error> for Unmade {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Inner {
    pub(crate) async fn create(&self, spec: &InstanceSpec) -> Result<Instance> {
        let name = &spec.name;
        let turn = self.turns.of(name);
        let _taken = turn.take(Doing::Creating).await;
        if let Some(found) = self.find(name).await? {
            return self.settle(&found).await;
        }
        let files = self.files(spec).await?;
        check(spec, &files).await?;
        if let Some(foreign) = self.domain(name).await? {
            let what = format!(
                "domain {name} (it is not ours, with the UUID {}: undefine or rename it)",
                foreign.uuid
            );
            return Err(Error::busy(what));
        }
        let mark = Mark::of(spec, &self.config.owner, Timestamp::now());
        {
            let _admission = self.admission.lock().await;
            admission::check_room(&self.capacity().await?, &self.used().await?, spec)?;
            self.storage.begin(&mark).await?;
        }
        let uuid = Uuid::new_v4();
        let watched = self.watch.ours(uuid, mark.clone());
        let result = self.launch(spec, &files, &watched).await;
        self.hint.hint();
        match result {
            Ok(()) => Ok(mark.instance(InstanceState::Running)),
            // It may start yet. It is listed, and whoever asked for it decides.
            Err(Unmade::Unclear(error)) => Err(error),
            Err(Unmade::Failed(error)) => {
                self.give_up(&watched, &error).await;
                Err(error)
            }
        }
    }

    /// Makes and starts the domain of an instance whose storage has begun.
    async fn launch(
        &self,
        spec: &InstanceSpec,
        files: &ProfileFiles,
        watched: &Watched,
    ) -> Result<(), Unmade> {
        let name = &spec.name;
        let furnished = self.storage.furnish(spec, files).await?;
        let network = self.networks.plug(spec).await?;
        let document = domain::document(
            &files.template,
            &DomainSpec {
                name,
                uuid: watched.uuid,
                mac: MacAddress::of(&self.config.owner, name),
                virt: self.virt.virt,
                emulator: None,
                resources: &spec.resources,
                boot: furnished.boot,
                disks: furnished.disks,
                user_data: furnished.user_data,
                network: Some(network),
                console_log: Some(&furnished.console_log),
                mark: &watched.mark,
            },
        )?;
        let unmade = |doing: &'static str| {
            move |failure: Failure| {
                let unclear = failure.is_unclear();
                let error = failure.doing(format!("{doing} {name}"));
                if unclear { Unmade::Unclear(error) } else { Unmade::Failed(error) }
            }
        };
        self.connection.define(document).await.map_err(unmade("define"))?;
        self.connection.start(watched.uuid).await.map_err(unmade("start"))
    }

    /// What the operator keeps of the instance's profile.
    async fn files(&self, spec: &InstanceSpec) -> Result<ProfileFiles> {
        let Some(profiles) = self.config.profiles.clone() else {
            return Ok(ProfileFiles::none());
        };
        let profile = spec.profile.clone();
        error::blocking("read a profile", move || ProfileFiles::read(&profiles, &profile)).await
    }

    /// Removes what is left of a creation that failed, if it is certain that nothing runs.
    async fn give_up(&self, watched: &Watched, why: &Error) {
        let name = &watched.mark.name;
        let remove = async {
            let doing = || format!("remove {name}");
            let life = self.connection.life(watched.uuid).await;
            match life.map_err(|failure| failure.doing(doing()))? {
                // It runs after all, or will in a moment. It is listed, and whoever asked for it decides.
                Some(Life::Active) => return Ok(()),
                Some(Life::Ended(_)) => {
                    let undefined = self.connection.undefine(watched.uuid).await;
                    undefined.map_err(|failure| failure.doing(doing()))?;
                }
                None => {}
            }
            self.networks.unplug(name).await?;
            self.storage.remove(name).await?;
            self.watch.forget(watched.uuid);
            Ok::<_, Error>(())
        };
        if let Err(error) = remove.await {
            tracing::warn!(worker = %name, error = chain(&error), "Could not remove an instance that did not start.");
            let reason = ExitReason::Crashed(chain(why));
            if let Err(error) = self.storage.set_exit(name, &reason).await {
                tracing::warn!(worker = %name, error = chain(&error), "Could not remember why an instance did not start.");
            }
        }
    }
}

/// Refuses a specification that cannot work, whatever the host has.
///
/// # Errors
/// `Invalid`, with the rule.
async fn check(spec: &InstanceSpec, files: &ProfileFiles) -> Result<()> {
    let mut checked = spec.clone();
    if files.tells() {
        // The operator has a place for it beside their own, whatever the image takes.
        checked.user_data = None;
    }
    error::blocking("look at an image", move || admission::check_spec(&checked)).await
}
