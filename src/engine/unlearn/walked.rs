//! Saves how far the walks of a bank have come, so that a process that ends meanwhile loses little:
//! the finished trajectories, and the latents and predictions of the one under way.
//!
//! What was drawn for the walks is drawn again: it costs nothing beside them, and comes out alike.

use std::collections::{BTreeMap, VecDeque};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::run::Run;
use crate::{
    engine::{
        EngineError, RunContext, SavePoint, StatePart,
        state::{Checkpointer, Contents, SaveOccasion, SavedPart, ignore},
        trajectory::{Begun, Footprint, Stretch, Trajectory},
    },
    spec::StepIndex,
};

/// A trajectory that is to be walked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Path<'a> {
    pub(super) trajectories: usize,
    /// Steps to walk, from the first.
    pub(super) steps: usize,
    /// Those of them that are kept.
    pub(super) kept: &'a [StepIndex],
    /// Whether a counterpart is predicted beside.
    pub(super) has_counterpart: bool,
}

/// [`StatePart::Walk`] without its tensors.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    /// Tracks that are whole.
    trajectories: usize,
    /// Steps of the next one that are walked.
    steps: usize,
    evaluations: u64,
}

/// What an earlier process walked.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// Whole trajectories, the first first.
    pub(super) trajectories: VecDeque<Vec<Stretch>>,
    /// The one after them.
    pub(super) begun: Begun,
}

/// The latents that the next step begins with.
const NEXT: &str = "next";

impl Walked {
    /// Takes up what the run has saved, if anything; the run's count of evaluations goes on from it.
    pub(super) fn find(run: &Run<'_>, paths: &[Path<'_>], context: &mut RunContext<'_>) -> Self {
        let Some(saved) = run.checkpointer.find(StatePart::Walk, context) else {
            return Self::default();
        };
        match Self::restore(run, paths, saved) {
            Ok(walked) => walked,
            Err(reason) => {
                ignore(StatePart::Walk, reason, context);
                Self::default()
            }
        }
    }

    fn restore(run: &Run<'_>, paths: &[Path<'_>], mut saved: SavedPart) -> Result<Self, String> {
        let body: Body = saved.body()?;
        let message = |error: EngineError| error.to_string();
        let [channels, height, width] = run.pipeline.latent_shape(None).map_err(message)?;
        let begun = paths.get(body.trajectories).filter(|_| body.steps > 0);
        let is_sound = body.trajectories <= paths.len()
            && begun.map_or(body.steps == 0, |path| body.steps <= path.steps);
        if !is_sound {
            return Err(format!(
                "it stands at step {} of trajectory {}",
                body.steps, body.trajectories
            ));
        }
        // What the file must hold is known without it.
        let mut shapes = BTreeMap::new();
        let mut want = |name: String, path: &Path<'_>| {
            shapes.insert(name, vec![path.trajectories, channels, height, width]);
        };
        for (index, path) in paths.iter().take(body.trajectories).enumerate() {
            for step in path.kept {
                for name in stretch_names(index, *step) {
                    want(name, path);
                }
            }
        }
        if let Some(path) = begun {
            for step in 0..body.steps {
                let names = footprint_names(StepIndex(step));
                let count = if path.has_counterpart { 4 } else { 3 };
                for name in names.into_iter().take(count) {
                    want(name, path);
                }
            }
            want(NEXT.to_owned(), path);
        }
        saved.require(&shapes)?;

        let device = &run.pipeline.device;
        let mut trajectories = VecDeque::with_capacity(body.trajectories);
        for (index, path) in paths.iter().take(body.trajectories).enumerate() {
            trajectories.push_back(read_stretches(&mut saved, index, path.kept, device)?);
        }
        let begun = match begun {
            None => Begun::default(),
            Some(path) => {
                let mut footprints = Vec::with_capacity(path.steps);
                for step in (0..body.steps).map(StepIndex) {
                    let [z, lead, empty, counterpart] = footprint_names(step);
                    let counterpart = if path.has_counterpart {
                        Some(saved.tensor(&counterpart, device)?)
                    } else {
                        None
                    };
                    footprints.push(Footprint {
                        step,
                        z: saved.tensor(&z, device)?,
                        lead: saved.tensor(&lead, device)?,
                        empty: saved.tensor(&empty, device)?,
                        counterpart,
                    });
                }
                Begun { footprints, next: Some(saved.tensor(NEXT, device)?) }
            }
        };
        run.evaluations.set(body.evaluations);
        Ok(Self { trajectories, begun })
    }
}

/// Saves how far the walks are, where it is time to or the run shall pause.
pub(super) fn save(
    checkpointer: &mut Checkpointer,
    (trajectories, begun): (&[Trajectory], (&[Footprint], &Tensor)),
    evaluations: u64,
    context: &mut RunContext<'_>,
) -> Result<(), EngineError> {
    let (footprints, next) = begun;
    let is_due = context.saving.as_mut().is_some_and(|saving| (saving.due)());
    let paused = context.is_paused();
    let is_news = !(trajectories.is_empty() && footprints.is_empty());
    if !is_news || context.cancel.is_cancelled() || !(is_due || paused) {
        return Ok(());
    }
    let body = Body { trajectories: trajectories.len(), steps: footprints.len(), evaluations };
    let whole = trajectories.iter().enumerate().flat_map(|(index, trajectory)| {
        trajectory.stretches.iter().flat_map(move |stretch| {
            let Stretch { step, z, prediction, counterpart } = stretch;
            let tensors = [z, prediction, counterpart].map(Tensor::clone);
            stretch_names(index, *step).into_iter().zip(tensors)
        })
    });
    let under_way = footprints.iter().flat_map(|footprint| {
        let Footprint { step, z, lead, empty, counterpart } = footprint;
        let tensors = [Some(z), Some(lead), Some(empty), counterpart.as_ref()];
        let named = footprint_names(*step).into_iter().zip(tensors);
        named.filter_map(|(name, tensor)| Some((name, tensor?.clone())))
    });
    let next = (!footprints.is_empty()).then(|| (NEXT.to_owned(), next.clone()));
    let contents = Contents::new(&body, whole.chain(under_way).chain(next));
    // Grows with every step, whatever the length of the trajectories.
    let done = (trajectories.len() as u64) << 16 | footprints.len() as u64;
    let point = SavePoint { part: StatePart::Walk, done };
    let occasion = if paused { SaveOccasion::Pause } else { SaveOccasion::UnderWay };
    checkpointer.save(point, occasion, &contents, context)?;
    Ok(())
}

/// Reads the stretches of a trajectory at these steps.
pub(super) fn read_stretches(
    saved: &mut SavedPart,
    trajectory: usize,
    steps: &[StepIndex],
    device: &Device,
) -> Result<Vec<Stretch>, String> {
    let mut stretches = Vec::with_capacity(steps.len());
    for &step in steps {
        let [z, prediction, counterpart] = stretch_names(trajectory, step);
        stretches.push(Stretch {
            step,
            z: saved.tensor(&z, device)?,
            prediction: saved.tensor(&prediction, device)?,
            counterpart: saved.tensor(&counterpart, device)?,
        });
    }
    Ok(stretches)
}

/// What the tensors of a stretch are called in saved state.
pub(super) fn stretch_names(trajectory: usize, StepIndex(step): StepIndex) -> [String; 3] {
    ["z", "prediction", "counterpart"].map(|part| format!("{trajectory:03}/{step:04}/{part}"))
}

fn footprint_names(StepIndex(step): StepIndex) -> [String; 4] {
    ["z", "lead", "empty", "counterpart"].map(|part| format!("begun/{step:04}/{part}"))
}
