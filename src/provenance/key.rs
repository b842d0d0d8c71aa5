//! Keys that sign statements and models, and those that verify them: ECDSA over P-256 with SHA-256, and
//! Ed25519.
//!
//! Both sign without drawing a random number (RFC 6979, RFC 8032), so that the same statement has the
//! same signature however often it is signed.

use std::fmt;

use p256::{
    ecdsa::signature::{Signer as _, Verifier as _},
    elliptic_curve::zeroize::Zeroizing,
    pkcs8::{DecodePrivateKey as _, DecodePublicKey as _, EncodePublicKey as _, LineEnding},
};
use sha2::{Digest as _, Sha256};

use super::pem::{PemBlock, blocks};

/// The longest file of a key that is read, in bytes; a key has a few hundred.
pub const LONGEST_KEY_FILE: u64 = 64 << 10;

/// How to make a key that fits.
const MAKE: &str = "make a key with `openssl genpkey -algorithm EC -pkeyopt \
                    ec_paramgen_curve:P-256 -out KEY.pem`";

/// Why a file is no key to sign or verify with. Each message has the command that helps.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It holds no PEM block.
    #[error("holds no PEM block (-----BEGIN …); {MAKE}")]
    NoPem,
    /// It is DER, which has no text around it.
    #[error(
        "is DER and not PEM; convert it with `openssl pkey -inform DER -in KEY.der -out KEY.pem`, a \
         public one with -pubin and -pubout"
    )]
    Der,
    /// A PEM block is broken, or its content is.
    #[error("is damaged: {reason}; {MAKE}, or copy it anew")]
    Damaged {
        /// What was found in place of a usable key.
        reason: String,
    },
    /// A key behind a passphrase, which nobody could type at a start.
    #[error(
        "is encrypted; write it without a passphrase with `openssl pkey -in KEY.pem -out \
         PLAIN.pem`, readable by this user alone"
    )]
    Encrypted,
    /// A public key where the private one signs.
    #[error(
        "is a public key, and a private one signs; give the file that it was made from, or {MAKE}"
    )]
    PublicKey,
    /// A private key where the public one is enough.
    #[error(
        "is a private key, which only its signer should have; give the public one, made with \
         `openssl pkey -in KEY.pem -pubout -out PUBLIC.pem`"
    )]
    PrivateKey,
    /// A certificate where a bare key is wanted.
    #[error(
        "is a certificate; take the public key out with `openssl x509 -in CERTIFICATE.pem -pubkey \
         -noout -out PUBLIC.pem`"
    )]
    Certificate,
    /// A key in the form of OpenSSH.
    #[error("is a key of OpenSSH, which is neither PKCS#8 nor SEC1; {MAKE}")]
    OpenSsh,
    /// A kind of key that is not signed with here.
    #[error("is {found}, and keys are ECDSA P-256 or Ed25519; {MAKE}")]
    OtherAlgorithm {
        /// What it is, such as "an RSA key".
        found: &'static str,
    },
    /// Another PEM block than a key.
    #[error("holds a PEM block {label:?}, which is no key; {MAKE}")]
    OtherBlock {
        /// What the block says it is.
        label: String,
    },
    /// Several keys, of which only one can be meant.
    #[error("holds {count} keys; give a file with one")]
    SeveralKeys {
        /// How many.
        count: usize,
    },
}

/// What a key signs by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyAlgorithm {
    /// ECDSA over P-256 with SHA-256, signatures in DER: what the model verifiers of others take.
    EcdsaP256,
    /// Ed25519: for statements alone.
    Ed25519,
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EcdsaP256 => "ECDSA P-256",
            Self::Ed25519 => "Ed25519",
        })
    }
}

/// A private key; no output shows it.
#[derive(Clone)]
pub struct SigningKey(PrivateKey);

