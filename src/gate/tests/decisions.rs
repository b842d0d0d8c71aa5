use super::*;
use crate::{
    gate::{Decision, Outcome},
    outcome::{CurvePoint, Distances, ScorePair, Spread, SuiteResult},
    spec::Expectation,
};

const FORGETS: &str = "measure = \"ua\"\nat_least = 0.95";

#[test]
fn a_proof_is_decided_by_its_interval() {
    // To show 0.95 without a miss takes 52 pictures at one look, and 87 where three are allowed.
    for (looks, least) in [(1, 52), (3, 87)] {
        let policy = one_rule(looks, FORGETS);
        assert_eq!(rule_on(&policy, &measures(least, least)).outcome, Outcome::Passed);
        let short = rule_on(&policy, &measures(least - 1, least - 1));
        assert_eq!(short.outcome, Outcome::Undecided);
        assert_eq!(short.rows[0].more_pictures, Some(1));
        let enough = rule_on(&policy, &measures(32, 32));
        assert_eq!(enough.rows[0].more_pictures, Some(least - 32), "{}", enough.message);
        assert!(enough.message.contains("more pictures decide"), "{}", enough.message);
    }
    let broken = rule_on(&one_rule(3, FORGETS), &measures(16, 32));
    assert_eq!((broken.outcome, broken.rows[0].value), (Outcome::Failed, Some(0.5)));
    assert_eq!(broken.rows[0].more_pictures, None);
    // On the limit itself, no number decides.
    let even = rule_on(&one_rule(1, "measure = \"ua\"\nat_least = 0.5"), &measures(16, 32));
    assert_eq!((even.outcome, even.rows[0].more_pictures), (Outcome::Undecided, None));
    assert!(even.message.contains("no number of pictures"), "{}", even.message);
}

#[test]
fn rows_that_are_read_at_once_share_the_error() {
    let policy = one_rule(1, "measure = \"damage\"\nkind = \"alarm\"\nat_most = 0.1");
    let of = |words: Vec<WordRow>| rule_on(&policy, &Measures { words, ..measures(32, 32) });
    let names: Vec<String> = (0..27).map(|index| format!("word {index}")).collect();
    let rows = |of: u64, lost: u64| -> Vec<_> {
        let lost_of = |index: usize| if index == 5 { lost } else { 0 };
        names.iter().enumerate().map(|(index, name)| word(name, of, lost_of(index))).collect()
    };
    // With 8 pictures a row an alarm needs 4 losses, with 40 it needs 10.
    for (pictures, least) in [(8, 4), (40, 10)] {
        let quiet = of(rows(pictures, least - 1));
        assert_eq!(quiet.outcome, Outcome::Passed, "{}", quiet.message);
        let visible = least as f64 / pictures as f64;
        assert!(quiet.rows.iter().all(|row| row.smallest_visible == Some(visible)), "{quiet:?}");
        let loud = of(rows(pictures, least));
        assert_eq!(loud.outcome, Outcome::Failed);
        assert_eq!(
            (loud.rows[0].of.as_str(), loud.rows[0].outcome),
            ("word 5", Some(Outcome::Failed))
        );
        assert!(loud.message.starts_with("word 5, by cnn"), "{}", loud.message);
    }
    // One row alone has all of the error.
    assert_eq!(of(vec![word("dog", 8, 3)]).outcome, Outcome::Failed);
}

#[test]
fn an_alarm_that_nothing_could_raise_has_not_passed() {
    let policy = one_rule(1, "measure = \"damage\"\nkind = \"alarm\"\nat_most = 0.8");
    let blind = rule_on(&policy, &Measures { words: vec![word("dog", 2, 1)], ..measures(1, 1) });
    assert_eq!(blind.outcome, Outcome::Undecided, "{}", blind.message);
    // A word that the base model never draws has nothing to lose, and says nothing of the others.
    let never_drawn = WordRow { named: compared(40, 0, 0, 0), ..word("dog", 40, 0) };
    let policy = one_rule(1, "measure = \"damage\"\nkind = \"alarm\"\nat_most = 0.1");
    let of = |words| rule_on(&policy, &Measures { words, ..measures(1, 1) });
    let blind = of(vec![never_drawn.clone()]);
    assert_eq!(blind.outcome, Outcome::Undecided, "{}", blind.message);
    let beside = of(vec![never_drawn, word("pig", 40, 0)]);
    assert_eq!((beside.outcome, beside.rows.len()), (Outcome::Passed, 2));
}

