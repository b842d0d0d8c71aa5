//! Signed statements of how a result was made and what was measured of it, and whether files are those
//! that were signed: formats and signatures, over digests of files. Opens no file and reads no clock.
//!
//! | File | Is |
//! | --- | --- |
//! | `key`, `pem` | keys, and what is wrong with those that do not fit |
//! | `envelope` | DSSE: a payload and its signatures |
//! | `statement` | in-toto's statements |
//! | `build`, `test_result`, `evaluation` | their predicates: how it was made, what a policy said, the figures |
//! | `model_signature` | the signature of a model folder, for the verifiers of others |
//! | `bill_of_materials` | CycloneDX |
//! | `sealing` | all of these for a result |
//! | `verification` | whether they hold |

mod bill_of_materials;
mod build;
mod envelope;
mod evaluation;
mod key;
mod model_signature;
mod pem;
mod sealing;
mod statement;
mod test_result;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod verification;

use sha2::{Digest as _, Sha256};

pub use bill_of_materials::BillOfMaterials;
pub use build::{BUILD, Build};
pub use envelope::{Envelope, EnvelopeError, IN_TOTO, LONGEST_ENVELOPE};
pub use evaluation::{Evaluated, Measured, evaluation_type};
pub use key::{
    KeyAlgorithm, KeyError, LONGEST_KEY_FILE, PublicKey, SigningKey, read_signing_key,
};
pub use model_signature::{ModelSignatureError, SIGNATURE_NAME, sign_model, verify_model};
pub use sealing::{Facts, SealError, SealedFile, Signer, SignerError, Task, seal};
pub use statement::{Digests, ResourceDescriptor, STATEMENT, Statement, Subject};
pub use test_result::{RuleOutcome, TEST_RESULT, TestResult, TestVerdict};
pub use verification::{FoundResult, PolicyVerdict, Untrue, Verified, is_plain_name, verify};

use crate::outcome::FileDigest;

/// A URI of ours. The project has no address of its own yet; nobody else can ever have this one
/// (RFC 2606), and `docs/provenance.md` says what stands behind each path.
fn home(path: &str) -> String {
    format!("https://keystep.example/{path}")
}

/// The digest of a file of these bytes, by its name.
fn digest_named(name: &str, bytes: &[u8]) -> FileDigest {
    FileDigest {
        name: name.to_owned(),
        size: bytes.len() as u64,
        sha256: hex::encode(Sha256::digest(bytes)),
    }
}