#[derive(Clone)]
enum PrivateKey {
    EcdsaP256(Box<p256::ecdsa::SigningKey>),
    Ed25519(Box<ed25519_dalek::SigningKey>),
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.algorithm()).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// Reads a PEM file: PKCS#8 ("PRIVATE KEY") of either kind, or SEC1 ("EC PRIVATE KEY").
    pub fn from_pem(file: &[u8]) -> Result<Self, KeyError> {
        let block = only_key(file)?;
        let der = block.der.as_slice();
        let key = match block.label {
            _ if block.is_encrypted => return Err(KeyError::Encrypted),
            "PRIVATE KEY" => p256::SecretKey::from_pkcs8_der(der)
                .map(|key| PrivateKey::EcdsaP256(Box::new(key.into())))
                .ok()
                .or_else(|| {
                    let key = ed25519_dalek::SigningKey::from_pkcs8_der(der).ok()?;
                    Some(PrivateKey::Ed25519(Box::new(key)))
                }),
            "EC PRIVATE KEY" => p256::SecretKey::from_sec1_der(der)
                .map(|key| PrivateKey::EcdsaP256(Box::new(key.into())))
                .ok(),
            "PUBLIC KEY" | "EC PUBLIC KEY" | "RSA PUBLIC KEY" => return Err(KeyError::PublicKey),
            label => return Err(not_a_key(label)),
        };
        key.map(Self).ok_or_else(|| unknown_key(der))
    }

    /// What it signs by.
    pub fn algorithm(&self) -> KeyAlgorithm {
        match &self.0 {
            PrivateKey::EcdsaP256(_) => KeyAlgorithm::EcdsaP256,
            PrivateKey::Ed25519(_) => KeyAlgorithm::Ed25519,
        }
    }

    /// Signs a message: DER for ECDSA, 64 bytes for Ed25519; the same for the same message.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        match &self.0 {
            PrivateKey::EcdsaP256(key) => {
                let signature: p256::ecdsa::Signature = key.sign(message);
                signature.to_der().as_bytes().to_vec()
            }
            PrivateKey::Ed25519(key) => key.sign(message).to_bytes().to_vec(),
        }
    }

    /// The key that verifies what this one signs.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(match &self.0 {
            PrivateKey::EcdsaP256(key) => Point::EcdsaP256(Box::new(*key.verifying_key())),
            PrivateKey::Ed25519(key) => Point::Ed25519(Box::new(key.verifying_key())),
        })
    }
}

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(Point);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Point {
    EcdsaP256(Box<p256::ecdsa::VerifyingKey>),
    Ed25519(Box<ed25519_dalek::VerifyingKey>),
}

impl PublicKey {
    /// Reads a PEM file ("PUBLIC KEY": X.509's `SubjectPublicKeyInfo`).
    pub fn from_pem(file: &[u8]) -> Result<Self, KeyError> {
        let block = only_key(file)?;
        let der = block.der.as_slice();
        match block.label {
            "PUBLIC KEY" => p256::ecdsa::VerifyingKey::from_public_key_der(der)
                .map(|key| Self(Point::EcdsaP256(Box::new(key))))
                .or_else(|_| {
                    ed25519_dalek::VerifyingKey::from_public_key_der(der)
                        .map(|key| Self(Point::Ed25519(Box::new(key))))
                })
                .map_err(|_| unknown_key(der)),
            "PRIVATE KEY"
            | "EC PRIVATE KEY"
            | "ENCRYPTED PRIVATE KEY"
            | "RSA PRIVATE KEY"
            | "DSA PRIVATE KEY" => Err(KeyError::PrivateKey),
            "RSA PUBLIC KEY" => Err(KeyError::OtherAlgorithm { found: "an RSA key" }),
            label => Err(not_a_key(label)),
        }
    }

    /// What it verifies.
    pub fn algorithm(&self) -> KeyAlgorithm {
        match &self.0 {
            Point::EcdsaP256(_) => KeyAlgorithm::EcdsaP256,
            Point::Ed25519(_) => KeyAlgorithm::Ed25519,
        }
    }

    /// Whether a signature is of this message, by the private key of this one.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.0 {
            Point::EcdsaP256(key) => p256::ecdsa::Signature::from_der(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            // Strict: a signature that some verifiers take and others do not is none.
            Point::Ed25519(key) => ed25519_dalek::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify_strict(message, &signature).is_ok()),
        }
    }

    /// As PEM, in the very text that OpenSSL writes.
    pub fn to_pem(&self) -> String {
        let written = match &self.0 {
            Point::EcdsaP256(key) => key.to_public_key_pem(LineEnding::LF),
            Point::Ed25519(key) => key.to_public_key_pem(LineEnding::LF),
        };
        // What was read or made as a key has this form.
        written.unwrap_or_default()
    }

    /// SHA-256 of [`PublicKey::to_pem`], hexadecimal: by which people tell keys apart, as
    /// `openssl pkey -pubin -in PUBLIC.pem | sha256sum` prints it.
    pub fn fingerprint(&self) -> String {
        hex::encode(Sha256::digest(self.to_pem().as_bytes()))
    }
}

