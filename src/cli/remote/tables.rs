//! Formats answers as text and tables for people.

use std::fmt::Write;

use super::{RemoteError, evaluation, json, wire};
use crate::{
    cli::{
        attack_table::attack_table,
        measures_table::{distances_table, measures_table},
        suite_table::suite_table,
        text_table::columns,
    },
    proto::{
        google::longrunning::Operation,
        keystep::v1::{
            Distances, Estimate, EvaluateErasureResponse, Figures, Plan, Sampler, ScoreSummary,
            ScoreTimestepsResponse, UnlearnConceptResponse, Verdict,
        },
    },
};

/// Aligned lines of names and values.
fn pairs(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines: Vec<_> =
        rows.iter().map(|(name, value)| format!("{name:<width$}  {value}")).collect();
    lines.join("\n")
}

/// The plan of a job.
pub(super) fn plan(plan: &Plan) -> String {
    let duration = plan.estimated_duration.as_ref();
    let mut rows = vec![
        ("updates, at most", plan.updates.to_string()),
        ("U-Net evaluations", plan.unet_evaluations.to_string()),
        ("device memory", format!("{} MiB", plan.memory_bytes.div_ceil(1 << 20))),
        (
            "time",
            duration.map_or("not measured yet".to_owned(), |time| format!("{} s", time.seconds)),
        ),
        ("trained tensors", plan.trainable_tensors.to_string()),
        ("trained parameters", plan.trainable_parameters.to_string()),
    ];
    rows.extend(plan.assumptions.iter().map(|text| ("assumed", text.clone())));
    pairs(&rows)
}

/// The result of a job; empty where it has no response.
pub(super) fn result(operation: &Operation) -> Result<Option<String>, RemoteError> {
    if let Some(response) = json::response::<UnlearnConceptResponse>(operation)? {
        return Ok(Some(erasure(operation, &response)));
    }
    let response = json::response::<EvaluateErasureResponse>(operation)?;
    let Some(response) = response else { return Ok(None) };
    let mut rows = vec![("operation", operation.name.clone())];
    if !response.manifest_uri.is_empty() {
        rows.push(("manifest", response.manifest_uri.clone()));
    }
    rows.push(("U-Net evaluations", response.unet_evaluations.to_string()));
    let verdicts = with_verdicts(pairs(&rows), &response.verdicts, &response.distances);
    let found = evaluation::results(&response)?;
    let more = [suite_table(&found.suites), attack_table(&found.attacks)].concat();
    Ok(Some(if more.is_empty() { verdicts } else { verdicts + "\n" + more.trim_end() }))
}

fn erasure(operation: &Operation, response: &UnlearnConceptResponse) -> String {
    let mut rows = vec![
        ("operation", operation.name.clone()),
        ("model", response.model.clone()),
        ("manifest", response.manifest_uri.clone()),
        ("updates", response.updates.to_string()),
        ("U-Net evaluations", response.unet_evaluations.to_string()),
    ];
    if let Some(window) = &response.window {
        rows.push(("window", format!("log-SNR {:.3}:{:.3}", window.low, window.high)));
    }
    with_verdicts(pairs(&rows), &response.verdicts, &response.distances)
}

fn with_verdicts(text: String, verdicts: &[Verdict], distances: &[Distances]) -> String {
    let mut text = text;
    if !verdicts.is_empty() {
        let _ = write!(text, "\n\n{}", figures(verdicts));
    }
    if !distances.is_empty() {
        let distances: Vec<_> = distances.iter().map(evaluation::distances).collect();
        let _ = write!(text, "\n\n{}", distances_table(&distances));
    }
    text
}

/// The judges' figures, beside the base model's.
fn figures(verdicts: &[Verdict]) -> String {
    let heading = ["judge", "concept", "UA", "base", "IRA", "base", "CRA", "base"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(verdicts.iter().map(|verdict| {
        let mut row = vec![verdict.judge.clone(), verdict.concept.clone()];
        let (edited, base) = (verdict.edited.as_ref(), verdict.base.as_ref());
        let parts: [fn(&Figures) -> f64; 3] = [|f| f.ua, |f| f.ira, |f| f.cra];
        for part in parts {
            for figures in [edited, base] {
                row.push(figures.map_or("–".to_owned(), |figures| format!("{:.3}", part(figures))));
            }
        }
        row
    }));
    let mut text = columns(&rows);
    // Older servers do not send it, and all of them drew with DDIM.
    if let Some(verdict) = verdicts.first().filter(|it| it.sampler() != Sampler::Unspecified) {
        let _ = write!(text, "\ndrawn with {}", wire::sampler_name(verdict.sampler));
    }
    for verdict in verdicts {
        if let Some(measures) = &verdict.measures {
            let counted = measures_table(&verdict.judge, &evaluation::measures(measures));
            let _ = write!(text, "\n\n{}\n{counted}", verdict.concept);
        }
    }
    text
}

type Measured = fn(&ScoreTimestepsResponse) -> Option<&Estimate>;

/// The scores of all steps, with the columns that were measured, and the window.
pub(super) fn scores(steps: &[ScoreTimestepsResponse], summary: &ScoreSummary) -> String {
    let all: [(&str, Measured); 5] = [
        ("effect", |step| step.guidance_effect.as_ref()),
        ("energy", |step| step.guidance_energy.as_ref()),
        ("until", |step| step.concept_until.as_ref()),
        ("from", |step| step.concept_from.as_ref()),
        ("gradients", |step| step.gradient_share.as_ref()),
    ];
    let measured: Vec<_> =
        all.into_iter().filter(|(_, part)| steps.iter().any(|step| part(step).is_some())).collect();
    let mut rows = vec![["step", "timestep", "log-SNR"].map(str::to_owned).to_vec()];
    rows[0].extend(measured.iter().map(|(name, _)| (*name).to_owned()));
    rows.extend(steps.iter().map(|step| {
        let inside = (summary.first_step..=summary.last_step).contains(&step.step);
        let mark = if inside { " *" } else { "" };
        let mut row = vec![
            format!("{}{mark}", step.step),
            step.timestep.to_string(),
            format!("{:.3}", step.log_snr),
        ];
        row.extend(measured.iter().map(|(_, part)| {
            part(step).map_or("–".to_owned(), |estimate| {
                format!("{:.4} ± {:.4}", estimate.mean, estimate.standard_error)
            })
        }));
        row
    }));
    let window = summary.window.unwrap_or_default();
    format!(
        "{}\n\nRecommended window (*): log-SNR {:.3}:{:.3}, steps {} to {} of {}\n{}\n\
         Score digest: {}\nU-Net evaluations: {}",
        columns(&rows),
        window.low,
        window.high,
        summary.first_step,
        summary.last_step,
        steps.len(),
        summary.rule,
        summary.score_digest,
        summary.unet_evaluations,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_measured_is_shown() {
        let estimate = Estimate { mean: 0.5, standard_error: 0.25 };
        let step = ScoreTimestepsResponse {
            step: 3,
            guidance_effect: Some(estimate),
            ..ScoreTimestepsResponse::default()
        };
        let summary = ScoreSummary { first_step: 3, last_step: 4, ..ScoreSummary::default() };
        let table = scores(&[step], &summary);
        assert!(table.contains("effect") && table.contains("3 *"), "{table}");
        assert!(table.contains("0.5000 ± 0.2500"), "{table}");
        assert!(!table.contains("until") && !table.contains("gradients"), "{table}");
    }
}
