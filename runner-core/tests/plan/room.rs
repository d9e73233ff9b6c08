//! What fits on the host.

use crate::{
    row::{Row, row},
    world::{
        busy, gib, idle, large, making, no_machine, no_runner, older, stopped, unmaking, worker,
        world,
    },
};

pub(crate) fn room() -> Vec<Row> {
    vec![
        row(
            "the room that a reservation lacks which is collected for is kept from jobs",
            world()
                .profile_with("b", 0, 2, |p| p.resources = gib(2))
                .profile_with("a", 0, 2, |p| p.resources = gib(4))
                .workers([worker("a-1", &[&busy, &large(5)])])
                .jobs(1, &["b"])
                .needs("a", 1, true),
            &[],
            &[
                "profile a: no room: memory: 4096 MiB needed, 3072 MiB of 8192 MiB free",
                "profile b: no room: memory: 2048 MiB needed, 0 MiB of 8192 MiB free",
            ],
        ),
        row(
            "a full host is said with numbers",
            world()
                .profile("a", 0, 9)
                .profile_with("b", 0, 1, |p| p.resources = gib(2))
                .workers([worker("a-1", &[&busy, &large(7)])])
                .jobs(1, &["b"]),
            &[],
            &["profile b: no room: memory: 2048 MiB needed, 1024 MiB of 8192 MiB free"],
        ),
        row(
            "what can never fit is said to be so, and nothing is retired for it",
            world()
                .profile("a", 2, 2)
                .workers([idle("a-1"), idle("a-2")])
                .profile_with("b", 0, 1, |p| p.resources = gib(9))
                .jobs(1, &["b"]),
            &[],
            &["profile b: it can never fit on this host: \
                 memory: 9216 MiB needed, 6144 MiB of 8192 MiB free"],
        ),
        row(
            "what is being destroyed still holds its room",
            world().profile("a", 1, 2).workers([worker("a-1", &[&large(8), &unmaking])]),
            &[],
            &["profile a: no room: memory: 1024 MiB needed, 0 MiB of 8192 MiB free"],
        ),
        row(
            "a machine that has stopped holds its room until it is destroyed",
            world().profile("a", 1, 2).workers([worker("a-1", &[&large(8), &stopped])]),
            &["retire a-1 (destroy, abandon, forget): its machine stopped: the guest shut down"],
            &["profile a: no room: memory: 1024 MiB needed, 0 MiB of 8192 MiB free"],
        ),
        row(
            "what is being made holds its room before any list shows it",
            world()
                .profile("a", 2, 2)
                .workers([worker("a-1", &[&large(8), &making, &no_machine, &no_runner])]),
            &[],
            &["profile a: no room: memory: 1024 MiB needed, 0 MiB of 8192 MiB free"],
        ),
        row(
            "an idle worker of another profile makes room for a job that waits, the oldest first",
            world()
                .profile("a", 2, 2)
                .profile_with("b", 0, 1, |p| p.resources = gib(2))
                .workers([worker("a-1", &[&large(4)]), worker("a-2", &[&large(4), &older(60)])])
                .jobs(1, &["b"]),
            &[
                "retire a-2 (deregister, destroy, forget): a waiting job of profile b needs its room",
            ],
            &["profile b: no room: memory: 2048 MiB needed, 0 MiB of 8192 MiB free"],
        ),
        row(
            "room is made only when that suffices",
            world()
                .profile("a", 1, 2)
                .profile_with("b", 0, 1, |p| p.resources = gib(4))
                .workers([worker("a-1", &[&large(2)]), worker("a-2", &[&large(6), &busy])])
                .jobs(1, &["b"]),
            &[],
            &["profile b: no room: memory: 4096 MiB needed, 0 MiB of 8192 MiB free"],
        ),
        row(
            "no room is made when what is ending will do",
            world()
                .profile("a", 1, 2)
                .profile_with("b", 0, 1, |p| p.resources = gib(2))
                .workers([worker("a-1", &[&large(4)]), worker("a-2", &[&large(4), &unmaking])])
                .jobs(1, &["b"]),
            &[],
            &["profile b: no room: memory: 2048 MiB needed, 0 MiB of 8192 MiB free"],
        ),
        row(
            "a worker that a job of its own profile waits for makes no room",
            world()
                .profile("a", 0, 1)
                .profile_with("b", 0, 1, |p| p.resources = gib(2))
                .workers([worker("a-1", &[&large(8)])])
                .jobs(1, &["a"])
                .jobs(1, &["b"]),
            &[],
            &["profile b: no room: memory: 2048 MiB needed, 0 MiB of 8192 MiB free"],
        ),
        row(
            "room that a waiting job needs is not taken by workers to keep ready: no ping-pong",
            world()
                .profile_with("a", 2, 2, |p| p.resources = gib(4))
                .profile_with("b", 0, 1, |p| p.resources = gib(6))
                .workers([worker("a-1", &[&large(4), &unmaking])])
                .jobs(1, &["b"]),
            &[],
            &[
                "profile b: no room: memory: 6144 MiB needed, 4096 MiB of 8192 MiB free",
                "profile a: no room: memory: 4096 MiB needed, 0 MiB of 8192 MiB free",
            ],
        ),
    ]
}