/// The one key of a file. Parameters of a curve may stand before it, as `openssl ecparam` writes them.
fn only_key(file: &[u8]) -> Result<PemBlock<'_>, KeyError> {
    // A SEQUENCE of more than 127 bytes or less: no PEM begins so.
    if file.first() == Some(&0x30) && !file.starts_with(b"0-----") {
        return Err(KeyError::Der);
    }
    if file.starts_with(b"ssh-") || file.starts_with(b"ecdsa-sha2-") {
        return Err(KeyError::OpenSsh);
    }
    let text = std::str::from_utf8(file).map_err(|_| KeyError::NoPem)?;
    let mut blocks = blocks(text).map_err(|reason| KeyError::Damaged { reason })?;
    blocks.retain(|block| block.label != "EC PARAMETERS");
    let count = blocks.len();
    match (blocks.pop(), count) {
        (Some(block), 1) => Ok(block),
        (None, _) => Err(KeyError::NoPem),
        (Some(_), count) => Err(KeyError::SeveralKeys { count }),
    }
}

fn not_a_key(label: &str) -> KeyError {
    match label {
        "ENCRYPTED PRIVATE KEY" => KeyError::Encrypted,
        "CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE" => KeyError::Certificate,
        "OPENSSH PRIVATE KEY" | "SSH2 PUBLIC KEY" => KeyError::OpenSsh,
        "RSA PRIVATE KEY" => KeyError::OtherAlgorithm { found: "an RSA key" },
        "DSA PRIVATE KEY" => KeyError::OtherAlgorithm { found: "a DSA key" },
        label => KeyError::OtherBlock { label: label.to_owned() },
    }
}

/// What a key is that could not be read, by the object identifiers in it.
fn unknown_key(der: &[u8]) -> KeyError {
    /// Identifiers in DER, without tag and length.
    const KINDS: [(&[u8], &str); 9] = [
        (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01], "an RSA key"),
        (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a], "an RSA-PSS key"),
        (&[0x2a, 0x86, 0x48, 0xce, 0x38, 0x04, 0x01], "a DSA key"),
        (&[0x2b, 0x81, 0x04, 0x00, 0x22], "an EC key over P-384"),
        (&[0x2b, 0x81, 0x04, 0x00, 0x23], "an EC key over P-521"),
        (&[0x2b, 0x81, 0x04, 0x00, 0x0a], "an EC key over secp256k1"),
        (&[0x2b, 0x65, 0x71], "an Ed448 key"),
        (&[0x2b, 0x65, 0x6e], "an X25519 key, which signs nothing"),
        (&[0x2b, 0x65, 0x6f], "an X448 key, which signs nothing"),
    ];
    let holds = |wanted: &[u8]| der.windows(wanted.len()).any(|window| window == wanted);
    match KINDS.iter().find(|(wanted, _)| holds(wanted)) {
        Some((_, found)) => KeyError::OtherAlgorithm { found },
        None => KeyError::Damaged { reason: "it is no key of a kind that is known".to_owned() },
    }
}

