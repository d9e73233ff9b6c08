//! What a fake machine shows: a boot, then a line now and then, and a picture of its last lines.

use std::time::Duration;

use bytes::Bytes;
use font8x8::{BASIC_FONTS, UnicodeFonts};
use futures::StreamExt;
use jiff::Timestamp;
use runner_core::{
    Hypervisor,
    fake::FakeHypervisor,
    hypervisor::{Console, Instance, InstanceState},
};

const COLUMNS: usize = 80;
const ROWS: usize = 25;
/// How long one boot line takes, in milliseconds.
const BOOT_LINE: i64 = 180;
/// From one line to the next after the boot, in milliseconds.
const LATER_LINE: i64 = 2_000;
/// The console keeps so many lines.
const KEPT: usize = 400;

const BOOT: [&str; 14] = [
    "Linux version 6.1.0-28-cloud-amd64 (debian-kernel@lists.debian.org)",
    "Command line: console=ttyS0 quiet panic=-1",
    "BIOS-provided physical RAM map:",
    "smpboot: Allowing 2 CPUs, 0 hotplug CPUs",
    "Memory: 2021508K/2096612K available",
    "clocksource: kvm-clock: mask: 0xffffffffffffffff",
    "PCI: Using configuration type 1 for base access",
    "virtio_blk virtio2: [vda] 20971520 512-byte logical blocks",
    "random: crng init done",
    "Run /init as init process",
    "EXT4-fs (vda): mounted filesystem with ordered data mode",
    "virtio_net virtio0 eth0: link becomes ready",
    "guest agent: listening on /dev/virtio-ports/org.qemu.guest_agent.0",
    "runner: ready",
];

/// The lines that a machine has written by `now`.
fn lines(instance: &Instance, now: Timestamp) -> Vec<String> {
    let age = now.duration_since(instance.created_at).as_millis().max(0) as i64;
    let boot = BOOT.iter().enumerate().map(|(index, text)| (index as i64 * BOOT_LINE, *text));
    let booted = BOOT.len() as i64 * BOOT_LINE;
    let later = (1..).map(|number| (booted + number * LATER_LINE, "runner: alive"));
    let due = boot.chain(later).take_while(|(at, _)| *at <= age);
    due.map(|(at, text)| format!("[{:5}.{:03}] {text}", at / 1000, at % 1000)).collect()
}

/// The console of a machine, as it comes.
pub fn stream(instance: Instance, host: FakeHypervisor, follow: bool) -> Console {
    let past = lines(&instance, Timestamp::now());
    let told = past.len();
    let past = &past[told.saturating_sub(KEPT)..];
    let past = futures::stream::iter([Ok(Bytes::from(join(past)))]);
    if !follow {
        return past.boxed();
    }
    let live =
        futures::stream::unfold((instance, host, told), |(instance, host, told)| async move {
            loop {
                tokio::time::sleep(Duration::from_millis(250)).await;
                let listed = host.instances().await.ok()?;
                let runs = listed.iter().any(|other| {
                    other.name == instance.name && other.state == InstanceState::Running
                });
                if !runs {
                    return None;
                }
                let all = lines(&instance, Timestamp::now());
                if all.len() > told {
                    let news = Bytes::from(join(&all[told..]));
                    return Some((Ok(news), (instance, host, all.len())));
                }
            }
        });
    past.chain(live).boxed()
}

fn join(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\r\n")).collect()
}

/// A picture of the machine's screen, as a text mode of 80 by 25 would show it.
pub fn picture(instance: &Instance, busy: bool) -> Vec<u8> {
    let mut shown = vec![format!("{} - {}", instance.name, instance.image), String::new()];
    let lines = lines(instance, Timestamp::now());
    let room = ROWS - shown.len() - 2;
    shown.extend_from_slice(&lines[lines.len().saturating_sub(room)..]);
    if busy {
        shown.push(String::new());
        shown.push("A job runs.".to_owned());
    }
    let (width, height) = (COLUMNS * 8, ROWS * 16);
    // One bit a pixel.
    let mut pixels = vec![0u8; width / 8 * height];
    for (row, line) in shown.iter().take(ROWS).enumerate() {
        for (column, character) in line.chars().take(COLUMNS).enumerate() {
            let glyph = BASIC_FONTS.get(character).unwrap_or_default();
            for (y, bits) in glyph.iter().enumerate() {
                for half in 0..2 {
                    let at = (row * 16 + y * 2 + half) * (width / 8) + column;
                    // The font has its leftmost pixel in the lowest bit.
                    pixels[at] = bits.reverse_bits();
                }
            }
        }
    }
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width as u32, height as u32);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::One);
    let paper_and_ink =
        if busy { [12, 20, 40, 170, 215, 255] } else { [16, 16, 16, 190, 190, 190] };
    encoder.set_palette(&paper_and_ink[..]);
    let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(&pixels));
    written.expect("a picture of this shape goes into memory");
    file
}
