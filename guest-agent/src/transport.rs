//! What a backend brings: a way to send one command to the agent and to hear its answer.

use async_trait::async_trait;
use serde_json::Value;
use tokio::time::Instant;

/// A way to reach the agent of one instance.
///
/// # Contract
/// - Calls may be made concurrently; the transport puts them in a row.
/// - An answer belongs to the call it is returned from, also after an earlier call was dropped or timed out.
/// - Answers are bounded: [`MAX_ANSWER`] bytes are accepted, and what is much longer is refused.
/// - When the instance has ended, every call returns [`CallError::Gone`] promptly, those under way included.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Returns when the agent answers, however long that takes.
    ///
    /// # Errors
    /// `Gone`, or `Failed` when waiting on is pointless.
    ///
    /// # Cancel safety
    /// Cancel safe.
    async fn ready(&self) -> Result<(), CallError>;

    /// The most bytes of content that one call may carry to the agent, before they become base64.
    fn max_content(&self) -> usize {
        MAX_CONTENT
    }

    /// Calls `command` with `arguments`, an object, and returns what the agent returned.
    ///
    /// # Errors
    /// All of [`CallError`]; `Failed` once `deadline` has passed.
    ///
    /// # Cancel safety
    /// May be dropped at any moment; the agent may then have done the command or not.
    async fn call(
        &self,
        command: &'static str,
        arguments: Value,
        deadline: Instant,
    ) -> Result<Value, CallError>;
}

/// The longest answer this crate asks for, in bytes: a piece of a file in base64, and what is around it.
pub const MAX_ANSWER: usize = 1024 * 1024;

/// What one call carries at most, in bytes, where the way to the agent sets no limit of its own.
pub const MAX_CONTENT: usize = 512 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The instance does not run any more, for certain.
    #[error("the instance does not run")]
    Gone,
    /// The agent is well and refused the command.
    #[error("the agent refused: {0}")]
    Refused(String),
    /// The agent was not reached, or did not answer in time, or not in its protocol.
    #[error("the agent could not be asked")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl CallError {
    /// The agent was not reached.
    pub fn failed(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Failed(source.into())
    }
}