/// The private key of a file, wiped from memory once it is read.
pub fn read_signing_key(file: Vec<u8>) -> Result<SigningKey, KeyError> {
    SigningKey::from_pem(&Zeroizing::new(file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provenance::testing::{
        ED25519, ED25519_PUBLIC, ED25519_V2, OTHER, P256, P256_PUBLIC, P256_SEC1,
        P256_WITH_PARAMETERS, P384, P384_SEC1, X25519,
    };

    fn block(label: &str) -> String {
        format!("-----BEGIN {label}-----\nAQI=\n-----END {label}-----\n")
    }

    #[test]
    fn keys_of_every_form_sign_what_their_public_key_verifies() {
        for pem in [P256, P256_SEC1, P256_WITH_PARAMETERS, OTHER, ED25519, ED25519_V2] {
            let key = SigningKey::from_pem(pem.as_bytes()).unwrap();
            let signature = key.sign(b"message");
            assert_eq!(signature, key.sign(b"message"), "the same each time");
            let public = key.public_key();
            assert!(public.verifies(b"message", &signature));
            assert!(!public.verifies(b"massage", &signature));
            assert!(!public.verifies(b"message", &signature[1..]));
            assert_eq!(PublicKey::from_pem(public.to_pem().as_bytes()).unwrap(), public);
        }
        let public = |pem: &str| SigningKey::from_pem(pem.as_bytes()).unwrap().public_key();
        assert_eq!(public(P256), public(P256_SEC1));
        assert_eq!(public(P256).to_pem(), P256_PUBLIC);
        assert_eq!(public(ED25519), public(ED25519_V2));
        assert_eq!(public(ED25519).to_pem(), ED25519_PUBLIC);
        assert_eq!(public(P256).algorithm().to_string(), "ECDSA P-256");
    }

    /// RFC 6979, A.2.5, and RFC 8032, 7.1.
    #[test]
    fn signatures_are_those_of_the_texts() {
        let key = hex::decode("C9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721");
        let key = p256::SecretKey::from_slice(&key.unwrap()).unwrap();
        let key = SigningKey(PrivateKey::EcdsaP256(Box::new(key.into())));
        let signature = p256::ecdsa::Signature::from_der(&key.sign(b"sample")).unwrap();
        let expected = "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716\
                        f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8";
        assert_eq!(hex::encode(signature.to_bytes()), expected);

        let key = hex::decode("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
        let key = ed25519_dalek::SigningKey::from_bytes(&key.unwrap().try_into().unwrap());
        let key = SigningKey(PrivateKey::Ed25519(Box::new(key)));
        assert!(hex::encode(key.sign(b"")).starts_with("e5564300c360ac729086e2cc806e828a"));
    }

    #[test]
    fn what_is_no_key_to_sign_with_is_called_what_it_is() {
        let refused = |pem: &str| SigningKey::from_pem(pem.as_bytes()).unwrap_err();
        assert_eq!(refused(P256_PUBLIC), KeyError::PublicKey);
        assert_eq!(refused(&block("ENCRYPTED PRIVATE KEY")), KeyError::Encrypted);
        let old = "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,\
                   79\n\nAQI=\n-----END EC PRIVATE KEY-----\n";
        assert_eq!(refused(old), KeyError::Encrypted);
        for (pem, name) in [
            (block("RSA PRIVATE KEY").as_str(), "an RSA key"),
            (&block("DSA PRIVATE KEY"), "a DSA key"),
            (P384, "P-384"),
            (P384_SEC1, "P-384"),
            (X25519, "X25519"),
        ] {
            let said = refused(pem).to_string();
            assert!(said.contains(name) && said.contains("`openssl genpkey"), "{said}");
        }
        assert_eq!(refused(&block("CERTIFICATE")), KeyError::Certificate);
        assert_eq!(refused(&block("OPENSSH PRIVATE KEY")), KeyError::OpenSsh);
        assert_eq!(refused("ssh-ed25519 AAAA"), KeyError::OpenSsh);
        assert_eq!(refused(""), KeyError::NoPem);
        assert_eq!(refused("hunter2"), KeyError::NoPem);
        assert_eq!(refused(&[P256, OTHER].concat()), KeyError::SeveralKeys { count: 2 });
        assert!(matches!(refused(&block("PRIVATE KEY")), KeyError::Damaged { .. }));
        assert!(matches!(refused(&P256[..100]), KeyError::Damaged { .. }));
        assert_eq!(SigningKey::from_pem(&[0x30, 0x81, 0x87]).unwrap_err(), KeyError::Der);
        assert_eq!(SigningKey::from_pem(&[0xff, 0x81]).unwrap_err(), KeyError::NoPem);
        let other = refused(&block("PGP MESSAGE"));
        assert_eq!(other, KeyError::OtherBlock { label: "PGP MESSAGE".to_owned() });
    }

    #[test]
    fn what_is_no_key_to_verify_with_is_called_what_it_is() {
        let refused = |pem: &str| PublicKey::from_pem(pem.as_bytes()).unwrap_err();
        for private in [P256, P256_SEC1, ED25519, &block("ENCRYPTED PRIVATE KEY")] {
            let error = refused(private);
            assert_eq!(error, KeyError::PrivateKey);
            assert!(error.to_string().contains("-pubout"), "{error}");
        }
        assert_eq!(refused(&block("CERTIFICATE")), KeyError::Certificate);
        assert!(refused(&block("CERTIFICATE")).to_string().contains("openssl x509"));
        assert!(matches!(refused(&block("RSA PUBLIC KEY")), KeyError::OtherAlgorithm { .. }));
        assert!(matches!(refused(&block("PUBLIC KEY")), KeyError::Damaged { .. }));
    }
}
