//! What attacks found, as a table for the terminal.

use crate::outcome::{AttackResult, Confidence, Share};

/// A line an attack and judge; empty where there was none.
pub(super) fn attack_table(attacks: &[AttackResult]) -> String {
    if attacks.is_empty() {
        return String::new();
    }
    let name = |result: &AttackResult| {
        let AttackResult { attack, variant, .. } = result;
        if variant.is_empty() { attack.to_string() } else { format!("{attack} {variant}") }
    };
    let width =
        |texts: &mut dyn Iterator<Item = usize>, least: usize| texts.max().unwrap_or(0).max(least);
    let names = width(&mut attacks.iter().map(|result| name(result).chars().count()), 6);
    let judges = width(&mut attacks.iter().map(|result| result.judge.chars().count()), 5);
    let mut lines = vec![format!(
        "{:<names$}  {:<judges$}  plain  attacked            control  ceiling   U-Net    first",
        "attack", "judge"
    )];
    lines.extend(attacks.iter().map(|result| {
        let interval = result.attacked.interval(Confidence::DEFAULT);
        let cost = result.forward_evaluations + result.backward_evaluations;
        let mut first = result.first_success.map_or("–".to_owned(), |step| step.to_string());
        if let Some(control) = result.control_first_success {
            first = format!("{first} of {control}");
        }
        let line = format!(
            "{:<names$}  {:<judges$}  {:>5}  {:>5} {:.2} to {:.2}  {:>7}  {:>7}  {cost:>6}  {first:>7}",
            name(result),
            result.judge,
            rate(Some(result.plain)),
            rate(Some(result.attacked)),
            interval.low,
            interval.high,
            rate(result.false_alarms),
            rate(result.ceiling),
        );
        if result.finished { line } else { format!("{line}  budget spent: not decided") }
    }));
    lines.join("\n") + "\n"
}

fn rate(share: Option<Share>) -> String {
    match share {
        Some(share) if share.of > 0 => format!("{:.3}", share.rate()),
        _ => "–".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::AttackName;

    #[test]
    fn a_line_says_what_an_attack_came_to_and_what_decides_nothing() {
        let result = AttackResult {
            attack: AttackName::RelearningFewShot,
            variant: String::new(),
            concept: "cat".to_owned(),
            judge: "cnn".to_owned(),
            budget: 4_000,
            forward_evaluations: 960,
            backward_evaluations: 640,
            seed: 0,
            plain: Share { count: 0, of: 16 },
            attacked: Share { count: 12, of: 16 },
            false_alarms: Some(Share { count: 16, of: 16 }),
            ceiling: Some(Share { count: 16, of: 16 }),
            finished: true,
            first_success: Some(5),
            control_first_success: Some(10),
            curve: Vec::new(),
            found: Vec::new(),
        };
        let unfinished = AttackResult {
            attacked: Share::default(),
            finished: false,
            first_success: None,
            control_first_success: None,
            ..result.clone()
        };
        let table = attack_table(&[result, unfinished]);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].contains("0.000  0.750 0.51 to 0.90"), "{table}");
        assert!(lines[1].ends_with("1600  5 of 10"), "{table}");
        assert!(lines[2].contains("– 0.00 to 1.00"), "{table}");
        assert!(lines[2].ends_with("not decided"), "{table}");
        assert_eq!(attack_table(&[]), "");
    }
}
