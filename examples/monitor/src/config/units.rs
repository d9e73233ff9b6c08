//! Sizes, durations and rates as people write them: `512MiB`, `90s`, `1h30m`, `50/s`;
//! and what is reached, as in `tcp:192.0.2.1:443`.

use std::{fmt, net::Ipv4Addr, num::NonZeroU32, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, de};

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

/// A length of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period(pub Duration);

/// How often something may happen: so often in each such time, and all of them at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How often.
    pub times: NonZeroU32,
    /// In which time.
    pub per: Duration,
}

/// Something that a restricted machine reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reach {
    /// By connections, or else by packets.
    pub tcp: bool,
    /// Whom.
    pub address: Ipv4Addr,
    /// At which port.
    pub port: u16,
}

/// Why a text is not what it should be, and how to write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotAUnit(String);

const MIB: u64 = 1 << 20;

impl Size {
    /// The size in whole MiB, if it is one.
    pub fn whole_mib(self) -> Option<u64> {
        self.0.is_multiple_of(MIB).then_some(self.0 / MIB)
    }
}

impl Rate {
    /// What each address may ask for that is not told otherwise.
    pub const DEFAULT: Self =
        Self { times: NonZeroU32::new(100).expect("it is not zero"), per: Duration::from_secs(1) };

    /// What each address may deliver that is not told otherwise: a workflow of 256 jobs, all at once, and again
    /// when they start.
    pub const WEBHOOK: Self =
        Self { times: NonZeroU32::new(600).expect("it is not zero"), per: Duration::from_secs(1) };
}

impl Reach {
    /// Connections to this.
    pub fn tcp(address: Ipv4Addr, port: u16) -> Self {
        Self { tcp: true, address, port }
    }
}

impl FromStr for Reach {
    type Err = NotAUnit;

    fn from_str(text: &str) -> Result<Self, NotAUnit> {
        let parts = || {
            let mut parts = text.split(':');
            let tcp = match parts.next()? {
                "tcp" => true,
                "udp" => false,
                _ => return None,
            };
            let (address, port) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            let whole = parts.next().is_none() && port > 0;
            whole.then_some(Self { tcp, address, port })
        };
        parts().ok_or_else(|| {
            NotAUnit(format!(
                "{text:?} is nothing to reach; write it like \"tcp:192.0.2.1:443\" or \"udp:192.0.2.1:123\""
            ))
        })
    }
}

impl<'de> Deserialize<'de> for Reach {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per.as_secs() {
            60 => "a minute",
            3600 => "an hour",
            _ => "a second",
        };
        write!(f, "{} {unit}", self.times)
    }
}

impl fmt::Display for NotAUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotAUnit {}

impl FromStr for Size {
    type Err = NotAUnit;

    fn from_str(text: &str) -> Result<Self, NotAUnit> {
        let refuse = |why: &str| NotAUnit(format!("{text:?} is not a size: {why}"));
        let (digits, unit) = split_number(text.trim());
        let number: u64 = digits.parse().map_err(|_| refuse("write it like 512MiB or 2GiB"))?;
        let factor = match unit.trim_start() {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => MIB,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            "" => return Err(refuse("add a unit: B, KiB, MiB, GiB or TiB")),
            _ => return Err(refuse("use one of the units B, KiB, MiB, GiB and TiB")),
        };
        let bytes = number.checked_mul(factor);
        bytes.map(Self).ok_or_else(|| refuse("it is too large"))
    }
}

impl FromStr for Period {
    type Err = NotAUnit;

    fn from_str(text: &str) -> Result<Self, NotAUnit> {
        let refuse = |why: &str| NotAUnit(format!("{text:?} is not a duration: {why}"));
        let mut rest = text.trim();
        let mut total = Duration::ZERO;
        if rest.is_empty() {
            return Err(refuse("write it like 90s, 5m or 1h30m"));
        }
        while !rest.is_empty() {
            let (digits, tail) = split_number(rest);
            let number: u64 =
                digits.parse().map_err(|_| refuse("write it like 90s, 5m or 1h30m"))?;
            let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(end);
            let seconds = |each: u64| number.checked_mul(each).map(Duration::from_secs);
            let part = match unit.trim() {
                "ms" => Some(Duration::from_millis(number)),
                "s" => seconds(1),
                "m" => seconds(60),
                "h" => seconds(3600),
                "d" => seconds(86_400),
                "" => return Err(refuse("add a unit: ms, s, m, h or d")),
                _ => return Err(refuse("use the units ms, s, m, h and d")),
            };
            total = part
                .and_then(|part| total.checked_add(part))
                .ok_or_else(|| refuse("it is too long"))?;
            rest = tail;
        }
        Ok(Self(total))
    }
}

impl FromStr for Rate {
    type Err = NotAUnit;

    fn from_str(text: &str) -> Result<Self, NotAUnit> {
        let refuse =
            |why: &str| NotAUnit(format!("{text:?} is not a rate: {why}, like 50/s or 600/m"));
        let (times, unit) =
            text.trim().split_once('/').ok_or_else(|| refuse("write it as a number per time"))?;
        let times = times.trim().parse().map_err(|_| refuse("begin with a number above zero"))?;
        let per = match unit.trim() {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(refuse("use one of the units s, m and h")),
        };
        Ok(Self { times, per: Duration::from_secs(per) })
    }
}

fn split_number(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Text("a size such as \"512MiB\" or \"2GiB\"", Size::from_str))
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Text("a duration such as \"90s\" or \"5m\"", Period::from_str))
    }
}

/// Takes text only: a bare number would leave its unit to be guessed.
struct Text<T>(&'static str, fn(&str) -> Result<T, NotAUnit>);

impl<T> de::Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        self.1(text).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_need_a_binary_unit() {
        assert_eq!("2GiB".parse(), Ok(Size(2 << 30)));
        assert_eq!("512 MiB".parse::<Size>().unwrap().whole_mib(), Some(512));
        assert_eq!("1KiB".parse::<Size>().unwrap().whole_mib(), None);
        for bad in ["", "2", "2GB", "2g", "-1MiB", "1.5GiB", "99999999999TiB"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }

    #[test]
    fn rates_need_a_number_and_a_unit() {
        let rate: Rate = "600/m".parse().unwrap();
        assert_eq!((rate.times.get(), rate.per), (600, Duration::from_secs(60)));
        assert_eq!(rate.to_string(), "600 a minute");
        for bad in ["", "50", "/s", "0/s", "-1/s", "50/d", "50/s/s", "1.5/s", "5000000000/s"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!("90s".parse(), Ok(Period(Duration::from_secs(90))));
        assert_eq!("1h30m".parse(), Ok(Period(Duration::from_secs(5400))));
        assert_eq!("250ms".parse(), Ok(Period(Duration::from_millis(250))));
        for bad in ["", "90", "5min", "s", "1h30", "99999999999999999999s"] {
            assert!(bad.parse::<Period>().is_err(), "{bad}");
        }
    }
}
