//! Measures what the README claims: `bench` runs everything, `bench NAME…` some of it.
//!
//! Prints medians with their range, and ratios against the alternative in the same run, since absolute
//! numbers differ from host to host.

mod api;
mod day;
mod fakes;
mod github;
mod http;
mod libvirt;
mod planning;
mod pools;
mod real;
mod reserve;
mod table;
mod takes;

use table::Table;

/// What is measured, memory first: it should be that of nothing else.
const ALL: [&str; 10] =
    ["day", "plan", "own", "reserve", "many", "github", "api", "takes", "real", "libvirt"];

fn main() -> anyhow::Result<()> {
    let mut wanted: Vec<String> = std::env::args().skip(1).collect();
    if wanted.is_empty() {
        wanted = ALL.map(str::to_owned).to_vec();
    }
    let mut table = Table::begin();
    let runtime = tokio::runtime::Runtime::new()?;
    for name in wanted {
        if name == "day" {
            // On a clock of its own.
            day::measure(&mut table)?;
            continue;
        }
        runtime.block_on(measure(&name, &mut table))?;
    }
    Ok(())
}

async fn measure(name: &str, table: &mut Table) -> anyhow::Result<()> {
    match name {
        "plan" => planning::measure(table),
        "own" => fakes::measure_own_time(table).await?,
        "reserve" => reserve::measure(table).await?,
        "many" => fakes::measure_many(table).await?,
        "github" => github::measure(table).await?,
        "api" => api::measure(table).await?,
        "takes" => takes::measure(table).await?,
        "libvirt" => libvirt::measure(table).await?,
        "real" => real::measure(table).await?,
        other => anyhow::bail!("{other} is none of: {}", ALL.join(", ")),
    }
    Ok(())
}
