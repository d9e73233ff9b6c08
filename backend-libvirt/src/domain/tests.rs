//! What libvirt is told of an instance, as text, and what no text changes in it.

use std::path::Path;

use jiff::Timestamp;
use proptest::prelude::*;
use runner_core::{Error, ImageId, OwnerId, ProfileName};

use super::*;
use crate::{
    golden::{compare, golden},
    xml::{Tree, element},
};

fn example_mark() -> Mark {
    Mark {
        owner: OwnerId::new("us").unwrap(),
        name: WorkerName::new("linux-17").unwrap(),
        profile: ProfileName::new("linux").unwrap(),
        image: ImageId::new("linux.2026-01-02T03-04-05Z").unwrap(),
        resources: Resources { vcpus: 2, memory_mib: 512, disk_mib: 4096, ..Default::default() },
        created_at: Timestamp::UNIX_EPOCH,
    }
}

fn of(mark: &Mark) -> DomainSpec<'_> {
    DomainSpec {
        name: &mark.name,
        uuid: Uuid::from_u128(0x1234_5678_9abc_4def_8123_4567_89ab_cdef),
        mac: MacAddress::of(&mark.owner, &mark.name),
        virt: VirtType::Kvm,
        emulator: None,
        resources: &mark.resources,
        boot: BootFiles::Disk,
        disks: vec![
            DomainDisk {
                source: DiskSource::File("/instances/linux-17/disk.qcow2".into()),
                format: DiskFormat::Qcow2,
                role: Role::Root,
            },
            DomainDisk {
                source: DiskSource::File("/instances/linux-17/seed.img".into()),
                format: DiskFormat::Raw,
                role: Role::Seed,
            },
        ],
        user_data: None,
        network: Some(DomainNetwork {
            source: NetworkSource::Network("runners".to_owned()),
            isolated: true,
            filter: Some("runner-linux".to_owned()),
            connected: true,
        }),
        console_log: Some(Path::new("/instances/linux-17/console.log")),
        mark,
    }
}

#[test]
fn a_kernel_on_the_builtin_template() {
    let mark = example_mark();
    let mut spec = of(&mark);
    spec.virt = VirtType::Qemu;
    spec.boot = BootFiles::Kernel {
        kernel: "/images/linux/vmlinuz".into(),
        initrd: "/images/linux/initrd".into(),
        command_line: "console=ttyS0 panic=-1 quiet".to_owned(),
    };
    spec.disks.truncate(1);
    spec.user_data = Some("/instances/linux-17/user-data".into());
    spec.network = Some(DomainNetwork {
        source: NetworkSource::User,
        isolated: false,
        filter: None,
        connected: false,
    });
    compare("kernel.xml", &document(&Template::builtin(), &spec).unwrap());
}

#[test]
fn a_disk_on_the_builtin_template() {
    let mut mark = example_mark();
    mark.resources.memory_mib = 0;
    mark.resources.huge_memory_mib = 2048;
    mark.resources.counters.insert("a \"licence\" & <more>".to_owned(), 1);
    let mut spec = of(&mark);
    spec.emulator = Some(Path::new("/usr/bin/qemu-system-x86_64"));
    spec.disks[0].source =
        DiskSource::Volume { pool: "runners".to_owned(), volume: "linux-17.qcow2".to_owned() };
    compare("disk.xml", &document(&Template::builtin(), &spec).unwrap());
}

#[test]
fn an_operators_template_keeps_what_we_do_not_set() {
    let mark = example_mark();
    let template = Template::read(&golden("operator-guest.xml")).unwrap();
    let text = document(&template, &of(&mark)).unwrap();
    compare("operator.xml", &text);
    // The document of an instance that someone liked is a template like any other, in another order.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("guest.xml");
    std::fs::write(&path, &text).unwrap();
    let again = document(&Template::read(&path).unwrap(), &of(&mark)).unwrap();
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&again), sorted(&text));
}

#[test]
fn a_mark_reads_back_and_belongs_to_its_owner() {
    let mut mine = example_mark();
    mine.resources.counters.insert("a \"licence\" & <more> ]]> 'é'".to_owned(), 1);
    let text = document(&Template::builtin(), &of(&mine)).unwrap();
    assert_eq!(mark(&text, &mine.owner).unwrap(), Some(mine.clone()));
    assert_eq!(mark(&text, &OwnerId::new("them").unwrap()).unwrap(), None);
    let bare = "<domain><name>linux-17</name><metadata><a xmlns='urn:a'/></metadata></domain>";
    assert_eq!(mark(bare, &mine.owner).unwrap(), None);
    // A clone is named by whoever made it.
    let clone = text.replace("<name>linux-17</name>", "<name>linux-17-clone</name>");
    assert_eq!(mark(&clone, &mine.owner).unwrap(), None);
}

#[test]
fn a_broken_mark_of_ours_is_an_error_that_names_the_domain() {
    let mine = example_mark();
    let text = document(&Template::builtin(), &of(&mine)).unwrap();
    for (from, to) in [
        ("\"profile\"", "\"perfil\""),
        ("{\"owner\"", "{{\"owner\""),
        ("{\"owner\":\"us\"", "{\"owner\":\"them\""),
        ("\"linux-17\"", "\"LINUX\""),
    ] {
        let broken = text.replace(from, to);
        assert_ne!(broken, text, "{from}");
        let error = mark(&broken, &mine.owner).unwrap_err();
        let shown = error.to_string();
        assert!(matches!(error, Error::Invalid { .. }), "{shown}");
        assert!(
            shown.contains("domain \"linux-17\"") && shown.contains("virsh undefine"),
            "{shown}"
        );
        // Nobody else is bothered by it.
        assert_eq!(mark(&broken, &OwnerId::new("other").unwrap()).unwrap(), None);
    }
    // Without a readable owner it may be anyone's, ours included.
    let nobodys = text.replace(" owner=\"us\"", "");
    assert_ne!(nobodys, text);
    assert_eq!(mark(&nobodys, &mine.owner).unwrap(), Some(mine.clone()));
    let cut_off = text.split_once("</domain").unwrap().0;
    assert!(mark(cut_off, &mine.owner).is_err());
}

