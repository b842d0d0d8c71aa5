//! The configs of a model's parts; the first byte says which.

#![no_main]

use keystep::engine::{
    family::{ClipConfig, ClipTextConfig, UnetConfig, VaeConfig},
    sampler::SamplerConfig,
    schedule::Ddim,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((part, text)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let file = "config.json";
    match part % 5 {
        0 => drop(UnetConfig::parse(text, file)),
        1 => drop(VaeConfig::parse(text, file)),
        2 => drop(ClipTextConfig::parse(text, file)),
        3 => drop(ClipConfig::parse(text, file)),
        _ => {
            drop(SamplerConfig::parse(text, file).map(|config| config.kind(None)));
            if let Ok(scheduler) = Ddim::for_pipeline(text, file) {
                for steps in [1, 2, 50, scheduler.training_timesteps()] {
                    drop(scheduler.schedule(steps));
                }
            }
        }
    }
});
