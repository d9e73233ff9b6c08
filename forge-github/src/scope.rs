//! Where runners are registered: which GitHub, and what of it.

use std::{fmt, str::FromStr};

use runner_core::{Error, Result};
use serde::{Deserialize, Serialize};
use url::Url;

/// A repository's full name, `owner/name`. GitHub compares without regard to case, and so does this.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepositoryName {
    text: String,
    slash: usize,
}

impl RepositoryName {
    /// Checks `owner/name`.
    ///
    /// # Errors
    /// `Invalid` when it is not exactly two names of letters, digits, `-`, `_` and `.`.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        let refuse = |reason| Err(Error::invalid(format!("repository name {text:?}"), reason));
        let Some(slash) = text.find('/') else {
            return refuse("it must be OWNER/NAME");
        };
        for part in [&text[..slash], &text[slash + 1..]] {
            if let Err(reason) = check_part(part) {
                return refuse(reason);
            }
        }
        Ok(Self { text, slash })
    }

    /// Whose it is.
    pub fn owner(&self) -> &str {
        &self.text[..self.slash]
    }

    /// What its owner calls it.
    pub fn name(&self) -> &str {
        &self.text[self.slash + 1..]
    }

    /// Both, with a slash.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn folded(&self) -> String {
        self.text.to_ascii_lowercase()
    }
}

fn check_part(part: &str) -> Result<(), &'static str> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    match part {
        "" | "." | ".." => Err("a part of it is missing"),
        _ if part.len() > 100 => Err("a part of it is longer than 100 bytes"),
        _ if !part.bytes().all(allowed) => Err("use letters, digits, '-', '_' and '.' only"),
        _ => Ok(()),
    }
}

impl PartialEq for RepositoryName {
    fn eq(&self, other: &Self) -> bool {
        self.text.eq_ignore_ascii_case(&other.text)
    }
}

impl Eq for RepositoryName {}

impl PartialOrd for RepositoryName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RepositoryName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.folded().cmp(&other.folded())
    }
}

impl std::hash::Hash for RepositoryName {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.folded().hash(state);
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

impl FromStr for RepositoryName {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

impl TryFrom<String> for RepositoryName {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        Self::new(text)
    }
}

impl From<RepositoryName> for String {
    fn from(name: RepositoryName) -> String {
        name.text
    }
}

/// What of a GitHub the runners belong to. One set of credentials serves one scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// One repository.
    Repository(RepositoryName),
    /// An organisation: all of its repositories that the runner group admits.
    Organization(String),
    /// An enterprise: all of its organisations that the runner group admits.
    Enterprise(String),
}

impl Scope {
    /// The path under which its runners are, such as `/orgs/servo`.
    pub fn path(&self) -> String {
        match self {
            Self::Repository(name) => format!("/repos/{name}"),
            Self::Organization(name) => format!("/orgs/{name}"),
            Self::Enterprise(name) => format!("/enterprises/{name}"),
        }
    }

    /// What a credential must be allowed, for runners to be listed, made and removed here, in words.
    pub fn permission(&self) -> String {
        match self {
            Self::Repository(name) => format!(
                "a fine-grained token or App with the repository permission \"Administration: read and \
                 write\" on {name}, or a classic token with the scope repo of one of its administrators"
            ),
            Self::Organization(name) => format!(
                "a fine-grained token or App with the organization permission \"Self-hosted runners: read \
                 and write\" on {name}, or a classic token with the scope admin:org of one of its owners"
            ),
            Self::Enterprise(name) => format!(
                "a classic token with the scope manage_runners:enterprise of an owner of enterprise {name}; \
                 Apps and fine-grained tokens cannot"
            ),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repository(name) => write!(f, "repository {name}"),
            Self::Organization(name) => write!(f, "organization {name}"),
            Self::Enterprise(name) => write!(f, "enterprise {name}"),
        }
    }
}

/// Which GitHub, and what of it: the address a person sees in the browser.
///
/// ```
/// # fn main() -> runner_core::Result<()> {
/// use forge_github::Place;
/// let place: Place = "https://github.com/servo".parse()?;
/// assert_eq!(place.api().as_str(), "https://api.github.com/");
/// let place: Place = "https://github.example.com/enterprises/acme".parse()?;
/// assert_eq!(place.api().as_str(), "https://github.example.com/api/v3/");
/// assert_eq!(place.scope().to_string(), "enterprise acme");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    url: Url,
    api: Url,
    scope: Scope,
}