#[test]
fn the_bus_and_the_boot_order_are_those_of_the_disk_that_was_there() {
    let template = |devices: &str| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("guest.xml");
        let text = format!("<domain><devices>{devices}</devices></domain>");
        std::fs::write(&path, text).unwrap();
        Template::read(&path).unwrap()
    };
    let shared = "<disk><source file='/a'/><target dev='vda'/><boot order='1'/><readonly/></disk>";
    let root = |bus: &str, order: u32| {
        format!(
            "<disk device='disk'><source dev='/b'/><target dev='sdb' bus='{bus}'/>\
             <boot order='{order}'/></disk>"
        )
    };
    let mark = example_mark();
    for (devices, target, order) in [
        (String::new(), "dev=\"vda\" bus=\"virtio\"", 1),
        (shared.to_owned(), "dev=\"vdb\" bus=\"virtio\"", 2),
        (format!("{shared}{}", root("sata", 7)), "dev=\"sda\" bus=\"sata\"", 7),
        (format!("{shared}{}", root("scsi", 1)), "dev=\"sda\" bus=\"scsi\"", 2),
        ("<interface><boot order='1'/></interface>".to_owned(), "dev=\"vda\" bus=\"virtio\"", 2),
    ] {
        let text = document(&template(&devices), &of(&mark)).unwrap();
        let ours = &text[text.find("/instances/linux-17/disk.qcow2").unwrap()..];
        let ours = &ours[..ours.find("</disk>").unwrap()];
        assert!(ours.contains(target), "{ours}");
        assert!(ours.contains(&format!("<boot order=\"{order}\"/>")), "{ours}");
    }
}

#[test]
fn what_xml_cannot_hold_is_refused_by_name() {
    let mark = example_mark();
    for bad in ["\0", "\u{1b}", "a\nb", "\t", "\u{7f}", "\u{85}", "\u{fffe}"] {
        let mut spec = of(&mark);
        spec.disks[0].source = DiskSource::File(format!("/a{bad}").into());
        let error = document(&Template::builtin(), &spec).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert!(error.to_string().starts_with("file "), "{error}");
    }
    let mut spec = of(&mark);
    let path = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"/a\xff");
    spec.console_log = Some(Path::new(path));
    assert!(document(&Template::builtin(), &spec).unwrap_err().to_string().contains("UTF-8"));
}

/// The names of all elements in order, with how deep they are: what an outsider's text must not change.
fn shape(text: &str) -> Vec<String> {
    let tree = Tree::parse("a test", text).unwrap();
    tree.shape()
}

proptest! {
    #[test]
    fn no_text_changes_the_structure(
        // What XML is made of, and anything else.
        path in "(/|<|>|&|'|\"|=|]]>|<!--|-->|<!\\[CDATA\\[|&#0;|\\{|\\PC){1,40}",
        command_line in "(<|>|&|'|\"|]]>|--|\\?>|\\PC){0,40}",
        counter in "\\PC{0,20}",
        network in "(<|>|&|'|\"|/|\\PC){1,20}",
    ) {
        let mut mark = example_mark();
        mark.resources.counters.insert(counter, 1);
        let spec_of = |path: &str, command_line: &str, network: &str| {
            let mut spec = of(&mark);
            spec.boot = BootFiles::Kernel {
                kernel: path.into(),
                initrd: path.into(),
                command_line: command_line.to_owned(),
            };
            spec.disks[0].source =
                DiskSource::Volume { pool: path.to_owned(), volume: network.to_owned() };
            spec.disks[1].source = DiskSource::File(path.into());
            spec.user_data = Some(path.into());
            spec.network = Some(DomainNetwork {
                source: NetworkSource::Network(network.to_owned()),
                isolated: true,
                filter: Some(network.to_owned()),
                connected: true,
            });
            document(&Template::builtin(), &spec).unwrap()
        };
        let plain = spec_of("a", "b", "c");
        let hostile = spec_of(&path, &command_line, &network);
        prop_assert_eq!(shape(&hostile), shape(&plain));
        let tree = Tree::parse("a test", &hostile).unwrap();
        let os = tree.child(tree.root(), "os").unwrap();
        prop_assert_eq!(tree.text(tree.child(os, "kernel").unwrap()), path);
        prop_assert_eq!(tree.text(tree.child(os, "cmdline").unwrap()), command_line);
        prop_assert_eq!(super::mark(&hostile, &mark.owner).unwrap(), Some(mark));
    }

    #[test]
    fn garbage_is_refused_and_never_a_panic(text in "(<|>|/|domain|<domain>|</domain>|&|;|#|'|=|x|\\PC){0,60}") {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("guest.xml");
        std::fs::write(&path, &text).unwrap();
        let mine = example_mark();
        if let Ok(template) = Template::read(&path) {
            // What is read can be used.
            document(&template, &of(&mine)).unwrap();
        }
        let _ = mark(&text, &mine.owner);
    }
}

#[test]
fn elements_are_put_in_the_place_of_their_namesakes() {
    let mut tree = Tree::parse("a test", "<a><b/><c x='1'>t</c><b/></a>").unwrap();
    tree.replace(tree.root(), element("b").text("new")).unwrap();
    assert_eq!(tree.into_xml(), "<a>\n  <c x=\"1\">t</c>\n  <b>new</b>\n</a>\n");
}
