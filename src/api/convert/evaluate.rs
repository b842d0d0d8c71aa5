//! Converts `EvaluateErasureRequest` into the work of a judgement.

use super::{
    Limits, RequestTerms,
    fields::{WireTerms, check_name, read_destination, read_kind, read_sampler, read_vocabulary},
};
use crate::{
    api::{ApiError, ApiResult, violations::Violations},
    catalogue::{ModelEntry, ModelOrigin},
    jobs::EvaluateWork,
    proto::keystep::v1::EvaluateErasureRequest,
    spec::{Concept, Field, GenerateSpec, JudgeSpec, SamplerKind, Vocabulary},
};

/// A request whose every field was checked; what the models bring is yet to come.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::api) struct EvaluateDraft {
    pub(in crate::api) base_model: String,
    pub(in crate::api) edited_model: String,
    pub(in crate::api) terms: RequestTerms,
    concept: Concept,
    /// The grid that is given.
    vocabulary: Option<Vocabulary>,
    given: Given,
    destination: String,
}

/// Knobs that have defaults, some of which depend on the grid.
#[derive(Debug, Clone, PartialEq)]
struct Given {
    target_seeds: Option<u32>,
    retain_seeds: Option<u32>,
    steps: Option<u32>,
    guidance_scale: Option<f64>,
    seed: Option<u64>,
    sampler: Option<SamplerKind>,
}

impl EvaluateDraft {
    /// Checks everything that needs no model, and gives every violation at once.
    pub(in crate::api) fn read(
        request: EvaluateErasureRequest,
        limits: Limits<'_>,
    ) -> ApiResult<Self> {
        let EvaluateErasureRequest {
            request_id,
            base_model,
            edited_model,
            concept,
            concept_kind,
            vocabulary,
            target_seeds,
            retain_seeds,
            steps,
            guidance_scale,
            seed,
            labels,
            deadline,
            priority,
            force,
            validate_only,
            destination: asked_destination,
            sampler,
        } = request;
        let mut found = Violations::default();
        let terms = WireTerms { request_id, labels, deadline, priority, force, validate_only }
            .read(limits, &mut found);
        check_name(Field::BaseModel, &base_model, &mut found);
        check_name(Field::EditedModel, &edited_model, &mut found);
        let kind = read_kind(concept_kind, &mut found);
        found.prompt(Field::Concept, &concept, limits.settings.prompt_characters);
        let sampler = read_sampler(Field::Sampler, sampler, &mut found);
        let draft = Self {
            base_model,
            edited_model,
            terms,
            concept: Concept::new(concept, kind),
            vocabulary: read_vocabulary(vocabulary, limits, &mut found),
            given: Given { target_seeds, retain_seeds, steps, guidance_scale, seed, sampler },
            destination: read_destination(&asked_destination, limits, &mut found),
        };
        // Until the model's words are known, the concept is taken for one of them.
        let placeholder = || Vocabulary {
            objects: vec![draft.concept.text.clone()],
            styles: vec![draft.concept.text.clone()],
            ..Vocabulary::default()
        };
        let words = draft.vocabulary.clone().unwrap_or_else(placeholder);
        let own = draft.vocabulary.is_none();
        for violation in draft.spec(words).validate().err().into_iter().flat_map(|e| e.violations) {
            if !(own && violation.field.is_of_vocabulary()) {
                found.add(violation.field.on_wire(), violation.message);
            }
        }
        found.finish()?;
        // From here on equal requests have equal specs; violations above quote what was written.
        let (concept, given) = (draft.concept.canonical(), draft.vocabulary.as_ref());
        let vocabulary = given.map(Vocabulary::canonical);
        Ok(Self { concept, vocabulary, ..draft })
    }

    /// What should be gone, for logs.
    pub(in crate::api) fn concept(&self) -> &str {
        &self.concept.text
    }

    /// The work on models that are ready.
    pub(in crate::api) fn complete(
        &self,
        base: &ModelEntry,
        edited: &ModelEntry,
    ) -> ApiResult<EvaluateWork> {
        let base_digest =
            base.digest.clone().ok_or(ApiError::Internal("a model that is ready has no digest"))?;
        let own = || base.vocabulary.clone().unwrap_or_default().canonical();
        let spec = self.spec(self.vocabulary.clone().unwrap_or_else(own));
        let mut found = Violations::default();
        match &edited.origin {
            ModelOrigin::Erased(origin) if origin.base_model == self.base_model => {}
            ModelOrigin::Erased(_) => {
                found.add(Field::EditedModel, "was made of another base model; name that one");
            }
            ModelOrigin::Base => {
                found.add(
                    Field::EditedModel,
                    "is no erased model; ListModels names those there are",
                );
            }
        }
        found.absorb(spec.validate());
        check_grid(&spec, &mut found);
        found.finish()?;
        Ok(EvaluateWork {
            base_model: self.base_model.clone(),
            base_digest,
            edited_model: self.edited_model.clone(),
            spec,
            destination: self.destination.clone(),
        })
    }

    fn spec(&self, vocabulary: Vocabulary) -> JudgeSpec {
        let mut spec = JudgeSpec::new(self.concept.clone(), vocabulary);
        let Given { target_seeds, retain_seeds, steps, guidance_scale, seed, sampler } = self.given;
        spec.target_seeds = target_seeds.map_or(spec.target_seeds, |seeds| seeds as usize);
        spec.retain_seeds = retain_seeds.map_or(spec.retain_seeds, |seeds| seeds as usize);
        spec.steps = steps.map_or(spec.steps, |steps| steps as usize);
        spec.guidance_scale = guidance_scale.unwrap_or(spec.guidance_scale);
        spec.seed = seed.unwrap_or(spec.seed);
        spec.sampler = sampler;
        spec
    }
}

/// A grid that is too large to be drawn is refused before it waits for its turn.
fn check_grid(spec: &JudgeSpec, found: &mut Violations) {
    let own = spec.vocabulary.other_domain(spec.concept.kind).len();
    let cells = spec.vocabulary.objects.len().saturating_mul(spec.vocabulary.styles.len());
    let pictures = own
        .saturating_mul(spec.target_seeds)
        .saturating_add(cells.saturating_sub(own).saturating_mul(spec.retain_seeds));
    if !(1..=GenerateSpec::MAX_PICTURES).contains(&pictures) {
        let message = format!(
            "the grid has {pictures} pictures, 1 to {} are allowed; change the words or the seeds",
            GenerateSpec::MAX_PICTURES
        );
        found.add(Field::Vocabulary, message);
    }
}
