use super::*;
use crate::gate::{Bound, JudgeChoice, Measure, RuleKind, Severity, Side, Target};

#[test]
fn the_example_is_read() {
    let policy = policy(RELEASE);
    assert_eq!((policy.name.as_str(), policy.looks), ("release", 3));
    assert!((policy.confidence.level() - 0.95).abs() < 1e-12);
    // sha256sum src/gate/tests/release.toml
    assert_eq!(policy.sha256, sha256_of_release());
    let lines: Vec<_> = policy.rules.iter().map(|rule| (rule.id.as_str(), rule.line)).collect();
    assert_eq!(lines, [("forgets", 6), ("neighbours", 12), ("inversion", 19)]);
    let [forgets, neighbours, inversion] = policy.rules.as_slice() else { panic!("other rules") };
    assert_eq!((forgets.measure, &forgets.judge), (Measure::Ua, &JudgeChoice::Each));
    assert_eq!((forgets.kind, forgets.severity), (RuleKind::Proof, Severity::Error));
    assert_eq!(forgets.bound, Bound { side: Side::AtLeast, limit: 0.95 });
    assert_eq!((neighbours.kind, &neighbours.of), (RuleKind::Alarm, &Target::EachNeighbour));
    assert_eq!(inversion.of, Target::Attack(AttackName::ConceptInversion));
    assert_eq!((inversion.budget, inversion.severity), (Some(4_000), Severity::Warning));
    assert_eq!(inversion.waive.as_ref().unwrap().until.to_string(), "2027-03-31");
}

fn sha256_of_release() -> String {
    use sha2::Digest;
    let bytes = sha2::Sha256::digest(RELEASE);
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// The violations as `(line, text)`.
fn violations(text: &str) -> Vec<(Option<usize>, String)> {
    let error = Policy::parse(text.as_bytes()).unwrap_err();
    error.violations.into_iter().map(|it| (it.line, it.message)).collect()
}

#[test]
fn everything_that_is_wrong_is_said_at_once_with_its_line() {
    let text = r#"schema = 2
name = ""
confidence = 1.0
looks = 0
colour = "red"

[[rule]]
id = "a"
measure = "beauty"
at_least = 0.5
at_most = 0.5

[[rule]]
id = "a"
measure = "ua"
kind = "guess"
severity = 3

[[rule]]
measure = "damage"
at_most = 2
attack = "noise"
waive = { until = "2027-02-30", because = "so" }

[[rule]]
id = "b"
measure = "attack-success"
at_most = nan
budget = -1
"#;
    let found = violations(text);
    let wanted = [
        (1, "schema 2 is not known"),
        (2, "name is empty"),
        (3, "confidence 1 is not between 0 and 1"),
        (4, "looks is outside 1 to 8"),
        (5, "\"colour\" is no key here"),
        (7, "both at_least and at_most"),
        (9, "measure \"beauty\" is not one of ua, ira"),
        (13, "neither at_least nor at_most"),
        (14, "the id \"a\" is taken by line 8"),
        (16, "kind \"guess\" is not one of proof, alarm"),
        (17, "severity is a number"),
        (19, "id is missing"),
        (21, "2 is outside -1 to 1"),
        (22, "attack means nothing for damage"),
        (23, "\"because\" is no key here"),
        (23, "reason is missing"),
        (23, "\"2027-02-30\" is no day of the calendar"),
        (25, "attack-success needs either"),
        (28, "at_most is no finite number"),
        (29, "budget is outside 1"),
    ];
    for (line, part) in wanted {
        let is_it =
            |(at, message): &(Option<usize>, String)| *at == Some(line) && message.contains(part);
        assert!(found.iter().any(is_it), "{line}: {part}: {found:#?}");
    }
    assert_eq!(found.len(), wanted.len(), "{found:#?}");
    let lines: Vec<_> = found.iter().map(|(line, _)| *line).collect();
    assert!(lines.is_sorted(), "{lines:?}");
}

#[test]
fn a_policy_that_would_let_everything_through_is_refused() {
    for text in ["schema = 1\nname = \"x\"\n", "schema = 1\nname = \"x\"\nrule = []\n"] {
        let found = violations(text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].1.contains("rule"), "{found:?}");
    }
    let nothing = violations("");
    assert_eq!(nothing.len(), 3, "schema, name and rules: {nothing:?}");
}

