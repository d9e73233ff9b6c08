//! Who gets what when there is not enough: by itself, and when somebody asks for it.

use jiff::SignedDuration;
use runner_core::{Resources, plan::Subject, worker::Worker};

use crate::{
    row::{Row, row},
    world::{busy, gib, idle, marked, name, now, older, promised, worker, world},
};

/// Made after the override of [`World::overridden`] began.
fn late(worker: &mut Worker) {
    older(-500)(worker);
}

pub(crate) fn sharing() -> Vec<Row> {
    vec![
        row(
            "where not all fit that are to be kept ready, the profile with the most gives up first",
            world()
                .profile("a", 8, 8)
                .profile("b", 1, 1)
                .workers((1..=8).map(|n| idle(&format!("a-{n}")))),
            &[
                "retire a-1 (deregister, destroy, forget): workers ready or on their way: 8, wanted: 7",
            ],
            &[
                "profile a: no room: memory: 1024 MiB needed, 0 MiB of 8192 MiB free",
                "profile b: no room: memory: 1024 MiB needed, 0 MiB of 8192 MiB free",
            ],
        ),
        row(
            "nothing that works is given up for a worker that nobody waits for",
            world()
                .profile("a", 0, 8)
                .profile("b", 1, 1)
                .workers((1..=8).map(|n| worker(&format!("a-{n}"), &[&busy]))),
            &[],
            &["profile b: no room: memory: 1024 MiB needed, 0 MiB of 8192 MiB free"],
        ),
        row(
            "no room is kept for a profile whose image is not built yet",
            world()
                .profile("a", 8, 8)
                .profile("b", 1, 1)
                .workers((1..=8).map(|n| idle(&format!("a-{n}"))))
                .but(|w| w.observed.images.retain(|image| image.recipe.profile == name("a")))
                .but(|w| w.observed.in_flight.extend([Subject::Build(name("b"))])),
            &[],
            &["profile b: its image is not built yet"],
        ),
        row(
            "only a profile that takes what is scarce gives it up",
            world()
                .profile("a", 4, 4)
                .profile_with("b", 2, 2, |p| {
                    p.resources = Resources { vcpus: 1, huge_memory_mib: 1024, ..gib(0) };
                })
                .workers((1..=4).map(|n| idle(&format!("a-{n}"))))
                .but(|w| w.observed.capacity.as_mut().expect("known").huge_memory_mib = 1024),
            &["provision b-100 from b.1: workers ready or on their way: 0, to keep ready: 2"],
            &["profile b: no room: huge pages: 1024 MiB needed, 0 MiB of 1024 MiB free"],
        ),
    ]
}

