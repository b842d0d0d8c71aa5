//! Whether the files of a result are those that somebody signed.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::{
    BUILD, Envelope, EnvelopeError, KeyAlgorithm, ModelSignatureError, PublicKey, STATEMENT,
    Statement, TEST_RESULT, TestResult, TestVerdict, evaluation_type, verify_model,
};
use crate::outcome::result_layout::{MODEL_SIGNATURE, PIPELINE, STATEMENTS};

/// The most statements of one result.
const MOST_STATEMENTS: usize = 256;

/// A result as it was found.
#[derive(Debug, Clone, Copy)]
pub struct FoundResult<'a> {
    /// SHA-256 of every file but those that sign and the manifest, by its name in the result's folder.
    pub files: &'a BTreeMap<String, String>,
    /// The statements, one envelope a line.
    pub statements: &'a [u8],
    /// The pipeline's signature, where it has one.
    pub model_signature: Option<&'a [u8]>,
}

/// What a result that is as it was signed says of itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verified {
    /// What the statements are, in their order.
    pub predicate_types: Vec<String>,
    /// The deployment that made it, as its signer says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub builder_id: Option<String>,
    /// What a policy said of it, where a statement tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyVerdict>,
    /// Whether the pipeline has a signature of its own, which holds.
    pub model_signature: bool,
    /// How it was made ([`BUILD`]), to hold other records against.
    #[serde(skip)]
    pub build: Value,
    /// What was measured ([`evaluation_type`]); null where nothing was.
    #[serde(skip)]
    pub evaluation: Value,
}

/// What a policy said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyVerdict {
    /// SHA-256 of the policy's file.
    pub sha256: String,
    /// What it comes to.
    pub result: TestVerdict,
    /// Rules that were not shown to hold.
    pub failed: Vec<String>,
    /// Rules that were not and only warn.
    pub warned: Vec<String>,
}

/// Why a result is not what was signed; each names the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Untrue {
    /// It has no statements.
    #[error("{STATEMENTS} is missing or empty: the result was not signed")]
    Unsigned,
    /// A line is no envelope, or not by the key.
    #[error("{STATEMENTS}, line {line}: {source}")]
    Envelope {
        /// Which line, from 1.
        line: usize,
        /// Why the envelope is not believed.
        source: EnvelopeError,
    },
    /// What was signed is no statement that is known.
    #[error("{STATEMENTS}, line {line}: what is signed is no in-toto statement: {reason}")]
    NoStatement {
        /// Which line, from 1.
        line: usize,
        /// What in the statement cannot be read.
        reason: String,
    },
    /// More statements than are read.
    #[error("{STATEMENTS} has more than {MOST_STATEMENTS} statements")]
    TooManyStatements,
    /// No statement says how it was made.
    #[error("{STATEMENTS} does not say how the result was made: it has no {BUILD}")]
    NoBuild,
    /// A name that leads elsewhere.
    #[error("{name:?} is no name of a file in the result's folder")]
    BadName {
        /// The name.
        name: String,
    },
    /// A file that is signed twice, or without a digest.
    #[error("{STATEMENTS}, line {line}: {name} is named twice, or without a SHA-256")]
    AmbiguousSubject {
        /// Which line, from 1.
        line: usize,
        /// Name of the file.
        name: String,
    },
    /// A file is not what was signed.
    #[error("{name} was changed: its SHA-256 is {found}, and {signed} was signed")]
    Changed {
        /// Name of the file.
        name: String,
        /// What it has.
        found: String,
        /// What was signed.
        signed: String,
    },
    /// A file is gone.
    #[error("{name} was signed and is missing")]
    Missing {
        /// Name of the file.
        name: String,
    },
    /// A file came on top.
    #[error("{name} is there and was not signed")]
    NotSigned {
        /// Name of the file.
        name: String,
    },
    /// The pipeline's own signature does not hold.
    #[error("{MODEL_SIGNATURE}: {0}")]
    Model(ModelSignatureError),
}

/// Whether a name stays in the folder that it is joined to, on every system.
pub fn is_plain_name(name: &str) -> bool {
    name.split('/').all(|part| {
        !matches!(part, "" | "." | "..") && !part.contains(|c: char| c.is_control() || c == '\\')
    })
}

