//! A verdict as a table for the terminal: a line a rule, and one a row that is not well.

use std::fmt::Write;

use super::{GateVerdict, Outcome, RowResult, RuleResult, Severity, escape::plain};

/// A verdict as a table, with a line end.
pub fn table(verdict: &GateVerdict) -> String {
    let heads = ["outcome", "rule", "measure", "value", "interval", "limit", "n"];
    let mut lines: Vec<[String; 7]> = vec![heads.map(str::to_owned)];
    lines.extend(verdict.rules.iter().map(line));
    let mut widths = [0; 7];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<_> = line
            .iter()
            .zip(widths)
            .map(|(cell, width)| cell.clone() + &" ".repeat(width - cell.chars().count()))
            .collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    let notes = verdict.worst_first().into_iter().filter_map(note);
    let notes: Vec<_> = notes.collect();
    if !notes.is_empty() {
        text.push('\n');
        text += &notes.concat();
    }
    let _ = writeln!(
        text,
        "\n{}: {} by the policy {} (sha256 {}), {} without \"{}\"",
        verdict.verdict,
        counted(verdict),
        plain(&verdict.policy.name),
        plain(&verdict.policy.sha256),
        plain(&verdict.model),
        plain(&verdict.concept),
    );
    text
}

/// How many rules came to what.
pub(super) fn counted(verdict: &GateVerdict) -> String {
    let of = |outcome: Outcome| verdict.rules.iter().filter(|rule| rule.outcome == outcome).count();
    let (passed, failed) = (of(Outcome::Passed), of(Outcome::Failed));
    format!("{passed} passed, {failed} failed, {} undecided", of(Outcome::Undecided))
}

/// An outcome in words, with what keeps it from counting.
pub(super) fn outcome_of(rule: &RuleResult) -> String {
    if rule.outcome == Outcome::Passed {
        return rule.outcome.to_string();
    }
    let why = match (rule.is_waived(), rule.severity) {
        (true, _) => " (waived)",
        (false, Severity::Warning) => " (warning)",
        (false, Severity::Error) => "",
    };
    format!("{}{why}", rule.outcome)
}

/// The exception of a rule in words.
pub(super) fn waiver_of(rule: &RuleResult) -> Option<String> {
    rule.waiver.as_ref().map(|waiver| {
        let state = if waiver.expired { "waiver expired on" } else { "waived until" };
        format!("{state} {}: {}", waiver.until, waiver.reason)
    })
}

/// The row that stands for a rule: its worst.
pub(super) fn worst_row(rule: &RuleResult) -> RowResult {
    rule.rows.iter().find(|row| row.outcome == Some(rule.outcome)).cloned().unwrap_or_default()
}

/// A number of a result, or a dash.
pub(super) fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"))
}

/// An interval of a result, or a dash.
pub(super) fn interval(row: &RowResult) -> String {
    match (row.low, row.high) {
        (None, None) => "–".to_owned(),
        (low, high) => format!("{} to {}", number(low), number(high)),
    }
}

/// A rule's limit in words.
pub(super) fn limit(rule: &RuleResult) -> String {
    format!("{} {}", rule.bound.side.key().replace('_', " "), rule.bound.limit)
}

fn line(rule: &RuleResult) -> [String; 7] {
    let row = worst_row(rule);
    [
        outcome_of(rule),
        plain(&rule.id),
        format!("{} ({})", rule.measure, rule.kind),
        number(row.value),
        interval(&row),
        limit(rule),
        row.pictures.map_or_else(|| "–".to_owned(), |pictures| pictures.to_string()),
    ]
}

fn note(rule: &RuleResult) -> Option<String> {
    let mut note = String::new();
    let visible = rule.rows.iter().filter_map(|row| row.smallest_visible);
    if rule.outcome != Outcome::Passed {
        let _ = writeln!(note, "{}: {}", plain(&rule.id), plain(&rule.message));
    } else if let Some(visible) = visible.max_by(f64::total_cmp) {
        let id = plain(&rule.id);
        let _ = writeln!(note, "{id}: the smallest damage that it could have seen is {visible:.3}");
    }
    if let Some(waiver) = waiver_of(rule) {
        let _ = writeln!(note, "{}: {}", plain(&rule.id), plain(&waiver));
    }
    (!note.is_empty()).then_some(note)
}
