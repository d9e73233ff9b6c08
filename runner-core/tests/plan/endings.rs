//! When a worker is over, and what is done when nothing can be seen.

use runner_core::{
    plan::{Sight, Subject},
    worker::Flight,
};

use crate::{
    row::{Row, row},
    world::{
        ago, busy, idle, image, known_for_long, making, name, never_online, no_machine, no_record,
        no_registration, no_runner, offline, older, online_before, patient, promised, pushed,
        quiet_guest, stopped, unmaking, worker, working_guest, world,
    },
};

pub(crate) fn blindness() -> Vec<Row> {
    vec![
        row(
            "a forge that cannot be seen destroys nothing and makes nothing",
            world()
                .profile("a", 1, 9)
                .workers([idle("a-1"), worker("a-2", &[&never_online]), worker("gone-3", &[])])
                .blind_hub()
                .but(|w| w.desired.profiles[0].min_idle = 9),
            &[],
            &[
                "worker a-1: its forge cannot be seen: 502 Bad Gateway",
                "worker a-2: its forge cannot be seen: 502 Bad Gateway",
                "worker gone-3: its forge cannot be seen: 502 Bad Gateway",
                "profile a: forge hub cannot be seen: 502 Bad Gateway",
            ],
        ),
        row(
            "a host that cannot be seen destroys nothing, makes nothing and deletes no image",
            world()
                .profile("a", 1, 9)
                .workers([idle("a-1"), worker("a-2", &[&busy]), worker("a-3", &[&no_runner])])
                .blind_host()
                .but(|w| w.observed.images.push(image("gone", 1, 10)))
                .but(|w| w.desired.profiles[0].min_idle = 9),
            &[],
            &[
                "worker a-1: the hypervisor cannot be seen: no answer",
                "worker a-3: the hypervisor cannot be seen: no answer",
                "profile a: the hypervisor cannot be seen: no answer",
            ],
        ),
        row(
            "a builder that cannot be seen builds and deletes nothing",
            world()
                .profile("a", 0, 1)
                .but(|w| w.observed.images.clear())
                .but(|w| w.observed.builder = Sight::Unasked),
            &[],
            &["image builder: it has not answered yet"],
        ),
        row(
            "a dead machine is cleared away although its forge cannot be seen",
            world().profile("a", 0, 1).workers([worker("a-1", &[&stopped])]).blind_hub(),
            &["retire a-1 (destroy, abandon, forget): its machine stopped: the guest shut down"],
            &[],
        ),
        row(
            "a record is not forgotten while its forge may hold a registration nobody told us of",
            world()
                .profile("a", 0, 1)
                .workers([worker("a-1", &[&no_registration, &no_machine])])
                .blind_hub(),
            &[],
            &["worker a-1: its forge cannot be seen: 502 Bad Gateway"],
        ),
        row(
            "a busy worker is never retired, whatever else the lists say",
            world()
                .workers([
                    worker("a-1", &[&busy]),
                    worker("a-2", &[&busy, &older(100_000)]),
                    worker("a-3", &[&busy, &no_record]),
                    worker("a-4", &[&busy, &no_record, &quiet_guest]),
                    worker("a-5", &[&busy, &promised]),
                    worker("a-6", &[&no_record, &no_runner, &working_guest, &older(100_000)]),
                    worker("a-7", &[&busy, &unmaking]),
                    worker("a-8", &[&busy, &making, &no_machine]),
                ])
                .but(|w| w.desired.draining = true)
                .but(|w| w.observed.images.clear()),
            &[],
            &[],
        ),
    ]
}

