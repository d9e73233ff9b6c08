//! The way to a guest's agent: libvirt carries one command at a time to it, and tells when it comes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use guest_agent::{CallError, Transport};
use serde_json::{Value, json};
use tokio::{
    sync::{Mutex, Semaphore},
    time::{Instant, sleep, timeout_at},
};

use crate::{
    connection::{Answer, Connection, Life},
    watch::Watched,
};

/// How long one call of an agent that may not be there takes.
const PING: Duration = Duration::from_secs(2);
/// How long it takes at most to learn that an agent is not there.
const ABSENT: Duration = Duration::from_secs(1);
/// How long to wait for word that an agent came before it is called all the same.
const CALL_AGAIN: Duration = Duration::from_millis(500);

/// What a call may carry, in bytes: in base64 and with all around it less than [`MAX_COMMAND`].
const MAX_CONTENT: usize = 64 * 1024;
/// The longest command, in bytes. libvirt hands it to a socket that takes about 200 KiB at once; of a longer one it
/// sends the beginning again and again (`safewrite` in `qemuAgentIOWrite`, seen with libvirt 9.0).
const MAX_COMMAND: usize = 128 * 1024;

/// Talks to the agent of one domain.
pub(crate) struct LibvirtAgent {
    connection: Arc<Connection>,
    watched: Arc<Watched>,
    /// Held until the agent has answered, also when whoever asked has left.
    turn: Arc<Mutex<()>>,
    /// Whether it was late the last time.
    late: AtomicBool,
    /// Those who were late wait behind each other, so that they hold no more than one of the few calls that a
    /// daemon serves at a time.
    slow: Arc<Semaphore>,
}

impl LibvirtAgent {
    /// Talks over `connection`; `slow`, with one permit, is shared by all agents of it.
    pub(crate) fn new(
        connection: Arc<Connection>,
        watched: Arc<Watched>,
        slow: Arc<Semaphore>,
    ) -> Self {
        Self { connection, watched, turn: Arc::default(), late: AtomicBool::new(false), slow }
    }

    async fn ask(
        &self,
        command: &'static str,
        arguments: &Value,
        deadline: Instant,
    ) -> Result<Value, CallError> {
        let turn = self.turn.clone().lock_owned().await;
        if self.late.load(Ordering::Acquire) {
            let slow = self.slow.clone().acquire_owned().await;
            let slow = slow.map_err(CallError::failed)?;
            let ping = Instant::now() + PING;
            self.exchange("guest-ping", &json!({}), ping, (turn, slow)).await?;
            self.late.store(false, Ordering::Release);
            // Its turn was over with the ping. That another comes between does no harm.
            let turn = self.turn.clone().lock_owned().await;
            return self.exchange(command, arguments, deadline, turn).await;
        }
        self.exchange(command, arguments, deadline, turn).await
    }

    async fn exchange(
        &self,
        command: &'static str,
        arguments: &Value,
        deadline: Instant,
        turn: impl Send + 'static,
    ) -> Result<Value, CallError> {
        let text = json!({ "execute": command, "arguments": arguments }).to_string();
        if text.len() > MAX_COMMAND {
            let why = format!("{command} of {} bytes is more than libvirt can carry", text.len());
            return Err(CallError::failed(why));
        }
        let patience = deadline.saturating_duration_since(Instant::now());
        let (domain, start) = (self.watched.uuid, Instant::now());
        let answer = self.connection.agent(domain, command, text, patience, turn).await;
        let failed = match answer {
            Ok(Answer::Said(text)) => return parse(&text),
            Ok(Answer::Refused(why)) => return Err(CallError::Refused(why)),
            Ok(Answer::Gone) => return Err(CallError::Gone),
            Ok(Answer::Late(why)) => {
                self.late.store(true, Ordering::Release);
                CallError::failed(why)
            }
            Ok(Answer::Absent(why)) => {
                // libvirt says so at once, unless it tried in vain.
                self.late.store(start.elapsed() > ABSENT, Ordering::Release);
                CallError::failed(why)
            }
            Err(failure) => CallError::failed(failure),
        };
        // What ended takes its agent along.
        match self.connection.life(domain).await {
            Ok(None | Some(Life::Ended(_))) => Err(CallError::Gone),
            _ => Err(failed),
        }
    }
}

#[async_trait]
impl Transport for LibvirtAgent {
    async fn ready(&self) -> Result<(), CallError> {
        loop {
            let news = self.watched.agent();
            tokio::pin!(news);
            // Before asking, so that nothing falls between.
            news.as_mut().enable();
            match self.call("guest-ping", json!({}), Instant::now() + PING).await {
                Ok(_) => return Ok(()),
                Err(CallError::Gone) => return Err(CallError::Gone),
                Err(error) => {
                    tracing::trace!(worker = %self.watched.mark.name, %error, "Its agent does not answer yet.");
                }
            }
            tokio::select! {
                () = news => {}
                () = sleep(CALL_AGAIN) => {}
                () = self.watched.ended() => return Err(CallError::Gone),
            }
        }
    }

    fn max_content(&self) -> usize {
        MAX_CONTENT
    }

    async fn call(
        &self,
        command: &'static str,
        arguments: Value,
        deadline: Instant,
    ) -> Result<Value, CallError> {
        tokio::select! {
            () = self.watched.ended() => Err(CallError::Gone),
            answer = timeout_at(deadline, self.ask(command, &arguments, deadline)) => {
                answer.map_err(|_| CallError::failed("the agent did not answer in time"))?
            }
        }
    }
}

/// What an answer returns.
fn parse(text: &str) -> Result<Value, CallError> {
    let answer: Value = serde_json::from_str(text).map_err(CallError::failed)?;
    match answer {
        Value::Object(mut answer) => answer
            .remove("return")
            .ok_or_else(|| CallError::failed("the agent said neither yes nor no")),
        _ => Err(CallError::failed("the agent's answer is no object")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_no_answer() {
        assert_eq!(parse(r#"{"return": {"pid": 7}}"#).unwrap(), json!({ "pid": 7 }));
        for nonsense in ["", "[]", "{}", "nonsense", "{\"return\"", "7"] {
            assert!(matches!(parse(nonsense), Err(CallError::Failed(_))), "{nonsense}");
        }
    }
}
