//! Images: built, replaced, deleted.

use std::time::Duration;

use runner_core::{Profile, plan::Subject};

use crate::{
    row::{Row, row},
    world::{busy, idle, image, making, name, no_machine, no_record, no_runner, worker, world},
};

pub(crate) fn images() -> Vec<Row> {
    let aged = |p: &mut Profile| p.image_max_age = Some(Duration::from_secs(900));
    vec![
        row(
            "an image that is missing is built, and a worker waits for it",
            world().profile("a", 1, 1).but(|w| w.observed.images.clear()),
            &["build a: there is no image of the profile's recipe"],
            &["profile a: its image is not built yet"],
        ),
        row(
            "an image is built once at a time",
            world()
                .profile("a", 0, 1)
                .but(|w| w.observed.images.clear())
                .but(|w| w.observed.in_flight.extend([Subject::Build(name("a"))])),
            &[],
            &[],
        ),
        row(
            "an image that is too old is built anew while it serves on",
            world().profile_with("a", 1, 1, aged),
            &[
                "build a: the image is older than 900 s",
                "provision a-100 from a.1: workers ready or on their way: 0, to keep ready: 1",
            ],
            &[],
        ),
        row(
            "a newer image serves as soon as it is there, and the old one is deleted",
            world().profile("a", 1, 1).but(|w| w.observed.images.push(image("a", 2, 10))),
            &[
                "delete a.1: there is a newer image and no worker uses this one",
                "provision a-100 from a.2: workers ready or on their way: 0, to keep ready: 1",
            ],
            &[],
        ),
        row(
            "a build that failed waits its time, and the old image serves on",
            world().profile_with("a", 1, 1, aged).backing_off(Subject::Build(name("a"))),
            &["provision a-100 from a.1: workers ready or on their way: 0, to keep ready: 1"],
            &["image of profile a: the last try failed (it broke), \
                 the next one is at 2026-01-01T12:00:30Z"],
        ),
        row(
            "a rebuild retires no worker of the old image: each goes after its job",
            world()
                .profile("a", 2, 4)
                .workers([idle("a-1"), idle("a-2"), worker("a-3", &[&busy])])
                .but(|w| w.observed.images.push(image("a", 2, 10))),
            &[],
            &[],
        ),
        row(
            "as many of the newest images are kept as the profile says",
            world().profile_with("a", 0, 1, |p| p.images_kept = 3).but(|w| {
                w.observed.images.extend([4, 2, 3].map(|n| image("a", n, 1000 - i64::from(n))));
            }),
            &["delete a.1: there is a newer image and no worker uses this one"],
            &[],
        ),
        row(
            "an image that a machine or a record names is never deleted",
            world()
                .profile("a", 2, 2)
                .workers([
                    worker("a-1", &[&no_record, &busy]),
                    worker(
                        "a-2",
                        &[&making, &no_machine, &no_runner, &|w| {
                            w.record.as_mut().expect("a record").image = name("a.2");
                        }],
                    ),
                ])
                .but(|w| w.observed.images.push(image("a", 2, 10)))
                .but(|w| w.observed.images.push(image("a", 3, 5)))
                .but(|w| w.desired.profiles[0].min_idle = 1),
            &[],
            &[],
        ),
        row(
            "an image of no profile is deleted",
            world().but(|w| w.observed.images.push(image("gone", 1, 10))),
            &["delete gone.1: no profile boots it and no worker uses it"],
            &[],
        ),
    ]
}
