//! Numbers of a section that have limits and a default.

use std::{fmt::Display, time::Duration};

use toml::Spanned;

use super::{ConfigError, place::Source, units::Period};

/// Reads the numbers of one section.
pub(super) struct Numbers<'a> {
    pub source: &'a Source<'a>,
    /// The section's.
    pub key: &'a str,
}

impl Numbers<'_> {
    /// From 1 to `most`.
    pub fn number<T: PartialOrd + Copy + From<u8> + Display>(
        &self,
        key: &str,
        number: Option<Spanned<T>>,
        default: T,
        most: T,
    ) -> Result<T, ConfigError> {
        match number {
            Some(given) if *given.get_ref() < T::from(1) || *given.get_ref() > most => {
                let problem = format!("it is from 1 to {most}; the default is {default}");
                let key = format!("{}.{key}", self.key);
                Err(self.source.problem(Some(given.span()), key, problem))
            }
            given => Ok(given.map_or(default, Spanned::into_inner)),
        }
    }

    /// Above zero. The default is in seconds.
    pub fn period(
        &self,
        key: &str,
        period: Option<Spanned<Period>>,
        default: u64,
    ) -> Result<Duration, ConfigError> {
        match period {
            Some(given) if given.get_ref().0.is_zero() => {
                let problem = format!("it must be above zero; the default is {default}s");
                let key = format!("{}.{key}", self.key);
                Err(self.source.problem(Some(given.span()), key, problem))
            }
            given => Ok(given.map_or(Duration::from_secs(default), |given| given.into_inner().0)),
        }
    }
}
