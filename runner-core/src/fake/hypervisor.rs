//! The fake hypervisor.

use std::{net::IpAddr, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;

use super::{Call, FakeWorld, Machine, after, guest::FakeGuest};
use crate::{
    changes::Changes,
    error::{Error, Result},
    guest::Guest,
    hypervisor::{
        Console, Hypervisor, HypervisorCapabilities, Instance, InstanceSpec, InstanceState, Png,
    },
    image::Image,
    name::WorkerName,
    resources::{Capacity, Resources},
};

/// The hypervisor of a [`FakeWorld`]. Clones share it.
#[derive(Clone)]
pub struct FakeHypervisor(pub(super) FakeWorld);

#[async_trait]
impl Hypervisor for FakeHypervisor {
    fn capabilities(&self) -> HypervisorCapabilities {
        HypervisorCapabilities {
            changes: true,
            guest: true,
            screenshot: true,
            console: true,
            adopts: true,
        }
    }

    async fn capacity(&self) -> Result<Capacity> {
        Ok(self.0.state().capacity.clone())
    }

    async fn create(&self, spec: &InstanceSpec) -> Result<Instance> {
        self.0
            .call(Call::Create(spec.name.clone()), |world, now| {
                if let Some(machine) = world.machines.get(&spec.name) {
                    return Ok(machine.instance.clone());
                }
                let mut used = Resources::default();
                world.machines.values().for_each(|machine| used.add(&machine.instance.resources));
                if let Some(shortage) = world.capacity.shortage(&used, &spec.resources) {
                    return Err(Error::Exhausted {
                        resource: shortage.resource.clone(),
                        needed: shortage.needed.to_string(),
                        available: shortage.free.to_string(),
                    });
                }
                let instance = Instance {
                    name: spec.name.clone(),
                    profile: spec.profile.clone(),
                    image: spec.image.id.clone(),
                    resources: spec.resources.clone(),
                    created_at: now,
                    state: InstanceState::Running,
                };
                let machine = Machine {
                    instance: instance.clone(),
                    boots_at: after(now, world.boot_time),
                    secret: spec.user_data.as_ref().map(|data| data.expose().clone()),
                    processes: Default::default(),
                    sessions: Default::default(),
                    files: Default::default(),
                    screen: 0,
                    addresses: Vec::new(),
                };
                world.machines.insert(spec.name.clone(), machine);
                Ok(instance)
            })
            .await
    }

    async fn destroy(&self, name: &WorkerName) -> Result<()> {
        self.0
            .call(Call::Destroy(name.clone()), |world, now| {
                if let Some(job) = world.job_on(name, now) {
                    world.crimes.push(format!("{name} was destroyed while {job} ran on it"));
                }
                world.lose_job_of(name);
                world.machines.remove(name);
                Ok(())
            })
            .await
    }

    async fn instances(&self) -> Result<Vec<Instance>> {
        let all = |world: &super::World, _| {
            world.machines.values().map(|machine| machine.instance.clone()).collect()
        };
        self.0.list(Call::Instances, all).await
    }

    fn changes(&self) -> Changes {
        self.0.0.hint.changes()
    }

    async fn prepare(&self, _image: &Image) -> Result<()> {
        Ok(())
    }

    async fn screenshot(&self, name: &WorkerName) -> Result<Png> {
        let mut world = self.0.settled();
        let machine = world.machines.get_mut(name);
        let running = machine.filter(|machine| machine.instance.state == InstanceState::Running);
        let machine = running.ok_or_else(|| Error::not_found(format!("instance {name}")))?;
        machine.screen = machine.screen.wrapping_add(1);
        Ok(Png(Bytes::from_static(ONE_PIXEL)))
    }

    async fn console(&self, name: &WorkerName, follow: bool) -> Result<Console> {
        let known = self.0.settled().machines.contains_key(name);
        if !known {
            return Err(Error::not_found(format!("instance {name}")));
        }
        let past = futures::stream::iter([Ok(Bytes::from(format!("{name} boots\n")))]);
        if !follow {
            return Ok(past.boxed());
        }
        let (world, name) = (self.0.clone(), name.clone());
        let end = futures::stream::once(async move {
            let runs = |world: &FakeWorld| world.machines().get(&name) == Some(&true);
            while runs(&world) {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
            Ok(Bytes::from_static(b"stopped\n"))
        });
        Ok(past.chain(end).boxed())
    }

    async fn given_addresses(&self, name: &WorkerName) -> Result<Vec<IpAddr>> {
        match self.0.settled().machines.get(name) {
            Some(machine) if machine.instance.state == InstanceState::Running => {
                Ok(machine.addresses.clone())
            }
            _ => Err(Error::not_found(format!("instance {name}"))),
        }
    }

    async fn guest(&self, name: &WorkerName) -> Result<Arc<dyn Guest>> {
        match self.0.settled().machines.get(name) {
            Some(machine) if machine.instance.state == InstanceState::Running => {
                Ok(Arc::new(FakeGuest { world: self.0.clone(), name: name.clone() }))
            }
            _ => Err(Error::not_found(format!("instance {name}"))),
        }
    }
}

/// A picture of one black pixel.
const ONE_PIXEL: &[u8] = &[
    0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, 0, 0, 0, 13, b'I', b'H', b'D', b'R', 0, 0, 0,
    1, 0, 0, 0, 1, 8, 0, 0, 0, 0, 0x3a, 0x7e, 0x9b, 0x55, 0, 0, 0, 10, b'I', b'D', b'A', b'T',
    0x78, 0x9c, 0x63, 0x60, 0, 0, 0, 2, 0, 1, 0x48, 0xaf, 0xa4, 0x71, 0, 0, 0, 0, b'I', b'E', b'N',
    b'D', 0xae, 0x42, 0x60, 0x82,
];
