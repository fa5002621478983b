use std::fmt;

/// What a TLS listener needs, each as text in PEM.
#[derive(Clone)]
pub struct Certificates {
    /// The certificate of the authority that clients' certificates come from.
    pub authority: String,
    /// The broker's certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}
