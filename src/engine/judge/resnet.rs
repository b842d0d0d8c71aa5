//! ResNets as classifiers: transformers' `ResNetForImageClassification`, and torchvision's and timm's
//! `ResNet`, whose names candle-transformers' `resnet` shares.

use std::collections::HashMap;

use candle_core::Tensor;
use candle_nn::{Func, VarBuilder};
use candle_transformers::models::resnet;
use serde_json::json;

use super::tensors::{Taken, Taking};
use crate::engine::{
    EngineError,
    family::config::fields::{Fields, refuse},
    nn::Weights,
};

/// Whose names a file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Transformers,
    Torchvision,
}

/// The shape of a ResNet, of those that candle builds.
#[derive(Debug, Clone, Copy)]
pub(super) struct ResnetConfig {
    layout: Layout,
    depth: &'static Depth,
}

/// One of the published depths.
#[derive(Debug)]
struct Depth {
    architecture: &'static str,
    bottleneck: bool,
    blocks: [usize; 4],
    build: fn(usize, VarBuilder<'static>) -> candle_core::Result<Func<'static>>,
}

const DEPTHS: [Depth; 5] = [
    Depth {
        architecture: "resnet18",
        bottleneck: false,
        blocks: [2, 2, 2, 2],
        build: |classes, w| resnet::resnet18(classes, w),
    },
    Depth {
        architecture: "resnet34",
        bottleneck: false,
        blocks: [3, 4, 6, 3],
        build: |classes, w| resnet::resnet34(classes, w),
    },
    Depth {
        architecture: "resnet50",
        bottleneck: true,
        blocks: [3, 4, 6, 3],
        build: |classes, w| resnet::resnet50(classes, w),
    },
    Depth {
        architecture: "resnet101",
        bottleneck: true,
        blocks: [3, 4, 23, 3],
        build: |classes, w| resnet::resnet101(classes, w),
    },
    Depth {
        architecture: "resnet152",
        bottleneck: true,
        blocks: [3, 8, 36, 3],
        build: |classes, w| resnet::resnet152(classes, w),
    },
];

/// Channels behind the first convolution, and inside the first stage's blocks.
const FIRST: usize = 64;

/// A convolution without bias, and the batch norm behind it: their names.
struct Pair {
    convolution: String,
    norm: String,
}

impl ResnetConfig {
    /// Reads transformers' config.
    pub(super) fn of_transformers(fields: &Fields<'_>, file: &str) -> Result<Self, EngineError> {
        fields.expect_only(&[
            ("num_channels", json!(3)),
            ("embedding_size", json!(FIRST)),
            ("hidden_act", json!("relu")),
            ("downsample_in_first_stage", json!(false)),
            ("downsample_in_bottleneck", json!(false)),
        ])?;
        let kinds = [("bottleneck", true), ("basic", false)];
        let bottleneck = fields.choice("layer_type", true, &kinds)?;
        let blocks = fields.sizes("depths", &[3, 4, 6, 3])?;
        let found = DEPTHS.iter().find(|depth| {
            depth.bottleneck == bottleneck && depth.blocks.as_slice() == blocks.as_slice()
        });
        let depth = found.ok_or_else(|| {
            let message = format!(
                "depths is {blocks:?}; ResNets of 18, 34, 50, 101 and 152 layers are supported"
            );
            refuse(file, message)
        })?;
        let widths: Vec<usize> = (0..4).map(|stage| depth.outputs(stage)).collect();
        let given = fields.sizes("hidden_sizes", &[256, 512, 1_024, 2_048])?;
        if given != widths {
            let message = format!("hidden_sizes is {given:?}; {widths:?} alone is supported");
            return Err(refuse(file, message));
        }
        Ok(Self { layout: Layout::Transformers, depth })
    }

    /// One of torchvision's or timm's names, such as `resnet50`; none where it is no such name.
    pub(super) fn named(architecture: &str) -> Option<Self> {
        // Behind a dot stands what it was trained on.
        let name = architecture.split_once('.').map_or(architecture, |(name, _)| name);
        let depth = DEPTHS.iter().find(|depth| depth.architecture == name)?;
        Some(Self { layout: Layout::Torchvision, depth })
    }

    /// Numbers that a picture of so many pixels a side holds at most on its way through it.
    pub(super) fn working_numbers_a_picture(self, size: usize) -> u64 {
        let (half, quarter) = (size.div_ceil(2), size.div_ceil(4));
        let plane = (FIRST * half * half).max(self.depth.outputs(0) * quarter * quarter);
        (2 * 3 * size * size + 7 * plane) as u64
    }

