//! What a request says of the job that it asks for, before anything of it is believed.

use std::collections::BTreeMap;

use poem::{Request, Response, http::StatusCode};
use runner_core::{ProfileName, ReservationId};

use crate::{http::text, remote::Claim};

/// How many workers one request may ask for.
const MOST: u32 = 1000;

/// The job: `unique_id`, `qualified_repo` and `run_id`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    /// What the workflow made up for the reservation.
    pub id: ReservationId,
    /// `OWNER/NAME`.
    pub repository: String,
    /// The workflow run.
    pub run: u64,
}

/// An answer that ends it.
pub type Refused = Box<Response>;

impl Asked {
    /// Reads the parameters of a request.
    ///
    /// # Errors
    /// 400, naming the parameter and the rule.
    pub fn read(request: &Request) -> Result<Self, Refused> {
        let all = parameters(request)?;
        let text = |name: &str, rule: &str| {
            let given = all.get(name).filter(|text| !text.is_empty());
            given.ok_or_else(|| bad(format!("{name} is missing: it must be {rule}")))
        };
        let rule = "a UUID in lower case with hyphens, as uuidgen makes them";
        let id = text("unique_id", rule)?;
        let is_uuid = uuid::Uuid::try_parse(id)
            .is_ok_and(|uuid| uuid.hyphenated().to_string() == **id && !uuid.is_nil());
        if !is_uuid {
            return Err(bad(format!("unique_id must be {rule}, not {id:?}")));
        }
        let id = ReservationId::new(id).map_err(|error| bad(error.to_string()))?;
        let rule = "OWNER/NAME";
        let repository = text("qualified_repo", rule)?;
        if !is_repository(repository) {
            return Err(bad(format!("qualified_repo must be {rule}, not {repository:?}")));
        }
        let rule = "a number above 0";
        let run = text("run_id", rule)?;
        let digits = run.len() <= 20 && run.bytes().all(|b| b.is_ascii_digit());
        let number = run.parse::<u64>().ok().filter(|number| digits && *number > 0);
        let number = number.ok_or_else(|| bad(format!("run_id must be {rule}, not {run:?}")))?;
        Ok(Self { id, repository: repository.clone(), run: number })
    }

    /// The same, to be proven.
    pub fn claim(&self) -> Claim {
        Claim { unique_id: self.id.to_string(), repository: self.repository.clone(), run: self.run }
    }

    /// What the workers are for, as Servo's marks have it.
    pub fn purpose(&self) -> String {
        format!("{}/actions/runs/{}", self.repository, self.run)
    }
}

/// The parameters of a request, each at most once.
///
/// # Errors
/// 400 for a query that cannot be read.
pub fn parameters(request: &Request) -> Result<BTreeMap<String, String>, Refused> {
    let pairs: Vec<(String, String)> =
        request.params().map_err(|_| bad("the query cannot be read".to_owned()))?;
    let mut all = BTreeMap::new();
    for (name, value) in pairs {
        if all.insert(name.clone(), value).is_some() {
            return Err(bad(format!("{name} is there twice; give it once")));
        }
    }
    Ok(all)
}

/// The profile of a path.
///
/// # Errors
/// 404 for what cannot be one.
pub fn profile(key: &str) -> Result<ProfileName, Refused> {
    ProfileName::new(key).map_err(|_| unknown_profile(key))
}

/// 404 for a profile that is not on offer.
pub fn unknown_profile(key: &str) -> Refused {
    let detail = format!("there is no profile {key:?}");
    Box::new(text::refusal(StatusCode::NOT_FOUND, detail))
}

/// The count of a path.
///
/// # Errors
/// 400 for what is none.
pub fn count(word: &str) -> Result<u32, Refused> {
    let digits = word.bytes().all(|b| b.is_ascii_digit());
    let count = word.parse::<u32>().ok().filter(|count| digits && (1..=MOST).contains(count));
    count.ok_or_else(|| bad(format!("the count must be a number from 1 to {MOST}, not {word:?}")))
}

/// 400, saying this.
pub fn bad(detail: String) -> Refused {
    Box::new(text::refusal(StatusCode::BAD_REQUEST, detail))
}

fn is_repository(text: &str) -> bool {
    let plain = |part: &str| {
        let of_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        !part.is_empty()
            && part.len() <= 100
            && part.bytes().all(of_name)
            && part != "."
            && part != ".."
    };
    text.split_once('/').is_some_and(|(owner, name)| plain(owner) && plain(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "6bd7a3a6-8d29-4d4e-9a0e-0a2f3f1b7c55";

    fn read(query: &str) -> Result<Asked, u16> {
        let uri = format!("/select-runner?{query}").parse().unwrap();
        let request = Request::builder().uri(uri).finish();
        Asked::read(&request).map_err(|refused| refused.status().as_u16())
    }

    #[test]
    fn parameters_are_read_as_workflows_send_them() {
        let asked = read(&format!("unique_id={ID}&qualified_repo=servo/servo&run_id=7")).unwrap();
        assert_eq!((asked.id.as_str(), &*asked.repository, asked.run), (ID, "servo/servo", 7));
        assert_eq!(asked.purpose(), "servo/servo/actions/runs/7");
        let encoded = format!("run_id=7&qualified_repo=servo%2Fservo&unique_id={ID}&x=1");
        assert_eq!(read(&encoded), Ok(asked));
    }

    #[test]
    fn what_is_malformed_is_refused() {
        let upper = ID.to_uppercase();
        for query in [
            String::new(),
            format!("unique_id={ID}&qualified_repo=servo/servo"),
            "unique_id=&qualified_repo=servo/servo&run_id=7".to_owned(),
            "unique_id=nonsense&qualified_repo=servo/servo&run_id=7".to_owned(),
            format!("unique_id={upper}&qualified_repo=servo/servo&run_id=7"),
            format!("unique_id={ID}&qualified_repo=servo&run_id=7"),
            format!("unique_id={ID}&qualified_repo=servo/../x&run_id=7"),
            format!("unique_id={ID}&qualified_repo=servo/..&run_id=7"),
            format!("unique_id={ID}&qualified_repo=servo/servo&run_id=0"),
            format!("unique_id={ID}&qualified_repo=servo/servo&run_id=-1"),
            format!("unique_id={ID}&qualified_repo=servo/servo&run_id=99999999999999999999"),
            format!("unique_id={ID}&unique_id={ID}&qualified_repo=servo/servo&run_id=7"),
        ] {
            assert_eq!(read(&query), Err(400), "{query}");
        }
        for word in ["0", "-1", "x", "", "1001", "99999999999", "+1", "1.5"] {
            assert!(count(word).is_err(), "{word}");
        }
        assert_eq!(count("16").unwrap(), 16);
    }
}
