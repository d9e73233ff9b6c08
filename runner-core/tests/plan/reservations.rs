//! Promises.

use jiff::SignedDuration;

use crate::{
    row::{Row, row},
    world::{busy, marked, name, now, offline, promised, pushed, stopped, worker, world},
};

pub(crate) fn reservations() -> Vec<Row> {
    let later = now() + SignedDuration::from_secs(60);
    vec![
        row(
            "a driven forge's runner gets its driver, once",
            world().profile("a", 2, 2).workers([
                worker("a-1", &[&pushed, &offline]),
                worker("a-2", &[&pushed, &|w| w.driven = true]),
            ]),
            &["attach a-1: no driver attends to it"],
            &[],
        ),
        row(
            "a promised worker is marked at its forge, once",
            world()
                .profile("a", 0, 2)
                .workers([worker("a-1", &[&promised]), worker("a-2", &[&promised, &marked])])
                .reserve(later, &["a-1", "a-2"]),
            &["mark a-1: it is reserved and the forge does not know yet"],
            &[],
        ),
        row(
            "a mark whose promise is over is taken away, but not under a job",
            world()
                .profile("a", 1, 2)
                .workers([worker("a-1", &[&marked]), worker("a-2", &[&marked, &busy])]),
            &["unmark a-1: its reservation does not hold any more"],
            &[],
        ),
        row(
            "a reservation ends with its time",
            world()
                .profile("a", 0, 1)
                .workers([worker("a-1", &[&promised, &marked])])
                .reserve(now(), &["a-1"]),
            &["release promise: its time is over"],
            &[],
        ),
        row(
            "a reservation ends with the last of its workers",
            world()
                .profile("a", 0, 2)
                .workers([worker("a-1", &[&promised, &stopped])])
                .reserve(later, &["a-1", "a-2"]),
            &[
                "retire a-1 (destroy, abandon, forget): its machine stopped: the guest shut down",
                "release promise: none of its workers is left",
            ],
            &[],
        ),
        row(
            "a reservation whose lost workers are to be replaced goes on without any",
            world()
                .profile("a", 0, 2)
                .workers([worker("a-1", &[&busy])])
                .reserve(later, &[])
                .needs("a", 1, false),
            &[
                "provision a-100 from a.1: waited for by reservations: 1, workers ready or on their way: 0",
            ],
            &[],
        ),
        row(
            "a mark that its forge refuses again and again ends the reservation",
            world()
                .profile("a", 0, 2)
                .workers([worker("a-1", &[&promised]), worker("a-2", &[&promised, &marked])])
                .reserve(later, &["a-1", "a-2"])
                .refused("a-1", 5, 1),
            &["release promise: its forge did not mark worker a-1, tried 5 times: 422"],
            &["worker a-1: the last try failed (422), the next one is at 2026-01-01T12:00:01Z"],
        ),
        row(
            "so does one that is not to be tried again for long",
            world()
                .profile("a", 0, 2)
                .workers([worker("a-1", &[&promised])])
                .reserve(later, &["a-1"])
                .refused("a-1", 1, 61),
            &["release promise: its forge did not mark worker a-1, tried 1 times: 422"],
            &["worker a-1: the last try failed (422), the next one is at 2026-01-01T12:01:01Z"],
        ),
        row(
            "a few refusals do not",
            world()
                .profile("a", 0, 2)
                .workers([worker("a-1", &[&promised])])
                .reserve(later, &["a-1"])
                .refused("a-1", 4, 16),
            &[],
            &["worker a-1: the last try failed (422), the next one is at 2026-01-01T12:00:16Z"],
        ),
        row(
            "what is kept for one that waits is given back if it cannot be marked",
            world()
                .profile("a", 0, 3)
                .workers([worker("a-1", &[&promised])])
                .waiting(10, &["a-1"])
                .refused("a-1", 5, 1),
            &["release promise: its forge did not mark worker a-1, tried 5 times: 422"],
            &["worker a-1: the last try failed (422), the next one is at 2026-01-01T12:00:01Z"],
        ),
        row(
            "whoever is not asked after any more gives up its place",
            world().profile("a", 0, 3).waiting(60, &[]),
            &["dequeue promise: nobody asked after it for 60 s"],
            &[],
        ),
        row(
            "and what was promised to it, once",
            world()
                .profile("a", 0, 1)
                .workers([worker("a-1", &[&promised, &marked])])
                .waiting(60, &[])
                .reserve(now(), &["a-1"]),
            &["dequeue promise: nobody asked after it for 60 s"],
            &[],
        ),
        row(
            "whoever is asked after keeps its place",
            world().profile("a", 0, 3).waiting(59, &[]),
            &[],
            &[],
        ),
        row(
            "a worker that is promised and has another's mark loses that first",
            world()
                .profile("a", 0, 1)
                .workers([worker("a-1", &[&marked, &|w| w.reservation = Some(name("other"))])]),
            &["unmark a-1: its reservation does not hold any more"],
            &[],
        ),
        row(
            "a reservation outlives what cannot be seen",
            world()
                .profile("a", 0, 1)
                .workers([worker("a-1", &[&promised])])
                .reserve(later, &["a-1"])
                .blind_hub(),
            &[],
            &["worker a-1: its forge cannot be seen: 502 Bad Gateway"],
        ),
    ]
}
