//! Concept inversion (Pham and others, arXiv 2308.01508): token embeddings that make the erased,
//! frozen model draw the concept.
//!
//! The plain form has one token and learns from pictures that the base model drew. The guided form is
//! ours: an auditor has the base model, so that four tokens learn its predictions on its own
//! trajectories, without the noise that a picture's loss has.

use candle_core::{Tensor, Var};

use super::{
    drawing::{Drawing, Way},
    ground::{Place, Purpose},
    naming::Sightings,
    noised::{Noised, noised},
    open_prompt::{OpenPrompt, OpenSample, OpenText, alone, check_one_encoder, digest},
    trial::{
        Asked, Attack, BATCH, Findings, Models, Payer, Point, Quoted, Success, Trial, encode, seeds,
    },
};
use crate::engine::{
    EngineError, RunContext,
    denoise::{ScheduledDenoiser, initial_latents},
    ops::{Adam, AdamSettings},
    schedule::NoiseSource,
    trajectory::{Walk, walk},
};

/// Free tokens of the guided form.
pub(in crate::engine) const MOST_TOKENS: usize = 4;
/// Trajectories of the base model that the guided form learns from.
const TRAJECTORIES: usize = 8;
/// Steps of each.
const WALK_STEPS: usize = 10;
/// Pictures that the plain form learns from.
const PICTURES: usize = 8;
/// Latents that are kept of them: what a step takes, and both predictions.
pub(in crate::engine) const KEPT_LATENTS: usize = 3 * TRAJECTORIES * WALK_STEPS;

/// Steps after which its success is counted.
const CURVE: [usize; 4] = [50, 100, 200, 400];
/// Its own end; it goes on to the last of the curve where the budget has enough for all of it.
const END: usize = 200;
/// Pictures that the attacker draws to choose among the steps of the curve.
const CHOICE: usize = 4;
/// Adam's step, in units of the root mean square of the embeddings that it starts from: between the
/// two published rates, 0.15 (arXiv 2505.17013) and 6 (arXiv 2308.01508).
const RATE: f64 = 2.0;
/// Decay of the embeddings, in each step a share of its rate (`AdamW`).
const DECAY: f64 = 0.01;
/// Noise that the start of each token differs from the others by, in the same units.
const START_NOISE: f64 = 0.5;

/// The attack in one of its forms.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConceptInversion {
    pub(super) guided: bool,
}

/// A sample of the search, and which prompt it is of.
#[derive(Debug, Clone)]
struct Lesson {
    prompt: usize,
    noised: Noised,
}

/// What the tokens learn from.
enum Source {
    /// The base model's predictions on its trajectories.
    Trajectories(Vec<Lesson>),
    /// Clean latents, a row a prompt.
    Pictures(Tensor),
}

/// The search for tokens on one model.
struct Search<'a> {
    trial: &'a Trial<'a>,
    text: OpenText<'a>,
    /// Of the contexts that the search may use.
    prompts: Vec<OpenPrompt>,
    source: Source,
    noise: NoiseSource,
    tokens: Var,
    adam: Adam,
    rate: f64,
}

impl ConceptInversion {
    fn tokens(self) -> usize {
        if self.guided { MOST_TOKENS } else { 1 }
    }

    /// Evaluations before the first step.
    fn source_cost(self, trial: &Trial<'_>) -> Result<u64, EngineError> {
        Ok(if self.guided {
            (2 * TRAJECTORIES * WALK_STEPS) as u64
        } else {
            PICTURES as u64 * trial.picture_cost()?
        })
    }
}

impl Attack for ConceptInversion {
    fn check(&self, models: Models<'_>, asked: Asked<'_>) -> Result<(), EngineError> {
        // As many places more than any sentence has for its word.
        check_one_encoder(models, asked, |text, sentence| {
            text.open(sentence, "", self.tokens()).map(drop)
        })?;
        models.base.scheduler.schedule_with_signal(WALK_STEPS)?;
        Ok(())
    }

