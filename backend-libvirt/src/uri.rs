//! Where libvirt is: a URI that is checked before libvirt sees it, and shown without its secrets.

use std::{fmt, str::FromStr};

use runner_core::{Error, Result, Secret};
use url::Url;

/// The parameters whose values may be shown, of those that libvirt's remote driver knows.
const PLAIN: [&str; 14] = [
    "command",
    "keyfile",
    "known_hosts",
    "known_hosts_verify",
    "mode",
    "name",
    "netcat",
    "no_sanity",
    "no_tty",
    "no_verify",
    "pkipath",
    "proxy",
    "socket",
    "sshauth",
];
const WAY_OUT: &str = "use qemu:///system, qemu:///session, qemu+ssh://USER@HOST/system, \
    qemu+tls://HOST/system or qemu+unix:///system?socket=PATH";

/// The URI of a libvirt daemon, such as `qemu:///system`. `Display` and `Debug` leave out what may be secret.
///
/// What it can say is documented at <https://libvirt.org/uri.html>.
#[derive(Clone)]
pub struct LibvirtUri {
    text: Secret<String>,
    shown: String,
    remote: bool,
    driver: Driver,
}

/// Who is behind the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Driver {
    Qemu,
    /// libvirt's own pretence, within our process.
    Test,
}

impl LibvirtUri {
    /// Checks `text`.
    ///
    /// # Errors
    /// `Invalid`, with the way out, for what is no URI of QEMU's driver or of the test driver.
    pub fn new(text: &str) -> Result<Self> {
        // A text that is no URI may hold a password all the same, so it is not repeated.
        let invalid = |reason: String| Error::invalid("the URI of libvirt", reason);
        let url = Url::parse(text).map_err(|error| invalid(format!("{error}; {WAY_OUT}")))?;
        let shown = show(&url);
        let (driver, transport) = match url.scheme().split_once('+') {
            Some((driver, transport)) => (driver, transport),
            None => (url.scheme(), ""),
        };
        let driver = match driver {
            "qemu" => Driver::Qemu,
            "test" => Driver::Test,
            _ => return Err(invalid(format!("{shown} is not of QEMU; {WAY_OUT}"))),
        };
        if !["", "ext", "libssh", "libssh2", "ssh", "tcp", "tls", "unix"].contains(&transport) {
            return Err(invalid(format!("nobody knows the transport {transport:?}; {WAY_OUT}")));
        }
        if driver == Driver::Qemu && !["/system", "/session"].contains(&url.path()) {
            return Err(invalid(format!("{shown} ends neither in /system nor in /session")));
        }
        if text.contains('\0') {
            return Err(invalid("it holds a NUL character".to_owned()));
        }
        let has_host = url.host_str().is_some_and(|host| !host.is_empty());
        let mut text = text.to_owned();
        if transport == "ssh" && !url.query_pairs().any(|(name, _)| name == "no_tty") {
            // Nobody is there to type a password.
            text.push(if url.query().is_some() { '&' } else { '?' });
            text.push_str("no_tty=1");
        }
        let remote = has_host || matches!(transport, "ext" | "tcp" | "tls");
        Ok(Self { text: Secret::new(text), shown, remote, driver })
    }

    /// Whether the daemon may be on another host, whose files are not ours.
    pub fn is_remote(&self) -> bool {
        self.remote
    }

    pub(crate) fn driver(&self) -> Driver {
        self.driver
    }

    /// For libvirt alone.
    pub(crate) fn expose(&self) -> &str {
        self.text.expose()
    }

    /// `text`, which libvirt wrote, without what is secret in this URI.
    pub(crate) fn redact(&self, text: &str) -> String {
        let text = text.replace(self.text.expose().as_str(), &self.shown);
        let Ok(url) = Url::parse(self.text.expose()) else {
            return text;
        };
        let hidden = url.query_pairs().filter(|(name, _)| !PLAIN.contains(&&**name));
        let secrets = hidden.map(|(_, value)| value.into_owned());
        let secrets = secrets.chain(url.password().map(str::to_owned));
        secrets.filter(|secret| !secret.is_empty()).fold(text, |text, s| text.replace(&s, "…"))
    }
}

fn show(url: &Url) -> String {
    let mut shown = url.clone();
    if shown.password().is_some() {
        // It fails for URLs without a host, which have no password.
        let _ = shown.set_password(Some("…"));
    }
    let pairs: Vec<_> = url.query_pairs().collect();
    let mut text = {
        shown.set_query(None);
        shown.set_fragment(None);
        shown.to_string().replace("%E2%80%A6", "…")
    };
    for (n, (name, value)) in pairs.iter().enumerate() {
        let value = if PLAIN.contains(&&**name) { value } else { "…" };
        text.push_str(&format!("{}{name}={value}", if n == 0 { '?' } else { '&' }));
    }
    text
}

impl fmt::Display for LibvirtUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for LibvirtUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.shown)
    }
}

impl FromStr for LibvirtUri {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_secret_is_not_shown() {
        let uri = LibvirtUri::new(
            "qemu+tls://us:sesame@host.example/system?no_verify=1&token=xyzzy&socket=/a/b",
        )
        .unwrap();
        let shown = format!("{uri} {uri:?}");
        assert!(!shown.contains("sesame") && !shown.contains("xyzzy"), "{shown}");
        let expected = "qemu+tls://us:…@host.example/system?no_verify=1&token=…&socket=/a/b";
        assert_eq!(uri.to_string(), expected);
        let text = uri.redact(&format!("cannot open {}: bad xyzzy or sesame", uri.expose()));
        assert!(!text.contains("sesame") && !text.contains("xyzzy"), "{text}");
        assert!(uri.is_remote());
    }

    #[test]
    fn what_libvirt_could_not_open_is_refused_with_the_way_out() {
        for text in ["", "/run/sock", "xen:///", "qemu+pigeon://host/system", "qemu:///", "lxc:///"]
        {
            let error = LibvirtUri::new(text).unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{text}: {error}");
            assert!(error.to_string().contains("system"), "{text}: {error}");
        }
        let error = LibvirtUri::new("xen://us:sesame@host/system").unwrap_err();
        assert!(!error.to_string().contains("sesame"), "{error}");
    }

    #[test]
    fn near_is_told_from_far() {
        for near in [
            "qemu:///system",
            "qemu:///session",
            "qemu+unix:///system?socket=/a",
            "test:///default",
        ] {
            assert!(!LibvirtUri::new(near).unwrap().is_remote(), "{near}");
        }
        for far in ["qemu+ssh://host/system", "qemu://host/system", "qemu+tls:///system"] {
            assert!(LibvirtUri::new(far).unwrap().is_remote(), "{far}");
        }
    }

    #[test]
    fn ssh_asks_nobody_for_a_password() {
        let opened = |text| LibvirtUri::new(text).unwrap().expose().to_owned();
        assert_eq!(opened("qemu+ssh://h/system"), "qemu+ssh://h/system?no_tty=1");
        let own = "qemu+ssh://h/system?keyfile=/k&no_tty=0";
        assert_eq!(opened(own), own);
    }
}
