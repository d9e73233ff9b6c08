//! Tables for people: columns as wide as they need to be, and rows no wider than the terminal.

use std::io::{self, IsTerminal};

use terminal_size::{Width, terminal_size_of};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::out::{self, Colour};

/// Between two columns.
const GAP: &str = "  ";

/// Prints rows under a header. Words for states are coloured.
///
/// # Errors
/// As [`out::bytes`].
pub fn print<const N: usize>(header: [&str; N], rows: Vec<[String; N]>) -> anyhow::Result<()> {
    let width = if io::stdout().is_terminal() {
        terminal_size_of(io::stdout()).map(|(Width(width), _)| usize::from(width))
    } else {
        None
    };
    let lines = lines(header, rows, width, paint);
    out::bytes(lines.as_bytes())
}

fn paint(header: bool, text: &str) -> String {
    let colour = if header { Some(Colour::Dim) } else { out::colour_of(text.trim()) };
    colour.map_or_else(|| text.to_owned(), |colour| out::paint(colour, text))
}

fn lines<const N: usize>(
    header: [&str; N],
    rows: Vec<[String; N]>,
    width: Option<usize>,
    paint: impl Fn(bool, &str) -> String,
) -> String {
    let rows: Vec<[String; N]> =
        rows.into_iter().map(|row| row.map(|cell| out::tame(&cell))).collect();
    let mut widths = header.map(UnicodeWidthStr::width);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }
    let mut text = String::new();
    let mut add = |is_header: bool, cells: [&str; N]| {
        let (mut line, mut used) = (String::new(), 0);
        for (index, (cell, column)) in cells.into_iter().zip(widths).enumerate() {
            if index > 0 {
                line.push_str(GAP);
                used += GAP.len();
            }
            let room = width.map_or(usize::MAX, |width| width.saturating_sub(used));
            let cell = cut(cell, room);
            // Padding is counted here: a format counts characters, and colours are some too.
            let padding = if index + 1 == N { 0 } else { column.saturating_sub(cell.width()) };
            used += cell.width() + padding;
            line.push_str(&paint(is_header, &cell));
            line.extend(std::iter::repeat_n(' ', padding));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    };
    add(true, header);
    for row in &rows {
        add(false, row.each_ref().map(String::as_str));
    }
    text
}

/// As much of the text as there is room for.
fn cut(text: &str, room: usize) -> String {
    if text.width() <= room {
        return text.to_owned();
    }
    let (mut kept, mut used) = (String::new(), 0);
    for c in text.chars() {
        let width = c.width().unwrap_or(0);
        if used + width + 1 > room {
            break;
        }
        used += width;
        kept.push(c);
    }
    if used < room {
        kept.push('…');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(width: Option<usize>) -> String {
        let rows = [["one", "idle", "a long story"], ["fünf 五", "over: x", "b\u{1b}[31m"]];
        let rows = rows.map(|row| row.map(str::to_owned)).to_vec();
        lines(["NAME", "PHASE", "WHAT"], rows, width, |_, text| text.to_owned())
    }

    #[test]
    fn columns_are_aligned_by_what_is_seen_and_escapes_are_not_obeyed() {
        let expected = "\
NAME     PHASE    WHAT
one      idle     a long story
fünf 五  over: x  b\u{fffd}[31m
";
        assert_eq!(plain(None), expected);
    }

    #[test]
    fn rows_are_no_wider_than_the_terminal() {
        let expected = "\
NAME     PHASE    WHAT
one      idle     a lo…
fünf 五  over: x  b\u{fffd}[3…
";
        assert_eq!(plain(Some(23)), expected);
        for width in 0..40 {
            for line in plain(Some(width)).lines() {
                assert!(line.width() <= width.max(1), "{width}: {line:?}");
            }
        }
    }
}
