//! What an instance takes and what a host has.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// What one instance takes, or what a whole host offers. Adding and fitting are per kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Ordinary memory, in MiB.
    pub memory_mib: u64,
    /// Memory from 1 GiB huge pages, in MiB. An instance takes its memory from here or from `memory_mib`.
    #[serde(default)]
    pub huge_memory_mib: u64,
    /// Disk space that the instance may fill, in MiB. At least the size of the disk that its image has, if
    /// any: what a guest sees as its disk is what it may fill.
    #[serde(default)]
    pub disk_mib: u64,
    /// Whatever else is scarce, such as `gpu` or `licence`, counted in whole units.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counters: BTreeMap<String, u64>,
}

/// What a host has in all, for every instance of one pool together.
pub type Capacity = Resources;

/// The first kind of which there is too little.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortage {
    /// `vCPUs`, `memory`, `huge pages`, `disk` or the counter's name.
    pub resource: String,
    /// What one more instance takes.
    pub needed: u64,
    /// What is free now.
    pub free: u64,
    /// What there is in all.
    pub total: u64,
    /// `MiB`, or nothing for things that are counted.
    pub unit: String,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resource, needed, free, total, unit } = self;
        let space = if unit.is_empty() { "" } else { " " };
        write!(
            f,
            "{resource}: {needed}{space}{unit} needed, {free}{space}{unit} of {total}{space}{unit} free"
        )
    }
}

impl Resources {
    /// Adds `other`, kind by kind, stopping at the largest number.
    pub fn add(&mut self, other: &Resources) {
        self.vcpus = self.vcpus.saturating_add(other.vcpus);
        self.memory_mib = self.memory_mib.saturating_add(other.memory_mib);
        self.huge_memory_mib = self.huge_memory_mib.saturating_add(other.huge_memory_mib);
        self.disk_mib = self.disk_mib.saturating_add(other.disk_mib);
        for (name, count) in &other.counters {
            match self.counters.get_mut(name) {
                Some(sum) => *sum = sum.saturating_add(*count),
                None => {
                    self.counters.insert(name.clone(), *count);
                }
            }
        }
    }

    /// Takes `other` away, kind by kind, stopping at zero.
    pub fn take_away(&mut self, other: &Resources) {
        self.vcpus = self.vcpus.saturating_sub(other.vcpus);
        self.memory_mib = self.memory_mib.saturating_sub(other.memory_mib);
        self.huge_memory_mib = self.huge_memory_mib.saturating_sub(other.huge_memory_mib);
        self.disk_mib = self.disk_mib.saturating_sub(other.disk_mib);
        for (name, count) in &other.counters {
            if let Some(sum) = self.counters.get_mut(name) {
                *sum = sum.saturating_sub(*count);
            }
        }
    }

    /// Why `more` does not fit beside `used` within `self`, or nothing if it does.
    pub fn shortage(&self, used: &Resources, more: &Resources) -> Option<Shortage> {
        let check = |resource: &str, total: u64, used: u64, needed: u64, unit: &str| {
            let free = total.saturating_sub(used);
            (needed > free).then(|| Shortage {
                resource: resource.to_owned(),
                needed,
                free,
                total,
                unit: unit.to_owned(),
            })
        };
        check("vCPUs", self.vcpus.into(), used.vcpus.into(), more.vcpus.into(), "")
            .or_else(|| check("memory", self.memory_mib, used.memory_mib, more.memory_mib, "MiB"))
            .or_else(|| {
                let (total, used) = (self.huge_memory_mib, used.huge_memory_mib);
                check("huge pages", total, used, more.huge_memory_mib, "MiB")
            })
            .or_else(|| check("disk", self.disk_mib, used.disk_mib, more.disk_mib, "MiB"))
            .or_else(|| {
                more.counters.iter().find_map(|(name, needed)| {
                    let of = |r: &Resources| r.counters.get(name).copied().unwrap_or(0);
                    check(name, of(self), of(used), *needed, "")
                })
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortage_is_explained_with_numbers() {
        let host = Resources { vcpus: 4, memory_mib: 1024, ..Default::default() };
        let used = Resources { vcpus: 2, memory_mib: 768, ..Default::default() };
        let more = Resources { vcpus: 1, memory_mib: 512, ..Default::default() };
        let shortage = host.shortage(&used, &more).unwrap();
        assert_eq!(shortage.to_string(), "memory: 512 MiB needed, 256 MiB of 1024 MiB free");
        assert_eq!(host.shortage(&Resources::default(), &more), None);
    }

    #[test]
    fn an_unknown_counter_never_fits() {
        let host = Resources { vcpus: 4, memory_mib: 1024, ..Default::default() };
        let more = Resources { counters: [("gpu".to_owned(), 1)].into(), ..Default::default() };
        assert_eq!(host.shortage(&Resources::default(), &more).unwrap().resource, "gpu");
    }
}
