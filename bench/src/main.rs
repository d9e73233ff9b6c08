//! Measures what the README claims: `bench` runs everything, `bench NAME…` some of it.
//!
//! Prints medians with their range, and ratios against the alternative in the same run, since absolute
//! numbers differ from host to host.

mod fakes;
mod planning;
mod pools;
mod real;
mod table;

use table::Table;

const ALL: [&str; 4] = ["plan", "own", "many", "real"];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut wanted: Vec<String> = std::env::args().skip(1).collect();
    if wanted.is_empty() {
        wanted = ALL.map(str::to_owned).to_vec();
    }
    let mut table = Table::begin();
    for name in wanted {
        match name.as_str() {
            "plan" => planning::measure(&mut table),
            "own" => fakes::measure_own_time(&mut table).await?,
            "many" => fakes::measure_many(&mut table).await?,
            "real" => real::measure(&mut table).await?,
            other => anyhow::bail!("{other} is none of: {}", ALL.join(", ")),
        }
    }
    Ok(())
}
