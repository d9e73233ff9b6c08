//! Tables for people: columns as wide as they need to be.

/// Prints rows under a header. Control characters are shown, not obeyed.
pub fn print<const N: usize>(header: [&str; N], rows: Vec<[String; N]>) {
    let rows: Vec<[String; N]> = rows
        .into_iter()
        .map(|row| row.map(|cell| cell.replace(char::is_control, "\u{fffd}")))
        .collect();
    let mut widths = header.map(|cell| cell.chars().count());
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    print_row(header, &widths);
    for row in &rows {
        print_row(row.each_ref().map(String::as_str), &widths);
    }
}

fn print_row<const N: usize>(cells: [&str; N], widths: &[usize; N]) {
    let cells = cells.iter().zip(widths);
    let padded: Vec<String> = cells.map(|(cell, width)| format!("{cell:width$}")).collect();
    println!("{}", padded.join("  ").trim_end());
}
