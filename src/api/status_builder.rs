//! Builds each `tonic::Status` that the server answers with, whose details name its reason.

use std::{collections::HashMap, time::Duration};

use tonic::Status;
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use super::Reason;
use crate::spec::Violation;

/// Who names the reasons.
const DOMAIN: &str = "keystep.v1";
/// Details travel as one header of 8 KiB at most, in base64.
const MOST_BYTES_OF_VIOLATIONS: usize = 3_500;
const MOST_CHARACTERS_OF_A_FIELD: usize = 120;
const MOST_CHARACTERS_OF_A_TEXT: usize = 400;

/// A status in the making: its code is the reason's, and its details begin with an `ErrorInfo`.
pub(crate) struct StatusBuilder {
    reason: Reason,
    message: String,
    /// Every variable of the message, by lowerCamelCase name.
    variables: Vec<(String, String)>,
    details: ErrorDetails,
}

impl StatusBuilder {
    pub(crate) fn new(reason: impl Into<Reason>, message: impl Into<String>) -> Self {
        let (reason, message) = (reason.into(), message.into());
        Self { reason, message, variables: Vec::new(), details: ErrorDetails::new() }
    }

    /// With a variable of the message; its name in lowerCamelCase.
    pub(crate) fn with(mut self, name: &str, value: &impl ToString) -> Self {
        self.variables.push((name.to_owned(), value.to_string()));
        self
    }

    pub(crate) fn retry_after(mut self, delay: Duration) -> Self {
        self.details.set_retry_info(Some(delay));
        self.with("retryAfterSeconds", &delay.as_secs())
    }

    pub(crate) fn quota(mut self, subject: &str) -> Self {
        self.details.add_quota_failure_violation(subject, clipped(&self.message));
        self
    }

    pub(super) fn resource(mut self, kind: &str, name: &str) -> Self {
        self.details.set_resource_info(kind, clipped(name), "", clipped(&self.message));
        self
    }

    pub(super) fn precondition(mut self, subject: &str) -> Self {
        let (kind, text) = (self.reason.name(), clipped(&self.message));
        self.details.add_precondition_failure_violation(kind, subject, text);
        self
    }

    /// With the fields that are wrong, if any, by their names on the wire.
    pub(super) fn bad_request(mut self, violations: &[Violation]) -> Self {
        if !violations.is_empty() {
            self.details.set_bad_request(shown(violations));
        }
        self
    }

    pub(crate) fn build(self) -> Status {
        let Self { reason, message, variables, mut details } = self;
        let variables = variables.into_iter().map(|(name, value)| (name, clipped(&value)));
        details.set_error_info(reason.name(), DOMAIN, variables.collect::<HashMap<_, _>>());
        Status::with_error_details(reason.code(), clipped(&message), details)
    }
}

/// As many violations as a header holds, each short enough to be read.
fn shown(violations: &[Violation]) -> Vec<FieldViolation> {
    let mut left = MOST_BYTES_OF_VIOLATIONS;
    let mut shown = Vec::new();
    for (index, violation) in violations.iter().enumerate() {
        let field = clipped_to(&violation.field.to_string(), MOST_CHARACTERS_OF_A_FIELD);
        let message = clipped(&violation.message);
        let size = field.len() + message.len() + 8;
        if size > left {
            let more = violations.len() - index;
            let message = format!("{more} more fields are wrong; change those named first");
            shown.push(FieldViolation::new("", message));
            break;
        }
        left -= size;
        shown.push(FieldViolation::new(field, message));
    }
    shown
}

/// A text of a client's may be as long as a message; what a status quotes of it is not.
fn clipped(text: &str) -> String {
    clipped_to(text, MOST_CHARACTERS_OF_A_TEXT)
}

fn clipped_to(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most).chain(['…']).collect()
}
