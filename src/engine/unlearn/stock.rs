//! What Keystep walks before it trains, and how that outlives the process.

use std::collections::BTreeMap;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::{
    Run,
    bank::{Pairing, Stretch, Track, Walk, walk},
    contexts::{ConceptPrompt, Contexts},
};
use crate::{
    engine::{
        EngineError, RunContext, StatePart,
        denoise::Denoiser,
        schedule::{NoiseSource, NoiseState, Schedule},
        state::{Contents, SavedPart, ignore},
    },
    spec::{KeystepSettings, StepIndex},
};

/// Tracks of the frozen model, whole.
#[derive(Debug)]
pub(super) struct Stock {
    /// Concepts and anchors, at the key steps alone.
    pub(super) erase: Vec<Track>,
    /// Neighbours, at every step.
    pub(super) preserve: Track,
}

/// What a stock is walked by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walking<'a> {
    pub(super) settings: &'a KeystepSettings,
    pub(super) schedule: &'a Schedule,
    pub(super) key_steps: &'a [StepIndex],
    /// The empty prompt's hidden states, `[1, tokens, channels]`.
    pub(super) empty: &'a Tensor,
}

/// [`StatePart::Bank`] without its tensors: where the run stands after its walks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    noise: NoiseState,
    evaluations: u64,
}

impl Stock {
    /// Takes up the stock that the run has saved, or walks it and saves it.
    pub(super) fn get(
        run: &mut Run<'_>,
        walking: Walking<'_>,
        context: &mut RunContext<'_>,
    ) -> Result<Self, EngineError> {
        if let Some(saved) = run.keeper.find(StatePart::Bank, context) {
            match Self::restore(run, walking, saved) {
                Ok(stock) => return Ok(stock),
                Err(reason) => ignore(StatePart::Bank, reason, context),
            }
        }
        let stock = Self::walk(run, walking, context)?;
        let body = Body { noise: run.noise.state(), evaluations: run.evaluations.get() };
        let contents = Contents::new(&body, stock.tensors());
        run.keeper.save(StatePart::Bank, false, &contents, context)?;
        Ok(stock)
    }

    fn walk(
        run: &mut Run<'_>,
        walking: Walking<'_>,
        context: &mut RunContext<'_>,
    ) -> Result<Self, EngineError> {
        let (pipeline, spec) = (run.pipeline, run.spec);
        let Walking { settings, schedule, key_steps, empty } = walking;
        let frozen = Denoiser { unet: &pipeline.unet, schedule, evaluations: run.evaluations };
        let mut contexts = Contexts::new(&spec.vocabulary, &spec.concepts, &spec.preserve);
        let last = key_steps.last().map_or(0, |step| step.0 + 1);
        let bare = |count: usize| (settings.bare_share * count as f64).round() as usize;

        let mut erase = Vec::new();
        for concept in &spec.concepts {
            for (count, concept_leads) in concept_walks(settings) {
                let prompts = contexts.concept(concept, count, bare(count), &mut run.noise);
                let text = |part: fn(&ConceptPrompt) -> &str| {
                    pipeline.encode_prompts(&prompts.iter().map(part).collect::<Vec<_>>())
                };
                let (named, anchors) = (text(|p| &p.concept)?, text(|p| &p.anchor)?);
                let (lead, counterpart, pairing) = if concept_leads {
                    (&named, &anchors, Pairing::LeadAgainstCounterpart)
                } else {
                    (&anchors, &named, Pairing::CounterpartAgainstLead)
                };
                let walked = Walk {
                    lead,
                    counterpart: Some(counterpart),
                    empty,
                    guidance_scale: settings.guidance_scale,
                    latents: run.fresh_latents(count)?,
                    steps: last,
                };
                let mut track = Track::new(walk(&frozen, walked, context)?, named, pairing);
                track.stretches.retain(|stretch| key_steps.contains(&stretch.step));
                erase.push(track);
            }
        }

        let prompts = contexts.neighbours(settings.preserve_trajectories, &mut run.noise);
        let text = pipeline.encode_prompts(&prompts)?;
        let walked = Walk {
            lead: &text,
            counterpart: None,
            empty,
            guidance_scale: settings.guidance_scale,
            latents: run.fresh_latents(settings.preserve_trajectories)?,
            steps: schedule.len(),
        };
        let footprints = walk(&frozen, walked, context)?;
        Ok(Self { erase, preserve: Track::new(footprints, text, Pairing::LeadAgainstEmpty) })
    }

