//! in-toto statements, version 1: a predicate about files that are named by their digests.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::outcome::FileDigest;

/// The type of every statement.
pub const STATEMENT: &str = "https://in-toto.io/Statement/v1";

/// What somebody says of some files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Statement<P = Value> {
    /// [`STATEMENT`].
    #[serde(rename = "_type")]
    pub kind: String,
    /// The files.
    pub subject: Vec<Subject>,
    /// What the predicate is.
    #[serde(rename = "predicateType")]
    pub predicate_type: String,
    /// What is said.
    pub predicate: P,
}

impl<P> Statement<P> {
    /// Says this of these files.
    pub fn new(subject: Vec<Subject>, predicate_type: &str, predicate: P) -> Self {
        Self {
            kind: STATEMENT.to_owned(),
            subject,
            predicate_type: predicate_type.to_owned(),
            predicate,
        }
    }
}

/// A file that a statement is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Path with `/` within the result's folder.
    pub name: String,
    /// Digests of the file's content, by algorithm.
    pub digest: Digests,
}

impl From<&FileDigest> for Subject {
    fn from(file: &FileDigest) -> Self {
        Self { name: file.name.clone(), digest: Digests::sha256(&file.sha256) }
    }
}

/// Digests by the name of their algorithm, hexadecimal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digests(BTreeMap<String, String>);

impl Digests {
    /// One SHA-256.
    pub fn sha256(digest: &str) -> Self {
        Self(BTreeMap::from([("sha256".to_owned(), digest.to_owned())]))
    }

    /// The SHA-256, where there is one.
    pub fn get_sha256(&self) -> Option<&str> {
        self.0.get("sha256").map(String::as_str)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Something that went into a result or came out beside it, as in-toto names such.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ResourceDescriptor {
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// Digests of its content, by algorithm; none where they are not known.
    #[serde(default, skip_serializing_if = "Digests::is_empty")]
    pub digest: Digests,
    /// Anything else that is worth knowing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, Value>,
}

impl ResourceDescriptor {
    /// By name and SHA-256.
    pub fn new(name: &str, sha256: &str) -> Self {
        Self { name: Some(name.to_owned()), digest: Digests::sha256(sha256), ..Self::default() }
    }
}
