//! Reads the name in a client certificate, and says what a principal may be called.

use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use crate::jobs::Principal;

/// The longest name of a principal or in a certificate, in characters.
pub(super) const MOST_CHARACTERS: usize = 256;

/// The names in a client's certificate, which was verified; empty when it showed none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateNames {
    /// Common names of the subject.
    pub common: Vec<String>,
    /// URIs of the subject alternative name.
    pub uris: Vec<String>,
    /// DNS names of the subject alternative name.
    pub dns: Vec<String>,
}

impl CertificateNames {
    /// The names in a certificate (DER); none when the bytes are no certificate.
    ///
    /// The certificate must have been verified before: this looks at no signature.
    pub fn read(der: &[u8]) -> Self {
        let Ok((_, certificate)) = X509Certificate::from_der(der) else { return Self::default() };
        let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        let mut names = Self { common: common.map(str::to_owned).collect(), ..Self::default() };
        if let Ok(Some(alternatives)) = certificate.subject_alternative_name() {
            for name in &alternatives.value.general_names {
                match name {
                    GeneralName::URI(name) => names.uris.push((*name).to_owned()),
                    GeneralName::DNSName(name) => names.dns.push((*name).to_owned()),
                    _ => {}
                }
            }
        }
        names
    }

    /// Every name, in the order in which a token file is asked for them.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        let names = self.common.iter().chain(&self.uris).chain(&self.dns);
        names.map(String::as_str)
    }

    /// Whether there is no name.
    pub fn is_empty(&self) -> bool {
        self.all().next().is_none()
    }

    /// Who the holder is where no token file says so: the first URI, else the first DNS name, else
    /// the first common name. `None` where that name is not plain.
    pub fn principal(&self) -> Option<Principal> {
        let name = self.uris.first().or(self.dns.first()).or(self.common.first())?;
        is_plain_name(name).then(|| Principal(name.clone()))
    }
}

/// Whether a name is not empty, short and without control characters, so that it is clear in logs.
pub(super) fn is_plain_name(name: &str) -> bool {
    let fits = (1..=MOST_CHARACTERS).contains(&name.chars().count());
    fits && !name.contains(char::is_control)
}
