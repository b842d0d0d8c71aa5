//! The bank of trajectories that `keystep` walks before it trains, and its saved form.

use std::collections::BTreeMap;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::{
    run::Run,
    walked::{self, Path, Walked, read_stretches, stretch_names},
};
use crate::{
    engine::{
        EngineError, RunContext, SavePoint, StatePart,
        denoise::ScheduledDenoiser,
        family::Conditioning,
        schedule::{NoiseSource, NoiseState, Schedule},
        state::{Contents, SaveOccasion, SavedPart, ignore},
        trajectory::{ConceptPrompt, Contexts, Pairing, Stretch, Trajectory, Walk, walk_on},
        wording::left_out,
    },
    spec::{KeystepSettings, StepIndex},
};

/// Tracks of the frozen model, whole.
#[derive(Debug)]
pub(super) struct TrajectoryBank {
    /// Concepts and anchors, at the key steps alone.
    pub(super) erase: Vec<Trajectory>,
    /// Neighbours, at every step.
    pub(super) preserve: Trajectory,
    /// Words that the neighbours name; none where they were walked by a version that did not say.
    pub(super) held: Option<Vec<String>>,
}

/// What a bank is walked by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walking<'a> {
    pub(super) settings: &'a KeystepSettings,
    pub(super) schedule: &'a Schedule,
    pub(super) key_steps: &'a [StepIndex],
    /// What guidance steers away from, one row.
    pub(super) empty: &'a Conditioning,
}

/// [`StatePart::Bank`] without its tensors: where the run stands after its walks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    noise: NoiseState,
    evaluations: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    held: Option<Vec<String>>,
}

impl TrajectoryBank {
    /// Takes up the bank that the run has saved, or walks it and saves it.
    pub(super) fn get(
        run: &mut Run<'_>,
        walking: Walking<'_>,
        context: &mut RunContext<'_>,
    ) -> Result<Self, EngineError> {
        if let Some(saved) = run.checkpointer.find(StatePart::Bank, context) {
            match Self::restore(run, walking, saved) {
                Ok(bank) => return Ok(bank),
                Err(reason) => ignore(StatePart::Bank, reason, context),
            }
        }
        let bank = Self::walk(run, walking, context)?;
        let body = Body {
            noise: run.noise.state(),
            evaluations: run.evaluations.get(),
            held: bank.held.clone(),
        };
        let contents = Contents::new(&body, bank.tensors());
        let point = SavePoint { part: StatePart::Bank, done: 1 };
        run.checkpointer.save(point, SaveOccasion::UnderWay, &contents, context)?;
        Ok(bank)
    }

