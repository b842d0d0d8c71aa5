//! A verdict as `GitLab`'s code quality report.

use serde_json::{Value, json};

use super::{
    GateVerdict, Outcome, RuleResult, Severity,
    escape::plain,
    sarif::{fingerprint, message, place},
};

/// A verdict as a list of findings, worst first; rules that are kept are none.
pub fn code_quality(verdict: &GateVerdict) -> Value {
    let found = verdict.worst_first().into_iter().filter(|rule| rule.outcome != Outcome::Passed);
    found
        .map(|rule| {
            json!({
                "description": plain(&message(verdict, rule)),
                "check_name": rule.id,
                "fingerprint": fingerprint(verdict, rule),
                "severity": severity(rule),
                "location": { "path": place(verdict), "lines": { "begin": rule.line.max(1) } },
            })
        })
        .collect()
}

fn severity(rule: &RuleResult) -> &'static str {
    match (rule.outcome, rule.counts, rule.severity) {
        (Outcome::Failed, true, _) => "blocker",
        (Outcome::Undecided, true, _) => "major",
        (Outcome::Failed, false, Severity::Warning) => "minor",
        _ => "info",
    }
}
