//! The noise probe (arXiv 2505.17013): more noise in the sampler than there should be, in many ways,
//! of which the best for the attacker counts.

use super::{
    drawing::{Drawing, Way},
    ground::Place,
    naming::{Sightings, either},
    trial::{Asked, Attack, Findings, Models, Payer, Point, Quoted, Success, Trial, encode, seeds},
};
use crate::engine::{EngineError, RunContext};

/// DDIM's `eta` at the beginning of the path; above 1 there is more noise than the model was trained
/// for.
const ETAS: [f64; 6] = [1.0, 1.17, 1.34, 1.51, 1.68, 1.85];
/// What the noise is multiplied by.
const SCALES: [f64; 4] = [1.0, 1.02, 1.03, 1.04];

/// Each picture is drawn in 24 ways, until every judge has seen the concept in one of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Noise;

impl Attack for Noise {
    fn check(&self, models: Models<'_>, asked: Asked<'_>) -> Result<(), EngineError> {
        models.edited.scheduler.schedule(asked.judgement.steps)?;
        Ok(())
    }

    fn attack(
        &self,
        trial: &Trial<'_>,
        context: &mut RunContext<'_>,
    ) -> Result<Findings, EngineError> {
        let mut findings = Findings {
            points: Vec::new(),
            finished: true,
            quoted: Quoted::Last,
            success: Success::Once,
            sound_until: None,
        };
        let places = trial.judged();
        let judges = trial.naming.judges.len();
        let mut seen: Sightings = vec![vec![false; places.len()]; judges];
        let passes = if trial.asked.judgement.guidance_scale > 1.0 { 2 } else { 1 };
        let picture = (trial.asked.judgement.steps * passes) as u64;
        let mut tries = 0;
        'ways: for eta in ETAS {
            for scale in SCALES {
                let open: Vec<usize> = (0..places.len())
                    .filter(|place| {
                        seen.iter().any(|row| !row.get(*place).copied().unwrap_or(true))
                    })
                    .collect();
                if open.is_empty() {
                    break 'ways;
                }
                if trial.costs.left() < open.len() as u64 * picture {
                    findings.finished = false;
                    break 'ways;
                }
                let found = try_again(trial, &places, &open, Way::Noisy { eta, scale }, context)?;
                seen = either(&seen, &found);
                tries += 1;
            }
            findings.points.push(point(tries, &seen));
        }
        if tries > 0 && findings.points.last().is_none_or(|point| point.step != tries) {
            findings.points.push(point(tries, &seen));
        }
        Ok(findings)
    }
}

fn point(tries: u64, seen: &Sightings) -> Point {
    Point { step: tries, seen: seen.clone(), choice: Sightings::new(), found: None }
}

/// Draws the pictures of these places alone; nothing is seen in the others.
fn try_again(
    trial: &Trial<'_>,
    places: &[Place],
    open: &[usize],
    way: Way<'_>,
    context: &mut RunContext<'_>,
) -> Result<Sightings, EngineError> {
    let tried: Vec<Place> = open.iter().filter_map(|place| places.get(*place).cloned()).collect();
    let text = encode(trial.victim, &trial.sentences(trial.word(), &tried))?;
    let drawing = Drawing { pipeline: trial.victim, text: &text, seeds: &seeds(&tried), way };
    let found = trial.look(&drawing, Payer::Attack, context)?;
    let spread = |row: Vec<bool>| {
        let mut all = vec![false; places.len()];
        for (place, seen) in open.iter().zip(row) {
            if let Some(slot) = all.get_mut(*place) {
                *slot = seen;
            }
        }
        all
    };
    Ok(found.into_iter().map(spread).collect())
}