    /// Reads what [`Stock::walk`] would walk.
    fn restore(
        run: &mut Run<'_>,
        walking: Walking<'_>,
        mut saved: SavedPart,
    ) -> Result<Self, String> {
        let Walking { settings, schedule, key_steps, empty } = walking;
        let body: Body = saved.body()?;
        let noise = NoiseSource::resume(&body.noise)
            .ok_or("its noise does not hold the words of a generator's state")?;
        // What the file must hold is known without it.
        let every_step: Vec<_> = schedule.steps().collect();
        let concepts = run.spec.concepts.iter();
        let mut layout: Vec<(usize, &[StepIndex])> = concepts
            .flat_map(|_| concept_walks(settings).map(|(count, _)| (count, key_steps)))
            .collect();
        layout.push((settings.preserve_trajectories, &every_step));
        let told = |error: EngineError| error.to_string();
        let [channels, height, width] = run.pipeline.latent_shape(None).map_err(told)?;
        let (_, tokens, states) = empty.dims3().map_err(|error| error.to_string())?;
        let mut shapes = BTreeMap::new();
        for (index, (count, steps)) in layout.iter().enumerate() {
            shapes.insert(text_name(index), vec![*count, tokens, states]);
            for step in *steps {
                for name in stretch_names(index, *step) {
                    shapes.insert(name, vec![*count, channels, height, width]);
                }
            }
        }
        saved.require(&shapes)?;

        let device = &run.pipeline.device;
        let mut tracks = Vec::with_capacity(layout.len());
        for (index, (_, steps)) in layout.iter().enumerate() {
            let text = saved.tensor(&text_name(index), device)?;
            let mut stretches = Vec::with_capacity(steps.len());
            for &step in *steps {
                let [z, prediction, counterpart] = stretch_names(index, step);
                stretches.push(Stretch {
                    step,
                    z: saved.tensor(&z, device)?,
                    prediction: saved.tensor(&prediction, device)?,
                    counterpart: saved.tensor(&counterpart, device)?,
                });
            }
            tracks.push(Track { text, stretches });
        }
        let preserve = tracks.pop().ok_or("it holds no tracks")?;
        run.noise = noise;
        run.evaluations.set(body.evaluations);
        Ok(Self { erase: tracks, preserve })
    }

    fn tensors(&self) -> impl Iterator<Item = (String, Tensor)> + '_ {
        let tracks = self.erase.iter().chain([&self.preserve]).enumerate();
        tracks.flat_map(|(index, track)| {
            let stretches = track.stretches.iter().flat_map(move |stretch| {
                let Stretch { step, z, prediction, counterpart } = stretch;
                let tensors = [z, prediction, counterpart].map(Tensor::clone);
                stretch_names(index, *step).into_iter().zip(tensors)
            });
            stretches.chain([(text_name(index), track.text.clone())])
        })
    }
}

/// A concept's walks: how many trajectories, and whether the prompts that name it lead.
pub(in crate::engine) fn concept_walks(
    settings: &KeystepSettings,
) -> impl Iterator<Item = (usize, bool)> + use<> {
    [(settings.concept_trajectories, true), (settings.anchor_trajectories, false)]
        .into_iter()
        .filter(|(count, _)| *count > 0)
}

fn text_name(track: usize) -> String {
    format!("{track:03}/text")
}

fn stretch_names(track: usize, StepIndex(step): StepIndex) -> [String; 3] {
    ["z", "prediction", "counterpart"].map(|part| format!("{track:03}/{step:04}/{part}"))
}
