//! What a row of the table is, and how a plan is read beside it.

use runner_core::plan::{Action, Held, Step, Unmake};

use crate::world::World;

pub(crate) struct Row {
    pub(crate) promise: &'static str,
    pub(crate) world: World,
    pub(crate) does: &'static [&'static str],
    pub(crate) holds: &'static [&'static str],
}

pub(crate) fn row(
    promise: &'static str,
    world: World,
    does: &'static [&'static str],
    holds: &'static [&'static str],
) -> Row {
    Row { promise, world, does, holds }
}

pub(crate) fn say_action(action: &Action) -> String {
    let step = match &action.step {
        Step::Provision { worker, image, .. } => format!("provision {worker} from {}", image.id),
        Step::Retire { worker, order, .. } => {
            let words = order.iter().map(|part| match part {
                Unmake::Deregister(_) => "deregister",
                Unmake::Abandon(_) => "abandon",
                Unmake::Destroy => "destroy",
                Unmake::Forget => "forget",
            });
            format!("retire {worker} ({})", words.collect::<Vec<_>>().join(", "))
        }
        Step::Attach { worker, .. } => format!("attach {worker}"),
        Step::Mark { worker, .. } => format!("mark {worker}"),
        Step::Unmark { worker, .. } => format!("unmark {worker}"),
        Step::Release { reservation } => format!("release {reservation}"),
        Step::EndOverride => "end override".to_owned(),
        Step::Dequeue { reservation } => format!("dequeue {reservation}"),
        Step::Build { recipe } => format!("build {}", recipe.profile),
        Step::DeleteImage { image } => format!("delete {image}"),
    };
    format!("{step}: {}", action.why)
}

pub(crate) fn say_held(held: &Held) -> String {
    format!("{}: {}", held.subject, held.why_not)
}
