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
//! | `bill_of_materials` | `CycloneDX` |
//! | `signer`, `facts` | who signs, and what is said |
//! | `sealing` | all of these for a result |
//! | `verification` | whether they hold |

mod bill_of_materials;
mod build;
mod envelope;
mod evaluation;
mod facts;
mod home;
mod key;
mod model_signature;
mod pem;
mod sealing;
mod signer;
mod statement;
mod test_result;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod verification;

pub use bill_of_materials::BillOfMaterials;
pub use build::{BUILD, Build};
pub use envelope::{Envelope, EnvelopeError, IN_TOTO, LONGEST_ENVELOPE};
pub use evaluation::{Evaluated, Measured, evaluation_type};
pub use facts::{Facts, Task};
pub use key::{KeyAlgorithm, KeyError, LONGEST_KEY_FILE, PublicKey, SigningKey, read_signing_key};
pub use model_signature::{ModelSignatureError, SIGNATURE_NAME, sign_model, verify_model};
pub use sealing::{SealError, SealedFile, seal};
pub use signer::{Signer, SignerError};
pub use statement::{Digests, ResourceDescriptor, STATEMENT, Statement, Subject};
pub use test_result::{RuleOutcome, TEST_RESULT, TestResult, TestVerdict};
pub use verification::{FoundResult, PolicyVerdict, Untrue, Verified, is_plain_name, verify};
