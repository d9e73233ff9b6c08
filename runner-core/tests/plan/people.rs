//! What guests say, and what people ask for: machines held, dismissed.

use jiff::SignedDuration;

use crate::{
    row::{Row, row},
    world::{idle, marked, no_runner, now, promised, worker, world},
};

pub(crate) fn guests() -> Vec<Row> {
    let reserved = || {
        let until = now() + SignedDuration::from_secs(60);
        let there = world().profile("a", 0, 2).workers([worker("a-1", &[&promised, &marked])]);
        there.reserve(until, &["a-1"])
    };
    vec![
        row(
            "a reserved worker that someone asked to go goes",
            reserved().but(|w| w.dismiss(&["a-1"], false)),
            &["retire a-1 (deregister, destroy, forget): ann asked for it"],
            &[],
        ),
        row(
            "a reserved worker that someone was in stays as long as it is reserved",
            reserved().but(|w| w.dismiss(&["a-1"], true)),
            &[],
            &[],
        ),
        row(
            "a worker that someone was in goes when its reservation is over, before a job gets it",
            world()
                .profile("a", 0, 2)
                .workers([idle("a-1")])
                .jobs(1, &["a"])
                .but(|w| w.dismiss(&["a-1"], true)),
            &[
                "retire a-1 (deregister, destroy, forget): ann asked for it",
                "provision a-100 from a.1: jobs waiting: 1, workers ready or on their way: 0",
            ],
            &[],
        ),
    ]
}

pub(crate) fn holds() -> Vec<Row> {
    let later = now() + SignedDuration::from_secs(60);
    vec![
        row(
            "a machine that is kept stays when its job is over, and says for whom",
            world()
                .profile("a", 0, 2)
                .workers([worker("a-1", &[&no_runner])])
                .but(|w| w.hold(&["a-1"], later)),
            &[],
            &["worker a-1: it is kept for ann until 2026-01-01T12:01:00Z: to look at it"],
        ),
        row(
            "an idle machine that is kept is neither surplus nor ready for the next job",
            world().profile("a", 1, 2).workers([idle("a-1")]).but(|w| w.hold(&["a-1"], later)),
            &["provision a-100 from a.1: workers ready or on their way: 0, to keep ready: 1"],
            &[],
        ),
        row(
            "a machine whose time is over goes",
            world()
                .profile("a", 0, 2)
                .workers([worker("a-1", &[&no_runner])])
                .but(|w| w.hold(&["a-1"], now())),
            &[
                "retire a-1 (deregister, destroy, forget): its runner is gone from the forge: the job is over",
            ],
            &[],
        ),
        row(
            "emptying the pool ends what is kept",
            world()
                .profile("a", 0, 2)
                .workers([worker("a-1", &[&no_runner])])
                .but(|w| w.hold(&["a-1"], later))
                .but(|w| w.desired.draining = true),
            &[
                "retire a-1 (deregister, destroy, forget): its runner is gone from the forge: the job is over",
            ],
            &[],
        ),
    ]
}
