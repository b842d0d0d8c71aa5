//! What the files of a result are called, in folders and in object storage.

/// The edited tensors alone.
pub const DELTA: &str = "delta.safetensors";
/// The whole pipeline, a diffusers folder.
pub const PIPELINE: &str = "pipeline";
/// The figures.
pub const REPORT: &str = "report.json";
/// The page to look at.
pub const REPORT_PAGE: &str = "report.html";
/// Every update of the training.
pub const TRAINING: &str = "training.json";
/// Scores of denoising steps, where there are those of one concept.
pub const SCORES: &str = "scores.json";
/// Their plot.
pub const SCORE_PLOT: &str = "scores.png";
/// Pictures of both models beside each other, where one concept was judged.
pub const CONTACT_SHEET: &str = "before-after.png";

/// Signed statements of how the result was made and what was measured, one envelope a line.
pub const STATEMENTS: &str = "provenance.intoto.jsonl";
/// The whole pipeline's own signature, where it has one.
pub const MODEL_SIGNATURE: &str = "pipeline/model.sig";
/// What the result is made of, for tools that keep track of such (`CycloneDX`).
pub const BILL_OF_MATERIALS: &str = "bom.cdx.json";

/// Files that are made of the others once the result is whole: they are no part of its content, so
/// that equal results have equal contents.
pub fn is_seal(name: &str) -> bool {
    [STATEMENTS, MODEL_SIGNATURE, BILL_OF_MATERIALS].contains(&name)
}

/// Whether a file holds timestep scores: `scores.json`, `scores-2.json`.
pub fn is_scores(name: &str) -> bool {
    let stem = name.strip_prefix("scores").and_then(|rest| rest.strip_suffix(".json"));
    stem.is_some_and(|rest| !rest.contains('/'))
}

/// Where erased models are published, below a destination, and what precedes the job in their names.
pub const CHECKPOINTS: &str = "checkpoints";
/// Where judgements are published, below a destination.
pub const EVALUATIONS: &str = "evaluations";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_told_from_plots() {
        assert!(is_scores("scores.json") && is_scores("scores-2.json"));
        assert!(!is_scores("scores.png") && !is_scores("scores/a.json"));
    }
}
