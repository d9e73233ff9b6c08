//! What QEMU is told, as text: a difference in review is the point. `RUNNER_BLESS=1` writes it anew.

use std::path::Path;

use backend_qemu::argv::{Engine, Extras, argv};
use jiff::Timestamp;
use runner_core::{
    ImageId, ProfileName, Resources, Secret, WorkerName,
    hypervisor::{InstanceSpec, Network},
    image::{Boot, DiskFormat, Image, Recipe, RecipeKind, UserDataDelivery},
};

fn spec(boot: Boot) -> InstanceSpec {
    let profile = ProfileName::new("linux").unwrap();
    InstanceSpec {
        name: WorkerName::new("linux-17").unwrap(),
        profile: profile.clone(),
        image: Image {
            id: ImageId::new("linux.1").unwrap(),
            recipe: Recipe { profile, kind: RecipeKind::Micro {} },
            built_at: Timestamp::UNIX_EPOCH,
            digest: "0".repeat(64),
            size_bytes: 1,
            boot,
        },
        resources: Resources { vcpus: 2, memory_mib: 512, ..Default::default() },
        network: Network::Open,
        user_data: None,
    }
}

fn kernel() -> Boot {
    Boot::Kernel {
        kernel: "/images/a, b/it's \"the\" kernel".into(),
        initrd: "/images/a, b/initrd,file=x".into(),
        command_line: "console=ttyS0 panic=-1 a,b=\"c d\"".into(),
    }
}

fn disk() -> Boot {
    Boot::Disk {
        path: "/images/a, b/\"base\".qcow2".into(),
        format: DiskFormat::Qcow2,
        user_data: UserDataDelivery::NoCloud,
    }
}

#[track_caller]
fn check(file: &str, spec: &InstanceSpec, engine: Engine, extras: Extras) {
    let argv = argv(spec, engine, extras);
    let text: String = argv
        .iter()
        .map(|argument| match argument.to_str().unwrap() {
            option if option.starts_with('-') => format!("{option}\n"),
            value => format!("    {value}\n"),
        })
        .collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    if std::env::var_os("RUNNER_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, golden, "what QEMU is told differs from {file}");
}

#[test]
fn the_smallest_instance() {
    let mut spec = spec(kernel());
    spec.network = Network::Restricted;
    check("kernel.txt", &spec, Engine::Tcg, Extras::default());
}

#[test]
fn a_kernel_with_everything() {
    let mut spec = spec(kernel());
    spec.resources = Resources { vcpus: 8, huge_memory_mib: 2048, ..Default::default() };
    spec.user_data = Some(Secret::new("a secret".into()));
    let extras = Extras { disk: true, seed: false, user_data: true };
    check("kernel-with-everything.txt", &spec, Engine::Kvm, extras);
}

#[test]
fn a_disk_with_a_seed() {
    let mut spec = spec(disk());
    spec.user_data = Some(Secret::new("a secret".into()));
    let extras = Extras { disk: true, seed: true, user_data: false };
    check("disk-with-seed.txt", &spec, Engine::Kvm, extras);
}

#[test]
fn no_secret_is_an_argument() {
    for boot in [kernel(), disk()] {
        let mut spec = spec(boot);
        spec.user_data = Some(Secret::new("a secret".into()));
        let extras = Extras { disk: true, seed: true, user_data: true };
        let all = argv(&spec, Engine::Tcg, extras);
        assert!(all.iter().all(|argument| !argument.to_str().unwrap().contains("secret")));
    }
}
