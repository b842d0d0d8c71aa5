use serde_json::Value;

use super::*;
use crate::gate::{annotations, code_quality, junit, sarif, summary, table};

/// What a hostile client may call a concept, a judge or a suite.
const HOSTILE: &str =
    "\"><script>alert(1)</script>'&\r\n::error::x%0A\u{0}\u{1b}[31m\u{202e}|`@a`\u{ffff}";

/// A verdict with a failed, an undecided, a warning, a waived and a passed rule, and hostile names
/// everywhere.
pub(super) fn hostile() -> GateVerdict {
    let quoted = "\"\\\"><script>\\n%,:|\"";
    let text = format!(
        "schema = 1\nname = {quoted}\n\
         [[rule]]\nid = \"passes\"\nmeasure = \"ira\"\nat_least = 0.9\n\
         [[rule]]\nid = \"warns\"\nmeasure = \"ua\"\nat_least = 0.9\nseverity = \"warning\"\n\
         [[rule]]\nid = \"waits\"\nmeasure = \"drop-cra\"\nat_most = 0.02\n\
         [[rule]]\nid = \"waived\"\nmeasure = \"ua\"\nat_least = 0.8\n\
         waive = {{ until = \"2027-03-31\", reason = {quoted} }}\n\
         [[rule]]\nid = {quoted}\nmeasure = \"ua\"\nat_least = 0.95\n"
    );
    let policy = policy(&text);
    let mut counts = measures(2, 32);
    counts.words[0].word = HOSTILE.to_owned();
    let judges = [JudgeCounts { judge: HOSTILE, measures: Some(&counts) }];
    let measured = Measured {
        model: HOSTILE,
        base: HOSTILE,
        concept: HOSTILE,
        judges: &judges,
        ..Measured::default()
    };
    let today = "2027-01-15".parse().unwrap();
    policy.decide(&measured, Circumstances { policy_file: "ci/a b%,:\"<.toml", today, look: 1 })
}

#[test]
fn the_table_has_a_line_a_rule_and_no_others() {
    let verdict = hostile();
    let text = table(&verdict);
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("outcome"), "{text}");
    let heads = ["passed", "failed (warning)", "undecided", "failed (waived)", "failed"];
    for (line, head) in lines[1..].iter().zip(heads) {
        assert!(line.starts_with(head), "{text}");
    }
    assert!(lines.last().unwrap().starts_with("rejected: 1 passed, 3 failed, 1 undecided"));
    assert!(text.contains("waived until 2027-03-31"), "{text}");
    let is_safe = |c: char| c == '\n' || !c.is_control() && c != '\u{202e}';
    assert!(text.chars().all(is_safe), "{text:?}");
    assert!(!lines.iter().any(|line| line.starts_with("::")), "{text}");
}

#[test]
fn junit_holds_what_xml_can_and_counts_its_cases() {
    let text = junit(&hostile());
    let is_legal = |c: char| c == '\n' || c >= ' ' && c != '\u{ffff}';
    assert!(text.chars().all(is_legal), "{text:?}");
    assert!(!text.contains("<script>"), "{text}");
    let counts = "tests=\"5\" failures=\"1\" errors=\"1\" skipped=\"2\"";
    assert!(text.contains(counts), "{text}");
    for (element, count) in [("<testcase ", 5), ("<failure ", 1), ("<error ", 1), ("<skipped ", 2)]
    {
        assert_eq!(text.matches(element).count(), count, "{element}: {text}");
    }
    assert!(text.contains("<error type=\"undecided\""));
}