    /// Takes every weight, by candle's names.
    pub(super) fn take(self, w: &Weights) -> Result<Taken, EngineError> {
        let (landmark, head) = if self.layout == Layout::Transformers {
            ("resnet.embedder.embedder.convolution.weight", "classifier.1")
        } else {
            // Every block has a conv1 too, the network alone an fc.
            ("fc.weight", "fc")
        };
        let mut taking = Taking::below(w, landmark)?;
        let stem = self.stem();
        take_pair(&mut taking, "conv1", "bn1", &stem, &[FIRST, 3, 7, 7])?;
        let mut inputs = FIRST;
        for (stage, blocks) in self.depth.blocks.into_iter().enumerate() {
            for block in 0..blocks {
                self.take_block(&mut taking, [stage, block], inputs)?;
                inputs = self.depth.outputs(stage);
            }
        }
        let classes = taking.rows(&format!("{head}.weight"));
        taking.module("fc", head, &[classes, inputs])?;
        taking.finish(head)
    }

    fn take_block(
        self,
        taking: &mut Taking<'_>,
        [stage, block]: [usize; 2],
        inputs: usize,
    ) -> Result<(), EngineError> {
        let to = format!("layer{}.{block}", stage + 1);
        let (inside, outputs) = (FIRST << stage, self.depth.outputs(stage));
        let shapes: Vec<[usize; 4]> = if self.depth.bottleneck {
            vec![[inside, inputs, 1, 1], [inside, inside, 3, 3], [outputs, inside, 1, 1]]
        } else {
            vec![[inside, inputs, 3, 3], [inside, inside, 3, 3]]
        };
        for (index, shape) in shapes.iter().enumerate() {
            let number = index + 1;
            let pair = self.pair([stage, block], index);
            let (convolution, norm) = (format!("{to}.conv{number}"), format!("{to}.bn{number}"));
            take_pair(taking, &convolution, &norm, &pair, shape)?;
        }
        if block == 0 && (stage > 0 || inputs != outputs) {
            let (convolution, norm) = (format!("{to}.downsample.0"), format!("{to}.downsample.1"));
            let pair = self.shortcut([stage, block]);
            take_pair(taking, &convolution, &norm, &pair, &[outputs, inputs, 1, 1])?;
        }
        Ok(())
    }

    fn stem(self) -> Pair {
        match self.layout {
            Layout::Transformers => of_transformers("resnet.embedder.embedder"),
            Layout::Torchvision => Pair { convolution: "conv1".to_owned(), norm: "bn1".to_owned() },
        }
    }

    fn pair(self, [stage, block]: [usize; 2], index: usize) -> Pair {
        let number = index + 1;
        match self.layout {
            Layout::Transformers => of_transformers(&format!(
                "resnet.encoder.stages.{stage}.layers.{block}.layer.{index}"
            )),
            Layout::Torchvision => Pair {
                convolution: format!("layer{}.{block}.conv{number}", stage + 1),
                norm: format!("layer{}.{block}.bn{number}", stage + 1),
            },
        }
    }

    fn shortcut(self, [stage, block]: [usize; 2]) -> Pair {
        match self.layout {
            Layout::Transformers => {
                of_transformers(&format!("resnet.encoder.stages.{stage}.layers.{block}.shortcut"))
            }
            Layout::Torchvision => Pair {
                convolution: format!("layer{}.{block}.downsample.0", stage + 1),
                norm: format!("layer{}.{block}.downsample.1", stage + 1),
            },
        }
    }

    /// The network over what [`ResnetConfig::take`] took.
    pub(super) fn build(
        self,
        taken: Taken,
        variables: impl FnOnce(HashMap<String, Tensor>) -> VarBuilder<'static>,
    ) -> Result<Func<'static>, EngineError> {
        Ok((self.depth.build)(taken.classes, variables(taken.tensors))?)
    }
}

impl Depth {
    /// Channels behind a stage.
    fn outputs(&self, stage: usize) -> usize {
        (FIRST << stage) * if self.bottleneck { 4 } else { 1 }
    }
}

fn of_transformers(layer: &str) -> Pair {
    Pair { convolution: format!("{layer}.convolution"), norm: format!("{layer}.normalization") }
}

fn take_pair(
    taking: &mut Taking<'_>,
    convolution: &str,
    norm: &str,
    from: &Pair,
    shape: &[usize; 4],
) -> Result<(), EngineError> {
    let weight = format!("{}.weight", from.convolution);
    taking.tensor(&format!("{convolution}.weight"), &weight, shape)?;
    let [channels, ..] = *shape;
    for part in ["weight", "bias", "running_mean", "running_var"] {
        let source = format!("{}.{part}", from.norm);
        taking.tensor(&format!("{norm}.{part}"), &source, &[channels])?;
    }
    Ok(())
}
