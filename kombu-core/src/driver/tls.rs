//! Encryption, as the URLs of all transports ask for it: whom to trust, and who we are.
//!
//! A transport's options have the fields of [`TlsOptions`] under the same names. With the feature `tls`, `Tls` is made of
//! them, and encrypts a connected stream.

use std::path::PathBuf;

#[cfg(feature = "tls")]
pub use encrypt::{Tls, refusal};
#[cfg(feature = "tls")]
pub use rustls;

/// What a URL says about encryption. Nothing in it leaves the peer's certificate unchecked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsOptions {
    /// A file with certificates in PEM: the authorities that the peer's may come from. Default: those that the system
    /// trusts.
    pub ca_file: Option<PathBuf>,
    /// The same, beside those that the system trusts.
    pub extra_ca_file: Option<PathBuf>,
    /// A file with our own certificate in PEM, and what lies between it and its authority.
    pub cert_file: Option<PathBuf>,
    /// A file with the key of our own certificate in PEM. Default: `cert_file`.
    pub key_file: Option<PathBuf>,
    /// The name that the peer's certificate has to be for. Default: the host.
    pub server_name: Option<String>,
}

/// Where it is said how a connection is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsSource {
    /// It isn't encrypted. URLs that are begin with the scheme that is named here.
    None(&'static str),
    /// In the URL.
    Options,
    /// The program brings a configuration of its own.
    Program,
}

impl TlsOptions {
    /// What is wrong with these: options that would have no effect, or contradict each other, say that more was wanted.
    pub fn problem(&self, source: TlsSource) -> Option<String> {
        let files = [
            ("ca_file", self.ca_file.is_some()),
            ("extra_ca_file", self.extra_ca_file.is_some()),
            ("cert_file", self.cert_file.is_some()),
            ("key_file", self.key_file.is_some()),
        ];
        let file = files.iter().find(|(_, is_given)| *is_given);
        let file = file.map(|(name, _)| *name);
        match source {
            TlsSource::None(scheme) => file
                .or(self.server_name.is_some().then_some("server_name"))
                .map(|name| format!("`{name}` needs TLS; write `{scheme}://`")),
            TlsSource::Program => file.map(|name| {
                format!("`{name}` has no effect beside the program's own TLS configuration; leave it out")
            }),
            TlsSource::Options if self.ca_file.is_some() && self.extra_ca_file.is_some() => Some(
                "give `ca_file`, in place of what the system trusts, or `extra_ca_file`, beside it".to_owned(),
            ),
            TlsSource::Options if self.cert_file.is_none() && self.key_file.is_some() => {
                Some("`key_file` needs the `cert_file` that it belongs to".to_owned())
            }
            TlsSource::Options => None,
        }
    }
}

