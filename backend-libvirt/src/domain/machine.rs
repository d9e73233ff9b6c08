//! What we set of the machine itself: everything outside `devices`.

use runner_core::Result;
use xot::Node;

use super::{BootFiles, DomainSpec, VirtType};
use crate::xml::{Tree, element, path_text};

/// Where a guest finds its user data, as backend-qemu has it.
const USER_DATA_ENTRY: &str = "opt/runner/user-data";

pub(super) fn set(tree: &mut Tree, spec: &DomainSpec<'_>) -> Result<()> {
    let root = tree.root();
    let (virt, foreign) = match spec.virt {
        VirtType::Kvm => ("kvm", false),
        VirtType::Qemu => ("qemu", true),
        VirtType::Test => ("test", true),
    };
    tree.set_attribute(root, "type", virt)?;
    // A domain that was dumped while it ran has one.
    tree.remove_attribute(root, "id");
    tree.replace(root, element("name").text(spec.name))?;
    tree.replace(root, element("uuid").text(spec.uuid))?;
    for genid in tree.children(root, "genid") {
        tree.clear(genid);
    }
    memory(tree, root, spec)?;
    processors(tree, root, spec.resources.vcpus, foreign)?;
    for event in ["on_poweroff", "on_reboot", "on_crash"] {
        tree.replace(root, element(event).text("destroy"))?;
    }
    boot(tree, root, &spec.boot)?;
    firmware_tables(tree, root, spec)
}

fn memory(tree: &mut Tree, root: Node, spec: &DomainSpec<'_>) -> Result<()> {
    let (ordinary, huge) = (spec.resources.memory_mib, spec.resources.huge_memory_mib);
    let mib = if huge > 0 { huge } else { ordinary };
    for name in ["memory", "currentMemory"] {
        tree.replace(root, element(name).attribute("unit", "MiB").text(mib))?;
    }
    // Cells of memory, and memory that is plugged in, count beside it or instead of it.
    tree.remove_children(root, "maxMemory");
    for tune in tree.children(root, "numatune") {
        tree.remove_children(tune, "memnode");
    }
    for (parent, part) in [("cpu", "numa"), ("devices", "memory")] {
        for parent in tree.children(root, parent) {
            tree.remove_children(parent, part);
        }
    }
    if huge > 0 {
        let backing = tree.ensure(root, "memoryBacking")?;
        let page = element("page").attribute("size", 1).attribute("unit", "GiB");
        tree.replace(backing, element("hugepages").child(page))?;
    } else if let Some(backing) = tree.child(root, "memoryBacking") {
        tree.remove_children(backing, "hugepages");
    }
    Ok(())
}

fn processors(tree: &mut Tree, root: Node, vcpus: u32, foreign: bool) -> Result<()> {
    let vcpu = tree.ensure(root, "vcpu")?;
    tree.set_text(vcpu, &vcpus.to_string())?;
    tree.remove_attribute(vcpu, "current");
    // They name processors one by one.
    tree.remove_children(root, "vcpus");
    let Some(cpu) = tree.child(root, "cpu") else {
        return Ok(());
    };
    for topology in tree.children(cpu, "topology") {
        let factors = ["sockets", "dies", "clusters", "cores", "threads"];
        let factors = factors.iter().filter_map(|name| tree.attribute(topology, name));
        let product: Option<u32> = factors
            .map(|factor| factor.parse().ok())
            .try_fold(1u32, |product, factor| product.checked_mul(factor?));
        if product != Some(vcpus) {
            tree.remove(topology);
        }
    }
    let host = ["host-passthrough", "host-model"];
    if foreign && tree.attribute(cpu, "mode").is_some_and(|mode| host.contains(&mode)) {
        tree.replace(root, element("cpu").attribute("mode", "maximum"))?;
    }
    Ok(())
}

fn boot(tree: &mut Tree, root: Node, boot: &BootFiles) -> Result<()> {
    let os = tree.ensure(root, "os")?;
    // Devices have their order each, and libvirt wants the one or the other.
    tree.remove_children(os, "boot");
    for name in ["kernel", "initrd", "cmdline"] {
        tree.remove_children(os, name);
    }
    match boot {
        BootFiles::Kernel { kernel, initrd, command_line } => {
            tree.remove_children(os, "loader");
            tree.remove_children(os, "nvram");
            tree.remove_attribute(os, "firmware");
            tree.append(os, element("kernel").text(path_text(kernel)?))?;
            tree.append(os, element("initrd").text(path_text(initrd)?))?;
            tree.append(os, element("cmdline").text(command_line))?;
        }
        BootFiles::Disk => own_nvram(tree, os)?,
    }
    Ok(())
}

/// What the firmware keeps of its settings is written to, so one file cannot serve two machines.
fn own_nvram(tree: &mut Tree, os: Node) -> Result<()> {
    for nvram in tree.children(os, "nvram") {
        let source = tree.child(nvram, "source");
        let file = source.and_then(|source| tree.attribute(source, "file")).map(str::to_owned);
        let file = file.or_else(|| tree.has_text(nvram).then(|| tree.text(nvram)));
        tree.clear(nvram);
        tree.remove_attribute(nvram, "type");
        if let Some(file) = file
            && tree.attribute(nvram, "template").is_none()
        {
            tree.set_attribute(nvram, "template", file.trim())?;
        }
    }
    Ok(())
}

fn firmware_tables(tree: &mut Tree, root: Node, spec: &DomainSpec<'_>) -> Result<()> {
    let mut fw_cfg = None;
    for table in tree.children(root, "sysinfo") {
        if tree.attribute(table, "type") == Some("fwcfg") {
            fw_cfg = Some(table);
            for entry in tree.children(table, "entry") {
                if tree.attribute(entry, "name") == Some(USER_DATA_ENTRY) {
                    tree.remove(entry);
                }
            }
        }
        for system in tree.children(table, "system") {
            for entry in tree.children(system, "entry") {
                if tree.attribute(entry, "name") == Some("uuid") {
                    tree.remove(entry);
                }
            }
        }
    }
    if let Some(user_data) = &spec.user_data {
        let table = match fw_cfg {
            Some(table) => table,
            None => tree.append(root, element("sysinfo").attribute("type", "fwcfg"))?,
        };
        let file = path_text(user_data)?;
        let entry = element("entry").attribute("name", USER_DATA_ENTRY).attribute("file", file);
        tree.append(table, entry)?;
    }
    Ok(())
}
