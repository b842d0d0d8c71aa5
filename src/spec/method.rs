//! The methods and their knobs. Presets are the published recipes; every knob is in the spec, so
//! that a spec alone says what was done.

use serde::{Deserialize, Serialize};

use super::{ConceptKind, Field, KeySteps, Scope, SpecError, violation::Violations};

/// A method's name, as on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[derive(strum::EnumString, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case", parse_err_ty = SpecError, parse_err_fn = unknown_method)]
pub enum MethodName {
    /// Key-step unlearning with a measured window, this project's own method.
    Keystep,
    /// Key-Step Concept Unlearning as published (arXiv 2507.06526).
    Kscu,
    /// Erased Stable Diffusion as published (arXiv 2303.07345).
    Esd,
}

impl MethodName {
    /// The name on the command line and in files.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

fn unknown_method(text: &str) -> SpecError {
    let message = format!("\"{text}\" is not a method; use keystep, kscu or esd");
    SpecError::one(Field::Method, message)
}

/// How to erase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum Method {
    /// Ours: measured window, preserve term, walked trajectories.
    Keystep(KeystepSettings),
    /// KSCU as published.
    Kscu(KscuSettings),
    /// ESD as published.
    Esd(EsdSettings),
}

impl Method {
    /// The preset of a method for a kind of concept, and the scope that goes with it.
    pub fn preset(name: MethodName, kind: ConceptKind, several: bool) -> (Self, Scope) {
        match name {
            MethodName::Keystep => {
                (Self::Keystep(KeystepSettings::default()), Scope::CrossAttention)
            }
            MethodName::Kscu => {
                let (settings, scope) = KscuSettings::preset(kind, several);
                (Self::Kscu(settings), scope)
            }
            MethodName::Esd => {
                let scope = match kind {
                    ConceptKind::Style | ConceptKind::Instance => Scope::CrossAttention,
                    ConceptKind::Object | ConceptKind::Nudity => Scope::NonCrossAttention,
                };
                (Self::Esd(EsdSettings::default()), scope)
            }
        }
    }

    /// The method's name.
    pub fn name(&self) -> MethodName {
        match self {
            Self::Keystep(_) => MethodName::Keystep,
            Self::Kscu(_) => MethodName::Kscu,
            Self::Esd(_) => MethodName::Esd,
        }
    }

    /// Checks every knob.
    pub fn validate(&self) -> Result<(), SpecError> {
        let mut found = Violations::default();
        match self {
            Self::Keystep(settings) => settings.check(&mut found),
            Self::Kscu(settings) => settings.check(&mut found),
            Self::Esd(settings) => settings.check(&mut found),
        }
        found.finish()
    }
}

const UPDATES: std::ops::RangeInclusive<usize> = 1..=100_000;
const RATES: std::ops::RangeInclusive<f64> = 1e-9..=1.0;

/// KSCU's knobs (paper section 4; authors' code KSCU-Quick).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KscuSettings {
    /// Length of the Key Step Table, and so updates.
    pub updates: usize,
    /// First key step `S` of the table's first traversal.
    pub first_key_step: usize,
    /// Whole traversals before `S` moves up by one.
    pub loop_n: usize,
    /// Steps `E` of the schedule.
    pub schedule_steps: usize,
    /// Guidance of the latents' trajectories.
    pub guidance_scale: f64,
    /// Strength `g` of the negative guidance in the target.
    pub negative_guidance: f64,
    /// Weight of the unconditional term.
    pub unconditional_weight: f64,
    /// Slope of the timestep weight `λ1(t) = (1000 − t) · slope`.
    pub timestep_slope: f64,
    /// Share of the updates, at the end, whose prompts are augmented.
    pub augmented_share: f64,
    /// Adam's rate.
    pub learning_rate: f64,
}

impl KscuSettings {
    /// The published preset for a kind, with its scope.
    pub fn preset(kind: ConceptKind, several: bool) -> (Self, Scope) {
        let (updates, first_key_step, scope) = match kind {
            ConceptKind::Nudity | ConceptKind::Object => (750, 14, Scope::NonCrossAttention),
            ConceptKind::Style => (500, 24, Scope::CrossAttention),
            ConceptKind::Instance if several => (750, 40, Scope::CrossAttention),
            ConceptKind::Instance => (200, 40, Scope::CrossAttention),
        };
        let settings = Self {
            updates,
            first_key_step,
            loop_n: 8,
            schedule_steps: 50,
            guidance_scale: 3.0,
            negative_guidance: 1.0,
            unconditional_weight: 1e-4,
            timestep_slope: 2e-5,
            augmented_share: 0.05,
            learning_rate: 1e-5,
        };
        (settings, scope)
    }

    fn check(&self, found: &mut Violations) {
        found.within(Field::MethodUpdates, self.updates, UPDATES);
        found.within(Field::MethodScheduleSteps, self.schedule_steps, 2..=1_000);
        found.within(Field::MethodLoopN, self.loop_n, 1..=1_000);
        found.within(Field::MethodLearningRate, self.learning_rate, RATES);
        found.within(Field::MethodGuidanceScale, self.guidance_scale, 0.0..=100.0);
        found.within(Field::MethodNegativeGuidance, self.negative_guidance, 0.0..=100.0);
        found.within(Field::MethodUnconditionalWeight, self.unconditional_weight, 0.0..=1e6);
        found.within(Field::MethodTimestepSlope, self.timestep_slope, 0.0..=1.0);
        found.within(Field::MethodAugmentedShare, self.augmented_share, 0.0..=1.0);
        if self.first_key_step * 10 >= self.schedule_steps * 9 {
            found.add(
                Field::MethodFirstKeyStep,
                format!(
                    "{} is not below 0.9 of the {} steps; lower it",
                    self.first_key_step, self.schedule_steps
                ),
            );
        }
    }
}

