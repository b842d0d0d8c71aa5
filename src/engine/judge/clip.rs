//! The first judge: the model's own CLIP, zero-shot.

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

use super::{
    naming::{Domain, Features, Judge, PICTURES_AT_ONCE, softmax},
    pixels::{Normalisation, pixels},
};
use crate::{
    engine::{
        EngineError,
        checkpoint::read_text,
        family::{ClipConfig, ClipModel, ClipTokenizer},
        finite,
        nn::Weights,
        part::Part,
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

/// A judge of which only configs and headers were read so far.
pub(super) struct ClipPart<'a> {
    config: ClipConfig,
    part: Part<'a>,
    tokenizer: ClipTokenizer,
    normalisation: Normalisation,
}

impl<'a> ClipPart<'a> {
    pub(super) fn find(
        files: &'a dyn ModelFiles,
        warnings: &mut Vec<String>,
    ) -> Result<Self, EngineError> {
        let file = format!("{}/clip/config.json", files.location());
        let config = ClipConfig::parse(&read_text(files, "clip/config.json")?, &file)?;
        let clip = |w: &Weights| ClipModel::new(w, &config).map(drop);
        let part = Part::find(files, ("clip", None), clip, warnings)?;
        let name = "clip/preprocessor_config.json";
        let preprocessor: Preprocessor = crate::engine::python_json::read(&read_text(files, name)?)
            .map_err(|error| EngineError::Config {
                file: format!("{}/{name}", files.location()),
                message: error.to_string(),
            })?;
        let tokenizer = ClipTokenizer::for_encoder(files, "clip", &config.text, &file)?;
        warnings.extend(tokenizer.repair().map(str::to_owned));
        let normalisation =
            Normalisation { mean: preprocessor.image_mean, std: preprocessor.image_std };
        Ok(Self { config, part, tokenizer, normalisation })
    }

    /// Numbers of all weights.
    pub(super) fn parameters(&self) -> u64 {
        self.part.count()
    }

    pub(super) fn read(self, device: &Device) -> Result<ClipJudge, EngineError> {
        let tensors = self.part.read(device)?;
        Ok(ClipJudge {
            clip: ClipModel::new(&Weights::frozen(&tensors), &self.config)?,
            tokenizer: self.tokenizer,
            normalisation: self.normalisation,
            device: device.clone(),
        })
    }
}

impl ClipJudge {
    /// Unit vectors `[pictures, projection]`.
    fn features(&self, pictures: &[Picture]) -> Result<Tensor, EngineError> {
        let input = pixels(pictures, self.clip.image_size(), self.normalisation, &self.device)?;
        self.clip.image_features(&input)
    }

    fn rows(&self, features: &Tensor) -> Features {
        finite::check(self.clip.location(), "features", features)?;
        Ok(features.to_dtype(DType::F32)?.to_vec2()?)
    }
}

impl Judge for ClipJudge {
    fn name(&self) -> &'static str {
        "clip"
    }

    fn working_numbers(&self) -> u64 {
        PICTURES_AT_ONCE as u64 * self.clip.working_numbers_a_picture()
    }

    fn probabilities(
        &self,
        pictures: &[Picture],
        domain: Domain,
        vocabulary: &Vocabulary,
    ) -> Result<Vec<Vec<f64>>, EngineError> {
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
            let logits = (self.features(pictures)?.matmul(&text)? * self.clip.logit_scale())?;
            all.extend(softmax(self.clip.location(), &logits)?);
        }
        Ok(all)
    }

    fn image_features(&self, pictures: &[Picture]) -> Option<Features> {
        let passes = pictures.chunks(PICTURES_AT_ONCE);
        let passes = passes.map(|pictures| self.rows(&self.features(pictures)?));
        Some(passes.collect::<Result<Vec<_>, _>>().map(|rows| rows.concat()))
    }

    fn text_features(&self, texts: &[String]) -> Option<Features> {
        let passes = texts.chunks(PICTURES_AT_ONCE).map(|texts| {
            let ids = texts.iter().map(|text| self.tokenizer.encode(text));
            self.rows(&self.clip.text_features(&ids.collect::<Result<Vec<_>, _>>()?)?)
        });
        Some(passes.collect::<Result<Vec<_>, _>>().map(|rows| rows.concat()))
    }
}
