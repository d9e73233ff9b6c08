//! Throw-away: replaced by the other half of this crate.
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use runner_core::{
    ImageId, OwnerId, ProfileName, Resources, Result, WorkerName,
    hypervisor::{Instance, InstanceState},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) owner: OwnerId,
    pub(crate) name: WorkerName,
    pub(crate) profile: ProfileName,
    pub(crate) image: ImageId,
    pub(crate) resources: Resources,
    pub(crate) created_at: Timestamp,
}

impl Mark {
    pub(crate) fn instance(&self, state: InstanceState) -> Instance {
        Instance {
            name: self.name.clone(),
            profile: self.profile.clone(),
            image: self.image.clone(),
            resources: self.resources.clone(),
            created_at: self.created_at,
            state,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VirtType {
    Kvm,
    Qemu,
    Test,
}

pub(crate) struct DomainSpec<'a> {
    pub(crate) name: &'a WorkerName,
    pub(crate) uuid: Uuid,
    pub(crate) virt: VirtType,
    pub(crate) resources: &'a Resources,
    pub(crate) kernel: Option<(&'a Path, &'a Path, &'a str)>,
    pub(crate) console_log: Option<&'a PathBuf>,
    pub(crate) mark: &'a Mark,
}

pub(crate) fn document(spec: &DomainSpec<'_>) -> Result<String> {
    let mark = serde_json::to_string(spec.mark).map_err(|e| error::backend("write", e))?;
    let mark = mark.replace('&', "&amp;").replace('<', "&lt;");
    let kind = match spec.virt {
        VirtType::Kvm => "kvm",
        VirtType::Qemu => "qemu",
        VirtType::Test => "test",
    };
    let DomainSpec { name, uuid, .. } = spec;
    let (vcpus, memory) = (spec.resources.vcpus, spec.resources.memory_mib);
    let boot = spec.kernel.map_or(String::new(), |(k, i, c)| {
        format!(
            "<kernel>{}</kernel><initrd>{}</initrd><cmdline>{c}</cmdline>",
            k.display(),
            i.display()
        )
    });
    let devices = match spec.virt {
        VirtType::Test => String::new(),
        _ => {
            let log = spec
                .console_log
                .map_or(String::new(), |p| format!("<log file='{}' append='on'/>", p.display()));
            format!("<devices><emulator>/usr/bin/qemu-system-x86_64</emulator><serial type='pty'>{log}<target port='0'/></serial><console type='pty'>{log}<target type='serial' port='0'/></console>
        <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel><video><model type='vga'/></video><rng model='virtio'><backend model='random'>/dev/urandom</backend></rng><panic model='isa'/><memballoon model='none'/></devices>")
        }
    };
    Ok(format!("<domain type='{kind}'><name>{name}</name><uuid>{uuid}</uuid><metadata><r:runner xmlns:r='urn:runner:1'>{mark}</r:runner></metadata><memory unit='MiB'>{memory}</memory><vcpu>{vcpus}</vcpu>
    <os><type arch='x86_64' machine='{}'>hvm</type>{boot}</os><features><acpi/></features><cpu mode='maximum'/><on_poweroff>destroy</on_poweroff><on_reboot>destroy</on_reboot><on_crash>destroy</on_crash>{devices}</domain>", if spec.virt == VirtType::Test { "pc" } else { "q35" }))
}

pub(crate) fn mark(document: &str) -> Result<Option<Mark>> {
    let text = document
        .split_once("urn:runner:1")
        .and_then(|(_, rest)| rest.split_once('>'))
        .and_then(|(_, rest)| rest.split_once('<'));
    let Some((text, _)) = text else { return Ok(None) };
    let text = text.replace("&lt;", "<").replace("&quot;", "\"").replace("&amp;", "&");
    Ok(serde_json::from_str(&text).ok())
}
