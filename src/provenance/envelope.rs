//! DSSE 1.0.2, the Dead Simple Signing Envelope: a payload, its type, and signatures over both.

use base64::{
    Engine as _,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::{Deserialize, Serialize};

use super::{PublicKey, SigningKey};

/// The type of payloads that are in-toto statements.
pub const IN_TOTO: &str = "application/vnd.in-toto+json";
/// The most bytes of one envelope that are read.
pub const LONGEST_ENVELOPE: usize = 64 << 20;
/// The most signatures of one envelope that are tried.
const MOST_SIGNATURES: usize = 64;

/// A signed payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Base64 of what is signed.
    payload: String,
    /// What the payload is.
    #[serde(rename = "payloadType")]
    payload_type: String,
    /// Signatures, each over type and payload.
    signatures: Vec<EnvelopeSignature>,
}

/// A signature of an envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct EnvelopeSignature {
    /// A hint at the key, which decides nothing.
    #[serde(default)]
    keyid: Option<String>,
    /// Base64 of the signature.
    sig: String,
}

/// Why an envelope is not what its reader was told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// More than is read.
    #[error("it has {bytes} bytes, and at most {LONGEST_ENVELOPE} are read")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// No envelope.
    #[error("it is no DSSE envelope: {reason}")]
    NotAnEnvelope {
        /// What the parser says.
        reason: String,
    },
    /// An envelope of something else.
    #[error("its payload is of the type {found:?}, and not {IN_TOTO}")]
    OtherType {
        /// The type.
        found: String,
    },
    /// A part that is no base64.
    #[error("its {part} is no base64")]
    NotBase64 {
        /// Which part.
        part: &'static str,
    },
    /// Nothing signed it.
    #[error("it has no signature")]
    Unsigned,
    /// More signatures than are tried.
    #[error("it has {count} signatures, and at most {MOST_SIGNATURES} are tried")]
    TooManySignatures {
        /// How many.
        count: usize,
    },
    /// No signature is by the key.
    #[error("no signature of it is by this key: it was changed, or signed by another key")]
    NotByThisKey,
}

impl Envelope {
    /// Signs an in-toto statement. The same statement and key give the same envelope.
    pub fn seal(statement: &[u8], key: &SigningKey) -> Self {
        let signature = key.sign(&pre_authentication_encoding(IN_TOTO, statement));
        Self {
            payload: encode(statement),
            payload_type: IN_TOTO.to_owned(),
            signatures: vec![EnvelopeSignature {
                keyid: Some(String::new()),
                sig: encode(&signature),
            }],
        }
    }

    /// Reads an envelope; believes nothing of it yet.
    pub fn from_json(json: &[u8]) -> Result<Self, EnvelopeError> {
        if json.len() > LONGEST_ENVELOPE {
            return Err(EnvelopeError::TooLong { bytes: json.len() });
        }
        serde_json::from_slice(json)
            .map_err(|error| EnvelopeError::NotAnEnvelope { reason: error.to_string() })
    }

    /// The very bytes that one of the signatures is of, if that is by this key.
    pub fn open(&self, key: &PublicKey) -> Result<Vec<u8>, EnvelopeError> {
        if self.payload_type != IN_TOTO {
            return Err(EnvelopeError::OtherType { found: self.payload_type.clone() });
        }
        let count = self.signatures.len();
        if count == 0 {
            return Err(EnvelopeError::Unsigned);
        }
        if count > MOST_SIGNATURES {
            return Err(EnvelopeError::TooManySignatures { count });
        }
        let payload = decode(&self.payload).ok_or(EnvelopeError::NotBase64 { part: "payload" })?;
        let message = pre_authentication_encoding(&self.payload_type, &payload);
        for EnvelopeSignature { sig, .. } in &self.signatures {
            let signature = decode(sig).ok_or(EnvelopeError::NotBase64 { part: "signature" })?;
            if key.verifies(&message, &signature) {
                return Ok(payload);
            }
        }
        Err(EnvelopeError::NotByThisKey)
    }
}

/// What is signed (PAE): type and payload, each with its length before it, so that no other pair has
/// the same bytes.
fn pre_authentication_encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut message =
        format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    message.extend_from_slice(payload);
    message
}

