//! The second judge: a small convolutional classifier in the model's folder, independent of its
//! CLIP (recipe script `04_train_judge.py`).

use std::collections::BTreeSet;

use candle_core::{Device, Tensor};
use serde::Deserialize;

use super::{
    naming::{Domain, Judge, PICTURES_AT_ONCE, softmax},
    pixels::{Fit, Normalisation, pixels},
};
use crate::{
    engine::{
        EngineError,
        checkpoint::{StoredTensors, check_dtype, outline_single, read_single_named, read_text},
        nn::Weights,
        ops::{self, Addends, Convolution},
        tape::TapeTensor,
    },
    outcome::Picture,
    spec::{Concept, Field, ModelFiles, SpecError, Vocabulary, find_word, same_words},
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
    location: String,
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
    fn rows(&self, words: &[String], field: Field) -> Result<(Tensor, Tensor), EngineError> {
        let rows = words
            .iter()
            .map(|word| {
                find_word(&self.words, word).map(|row| row as u32).ok_or_else(|| {
                    SpecError::one(
                        field,
                        format!(
                            "the model's judge/ does not know \"{word}\"; leave the word out, \
                                 or take judge/ out of the model to judge by CLIP alone"
                        ),
                    )
                })
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
const FILE: &str = "judge/judge.safetensors";
/// PyTorch's Sequential numbers convolution, norm and activation as three entries.
const ENTRIES: usize = 3;
/// Of each convolution.
const STRIDE: usize = 2;

/// A judge of which only the config and the header of its file were read so far: every tensor that
/// it is made of is there in its shape.
pub(super) struct CnnPart<'a> {
    files: &'a dyn ModelFiles,
    config: CnnConfig,
    layers: usize,
    /// Numbers of all weights.
    pub(super) parameters: u64,
    names: BTreeSet<String>,
}

impl<'a> CnnPart<'a> {
    pub(super) fn find(
        files: &'a dyn ModelFiles,
        vocabulary: &Vocabulary,
    ) -> Result<Self, EngineError> {
        let config_file = format!("{}/judge/config.json", files.location());
        let config: CnnConfig =
            serde_json::from_str(&read_text(files, "judge/config.json")?).map_err(|error| {
                EngineError::Config { file: config_file.clone(), message: error.to_string() }
            })?;
        let same = |own: &[String], given: &[String]| {
            own.len() == given.len() && own.iter().zip(given).all(|(a, b)| same_words(a, b))
        };
        if !same(&config.objects, &vocabulary.objects) || !same(&config.styles, &vocabulary.styles)
        {
            return Err(EngineError::Config {
                file: config_file,
                message: "its objects and styles are not those of vocabulary.json; the judge \
                          would name the wrong words"
                    .to_owned(),
            });
        }
        let outline = outline_single(files, FILE)?;
        let weights = Weights::frozen(&outline);
        let layers = take_shapes(&weights, &config)?;
        let names = weights.taken();
        let mut parameters = 0;
        for name in &names {
            if let Some(stored) = outline.tensors.get(name) {
                check_dtype(&stored.file, name, stored.dtype)?;
                parameters += stored.tensor.elem_count() as u64;
            }
        }
        Ok(Self { files, config, layers, parameters, names })
    }

    pub(super) fn read(self, device: &Device) -> Result<CnnJudge, EngineError> {
        let stored = read_single_named(self.files, FILE, &self.names, device)?;
        let layers = (0..self.layers).map(|layer| ConvNormRelu::new(&stored, layer * ENTRIES));
        let head = |name: &str, words: Vec<String>| {
            let weight = tensor(&stored, &format!("{name}.weight"))?;
            let bias = tensor(&stored, &format!("{name}.bias"))?;
            Ok::<_, EngineError>(Head { words, weight, bias })
        };
        Ok(CnnJudge {
            location: stored.location.clone(),
            image_size: self.config.image_size,
            layers: layers.collect::<Result<_, _>>()?,
            object: head("object", self.config.objects)?,
            style: head("style", self.config.styles)?,
            device: device.clone(),
        })
    }
}

/// Takes every weight of the network in the shape that follows from the one before; gives the number
/// of its convolutions.
fn take_shapes(weights: &Weights, config: &CnnConfig) -> Result<usize, EngineError> {
    let mut layers = 0;
    let (mut channels, mut side) = (3, config.image_size);
    loop {
        let at = format!("body.{}.weight", layers * ENTRIES);
        let Some([outputs, kernel]) = weights.dims(&at).and_then(|dims| match *dims {
            [outputs, _, kernel, _] => Some([outputs, kernel]),
            _ => None,
        }) else {
            break;
        };
        weights.take(&at, &[outputs, channels, kernel, kernel])?;
        for part in ["weight", "bias", "running_mean", "running_var"] {
            weights.take(&format!("body.{}.{part}", layers * ENTRIES + 1), &[outputs])?;
        }
        channels = outputs;
        side = side_after(side, kernel);
        layers += 1;
    }
    for (name, words) in [("object", &config.objects), ("style", &config.styles)] {
        let features = channels.saturating_mul(side).saturating_mul(side);
        weights.take(&format!("{name}.weight"), &[words.len(), features])?;
        weights.take(&format!("{name}.bias"), &[words.len()])?;
    }
    Ok(layers)
}

/// Side of a plane after a convolution.
fn side_after(side: usize, kernel: usize) -> usize {
    (side + 2 * (kernel / 2)).saturating_sub(kernel) / STRIDE + 1
}

impl CnnJudge {
    fn features(&self, pixels: &Tensor) -> Result<Tensor, EngineError> {
        let mut x = pixels.clone();
        for layer in &self.layers {
            let geometry = Convolution { stride: STRIDE, padding: layer.padding };
            let (weight, bias) =
                (TapeTensor::constant(&layer.weight), TapeTensor::constant(&layer.bias));
            let bias = Addends::bias(&bias);
            let y = ops::conv2d(&TapeTensor::constant(&x), &weight, bias, geometry)?;
            x = y.tensor().relu()?;
        }
        Ok(x.flatten_from(1)?)
    }
}

impl Judge for CnnJudge {
    fn name(&self) -> &'static str {
        "cnn"
    }

    fn check(&self, _: &Concept, vocabulary: &Vocabulary) -> Result<(), EngineError> {
        self.object.rows(&vocabulary.objects, Field::VocabularyObjects)?;
        self.style.rows(&vocabulary.styles, Field::VocabularyStyles)?;
        Ok(())
    }

    fn working_numbers(&self) -> u64 {
        let mut side = self.image_size;
        let mut inputs = 3 * side * side;
        let mut most = inputs;
        for layer in &self.layers {
            let (outputs, kernel) = (layer.weight.dims()[0], 2 * layer.padding + 1);
            side = side_after(side, kernel);
            let made = outputs * side * side;
            // The columns of a strided kernel, and the result before and after its activation.
            most = most.max(inputs * (1 + kernel * kernel / STRIDE) + 2 * made);
            inputs = made;
        }
        (PICTURES_AT_ONCE * most) as u64
    }

    fn probabilities(
        &self,
        pictures: &[Picture],
        domain: Domain,
        vocabulary: &Vocabulary,
    ) -> Result<Vec<Vec<f64>>, EngineError> {
        let (head, field) = match domain {
            Domain::Objects => (&self.object, Field::VocabularyObjects),
            Domain::Styles => (&self.style, Field::VocabularyStyles),
        };
        let (weight, bias) = head.rows(domain.words(vocabulary), field)?;
        let (weight, bias) = (TapeTensor::constant(&weight), TapeTensor::constant(&bias));
        let fit = Fit::centre(self.image_size);
        let mut all = Vec::with_capacity(pictures.len());
        for pictures in pictures.chunks(PICTURES_AT_ONCE) {
            let input = pixels(pictures, fit, Normalisation::UNIT, &self.device)?;
            let features = TapeTensor::constant(&self.features(&input)?);
            let answers = ops::linear(&features, &weight, Addends::bias(&bias))?;
            all.extend(softmax(&self.location, answers.tensor())?);
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
