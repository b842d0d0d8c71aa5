//! CLIP as a judge, zero-shot: the model's own in its folder `clip`, or one that a user gives.
//!
//! It is the family's [`ClipModel`], not that of candle-transformers, which pools a text at its
//! largest token instead of at `eos_token_id`, has an epsilon of 1e-5 whatever the config says, and
//! draws a class embedding at random where a file lacks it.

use candle_core::{DType, Device, Tensor};

use super::{
    naming::{Domain, Features, Judge, PICTURES_AT_ONCE, softmax},
    pixels::pixels,
    preprocessor::{Preprocessor, Processor},
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
    spec::{Concept, ModelFiles, Prompt, Vocabulary},
};

/// CLIP zero-shot over the canonical sentences of the domain's words.
#[derive(Debug)]
pub(super) struct ClipJudge {
    name: String,
    clip: ClipModel,
    tokenizer: ClipTokenizer,
    preprocessor: Preprocessor,
    device: Device,
}

/// A judge of which only configs and headers were read so far.
pub(super) struct ClipPart<'a> {
    config: ClipConfig,
    part: Part<'a>,
    tokenizer: ClipTokenizer,
    preprocessor: Preprocessor,
}

impl<'a> ClipPart<'a> {
    /// Looks at the folder of a `CLIPModel` with its tokenizer.
    pub(super) fn find(
        files: &'a dyn ModelFiles,
        folder: &'a str,
        warnings: &mut Vec<String>,
    ) -> Result<Self, EngineError> {
        let name = format!("{folder}/config.json");
        let file = format!("{}/{name}", files.location());
        let config = ClipConfig::parse(&read_text(files, &name)?, &file)?;
        let clip = |w: &Weights| ClipModel::new(w, &config).map(drop);
        let part = Part::find(files, (folder, None), clip, warnings)?;
        let size = Some(config.vision.image_size);
        let preprocessor = Preprocessor::read(files, folder, Processor::Clip, size)?;
        let tokenizer = ClipTokenizer::for_encoder(files, folder, &config.text, &file)?;
        warnings.extend(tokenizer.repair().map(str::to_owned));
        Ok(Self { config, part, tokenizer, preprocessor })
    }

    /// Numbers of all weights.
    pub(super) fn parameters(&self) -> u64 {
        self.part.count()
    }

    /// Reads the weights of the judge, which reports call by this name.
    pub(super) fn read(self, name: &str, device: &Device) -> Result<ClipJudge, EngineError> {
        let tensors = self.part.read(device)?;
        Ok(ClipJudge {
            name: name.to_owned(),
            clip: ClipModel::new(&Weights::frozen(&tensors), &self.config)?,
            tokenizer: self.tokenizer,
            preprocessor: self.preprocessor,
            device: device.clone(),
        })
    }
}

impl ClipJudge {
    /// Unit vectors `[pictures, projection]`.
    fn features(&self, pictures: &[Picture]) -> Result<Tensor, EngineError> {
        let Preprocessor { fit, normalisation } = self.preprocessor;
        let input = pixels(pictures, fit, normalisation, &self.device)?;
        self.clip.image_features(&input)
    }

    fn rows(&self, features: &Tensor) -> Features {
        finite::check(self.clip.location(), "features", features)?;
        Ok(features.to_dtype(DType::F32)?.to_vec2()?)
    }
}

impl Judge for ClipJudge {
    fn name(&self) -> &str {
        &self.name
    }

    fn working_numbers(&self) -> u64 {
        PICTURES_AT_ONCE as u64 * self.clip.working_numbers_a_picture()
    }

    /// It knows all words, if not all equally well.
    fn check(&self, _: &Concept, _: &Vocabulary) -> Result<(), EngineError> {
        Ok(())
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
