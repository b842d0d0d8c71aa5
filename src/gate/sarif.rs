//! A verdict as SARIF 2.1.0, in the form that `GitHub`'s code scanning takes.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{
    GateVerdict, Outcome, RuleResult, Severity,
    escape::uri,
    policy_file::sha256,
    table::{limit, waiver_of},
};

/// A verdict as SARIF. Rules that are kept give no result, since each result becomes an alert.
pub fn sarif(verdict: &GateVerdict) -> Value {
    let rules: Vec<_> = verdict.rules.iter().map(descriptor).collect();
    let results: Vec<_> = verdict
        .rules
        .iter()
        .enumerate()
        .filter(|(_, rule)| rule.outcome != Outcome::Passed)
        .map(|(index, rule)| result(verdict, rule, index))
        .collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "keystep gate",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            } },
            "columnKind": "unicodeCodePoints",
            "results": results,
            "properties": {
                "verdict": verdict.verdict,
                "policySha256": verdict.policy.sha256,
                "model": verdict.model,
                "concept": verdict.concept,
            },
        }],
    })
}

/// By what a service knows a finding again when the gate runs anew: model, rule and concept.
pub(super) fn fingerprint(verdict: &GateVerdict, rule: &RuleResult) -> String {
    // A list, so that no text can run over into the next.
    sha256(json!([verdict.model, rule.id, verdict.concept]).to_string().as_bytes())
}

/// The file that findings are shown in.
pub(super) fn place(verdict: &GateVerdict) -> String {
    let file = verdict.policy.file.as_str();
    uri(if file.is_empty() { "policy.toml" } else { file })
}

fn descriptor(rule: &RuleResult) -> Value {
    let level = match rule.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    json!({
        "id": rule.id,
        "shortDescription": { "text": format!("{} {}", rule.measure, limit(rule)) },
        "defaultConfiguration": { "level": level },
        "properties": { "kind": rule.kind },
    })
}

fn result(verdict: &GateVerdict, rule: &RuleResult, index: usize) -> Value {
    let (kind, level) = match (rule.outcome, rule.severity) {
        (Outcome::Failed, Severity::Error) => ("fail", "error"),
        (Outcome::Failed, Severity::Warning) => ("fail", "warning"),
        // 3.27.9 and 3.27.10: a kind other than "fail" goes with the level "none".
        (Outcome::Undecided, _) => ("open", "none"),
        (Outcome::Passed, _) => ("pass", "none"),
    };
    let mut result = json!({
        "ruleId": rule.id,
        "ruleIndex": index,
        "kind": kind,
        "level": level,
        "message": { "text": message(verdict, rule) },
        "locations": [{ "physicalLocation": {
            "artifactLocation": { "uri": place(verdict) },
            "region": { "startLine": rule.line.max(1) },
        } }],
        "partialFingerprints": { "keystepRule/v1": fingerprint(verdict, rule) },
    });
    if rule.is_waived() {
        let justification = waiver_of(rule).unwrap_or_default();
        result["suppressions"] =
            json!([{ "kind": "external", "status": "accepted", "justification": justification }]);
    }
    result
}

/// A finding in words, for people who see nothing else.
pub(super) fn message(verdict: &GateVerdict, rule: &RuleResult) -> String {
    let mut text = format!(
        "{} {} of \"{}\" in {}: {}",
        rule.id, rule.outcome, verdict.concept, verdict.model, rule.message
    );
    if let Some(waiver) = waiver_of(rule) {
        let _ = write!(text, "; {waiver}");
    }
    text
}
