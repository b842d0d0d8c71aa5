//! A verdict as `JUnit` XML, in the form that Jenkins' schema and `GitLab` take.

use std::fmt::Write;

use super::{
    GateVerdict, Outcome, RuleResult, Severity,
    escape::xml,
    table::{limit, waiver_of},
};

/// A verdict as `JUnit` XML: a case a rule. A failed rule is a failure, an undecided one an error, and
/// one that does not count is skipped where it is not kept.
pub fn junit(verdict: &GateVerdict) -> String {
    let cases: Vec<_> = verdict.rules.iter().map(|rule| (rule, Ending::of(rule))).collect();
    let count = |wanted: Ending| cases.iter().filter(|(_, ending)| *ending == wanted).count();
    let (tests, failures) = (cases.len(), count(Ending::Failure));
    let (errors, skipped) = (count(Ending::Error), count(Ending::Skipped));
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <testsuites name=\"keystep gate\" tests=\"{tests}\" failures=\"{failures}\" \
         errors=\"{errors}\">\n  \
         <testsuite name=\"{}\" tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\" \
         skipped=\"{skipped}\" id=\"0\" package=\"keystep\">\n    <properties>\n",
        xml(&verdict.policy.name)
    );
    for (name, value) in [
        ("verdict", verdict.verdict.to_string()),
        ("policy.sha256", verdict.policy.sha256.clone()),
        ("model", verdict.model.clone()),
        ("base", verdict.base.clone()),
        ("concept", verdict.concept.clone()),
        ("confidence", verdict.confidence.to_string()),
        ("look", format!("{} of {}", verdict.look, verdict.looks)),
        ("date", verdict.date.to_string()),
    ] {
        let _ = writeln!(text, "      <property name=\"{name}\" value=\"{}\"/>", xml(&value));
    }
    text += "    </properties>\n";
    for (rule, ending) in cases {
        text += &case(verdict, rule, ending);
    }
    text + "  </testsuite>\n</testsuites>\n"
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Passed,
    Failure,
    Error,
    Skipped,
}

impl Ending {
    fn of(rule: &RuleResult) -> Self {
        match (rule.outcome, rule.counts) {
            (Outcome::Passed, _) => Self::Passed,
            (_, false) => Self::Skipped,
            (Outcome::Failed, true) => Self::Failure,
            (Outcome::Undecided, true) => Self::Error,
        }
    }
}

fn case(verdict: &GateVerdict, rule: &RuleResult, ending: Ending) -> String {
    // GitLab knows a case again by both names.
    let class = format!("{}.{}", verdict.policy.name, verdict.concept);
    let mut text =
        format!("    <testcase name=\"{}\" classname=\"{}\">\n", xml(&rule.id), xml(&class));
    let (element, kind) = match (ending, rule.is_waived(), rule.severity) {
        (Ending::Passed, _, _) => (None, ""),
        (Ending::Failure, _, _) => (Some("failure"), "failed"),
        (Ending::Error, _, _) => (Some("error"), "undecided"),
        (Ending::Skipped, true, _) => (Some("skipped"), "waived"),
        (Ending::Skipped, false, Severity::Warning | Severity::Error) => {
            (Some("skipped"), "warning")
        }
    };
    let details = details(rule);
    match element {
        Some(element) => {
            let mut message = format!("{}: {}", rule.outcome, rule.message);
            if let Some(waiver) = waiver_of(rule) {
                let _ = write!(message, "; {waiver}");
            }
            let _ = writeln!(
                text,
                "      <{element} type=\"{kind}\" message=\"{}\">{}</{element}>",
                xml(&message),
                xml(&details)
            );
        }
        None => {
            let _ = writeln!(text, "      <system-out>{}</system-out>", xml(&details));
        }
    }
    text + "    </testcase>\n"
}

/// Every row in words, a line each.
fn details(rule: &RuleResult) -> String {
    let mut text = format!("{} {} ({})\n", rule.measure, limit(rule), rule.kind);
    for row in &rule.rows {
        let outcome = row.outcome.map_or_else(|| "not asked".to_owned(), |it| it.to_string());
        let whose = [row.of.as_str(), row.judge.as_str()].join(" ");
        let _ = writeln!(text, "{outcome} {}: {}", whose.trim(), row.message);
    }
    if let Some(waiver) = waiver_of(rule) {
        let _ = writeln!(text, "{waiver}");
    }
    text
}