pub(crate) fn overrides() -> Vec<Row> {
    let full = || world().profile("a", 4, 4).profile("b", 4, 4);
    let idle_b = || (1..=4).map(|n| idle(&format!("b-{n}")));
    vec![
        row(
            "a policy override makes more workers than the profile's max, and none beyond what it asks",
            world().profile("a", 1, 2).overridden(&[("a", 3)], &["a-1"]).workers([idle("a-1")]),
            &[
                "provision a-100 from a.1: the policy override of ann asks for 3 and gets 3",
                "provision a-101 from a.1: the policy override of ann asks for 3 and gets 3",
            ],
            &[],
        ),
        row(
            "other profiles give way to an override, with what is idle",
            full()
                .workers(idle_b())
                .workers([worker("a-1", &[&late])])
                .overridden(&[("a", 6)], &["a-1"]),
            &[
                "retire b-1 (deregister, destroy, forget): \
                 its profile gives way to the policy override of ann",
                "retire b-2 (deregister, destroy, forget): \
                 its profile gives way to the policy override of ann",
                "provision a-100 from a.1: the policy override of ann asks for 6 and gets 6",
                "provision a-101 from a.1: the policy override of ann asks for 6 and gets 6",
                "provision a-102 from a.1: the policy override of ann asks for 6 and gets 6",
            ],
            &[
                "profile a: no room: memory: 1024 MiB needed, 0 MiB of 8192 MiB free",
                "profile b: the profile gives way to the policy override of ann until \
                 2026-01-01T12:01:00Z, which leaves it 2",
            ],
        ),
        row(
            "what is busy or reserved gives way to nothing, and the override is told what it gets",
            full()
                .workers([1, 2].map(|n| worker(&format!("b-{n}"), &[&busy])))
                .workers([3, 4].map(|n| worker(&format!("b-{n}"), &[&promised, &marked])))
                .reserve(now() + SignedDuration::from_secs(60), &["b-3", "b-4"])
                .workers((1..=4).map(|n| worker(&format!("a-{n}"), &[&late])))
                .overridden(&[("a", 8)], &["a-1", "a-2", "a-3", "a-4"]),
            &[],
            &["profile a: wanted 8, got 4: memory: 1024 MiB needed, 0 MiB of 8192 MiB free"],
        ),
        row(
            "who worked for someone else before the override does not count as its own",
            world()
                .profile("a", 1, 2)
                .workers([worker("a-1", &[&busy]), worker("a-2", &[&late])])
                .overridden(&[("a", 2)], &["a-2"]),
            &["provision a-100 from a.1: the policy override of ann asks for 2 and gets 2"],
            &[],
        ),
        row(
            "a job of a profile that gives way waits for the override to end, and is told so",
            world()
                .profile("a", 0, 8)
                .profile("b", 0, 4)
                .workers((1..=8).map(|n| worker(&format!("a-{n}"), &[&late])))
                .overridden(&[("a", 8)], &["a-1", "a-2", "a-3", "a-4", "a-5", "a-6", "a-7", "a-8"])
                .jobs(1, &["b"]),
            &[],
            &["profile b: the profile gives way to the policy override of ann until \
               2026-01-01T12:01:00Z, which leaves it 0"],
        ),
        row(
            "nobody gives way for a profile whose image is not built yet",
            full()
                .workers(idle_b())
                .overridden(&[("a", 8)], &[])
                .but(|w| w.observed.images.retain(|image| image.recipe.profile == name("b")))
                .but(|w| w.observed.in_flight.extend([Subject::Build(name("a"))])),
            &[],
            &["profile a: wanted 8, got 0: its image is not built yet"],
        ),
        row(
            "an override that asks for less than there is retires what is idle, its own last",
            world()
                .profile("a", 3, 3)
                .workers((1..=3).map(|n| idle(&format!("a-{n}"))))
                .overridden(&[("a", 2)], &["a-1", "a-2"]),
            &[
                "retire a-3 (deregister, destroy, forget): workers ready or on their way: 3, wanted: 2",
            ],
            &[],
        ),
        row(
            "an override ends with its time",
            world()
                .profile("a", 1, 1)
                .workers([idle("a-1")])
                .overridden(&[("a", 1)], &["a-1"])
                .but(|w| w.desired.policy.as_mut().expect("one").until = now()),
            &["end override: its time is over"],
            &[],
        ),
        row(
            "an override ends when all of its workers were there and are gone",
            world()
                .profile("a", 2, 2)
                .workers([worker("a-8", &[&late]), worker("a-9", &[&late])])
                .overridden(&[("a", 2)], &["a-1", "a-2"]),
            &["end override: none of its workers is left"],
            &[],
        ),
        row(
            "an override whose workers have not all been there yet goes on",
            world().profile("a", 0, 2).overridden(&[("a", 2)], &["a-1"]),
            &[
                "provision a-100 from a.1: the policy override of ann asks for 2 and gets 2",
                "provision a-101 from a.1: the policy override of ann asks for 2 and gets 2",
            ],
            &[],
        ),
        row(
            "an override whose workers cannot be seen goes on",
            world()
                .profile("a", 1, 1)
                .workers([idle("a-1")])
                .overridden(&[("a", 1)], &["a-1"])
                .blind_hub(),
            &[],
            &["worker a-1: its forge cannot be seen: 502 Bad Gateway"],
        ),
        row(
            "an override ends with the last of its profiles",
            world().profile("b", 0, 1).overridden(&[("a", 1)], &[]),
            &["end override: its profile is not offered any more"],
            &[],
        ),
    ]
}