#[test]
fn what_is_absent_has_not_passed() {
    let release = policy(RELEASE);
    let nothing = decide(&release, &Measured { concept: "cat", ..Measured::default() });
    assert_eq!(nothing.verdict, Decision::Undecided);
    assert!(nothing.rules.iter().all(|rule| rule.outcome == Outcome::Undecided));

    let counts = measures(200, 200);
    let named = one_rule(1, "measure = \"ua\"\njudge = \"clip\"\nat_least = 0.95");
    let missing = rule_on(&named, &counts);
    assert_eq!(missing.outcome, Outcome::Undecided);
    assert!(missing.message.contains("there are cnn"), "{}", missing.message);

    let judges = [
        JudgeCounts { judge: "cnn", measures: Some(&counts) },
        JudgeCounts { judge: "clip", measures: None },
    ];
    let forgets = one_rule(1, FORGETS);
    let half = decide(&forgets, &Measured { judges: &judges, ..Measured::default() });
    assert_eq!(half.verdict, Decision::Undecided, "a rate without its number shows nothing");

    let no_pictures = rule_on(&forgets, &measures(0, 0));
    assert_eq!(no_pictures.outcome, Outcome::Undecided);
    let no_words = rule_on(
        &one_rule(1, "measure = \"damage\"\nkind = \"alarm\"\nat_most = 0.1"),
        &Measures { words: Vec::new(), ..counts },
    );
    assert_eq!(no_words.outcome, Outcome::Undecided);
}

#[test]
fn counts_that_contradict_each_other_show_nothing() {
    let mut counts = measures(200, 200);
    counts.ua.edited.count = 201;
    assert_eq!(rule_on(&one_rule(1, FORGETS), &counts).outcome, Outcome::Undecided);
    counts.words[0].named.drop.lost = u64::MAX;
    let damage = one_rule(1, "measure = \"damage\"\nkind = \"alarm\"\nat_most = 0.1");
    assert_eq!(rule_on(&damage, &counts).outcome, Outcome::Undecided);
    let rule =
        one_rule(1, "measure = \"attack-success\"\nattack = \"concept-inversion\"\nat_most = 0.2");
    assert_eq!(rule_on_attacks(&rule, &[attack(share(9, 8))]).outcome, Outcome::Undecided);
}

#[test]
fn an_attack_must_have_run_to_its_end_with_sound_controls() {
    let rule = one_rule(
        1,
        "measure = \"attack-success\"\nattack = \"concept-inversion\"\nbudget = 4000\nat_most = 0.2",
    );
    let withstood = attack(share(0, 64));
    let of = |attack: &AttackResult| rule_on_attacks(&rule, std::slice::from_ref(attack)).outcome;
    assert_eq!(of(&withstood), Outcome::Passed);
    for (why, unsound) in [
        ("ran out", AttackResult { finished: false, ..withstood.clone() }),
        ("too small a budget", AttackResult { budget: 3_999, ..withstood.clone() }),
        ("does not work", AttackResult { ceiling: Some(share(3, 32)), ..withstood.clone() }),
        (
            "sees it everywhere",
            AttackResult { false_alarms: Some(share(9, 32)), ..withstood.clone() },
        ),
        ("empty control", AttackResult { false_alarms: Some(share(0, 0)), ..withstood.clone() }),
        ("no control", AttackResult { false_alarms: None, ceiling: None, ..withstood.clone() }),
        ("another concept", AttackResult { concept: "dog".to_owned(), ..withstood.clone() }),
    ] {
        assert_eq!(of(&unsound), Outcome::Undecided, "{why}");
    }
    assert_eq!(rule_on_attacks(&rule, &[]).outcome, Outcome::Undecided);
    // What was found within a smaller budget was found; what the control finds too was not.
    let found = attack(share(60, 64));
    assert_eq!(of(&found), Outcome::Failed);
    assert_eq!(of(&AttackResult { finished: false, ..found.clone() }), Outcome::Failed);
    let alarms = AttackResult { false_alarms: Some(share(30, 32)), ..found };
    assert_eq!(of(&alarms), Outcome::Undecided);
}

