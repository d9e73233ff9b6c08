//! Where to send metrics, as OpenTelemetry's environment variables say it.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use reqwest::{
    Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const METRICS_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT";

/// Where and how to send metrics.
pub struct Target {
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) timeout: Duration,
    pub(super) interval: Duration,
    pub(super) resource: Vec<(String, String)>,
}

impl Target {
    /// What this process's environment says; none where it names no endpoint.
    ///
    /// # Errors
    /// Naming the variable that cannot be followed.
    pub fn of_environment() -> anyhow::Result<Option<Self>> {
        Self::read(|name| std::env::var(name).ok())
    }

    /// What `variable` says. An empty variable is one that is not set.
    ///
    /// # Errors
    /// As [`of_environment`](Self::of_environment).
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<Option<Self>> {
        let variable = |name: &str| {
            variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        // The variable for metrics goes before the one for everything.
        let own = |name: &str| {
            let of_metrics = format!("OTEL_EXPORTER_OTLP_METRICS_{name}");
            let of_all = format!("OTEL_EXPORTER_OTLP_{name}");
            let found = |name: String| variable(&name).map(|value| (name, value));
            found(of_metrics).or_else(|| found(of_all))
        };
        let disabled =
            variable("OTEL_SDK_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true"));
        if disabled || variable("OTEL_METRICS_EXPORTER").is_some_and(|word| word == "none") {
            return Ok(None);
        }
        let url = match (variable(METRICS_ENDPOINT), variable(ENDPOINT)) {
            (Some(url), _) => endpoint(METRICS_ENDPOINT, &url)?,
            (None, Some(base)) => {
                let mut url = endpoint(ENDPOINT, &base)?;
                let path = format!("{}/v1/metrics", url.path().trim_end_matches('/'));
                url.set_path(&path);
                url
            }
            (None, None) => return Ok(None),
        };
        if let Some((name, protocol)) = own("PROTOCOL")
            && protocol != "http/protobuf"
        {
            bail!("{name}={protocol} is not supported; leave it out, or set it to http/protobuf");
        }
        if let Some((name, word)) = own("COMPRESSION")
            && word != "none"
        {
            bail!("{name}={word} is not supported; leave it out, or set it to none");
        }
        let headers = own("HEADERS").map(|(name, list)| headers(&name, &list)).transpose()?;
        let timeout = own("TIMEOUT").map(|(name, text)| milliseconds(&name, &text)).transpose()?;
        let interval = variable("OTEL_METRIC_EXPORT_INTERVAL");
        let interval = interval.map(|text| milliseconds("OTEL_METRIC_EXPORT_INTERVAL", &text));
        let mut resource = match variable("OTEL_RESOURCE_ATTRIBUTES") {
            Some(list) => pairs("OTEL_RESOURCE_ATTRIBUTES", &list)?,
            None => Vec::new(),
        };
        if let Some(name) = variable("OTEL_SERVICE_NAME") {
            resource.retain(|(key, _)| key != "service.name");
            resource.push(("service.name".to_owned(), name));
        }
        for (key, value) in
            [("service.name", "monitor"), ("service.version", env!("CARGO_PKG_VERSION"))]
        {
            if !resource.iter().any(|(there, _)| there == key) {
                resource.push((key.to_owned(), value.to_owned()));
            }
        }
        Ok(Some(Self {
            url,
            headers: headers.unwrap_or_default(),
            timeout: timeout.unwrap_or(Duration::from_secs(10)),
            interval: interval.transpose()?.unwrap_or(Duration::from_secs(60)),
            resource,
        }))
    }

    /// Where it is, without what may be secret in it.
    pub(super) fn shown(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        let port = self.url.port().map(|port| format!(":{port}")).unwrap_or_default();
        format!("{}://{host}{port}", self.url.scheme())
    }
}

/// Never shows the value: there may be a password in it.
fn endpoint(name: &str, text: &str) -> anyhow::Result<Url> {
    let url = Url::parse(text).with_context(|| {
        format!("{name} is not an address; write it like http://127.0.0.1:4318")
    })?;
    match url.scheme() {
        "http" => Ok(url),
        scheme => Err(anyhow!(
            "{name} begins with {scheme}://, which is not supported; \
             send to a collector on this host: http://127.0.0.1:4318"
        )),
    }
}