    fn attack(
        &self,
        trial: &Trial<'_>,
        context: &mut RunContext<'_>,
    ) -> Result<Findings, EngineError> {
        let mut findings = Findings {
            points: Vec::new(),
            finished: false,
            quoted: Quoted::Best,
            success: Success::Once,
            sound_until: None,
        };
        let Some(text) = OpenText::of(trial.victim) else { return Ok(findings) };
        if trial.costs.left() < self.source_cost(trial)? {
            return Ok(findings);
        }
        let mut search = Search::begin(*self, trial, text, context)?;
        let choice = CHOICE as u64 * trial.picture_cost()?;
        let pass = 2 * BATCH as u64;
        let whole = CURVE.len() as u64 * choice + CURVE[CURVE.len() - 1] as u64 * pass;
        let end = if trial.costs.left() >= whole { CURVE[CURVE.len() - 1] } else { END };
        let mut done = 0;
        while done < end && trial.costs.left() >= pass {
            trial.advance(context)?;
            search.step(done)?;
            done += 1;
            if CURVE.contains(&done) {
                let affords = trial.costs.left() >= choice;
                findings.points.push(search.point(done, affords, context)?);
            }
        }
        findings.finished = done >= END;
        if findings.points.is_empty() && done > 0 {
            findings.points.push(search.point(done, false, context)?);
        }
        Ok(findings)
    }
}

impl<'a> Search<'a> {
    fn begin(
        form: ConceptInversion,
        trial: &'a Trial<'a>,
        text: OpenText<'a>,
        context: &mut RunContext<'_>,
    ) -> Result<Self, EngineError> {
        let ground = trial.asked.ground;
        let count = if form.guided { TRAJECTORIES } else { PICTURES };
        let places = ground.places(Purpose::Search, count);
        let open = |place: &Place| {
            let (before, after) = ground.around(trial.word(), place.context.as_deref());
            text.open(&before, &after, form.tokens())
        };
        let prompts = places.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let sentences = trial.sentences(trial.word(), &places);
        let source = if form.guided {
            Source::Trajectories(walked(trial, &sentences, &seeds(&places), context)?)
        } else {
            let text = encode(trial.base, &sentences)?;
            let drawing = Drawing {
                pipeline: trial.base,
                text: &text,
                seeds: &seeds(&places),
                way: Way::Plain,
            };
            Source::Pictures(trial.draw(&drawing, Payer::Attack, context)?)
        };
        let mut noise = NoiseSource::new(trial.asked.attack.seed ^ 0x1417_e450);
        let anything = &trial.asked.judgement.vocabulary.anything;
        let start = text.first_tokens(anything, form.tokens())?;
        let size = f64::from(start.sqr()?.mean_all()?.to_scalar::<f32>()?).sqrt();
        let apart = (noise.randn_tensor(start.dims(), start.device())? * (START_NOISE * size))?;
        let tokens = Var::from_tensor(&(start + apart)?)?;
        let adam = Adam::new(&alone(tokens.clone()), AdamSettings::default())?;
        Ok(Self { trial, text, prompts, source, noise, tokens, adam, rate: RATE * size })
    }

    fn lesson(&mut self) -> Result<Lesson, EngineError> {
        match &self.source {
            Source::Trajectories(lessons) => {
                let index = self.noise.index(lessons.len());
                let missing = || candle_core::Error::Msg("a search without lessons".to_owned());
                Ok(lessons.get(index).cloned().ok_or_else(missing)?)
            }
            Source::Pictures(pictures) => {
                let prompt = self.noise.index(pictures.dim(0)?);
                let clean = pictures.get(prompt)?;
                Ok(Lesson { prompt, noised: noised(self.trial.victim, &clean, &mut self.noise)? })
            }
        }
    }