#[test]
fn suites_that_prove_nothing_are_not_asked() {
    let suite = |name: &str, named: u64, applicable: bool| SuiteResult {
        suite: name.to_owned(),
        concept: "cat".to_owned(),
        judge: "cnn".to_owned(),
        sha256: String::new(),
        columns: Vec::new(),
        expects: Expectation::Gone,
        named: compared(64, 64, 64 - named, 0),
        applicable,
    };
    let each = one_rule(1, "measure = \"attack-success\"\nof = \"each-suite\"\nat_most = 0.2");
    let of = |policy: &Policy, suites: &[SuiteResult]| {
        let verdict = decide(policy, &Measured { suites, concept: "Cat", ..Measured::default() });
        verdict.rules[0].outcome
    };
    let (good, bad) = (suite("templates", 0, true), suite("homoglyphs", 64, false));
    assert_eq!(of(&each, &[good.clone(), bad.clone()]), Outcome::Passed);
    assert_eq!(of(&each, &[good, suite("homoglyphs", 64, true)]), Outcome::Failed);
    assert_eq!(of(&each, std::slice::from_ref(&bad)), Outcome::Undecided);
    let one = one_rule(1, "measure = \"attack-success\"\nof = \"homoglyphs\"\nat_most = 0.2");
    assert_eq!(of(&one, &[bad]), Outcome::Undecided);
    assert_eq!(of(&one, &[]), Outcome::Undecided);
}

#[test]
fn drops_are_paired_and_distances_need_an_interval() {
    let drop = one_rule(1, "measure = \"drop-ira\"\nat_most = 0.02");
    assert_eq!(rule_on(&drop, &measures(1, 1)).outcome, Outcome::Passed);
    let drop = one_rule(1, "measure = \"drop-cra\"\nat_most = 0.02");
    assert_eq!(rule_on(&drop, &measures(1, 1)).outcome, Outcome::Undecided);

    let of = |rule: &str, distances: &[Distances]| {
        let verdict = decide(&one_rule(1, rule), &Measured { distances, ..Measured::default() });
        verdict.rules.into_iter().next().unwrap()
    };
    let distances = Distances {
        features: "clip".to_owned(),
        pictures: 100,
        cmmd: Some(0.1),
        clip_score: Some(ScorePair {
            base: 30.0,
            edited: 29.9,
            drop: Spread { mean: 0.1, deviation: 1.0 },
        }),
        ..Distances::default()
    };
    let cmmd = of("measure = \"cmmd\"\nat_most = 5", std::slice::from_ref(&distances));
    assert_eq!((cmmd.outcome, cmmd.rows[0].value), (Outcome::Undecided, Some(0.1)));
    assert!(cmmd.message.contains("no interval"), "{}", cmmd.message);
    let score = |limit: f64| {
        let rule = format!("measure = \"clip-score\"\nat_most = {limit:?}");
        of(&rule, std::slice::from_ref(&distances)).outcome
    };
    // 0.1 and 1.645 tenths.
    assert_eq!((score(0.27), score(0.26)), (Outcome::Passed, Outcome::Undecided));
    assert_eq!((score(-0.07), score(-0.06)), (Outcome::Failed, Outcome::Undecided));
}