#[test]
fn sarif_names_the_line_of_each_rule_that_is_not_kept() {
    let verdict = hostile();
    let log = sarif(&verdict);
    let run = &log["runs"][0];
    assert_eq!(run["tool"]["driver"]["rules"].as_array().unwrap().len(), 5);
    let results = run["results"].as_array().unwrap();
    let seen: Vec<_> = results
        .iter()
        .map(|result| {
            let place = &result["locations"][0]["physicalLocation"];
            assert_eq!(place["artifactLocation"]["uri"], "ci/a%20b%25%2C%3A%22%3C.toml");
            let rule = result["ruleIndex"].as_u64().unwrap() as usize;
            assert_eq!(place["region"]["startLine"], verdict.rules[rule].line);
            (rule, result["kind"].as_str().unwrap(), result["level"].as_str().unwrap())
        })
        .collect();
    assert_eq!(
        seen,
        [(1, "fail", "warning"), (2, "open", "none"), (3, "fail", "error"), (4, "fail", "error")]
    );
    assert!(results[2]["suppressions"][0]["justification"].as_str().unwrap().contains("waived"));
    assert_eq!(results[3].get("suppressions"), None);
}

#[test]
fn a_finding_is_known_again_whatever_it_says() {
    let prints = |verdict: &GateVerdict| -> Vec<Value> {
        let log = sarif(verdict);
        let results = log["runs"][0]["results"].as_array().unwrap().clone();
        results.into_iter().map(|result| result["partialFingerprints"].clone()).collect()
    };
    let verdict = hostile();
    let again = GateVerdict { date: "2027-02-01".parse().unwrap(), look: 2, ..verdict.clone() };
    assert_eq!(prints(&verdict), prints(&again));
    let other = GateVerdict { concept: "dog".to_owned(), ..verdict.clone() };
    assert!(prints(&verdict).iter().all(|print| !prints(&other).contains(print)));
    let unique: std::collections::BTreeSet<_> =
        prints(&verdict).iter().map(ToString::to_string).collect();
    assert_eq!(unique.len(), 4);
}

#[test]
fn code_quality_has_gitlabs_members_worst_first() {
    let list = code_quality(&hostile());
    let list = list.as_array().unwrap();
    let severities: Vec<_> = list.iter().map(|it| it["severity"].as_str().unwrap()).collect();
    assert_eq!(severities, ["blocker", "major", "minor", "info"]);
    for finding in list {
        for text in ["description", "check_name", "fingerprint"] {
            assert!(finding[text].is_string(), "{finding}");
        }
        assert!(finding["location"]["path"].is_string());
        assert!(finding["location"]["lines"]["begin"].as_u64() >= Some(1));
    }
}

#[test]
fn annotations_are_one_a_line_and_ten_a_level() {
    let text = annotations(&hostile());
    let lines: Vec<_> = text.lines().collect();
    let levels: Vec<_> = lines.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(levels, ["::error", "::warning", "::warning", "::notice"], "{text}");
    assert!(lines[0].starts_with("::error file=ci/a b%25%2C%3A\"<.toml,line="), "{text}");
    let properties = lines[0].strip_prefix("::error ").unwrap().split("::").next().unwrap();
    assert_eq!(properties.matches(',').count(), 2, "{properties}");
    assert!(lines[0].contains("title=keystep gate%3A "), "{text}");

    let many = GateVerdict { rules: vec![hostile().rules[4].clone(); 30], ..hostile() };
    assert_eq!(annotations(&many).lines().count(), 10);
}

#[test]
fn a_summary_shows_text_as_it_is_written() {
    let verdict = hostile();
    let text = summary(&verdict);
    assert!(!text.contains("<script>") && !text.contains("@a") && !text.contains('`'), "{text}");
    let rows: Vec<_> = text.lines().filter(|line| line.starts_with('|')).collect();
    assert_eq!(rows.len(), 2 + 5, "{text}");
    assert!(rows.iter().all(|row| row.matches('|').count() == 8), "{text}");
    assert!(rows[2].starts_with("| failed |"), "{text}");
    let many = GateVerdict { rules: vec![verdict.rules[4].clone(); 5_000], ..verdict };
    let long = summary(&many);
    assert!(long.len() < (256 << 10) && long.contains("are left out"), "{}", long.len());
}
