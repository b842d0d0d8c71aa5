//! Converts `ScoreTimestepsRequest` into a spec of scores, and scores into responses.

use super::{
    Limits,
    fields::{check_name, read_kind, read_scope, read_vocabulary},
    small,
};
use crate::{
    api::{ApiResult, violations::Violations},
    outcome::{Estimate, StepScore, TimestepScores},
    proto::keystep::v1::{
        Estimate as WireEstimate, LogSnrWindow as WireWindow, ScoreMeasure, ScoreSummary,
        ScoreTimestepsRequest, ScoreTimestepsResponse,
    },
    spec::{Concept, Field, ScoreSpec, Vocabulary},
};

/// A request whose every field was checked; the model's own words may be yet to come.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::api) struct ScoreDraft {
    pub(in crate::api) model: String,
    spec: ScoreSpec,
    takes_own_words: bool,
}

impl ScoreDraft {
    /// Checks everything that needs no model, and gives every violation at once.
    pub(in crate::api) fn read(
        request: ScoreTimestepsRequest,
        limits: Limits<'_>,
    ) -> ApiResult<Self> {
        let ScoreTimestepsRequest {
            model,
            concept,
            concept_kind,
            steps,
            guidance_scale,
            trajectories,
            seed,
            measures,
            scope,
            vocabulary,
            scope_name_contains,
        } = request;
        let mut found = Violations::default();
        check_name(Field::Model, &model, &mut found);
        let kind = read_kind(concept_kind, &mut found);
        found.prompt(Field::Concept, &concept, limits.settings.prompt_characters);
        let names_tensors = !scope_name_contains.is_empty();
        let scope = read_scope(scope, scope_name_contains, &mut found);
        let vocabulary = read_vocabulary(vocabulary, limits, &mut found);
        let takes_own_words = vocabulary.is_none();
        let (switch_curve, gradient_share) = read_measures(&measures, &mut found);
        let preset = ScoreSpec::new(Concept::new(concept, kind), vocabulary.unwrap_or_default());
        let spec = ScoreSpec {
            steps: steps.map_or(preset.steps, |steps| steps as usize),
            guidance_scale: guidance_scale.unwrap_or(preset.guidance_scale),
            trajectories: trajectories.map_or(preset.trajectories, |count| count as usize),
            gradient_share,
            switch_curve,
            scope: scope.unwrap_or_else(|| preset.scope.clone()),
            seed: seed.unwrap_or(preset.seed),
            ..preset
        };
        found.absorb_as(spec.validate(), |path| match path.field {
            Field::Scope if names_tensors => Field::ScopeNameContains.into(),
            _ => path.on_wire(),
        });
        found.finish()?;
        Ok(Self { model, spec: spec.canonical(), takes_own_words })
    }

    /// What is measured, for logs.
    pub(in crate::api) fn concept(&self) -> &str {
        &self.spec.concept.text
    }

    /// The measurement, with the model's own words where none were given.
    pub(in crate::api) fn complete(self, own: Option<Vocabulary>) -> ScoreSpec {
        let mut spec = self.spec;
        if self.takes_own_words {
            spec.vocabulary = own.unwrap_or_default().canonical();
        }
        spec
    }
}

fn read_measures(numbers: &[i32], found: &mut Violations) -> (bool, bool) {
    let (mut switch_curve, mut gradient_share) = (false, false);
    for (index, number) in numbers.iter().enumerate() {
        // One violation says as much as thousands of them.
        if index > 16 {
            found.add(Field::Measures, "has more entries than there are measures");
            break;
        }
        let field = Field::Measures.at(index);
        match found.choice(field.clone(), *number) {
            Some(ScoreMeasure::Unspecified) => found.add(field, "is unset; name a measure"),
            Some(ScoreMeasure::SwitchCurve) => switch_curve = true,
            Some(ScoreMeasure::GradientShare) => gradient_share = true,
            None => {}
        }
    }
    (switch_curve, gradient_share)
}

/// The message of one step.
pub(in crate::api) fn step_score(score: &StepScore) -> ScoreTimestepsResponse {
    let StepScore {
        step,
        timestep,
        log_snr,
        guidance_energy,
        guidance_effect,
        concept_until,
        concept_from,
        gradient_share,
    } = score;
    ScoreTimestepsResponse {
        step: small(step.0),
        timestep: small(timestep.0),
        score: guidance_effect.mean,
        log_snr: *log_snr,
        guidance_energy: Some(estimate(*guidance_energy)),
        guidance_effect: Some(estimate(*guidance_effect)),
        concept_until: concept_until.map(estimate),
        concept_from: concept_from.map(estimate),
        gradient_share: gradient_share.map(estimate),
        update: None,
    }
}

fn estimate(estimate: Estimate) -> WireEstimate {
    let Estimate { mean, standard_error } = estimate;
    WireEstimate { mean, standard_error }
}

/// The last message.
pub(in crate::api) fn summary(
    scores: &TimestepScores,
    score_digest: String,
    scores_json: String,
) -> ScoreSummary {
    ScoreSummary {
        window: Some(WireWindow { low: scores.window.low, high: scores.window.high }),
        first_step: small(scores.window_steps.0.0),
        last_step: small(scores.window_steps.1.0),
        rule: scores.rule.clone(),
        score_digest,
        unet_evaluations: scores.unet_evaluations,
        scores_json,
    }
}
