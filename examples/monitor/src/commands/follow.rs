//! Follows a job's log to its end, across restarts of the service: every byte once.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use anyhow::Context;
use serde::de::DeserializeOwned;

use super::spinner::Spinner;
use crate::client::{Client, ClientError, Job, LogPart, Message};

/// How long to wait for a service that does not answer before giving up.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// How long to wait between two tries.
const PAUSE: Duration = Duration::from_millis(300);

/// A job's log on its way to standard output.
pub struct Follow<'a> {
    client: &'a Client,
    id: &'a str,
    /// How much of the log was written.
    offset: u64,
    /// When the service was last heard of.
    heard: Instant,
    /// Whether its silence was told.
    told: bool,
    /// Nobody reads standard output any more.
    deaf: bool,
    /// What is shown as long as there is nothing to write.
    spinner: Spinner,
}

impl<'a> Follow<'a> {
    pub fn new(client: &'a Client, id: &'a str) -> Self {
        Self {
            client,
            id,
            offset: 0,
            heard: Instant::now(),
            told: false,
            deaf: false,
            spinner: Spinner::none(),
        }
    }

    /// Ends what is shown meanwhile as soon as there is something to write.
    pub fn instead_of(self, spinner: &Spinner) -> Self {
        Self { spinner: spinner.clone(), ..self }
    }

    /// Writes the log until the job is over.
    pub async fn until_over(mut self) -> anyhow::Result<Job> {
        loop {
            match self.client.follow(self.id, self.offset).await {
                Ok(mut messages) => {
                    self.hear();
                    while let Some(message) = messages.next().await {
                        self.hear();
                        if let Some(job) = self.take(message)? {
                            return Ok(job);
                        }
                    }
                }
                Err(error) if error.is_passing() && self.heard.elapsed() < PATIENCE => {
                    self.tell(&error);
                }
                Err(error) => {
                    return Err(error).with_context(|| format!("lost sight of job {}", self.id));
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Writes a part of the log; the job, if this was its end.
    fn take(&mut self, message: Message) -> anyhow::Result<Option<Job>> {
        match message.event.as_str() {
            "log" => {
                let part: LogPart = parse(&message)?;
                let from = part.from;
                let bytes = part.bytes()?;
                if from > self.offset {
                    let missing = from - self.offset;
                    eprintln!("monitor: {missing} bytes of the log are lost here");
                    self.offset = from;
                }
                let known = usize::try_from(self.offset - from).unwrap_or(usize::MAX);
                if let Some(news) = bytes.get(known..) {
                    self.write(news)?;
                    self.offset += news.len() as u64;
                }
                Ok(None)
            }
            "end" => parse(&message).map(Some),
            _ => Ok(None),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        if self.deaf {
            return Ok(());
        }
        self.spinner.end();
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            // As with `… | head`: the job's end still counts.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.deaf = true,
            written => written.context("could not write the log")?,
        }
        Ok(())
    }

    fn hear(&mut self) {
        self.heard = Instant::now();
        if std::mem::take(&mut self.told) {
            eprintln!("monitor: it answers again");
        }
    }

    fn tell(&mut self, error: &ClientError) {
        if !std::mem::replace(&mut self.told, true) {
            let minutes = PATIENCE.as_secs() / 60;
            self.spinner.end();
            eprintln!("monitor: {error}");
            eprintln!("monitor: job {} goes on; waiting up to {minutes} min", self.id);
        }
    }
}

fn parse<T: DeserializeOwned>(message: &Message) -> anyhow::Result<T> {
    serde_json::from_str(&message.data).context("the service told something unreadable")
}