impl Place {
    /// Reads `https://HOST/OWNER/NAME` (a repository), `https://HOST/ORGANIZATION` or
    /// `https://HOST/enterprises/ENTERPRISE`. The API is at `api.github.com`, at `api.SUBDOMAIN.ghe.com`,
    /// and of any other host, which is a GitHub Enterprise Server, at `/api/v3`.
    ///
    /// # Errors
    /// `Invalid` when it is none of these. Plain `http` is refused except on this machine.
    pub fn new(url: &str) -> Result<Self> {
        let refuse = |reason: &str| Error::invalid(format!("GitHub address {url:?}"), reason);
        let mut parsed = Url::parse(url).map_err(|error| refuse(&error.to_string()))?;
        if !parsed.username().is_empty() || parsed.password().is_some() {
            // Without the address: it holds a password.
            return Err(Error::invalid("GitHub address", "it must not hold a user or a password"));
        }
        let host = parsed.host_str().ok_or_else(|| refuse("it has no host"))?.to_ascii_lowercase();
        let local = matches!(host.as_str(), "localhost" | "127.0.0.1" | "[::1]");
        if parsed.scheme() != "https" && !(parsed.scheme() == "http" && local) {
            return Err(refuse("it must begin with https://"));
        }
        if parsed.query().is_some() || parsed.fragment().is_some() {
            return Err(refuse("it must end with the path"));
        }
        let host = host.strip_prefix("www.").unwrap_or(&host).to_owned();
        let parts: Vec<&str> = parsed.path().trim_matches('/').split('/').collect();
        let scope = match parts[..] {
            ["enterprises", name] => {
                check_part(name).map_err(&refuse)?;
                Scope::Enterprise(name.to_owned())
            }
            // As GitHub shows an organisation's settings.
            ["orgs", name] | [name] if !name.is_empty() => {
                check_part(name).map_err(&refuse)?;
                Scope::Organization(name.to_owned())
            }
            [owner, name] => Scope::Repository(RepositoryName::new(format!("{owner}/{name}"))?),
            _ => return Err(refuse("it must be that of a repository, organization or enterprise")),
        };
        let mut api = parsed.clone();
        if host == "github.com" || host.ends_with(".ghe.com") {
            api.set_host(Some(&format!("api.{host}")))
                .map_err(|error| refuse(&error.to_string()))?;
            api.set_path("/");
        } else {
            api.set_path("/api/v3/");
        }
        parsed.set_host(Some(&host)).map_err(|error| refuse(&error.to_string()))?;
        Ok(Self { url: parsed, api, scope })
    }

    /// The address it was read from.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Where its API is; ends with a slash.
    pub fn api(&self) -> &Url {
        &self.api
    }

    /// What of it the runners belong to.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Whether it is a GitHub Enterprise Server, rather than GitHub's own service.
    pub fn is_server(&self) -> bool {
        self.api.path() != "/"
    }

    /// Where a person sees a job of a workflow run.
    pub fn job_page(&self, repository: &RepositoryName, run: u64, job: Option<u64>) -> String {
        let mut page = self.url.clone();
        let job = job.map(|job| format!("/job/{job}")).unwrap_or_default();
        page.set_path(&format!("/{repository}/actions/runs/{run}{job}"));
        page.into()
    }

    /// The host, for people.
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or("github") // `new` refuses an address without host.
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.scope, self.host())
    }
}

impl FromStr for Place {
    type Err = Error;
    fn from_str(url: &str) -> Result<Self> {
        Self::new(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> (String, String) {
        let place = Place::new(url).unwrap();
        (place.api().to_string(), place.scope().path())
    }

    #[test]
    fn a_jobs_page_is_where_its_github_shows_it() {
        let page = |url: &str, job| {
            let place = Place::new(url).unwrap();
            (place.job_page(&"acme/widgets".parse().unwrap(), 7, job), place.is_server())
        };
        let table = [
            ("https://github.com/acme", "https://github.com/acme/widgets/actions/runs/7", false),
            (
                "https://acme.ghe.com/acme/",
                "https://acme.ghe.com/acme/widgets/actions/runs/7",
                false,
            ),
            (
                "https://ghes.corp:8443/enterprises/acme",
                "https://ghes.corp:8443/acme/widgets/actions/runs/7",
                true,
            ),
        ];
        for (url, run, is_server) in table {
            assert_eq!(page(url, None), (run.to_owned(), is_server));
            assert_eq!(page(url, Some(9)), (format!("{run}/job/9"), is_server));
        }
    }

    #[test]
    fn each_github_has_its_api_where_it_has_it() {
        let table = [
            ("https://github.com/servo/servo", "https://api.github.com/", "/repos/servo/servo"),
            ("https://www.github.com/servo/", "https://api.github.com/", "/orgs/servo"),
            ("https://github.com/orgs/servo", "https://api.github.com/", "/orgs/servo"),
            ("https://acme.ghe.com/a", "https://api.acme.ghe.com/", "/orgs/a"),
            ("https://ghes.corp:8443/a/b", "https://ghes.corp:8443/api/v3/", "/repos/a/b"),
            ("https://github.com/enterprises/acme", "https://api.github.com/", "/enterprises/acme"),
            ("http://127.0.0.1:8080/a", "http://127.0.0.1:8080/api/v3/", "/orgs/a"),
        ];
        for (url, api, path) in table {
            assert_eq!(read(url), (api.to_owned(), path.to_owned()), "{url}");
        }
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for url in [
            "github.com/servo",
            "http://github.com/servo",
            "https://github.com",
            "https://github.com/a/b/c",
            "https://github.com/a%2Fb/c",
            "https://github.com/a/..%2f",
            "https://github.com/servo?x=1",
            "ftp://github.com/a",
        ] {
            assert!(Place::new(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_password_in_an_address_is_refused_and_not_repeated() {
        let error = Place::new("https://me:hunter2@github.com/servo").unwrap_err();
        assert!(!runner_core::error::chain(&error).contains("hunter2"));
    }

    #[test]
    fn repositories_are_the_same_whatever_their_case() {
        let name = RepositoryName::new("Servo/Servo").unwrap();
        assert_eq!(name, RepositoryName::new("servo/servo").unwrap());
        assert_ne!(name, RepositoryName::new("servo/servo-evil").unwrap());
        for odd in ["servo", "a/b/c", "/b", "a/", "a/..", "a b/c"] {
            assert!(RepositoryName::new(odd).is_err(), "{odd}");
        }
    }
}
