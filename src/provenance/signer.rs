//! Who signs: a key, and the deployment that it stands for.

use super::{Envelope, SigningKey};

/// A key, and the deployment that it signs for.
#[derive(Debug, Clone)]
pub struct Signer {
    key: SigningKey,
    builder_id: String,
}

impl Signer {
    /// Signs as this builder: a URI that stands for the deployment and whom one trusts with it.
    pub fn new(key: SigningKey, builder_id: &str) -> Result<Self, SignerError> {
        let scheme = builder_id.split_once(':').map(|(scheme, rest)| (scheme, rest.is_empty()));
        let is_scheme = |text: &str| {
            text.starts_with(|c: char| c.is_ascii_alphabetic())
                && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        };
        let is_uri = scheme.is_some_and(|(scheme, is_empty)| is_scheme(scheme) && !is_empty)
            && builder_id.chars().all(|c| c.is_ascii_graphic());
        if !is_uri {
            return Err(SignerError::NoUri { found: builder_id.to_owned() });
        }
        let signer = Self { key, builder_id: builder_id.to_owned() };
        signer.try_out()?;
        Ok(signer)
    }

    /// The deployment.
    pub fn builder_id(&self) -> &str {
        &self.builder_id
    }

    /// The key.
    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// Signs something and verifies it, so that a key that does not work shows before there is a
    /// result.
    fn try_out(&self) -> Result<(), SignerError> {
        let tried = Envelope::seal(b"{}", &self.key).open(&self.key.public_key());
        tried.map(|_| ()).map_err(|_| SignerError::DoesNotSign)
    }
}

/// Why nobody can sign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignerError {
    /// The builder is no URI.
    #[error(
        "the builder id {found:?} is no URI; give one that stands for this deployment, such as \
         https://models.example/keystep"
    )]
    NoUri {
        /// What was given.
        found: String,
    },
    /// What the key signs does not verify.
    #[error("the key does not verify what it signs: it is damaged; make a new one")]
    DoesNotSign,
}
