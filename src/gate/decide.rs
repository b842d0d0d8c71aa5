//! Holds figures against a policy.

use std::{cmp::Reverse, fmt::Write};

use super::{
    Bound, Date, GateVerdict, Outcome, Policy, PolicyReference, RowResult, Rule, RuleKind,
    RuleResult, Severity, WaiverState,
    measured::{Doubt, Found, Measured, Row, rows},
    reading::{Placed, Reading},
};
use crate::outcome::Confidence;

/// What the caller knows and the policy does not.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    /// Path of the policy's file, as outputs shall name it; empty where there is none.
    pub policy_file: &'a str,
    /// The day that waivers are held against, in UTC.
    pub today: Date,
    /// Which look at the pictures this is, from 1.
    pub look: usize,
}

impl Policy {
    /// What the policy says of a model.
    pub fn decide(&self, measured: &Measured<'_>, at: Circumstances<'_>) -> GateVerdict {
        let confidence = self.confidence.split(self.looks);
        let rules: Vec<_> = self
            .rules
            .iter()
            .map(|rule| rule_result(rule, rows(rule, measured), confidence, at.today))
            .collect();
        GateVerdict {
            schema: 1,
            verdict: GateVerdict::decision(&rules),
            policy: PolicyReference {
                name: self.name.clone(),
                sha256: self.sha256.clone(),
                file: at.policy_file.to_owned(),
            },
            model: measured.model.to_owned(),
            base: measured.base.to_owned(),
            concept: measured.concept.to_owned(),
            confidence: self.confidence.level(),
            looks: self.looks,
            look: at.look,
            date: at.today,
            rules,
        }
    }
}

fn rule_result(rule: &Rule, rows: Vec<Row>, confidence: Confidence, today: Date) -> RuleResult {
    let read = rows.iter().filter(|row| matches!(row.found, Found::Reading(..))).count();
    // Rows that are read at once share the error.
    let confidence = confidence.split(read);
    let mut rows: Vec<_> = rows.into_iter().map(|row| row_result(rule, row, confidence)).collect();
    rows.sort_by_key(|row| Reverse(row.outcome));
    let outcome = rows.iter().filter_map(|row| row.outcome).max().unwrap_or(Outcome::Undecided);
    let waiver = rule.waive.as_ref().map(|waiver| WaiverState {
        until: waiver.until,
        reason: waiver.reason.clone(),
        expired: waiver.until < today,
    });
    let is_waived = waiver.as_ref().is_some_and(|waiver| !waiver.expired);
    RuleResult {
        id: rule.id.clone(),
        line: rule.line,
        measure: rule.measure,
        kind: rule.kind,
        severity: rule.severity,
        bound: rule.bound,
        outcome,
        counts: rule.severity == Severity::Error && !is_waived,
        waiver,
        message: message_of(&rows, outcome),
        rows,
    }
}

/// The worst row in words, and how many are like it.
fn message_of(rows: &[RowResult], outcome: Outcome) -> String {
    let mut alike = rows.iter().filter(|row| row.outcome == Some(outcome));
    let Some(first) = alike.next() else { return "nothing was measured".to_owned() };
    let whose = match (first.of.as_str(), first.judge.as_str()) {
        ("", "") => String::new(),
        (of, "") => format!("{of}: "),
        ("", judge) => format!("by {judge}: "),
        (of, judge) => format!("{of}, by {judge}: "),
    };
    let more = match alike.count() {
        0 => String::new(),
        more => format!(" (and {more} more {outcome})"),
    };
    format!("{whose}{}{more}", first.message)
}

fn row_result(rule: &Rule, row: Row, confidence: Confidence) -> RowResult {
    let Row { judge, of, found } = row;
    let named = RowResult { judge, of, ..RowResult::default() };
    let (reading, doubt) = match found {
        Found::NotApplicable(message) => return RowResult { message, ..named },
        Found::Absent(message) => {
            return RowResult { outcome: Some(Outcome::Undecided), message, ..named };
        }
        Found::Reading(reading, doubt) => (reading, doubt),
    };
    let placed = reading.placed(rule.bound, confidence);
    let is_alarm = rule.kind == RuleKind::Alarm;
    let visible = if is_alarm { reading.smallest_visible(rule.bound, confidence) } else { None };
    let by_interval = match (placed, rule.kind) {
        (Placed::Wrong, _) => Outcome::Failed,
        (Placed::Right, _) => Outcome::Passed,
        // An alarm that nothing could have raised has looked at nothing.
        (Placed::Across, RuleKind::Alarm) if visible.is_some() => Outcome::Passed,
        (Placed::Across, _) => Outcome::Undecided,
    };
    let (outcome, why) = match (doubt, by_interval) {
        (Doubt::CannotDecide(why), _) | (Doubt::CannotPass(why), Outcome::Passed) => {
            (Outcome::Undecided, Some(why))
        }
        (Doubt::CannotPass(why), Outcome::Undecided) => (Outcome::Undecided, Some(why)),
        (Doubt::None | Doubt::CannotPass(_), outcome) => (outcome, None),
    };
    // More pictures do not help where something else is missing.
    let more = (outcome == Outcome::Undecided && why.is_none())
        .then(|| reading.more_pictures(rule.bound, confidence))
        .flatten();
    let interval = reading.interval(confidence);
    let finite = |end: f64| Some(end).filter(|end| end.is_finite());
    let mut result = RowResult {
        outcome: Some(outcome),
        value: reading.value(),
        low: finite(interval.low),
        high: finite(interval.high),
        pictures: reading.pictures(),
        more_pictures: more,
        smallest_visible: visible,
        ..named
    };
    result.message = message(&result, rule.bound, is_alarm, &reading, why);
    result
}

/// A row in words: the figure, what it can be, the limit, and what would help.
fn message(
    row: &RowResult,
    bound: Bound,
    is_alarm: bool,
    reading: &Reading,
    why: Option<String>,
) -> String {
    let number = |value: Option<f64>| value.map_or_else(|| "?".to_owned(), |it| format!("{it:.3}"));
    let mut text = number(row.value);
    // Writing to a string cannot fail.
    if let Some(pictures) = row.pictures {
        let _ = write!(text, " over {pictures} pictures");
    }
    let range = match (row.low, row.high) {
        (None, None) => String::new(),
        (Some(low), None) => format!(", {low:.3} or more"),
        (None, Some(high)) => format!(", {high:.3} or less"),
        (Some(low), Some(high)) => format!(", from {low:.3} to {high:.3}"),
    };
    text += &range;
    let side = bound.side.key().replace('_', " ");
    let _ = write!(text, "; to be {side} {}", bound.limit);
    if let Some(visible) = row.smallest_visible {
        let _ = write!(text, "; {visible:.3} would have raised the alarm");
    }
    if let Some(why) = why {
        return format!("{text}; {why}");
    }
    if row.outcome != Some(Outcome::Undecided) {
        return text;
    }
    let remedy = match (row.more_pictures, reading) {
        (_, Reading::Point { .. }) => {
            "; no interval of it is known, so that it shows nothing".to_owned()
        }
        (Some(more), _) if is_alarm => {
            format!("; too few pictures to raise an alarm, {more} more decide at the present rate")
        }
        (Some(more), _) => format!("; {more} more pictures decide at the present rate"),
        (None, Reading::HeadStart(_)) => "; more pictures a point are needed".to_owned(),
        (None, _) => "; no number of pictures decides at the present rate".to_owned(),
    };
    text + &remedy
}
