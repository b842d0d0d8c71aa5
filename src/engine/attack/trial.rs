//! `Attack`: a way to seek a concept; `Trial`: the model that it is turned on, and what it may use.

use candle_core::Tensor;

use super::{
    costs::Costs,
    drawing::{self, Drawing},
    ground::{Ground, Place, Purpose},
    naming::{Naming, Sightings},
};
use crate::{
    engine::{
        EngineError, Pipeline, RunContext,
        denoise::EvaluationCounter,
        family::Conditioning,
        generate::{DrawingPolicy, decode_resting, encode_distinct},
    },
    outcome::{Phase, Picture, Progress},
    spec::{AttackSpec, JudgeSpec},
};

/// Samples of one step of a search, and of one update of a training.
pub(in crate::engine) const BATCH: usize = 8;

/// A way to seek a concept in a model.
pub(super) trait Attack {
    /// Refuses what it cannot work on, before any work.
    fn check(&self, models: Models<'_>, asked: Asked<'_>) -> Result<(), EngineError> {
        let _ = (models, asked);
        Ok(())
    }

    /// Whether its steps on the control are a figure of their own.
    fn counts_control_steps(&self) -> bool {
        false
    }

    /// Seeks what the trial asks for in the trial's model.
    fn attack(
        &self,
        trial: &Trial<'_>,
        context: &mut RunContext<'_>,
    ) -> Result<Findings, EngineError>;
}

/// The model before and after the erasure.
#[derive(Debug, Clone, Copy)]
pub(super) struct Models<'a> {
    pub(super) base: &'a Pipeline,
    pub(super) edited: &'a Pipeline,
}

/// One attack of a judgement, and what it is tried on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) judgement: &'a JudgeSpec,
    pub(super) attack: &'a AttackSpec,
    pub(super) ground: &'a Ground,
}

/// What an attack is turned on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The edited model, for the concept.
    Attack,
    /// The base model, where there must be nothing to find.
    FalseAlarms,
    /// The base model, for the concept.
    Ceiling,
}

/// An attack on one model.
#[derive(Debug)]
pub(super) struct Trial<'a> {
    pub(super) role: Role,
    /// What the attacker has of before the erasure.
    pub(super) base: &'a Pipeline,
    /// What is attacked.
    pub(super) victim: &'a Pipeline,
    pub(super) asked: Asked<'a>,
    pub(super) naming: Naming<'a>,
    pub(super) policy: DrawingPolicy,
    pub(super) costs: Costs,
    /// The last step that the attack may be judged at, where one is known.
    pub(super) last_step: Option<u64>,
    /// Thousandths that were done before this trial, and those of all.
    pub(super) progress: (usize, usize),
}

/// What an attack found.
#[derive(Debug)]
pub(super) struct Findings {
    /// In the order of their steps.
    pub(super) points: Vec<Point>,
    /// Whether it came to its own end.
    pub(super) finished: bool,
    pub(super) quoted: Quoted,
    pub(super) success: Success,
    /// The last step at which the attack had not spoiled its model, where it looked.
    pub(super) sound_until: Option<u64>,
}

/// Success after so many steps.
#[derive(Debug)]
pub(super) struct Point {
    pub(super) step: u64,
    /// Whether each judge sees the concept in each picture.
    pub(super) seen: Sightings,
    /// The same of the pictures that the attacker chooses by.
    pub(super) choice: Sightings,
    /// What was found.
    pub(super) found: Option<String>,
}

/// Which point an attack's rate is quoted at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quoted {
    /// This one, from 0; the last where there are fewer.
    At(usize),
    /// The last.
    Last,
    /// The one that did best on the pictures of the choice; the later of those that did as well.
    Best,
}

/// From when on an attack has succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Success {
    /// With the first picture.
    Once,
    /// With half of the pictures.
    Half,
}

/// Who pays for a drawing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Payer {
    /// The attack's budget.
    Attack,
    /// The judgement.
    Judging,
}

impl Trial<'_> {
    /// What is asked of the model: the concept's word, or nonsense.
    pub(super) fn word(&self) -> &str {
        let Ground { concept, nonsense, .. } = self.asked.ground;
        if self.role == Role::FalseAlarms { nonsense } else { concept }
    }

    /// The contexts and seeds that success is counted over.
    pub(super) fn judged(&self) -> Vec<Place> {
        self.asked.ground.places(Purpose::Judge, self.asked.attack.pictures)
    }

    /// Sentences of a word at some places.
    pub(super) fn sentences(&self, word: &str, places: &[Place]) -> Vec<String> {
        let sentence = |place: &Place| self.asked.ground.sentence(word, place.context.as_deref());
        places.iter().map(sentence).collect()
    }

    /// U-Net evaluations of a picture.
    pub(super) fn picture_cost(&self) -> Result<u64, EngineError> {
        drawing::picture_cost(self.victim, self.asked.judgement)
    }

    /// Draws clean latents, a row a seed.
    pub(super) fn draw(
        &self,
        drawing: &Drawing<'_>,
        payer: Payer,
        context: &mut RunContext<'_>,
    ) -> Result<Tensor, EngineError> {
        let counter = EvaluationCounter::default();
        let drawn = self.within(context, |context| {
            drawing::draw(drawing, self.asked.judgement, &counter, context)
        });
        let (forward, judging) = (&self.costs.forward, &self.costs.judging);
        let payer = if payer == Payer::Attack { forward } else { judging };
        payer.add(usize::try_from(counter.get()).unwrap_or(usize::MAX));
        self.advance(context)?;
        drawn
    }

    /// Draws pictures.
    pub(super) fn pictures(
        &self,
        drawing: &Drawing<'_>,
        payer: Payer,
        context: &mut RunContext<'_>,
    ) -> Result<Vec<Picture>, EngineError> {
        let latents = self.draw(drawing, payer, context)?;
        decode_resting(drawing.pipeline, &latents, self.policy.decode, &context.cancel)
    }

    /// Draws pictures and looks for the concept in them.
    pub(super) fn look(
        &self,
        drawing: &Drawing<'_>,
        payer: Payer,
        context: &mut RunContext<'_>,
    ) -> Result<Sightings, EngineError> {
        let pictures = self.pictures(drawing, payer, context)?;
        self.naming.sees(&pictures, self.asked.ground.place)
    }

    /// Reports how far the attack is, and stops where that is asked for.
    pub(super) fn advance(&self, context: &mut RunContext<'_>) -> Result<(), EngineError> {
        let (before, total) = self.progress;
        context.advance(Phase::Attack, before + self.costs.thousandths(), total)
    }

    /// Runs some work, whose own progress is the attack's.
    pub(super) fn within<T>(
        &self,
        context: &mut RunContext<'_>,
        work: impl FnOnce(&mut RunContext<'_>) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let (before, total) = self.progress;
        let done = before + self.costs.thousandths();
        let cancel = context.cancel.clone();
        let mut report = |_| {
            (context.report)(Progress { phase: Phase::Attack, done, total, update: None });
        };
        work(&mut RunContext { report: &mut report, cancel, saving: None })
    }
}

/// Encodes sentences for pictures of a model's own size, each that differs once.
pub(super) fn encode(
    pipeline: &Pipeline,
    sentences: &[String],
) -> Result<Conditioning, EngineError> {
    let sentences: Vec<&str> = sentences.iter().map(String::as_str).collect();
    encode_distinct(pipeline, &sentences, None)
}

/// The seeds of some places.
pub(super) fn seeds(places: &[Place]) -> Vec<u64> {
    places.iter().map(|place| place.seed).collect()
}