    fn step(&mut self, step: usize) -> Result<(), EngineError> {
        let lessons = (0..BATCH).map(|_| self.lesson()).collect::<Result<Vec<_>, EngineError>>()?;
        let samples: Vec<OpenSample<'_>> = lessons
            .into_iter()
            .filter_map(|Lesson { prompt, noised: Noised { z, timestep, target } }| {
                let prompt = self.prompts.get(prompt)?;
                Some(OpenSample { prompt, z, timestep, target })
            })
            .collect();
        let tokens = self.tokens.as_detached_tensor();
        let (loss, gradient) = self.text.loss_and_gradient(&samples, &tokens)?;
        self.trial.costs.pay_gradient(samples.len());
        if !loss.is_finite() {
            return Err(EngineError::NotFinite { what: "the loss", value: loss, update: step });
        }
        let variables = alone(self.tokens.clone());
        self.adam.step(&variables, &alone(gradient), |_| self.rate)?;
        let decayed = (self.tokens.as_detached_tensor() * (1.0 - self.rate * DECAY))?;
        self.tokens.set(&decayed)?;
        Ok(())
    }

    /// How the tokens do now.
    fn point(
        &self,
        step: usize,
        affords_choice: bool,
        context: &mut RunContext<'_>,
    ) -> Result<Point, EngineError> {
        let choice = if affords_choice {
            self.look(Purpose::Choose, CHOICE, Payer::Attack, context)?
        } else {
            Sightings::new()
        };
        let pictures = self.trial.asked.attack.pictures;
        let seen = self.look(Purpose::Judge, pictures, Payer::Judging, context)?;
        let tokens = self.tokens.as_detached_tensor();
        let (count, width) = tokens.dims2()?;
        let digest = digest(&tokens)?;
        let found = Some(format!("{count} × {width} numbers after {step} steps, SHA-256 {digest}"));
        Ok(Point { step: step as u64, seen, choice, found })
    }

    fn look(
        &self,
        purpose: Purpose,
        count: usize,
        payer: Payer,
        context: &mut RunContext<'_>,
    ) -> Result<Sightings, EngineError> {
        let Self { trial, text, tokens, .. } = self;
        let ground = trial.asked.ground;
        let places = ground.places(purpose, count);
        let tokens = tokens.as_detached_tensor();
        let free = tokens.dim(0)?;
        let open = |place: &Place| {
            let (before, after) = ground.around(trial.word(), place.context.as_deref());
            text.open(&before, &after, free)
        };
        let prompts = places.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let text = text.encode(&prompts.iter().collect::<Vec<_>>(), &tokens)?;
        let seeds = seeds(&places);
        let drawing =
            Drawing { pipeline: trial.victim, text: &text, seeds: &seeds, way: Way::Plain };
        trial.look(&drawing, payer, context)
    }
}

/// What the base model predicts along its own way to the pictures of some sentences.
fn walked(
    trial: &Trial<'_>,
    sentences: &[String],
    seeds: &[u64],
    context: &mut RunContext<'_>,
) -> Result<Vec<Lesson>, EngineError> {
    let base = trial.base;
    let schedule = base.scheduler.schedule_with_signal(WALK_STEPS)?;
    let denoiser = ScheduledDenoiser {
        network: &*base.denoiser,
        schedule: &schedule,
        evaluations: &trial.costs.forward,
        resting: None,
    };
    let way = Walk {
        lead: &encode(base, sentences)?,
        counterpart: None,
        empty: &base.unconditional("", None)?,
        guidance_scale: trial.asked.judgement.guidance_scale,
        latents: initial_latents(seeds, base.latent_shape(None)?, &base.device)?,
        steps: schedule.len(),
    };
    let footprints = trial.within(context, |context| walk(&denoiser, way, context))?;
    let mut lessons = Vec::new();
    for footprint in footprints.into_iter().filter(|it| schedule.has_signal(it.step)) {
        for prompt in 0..footprint.z.dim(0)? {
            let (z, target) = (footprint.z.get(prompt)?, footprint.lead.get(prompt)?);
            let timestep = schedule.timestep(footprint.step).0 as f64;
            lessons.push(Lesson { prompt, noised: Noised { z, timestep, target } });
        }
    }
    Ok(lessons)
}
