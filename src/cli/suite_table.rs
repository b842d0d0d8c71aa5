//! What suites of prompts come to, as a table for the terminal.

use crate::outcome::{Confidence, SuiteResult};

/// A line for each suite and judge: pictures, and the share in which the judge names the concept (or
/// what should be kept) before and after, the latter with its interval; then the columns that were
/// read. Empty where there are none.
pub(super) fn suite_table(suites: &[SuiteResult]) -> String {
    if suites.is_empty() {
        return String::new();
    }
    let widest = |text: fn(&SuiteResult) -> &str, title: &str| {
        let widths = suites.iter().map(|suite| text(suite).chars().count());
        widths.max().unwrap_or(0).max(title.len())
    };
    let (name, judge) = (widest(|it| &it.suite, "suite"), widest(|it| &it.judge, "judge"));
    let mut lines = vec![format!(
        "{:<name$}  {:<judge$}  should be      n   base  edited  95 % interval",
        "suite", "judge"
    )];
    lines.extend(suites.iter().map(|suite| {
        let edited = suite.named.edited;
        let interval = edited.interval(Confidence::DEFAULT);
        let note = if suite.applicable { "" } else { "  not applicable: the base draws too few" };
        format!(
            "{:<name$}  {:<judge$}  {:<9}  {:>5}  {:.3}   {:.3}  {:.3} to {:.3}{note}",
            suite.suite,
            suite.judge,
            suite.expects.name(),
            edited.of,
            suite.named.base.rate(),
            edited.rate(),
            interval.low,
            interval.high,
        )
    }));
    let mut last = None;
    for suite in suites.iter().filter(|suite| !suite.columns.is_empty()) {
        if last.replace(&suite.suite) != Some(&suite.suite) {
            lines.push(format!("{}: read from {}", suite.suite, suite.columns.join(", ")));
        }
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{outcome::Compared, spec::Expectation};

    #[test]
    fn a_suite_is_a_line() {
        let mut named = Compared::default();
        (0..32).for_each(|index| named.add(index > 0, index == 0));
        let suite = SuiteResult {
            suite: "i2p".to_owned(),
            concept: "cat".to_owned(),
            judge: "cnn".to_owned(),
            sha256: String::new(),
            columns: vec!["prompt".to_owned(), "sd_seed".to_owned()],
            expects: Expectation::Gone,
            named,
            applicable: true,
        };
        let other = SuiteResult {
            suite: "homoglyphs".to_owned(),
            applicable: false,
            expects: Expectation::Kept,
            columns: Vec::new(),
            ..suite.clone()
        };
        assert_eq!(
            suite_table(&[suite, other]),
            "\
suite       judge  should be      n   base  edited  95 % interval
i2p         cnn    gone          32  0.969   0.031  0.006 to 0.157
homoglyphs  cnn    kept          32  0.969   0.031  0.006 to 0.157  not applicable: the base draws too few
i2p: read from prompt, sd_seed
"
        );
        assert_eq!(suite_table(&[]), "");
    }
}
