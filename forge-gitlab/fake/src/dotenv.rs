//! Variables that a job leaves for the jobs after it, in a report called `dotenv`.

use std::io::Read as _;

use flate2::read::MultiGzDecoder;

use crate::{artifact::Artifact, exchange::Refusal, job::Job, job_spec::Variable};

/// The longest report that GitLab takes, in bytes.
const LONGEST: u64 = 5 * 1024;

/// The variables of a report, compressed as a runner sends it (`app/services/ci/parse_dotenv_artifact_service.rb`).
pub(crate) fn read(report: &[u8]) -> Result<Vec<Variable>, Refusal> {
    let bad = |reason: &str| Refusal::new(400, format!("400 Bad request - {reason}"));
    let mut text = String::new();
    let mut decoder = MultiGzDecoder::new(report).take(LONGEST + 1);
    decoder.read_to_string(&mut text).map_err(|_| bad("Invalid Format"))?;
    if u64::try_from(text.len()).is_ok_and(|size| size > LONGEST) {
        return Err(bad("Dotenv Artifact Too Big. Maximum Allowable Size: 5120"));
    }
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let read = |line: &str| {
        let (key, value) = line.split_once('=')?;
        let key = key.trim();
        let first = key.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        let rest = key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let variable = Variable { public: false, ..Variable::new(key, value.trim()) };
        (first && rest).then_some(variable)
    };
    lines.map(|line| read(line).ok_or_else(|| bad("Invalid Format"))).collect()
}

impl Job {
    /// What it left for the jobs after it.
    pub(crate) fn left_variables(&self) -> Vec<Variable> {
        let reports = self.artifacts.iter().filter(|artifact| artifact.kind == "dotenv");
        reports.flat_map(|Artifact { content, .. }| read(content).unwrap_or_default()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn report(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).expect("memory");
        encoder.finish().expect("memory")
    }

    #[test]
    fn a_report_is_lines_of_names_and_values() {
        let variables = read(&report("A=1\n\n B_2 = two words \nC=\n_D=a=b\n")).expect("a report");
        let pairs: Vec<_> =
            variables.iter().map(|one| (one.key.as_str(), one.value.as_str())).collect();
        assert_eq!(pairs, [("A", "1"), ("B_2", "two words"), ("C", ""), ("_D", "a=b")]);
    }

    #[test]
    fn what_is_no_report_is_refused() {
        for text in ["A", "=1", "A B=1", "1A=1", "Ä=1"] {
            assert!(read(&report(text)).is_err(), "{text}");
        }
        assert!(read(b"A=1").is_err(), "not compressed");
        assert!(read(&report(&format!("A={}", "x".repeat(5118)))).is_ok());
        assert!(read(&report(&format!("A={}", "x".repeat(5119)))).is_err());
        assert!(read(&report(&"A".repeat(100 << 20))).is_err(), "a bomb");
    }
}
