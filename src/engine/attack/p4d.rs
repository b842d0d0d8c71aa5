//! `Prompting4Debugging` (Chin and others, arXiv 2309.06135), its form P4D-N: tokens in place of the
//! sentence, by which the erased model shall predict what the base model predicts under the sentence.

use candle_core::{D, Tensor, Var};

use super::{
    hunt::{Hunter, Plan, Quarry, Rounds, hunt},
    noised::noised,
    open_prompt::{OpenPrompt, OpenSample, OpenText, alone, check_one_encoder},
    trial::{Asked, Attack, Findings, Models, Trial, encode},
};
use crate::engine::{
    EngineError, RunContext,
    family::Conditioning,
    ops::{Adam, AdamSettings},
    schedule::NoiseSource,
};

/// As published: 3,000 steps, judged every 50. Less than 4 times 10 decides nothing.
const PLAN: Plan = Plan {
    published: Rounds { rounds: 60, steps: 50 },
    least: Rounds { rounds: 4, steps: 10 },
    // Forward, backward, and the base model's prediction.
    step_cost: 3,
};
const RATE: f64 = 0.1;
/// Decoupled from the gradient (`AdamW`).
const DECAY: f64 = 0.1;
/// Tokens; fewer where the text encoder reads fewer.
const TOKENS: usize = 16;

/// The attack.
#[derive(Debug, Clone, Copy)]
pub(super) struct P4d;

impl Attack for P4d {
    fn check(&self, models: Models<'_>, asked: Asked<'_>) -> Result<(), EngineError> {
        check_one_encoder(models, asked, |text, _| text.open("", "", TOKENS).map(drop))
    }

    fn attack(
        &self,
        trial: &Trial<'_>,
        context: &mut RunContext<'_>,
    ) -> Result<Findings, EngineError> {
        hunt(trial, PLAN, Search::begin, context)
    }
}

/// The search for tokens in place of one sentence.
struct Search<'a> {
    text: OpenText<'a>,
    /// The sentence as the base model reads it, one row.
    named: Conditioning,
    picture: Tensor,
    prompt: OpenPrompt,
    /// Embeddings of the whole vocabulary, `[tokens, hidden]`.
    table: Tensor,
    /// The same of length one.
    directions: Tensor,
    free: Var,
    adam: Adam,
    noise: NoiseSource,
}

impl<'a> Search<'a> {
    fn begin(quarry: &Quarry<'a>, trial: &Trial<'_>) -> Result<Self, EngineError> {
        let table = quarry.text.table()?;
        let mut noise = NoiseSource::new(quarry.seed);
        let words = table.dim(0)?;
        let start: Vec<u32> = (0..TOKENS).map(|_| noise.index(words) as u32).collect();
        let start = table.index_select(&Tensor::new(start.as_slice(), table.device())?, 0)?;
        let free = Var::from_tensor(&start)?;
        Ok(Self {
            text: quarry.text,
            named: encode(trial.base, std::slice::from_ref(&quarry.sentence))?,
            picture: quarry.picture.clone(),
            prompt: quarry.text.open("", "", TOKENS)?,
            directions: unit(&table)?,
            adam: Adam::new(&alone(free.clone()), AdamSettings::default())?,
            table,
            free,
            noise,
        })
    }

    /// The real tokens whose embeddings point most where the free ones do.
    fn nearest(&self) -> Result<Tensor, EngineError> {
        let free = unit(&self.free.as_detached_tensor())?;
        Ok(free.matmul(&self.directions.t()?)?.argmax(D::Minus1)?)
    }
}

fn unit(rows: &Tensor) -> Result<Tensor, EngineError> {
    let lengths = (rows.sqr()?.sum_keepdim(D::Minus1)?.sqrt()? + 1e-12)?;
    Ok(rows.broadcast_div(&lengths)?)
}

impl Hunter for Search<'_> {
    fn step(&mut self, round: usize, trial: &Trial<'_>) -> Result<(), EngineError> {
        let noised = noised(trial.victim, &self.picture, &mut self.noise)?;
        let z = noised.z.unsqueeze(0)?;
        let target = trial.base.denoiser.forward(&z, &[noised.timestep], &self.named)?;
        trial.costs.forward.add(1);
        let sample = OpenSample {
            prompt: &self.prompt,
            z: noised.z,
            timestep: noised.timestep,
            target: target.get(0)?,
        };
        let real = self.table.index_select(&self.nearest()?, 0)?;
        let (loss, gradient) = self.text.loss_and_gradient(&[sample], &real)?;
        trial.costs.pay_gradient(1);
        if !loss.is_finite() {
            return Err(EngineError::NotFinite { what: "the loss", value: loss, update: round });
        }
        self.adam.step(&alone(self.free.clone()), &alone(gradient), |_| RATE)?;
        let decayed = (self.free.as_detached_tensor() * (1.0 - RATE * DECAY))?;
        self.free.set(&decayed)?;
        Ok(())
    }

    fn prompt(&self) -> Result<String, EngineError> {
        let ids = self.nearest()?.to_vec1::<u32>()?;
        Ok(self.text.decode(&ids).trim().to_owned())
    }
}