/// ESD's knobs (paper section 4.2).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EsdSettings {
    /// Updates.
    pub updates: usize,
    /// Steps of the schedule.
    pub schedule_steps: usize,
    /// Guidance of the latents' trajectories.
    pub guidance_scale: f64,
    /// Strength `η` of the negative guidance in the target (the old script's meaning).
    pub negative_guidance: f64,
    /// Adam's rate.
    pub learning_rate: f64,
}

impl Default for EsdSettings {
    fn default() -> Self {
        Self {
            updates: 1_000,
            schedule_steps: 50,
            guidance_scale: 3.0,
            negative_guidance: 1.0,
            learning_rate: 1e-5,
        }
    }
}

impl EsdSettings {
    fn check(&self, found: &mut Violations) {
        found.within(Field::MethodUpdates, self.updates, UPDATES);
        found.within(Field::MethodScheduleSteps, self.schedule_steps, 1..=1_000);
        found.within(Field::MethodLearningRate, self.learning_rate, RATES);
        found.within(Field::MethodGuidanceScale, self.guidance_scale, 0.0..=100.0);
        found.within(Field::MethodNegativeGuidance, self.negative_guidance, 0.0..=100.0);
    }
}

/// Our own method's knobs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeystepSettings {
    /// Where to train.
    pub key_steps: KeySteps,
    /// Most updates; the run stops earlier when the erase measure holds.
    pub updates: usize,
    /// Steps of the trajectories that are walked.
    pub schedule_steps: usize,
    /// Guidance of the trajectories.
    pub guidance_scale: f64,
    /// Trajectories a concept that are walked under prompts which name it.
    pub concept_trajectories: usize,
    /// Trajectories a concept that are walked under the same prompts without it.
    pub anchor_trajectories: usize,
    /// Trajectories that are walked under prompts to preserve.
    pub preserve_trajectories: usize,
    /// Erase samples of one update.
    pub erase_batch: usize,
    /// Preserve samples of one update.
    pub preserve_batch: usize,
    /// Share of the preserve samples that are drawn from the key steps.
    pub preserve_inside: f64,
    /// Share of the concept's trajectories whose prompt names it alone, without a context.
    pub bare_share: f64,
    /// Share of the preserve samples that hold the empty prompt's prediction.
    pub empty_share: f64,
    /// Strength `η` of the negative guidance in the target.
    pub negative_guidance: f64,
    /// Weight of the preserve term.
    pub preserve_weight: f64,
    /// How far the loss leans towards the steps that move the picture most: each step's weight is
    /// multiplied by its share of the neighbours' guidance effect to this power.
    pub effect_exponent: f64,
    /// Length of the noise on embeddings, as a share of the embedding's root mean square.
    pub embedding_noise: f64,
    /// Adam's largest step for each tensor, as a share of the tensor's root mean square.
    pub relative_rate: f64,
    /// The run stops early once the erase measure is at or below this (1 untouched, 0 neutral).
    pub stop_below: f64,
}

impl Default for KeystepSettings {
    fn default() -> Self {
        Self {
            key_steps: KeySteps::Measured,
            updates: 100,
            schedule_steps: 20,
            guidance_scale: 5.0,
            concept_trajectories: 12,
            anchor_trajectories: 12,
            preserve_trajectories: 24,
            erase_batch: 8,
            preserve_batch: 8,
            preserve_inside: 0.7,
            bare_share: 0.2,
            empty_share: 0.1,
            negative_guidance: 0.6,
            preserve_weight: 3.0,
            effect_exponent: 0.5,
            embedding_noise: 0.005,
            relative_rate: 3e-2,
            stop_below: -0.5,
        }
    }
}

impl KeystepSettings {
    fn check(&self, found: &mut Violations) {
        found.within(Field::MethodUpdates, self.updates, UPDATES);
        found.within(Field::MethodScheduleSteps, self.schedule_steps, 4..=1_000);
        found.within(Field::MethodGuidanceScale, self.guidance_scale, 0.0..=100.0);
        found.within(Field::MethodConceptTrajectories, self.concept_trajectories, 1..=1_024);
        found.within(Field::MethodAnchorTrajectories, self.anchor_trajectories, 0..=1_024);
        found.within(Field::MethodPreserveTrajectories, self.preserve_trajectories, 1..=1_024);
        found.within(Field::MethodEraseBatch, self.erase_batch, 1..=256);
        found.within(Field::MethodPreserveBatch, self.preserve_batch, 1..=256);
        found.within(Field::MethodPreserveInside, self.preserve_inside, 0.0..=1.0);
        found.within(Field::MethodBareShare, self.bare_share, 0.0..=1.0);
        found.within(Field::MethodEmptyShare, self.empty_share, 0.0..=1.0);
        found.within(Field::MethodNegativeGuidance, self.negative_guidance, 0.0..=100.0);
        found.within(Field::MethodPreserveWeight, self.preserve_weight, 0.0..=1e6);
        found.within(Field::MethodEffectExponent, self.effect_exponent, 0.0..=4.0);
        found.within(Field::MethodEmbeddingNoise, self.embedding_noise, 0.0..=1.0);
        found.within(Field::MethodRelativeRate, self.relative_rate, RATES);
        found.within(Field::MethodStopBelow, self.stop_below, -100.0..=1.0);
        if let KeySteps::Window(window) = self.key_steps
            && (window.low.is_nan() || window.high.is_nan() || window.low > window.high)
        {
            found.add(
                Field::MethodKeySteps,
                format!(
                    "the window {} to {} is empty; give low before high",
                    window.low, window.high
                ),
            );
        }
    }
}
