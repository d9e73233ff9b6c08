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

    /// What `count` that take this much take together.
    pub fn times(&self, count: u32) -> Resources {
        let each = |amount: u64| amount.saturating_mul(count.into());
        Resources {
            vcpus: self.vcpus.saturating_mul(count),
            memory_mib: each(self.memory_mib),
            huge_memory_mib: each(self.huge_memory_mib),
            disk_mib: each(self.disk_mib),
            counters: self.counters.iter().map(|(name, of)| (name.clone(), each(*of))).collect(),
        }
    }

    /// Why `more` does not fit beside `used` within `self`, or nothing if it does.
    pub fn shortage(&self, used: &Resources, more: &Resources) -> Option<Shortage> {
        self.shortages(used, more).next().map(|(_, shortage)| shortage)
    }

    /// Every kind of which there is too little for `more` beside `used` within `self`.
    pub(crate) fn shortages<'a>(
        &self,
        used: &Resources,
        more: &'a Resources,
    ) -> impl Iterator<Item = (Kind<'a>, Shortage)> {
        more.kinds().filter_map(|kind| {
            let (total, needed) = (self.of(kind), more.of(kind));
            let free = total.saturating_sub(used.of(kind));
            let (resource, unit) = (kind.name().to_owned(), kind.unit().to_owned());
            (needed > free).then_some((kind, Shortage { resource, needed, free, total, unit }))
        })
    }

    /// How many that each take `each` have room within `self`.
    pub fn room_for(&self, each: &Resources) -> u32 {
        let counts = each.kinds().filter_map(|kind| self.of(kind).checked_div(each.of(kind)));
        counts.min().and_then(|count| u32::try_from(count).ok()).unwrap_or(u32::MAX)
    }

    fn kinds(&self) -> impl Iterator<Item = Kind<'_>> {
        let counters = self.counters.keys().map(|name| Kind::Counter(name));
        [Kind::Vcpus, Kind::Memory, Kind::HugeMemory, Kind::Disk].into_iter().chain(counters)
    }

    /// How much of one kind it is.
    pub(crate) fn of(&self, kind: Kind<'_>) -> u64 {
        match kind {
            Kind::Vcpus => self.vcpus.into(),
            Kind::Memory => self.memory_mib,
            Kind::HugeMemory => self.huge_memory_mib,
            Kind::Disk => self.disk_mib,
            Kind::Counter(name) => self.counters.get(name).copied().unwrap_or(0),
        }
    }
}

/// One kind of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind<'a> {
    Vcpus,
    Memory,
    HugeMemory,
    Disk,
    Counter(&'a str),
}

impl<'a> Kind<'a> {
    fn name(self) -> &'a str {
        match self {
            Self::Vcpus => "vCPUs",
            Self::Memory => "memory",
            Self::HugeMemory => "huge pages",
            Self::Disk => "disk",
            Self::Counter(name) => name,
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::Memory | Self::HugeMemory | Self::Disk => "MiB",
            Self::Vcpus | Self::Counter(_) => "",
        }
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

    #[test]
    fn as_many_have_room_as_the_scarcest_kind_allows() {
        let host = Resources { vcpus: 9, memory_mib: 1000, ..Default::default() };
        let each = Resources { vcpus: 2, memory_mib: 512, ..Default::default() };
        assert_eq!(host.room_for(&each), 1);
        assert_eq!(host.room_for(&Resources { vcpus: 2, ..Default::default() }), 4);
        let huge = Resources { vcpus: 1, huge_memory_mib: 1024, ..Default::default() };
        assert_eq!(host.room_for(&huge), 0);
    }
}
