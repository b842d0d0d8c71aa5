//! What a result's statements are made of.

use serde_json::{Map, Value};

use super::TestResult;
use crate::outcome::FinishedResult;

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
