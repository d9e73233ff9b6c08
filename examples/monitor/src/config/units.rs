//! Sizes and durations as people write them: `512MiB`, `2GiB`, `90s`, `1h30m`.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, de};

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

/// A length of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period(pub Duration);

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
    fn durations_need_a_unit() {
        assert_eq!("90s".parse(), Ok(Period(Duration::from_secs(90))));
        assert_eq!("1h30m".parse(), Ok(Period(Duration::from_secs(5400))));
        assert_eq!("250ms".parse(), Ok(Period(Duration::from_millis(250))));
        for bad in ["", "90", "5min", "s", "1h30", "99999999999999999999s"] {
            assert!(bad.parse::<Period>().is_err(), "{bad}");
        }
    }
}
