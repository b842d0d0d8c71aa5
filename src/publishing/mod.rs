//! Results into object storage: files, model card, and last the manifest.
//!
//! Below a job's destination:
//!
//! ```text
//! checkpoints/JOB/manifest.json          created last: the commit point, exactly one of it
//! checkpoints/JOB/CONTENT/README.md      the model card
//! checkpoints/JOB/CONTENT/…              the result's files, named by their content as a whole
//!                                        but for signatures and bill of materials
//! ```
//!
//! Judgements stand under `evaluations/` in the same way. Attempts whose files are equal share a
//! folder, and attempts whose files are not never mix theirs. The attempt that creates the
//! manifest has published; another one finds it and answers with its addresses.

mod layout;
mod leavings;
mod manifest;
mod markup;
mod model_card;
mod publisher;
mod result_place;
mod sealer;
#[cfg(test)]
mod signed_tests;
mod storage_failure;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod verify_error;
mod verifying;

pub use manifest::{MANIFEST, Manifest, ManifestError, ManifestModel, rfc3339};
pub use publisher::{ObjectPublisher, PublisherSettings};
pub use result_place::ResultPlace;
pub use sealer::ObjectSealer;
pub use storage_failure::storage_failure;
pub use verify_error::VerifyError;
pub use verifying::{Verification, verify_result};
