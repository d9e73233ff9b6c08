//! What a guest must do, in one machine for all of it: to boot one takes longer than all that is done in there.

use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::guest::{Progress, Shown, TerminalSize};

/// How long one of them may take.
const EACH: Duration = Duration::from_secs(60);

/// How many are asked of a guest that may still boot: what is refused for itself is refused at once.
const AT_ONCE: usize = 3;

type Case = (&'static str, fn(Bench) -> BoxFuture<'static, ()>);

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        [$((stringify!($name), |bench| $name(bench).boxed())),*]
    };
}

const CASES: &[Case] = &cases![
    a_command_without_program_is_refused,
    an_odd_environment_name_is_refused,
    a_relative_path_is_refused,
    exec_gives_output_and_exit_code,
    exec_keeps_stderr_apart_or_merges_it,
    a_missing_program_ends_with_127,
    spawn_twice_runs_once,
    output_comes_before_the_end,
    follow_goes_on_where_it_stopped,
    follow_returns_when_nothing_happens,
    follow_of_an_unknown_process_is_not_found,
    kill_ends_a_process,
    kill_of_an_ended_process_is_fine,
    running_lists_what_has_not_ended,
    environment_and_working_directory_arrive,
    arguments_arrive_unchanged,
    files_read_back_as_written,
    a_missing_file_is_not_found,
    a_session_answers_what_is_typed,
    a_session_is_told_of_a_new_size,
    control_c_interrupts_what_runs_in_the_foreground,
    bytes_pass_a_session_with_pipes_unchanged,
    opening_a_session_twice_opens_it_once,
    kill_ends_a_session,
    what_is_no_session_is_not_found,
];

/// Each promise that needs nothing but a guest, one after the other. All that are broken are named.
pub async fn a_guest_keeps_its_promises(bench: Bench) {
    needs!(bench.has_guests(), "no guests");
    let guest = bench.booting("a-1").await;
    let mut broken = Vec::new();
    for (number, (name, case)) in CASES.iter().enumerate() {
        if number == AT_ONCE {
            guest.ready().await.expect("ready");
        }
        let bench = Bench {
            hypervisor: bench.hypervisor.clone(),
            spec: bench.spec.clone(),
            reopen: None,
            power_off: None,
            current: bench.current.clone(),
            inside: Some(Arc::new(Apart { guest: guest.clone(), prefix: format!("{number}-") })),
        };
        let kept = AssertUnwindSafe(tokio::time::timeout(EACH, case(bench))).catch_unwind().await;
        match kept {
            Ok(Ok(())) => println!("kept: {name}"),
            Ok(Err(_)) => {
                // Others would, too.
                broken.push(format!("{name} took too long, and the rest was not tried"));
                break;
            }
            // What it said is shown already.
            Err(_) => broken.push((*name).to_owned()),
        }
    }
    assert!(broken.is_empty(), "{}", broken.join(", "));
    bench.done().await;
}

/// A guest whose processes are seen by nobody else who shares it.
struct Apart {
    guest: Arc<dyn Guest>,
    prefix: String,
}

impl Apart {
    fn id(&self, id: &ProcessId) -> ProcessId {
        process(&format!("{}{id}", self.prefix))
    }
}

#[async_trait]
impl Guest for Apart {
    async fn ready(&self) -> Result<()> {
        self.guest.ready().await
    }

    async fn spawn(&self, id: &ProcessId, command: &Command) -> Result<()> {
        self.guest.spawn(&self.id(id), command).await
    }

    async fn follow(&self, id: &ProcessId, from: Cursor, wait: Duration) -> Result<Progress> {
        self.guest.follow(&self.id(id), from, wait).await
    }

    async fn kill(&self, id: &ProcessId, signal: Signal) -> Result<()> {
        self.guest.kill(&self.id(id), signal).await
    }

    async fn running(&self) -> Result<Vec<ProcessId>> {
        let all = self.guest.running().await?;
        let ours = all.iter().filter_map(|id| id.as_str().strip_prefix(&self.prefix));
        Ok(ours.map(process).collect())
    }

    async fn write_file(&self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        self.guest.write_file(path, content, mode).await
    }

    async fn read_file(&self, path: &str, offset: u64, max_bytes: usize) -> Result<Bytes> {
        self.guest.read_file(path, offset, max_bytes).await
    }

    async fn open_session(
        &self,
        id: &ProcessId,
        command: &Command,
        terminal: Option<TerminalSize>,
    ) -> Result<()> {
        self.guest.open_session(&self.id(id), command, terminal).await
    }

    async fn write_session(&self, id: &ProcessId, input: &[u8]) -> Result<()> {
        self.guest.write_session(&self.id(id), input).await
    }

    async fn end_session_input(&self, id: &ProcessId) -> Result<()> {
        self.guest.end_session_input(&self.id(id)).await
    }

    async fn resize_session(&self, id: &ProcessId, size: TerminalSize) -> Result<()> {
        self.guest.resize_session(&self.id(id), size).await
    }

    async fn read_session(&self, id: &ProcessId, from: u64, wait: Duration) -> Result<Shown> {
        self.guest.read_session(&self.id(id), from, wait).await
    }
}