#[cfg(feature = "tls")]
mod encrypt {
    use std::io::{self, IoSlice};
    use std::path::{Path, PathBuf};
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, ready};

    use rustls::crypto::{CryptoProvider, ring};
    use rustls::pki_types::pem::{self, PemObject};
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use rustls::{CertificateError, ClientConfig, RootCertStore};
    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;

    use super::TlsOptions;
    use crate::error::{Error, ErrorKind, Result};

    /// How connections are encrypted.
    #[derive(Clone)]
    pub struct Tls {
        connector: TlsConnector,
        /// In place of the host.
        server_name: Option<String>,
    }

    impl Tls {
        /// Reads the files that `options` name; `replaced` is a configuration in place of them.
        ///
        /// # Errors
        ///
        /// [`ErrorKind::Config`] for files that can't be read or used.
        pub async fn new(
            options: &TlsOptions,
            replaced: Option<Arc<ClientConfig>>,
        ) -> Result<Self> {
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
                server_name: options.server_name.clone(),
            })
        }

        /// The configuration, for a driver that encrypts by itself.
        pub fn config(&self) -> &Arc<ClientConfig> {
            self.connector.config()
        }

        /// Encrypts a stream that is connected to `host`.
        ///
        /// # Errors
        ///
        /// [`ErrorKind::Tls`] if one side refuses the other, [`ErrorKind::ConnectionLost`] if the peer hangs up, and
        /// [`ErrorKind::Config`] for a host that can't have a certificate.
        pub async fn encrypt<S>(
            &self,
            host: &str,
            stream: S,
        ) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<S>>
        where
            S: AsyncRead + AsyncWrite + Send + Unpin,
        {
            let name = server_name(self.server_name.as_deref().unwrap_or(host))?;
            let encrypted = self.connector.connect(name, stream);
            match encrypted.await {
                Ok(stream) => Ok(Encrypted(stream)),
                Err(error) => Err(refusal(&error).unwrap_or_else(|| {
                    lost(format!("the broker ended the TLS handshake: {error}")).with_source(error)
                })),
            }
        }
    }

    impl std::fmt::Debug for Tls {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("Tls")
                .field("server_name", &self.server_name)
                .finish_non_exhaustive()
        }
    }

    fn server_name(name: &str) -> Result<ServerName<'static>> {
        ServerName::try_from(name.to_owned()).map_err(|_| {
            config_error(format!(
                "`{name}` can't be the name of a server; `server_name` says which one its certificate has"
            ))
        })
    }

    struct Encrypted<S>(TlsStream<S>);

    impl<S: AsyncRead + AsyncWrite + Unpin> Encrypted<S> {
        /// A peer that hangs up may have said why: that is read in place of the error that writing met.
        fn reason(&mut self, context: &mut Context<'_>, written: io::Error) -> io::Error {
            let mut bytes = [0; 1024];
            loop {
                let mut buffer = ReadBuf::new(&mut bytes);
                match Pin::new(&mut self.0).poll_read(context, &mut buffer) {
                    Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                    Poll::Ready(Err(said)) if said.kind() == io::ErrorKind::InvalidData => {
                        return said;
                    }
                    _ => return written,
                }
            }
        }
    }

    impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Encrypted<S> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(context, buffer)
        }
    }

    impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Encrypted<S> {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let written = ready!(Pin::new(&mut self.0).poll_write(context, bytes));
            Poll::Ready(written.map_err(|error| self.reason(context, error)))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            parts: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let written = ready!(Pin::new(&mut self.0).poll_write_vectored(context, parts));
            Poll::Ready(written.map_err(|error| self.reason(context, error)))
        }

        fn is_write_vectored(&self) -> bool {
            self.0.is_write_vectored()
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            let written = ready!(Pin::new(&mut self.0).poll_flush(context));
            Poll::Ready(written.map_err(|error| self.reason(context, error)))
        }

        fn poll_shutdown(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(context)
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
        fn of(options: &TlsOptions) -> Self {
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

    fn lost(reason: impl Into<String>) -> Error {
        Error::new(ErrorKind::ConnectionLost, reason)
    }

    /// The error of a connection that TLS has something against, with the way out, if that is what `error` is about.
    pub fn refusal(error: &io::Error) -> Option<Error> {
        let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
        let way_out = match error {
            rustls::Error::InvalidCertificate(problem) => match problem {
                CertificateError::UnknownIssuer => {
                    "; name the authority that its certificate comes from with `ca_file`, or beside the system's with \
                     `extra_ca_file`"
                }
                CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. } => {
                    "; if the broker is known by another name, say which one with `server_name`"
                }
                _ => "; the broker needs another certificate",
            },
            rustls::Error::AlertReceived(_) => {
                "; that is the broker's word; it may ask for a certificate, or for another one, than `cert_file` and \
                 `key_file` name"
            }
            rustls::Error::InvalidMessage(_) => "; there may be no TLS on this port",
            _ => "",
        };
        Some(Error::new(
            ErrorKind::Tls,
            format!("no TLS: {error}{way_out}"),
        ))
    }
}
