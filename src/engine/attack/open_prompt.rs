//! Prompts with free places: token embeddings that are sought, and the gradient to them.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};
use sha2::{Digest, Sha256};

use super::trial::{Asked, Models};
use crate::{
    engine::{
        EngineError, Pipeline,
        denoise::{cells, samples_a_pass, side_by_side},
        family::{Conditioning, PROMPTS_AT_ONCE, TextTower},
        tape::TapeTensor,
    },
    spec::{Field, SpecError},
};

/// A sentence in which some tokens are left open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OpenPrompt {
    /// With end tokens in the open places.
    ids: Vec<u32>,
    /// The first open place.
    start: usize,
}

/// A model's text encoder as an attack feeds it.
#[derive(Debug, Clone, Copy)]
pub(super) struct OpenText<'a> {
    pipeline: &'a Pipeline,
    tower: &'a TextTower,
}

/// What the network shall predict under an open prompt.
#[derive(Debug, Clone)]
pub(super) struct OpenSample<'a> {
    pub(super) prompt: &'a OpenPrompt,
    /// `[channels, h, w]`.
    pub(super) z: Tensor,
    pub(super) timestep: f64,
    /// `[channels, h, w]`.
    pub(super) target: Tensor,
}

impl<'a> OpenText<'a> {
    /// None where prompts are read by more than one text encoder, or by more than their states.
    pub(super) fn of(pipeline: &'a Pipeline) -> Option<Self> {
        let shape = pipeline.family.conditioning_shape();
        match &*pipeline.towers {
            [tower] if shape.pooled.is_none() && shape.extra.is_none() => {
                Some(Self { pipeline, tower })
            }
            _ => None,
        }
    }

    /// A sentence with so many open places between two texts.
    pub(super) fn open(
        &self,
        before: &str,
        after: &str,
        places: usize,
    ) -> Result<OpenPrompt, EngineError> {
        let tokenizer = &self.tower.tokenizer;
        let (empty, end) = (tokenizer.encode("")?, tokenizer.end());
        let content = |text: &str| {
            let ids = tokenizer.encode(text)?;
            Ok::<_, EngineError>(ids.into_iter().skip(1).take_while(|id| *id != end).collect())
        };
        let (before, after): (Vec<u32>, Vec<u32>) = (content(before)?, content(after)?);
        let start = 1 + before.len();
        let mut ids: Vec<u32> = empty.iter().copied().take(1).chain(before).collect();
        ids.extend(vec![end; places]);
        ids.extend(after);
        ids.push(end);
        if ids.len() > tokenizer.length() {
            return Err(EngineError::PromptTooLong {
                tokens: ids.len(),
                limit: tokenizer.length(),
            });
        }
        ids.resize(tokenizer.length(), empty.last().copied().unwrap_or(end));
        Ok(OpenPrompt { ids, start })
    }

    /// The embeddings of every token, `[tokens, hidden]`.
    pub(super) fn table(&self) -> Result<Tensor, EngineError> {
        let tokens = self.tower.tokenizer.vocabulary_size() as u32;
        Ok(self.tower.encoder.token_embeddings(&[(0..tokens).collect()])?.squeeze(0)?)
    }

    /// Tokens as somebody would type them.
    pub(super) fn decode(&self, ids: &[u32]) -> String {
        self.tower.tokenizer.decode(ids)
    }

    /// The embedding of a word's first token, so many times.
    ///
    /// # Shapes
    /// `[count, hidden]`.
    pub(super) fn first_tokens(&self, word: &str, count: usize) -> Result<Tensor, EngineError> {
        let ids = self.tower.tokenizer.encode(word)?;
        let first = ids.get(1).copied().unwrap_or_else(|| self.tower.tokenizer.end());
        let rows = self.tower.encoder.token_embeddings(&[vec![first; count]])?;
        Ok(rows.squeeze(0)?)
    }

    /// The states of prompts that are nothing but these tokens, `[prompts, tokens, hidden]`.
    pub(super) fn states_of(&self, prompts: &[Vec<u32>]) -> Result<Tensor, EngineError> {
        let whole = prompts.iter().map(|tokens| {
            let OpenPrompt { mut ids, start } = self.open("", "", tokens.len())?;
            for (id, token) in ids.iter_mut().skip(start).zip(tokens) {
                *id = *token;
            }
            Ok(ids)
        });
        let whole = whole.collect::<Result<Vec<_>, EngineError>>()?;
        let parts = whole.chunks(PROMPTS_AT_ONCE).map(|ids| self.tower.encoder.forward(ids));
        Ok(Tensor::cat(&parts.collect::<Result<Vec<_>, _>>()?, 0)?)
    }

