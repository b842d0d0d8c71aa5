//! A model folder's own signature, as the verifiers of the `OpenSSF` Model Signing specification 1.0
//! (`model_signing verify key`) take it: a Sigstore bundle around a statement of every file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    Digests, Envelope, EnvelopeError, KeyAlgorithm, PublicKey, STATEMENT, SigningKey, Statement,
    Subject,
};
use crate::outcome::FileDigest;

/// The type of the predicate.
const PREDICATE: &str = "https://model_signing/signature/v1.0";
/// What the bundle is.
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// The signature's name within the folder.
pub const SIGNATURE_NAME: &str = "model.sig";

/// The bundle; the stock verifier refuses any further member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Bundle {
    media_type: String,
    verification_material: VerificationMaterial,
    dsse_envelope: Envelope,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct VerificationMaterial {
    public_key: KeyHint,
    /// Entries of a transparency log, of which there is none.
    #[serde(default)]
    tlog_entries: Vec<serde_json::Value>,
}

/// By which the stock verifier warns of another key; decides nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct KeyHint {
    #[serde(default)]
    hint: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct SignedFolder {
    serialization: Serialization,
    resources: Vec<Resource>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Serialization {
    method: String,
    hash_type: String,
    allow_symlinks: bool,
    ignore_paths: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Resource {
    name: String,
    algorithm: String,
    digest: String,
}

/// Why a model signature does not hold for a folder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelSignatureError {
    /// No bundle of the kind.
    #[error("it is no model signature (a Sigstore bundle 0.3): {reason}")]
    NotABundle {
        /// Which part cannot be read, and why.
        reason: String,
    },
    /// The envelope in it does not hold.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// It says something else than which files there are.
    #[error("its statement is none of model_signing 1.0 over whole files: {reason}")]
    OtherStatement {
        /// Which part cannot be read, and why.
        reason: String,
    },
    /// A file is not what was signed.
    #[error("{name} was changed since it was signed")]
    Changed {
        /// Name of the file within the folder.
        name: String,
    },
    /// A file is gone.
    #[error("{name} was signed and is missing")]
    Missing {
        /// Name of the file within the folder.
        name: String,
    },
    /// A file came on top.
    #[error("{name} is not among the files that were signed")]
    Unsigned {
        /// Name of the file within the folder.
        name: String,
    },
    /// A key that model signatures are not made with.
    #[error("model signatures are by ECDSA P-256, and the key is {algorithm}")]
    OtherKey {
        /// What the key is of.
        algorithm: KeyAlgorithm,
    },
}

/// Signs the files of a model folder, which are named relative to it; the bytes of `model.sig`.
///
/// # Errors
///
/// The key is no ECDSA P-256: the stock verifier knows no other that is made here.
pub fn sign_model(
    folder: &str,
    files: &[FileDigest],
    key: &SigningKey,
) -> Result<Vec<u8>, ModelSignatureError> {
    ecdsa(key.algorithm())?;
    let mut files: Vec<_> = files.iter().collect();
    // By code points of the whole name, which is the order of UTF-8's bytes: `a-b` before `a/b`.
    files.sort_by(|left, right| left.name.cmp(&right.name));
    let resources: Vec<_> = files
        .into_iter()
        .map(|file| Resource {
            name: file.name.clone(),
            algorithm: "sha256".to_owned(),
            digest: file.sha256.clone(),
        })
        .collect();
    let predicate = SignedFolder {
        serialization: Serialization {
            method: "files".to_owned(),
            hash_type: "sha256".to_owned(),
            allow_symlinks: false,
            ignore_paths: vec![SIGNATURE_NAME.to_owned()],
        },
        resources,
    };
    let root = root(&predicate.resources)?;
    let subject = Subject { name: folder.to_owned(), digest: Digests::sha256(&root) };
    let statement = Statement::new(vec![subject], PREDICATE, predicate);
    let statement = serde_json::to_vec(&statement).map_err(|error| other(&error))?;
    let bundle = Bundle {
        media_type: BUNDLE.to_owned(),
        verification_material: VerificationMaterial {
            public_key: KeyHint { hint: key.public_key().fingerprint() },
            tlog_entries: Vec::new(),
        },
        dsse_envelope: Envelope::seal(&statement, key),
    };
    serde_json::to_vec(&bundle).map_err(|error| other(&error))
}

/// Checks that the files of a folder, named relative to it and without the signature, are those that
/// a `model.sig` was made for.
pub fn verify_model(
    signature: &[u8],
    files: &BTreeMap<&str, &str>,
    key: &PublicKey,
) -> Result<(), ModelSignatureError> {
    ecdsa(key.algorithm())?;
    let not_a_bundle = |reason: String| ModelSignatureError::NotABundle { reason };
    let bundle: Bundle =
        serde_json::from_slice(signature).map_err(|error| not_a_bundle(error.to_string()))?;
    if bundle.media_type != BUNDLE {
        return Err(not_a_bundle(format!("its media type is {:?}", bundle.media_type)));
    }
    let payload = bundle.dsse_envelope.open(key)?;
    let statement: Statement<SignedFolder> =
        serde_json::from_slice(&payload).map_err(|error| other(&error))?;
    let Statement { kind, subject, predicate_type, predicate } = statement;
    if kind != STATEMENT || predicate_type != PREDICATE {
        return Err(other(&format!("it is a {kind} with a {predicate_type}")));
    }
    let Serialization { method, hash_type, allow_symlinks, ignore_paths } =
        &predicate.serialization;
    if method != "files" || hash_type != "sha256" || *allow_symlinks {
        return Err(other(&format!("it is over {method} by {hash_type}, not over whole files")));
    }
    if let Some(path) = ignore_paths.iter().find(|path| *path != SIGNATURE_NAME) {
        return Err(other(&format!("it leaves out {path:?}")));
    }
    let [subject] = subject.as_slice() else {
        return Err(other(&format!("it has {} subjects and not one", subject.len())));
    };
    if subject.digest.get_sha256() != Some(root(&predicate.resources)?.as_str()) {
        return Err(other(&"its subject is not the digest of its resources"));
    }
    let mut signed = BTreeMap::new();
    for resource in &predicate.resources {
        if resource.algorithm != "sha256" {
            return Err(other(&format!("{} is digested by {}", resource.name, resource.algorithm)));
        }
        if signed.insert(resource.name.as_str(), resource.digest.as_str()).is_some() {
            return Err(other(&format!("it names {} twice", resource.name)));
        }
    }
    for (name, digest) in &signed {
        match files.get(name) {
            Some(found) if found == digest => {}
            Some(_) => return Err(ModelSignatureError::Changed { name: (*name).to_owned() }),
            None => return Err(ModelSignatureError::Missing { name: (*name).to_owned() }),
        }
    }
    match files.keys().find(|name| !signed.contains_key(*name)) {
        Some(name) => Err(ModelSignatureError::Unsigned { name: (*name).to_owned() }),
        None => Ok(()),
    }
}

/// SHA-256 of the raw digests in the order of the resources.
fn root(resources: &[Resource]) -> Result<String, ModelSignatureError> {
    let mut hash = Sha256::new();
    for resource in resources {
        let digest = hex::decode(&resource.digest).ok().filter(|digest| digest.len() == 32);
        let digest =
            digest.ok_or_else(|| other(&format!("{} has no SHA-256 digest", resource.name)))?;
        hash.update(digest);
    }
    Ok(hex::encode(hash.finalize()))
}

fn ecdsa(algorithm: KeyAlgorithm) -> Result<(), ModelSignatureError> {
    match algorithm {
        KeyAlgorithm::EcdsaP256 => Ok(()),
        KeyAlgorithm::Ed25519 => Err(ModelSignatureError::OtherKey { algorithm }),
    }
}

fn other(reason: &impl ToString) -> ModelSignatureError {
    ModelSignatureError::OtherStatement { reason: reason.to_string() }
}
