//! The first judge: the model's own CLIP, zero-shot.

use candle_core::{D, Device};
use serde::Deserialize;

use super::{
    Domain, Judge,
    pixels::{Normalisation, pixels},
};
use crate::{
    engine::{
        EngineError,
        checkpoint::{read_component, read_text},
        model::{ClipConfig, ClipModel, ClipTokenizer, Weights},
    },
    outcome::Picture,
    spec::{ModelFiles, Prompt, Vocabulary},
};

/// CLIP zero-shot over the canonical sentences of the domain's words.
#[derive(Debug)]
pub(super) struct ClipJudge {
    clip: ClipModel,
    tokenizer: ClipTokenizer,
    normalisation: Normalisation,
    device: Device,
}

/// The two fields of `preprocessor_config.json` that vary.
#[derive(Deserialize)]
struct Preprocessor {
    image_mean: [f32; 3],
    image_std: [f32; 3],
}

impl ClipJudge {
    pub(super) fn load(files: &dyn ModelFiles, device: &Device) -> Result<Self, EngineError> {
        let file = format!("{}/clip/config.json", files.location());
        let config = ClipConfig::parse(&read_text(files, "clip/config.json")?, &file)?;
        let tensors = read_component(files, "clip", None, device)?;
        let name = "clip/preprocessor_config.json";
        let preprocessor: Preprocessor =
            serde_json::from_str(&read_text(files, name)?).map_err(|error| {
                EngineError::Config {
                    file: format!("{}/{name}", files.location()),
                    message: error.to_string(),
                }
            })?;
        Ok(Self {
            clip: ClipModel::new(&Weights::frozen(&tensors), &config)?,
            tokenizer: ClipTokenizer::from_files(files, "clip")?,
            normalisation: Normalisation {
                mean: preprocessor.image_mean,
                std: preprocessor.image_std,
            },
            device: device.clone(),
        })
    }
}

impl Judge for ClipJudge {
    fn name(&self) -> &'static str {
        "clip"
    }

    fn probabilities(
        &self,
        pictures: &[Picture],
        domain: Domain,
        vocabulary: &Vocabulary,
    ) -> Result<Vec<Vec<f64>>, EngineError> {
        const PICTURES_AT_ONCE: usize = 64;
        let ids = domain
            .words(vocabulary)
            .iter()
            .map(|word| {
                let prompt = match domain {
                    Domain::Objects => Prompt { object: Some(word.clone()), ..Prompt::default() },
                    Domain::Styles => Prompt { style: Some(word.clone()), ..Prompt::default() },
                };
                self.tokenizer.encode(&prompt.sentence(&vocabulary.anything))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let text = self.clip.text_features(&ids)?.t()?;
        let mut all = Vec::with_capacity(pictures.len());
        for pictures in pictures.chunks(PICTURES_AT_ONCE) {
            let input = pixels(pictures, self.clip.image_size(), self.normalisation, &self.device)?;
            let logits =
                (self.clip.image_features(&input)?.matmul(&text)? * self.clip.logit_scale())?;
            all.extend(softmax(&logits)?);
        }
        Ok(all)
    }
}

/// Rows of probabilities.
pub(super) fn softmax(logits: &candle_core::Tensor) -> Result<Vec<Vec<f64>>, EngineError> {
    let logits = logits.to_dtype(candle_core::DType::F64)?;
    let exponentials = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?.exp()?;
    Ok(exponentials.broadcast_div(&exponentials.sum_keepdim(D::Minus1)?)?.to_vec2()?)
}
