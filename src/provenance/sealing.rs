//! Makes the files that let anybody check a result: statements, the model folder's signature, the bill
//! of materials.

use sha2::{Digest as _, Sha256};

use super::{
    BUILD, BillOfMaterials, Build, Envelope, Evaluated, Facts, KeyAlgorithm, Measured,
    ModelSignatureError, ResourceDescriptor, Signer, Statement, Subject, TEST_RESULT, Task,
    evaluation_type, sign_model,
};
use crate::outcome::{
    FileDigest, FinishedResult,
    result_layout::{BILL_OF_MATERIALS, MODEL_SIGNATURE, PIPELINE, STATEMENTS},
};

/// A file that belongs to a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedFile {
    /// Path with `/` within the result's folder.
    pub name: &'static str,
    /// The file's whole content.
    pub bytes: Vec<u8>,
}

/// Why a result could not be signed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Something has no form in JSON.
    #[error("a statement cannot be written")]
    Json(#[from] serde_json::Error),
    /// The model folder could not be signed.
    #[error(transparent)]
    Model(#[from] ModelSignatureError),
}

/// The files to add to a result: equal for equal facts and keys.
pub fn seal(facts: &Facts<'_>, signer: &Signer) -> Result<Vec<SealedFile>, SealError> {
    let mut sealed = Vec::new();
    let mut files = facts.result.files.clone();
    if facts.task == Task::Erasure {
        let bytes = BillOfMaterials::new(facts).to_json()?;
        files.push(digest_named(BILL_OF_MATERIALS, &bytes));
        files.sort_by(|left, right| left.name.cmp(&right.name));
        sealed.push(SealedFile { name: BILL_OF_MATERIALS, bytes });
    }
    let pipeline = within_pipeline(&files);
    if !pipeline.is_empty() && signer.key().algorithm() == KeyAlgorithm::EcdsaP256 {
        let bytes = sign_model(PIPELINE, &pipeline, signer.key())?;
        sealed.push(SealedFile { name: MODEL_SIGNATURE, bytes });
    }
    let bytes = statements(facts, &files, signer)?;
    sealed.push(SealedFile { name: STATEMENTS, bytes });
    Ok(sealed)
}

/// The files of the pipeline, by their names within it.
fn within_pipeline(files: &[FileDigest]) -> Vec<FileDigest> {
    let named = files.iter().filter_map(|file| {
        let name = file.name.strip_prefix(PIPELINE)?.strip_prefix('/')?;
        Some(FileDigest { name: name.to_owned(), ..file.clone() })
    });
    named.collect()
}

/// One envelope a line.
fn statements(
    facts: &Facts<'_>,
    files: &[FileDigest],
    signer: &Signer,
) -> Result<Vec<u8>, SealError> {
    let subjects: Vec<_> = files.iter().map(Subject::from).collect();
    let mut lines = Vec::new();
    let mut say = |statement: Vec<u8>| -> Result<(), SealError> {
        serde_json::to_writer(&mut lines, &Envelope::seal(&statement, signer.key()))?;
        lines.push(b'\n');
        Ok(())
    };
    let build = Statement::new(subjects.clone(), BUILD, Build::new(facts, signer));
    say(serde_json::to_vec(&build)?)?;
    if let Some(test) = &facts.test {
        let tested = Statement::new(subjects.clone(), TEST_RESULT, test);
        say(serde_json::to_vec(&tested)?)?;
    }
    let result = facts.result;
    let judges = judges(result);
    let measured =
        Measured { verdicts: &result.verdicts, judges: &judges, beyond: &result.evaluation };
    if let Some(evaluated) = Evaluated::new(measured) {
        let measured = Statement::new(subjects, &evaluation_type(), evaluated);
        say(serde_json::to_vec(&measured)?)?;
    }
    Ok(lines)
}

/// Those who judged, by name.
fn judges(result: &FinishedResult) -> Vec<ResourceDescriptor> {
    let mut names: Vec<&str> =
        result.verdicts.iter().map(|verdict| verdict.verdict.judge.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let named = names.into_iter().map(|name| ResourceDescriptor {
        name: Some(name.to_owned()),
        ..ResourceDescriptor::default()
    });
    named.collect()
}

/// The digest of a file of these bytes, by its name.
pub(super) fn digest_named(name: &str, bytes: &[u8]) -> FileDigest {
    FileDigest {
        name: name.to_owned(),
        size: bytes.len() as u64,
        sha256: hex::encode(Sha256::digest(bytes)),
    }
}
