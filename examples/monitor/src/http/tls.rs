//! What the service proves itself with: a certificate and its key, read again when the files change.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use crate::config::TlsFiles;

/// How long what was read is good at least.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A certificate in use.
pub struct Tls {
    files: TlsFiles,
    acceptor: TlsAcceptor,
    stamps: [Stamp; 2],
    looked: Instant,
}

/// What changes when a file does.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Stamp {
    inode: u64,
    size: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// Naming the file that cannot be used, and why.
    pub fn open(files: TlsFiles) -> anyhow::Result<Self> {
        // Before reading: what changes meanwhile is read again.
        let stamps = stamps(&files);
        let acceptor = read(&files)?;
        Ok(Self { files, acceptor, stamps, looked: Instant::now() })
    }

    /// What takes connections, by the files as they are now. Those that are no good change nothing.
    pub fn acceptor(&mut self) -> TlsAcceptor {
        if self.looked.elapsed() >= LOOK_EVERY {
            self.looked = Instant::now();
            let stamps = stamps(&self.files);
            if stamps != self.stamps {
                self.stamps = stamps;
                match read(&self.files) {
                    Ok(acceptor) => {
                        self.acceptor = acceptor;
                        tracing::info!("A new TLS certificate is in use.");
                    }
                    Err(error) => tracing::error!(
                        error = format!("{error:#}"),
                        "The new TLS certificate cannot be used; the one before stays."
                    ),
                }
            }
        }
        self.acceptor.clone()
    }
}

fn stamps(files: &TlsFiles) -> [Stamp; 2] {
    [&files.cert, &files.key].map(|path| match fs::metadata(path) {
        Ok(file) => Stamp {
            inode: file.ino(),
            size: file.size(),
            seconds: file.mtime(),
            nanoseconds: file.mtime_nsec(),
        },
        Err(_) => Stamp::default(),
    })
}

fn read(files: &TlsFiles) -> anyhow::Result<TlsAcceptor> {
    let (cert, key) = (files.cert.display(), files.key.display());
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect)
        .with_context(|| format!("could not read the TLS certificate {cert}; see tls in [http]"))?;
    if chain.is_empty() {
        bail!("there is no certificate in {cert}; it must be PEM: -----BEGIN CERTIFICATE-----");
    }
    check_private(&files.key)?;
    let private = PrivateKeyDer::from_pem_file(&files.key)
        .with_context(|| format!("could not read the TLS key {key}; see tls in [http]"))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context("TLS 1.2 and 1.3 are not there")?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .with_context(|| format!("the key {key} is not the one of the certificate {cert}"))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn check_private(key: &Path) -> anyhow::Result<()> {
    if fs::metadata(key).is_ok_and(|file| file.mode() & 0o007 != 0) {
        let key = key.display();
        bail!("anyone may read or write the TLS key {key}; run: chmod o= {key}");
    }
    Ok(())
}

/// Makes the rustls of this program's HTTP client work. Once is enough, and more does no harm.
pub fn prepare() {
    // Whoever was first has chosen.
    let _ = ring::default_provider().install_default();
}
