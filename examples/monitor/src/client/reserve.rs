//! Machines for oneself: reserved, released, retired.

use reqwest::Method;
use serde_json::json;

use super::{Client, ClientError, Reservation, segment};

impl Client {
    /// Reserves one idle worker of a profile for a time such as `1h`.
    ///
    /// # Errors
    /// [`ClientError`]; refused with 503 when none is idle.
    pub async fn reserve(
        &self,
        profile: &str,
        purpose: &str,
        duration: &str,
    ) -> Result<Reservation, ClientError> {
        let wish = json!({
            "profile": profile,
            "count": 1,
            "purpose": purpose,
            "duration": duration,
        });
        self.json(self.request(Method::POST, "/reservations").json(&wish)).await
    }

    /// Ends a reservation.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn release(&self, id: &str) -> Result<(), ClientError> {
        let path = format!("/reservations/{}", segment(id));
        self.send(self.request(Method::DELETE, &path)).await.map(|_| ())
    }

    /// Has a worker's machine destroyed, as no job is to see what was done in it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn retire(&self, worker: &str) -> Result<(), ClientError> {
        let path = format!("/workers/{}/retire", segment(worker));
        self.send(self.request(Method::POST, &path)).await.map(|_| ())
    }
}