    /// Prompts with tokens `[places, hidden]` in their open places, as the encoder takes them.
    ///
    /// # Shapes
    /// `[prompts, tokens, hidden]`.
    fn embedded(&self, prompts: &[&OpenPrompt], tokens: &Tensor) -> Result<Tensor, EngineError> {
        let ids: Vec<Vec<u32>> = prompts.iter().map(|prompt| prompt.ids.clone()).collect();
        let closed = self.tower.encoder.token_embeddings(&ids)?;
        let places = tokens.dim(0)?;
        let rows = prompts.iter().enumerate().map(|(row, prompt)| {
            let row = closed.get(row)?;
            let end = prompt.start + places;
            let before = row.narrow(0, 0, prompt.start)?;
            let after = row.narrow(0, end, row.dim(0)? - end)?;
            Tensor::cat(&[&before, tokens, &after], 0)
        });
        Ok(Tensor::stack(&rows.collect::<Result<Vec<_>, _>>()?, 0)?)
    }

    /// What a denoiser reads of prompts with these tokens in their open places.
    pub(super) fn encode(
        &self,
        prompts: &[&OpenPrompt],
        tokens: &Tensor,
    ) -> Result<Conditioning, EngineError> {
        let parts = prompts.chunks(PROMPTS_AT_ONCE).map(|prompts| {
            let embedded = TapeTensor::no_grad(&self.embedded(prompts, tokens)?);
            Ok(self.tower.encoder.trace(&embedded)?.into_tensor())
        });
        let parts = parts.collect::<Result<Vec<_>, EngineError>>()?;
        Ok(Tensor::cat(&parts, 0)?.into())
    }

