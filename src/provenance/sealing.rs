//! Makes the files that let anybody check a result: statements, the model folder's signature, the bill
//! of materials.

use serde_json::{Map, Value};

use super::{
    BUILD, BillOfMaterials, Build, Envelope, Evaluated, KeyAlgorithm, Measured, ModelSignatureError,
    ResourceDescriptor, SigningKey, Statement, Subject, TEST_RESULT, TestResult, digest_named,
    evaluation_type, sign_model,
};
use crate::outcome::{
    FileDigest, FinishedResult,
    result_layout::{BILL_OF_MATERIALS, MODEL_SIGNATURE, PIPELINE, STATEMENTS},
};

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

/// What a job did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Erased concepts from a model.
    Erasure,
    /// Judged an erased model.
    Judgement,
}

/// What is said of a result beside what it holds.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// What was done.
    pub task: Task,
    /// Everything that the caller set.
    pub parameters: Map<String, Value>,
    /// The model that was edited, or judged against: the direct parent of an erasure.
    pub base_model: &'a str,
    /// SHA-256 of its files, as manifests have it.
    pub base_digest: &'a str,
    /// Its licence, as Hugging Face names it, where that is known.
    pub license: Option<&'a str>,
    /// What else went in: its role, name and SHA-256.
    pub inputs: Vec<(&'static str, String, String)>,
    /// What came out, with every file that is published but those that are made here.
    pub result: &'a FinishedResult,
    /// What a policy says of it, where one was asked.
    pub test: Option<TestResult>,
    /// The job; empty where there is none.
    pub invocation: &'a str,
    /// When it began, RFC 3339.
    pub started_on: Option<String>,
    /// When it was whole, RFC 3339. Absent where several attempts may sign the same result, whose
    /// bytes must be equal.
    pub finished_on: Option<String>,
}

/// A file that belongs to a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedFile {
    /// Path with `/` within the result's folder.
    pub name: &'static str,
    /// What it holds.
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
    if !pipeline.is_empty() && signer.key.algorithm() == KeyAlgorithm::EcdsaP256 {
        let bytes = sign_model(PIPELINE, &pipeline, &signer.key)?;
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
        serde_json::to_writer(&mut lines, &Envelope::seal(&statement, &signer.key))?;
        lines.push(b'\n');
        Ok(())
    };
    let build = Statement::new(subjects.clone(), BUILD, Build::new(facts, signer));
    say(serde_json::to_vec(&build)?)?;
    if let Some(test) = &facts.test {
        let tested = Statement::new(subjects.clone(), TEST_RESULT, test);
        say(serde_json::to_vec(&tested)?)?;
    }
    let judges = judges(facts.result);
    let measured = Measured {
        verdicts: &facts.result.verdicts,
        judges: &judges,
        ..Measured::default()
    };
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
