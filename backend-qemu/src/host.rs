//! What the host has.

use std::{fs, io, num::NonZero, path::Path};

use runner_core::Capacity;

/// What of the memory is left to the host itself: a part, and no less than so much.
const RESERVED_SHARE: u64 = 8;
const RESERVED_MIB: u64 = 512;
const HUGE_PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages";

/// All processors, most of the memory, all huge pages, and the disk space below `root` that is free or
/// already our instances' (`used_disk_mib`).
pub(crate) fn capacity(root: &Path, used_disk_mib: u64) -> io::Result<Capacity> {
    let vcpus = std::thread::available_parallelism().map_or(1, NonZero::get);
    let memory_mib = total_memory_mib(&fs::read_to_string("/proc/meminfo")?)?;
    let reserved = (memory_mib / RESERVED_SHARE).max(RESERVED_MIB);
    let disk = rustix::fs::statvfs(root)?;
    let free_mib = disk.f_bavail.saturating_mul(disk.f_frsize) >> 20;
    let pages: u64 = match fs::read_to_string(HUGE_PAGES) {
        Ok(text) => text.trim().parse().unwrap_or(0),
        Err(_) => 0,
    };
    Ok(Capacity {
        vcpus: u32::try_from(vcpus).unwrap_or(u32::MAX),
        memory_mib: memory_mib.saturating_sub(reserved),
        huge_memory_mib: pages * 1024,
        disk_mib: free_mib.saturating_add(used_disk_mib),
        counters: Default::default(),
    })
}

/// What the files in `directory` take on the disk.
pub(crate) fn used_mib(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;

    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|file| file.blocks() * 512).sum::<u64>() >> 20
}

fn total_memory_mib(meminfo: &str) -> io::Result<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "/proc/meminfo has no MemTotal");
    Ok(kib.ok_or_else(invalid)? / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_mib() {
        assert_eq!(total_memory_mib("A: 1 kB\nMemTotal:     2048 kB\n").unwrap(), 2);
        assert!(total_memory_mib("MemTotal: many\n").is_err());
        assert!(total_memory_mib("").is_err());
    }

    #[test]
    fn this_host_has_something_to_offer() {
        let capacity = capacity(Path::new("/"), 0).unwrap();
        assert!(capacity.vcpus > 0 && capacity.memory_mib > 0);
    }
}
