//! Sizes as Servo's settings have them: `16G`, `512 M`.
//!
//! Its monitor read `M`, `G` and larger units as if each were KiB. Here each is what it says.

const MIB: u128 = 1 << 20;

/// The size in MiB, rounded up.
///
/// # Errors
/// For what is no size, and for one beyond all machines.
pub fn mib(text: &str) -> Result<u64, &'static str> {
    const SHAPE: &str = "it is no size: a whole number and one of the units B, K, M, G, T and P";
    let unit = text.chars().last().ok_or(SHAPE)?;
    let digits = text.strip_suffix(unit).unwrap_or_default();
    let digits = digits.strip_suffix(' ').unwrap_or(digits);
    let power = "BKMGTP".find(unit).ok_or(SHAPE)?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(SHAPE);
    }
    let number: u64 = digits.parse().map_err(|_| "it is too large")?;
    let bytes = u128::from(number) << (10 * power);
    u64::try_from(bytes.div_ceil(MIB)).map_err(|_| "it is too large")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Complaint 17: its monitor read all of these but the first two as KiB.
    #[test]
    fn each_unit_is_what_it_says() {
        for (text, expected) in [
            ("1048576B", 1),
            ("2048K", 2),
            ("1M", 1),
            ("16G", 16 << 10),
            ("16 G", 16 << 10),
            ("2T", 2 << 20),
            ("1P", 1 << 30),
            ("1B", 1),
            ("0G", 0),
        ] {
            assert_eq!(mib(text), Ok(expected), "{text}");
        }
        for bad in ["", "G", "16", "16GB", "16GiB", "-1G", "1.5G", "16  G", " 16G", "16g", "９G"] {
            assert!(mib(bad).unwrap_err().contains("no size"), "{bad}");
        }
        assert!(mib("99999999999999999999G").unwrap_err().contains("too large"));
    }
}
