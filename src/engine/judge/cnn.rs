//! The second judge: a small convolutional classifier that comes as a file beside the model and
//! shares nothing with its CLIP (recipe script `04_train_judge.py`).

use candle_core::{Device, Tensor};
use serde::Deserialize;

use super::{
    Domain, Judge,
    clip::softmax,
    pixels::{Normalisation, pixels},
};
use crate::{
    engine::{
        EngineError,
        checkpoint::{StoredTensors, read_single, read_text},
        ops::{self, Addends, Convolution, Traced},
    },
    outcome::Picture,
    spec::{ModelFiles, SpecError, Vocabulary},
};

/// `judge/config.json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CnnConfig {
    image_size: usize,
    objects: Vec<String>,
    styles: Vec<String>,
}

/// Strided convolutions with batch norm and ReLU, then a linear head a domain.
#[derive(Debug)]
pub(super) struct CnnJudge {
    image_size: usize,
    layers: Vec<ConvNormRelu>,
    object: Head,
    style: Head,
    device: Device,
}

/// A linear layer with a row a word.
#[derive(Debug)]
struct Head {
    words: Vec<String>,
    weight: Tensor,
    bias: Tensor,
}

impl Head {
    /// The rows of these words alone, in their order, which may be others than the head's own.
    fn rows(&self, words: &[String], field: &str) -> Result<(Tensor, Tensor), EngineError> {
        let rows = words
            .iter()
            .map(|word| {
                self.words.iter().position(|known| known == word).map(|row| row as u32).ok_or_else(
                    || {
                        SpecError::one(
                            field,
                            format!(
                                "the model's judge/ does not know \"{word}\"; leave the word out, \
                                 or take judge/ out of the model to judge by CLIP alone"
                            ),
                        )
                    },
                )
            })
            .collect::<Result<Vec<_>, _>>()?;
        let rows = Tensor::from_vec(rows, words.len(), self.weight.device())?;
        Ok((self.weight.index_select(&rows, 0)?, self.bias.index_select(&rows, 0)?))
    }
}

/// The batch norm is folded into the convolution.
#[derive(Debug)]
struct ConvNormRelu {
    weight: Tensor,
    bias: Tensor,
    padding: usize,
}

/// Its weights.
pub(super) const FILE: &str = "judge/judge.safetensors";

impl CnnJudge {
    pub(super) fn load(
        files: &dyn ModelFiles,
        vocabulary: &Vocabulary,
        device: &Device,
    ) -> Result<Self, EngineError> {
        let config_file = format!("{}/judge/config.json", files.location());
        let config: CnnConfig =
            serde_json::from_str(&read_text(files, "judge/config.json")?).map_err(|error| {
                EngineError::Config { file: config_file.clone(), message: error.to_string() }
            })?;
        if config.objects != vocabulary.objects || config.styles != vocabulary.styles {
            return Err(EngineError::Config {
                file: config_file,
                message: "its objects and styles are not those of vocabulary.json; the judge \
                          would name the wrong words"
                    .to_owned(),
            });
        }
        let stored = read_single(files, FILE, device)?;
        // PyTorch's Sequential numbers convolution, norm and activation as three entries.
        let mut layers = Vec::new();
        while stored.tensors.contains_key(&format!("body.{}.weight", layers.len() * 3)) {
            layers.push(ConvNormRelu::new(&stored, layers.len() * 3)?);
        }
        let head = |name: &str, words: Vec<String>| {
            let weight = tensor(&stored, &format!("{name}.weight"))?;
            let bias = tensor(&stored, &format!("{name}.bias"))?;
            if bias.dims() != [words.len()] {
                return Err(EngineError::MisshapenTensor {
                    file: stored.location.clone(),
                    name: format!("{name}.bias"),
                    expected: vec![words.len()],
                    found: bias.dims().to_vec(),
                });
            }
            Ok(Head { words, weight, bias })
        };
        Ok(Self {
            image_size: config.image_size,
            object: head("object", config.objects)?,
            style: head("style", config.styles)?,
            layers,
            device: device.clone(),
        })
    }

    fn features(&self, pixels: &Tensor) -> Result<Tensor, EngineError> {
        let mut x = pixels.clone();
        for layer in &self.layers {
            let geometry = Convolution { stride: 2, padding: layer.padding };
            let (weight, bias) = (Traced::constant(&layer.weight), Traced::constant(&layer.bias));
            let bias = Addends::bias(&bias);
            let y = ops::conv2d(&Traced::constant(&x), &weight, bias, geometry)?;
            x = y.tensor().relu()?;
        }
        Ok(x.flatten_from(1)?)
    }
}

impl Judge for CnnJudge {
    fn name(&self) -> &'static str {
        "cnn"
    }

    fn probabilities(
        &self,
        pictures: &[Picture],
        domain: Domain,
        vocabulary: &Vocabulary,
    ) -> Result<Vec<Vec<f64>>, EngineError> {
        const PICTURES_AT_ONCE: usize = 64;
        let (head, field) = match domain {
            Domain::Objects => (&self.object, "vocabulary.objects"),
            Domain::Styles => (&self.style, "vocabulary.styles"),
        };
        let (weight, bias) = head.rows(domain.words(vocabulary), field)?;
        let (weight, bias) = (Traced::constant(&weight), Traced::constant(&bias));
        let mut all = Vec::with_capacity(pictures.len());
        for pictures in pictures.chunks(PICTURES_AT_ONCE) {
            let input = pixels(pictures, self.image_size, Normalisation::UNIT, &self.device)?;
            let features = Traced::constant(&self.features(&input)?);
            all.extend(softmax(ops::linear(&features, &weight, Addends::bias(&bias))?.tensor())?);
        }
        Ok(all)
    }
}

impl ConvNormRelu {
    fn new(stored: &StoredTensors, index: usize) -> Result<Self, EngineError> {
        const EPS: f64 = 1e-5;
        let weight = tensor(stored, &format!("body.{index}.weight"))?;
        let norm = |part: &str| tensor(stored, &format!("body.{}.{part}", index + 1));
        let scale = (norm("weight")? / (norm("running_var")? + EPS)?.sqrt()?)?;
        let bias = (norm("bias")? - (norm("running_mean")? * &scale)?)?;
        Ok(Self {
            padding: weight.dim(2)? / 2,
            weight: weight.broadcast_mul(&scale.reshape(((), 1, 1, 1))?)?,
            bias,
        })
    }
}

fn tensor(stored: &StoredTensors, name: &str) -> Result<Tensor, EngineError> {
    stored.tensors.get(name).map(|stored| stored.tensor.clone()).ok_or_else(|| {
        EngineError::MissingTensor {
            file: stored.location.clone(),
            name: name.to_owned(),
            expected: Vec::new(),
        }
    })
}
