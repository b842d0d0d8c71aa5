//! What judges say, as a table for the terminal.

use crate::outcome::Verdict;

/// Verdicts as a table for the terminal.
pub(super) fn verdict_table(verdicts: &[Verdict]) -> String {
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
    lines.join("\n") + "\n"
}
