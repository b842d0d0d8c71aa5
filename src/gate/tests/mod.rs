mod decisions;
mod monotony;
mod outputs;
mod policies;

use super::{Circumstances, GateVerdict, JudgeCounts, Measured, Policy, RuleResult};
use crate::{
    outcome::{AttackName, AttackResult, Compared, Measures, PairedDrop, Share, WordRow},
    spec::ConceptKind,
};

/// The example of the documentation.
const RELEASE: &str = include_str!("release.toml");

fn share(count: u64, of: u64) -> Share {
    Share { count, of }
}

/// As many pictures, of which the base model got so many right, and so many were lost and gained.
fn compared(of: u64, right: u64, lost: u64, gained: u64) -> Compared {
    Compared {
        base: share(right, of),
        edited: share(right - lost + gained, of),
        drop: PairedDrop { lost, gained, of },
    }
}

/// A word that the base model always draws.
fn word(name: &str, of: u64, lost: u64) -> WordRow {
    WordRow {
        word: name.to_owned(),
        kind: ConceptKind::Object,
        held: None,
        named: compared(of, of, lost, 0),
        became: Vec::new(),
        picture_distance: None,
    }
}

/// What a judge counted where so many pictures of the concept are not named so.
fn measures(forgotten: u64, of: u64) -> Measures {
    Measures {
        ua: compared(of, 0, 0, forgotten),
        ira: compared(200, 200, 0, 0),
        cra: compared(200, 200, 2, 0),
        words: vec![word("dog", 40, 0)],
        ..Measures::default()
    }
}

fn attack(attacked: Share) -> AttackResult {
    AttackResult {
        attack: AttackName::ConceptInversion,
        variant: "guided".to_owned(),
        concept: "cat".to_owned(),
        judge: "cnn".to_owned(),
        budget: 4_000,
        forward_evaluations: 2_000,
        backward_evaluations: 2_000,
        seed: 0,
        plain: share(0, attacked.of),
        attacked,
        false_alarms: Some(share(0, 32)),
        ceiling: Some(share(32, 32)),
        finished: true,
        first_success: None,
        control_first_success: None,
        curve: Vec::new(),
        found: Vec::new(),
    }
}

fn policy(text: &str) -> Policy {
    Policy::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}"))
}

/// A policy of one rule.
fn one_rule(looks: usize, rule: &str) -> Policy {
    policy(&format!("schema = 1\nname = \"one\"\nlooks = {looks}\n[[rule]]\nid = \"it\"\n{rule}\n"))
}

fn decide(policy: &Policy, measured: &Measured<'_>) -> GateVerdict {
    let today = "2027-01-15".parse().unwrap();
    policy.decide(measured, Circumstances { policy_file: "ci/policy.toml", today, look: 1 })
}

/// What a policy of one rule says of one judge's counts.
fn rule_on(policy: &Policy, measures: &Measures) -> RuleResult {
    let judges = [JudgeCounts { judge: "cnn", measures: Some(measures) }];
    let verdict =
        decide(policy, &Measured { judges: &judges, concept: "cat", ..Measured::default() });
    verdict.rules.into_iter().next().unwrap()
}

fn rule_on_attacks(policy: &Policy, attacks: &[AttackResult]) -> RuleResult {
    let verdict = decide(policy, &Measured { attacks, concept: "cat", ..Measured::default() });
    verdict.rules.into_iter().next().unwrap()
}
