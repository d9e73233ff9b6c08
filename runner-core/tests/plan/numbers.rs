//! How many workers there are to be, and why.

use jiff::SignedDuration;
use runner_core::ForgeName;

use crate::{
    row::{Row, row},
    world::{
        busy, idle, making, marked, name, no_machine, no_runner, now, offline, older, promised,
        serves_linux, worker, world,
    },
};

pub(crate) fn numbers() -> Vec<Row> {
    vec![
        row(
            "a waiting job gets a worker although none is kept ready",
            world().profile("a", 0, 2).jobs(1, &["a"]),
            &["provision a-100 from a.1: jobs waiting: 1, workers ready or on their way: 0"],
            &[],
        ),
        row(
            "ready workers are kept although no job waits",
            world().profile("a", 1, 2),
            &["provision a-100 from a.1: workers ready or on their way: 0, to keep ready: 1"],
            &[],
        ),
        row(
            "what is starting counts as ready",
            world().profile("a", 1, 2).workers([worker("a-1", &[&offline])]),
            &[],
            &[],
        ),
        row(
            "what is being made counts as ready before any list shows it",
            world()
                .profile("a", 1, 2)
                .workers([worker("a-1", &[&making, &no_machine, &no_runner])]),
            &[],
            &[],
        ),
        row(
            "what works is not ready: the next job gets the next worker",
            world().profile("a", 0, 2).workers([worker("a-1", &[&busy])]).jobs(1, &["a"]),
            &["provision a-100 from a.1: jobs waiting: 1, workers ready or on their way: 0"],
            &[],
        ),
        row(
            "max is respected, busy ones included, and it is said when a job waits for it",
            world()
                .profile("a", 1, 2)
                .workers([worker("a-1", &[&busy]), idle("a-2")])
                .jobs(2, &["a"]),
            &[],
            &["profile a: the profile has all of its 2 workers"],
        ),
        row(
            "what its forge cannot be asked about counts against max",
            world().profile("a", 2, 2).workers([idle("a-1"), idle("a-2")]).blind_hub(),
            &[],
            &[
                "worker a-1: its forge cannot be seen: 502 Bad Gateway",
                "worker a-2: its forge cannot be seen: 502 Bad Gateway",
            ],
        ),
        row(
            "a job that two profiles serve is counted once, for the first of them",
            world()
                .profile_with("a", 0, 2, serves_linux)
                .profile_with("b", 0, 2, serves_linux)
                .jobs(1, &["linux"]),
            &["provision a-100 from a.1: jobs waiting: 1, workers ready or on their way: 0"],
            &[],
        ),
        row(
            "jobs beyond the max of the first profile that serves them go to the second",
            world()
                .profile_with("a", 0, 1, serves_linux)
                .profile_with("b", 0, 2, serves_linux)
                .jobs(2, &["linux"]),
            &[
                "provision a-100 from a.1: jobs waiting: 1, workers ready or on their way: 0",
                "provision b-101 from b.1: jobs waiting: 1, workers ready or on their way: 0",
            ],
            &[],
        ),
        row(
            "a job that no profile serves is told what is missing",
            world().profile("a", 0, 1).jobs(1, &["a", "gpu"]),
            &[],
            &["job job-1: no profile offers all of: a, gpu"],
        ),
        row(
            "reservations that wait get workers, beside those of jobs and before those to keep ready",
            world().profile("a", 1, 9).jobs(1, &["a"]).needs("a", 2, true).needs("a", 1, false),
            &[
                "provision a-100 from a.1: waited for by reservations: 2, workers ready or on their way: 0",
                "provision a-101 from a.1: waited for by reservations: 2, workers ready or on their way: 0",
                "provision a-102 from a.1: waited for by reservations: 3, workers ready or on their way: 2",
                "provision a-103 from a.1: waited for by reservations: 3, workers ready or on their way: 2",
            ],
            &[],
        ),
        row(
            "idle workers that reservations wait for are no surplus",
            world().profile("a", 0, 3).workers([idle("a-1"), idle("a-2")]).needs("a", 2, true),
            &[],
            &[],
        ),
        row(
            "reservations beyond max wait, and it is said",
            world().profile("a", 0, 1).workers([worker("a-1", &[&busy])]).needs("a", 1, false),
            &[],
            &["profile a: the profile has all of its 1 workers"],
        ),
        row(
            "a job of a reservation that is remembered or waits is no job for any other worker",
            world()
                .profile("a", 0, 2)
                .reserved_jobs(1)
                .but(|w| w.observed.ended.extend([name("promise")])),
            &[],
            &[],
        ),
        row(
            "a job of a reservation that nobody knows of is told so",
            world().profile("a", 0, 2).reserved_jobs(1),
            &[],
            &[
                "job job-1: it asks for reservation promise, which is not there: make it, or cancel the job",
            ],
        ),
        row(
            "a job that waits for a reservation waits for its workers, not for new ones",
            world()
                .profile("a", 0, 2)
                .workers([worker("a-1", &[&promised, &marked])])
                .reserve(now() + SignedDuration::from_secs(60), &["a-1"])
                .jobs(1, &["a"])
                .but(|w| {
                    let hub =
                        w.observed.forges.get_mut(&name::<ForgeName>("hub")).expect("the hub");
                    hub.queued[0].reserved_for = Some(name("promise"));
                }),
            &[],
            &[],
        ),
        row(
            "surplus retires the oldest idle workers first, and only as many as there are too many",
            world().profile("a", 1, 3).workers([
                idle("a-1"),
                worker("a-2", &[&older(60)]),
                worker("a-3", &[&older(90)]),
            ]),
            &[
                "retire a-3 (deregister, destroy, forget): workers ready or on their way: 3, wanted: 1",
                "retire a-2 (deregister, destroy, forget): workers ready or on their way: 3, wanted: 1",
            ],
            &[],
        ),
        row(
            "a max that was lowered retires idle workers, never busy ones",
            world().profile("a", 1, 1).workers([worker("a-1", &[&busy]), idle("a-2")]),
            &[
                "retire a-2 (deregister, destroy, forget): workers ready or on their way: 1, wanted: 1",
            ],
            &[],
        ),
        row(
            "a reserved worker is not surplus, and another is made ready in its place",
            world()
                .profile("a", 1, 2)
                .workers([worker("a-1", &[&promised, &marked])])
                .reserve(now() + SignedDuration::from_secs(60), &["a-1"]),
            &["provision a-100 from a.1: workers ready or on their way: 0, to keep ready: 1"],
            &[],
        ),
        row(
            "a profile that is not offered any more loses its idle workers and keeps its busy ones",
            world().workers([idle("old-1"), worker("old-2", &[&busy])]),
            &["retire old-1 (deregister, destroy, forget): its profile is not offered any more"],
            &[],
        ),
        row(
            "a draining pool retires what is idle, makes nothing, builds nothing, and lets jobs finish",
            world()
                .profile("a", 2, 4)
                .workers([idle("a-1"), worker("a-2", &[&busy])])
                .jobs(1, &["a"])
                .but(|w| w.desired.draining = true)
                .but(|w| w.observed.images.clear()),
            &["retire a-1 (deregister, destroy, forget): the pool is being emptied"],
            &[],
        ),
        row(
            "a paused profile makes nothing, retires what is idle, lets jobs finish, and says who paused it",
            world()
                .profile("a", 2, 4)
                .workers([idle("a-1"), worker("a-2", &[&busy])])
                .jobs(1, &["a"])
                .but(|w| drop(w.desired.paused.insert(name("a"), "ann".to_owned()))),
            &["retire a-1 (deregister, destroy, forget): its profile is paused"],
            &["profile a: the profile is paused by ann"],
        ),
        row(
            "a job that a paused and another profile serve goes to the other",
            world()
                .profile_with("a", 0, 2, serves_linux)
                .profile_with("b", 0, 2, serves_linux)
                .jobs(1, &["linux"])
                .but(|w| drop(w.desired.paused.insert(name("a"), "ann".to_owned()))),
            &["provision b-100 from b.1: jobs waiting: 1, workers ready or on their way: 0"],
            &[],
        ),
        row(
            "a worker that someone asked to go is replaced at once, and goes unless it has a job",
            world()
                .profile("a", 1, 4)
                .workers([idle("a-1"), worker("a-2", &[&busy])])
                .but(|w| w.dismiss(&["a-1", "a-2"], false)),
            &[
                "retire a-1 (deregister, destroy, forget): ann asked for it",
                "provision a-100 from a.1: workers ready or on their way: 0, to keep ready: 1",
            ],
            &[],
        ),
    ]
}
