//! Calls about what goes on inside a domain.

use std::time::Duration;

use uuid::Uuid;
use virt::{error::Error, error::ErrorNumber, stream::Stream};

use super::{Connection, Failure, Kind};

/// The most that a picture may have, in bytes: more than any screen.
const MAX_PICTURE: usize = 256 << 20;
const PIECE: usize = 64 * 1024;
/// How much longer than the agent's own deadline an answer may take to get here.
const WAY: Duration = Duration::from_secs(5);

/// What the agent answered.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Its answer, a JSON object.
    Said(String),
    /// Its refusal, in its own words.
    Refused(String),
    /// There was no answer in time.
    Late(String),
    /// It is not there (yet).
    Absent(String),
    /// There is no such domain.
    Gone,
}

/// What is on a screen.
#[derive(Debug)]
pub(crate) struct Picture {
    pub(crate) mime: String,
    pub(crate) bytes: Vec<u8>,
}

impl Connection {
    /// Sends `command`, the name of which is `name`, to the agent of a domain, which may take `patience`, rounded
    /// up to whole seconds. `turn` is dropped when the agent is done with it, whether or not anyone waits.
    pub(crate) async fn agent(
        &self,
        domain: Uuid,
        name: &'static str,
        command: String,
        patience: Duration,
        turn: impl Send + 'static,
    ) -> Result<Answer, Failure> {
        let seconds = patience.as_millis().div_ceil(1000).clamp(1, 3600) as i32;
        let patience = Duration::from_secs(seconds.unsigned_abs().into()) + WAY;
        let result = self
            .call_within(Kind::Act, patience, move |connect| {
                let _turn = turn;
                connect.lookup_domain_by_uuid(domain)?.qemu_agent_command(&command, seconds, 0)
            })
            .await;
        let (code, message) = match result {
            Ok(text) => return Ok(Answer::Said(text)),
            Err(Failure::Refused { code: Some(code), message }) => (code, message),
            Err(failure) => return Err(failure),
        };
        Ok(match code {
            ErrorNumber::NoDomain => Answer::Gone,
            ErrorNumber::AgentUnsynced
            | ErrorNumber::AgentCommandTimeout
            | ErrorNumber::OperationTimeout => Answer::Late(message),
            // The second is also what libvirt says of a domain that does not run.
            ErrorNumber::AgentUnresponsive | ErrorNumber::OperationInvalid => {
                Answer::Absent(message)
            }
            // "unable to execute QEMU agent command 'NAME': REASON", in the daemon's language.
            ErrorNumber::InternalError | ErrorNumber::AgentCommandFailed
                if message.contains(&format!("'{name}'")) =>
            {
                let reason = message.split_once(&format!("'{name}'")).map(|(_, reason)| reason);
                let reason = reason.unwrap_or_default().trim_start_matches([':', ' ']);
                Answer::Refused(if reason.is_empty() { message.clone() } else { reason.to_owned() })
            }
            code => return Err(Failure::refused(Some(code), message)),
        })
    }

    /// What is on the first screen of a domain.
    pub(crate) async fn screenshot(&self, domain: Uuid) -> Result<Picture, Failure> {
        self.call(Kind::Look, move |connect| {
            let domain = connect.lookup_domain_by_uuid(domain)?;
            let stream = Stream::new(connect, 0)?;
            let mime = domain.screenshot(&stream, 0, 0)?;
            let bytes = receive(&stream)?;
            // Either ends it; the picture is here.
            let _ = if bytes.len() > MAX_PICTURE { stream.abort() } else { stream.finish() };
            Ok(Picture { mime, bytes })
        })
        .await
    }
}

/// What a stream brings, and one byte more than [`MAX_PICTURE`] at most.
fn receive(stream: &Stream) -> Result<Vec<u8>, Error> {
    let (mut all, mut piece) = (Vec::new(), vec![0; PIECE]);
    while all.len() <= MAX_PICTURE {
        let count = stream.recv(&mut piece)?;
        match usize::try_from(count) {
            Ok(count) if count > 0 => all.extend_from_slice(&piece[..count.min(PIECE)]),
            // The end, or a stream that would not block, which ours does.
            _ => break,
        }
    }
    Ok(all)
}
