//! The names that a client's certificate gives its holder.

use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

/// The names in a certificate (DER): the subject's common name, then the URIs and DNS names of the
/// subject alternative name. Empty when there are none or the bytes are no certificate.
///
/// The certificate must have been verified before: this looks at no signature.
pub fn certificate_names(der: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return Vec::new() };
    let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    let mut names: Vec<String> = common.map(str::to_owned).collect();
    if let Ok(Some(alternatives)) = certificate.subject_alternative_name() {
        names.extend(alternatives.value.general_names.iter().filter_map(|name| match name {
            GeneralName::URI(name) | GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        }));
    }
    names
}