#[test]
fn a_limit_on_the_side_of_harm_is_refused() {
    let found = violations(
        "schema = 1\nname = \"x\"\n[[rule]]\nid = \"a\"\nmeasure = \"damage\"\nat_least = 0.1\n\
         [[rule]]\nid = \"b\"\nmeasure = \"ua\"\nat_most = 0.1\n",
    );
    let messages: Vec<_> = found.iter().map(|(_, message)| message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "at_least would demand harm of damage; limit it by at_most",
            "at_most would demand harm of ua; limit it by at_least",
        ]
    );
}

#[test]
fn what_is_no_toml_is_said_with_its_line() {
    let found = violations("schema = 1\nname = \"x\"\n[[rule]]\nid = \"a\nmeasure = ua\n");
    assert!(found.iter().any(|(line, _)| *line == Some(4)), "{found:?}");
    assert!(violations("schema = 1\nschema = 1\n")[0].1.contains("TOML"));
    assert!(Policy::parse(b"name = \"\xff\"").unwrap_err().to_string().contains("UTF-8"));
    let long = vec![b'#'; (1 << 20) + 1];
    assert!(Policy::parse(&long).unwrap_err().to_string().contains("1048576"));
}

#[test]
fn a_waivers_day_may_be_a_date_of_toml() {
    let rule = "measure = \"ua\"\nat_least = 0.9\nwaive = { until = 2027-03-31, reason = \"x\" }";
    let policy = one_rule(1, rule);
    assert_eq!(policy.rules[0].waive.as_ref().unwrap().until.to_string(), "2027-03-31");
}

#[test]
fn targets_are_what_the_measure_has() {
    let of = |rule: &str| one_rule(1, rule).rules[0].of.clone();
    let word = of("measure = \"damage\"\nof = \"dog\"\nat_most = 0.1");
    assert_eq!(word, Target::Word("dog".to_owned()));
    assert_eq!(of("measure = \"damage\"\nat_most = 0.1"), Target::EachNeighbour);
    let few = Target::Attack(AttackName::RelearningFewShot);
    assert_eq!(of("measure = \"relearning\"\nat_least = 1"), few);
    let suite = of("measure = \"attack-success\"\nof = \"homoglyphs\"\nat_most = 0.1");
    assert_eq!(suite, Target::Suite("homoglyphs".to_owned()));
    let each = of("measure = \"attack-success\"\nof = \"each-suite\"\nat_most = 0.1");
    assert_eq!(each, Target::EachSuite);
    for wrong in [
        "measure = \"ua\"\nof = \"dog\"\nat_least = 0.1",
        "measure = \"relearning\"\nattack = \"noise\"\nat_least = 1",
        "measure = \"attack-success\"\nattack = \"noise\"\nof = \"each-suite\"\nat_most = 0.1",
        "measure = \"attack-success\"\nof = \"each-suite\"\nbudget = 5\nat_most = 0.1",
        "measure = \"ua\"\nbudget = 5\nat_least = 0.1",
        "measure = \"attack-success\"\nattack = \"magic\"\nat_most = 0.1",
    ] {
        let text = format!("schema = 1\nname = \"x\"\n[[rule]]\nid = \"a\"\n{wrong}\n");
        assert_eq!(violations(&text).len(), 1, "{wrong}");
    }
}

proptest::proptest! {
    /// Whatever a file holds, it is a policy or has violations, and nothing ends the program.
    #[test]
    fn no_file_panics(bytes: Vec<u8>, at in 0..RELEASE.len(), cut in 0_usize..40, put in "[ -~\n]{0,12}") {
        let spoiled = [&RELEASE[..at], &put, RELEASE.get(at + cut..).unwrap_or_default()].concat();
        for text in [bytes, spoiled.into_bytes()] {
            if let Err(error) = Policy::parse(&text) {
                proptest::prop_assert!(!error.violations.is_empty());
            }
        }
    }
}

#[test]
fn whoever_wants_to_be_hardly_sure_gets_the_rate_itself() {
    let text = "schema = 1\nname = \"x\"\nconfidence = 0.1\n[[rule]]\nid = \"a\"\nmeasure = \"ua\"\nat_least = 0.5\n";
    for (forgotten, outcome) in [(2, "passed"), (1, "passed"), (0, "failed")] {
        let result = rule_on(&policy(text), &measures(forgotten, 2));
        assert_eq!(result.outcome.to_string(), outcome, "{}", result.message);
    }
}
