//! One named test for each promise of each trait: every backend, every forge and every fake passes the same. What
//! needs nothing but a guest is one test in one guest, which names each promise that is broken.
//!
//! ```ignore
//! // tests/conformance.rs of a backend; `fixture()` makes a fresh one for each test.
//! runner_core::hypervisor_conformance!(fixture().await);
//! ```
//!
//! The suites pick their checks by the capabilities of what they test, and clean up also after a failure.

pub mod forge;
pub mod hypervisor;
pub mod image;

/// Calls `$each!` with the name of every test of a suite.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_tests {
    ($module:ident, $fixture:expr, [$($name:ident),* $(,)?]) => {
        $(
            #[::tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let Some(fixture) = $fixture else { return };
                $crate::conformance::$module::run(fixture, $crate::conformance::$module::$name).await;
            }
        )*
    };
}

/// Makes one test for each promise of [`Hypervisor`](crate::Hypervisor), and one for those of
/// [`Guest`](crate::Guest).
/// The expression gives `Option<HypervisorFixture>`; `None` skips, after having said why.
#[macro_export]
macro_rules! hypervisor_conformance {
    ($fixture:expr) => {
        $crate::__conformance_tests!(
            hypervisor,
            $fixture,
            [
                capacity_is_more_than_nothing,
                what_is_created_is_listed,
                create_twice_is_one_instance,
                several_at_once_do_not_disturb_each_other,
                destroy_removes_it_from_the_list,
                destroy_twice_is_fine,
                destroy_of_what_never_was_is_fine,
                a_dropped_create_leaves_nothing_hidden,
                a_dropped_destroy_can_be_repeated,
                what_does_not_fit_is_refused,
                a_name_can_be_used_again_after_destroy,
                changes_are_hinted,
                a_screenshot_is_a_png,
                a_console_tells_the_past_and_ends,
                what_does_not_run_has_no_guest,
                instances_outlive_their_manager,
                processes_outlive_their_manager,
                a_guest_that_powers_off_is_listed_as_stopped,
                a_guest_keeps_its_promises,
                sessions_outlive_their_manager,
            ]
        );
    };
}

/// Makes one test for each promise of [`Forge`](crate::Forge). The expression gives `Option<ForgeFixture>`.
#[macro_export]
macro_rules! forge_conformance {
    ($fixture:expr) => {
        $crate::__conformance_tests!(
            forge,
            $fixture,
            [
                what_is_registered_is_listed,
                register_twice_is_one_runner,
                deregister_removes_it_from_the_list,
                deregister_twice_is_fine,
                deregister_of_what_never_was_is_fine,
                a_dropped_register_leaves_nothing_hidden,
                changes_are_hinted,
                a_waiting_job_is_listed_until_it_runs,
                a_busy_runner_is_not_deregistered,
                a_busy_runner_is_not_registered_again,
                a_runner_takes_one_job_only,
                an_abandoned_runner_is_gone,
                a_mark_is_listed_and_taken_away,
                a_marked_runner_is_not_marked_for_another,
            ]
        );
    };
}

/// Makes one test for each promise of [`ImageBuilder`](crate::ImageBuilder). The expression gives
/// `Option<ImageFixture>`.
#[macro_export]
macro_rules! image_conformance {
    ($fixture:expr) => {
        $crate::__conformance_tests!(
            image,
            $fixture,
            [
                what_is_built_is_listed,
                two_builds_are_two_images,
                builds_at_once_do_not_disturb_each_other,
                delete_removes_it_from_the_list,
                delete_twice_is_fine,
                a_dropped_build_leaves_nothing_listed,
                one_recipe_gives_one_digest,
            ]
        );
    };
}
