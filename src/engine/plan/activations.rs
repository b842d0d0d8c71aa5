//! What the U-Net keeps of a sample for the backward pass.

use crate::engine::model::{
    UnetConfig,
    config::{DownBlockKind, UpBlockKind},
};

/// Numbers that one sample's forward pass keeps: the output of every operation. Follows the layers
/// of `src/engine/model`.
pub(super) fn of_a_sample(config: &UnetConfig, tokens: usize) -> u64 {
    let channels = &config.block_out_channels;
    let levels = channels.len();
    let cells = |level: usize| (config.sample_size >> level).pow(2) as u64;
    let width = |level: usize| channels[level] as u64;
    let transformer = |level: usize| {
        let layers = config.transformer_layers[level] as u64;
        // Norm, both projections and reorderings, the sum; in each layer three norms, queries,
        // keys, values, attention, its projection and sum twice, and the gated feed-forward.
        let per_cell = 6 + 25 * layers;
        per_cell * width(level) * cells(level)
            + layers * (2 * width(level) * cells(level) + 2 * width(level) * tokens as u64)
    };
    // Two norms, two convolutions, the time's shift, the sum, and the shortcut where there is one.
    let resnet = |inputs: u64, outputs: u64, level: usize| {
        let shortcut = if inputs == outputs { 0 } else { outputs };
        (inputs + 5 * outputs + shortcut) * cells(level)
    };

    let mut sum = width(0) * cells(0);
    let mut skips = vec![width(0)];
    let mut inputs = width(0);
    for (level, kind) in config.down_blocks.iter().enumerate() {
        for _ in 0..config.layers_per_block {
            sum += resnet(inputs, width(level), level);
            inputs = width(level);
            if *kind == DownBlockKind::CrossAttention {
                sum += transformer(level);
            }
            skips.push(inputs);
        }
        if level + 1 < levels {
            sum += inputs * cells(level + 1);
            skips.push(inputs);
        }
    }
    let last = levels - 1;
    sum += 2 * resnet(inputs, inputs, last) + transformer(last);
    for (index, kind) in config.up_blocks.iter().enumerate() {
        let level = last - index;
        for _ in 0..=config.layers_per_block {
            let joined = inputs + skips.pop().unwrap_or(0);
            sum += joined * cells(level) + resnet(joined, width(level), level);
            inputs = width(level);
            if *kind == UpBlockKind::CrossAttention {
                sum += transformer(level);
            }
        }
        if level > 0 {
            sum += 2 * inputs * cells(level - 1);
        }
    }
    sum + (width(0) + config.out_channels as u64) * cells(0)
}
