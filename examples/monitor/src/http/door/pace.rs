//! How many changes each address may ask for.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    state::keyed::HashMapStateStore,
};
use poem::{
    IntoResponse, Response,
    http::{HeaderValue, header},
};

use crate::{config::units::Rate, http::problem::Problem};

/// How many addresses are remembered before those are forgotten that have been quiet.
const ADDRESSES: usize = 10_000;

/// Counts the changes that each address asks for.
pub struct Pace {
    rate: Rate,
    what: &'static str,
    key: &'static str,
    limiter: RateLimiter<IpAddr, HashMapStateStore<IpAddr>, DefaultClock>,
}

impl Pace {
    /// At most `rate` of `what`, which is `key` of a configuration.
    pub fn new(rate: Rate, what: &'static str, key: &'static str) -> Self {
        let each = (rate.per / rate.times.get()).max(Duration::from_nanos(1));
        let quota =
            Quota::with_period(each).expect("it is at least a nanosecond").allow_burst(rate.times);
        Self { rate, what, key, limiter: RateLimiter::hashmap(quota) }
    }

    /// Refuses a change when there were too many from this address.
    pub fn check(&self, address: IpAddr) -> Result<(), Box<Response>> {
        if self.limiter.len() > ADDRESSES {
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
        }
        let Err(early) = self.limiter.check_key(&subscriber(address)) else { return Ok(()) };
        let wait = early.wait_time_from(self.limiter.clock().now());
        // Rounded up: whoever comes back then is let in.
        let wait = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let detail = format!(
            "{address} {} than {}; try again in {wait} s, or raise {}",
            self.what, self.rate, self.key
        );
        let mut response = Problem::too_many(detail).into_response();
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait));
        Err(Box::new(response))
    }
}

/// Who has one address of the sixth version has all that begin alike.
fn subscriber(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let bits = address.to_bits() >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        }
    }
}

#[cfg(test)]
mod tests {
    use poem::http::StatusCode;

    use super::*;

    #[test]
    fn each_address_has_its_own_measure() {
        let pace = Pace::new("3/h".parse().unwrap(), "asks for more changes", "rate in [http]");
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        for _ in 0..3 {
            assert!(pace.check(one).is_ok());
        }
        let refused = pace.check(one).unwrap_err();
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        let wait: u64 = refused.headers()[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
        assert!((1100..=1200).contains(&wait), "{wait}");
        assert!(pace.check(other).is_ok());
        let near = |last: u16| IpAddr::from([0xfd00, 0, 0, 1, 0, 0, 0, last]);
        assert!((0..3).all(|last| pace.check(near(last)).is_ok()));
        assert!(pace.check(near(9)).is_err(), "one network, one measure");
    }

    #[test]
    fn the_largest_rate_is_a_rate() {
        Pace::new(
            format!("{}/s", u32::MAX).parse().unwrap(),
            "asks for more changes",
            "rate in [http]",
        );
    }
}