    /// The mean over samples of the prediction's mean squared error, and its gradient to the tokens.
    pub(super) fn loss_and_gradient(
        &self,
        samples: &[OpenSample<'_>],
        tokens: &Tensor,
    ) -> Result<(f64, Tensor), EngineError> {
        let prompts: Vec<_> = samples.iter().map(|sample| sample.prompt).collect();
        let embedded = self.embedded(&prompts, tokens)?;
        let states = self.tower.encoder.trace(&TapeTensor::followed(&embedded))?;
        // The denoiser's passes run side by side, each with states of its own.
        let values = states.tensor().clone();
        let cells = samples.first().map_or(Ok(0), |sample| cells(&sample.z))?;
        let a_pass = samples_a_pass(samples.len(), cells);
        let starts: Vec<usize> = (0..samples.len()).step_by(a_pass).collect();
        let denoiser = &*self.pipeline.denoiser;
        let passes = side_by_side(denoiser, &starts, |&start| {
            let samples = samples.get(start..).unwrap_or_default();
            let samples = samples.get(..a_pass).unwrap_or(samples);
            self.pass(samples, &values.narrow(0, start, samples.len())?.contiguous()?)
        })?;
        let (losses, gradients): (Vec<f64>, Vec<Tensor>) = passes.into_iter().unzip();
        let count = samples.len().max(1) as f64;
        let gradient = (Tensor::cat(&gradients, 0)? / count)?;
        let mut gradients = states.backward(gradient)?;
        let Some(of_embedded) = gradients.take_of(&embedded) else {
            return Err(EngineError::MissingGradient { name: "tokens".to_owned(), update: 0 });
        };
        let places = tokens.dim(0)?;
        let mut sum = Tensor::zeros(tokens.shape(), DType::F32, tokens.device())?;
        for (row, prompt) in prompts.iter().enumerate() {
            sum = (sum + of_embedded.get(row)?.narrow(0, prompt.start, places)?)?;
        }
        Ok((losses.iter().sum::<f64>() / count, sum))
    }

    /// The sum of the samples' mean squared errors, and its gradient to their text states.
    fn pass(
        &self,
        samples: &[OpenSample<'_>],
        states: &Tensor,
    ) -> Result<(f64, Tensor), EngineError> {
        let denoiser = &*self.pipeline.denoiser;
        let stack = |part: fn(&OpenSample<'_>) -> Tensor| {
            Tensor::stack(&samples.iter().map(part).collect::<Vec<_>>(), 0)
        };
        let timesteps: Vec<f64> = samples.iter().map(|sample| sample.timestep).collect();
        let z = TapeTensor::constant(&stack(|sample| sample.z.clone())?);
        let text = Conditioning { states: TapeTensor::followed(states), pooled: None, extra: None };
        let prediction = denoiser.trace_inputs(&z, &timesteps, &text)?;
        let errors = (prediction.tensor() - stack(|sample| sample.target.clone())?)?;
        let elements = errors.elem_count() / samples.len().max(1);
        let loss = f64::from(errors.sqr()?.sum_all()?.to_scalar::<f32>()?) / elements as f64;
        let scale = denoiser.gradient_scale();
        let slope = 2.0 * scale / elements as f64;
        let mut gradients = prediction.backward((errors * slope)?)?;
        let Some(gradient) = gradients.take_of(states) else {
            return Err(EngineError::MissingGradient { name: "text states".to_owned(), update: 0 });
        };
        Ok((loss, if scale > 1.0 { (gradient / scale)? } else { gradient }))
    }
}

/// Refuses models whose prompts are read otherwise than by one text encoder, and sentences that do not
/// fit with what is added to them.
pub(super) fn check_one_encoder(
    models: Models<'_>,
    asked: Asked<'_>,
    fits: impl Fn(&OpenText<'_>, &str) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    let Asked { judgement, attack, ground } = asked;
    for pipeline in [models.base, models.edited] {
        let Some(text) = OpenText::of(pipeline) else {
            let message = format!(
                "{} works on models with one text encoder, {} reads prompts otherwise; leave the \
                 attack out",
                attack.attack, pipeline.location
            );
            return Err(SpecError::one(Field::Attacks, message).into());
        };
        let contexts = judgement.vocabulary.other_domain(judgement.concept.kind);
        for context in contexts.iter().map(|word| Some(word.as_str())).chain([None]) {
            for word in [&ground.concept, &ground.nonsense] {
                fits(&text, &ground.sentence(word, context))?;
            }
        }
    }
    Ok(())
}

/// SHA-256 of a tensor's numbers, hexadecimal.
pub(super) fn digest(tensor: &Tensor) -> Result<String, EngineError> {
    let mut hash = Sha256::new();
    for value in tensor.flatten_all()?.to_vec1::<f32>()? {
        hash.update(value.to_le_bytes());
    }
    Ok(hex::encode(hash.finalize()))
}

/// The one variable of a search, by name, as the optimiser takes them.
pub(super) fn alone<T>(value: T) -> BTreeMap<String, T> {
    BTreeMap::from([("tokens".to_owned(), value)])
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use candle_core::Device;

    use super::*;
    use crate::engine::{Compute, checkpoint::testing::MemoryModel, schedule::NoiseSource};

    /// The built-in model without its judges.
    fn pipeline() -> Pipeline {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/emoji-canvas/model");
        let folders = ["text_encoder", "tokenizer", "unet", "vae", "scheduler"];
        let files = folders.into_iter().flat_map(|folder| {
            fs::read_dir(root.join(folder)).unwrap().map(move |file| {
                let path = file.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap();
                (format!("{folder}/{name}"), fs::read(&path).unwrap())
            })
        });
        Pipeline::load(&MemoryModel::new(files), None, &Compute::on_the_cpu()).unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn a_sentence_with_its_own_word_in_the_open_place_is_the_sentence() {
        let pipeline = pipeline();
        let text = OpenText::of(&pipeline).unwrap();
        let cat = text.first_tokens("cat", 1).unwrap();
        let prompt = text.open("a ", " in neon style", 1).unwrap();
        let open = text.encode(&[&prompt], &cat).unwrap();
        let whole = pipeline.encode_prompts(&["a cat in neon style"]).unwrap();
        assert_eq!(values(&open.states), values(&whole.states));
        let long = "cat ".repeat(40);
        let refused = text.open(&long, "", 4);
        assert!(matches!(refused, Err(EngineError::PromptTooLong { .. })), "{refused:?}");
    }

    #[test]
    fn the_gradient_to_the_tokens_is_that_of_the_loss() {
        const STEP: f64 = 1e-3;
        let pipeline = pipeline();
        let text = OpenText::of(&pipeline).unwrap();
        let prompts = [
            text.open("a ", " in neon style", 2).unwrap(),
            text.open("a photo of a ", "", 2).unwrap(),
        ];
        let mut noise = NoiseSource::new(4);
        let mut draw = || noise.randn_tensor((4, 8, 8), &Device::Cpu).unwrap();
        // More samples than one pass takes.
        let samples: Vec<_> = (0..10)
            .map(|index| OpenSample {
                prompt: &prompts[index % 2],
                z: draw(),
                timestep: 100.0 * index as f64,
                target: draw(),
            })
            .collect();
        let tokens = text.first_tokens("cat", 2).unwrap();
        let loss = |tokens: &Tensor| text.loss_and_gradient(&samples, tokens).unwrap();
        let (at, gradient) = loss(&tokens);
        assert!(at > 0.0);
        let dot = |a: &Tensor, b: &Tensor| {
            f64::from((a * b).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap())
        };
        let length = dot(&gradient, &gradient).sqrt();
        assert!(length > 0.0);
        let other = noise.randn_tensor(tokens.dims(), &Device::Cpu).unwrap();
        for direction in [gradient.clone(), other] {
            let direction = (&direction / dot(&direction, &direction).sqrt()).unwrap();
            let beside = |by: f64| loss(&(&tokens + (&direction * by).unwrap()).unwrap()).0;
            let measured = (beside(STEP) - beside(-STEP)) / (2.0 * STEP);
            let expected = dot(&gradient, &direction);
            let off = (measured - expected).abs();
            assert!(off < 0.02 * length, "{measured} by differences, {expected}, of {length}");
        }
    }
}