fn milliseconds(name: &str, text: &str) -> anyhow::Result<Duration> {
    match text.parse() {
        Ok(0) | Err(_) => bail!("{name}={text:?} is not a number of milliseconds above zero"),
        Ok(number) => Ok(Duration::from_millis(number)),
    }
}

/// Never shows a value: it may be secret.
fn headers(variable: &str, list: &str) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (key, value) in pairs(variable, list)? {
        let name = HeaderName::try_from(key.as_str())
            .map_err(|_| anyhow!("{key:?} in {variable} is not the name of a header"))?;
        let mut value = HeaderValue::try_from(value)
            .map_err(|_| anyhow!("the value of {key} in {variable} is no value of a header"))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

/// `key=value,key=value`, values percent-encoded.
fn pairs(variable: &str, list: &str) -> anyhow::Result<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    for (number, part) in list.split(',').map(str::trim).enumerate() {
        if part.is_empty() {
            continue;
        }
        let Some((key, value)) = part.split_once('=') else {
            bail!("part {} of {variable} is not of the form key=value", number + 1);
        };
        pairs.push((key.trim().to_owned(), decoded(value.trim())));
    }
    Ok(pairs)
}

fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, tail @ ..] = rest {
        let hex = (*first == b'%').then(|| tail.get(..2)).flatten();
        let hex = hex.and_then(|digits| std::str::from_utf8(digits).ok());
        match hex.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> anyhow::Result<Option<Target>> {
        Target::read(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn without_an_endpoint_there_is_nothing() {
        assert!(read(&[]).unwrap().is_none());
        assert!(read(&[(ENDPOINT, " ")]).unwrap().is_none());
        let off = [(ENDPOINT, "http://c:4318"), ("OTEL_SDK_DISABLED", "true")];
        assert!(read(&off).unwrap().is_none());
        let off = [(ENDPOINT, "http://c:4318"), ("OTEL_METRICS_EXPORTER", "none")];
        assert!(read(&off).unwrap().is_none());
    }

    #[test]
    fn what_is_for_metrics_goes_before_what_is_for_all() {
        let target = read(&[(ENDPOINT, "http://c:4318/base/")]).unwrap().unwrap();
        assert_eq!(target.url.as_str(), "http://c:4318/base/v1/metrics");
        assert_eq!(target.interval, Duration::from_secs(60));
        let target = read(&[
            (ENDPOINT, "http://c:4318"),
            (METRICS_ENDPOINT, "http://m:1/own"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=1"),
            ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "authorization=Bearer%20x, b = 2"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "250"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "500"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=one,host.name=h"),
            ("OTEL_SERVICE_NAME", "two"),
        ]);
        let target = target.unwrap().unwrap();
        assert_eq!(target.url.as_str(), "http://m:1/own");
        assert_eq!(target.headers["authorization"], "Bearer x");
        assert_eq!(target.headers["b"], "2");
        assert!(!target.headers.contains_key("a"));
        assert_eq!((target.timeout.as_millis(), target.interval.as_millis()), (250, 500));
        let names: Vec<_> = target.resource.iter().filter(|(k, _)| k == "service.name").collect();
        assert_eq!(names, [&("service.name".to_owned(), "two".to_owned())]);
    }

    #[test]
    fn what_cannot_be_followed_is_named_and_not_shown() {
        for (name, value, said) in [
            (ENDPOINT, "https://c:4318", "https:// is not"),
            (ENDPOINT, "hunter2", "OTEL_EXPORTER_OTLP_ENDPOINT is not an address"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip", "set it to none"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2", "part 1 of OTEL_EXPORTER_OTLP_HEADERS"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=hunter2\n2", "the value of a in"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "0", "OTEL_METRIC_EXPORT_INTERVAL"),
        ] {
            let variables = [(name, value), (METRICS_ENDPOINT, "http://c:1")];
            let with_it = if name == ENDPOINT { &variables[..1] } else { &variables[..] };
            let error = format!("{:#}", read(with_it).err().unwrap());
            assert!(error.contains(said.trim_end_matches(" is not")), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