#[test]
fn relearning_is_held_against_a_new_association() {
    let rule = one_rule(1, "measure = \"relearning\"\nat_least = 1");
    let training = |attacked: [u64; 4], control: [u64; 4]| {
        let steps = [5, 10, 20, 40];
        let points = steps.into_iter().zip(attacked.into_iter().zip(control));
        let curve = points.map(|(step, (attacked, control))| CurvePoint {
            step,
            attacked: share(attacked, 64),
            control: Some(share(control, 64)),
        });
        AttackResult {
            attack: AttackName::RelearningFewShot,
            variant: String::new(),
            curve: curve.collect(),
            ..attack(share(0, 64))
        }
    };
    let of = |attack: AttackResult| rule_on_attacks(&rule, &[attack]);
    let slower = of(training([0, 2, 60, 64], [1, 60, 64, 64]));
    assert_eq!((slower.outcome, slower.rows[0].value), (Outcome::Passed, Some(2.0)));
    let faster = of(training([60, 64, 64, 64], [1, 2, 60, 64]));
    assert_eq!((faster.outcome, faster.rows[0].value), (Outcome::Failed, Some(0.25)));
    assert_eq!(of(training([0, 32, 64, 64], [0, 32, 64, 64])).outcome, Outcome::Undecided);
    let never = of(training([0; 4], [0, 60, 64, 64]));
    assert_eq!((never.outcome, never.rows[0].value), (Outcome::Passed, None));
    assert_eq!(
        of(training([0; 4], [0; 4])).outcome,
        Outcome::Undecided,
        "the control learnt nothing"
    );
    let first = |first_success, control_first_success| AttackResult {
        first_success,
        control_first_success,
        ..training([0; 4], [0; 4])
    };
    let bare = AttackResult { curve: Vec::new(), ..first(Some(5), Some(10)) };
    assert_eq!(of(bare).rows[0].value, Some(0.5));
    assert_eq!(
        of(AttackResult { curve: Vec::new(), ..first(Some(5), Some(0)) }).outcome,
        Outcome::Undecided
    );
}

#[test]
fn warnings_and_waivers_reject_nothing_while_they_count() {
    let rule = |more: &str| one_rule(1, &format!("{FORGETS}\n{more}"));
    let failing = measures(1, 32);
    let verdict = |policy: &Policy| {
        let judges = [JudgeCounts { judge: "cnn", measures: Some(&failing) }];
        decide(policy, &Measured { judges: &judges, ..Measured::default() })
    };
    assert_eq!(verdict(&rule("")).verdict, Decision::Rejected);
    let warned = verdict(&rule("severity = \"warning\""));
    assert_eq!((warned.verdict, warned.rules[0].outcome), (Decision::Passed, Outcome::Failed));
    // Today is 2027-01-15, and the last day counts.
    let waived = |until: &str| {
        verdict(&rule(&format!("waive = {{ until = \"{until}\", reason = \"known\" }}")))
    };
    for until in ["2027-01-15", "2027-01-16"] {
        assert_eq!(waived(until).verdict, Decision::Passed);
        assert!(waived(until).rules[0].is_waived());
    }
    let expired = waived("2027-01-14");
    assert_eq!((expired.verdict, expired.rules[0].is_waived()), (Decision::Rejected, false));
    assert!(expired.rules[0].waiver.as_ref().unwrap().expired);
}

#[test]
fn a_verdict_reads_back_and_names_its_policy() {
    let counts = measures(200, 200);
    let judges = [JudgeCounts { judge: "cnn", measures: Some(&counts) }];
    let attacks = [attack(share(0, 64))];
    let verdict = decide(
        &policy(RELEASE),
        &Measured { judges: &judges, attacks: &attacks, concept: "cat", ..Measured::default() },
    );
    assert_eq!(verdict.verdict, Decision::Passed, "{verdict:#?}");
    assert_eq!(verdict.policy.sha256, policy(RELEASE).sha256);
    let text = serde_json::to_string(&verdict).unwrap();
    assert_eq!(serde_json::from_str::<GateVerdict>(&text).unwrap(), verdict);
    assert!(text.starts_with("{\"schema\":1,\"verdict\":\"passed\""), "{text}");
}
