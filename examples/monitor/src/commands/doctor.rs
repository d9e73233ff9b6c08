//! `monitor doctor`: whether a service can do its work here, and what to do where it cannot.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use serde_json::json;

use super::{
    FAILED,
    out::{self, Colour},
    spinner::Spinner,
};
use crate::{
    doctor::{self, Check, Outcome, Patient},
    reload::Source,
};

#[derive(Args)]
pub struct DoctorArgs {
    /// The configuration; without one, the built-in one
    #[arg(long, env = "MONITOR_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen, instead of where the configuration says
    #[arg(long, env = "MONITOR_LISTEN", value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// The data directory, instead of the configuration's
    #[arg(long, env = "MONITOR_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where things are kept that can be had again, instead of where the configuration says
    #[arg(long, env = "MONITOR_CACHE", value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Do not boot a guest, which takes a while
    #[arg(long)]
    no_boot: bool,
    /// Print what was found for machines
    #[arg(long)]
    json: bool,
}

pub async fn doctor(args: DoctorArgs) -> anyhow::Result<u8> {
    let source =
        Source { file: args.config, listen: args.listen, data: args.data, cache: args.cache };
    let spinner = Spinner::start("looking around".to_owned());
    let patient = Patient { source, boots: !args.no_boot };
    let checks = doctor::examine(patient, |what| spinner.show(what.to_owned())).await;
    spinner.end();
    let worst = doctor::worst(&checks);
    if args.json {
        out::json(&json!({ "outcome": worst, "checks": checks }))?;
    } else {
        for check in &checks {
            print(check)?;
        }
        let count = |outcome| checks.iter().filter(|check| check.outcome == outcome).count();
        let (failures, warnings) = (count(Outcome::Failure), count(Outcome::Warning));
        out::line(format!("{} checks: {failures} failures, {warnings} warnings", checks.len()))?;
    }
    Ok(if worst == Outcome::Failure { FAILED } else { 0 })
}

fn print(check: &Check) -> anyhow::Result<()> {
    let (word, colour) = match check.outcome {
        Outcome::Ok => ("ok", Colour::Green),
        Outcome::Warning => ("warning", Colour::Yellow),
        Outcome::Failure => ("FAILURE", Colour::Red),
    };
    let padding = " ".repeat(9 - word.len());
    let word = out::paint(colour, word);
    out::line(format!("{word}{padding}{}: {}", check.name, out::tame(&check.found)))?;
    if let Some(way_out) = &check.way_out {
        out::line(format!("         → {way_out}"))?;
    }
    Ok(())
}