/// Whether every file is what the owner of the key signed, none is missing and none came on top. A
/// statement is believed once its signature holds, and nothing else is.
pub fn verify(found: FoundResult<'_>, key: &PublicKey) -> Result<Verified, Untrue> {
    let mut verified = Verified {
        predicate_types: Vec::new(),
        builder_id: None,
        policy: None,
        model_signature: false,
        build: Value::Null,
        evaluation: Value::Null,
    };
    let lines = found.statements.split(|byte| *byte == b'\n');
    let lines = lines.enumerate().filter(|(_, line)| !line.trim_ascii().is_empty());
    for (index, envelope) in lines {
        if verified.predicate_types.len() == MOST_STATEMENTS {
            return Err(Untrue::TooManyStatements);
        }
        let line = index + 1;
        let statement = open(envelope, line, key)?;
        check_subjects(&statement, line, found.files)?;
        note(&mut verified, &statement, line)?;
        verified.predicate_types.push(statement.predicate_type);
    }
    if verified.predicate_types.is_empty() {
        return Err(Untrue::Unsigned);
    }
    if !verified.predicate_types.iter().any(|kind| kind == BUILD) {
        return Err(Untrue::NoBuild);
    }
    verified.model_signature = check_model(found, key)?;
    Ok(verified)
}

fn open(envelope: &[u8], line: usize, key: &PublicKey) -> Result<Statement, Untrue> {
    let payload = Envelope::from_json(envelope).and_then(|envelope| envelope.open(key));
    let payload = payload.map_err(|source| Untrue::Envelope { line, source })?;
    let no_statement = |reason: String| Untrue::NoStatement { line, reason };
    let statement: Statement =
        serde_json::from_slice(&payload).map_err(|error| no_statement(error.to_string()))?;
    if statement.kind != STATEMENT {
        return Err(no_statement(format!("its _type is {:?}", statement.kind)));
    }
    Ok(statement)
}

/// Whether a statement's subjects are the files, all of them and no other.
fn check_subjects(
    statement: &Statement,
    line: usize,
    files: &BTreeMap<String, String>,
) -> Result<(), Untrue> {
    let mut signed = BTreeMap::new();
    for subject in &statement.subject {
        let name = subject.name.as_str();
        if !is_plain_name(name) {
            return Err(Untrue::BadName { name: name.to_owned() });
        }
        let digest = subject.digest.get_sha256();
        match digest {
            Some(digest) if signed.insert(name, digest).is_none() => {}
            _ => return Err(Untrue::AmbiguousSubject { line, name: name.to_owned() }),
        }
    }
    for (name, digest) in &signed {
        let found = files.get(*name).ok_or_else(|| Untrue::Missing { name: (*name).to_owned() })?;
        if !found.eq_ignore_ascii_case(digest) {
            return Err(Untrue::Changed {
                name: (*name).to_owned(),
                found: found.clone(),
                signed: (*digest).to_owned(),
            });
        }
    }
    match files.keys().find(|name| !signed.contains_key(name.as_str())) {
        Some(name) => Err(Untrue::NotSigned { name: name.clone() }),
        None => Ok(()),
    }
}

/// Keeps what a statement says that people ask for.
fn note(verified: &mut Verified, statement: &Statement, line: usize) -> Result<(), Untrue> {
    match statement.predicate_type.as_str() {
        BUILD => {
            let id = &statement.predicate["runDetails"]["builder"]["id"];
            verified.builder_id = id.as_str().map(str::to_owned);
            verified.build = statement.predicate.clone();
        }
        TEST_RESULT => {
            let test: Result<TestResult, _> = serde_json::from_value(statement.predicate.clone());
            let test = test.map_err(|error| Untrue::NoStatement {
                line,
                reason: format!("its test result: {error}"),
            })?;
            verified.policy = Some(PolicyVerdict {
                sha256: test.policy_sha256().to_owned(),
                result: test.result,
                failed: test.failed_tests,
                warned: test.warned_tests,
            });
        }
        kind if kind == evaluation_type() => verified.evaluation = statement.predicate.clone(),
        _ => {}
    }
    Ok(())
}

/// Whether there is a pipeline, and its signature holds. One that can be signed must be.
fn check_model(found: FoundResult<'_>, key: &PublicKey) -> Result<bool, Untrue> {
    let pipeline: BTreeMap<&str, &str> = (found.files.iter())
        .filter_map(|(name, digest)| {
            let name = name.strip_prefix(PIPELINE)?.strip_prefix('/')?;
            Some((name, digest.as_str()))
        })
        .collect();
    match found.model_signature {
        Some(signature) => {
            verify_model(signature, &pipeline, key).map_err(Untrue::Model)?;
            Ok(true)
        }
        None if pipeline.is_empty() || key.algorithm() != KeyAlgorithm::EcdsaP256 => Ok(false),
        None => Err(Untrue::Missing { name: MODEL_SIGNATURE.to_owned() }),
    }
}