pub(crate) fn endings() -> Vec<Row> {
    vec![
        row(
            "after its job a worker is retired, its machine included",
            world().profile("a", 0, 1).workers([worker("a-1", &[&no_runner])]),
            &["retire a-1 (deregister, destroy, forget): \
               its runner is gone from the forge: the job is over"],
            &[],
        ),
        row(
            "a dead machine is destroyed before its forge is told",
            world().profile("a", 0, 1).workers([worker("a-1", &[&stopped, &busy])]),
            &["retire a-1 (destroy, abandon, forget): its machine stopped: the guest shut down"],
            &[],
        ),
        row(
            "a machine that is merely not listed is destroyed only when its forge agrees",
            world().profile("a", 0, 1).workers([worker("a-1", &[&no_machine])]),
            &["retire a-1 (deregister, destroy, forget): its machine is not there"],
            &[],
        ),
        row(
            "a pushed job on a machine that is not listed is asked after, by name, by its driver",
            world().profile("a", 0, 1).workers([worker("a-1", &[&no_machine, &busy, &pushed])]),
            &["attach a-1: no driver attends to it"],
            &[],
        ),
        row(
            "what was never registered is forgotten",
            world().profile("a", 0, 1).workers([worker("a-1", &[&no_registration, &no_machine])]),
            &["retire a-1 (destroy, forget): it was never registered: its maker died"],
            &[],
        ),
        row(
            "a runner that does not come online in time is retired",
            world().profile("a", 1, 1).workers([worker("a-1", &[&never_online])]),
            &[
                "retire a-1 (deregister, destroy, forget): \
                 its runner did not come online within 120 s",
                "provision a-100 from a.1: workers ready or on their way: 0, to keep ready: 1",
            ],
            &[],
        ),
        row(
            "a runner that was online is given its time, and then retired",
            world().profile("a", 0, 2).workers([
                worker("a-1", &[&offline, &known_for_long]),
                worker("a-2", &[&offline, &|w| w.last_online = Some(ago(60))]),
            ]),
            &["retire a-1 (deregister, destroy, forget): \
               its runner was offline for more than 120 s"],
            &[],
        ),
        row(
            "a runner that is offline is replaced before its forge forgets it, and an idle one is left alone",
            world().profile_with("a", 0, 5, patient).jobs(5, &["a"]).forgetful().workers([
                worker("a-1", &[&never_online, &older(23 * 3600)]),
                worker("a-2", &[&offline, &older(23 * 3600), &online_before(23)]),
                worker("a-3", &[&never_online, &older(22 * 3600)]),
                worker("a-4", &[&offline, &older(48 * 3600), &online_before(22)]),
                worker("a-5", &[&older(7 * 24 * 3600)]),
            ]),
            &[
                "retire a-1 (deregister, destroy, forget): \
                 its runner was offline for so long that its forge removes it: after 86400 s",
                "retire a-2 (deregister, destroy, forget): \
                 its runner was offline for so long that its forge removes it: after 86400 s",
            ],
            &[],
        ),
        row(
            "a runner that its forge forgot is not said to have had a job",
            world().profile("a", 0, 2).forgetful().workers([
                worker("a-1", &[&no_runner, &older(24 * 3600), &online_before(24)]),
                worker("a-2", &[&no_runner, &older(24 * 3600)]),
            ]),
            &[
                "retire a-1 (deregister, destroy, forget): \
                 its runner was offline for so long that its forge removes it: after 86400 s",
                "retire a-2 (deregister, destroy, forget): \
                 its runner is gone from the forge: the job is over",
            ],
            &[],
        ),
        row(
            "a machine without a record is retired when forge and guest say that it is idle",
            world().profile("a", 0, 2).workers([
                worker("a-1", &[&no_record, &quiet_guest]),
                worker("a-2", &[&no_record, &no_runner, &quiet_guest, &known_for_long]),
            ]),
            &[
                "retire a-1 (deregister, destroy): \
                 no record explains this machine, and nothing runs in it",
                "retire a-2 (destroy): no record explains this machine, and nothing runs in it",
            ],
            &[],
        ),
        row(
            "a machine without a record is watched for a while when its forge lists no runner for it",
            world()
                .profile("a", 0, 2)
                .workers([worker("a-1", &[&no_record, &no_runner, &quiet_guest])]),
            &[],
            &["worker a-1: no record explains it and its forge lists no runner for it: \
               it is watched"],
        ),
        row(
            "a silent machine without a record is kept until the orphan limit, and not longer",
            world().profile("a", 0, 2).workers([
                worker("a-1", &[&no_record, &no_runner]),
                worker("a-2", &[&no_record, &no_runner, &older(3000)]),
            ]),
            &["retire a-2 (destroy): \
               no record explains this machine and its guest has been silent too long"],
            &["worker a-1: no record explains it and its guest does not say whether it works"],
        ),
        row(
            "a registration without record and machine is removed",
            world().profile("a", 0, 1).workers([worker("a-1", &[&no_record, &no_machine])]),
            &["retire a-1 (deregister, destroy): \
               no record or machine belongs to this registration"],
            &[],
        ),
        row(
            "a retirement that failed waits its time",
            world()
                .profile("a", 0, 1)
                .workers([worker("a-1", &[&no_runner])])
                .backing_off(Subject::Worker(name("a-1"))),
            &[],
            &[
                "worker a-1: the last try failed (it broke), the next one is at 2026-01-01T12:00:30Z",
            ],
        ),
        row(
            "a profile that failed waits its time, and others do not wait for it",
            world().profile("a", 1, 1).profile("b", 1, 1).backing_off(Subject::Profile(name("a"))),
            &["provision b-100 from b.1: workers ready or on their way: 0, to keep ready: 1"],
            &["profile a: the last try failed (it broke), the next one is at 2026-01-01T12:00:30Z"],
        ),
        row(
            "a worker that something is done to is left alone",
            world().profile("a", 0, 1).workers([
                worker("a-1", &[&unmaking]),
                worker("a-2", &[&no_machine, &|w| w.in_flight = Some(Flight::Touching)]),
            ]),
            &[],
            &[],
        ),
    ]
}
