//! What judges say, as tables for the terminal.

use super::measures_table::{distances_table, measures_table};
use crate::outcome::{Distances, Verdict};

/// Verdicts as tables for the terminal: the figures of all, then what each judge counted, and how far
/// pictures moved.
pub(super) fn verdict_table(verdicts: &[Verdict], distances: &[Distances]) -> String {
    let widest = verdicts.iter().map(|verdict| verdict.judge.chars().count()).max().unwrap_or(0);
    let width = widest.max("judge".len());
    let mut lines = vec![format!("{:<width$}     UA   base    IRA   base    CRA   base", "judge")];
    lines.extend(verdicts.iter().map(|verdict| {
        let (edited, base) = (verdict.edited, verdict.base);
        format!(
            "{:<width$}  {:.3}  {:.3}  {:.3}  {:.3}  {:.3}  {:.3}",
            verdict.judge, edited.ua, base.ua, edited.ira, base.ira, edited.cra, base.cra
        )
    }));
    if let Some(verdict) = verdicts.first() {
        lines.push(format!("drawn with {}", verdict.sampler.name()));
    }
    let mut text = lines.join("\n") + "\n";
    for verdict in verdicts {
        if let Some(measures) = &verdict.measures {
            text.push('\n');
            text.push_str(&measures_table(&verdict.judge, measures));
            text.push('\n');
        }
    }
    if !distances.is_empty() {
        text.push('\n');
        text.push_str(&distances_table(distances));
        text.push('\n');
    }
    text
}
