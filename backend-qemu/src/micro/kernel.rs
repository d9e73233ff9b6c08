//! The kernel: an uncompressed `vmlinux`, so that QEMU starts it at its PVH entry.
//!
//! A distribution ships a `bzImage`, which unpacks itself in the guest. Under software emulation that is
//! a fifth of the boot, so it is unpacked once, here.

use goblin::elf::Elf;
use runner_core::Result;

use super::archive::{Archive, missing};
use crate::images::{Work, bytes};

/// A kernel and its version, as `uname -r` says it.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) version: String,
    pub(super) content: Vec<u8>,
}

/// The kernel of `archive`: its `vmlinux`, or the `bzImage` as it is when there is no such thing inside.
///
/// # Errors
/// `Backend` when no package holds a kernel.
pub(super) fn extract(archive: &Archive, work: &Work) -> Result<Kernel> {
    let (version, image) = archive
        .files()
        .find_map(|(path, content)| Some((path.strip_prefix("boot/vmlinuz-")?, content)))
        .ok_or_else(|| missing("boot/vmlinuz-*"))?;
    let content = match vmlinux(image) {
        Ok(content) => {
            let size = bytes(content.len() as u64);
            work.line(format!("kernel: vmlinux {version} ({size})"));
            content
        }
        Err(reason) => {
            let size = bytes(image.len() as u64);
            work.line(format!("kernel: bzImage {version} ({size}), because {reason}"));
            image.to_vec()
        }
    };
    Ok(Kernel { version: version.to_owned(), content })
}

/// The `vmlinux` in a `bzImage`, or why there is none. For the header see the kernel's `boot.rst`.
fn vmlinux(image: &[u8]) -> Result<Vec<u8>, &'static str> {
    const SETUP_SECTORS: usize = 0x1f1;
    const HEADER_MAGIC: usize = 0x202;
    const VERSION: usize = 0x206;
    const PAYLOAD_OFFSET: usize = 0x248;
    const PAYLOAD_LENGTH: usize = 0x24c;

    let header = "it is no bzImage with a payload";
    if image.get(HEADER_MAGIC..HEADER_MAGIC + 4) != Some(b"HdrS") {
        return Err(header);
    }
    if image.get(VERSION + 1).is_none_or(|major| *major < 2)
        || image.get(VERSION..VERSION + 2).is_none_or(|v| v[1] == 2 && v[0] < 8)
    {
        return Err(header);
    }
    // Zero means four, says the protocol.
    let sectors = match image[SETUP_SECTORS] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let offset = word(image, PAYLOAD_OFFSET).ok_or(header)?;
    let length = word(image, PAYLOAD_LENGTH).ok_or(header)?;
    let start = (sectors + 1) * 512 + offset;
    let payload = image.get(start..start + length).ok_or(header)?;
    let kernel = unpack(payload)?;
    if !has_pvh_entry(&kernel) {
        return Err("its vmlinux has no PVH entry");
    }
    Ok(kernel)
}

/// A payload in the legacy frames of LZ4: a magic number, then blocks with their length before them. The
/// kernel's build appends the unpacked size.
fn unpack(payload: &[u8]) -> Result<Vec<u8>, &'static str> {
    const MAGIC: &[u8] = &0x184c_2102_u32.to_le_bytes();
    const BLOCK: usize = 8 << 20;
    const TRAILER: usize = 4;

    let broken = "its payload is broken";
    let mut rest = payload.strip_prefix(MAGIC).ok_or("its payload is not LZ4")?;
    let end = rest.len().checked_sub(TRAILER).ok_or(broken)?;
    let unpacked_length = word(rest, end).ok_or(broken)?;
    rest = &rest[..end];
    let mut kernel = Vec::with_capacity(unpacked_length.min(1 << 28));
    while !rest.is_empty() {
        let length = word(rest, 0).ok_or(broken)?;
        let block = rest.get(4..).and_then(|rest| rest.get(..length)).ok_or(broken)?;
        kernel.extend(lz4_flex::block::decompress(block, BLOCK).map_err(|_| broken)?);
        rest = &rest[4 + length..];
    }
    if kernel.len() != unpacked_length {
        return Err(broken);
    }
    Ok(kernel)
}

/// Whether a `vmlinux` says where to enter it without a boot loader: QEMU refuses one that does not.
fn has_pvh_entry(kernel: &[u8]) -> bool {
    const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
    let Ok(elf) = Elf::parse(kernel) else {
        return false;
    };
    elf.iter_note_headers(kernel).is_some_and(|notes| {
        notes.flatten().any(|note| note.n_type == XEN_ELFNOTE_PHYS32_ENTRY && note.name == "Xen")
    })
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(word.try_into().ok()?) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_legacy_frame_unpacks_block_by_block() {
        let mut payload = 0x184c_2102_u32.to_le_bytes().to_vec();
        // A block of literals only: a token with their number, then they.
        for text in [b"hello ", b"world!"] {
            payload.extend(7_u32.to_le_bytes());
            payload.push(6 << 4);
            payload.extend(text);
        }
        payload.extend(12_u32.to_le_bytes());
        assert_eq!(unpack(&payload).unwrap(), b"hello world!");
        assert!(unpack(&payload[..payload.len() - 5]).is_err());
        assert!(unpack(b"BZh").is_err());
    }

    #[test]
    fn what_is_no_kernel_is_left_as_it_is() {
        assert!(vmlinux(&[]).is_err());
        assert!(vmlinux(&[0; 4096]).is_err());
    }
}
