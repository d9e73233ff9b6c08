//! What QEMU is told: from a specification to its arguments, and nothing else.
//!
//! QEMU runs *in* the instance's directory, so the files there have short names without surprises. Paths of
//! images are arguments of their own, or stand in the header of a disk: no path needs escaping.

use std::{ffi::OsString, path::PathBuf};

use runner_core::{
    hypervisor::{InstanceSpec, Network},
    image::Boot,
};
use serde_json::{Value, json};

use crate::config::Accel;

/// The names of an instance's files, as QEMU knows them.
pub mod file {
    /// The disk that the instance writes to.
    pub const DISK: &str = "disk.qcow2";
    /// The NoCloud seed.
    pub const SEED: &str = "seed.img";
    /// User data for instances without a disk to boot from.
    pub const USER_DATA: &str = "user-data";
    /// What the guest wrote to its serial console.
    pub const CONSOLE: &str = "console.log";
    /// QEMU's own process id.
    pub const PID: &str = "pid";
}

/// The numbers under which QEMU finds what it inherits.
pub mod fd {
    /// Held for as long as QEMU lives.
    pub const LOCK: i32 = 3;
    /// Where the machine protocol is spoken.
    pub const QMP: i32 = 4;
    /// Where the guest's agent is spoken to.
    pub const AGENT: i32 = 5;
}

/// What runs the guest's code, once that is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// The host's processor.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

impl Engine {
    /// The `-accel` and `-cpu` that go with it.
    pub fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg,thread=multi,tb-size=64", "-cpu", "max"],
        }
    }

    /// The engine that an operator asked for by name.
    pub fn forced(accel: Accel) -> Option<Self> {
        match accel {
            Accel::Auto => None,
            Accel::Kvm => Some(Self::Kvm),
            Accel::Tcg => Some(Self::Tcg),
        }
    }
}

/// The devices beyond those that every instance has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extras {
    /// There is a disk, [`file::DISK`].
    pub disk: bool,
    /// There is a seed, [`file::SEED`].
    pub seed: bool,
    /// There is user data, [`file::USER_DATA`].
    pub user_data: bool,
}

/// All of QEMU's arguments but its own name.
pub fn argv(spec: &InstanceSpec, engine: Engine, extras: Extras) -> Vec<OsString> {
    let mut argv = Argv::default();
    argv.option("-name", spec.name.as_str());
    for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
        argv.flag(flag);
    }
    argv.option("-display", "none");
    argv.option(
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    );
    for pair in engine.arguments().chunks(2) {
        argv.option(pair[0], pair[1]);
    }
    memory(&mut argv, spec);
    argv.option("-smp", spec.resources.vcpus.to_string());
    argv.option("-pidfile", file::PID);
    talk(&mut argv);
    network(&mut argv, spec);
    argv.json("-device", json!({ "driver": "virtio-rng-pci" }));
    argv.json("-device", json!({ "driver": "pvpanic-pci" }));
    argv.json("-device", json!({ "driver": "VGA" }));
    if extras.disk {
        let boots = matches!(spec.image.boot, Boot::Disk { .. });
        disk(&mut argv, boots);
    }
    if extras.seed {
        seed(&mut argv);
    }
    if extras.user_data {
        argv.option("-fw_cfg", format!("name=opt/runner/user-data,file={}", file::USER_DATA));
    }
    if let Boot::Kernel { kernel, initrd, command_line } = &spec.image.boot {
        argv.path("-kernel", kernel);
        argv.path("-initrd", initrd);
        argv.option("-append", command_line);
    }
    argv.0
}

#[derive(Default)]
struct Argv(Vec<OsString>);

impl Argv {
    fn flag(&mut self, flag: &str) {
        self.0.push(flag.into());
    }

    fn option(&mut self, option: &str, value: impl Into<OsString>) {
        self.0.extend([option.into(), value.into()]);
    }

    fn json(&mut self, option: &str, value: Value) {
        self.option(option, value.to_string());
    }

    fn path(&mut self, option: &str, path: &PathBuf) {
        self.option(option, path);
    }
}

fn memory(argv: &mut Argv, spec: &InstanceSpec) {
    let huge = spec.resources.huge_memory_mib;
    let machine = "q35,sata=off,smbus=off";
    if huge == 0 {
        argv.option("-machine", machine);
        argv.option("-m", format!("{}M", spec.resources.memory_mib));
    } else {
        argv.option("-machine", format!("{machine},memory-backend=memory"));
        argv.option("-m", format!("{huge}M"));
        argv.json(
            "-object",
            json!({
                "qom-type": "memory-backend-memfd", "id": "memory", "size": huge << 20,
                "hugetlb": true, "hugetlbsize": 1u64 << 30, "prealloc": true,
            }),
        );
    }
}

/// The machine protocol, the guest's agent, and the console.
fn talk(argv: &mut Argv) {
    let socket = |id: &str, fd: i32| format!("socket,id={id},fd={fd},server=on,wait=off");
    argv.option("-chardev", socket("qmp", fd::QMP));
    argv.option("-mon", "chardev=qmp,mode=control");
    argv.option("-chardev", format!("file,id=console,path={},append=on", file::CONSOLE));
    argv.option("-serial", "chardev:console");
    argv.option("-chardev", socket("agent", fd::AGENT));
    argv.json("-device", json!({ "driver": "virtio-serial-pci", "id": "serial" }));
    // With an id, QEMU says when the guest opens it.
    argv.json(
        "-device",
        json!({
            "driver": "virtserialport", "id": "agent-port", "bus": "serial.0",
            "chardev": "agent", "name": "org.qemu.guest_agent.0",
        }),
    );
}

fn network(argv: &mut Argv, spec: &InstanceSpec) {
    let restrict = match spec.network {
        Network::Open => false,
        Network::Restricted => true,
    };
    // The guest learns its name with its address.
    let name = spec.name.as_str();
    argv.json(
        "-netdev",
        json!({ "type": "user", "id": "net", "restrict": restrict, "hostname": name }),
    );
    // Nothing boots from the network, so its boot program need not be loaded.
    argv.json("-device", json!({ "driver": "virtio-net-pci", "netdev": "net", "romfile": "" }));
}

fn disk(argv: &mut Argv, boots: bool) {
    argv.json(
        "-blockdev",
        json!({
            "driver": "qcow2", "node-name": "disk", "discard": "unmap",
            "file": { "driver": "file", "filename": file::DISK, "discard": "unmap" },
            // It dies with the instance: what a crash of the host would lose is worth nothing.
            "cache": { "no-flush": true },
        }),
    );
    let mut device = json!({ "driver": "virtio-blk-pci", "drive": "disk", "serial": "disk" });
    if boots {
        device["bootindex"] = 0.into();
    }
    argv.json("-device", device);
}

fn seed(argv: &mut Argv) {
    argv.json(
        "-blockdev",
        json!({ "driver": "file", "node-name": "seed", "filename": file::SEED, "read-only": true }),
    );
    // Not a CD drive: the distributions' cloud kernels have no driver for the controller.
    argv.json("-device", json!({ "driver": "virtio-blk-pci", "drive": "seed", "serial": "seed" }));
}
