//! A verdict as `GitHub` Actions shows it: the step's summary, and annotations.

use std::fmt::Write;

use super::{
    GateVerdict, Outcome, RuleResult,
    escape::{command_message, command_property, markdown, plain},
    sarif::message,
    table::{counted, interval, limit, number, outcome_of, waiver_of, worst_row},
};

/// A step's summary may have 1 MiB; several may be appended to one.
const MOST_SUMMARY_BYTES: usize = 200 << 10;
/// Annotations of each level that a step shows.
const MOST_OF_LEVEL: usize = 10;

/// A verdict in Markdown, to be appended to the step's summary.
pub fn summary(verdict: &GateVerdict) -> String {
    let mut text = format!(
        "## Keystep gate: {}\n\n{} without **{}**, {} by the policy {} \
         (<code>{}</code>), look {} of {}\n\n\
         | Outcome | Rule | Measure | Value | Interval | Limit | Pictures |\n\
         | --- | --- | --- | ---: | --- | --- | ---: |\n",
        verdict.verdict,
        markdown(&verdict.model),
        markdown(&verdict.concept),
        counted(verdict),
        markdown(&verdict.policy.name),
        markdown(&verdict.policy.sha256),
        verdict.look,
        verdict.looks,
    );
    let mut left_out = 0_usize;
    for part in verdict.worst_first().into_iter().map(line) {
        if text.len() + part.len() <= MOST_SUMMARY_BYTES {
            text += &part;
        } else {
            left_out += 1;
        }
    }
    text.push('\n');
    for rule in verdict.worst_first() {
        let Some(part) = details(rule) else { continue };
        if text.len() + part.len() <= MOST_SUMMARY_BYTES {
            text += &part;
        } else {
            left_out += 1;
        }
    }
    if left_out > 0 {
        let _ = writeln!(text, "\n{left_out} more lines are left out; the JSON has them.");
    }
    text + "\n"
}

fn line(rule: &RuleResult) -> String {
    let row = worst_row(rule);
    let pictures = row.pictures.map_or_else(|| "–".to_owned(), |pictures| pictures.to_string());
    format!(
        "| {} | {} | {} ({}) | {} | {} | {} | {pictures} |\n",
        outcome_of(rule),
        markdown(&rule.id),
        rule.measure,
        rule.kind,
        number(row.value),
        interval(&row),
        limit(rule),
    )
}

fn details(rule: &RuleResult) -> Option<String> {
    let waiver = waiver_of(rule);
    if rule.outcome == Outcome::Passed && waiver.is_none() {
        return None;
    }
    let mut text = format!("- **{}**: {}", markdown(&rule.id), markdown(&rule.message));
    if let Some(waiver) = waiver {
        let _ = write!(text, "; {}", markdown(&waiver));
    }
    Some(text + "\n")
}

/// Annotations of the policy's lines, one a rule that is not kept, worst first.
pub fn annotations(verdict: &GateVerdict) -> String {
    let mut text = String::new();
    let mut counts = [("error", 0), ("warning", 0), ("notice", 0)];
    for rule in verdict.worst_first() {
        let level = match (rule.outcome, rule.counts) {
            (Outcome::Passed, _) => continue,
            (Outcome::Failed, true) => "error",
            (_, false) if rule.is_waived() => "notice",
            (Outcome::Undecided, true) | (_, false) => "warning",
        };
        let Some((_, count)) = counts.iter_mut().find(|(name, _)| *name == level) else { continue };
        *count += 1;
        if *count > MOST_OF_LEVEL {
            continue;
        }
        let file = Some(verdict.policy.file.as_str()).filter(|file| !file.is_empty());
        let _ = writeln!(
            text,
            "::{level} file={},line={},title={}::{}",
            command_property(file.unwrap_or("policy.toml")),
            rule.line.max(1),
            command_property(&plain(&format!("keystep gate: {} {}", rule.id, rule.outcome))),
            command_message(&plain(&message(verdict, rule))),
        );
    }
    text
}
