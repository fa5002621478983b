//! Encryption of a connection, and whom to trust.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kombu_core::{Error, ErrorKind, Result};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::error::{lost, refused_tls};
use crate::socket::Socket;
use crate::transport::AmqpOptions;

/// How connections are encrypted.
pub(crate) struct Tls {
    connector: TlsConnector,
    server_name: ServerName<'static>,
}

impl Tls {
    /// Reads the certificates that `options` name; `replaced` is a configuration in place of them.
    pub(crate) async fn new(
        options: &AmqpOptions,
        host: &str,
        replaced: Option<Arc<ClientConfig>>,
    ) -> Result<Self> {
        let name = options.server_name.as_deref().unwrap_or(host);
        let Ok(server_name) = ServerName::try_from(name.to_owned()) else {
            return Err(config_error(format!(
                "`{name}` can't be the name of a server; `server_name` says which one its certificate has"
            )));
        };
        let config = match replaced {
            Some(config) => config,
            None => {
                let files = Files::of(options);
                let reading = tokio::task::spawn_blocking(move || files.config());
                let config = reading.await.map_err(|_| lost("the runtime is gone"))?;
                Arc::new(config?)
            }
        };
        Ok(Tls {
            connector: TlsConnector::from(config),
            server_name,
        })
    }

    pub(crate) async fn encrypt(&self, stream: TcpStream) -> Result<Socket> {
        let encrypted = self.connector.connect(self.server_name.clone(), stream);
        match encrypted.await {
            Ok(stream) => Ok(Socket::new(stream)),
            Err(error) => Err(refused_tls(&error).unwrap_or_else(|| {
                lost(format!("the broker ended the TLS handshake: {error}")).with_source(error)
            })),
        }
    }
}

/// Which certificates to read.
struct Files {
    trusted: Option<PathBuf>,
    also_trusted: Option<PathBuf>,
    /// Our own, and its key.
    own: Option<(PathBuf, PathBuf)>,
}

impl Files {
    fn of(options: &AmqpOptions) -> Self {
        let own = options.cert_file.clone().map(|certificate| {
            let key = options.key_file.clone();
            (certificate.clone(), key.unwrap_or(certificate))
        });
        Files {
            trusted: options.ca_file.clone(),
            also_trusted: options.extra_ca_file.clone(),
            own,
        }
    }

    fn config(&self) -> Result<ClientConfig> {
        // A program may have chosen its provider for all that it does.
        let provider = match CryptoProvider::get_default() {
            Some(provider) => provider.clone(),
            None => Arc::new(ring::default_provider()),
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| config_error(format!("TLS can't be set up: {error}")))?
            .with_root_certificates(self.roots()?);
        let Some((certificate, key_file)) = &self.own else {
            return Ok(builder.with_no_client_auth());
        };
        let certificates = certificates(certificate)?;
        let key = PrivateKeyDer::from_pem_file(key_file)
            .map_err(|error| unreadable("private key", key_file, &error))?;
        builder
            .with_client_auth_cert(certificates, key)
            .map_err(|error| {
                config_error(format!(
                    "the certificate in `{}` and the key in `{}` don't go together: {error}",
                    certificate.display(),
                    key_file.display()
                ))
            })
    }

    fn roots(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        match &self.trusted {
            Some(path) => add(&mut roots, path)?,
            None => {
                let found = rustls_native_certs::load_native_certs();
                for error in &found.errors {
                    tracing::debug!(%error, "a certificate of the system can't be read");
                }
                roots.add_parsable_certificates(found.certs);
            }
        }
        if let Some(path) = &self.also_trusted {
            add(&mut roots, path)?;
        }
        if roots.is_empty() {
            return Err(config_error(
                "the system has no certificates to trust; name the broker's authority with `ca_file`".to_owned(),
            ));
        }
        Ok(roots)
    }
}

fn add(roots: &mut RootCertStore, path: &Path) -> Result<()> {
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| {
            config_error(format!(
                "`{}` has a certificate that can't be trusted: {error}",
                path.display()
            ))
        })?;
    }
    Ok(())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let certificates: Vec<_> = read.map_err(|error| unreadable("certificate", path, &error))?;
    if certificates.is_empty() {
        return Err(unreadable("certificate", path, &pem::Error::NoItemsFound));
    }
    Ok(certificates)
}

fn unreadable(what: &str, path: &Path, error: &pem::Error) -> Error {
    let problem = match error {
        pem::Error::NoItemsFound => "there is none in PEM in it".to_owned(),
        error => error.to_string(),
    };
    config_error(format!("{what} in `{}`: {problem}", path.display()))
}

fn config_error(message: String) -> Error {
    Error::new(ErrorKind::Config, message)
}

/// What TLS has against a peer, if that is what an error is about, with the way out.
pub(crate) fn objection(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let way_out = match error {
        rustls::Error::InvalidCertificate(problem) => match problem {
            CertificateError::UnknownIssuer => {
                "name the authority that its certificate comes from with `ca_file`, or beside the system's with \
                 `extra_ca_file`"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "if the broker is known by another name, say which one with `server_name`"
            }
            _ => "the broker needs another certificate",
        },
        rustls::Error::AlertReceived(_) => {
            "that is the broker's word; it may ask for a certificate, or for another one, than `cert_file` and \
             `key_file` name"
        }
        rustls::Error::InvalidMessage(_) => "there may be no TLS on this port",
        _ => return Some(error.to_string()),
    };
    Some(format!("{error}; {way_out}"))
}
