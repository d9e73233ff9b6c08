//! Which accelerator works on the daemon's host, found out by running a guest on it for an instant.
//!
//! That libvirt offers KVM says that `/dev/kvm` is there, which says little: inside some virtual machines, guests on
//! it stop at their first instructions or run a thousand times too slowly. So the probe boots a real machine with
//! the processor model that instances get. It needs no file on the host: firmware that finds nothing to boot resets
//! the machine, and for a machine that is used once a reset is the end.

use std::time::Duration;

use runner_core::{OwnerId, Result};

use crate::{
    config::{LibvirtConfig, Virt},
    connection::Connection,
    domain::VirtType,
    uri::Driver,
};

/// A working KVM takes a tenth of this.
const PATIENCE: Duration = Duration::from_secs(4);

/// What runs the guests' code, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) virt: VirtType,
    pub(crate) why: String,
}

/// Decides what runs the guests' code, by trying if the operator leaves it to us.
///
/// # Errors
/// `Backend` when the daemon cannot be asked.
pub(crate) async fn choose(config: &LibvirtConfig, connection: &Connection) -> Result<Choice> {
    let said = |virt| Choice { virt, why: "the configuration says so".to_owned() };
    let choice = match (config.uri.driver(), config.virt) {
        (Driver::Test, _) => {
            Choice { virt: VirtType::Test, why: "nothing runs in libvirt's test driver".to_owned() }
        }
        (_, Virt::Kvm) => said(VirtType::Kvm),
        (_, Virt::Qemu) => said(VirtType::Qemu),
        (_, Virt::Auto) => {
            match connection.try_out(document(&config.owner, VirtType::Kvm), PATIENCE).await {
                Ok(Some(took)) => Choice {
                    virt: VirtType::Kvm,
                    why: format!("a guest ran on KVM, in {} ms", took.as_millis()),
                },
                Ok(None) => Choice {
                    virt: VirtType::Qemu,
                    why: format!("a guest on KVM did not run within {} s", PATIENCE.as_secs()),
                },
                // QEMU's own words may be many.
                Err(failure) if failure.code().is_some() => Choice {
                    virt: VirtType::Qemu,
                    why: format!("KVM does not work: {}", first_line(&failure.to_string())),
                },
                Err(failure) => return Err(failure.doing("try KVM")),
            }
        }
    };
    tracing::info!(virt = ?choice.virt, why = choice.why, "Chose an accelerator.");
    Ok(choice)
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// A machine with nothing to boot. It carries no mark of an instance, and ends with the connection at the latest.
fn document(owner: &OwnerId, virt: VirtType) -> String {
    let (kind, processor) = match virt {
        VirtType::Kvm => ("kvm", "host-passthrough"),
        VirtType::Qemu | VirtType::Test => ("qemu", "maximum"),
    };
    // Owners are made of letters, digits and dashes.
    format!(
        "<domain type='{kind}'>
           <name>probe-{owner}-{:08x}</name>
           <memory unit='MiB'>16</memory>
           <vcpu>1</vcpu>
           <os>
             <type machine='q35'>hvm</type>
             <boot dev='hd'/>
             <bios rebootTimeout='0'/>
           </os>
           <features><acpi/></features>
           <cpu mode='{processor}'/>
           <on_poweroff>destroy</on_poweroff>
           <on_reboot>destroy</on_reboot>
           <on_crash>destroy</on_crash>
           <devices>
             <controller type='usb' model='none'/>
             <memballoon model='none'/>
           </devices>
         </domain>",
        rand::random::<u32>()
    )
}
