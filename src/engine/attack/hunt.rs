//! Hunts for prompts: tokens before a sentence, or in its place, that make a model draw the concept.
//! Each sentence is hunted for by itself, with its own seed, until every judge has seen the concept.

use candle_core::Tensor;

use super::{
    drawing::{Drawing, Way},
    ground::Place,
    naming::Sightings,
    open_prompt::OpenText,
    trial::{Findings, Payer, Point, Quoted, Success, Trial, encode},
};
use crate::engine::{EngineError, RunContext};

/// The search of one sentence.
pub(super) trait Hunter {
    /// Takes a step in a round.
    fn step(&mut self, round: usize, trial: &Trial<'_>) -> Result<(), EngineError>;

    /// The best prompt so far, as somebody would type it.
    fn prompt(&self) -> Result<String, EngineError>;
}

/// What a hunt is for.
pub(super) struct Quarry<'a> {
    pub(super) text: OpenText<'a>,
    /// Names what is sought.
    pub(super) sentence: String,
    /// Clean latents `[channels, h, w]` of the base model's picture of it.
    pub(super) picture: Tensor,
    /// Rounds that are planned.
    pub(super) rounds: usize,
    /// Draws of this hunt start here.
    pub(super) seed: u64,
}

/// How many rounds of how many steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rounds {
    pub(super) rounds: usize,
    pub(super) steps: usize,
}

impl Rounds {
    /// Evaluations of a hunt that never succeeds: the base model's picture, one without the attack,
    /// and in each round its steps (of so many evaluations) and a picture.
    fn cost(self, step: u64, picture: u64) -> u64 {
        2 * picture + self.rounds as u64 * (self.steps as u64 * step + picture)
    }

    /// The same, shrunk alike until a hunt costs no more than so much.
    fn within(self, budget: u64, step: u64, picture: u64) -> Self {
        let mut fitting = self;
        let mut percent = 100;
        while percent > 1 && fitting.cost(step, picture) > budget {
            percent -= 1;
            let part = |of: usize| (of * percent).div_ceil(100).max(1);
            fitting = Self { rounds: part(self.rounds), steps: part(self.steps) };
        }
        fitting
    }
}

/// A schedule as published, and the least of it that decides anything.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) published: Rounds,
    pub(super) least: Rounds,
    /// Evaluations of a step.
    pub(super) step_cost: u64,
}

/// Hunts for every judged sentence.
pub(super) fn hunt<'a, H: Hunter>(
    trial: &'a Trial<'a>,
    plan: Plan,
    mut hunter: impl FnMut(&Quarry<'a>, &Trial<'_>) -> Result<H, EngineError>,
    context: &mut RunContext<'_>,
) -> Result<Findings, EngineError> {
    let mut findings = Findings {
        points: Vec::new(),
        finished: false,
        quoted: Quoted::Last,
        success: Success::Once,
        sound_until: None,
    };
    let Some(text) = OpenText::of(trial.victim) else { return Ok(findings) };
    let places = trial.judged();
    let sentences = trial.sentences(trial.word(), &places);
    let picture = trial.picture_cost()?;
    let each = trial.asked.attack.budget / places.len().max(1) as u64;
    let rounds = plan.published.within(each, plan.step_cost, picture);
    let Rounds { rounds: least, steps } = plan.least;
    findings.finished = rounds.rounds >= least && rounds.steps >= steps;
    if rounds.cost(plan.step_cost, picture) > each {
        findings.finished = false;
        return Ok(findings);
    }
    // The round, from 0 for the plain sentence, in which each judge first sees each picture.
    let mut caught = Vec::new();
    let mut prompts = Vec::new();
    for ((place, sentence), number) in places.iter().zip(&sentences).zip(0_u64..) {
        let begin = |trial: &Trial<'_>, context: &mut RunContext<'_>| {
            let named = encode(trial.base, std::slice::from_ref(sentence))?;
            let drawing = Drawing {
                pipeline: trial.base,
                text: &named,
                seeds: &[place.seed],
                way: Way::Plain,
            };
            let quarry = Quarry {
                text,
                sentence: sentence.clone(),
                picture: trial.draw(&drawing, Payer::Attack, context)?.get(0)?,
                rounds: rounds.rounds,
                seed: trial.asked.attack.seed.wrapping_add(1_000_003 * (number + 1)),
            };
            hunter(&quarry, trial)
        };
        let one = One { trial, place, sentence };
        let (rounds_seen, prompt) = one.hunt(rounds, begin, context)?;
        caught.push(rounds_seen);
        prompts.extend(prompt);
    }
    for round in 0..=rounds.rounds {
        let judges = trial.naming.judges.len();
        let seen = |judge: usize| {
            let by = caught.iter().map(|rounds: &Vec<Option<usize>>| {
                rounds.get(judge).copied().flatten().is_some_and(|first| first <= round)
            });
            by.collect::<Vec<bool>>()
        };
        findings.points.push(Point {
            step: (round * rounds.steps) as u64,
            seen: (0..judges).map(seen).collect(),
            choice: Sightings::new(),
            found: (!prompts.is_empty()).then(|| prompts.join("\n")),
        });
    }
    Ok(findings)
}

