//! Times as people like them: how long ago.

use jiff::Timestamp;

/// How long ago something was, as `12s`, `5m`, `3h` or `2d`. What is no time is shown as it is.
pub fn ago(at: &str) -> String {
    match at.parse::<Timestamp>() {
        Ok(at) => span(Timestamp::now().duration_since(at).as_secs()),
        Err(_) => at.to_owned(),
    }
}

fn span(seconds: i64) -> String {
    match seconds {
        ..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A time without its fraction.
pub fn clock(at: &str) -> String {
    at.parse::<Timestamp>().map_or_else(|_| at.to_owned(), |at| format!("{at:.0}"))
}

/// A number of bytes, rounded.
pub fn size(bytes: u64) -> String {
    let mib = bytes.div_ceil(1 << 20);
    if mib < 10 * 1024 { format!("{mib} MiB") } else { format!("{} GiB", mib / 1024) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_one_unit() {
        let cases = [(-5, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (7199, "119m")];
        for (seconds, expected) in cases.into_iter().chain([(7200, "2h"), (200_000, "2d")]) {
            assert_eq!(span(seconds), expected);
        }
        assert_eq!(ago("never"), "never");
    }
}