    fn walk(
        run: &mut Run<'_>,
        walking: Walking<'_>,
        context: &mut RunContext<'_>,
    ) -> Result<Self, EngineError> {
        let (pipeline, spec) = (run.pipeline, run.spec);
        let Walking { settings, schedule, key_steps, empty } = walking;
        let cancel = context.cancel.clone();
        let frozen = ScheduledDenoiser {
            network: &*pipeline.denoiser,
            schedule,
            evaluations: run.evaluations,
            resting: Some(&cancel),
        };
        let mut contexts =
            Contexts::new(&spec.vocabulary, left_out(&pipeline.tokenizer, spec), &spec.preserve);
        let last = key_steps.last().map_or(0, |step| step.0 + 1);
        let bare = |count: usize| (settings.bare_share * count as f64).round() as usize;

        let every_step: Vec<_> = schedule.steps().collect();
        let concepts = spec.concepts.iter().flat_map(|_| concept_walks(settings));
        let mut paths: Vec<_> = concepts
            .map(|(trajectories, _)| Path {
                trajectories,
                steps: last,
                kept: key_steps,
                has_counterpart: true,
            })
            .collect();
        paths.push(Path {
            trajectories: settings.preserve_trajectories,
            steps: schedule.len(),
            kept: &every_step,
            has_counterpart: false,
        });
        let Walked { mut trajectories, mut begun } = Walked::find(run, &paths, context);

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
                if let Some(stretches) = trajectories.pop_front() {
                    erase.push(Trajectory { prompts: named, stretches });
                    continue;
                }
                let (checkpointer, evaluations) = (&mut run.checkpointer, run.evaluations);
                let footprints = walk_on(
                    &frozen,
                    walked,
                    std::mem::take(&mut begun),
                    &mut |begun, context| {
                        walked::save(checkpointer, (&erase, begun), evaluations.get(), context)
                    },
                    context,
                )?;
                let mut trajectory = Trajectory::new(footprints, named, pairing);
                trajectory.stretches.retain(|stretch| key_steps.contains(&stretch.step));
                erase.push(trajectory);
            }
        }

        let prompts = contexts.neighbours(settings.preserve_trajectories, &mut run.noise);
        let prompts = pipeline.encode_prompts(&prompts)?;
        let held = Some(contexts.held());
        let walked = Walk {
            lead: &prompts,
            counterpart: None,
            empty,
            guidance_scale: settings.guidance_scale,
            latents: run.fresh_latents(settings.preserve_trajectories)?,
            steps: schedule.len(),
        };
        if let Some(stretches) = trajectories.pop_front() {
            return Ok(Self { erase, preserve: Trajectory { prompts, stretches }, held });
        }
        let (checkpointer, evaluations) = (&mut run.checkpointer, run.evaluations);
        let footprints = walk_on(
            &frozen,
            walked,
            begun,
            &mut |begun, context| {
                walked::save(checkpointer, (&erase, begun), evaluations.get(), context)
            },
            context,
        )?;
        Ok(Self {
            erase,
            preserve: Trajectory::new(footprints, prompts, Pairing::LeadAgainstEmpty),
            held,
        })
    }

    /// Reads what [`TrajectoryBank::walk`] would walk.
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
        let message = |error: EngineError| error.to_string();
        let [channels, height, width] = run.pipeline.latent_shape(None).map_err(message)?;
        let mut shapes = BTreeMap::new();
        for (index, (count, steps)) in layout.iter().enumerate() {
            for (part, of_prompt) in empty.parts() {
                let shape = [&[*count], of_prompt.dims().get(1..).unwrap_or_default()].concat();
                shapes.insert(prompt_name(index, part), shape);
            }
            for step in *steps {
                for name in stretch_names(index, *step) {
                    shapes.insert(name, vec![*count, channels, height, width]);
                }
            }
        }
        saved.require(&shapes)?;

        let device = &run.pipeline.device;
        let mut trajectories = Vec::with_capacity(layout.len());
        for (index, (_, steps)) in layout.iter().enumerate() {
            let mut part = |name: &str| saved.tensor(&prompt_name(index, name), device);
            let prompts = Conditioning {
                states: part("text")?,
                pooled: empty.pooled.as_ref().map(|_| part("pooled")).transpose()?,
                extra: empty.extra.as_ref().map(|_| part("extra")).transpose()?,
            };
            let stretches = read_stretches(&mut saved, index, steps, device)?;
            trajectories.push(Trajectory { prompts, stretches });
        }
        let preserve = trajectories.pop().ok_or("it holds no trajectories")?;
        run.noise = noise;
        run.evaluations.set(body.evaluations);
        Ok(Self { erase: trajectories, preserve, held: body.held })
    }

    fn tensors(&self) -> impl Iterator<Item = (String, Tensor)> + '_ {
        let trajectories = self.erase.iter().chain([&self.preserve]).enumerate();
        trajectories.flat_map(|(index, trajectory)| {
            let stretches = trajectory.stretches.iter().flat_map(move |stretch| {
                let Stretch { step, z, prediction, counterpart } = stretch;
                let tensors = [z, prediction, counterpart].map(Tensor::clone);
                stretch_names(index, *step).into_iter().zip(tensors)
            });
            let prompts = trajectory.prompts.parts();
            stretches.chain(
                prompts.map(move |(part, tensor)| (prompt_name(index, part), tensor.clone())),
            )
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

/// What a part of a trajectory's prompts is called in saved state.
fn prompt_name(trajectory: usize, part: &str) -> String {
    format!("{trajectory:03}/{part}")
}
