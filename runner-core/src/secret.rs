//! A value that no log, error or serializer can show.

/// Holds a secret: no `Debug`, `Display` or `Serialize`, so that it reaches a log or an answer only by a
/// call to [`Secret::expose`], which a review finds.
///
/// ```compile_fail
/// let secret = runner_core::Secret::new("token".to_owned());
/// println!("{secret:?}");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Takes charge of `value`.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself, for the one place that needs it.
    pub fn expose(&self) -> &T {
        &self.0
    }
}