/// One sentence that is hunted for.
struct One<'a> {
    trial: &'a Trial<'a>,
    place: &'a Place,
    sentence: &'a str,
}

impl One<'_> {
    /// In which round each judge first saw the concept, and the prompt of the last one that one did.
    fn hunt<H: Hunter>(
        &self,
        Rounds { rounds, steps }: Rounds,
        begin: impl FnOnce(&Trial<'_>, &mut RunContext<'_>) -> Result<H, EngineError>,
        context: &mut RunContext<'_>,
    ) -> Result<(Vec<Option<usize>>, Option<String>), EngineError> {
        let Self { trial, place, sentence } = *self;
        let mut first = vec![None; trial.naming.judges.len()];
        let mut found = None;
        let mut look = |prompt: &str, round: usize, context: &mut RunContext<'_>| {
            let text = match encode(trial.victim, &[prompt.to_owned()]) {
                // What cannot be typed is no prompt.
                Err(EngineError::PromptTooLong { .. }) => return Ok(false),
                text => text?,
            };
            let drawing = Drawing {
                pipeline: trial.victim,
                text: &text,
                seeds: &[place.seed],
                way: Way::Plain,
            };
            let seen = trial.look(&drawing, Payer::Attack, context)?;
            for (first, seen) in first.iter_mut().zip(seen) {
                if first.is_none() && seen.first() == Some(&true) {
                    *first = Some(round);
                    found = Some(prompt.to_owned());
                }
            }
            Ok::<_, EngineError>(first.iter().all(Option::is_some))
        };
        if !look(sentence, 0, context)? {
            let mut hunter = begin(trial, context)?;
            for round in 0..rounds {
                for _ in 0..steps {
                    trial.advance(context)?;
                    hunter.step(round, trial)?;
                }
                if look(&hunter.prompt()?, round + 1, context)? {
                    break;
                }
            }
        }
        Ok((first, found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_shrinks_into_its_budget() {
        let published = Rounds { rounds: 50, steps: 40 };
        let whole = published.cost(2, 40);
        assert_eq!(whole, 2 * 40 + 50 * (80 + 40));
        assert_eq!(published.within(whole, 2, 40), published);
        for budget in [whole - 1, 2_000, 500, 200] {
            let fitting = published.within(budget, 2, 40);
            assert!(fitting.cost(2, 40) <= budget, "{budget}: {fitting:?}");
            assert!(fitting.rounds < 50 && fitting.rounds >= 1 && fitting.steps >= 1);
        }
        // Not even one step.
        assert!(published.within(10, 2, 40).cost(2, 40) > 10);
    }
}
