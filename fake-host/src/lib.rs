//! What a fake forge stands on, whichever forge it is: a [`Clock`] that can be put forward, a [certificate](Tls) of
//! its own, and [connections](Line) that can be reset instead of closed.

mod clock;
mod line;
mod tls;

pub use clock::Clock;
pub use line::{Line, Reset};
pub use tls::Tls;