fn encode(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Base64 of either alphabet, with or without padding: DSSE has readers take both.
fn decode(text: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let alphabet = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    GeneralPurpose::new(alphabet, LENIENT).decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provenance::testing::{ed25519_key, other_key, p256_key};

    #[test]
    fn what_is_signed_has_the_form_of_the_text() {
        // The example of the DSSE text.
        let encoded = pre_authentication_encoding("http://example.com/HelloWorld", b"hello world");
        assert_eq!(encoded, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
        // Bytes are counted, and not characters.
        assert_eq!(pre_authentication_encoding("ä", b""), "DSSEv1 2 ä 0 ".as_bytes());
    }

    #[test]
    fn a_statement_comes_back_by_its_key_alone() {
        for key in [p256_key(), ed25519_key()] {
            let sealed = Envelope::seal(b"{}", &key);
            assert_eq!(sealed, Envelope::seal(b"{}", &key));
            assert_eq!(sealed.open(&key.public_key()).unwrap(), b"{}");
            let refused = sealed.open(&other_key().public_key()).unwrap_err();
            assert_eq!(refused, EnvelopeError::NotByThisKey);
        }
    }

    #[test]
    fn both_alphabets_and_any_keyid_are_read() {
        let key = p256_key();
        // ">>>?" has + and / in base64.
        let sealed = Envelope::seal(b">>>???~~~", &key);
        let json = serde_json::to_string(&sealed).unwrap();
        let url_safe = Envelope {
            payload: sealed.payload.replace('+', "-").replace('/', "_"),
            signatures: vec![EnvelopeSignature {
                keyid: None,
                sig: sealed.signatures[0].sig.replace('+', "-").replace('/', "_").replace('=', ""),
            }],
            ..sealed.clone()
        };
        assert_ne!(url_safe, sealed);
        assert_eq!(url_safe.open(&key.public_key()).unwrap(), b">>>???~~~");
        for keyid in [r#""keyid":"x""#, r#""keyid":null"#, r#""extra":1"#] {
            let json = json.replace(r#""keyid":"""#, keyid);
            let read = Envelope::from_json(json.as_bytes()).unwrap();
            read.open(&key.public_key()).unwrap();
        }
    }

    #[test]
    fn a_changed_envelope_is_refused() {
        let key = p256_key();
        let public = key.public_key();
        let sealed = Envelope::seal(b"{\"a\":1}", &key);
        let other = Envelope::seal(b"{\"a\":2}", &key);
        let changed = Envelope { payload: other.payload.clone(), ..sealed.clone() };
        assert_eq!(changed.open(&public), Err(EnvelopeError::NotByThisKey));
        let swapped = Envelope { signatures: other.signatures.clone(), ..sealed.clone() };
        assert_eq!(swapped.open(&public), Err(EnvelopeError::NotByThisKey));
        let typed = Envelope { payload_type: "text/plain".to_owned(), ..sealed.clone() };
        let error = typed.open(&public).unwrap_err();
        assert_eq!(error, EnvelopeError::OtherType { found: "text/plain".to_owned() });
        let unsigned = Envelope { signatures: Vec::new(), ..sealed.clone() };
        assert_eq!(unsigned.open(&public), Err(EnvelopeError::Unsigned));
        let signatures = vec![other.signatures[0].clone(); 65];
        let many = Envelope { signatures, ..sealed.clone() };
        assert_eq!(many.open(&public), Err(EnvelopeError::TooManySignatures { count: 65 }));
        let broken = Envelope { payload: "?".to_owned(), ..sealed.clone() };
        assert_eq!(broken.open(&public), Err(EnvelopeError::NotBase64 { part: "payload" }));
        let mut broken = sealed;
        broken.signatures[0].sig = "A".to_owned();
        assert_eq!(broken.open(&public), Err(EnvelopeError::NotBase64 { part: "signature" }));
    }

    #[test]
    fn what_is_no_envelope_is_refused() {
        let deep = "[".repeat(100_000);
        for json in ["", "{", "[]", "null", r#"{"payload":1}"#, &deep] {
            let error = Envelope::from_json(json.as_bytes()).unwrap_err();
            assert!(matches!(error, EnvelopeError::NotAnEnvelope { .. }), "{error}");
        }
        let huge = vec![b' '; LONGEST_ENVELOPE + 1];
        let error = Envelope::from_json(&huge).unwrap_err();
        assert_eq!(error, EnvelopeError::TooLong { bytes: LONGEST_ENVELOPE + 1 });
    }
}
