//! Against diffusers' own runs (`tests/golden/samplers`).

use std::{collections::HashMap, path::PathBuf};

use candle_core::{DType, Device, Tensor};

use super::{SamplerConfig, open};
use crate::{
    engine::schedule::{Ddim, NoiseSource},
    spec::SamplerKind,
};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/samplers")
}

fn config(name: &str) -> String {
    std::fs::read_to_string(folder().join(format!("{name}.json"))).unwrap()
}

fn distance(got: &Tensor, want: &Tensor) -> f64 {
    let norm = |tensor: &Tensor| {
        let tensor = tensor.to_dtype(DType::F64).unwrap();
        tensor.sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt()
    };
    let got = got.to_dtype(DType::F64).unwrap();
    let want = want.to_dtype(DType::F64).unwrap();
    norm(&(got - &want).unwrap()) / norm(&want).max(f64::MIN_POSITIVE)
}

/// Single formulas in f32; chained steps of order 2 divide by small differences.
const CLOSE: f64 = 2e-6;

fn run(golden: &HashMap<String, Tensor>, file: &str, kind: SamplerKind, steps: usize) {
    let key = format!("{file}.{}.{steps}", kind.name());
    let get = |what: &str| golden[&format!("{key}.{what}")].clone();
    let json = config(file);
    let settings = SamplerConfig::parse(&json, file).unwrap();
    let trained = Ddim::for_pipeline(&json, file).unwrap();
    let mut sampler = open(kind, &settings, &trained, steps).unwrap();
    let timesteps = Tensor::new(sampler.timesteps(), &Device::Cpu).unwrap();
    assert_eq!(timesteps.dims(), get("timesteps").dims(), "{key}");
    assert!(
        distance(&timesteps, &get("timesteps")) < 1e-7,
        "{key}: {timesteps} {}",
        get("timesteps")
    );
    if !sampler.sigmas().is_empty() {
        let sigmas = Tensor::new(sampler.sigmas(), &Device::Cpu).unwrap();
        assert!(distance(&sigmas, &get("sigmas")) < 1e-7, "{key}: {sigmas}");
    }
    let seeds = golden["noise_seeds"].to_vec1::<i64>().unwrap();
    let mut sources: Vec<_> = seeds.iter().map(|&seed| NoiseSource::new(seed as u64)).collect();
    let mut latents = (&golden["sample"] * sampler.initial_scale()).unwrap();
    let (samples, inputs) = (get("samples"), get("inputs"));
    let last = sampler.timesteps().len() - 1;
    for step in 0..=last {
        let input = sampler.scale_input(step, &latents).unwrap();
        for (_, row) in [(0, 0), (last, 1)].into_iter().filter(|(at, _)| *at == step) {
            let off = distance(&input, &inputs.get(row).unwrap());
            assert!(off < CLOSE, "{key}: input {step} is {off:e} off");
        }
        let noise = sampler.takes_noise(step).then(|| {
            let draw = |source: &mut NoiseSource| source.randn_tensor((1, 4, 4, 3), &Device::Cpu);
            let each: Vec<_> = sources.iter_mut().map(|source| draw(source).unwrap()).collect();
            Tensor::cat(&each, 0).unwrap()
        });
        let output = golden["model_outputs"].get(step).unwrap();
        latents = sampler.step(step, &output, &latents, noise.as_ref()).unwrap().latents;
        let off = distance(&latents, &samples.get(step).unwrap());
        assert!(off < CLOSE, "{key}: step {step} is {off:e} off");
    }
}

#[test]
fn every_sampler_steps_as_diffusers_does() {
    let golden = folder().join("expected.safetensors");
    let golden = candle_core::safetensors::load(golden, &Device::Cpu).unwrap();
    for folder in ["leading", "trailing", "linspace", "unmended", "bare"] {
        for prediction in ["epsilon", "v_prediction"] {
            for &kind in SamplerKind::ALL {
                for steps in [1, 4, 10] {
                    run(&golden, &format!("{folder}.{prediction}"), kind, steps);
                }
            }
        }
    }
}

#[test]
fn every_sampler_starts_from_noise_alone_as_diffusers_does() {
    let golden = folder().join("zero_snr.safetensors");
    let golden = candle_core::safetensors::load(golden, &Device::Cpu).unwrap();
    for folder in ["zero-snr", "zero-snr-linspace"] {
        let file = format!("{folder}.v_prediction");
        for &kind in SamplerKind::ALL {
            for steps in [1, 4, 10] {
                run(&golden, &file, kind, steps);
            }
        }
        let trained = Ddim::for_pipeline(&config(&file), &file).unwrap();
        let want = golden[&format!("{file}.alphas_cumprod")].to_vec1::<f32>().unwrap();
        for (timestep, (got, want)) in trained.alpha_bars().iter().zip(&want).enumerate() {
            let want = f64::from(*want);
            assert!((got - want).abs() <= 1.3e-7 * want, "{timestep}: {got}, not {want}");
        }
        assert_eq!(want.len(), trained.training_timesteps());
    }
}

#[test]
fn every_sampler_goes_on_from_clean_latents_as_diffusers_does() {
    let inputs = folder().join("expected.safetensors");
    let inputs = candle_core::safetensors::load(inputs, &Device::Cpu).unwrap();
    let golden = folder().join("../image_to_image/runs.safetensors");
    let golden = candle_core::safetensors::load(golden, &Device::Cpu).unwrap();
    let seeds = inputs["noise_seeds"].to_vec1::<i64>().unwrap();
    let mut runs = 0;
    for (key, end) in &golden {
        let Some(key) = key.strip_suffix(".end") else { continue };
        let parts: Vec<&str> = key.split('.').collect();
        let [spacing, prediction, kind, first] = parts[..] else { panic!("{key}") };
        let (file, first) = (format!("{spacing}.{prediction}"), first.parse::<usize>().unwrap());
        let json = config(&file);
        let settings = SamplerConfig::parse(&json, &file).unwrap();
        let trained = Ddim::for_pipeline(&json, &file).unwrap();
        let mut sampler = open(kind.parse().unwrap(), &settings, &trained, 8).unwrap();
        let mut sources: Vec<_> = seeds.iter().map(|&seed| NoiseSource::new(seed as u64)).collect();
        let mut draw = || {
            let draw = |source: &mut NoiseSource| source.randn_tensor((1, 4, 4, 3), &Device::Cpu);
            let each: Vec<_> = sources.iter_mut().map(|source| draw(source).unwrap()).collect();
            Tensor::cat(&each, 0).unwrap()
        };
        let mut latents = sampler.add_noise(first, &inputs["sample"], &draw()).unwrap();
        let off = distance(&latents, &golden[&format!("{key}.start")]);
        assert!(off < CLOSE, "{key}: the start is {off:e} off");
        for step in first..sampler.timesteps().len() {
            let noise = sampler.takes_noise(step).then(&mut draw);
            let output = inputs["model_outputs"].get(step - first).unwrap();
            latents = sampler.step(step, &output, &latents, noise.as_ref()).unwrap().latents;
        }
        let off = distance(&latents, end);
        assert!(off < CLOSE, "{key}: the end is {off:e} off");
        runs += 1;
    }
    assert_eq!(runs, 5 * 2 * SamplerKind::ALL.len() * 2);
}

fn opened(json: &str, kind: SamplerKind, steps: usize) -> Result<usize, String> {
    let settings = SamplerConfig::parse(json, "s.json").map_err(|error| error.to_string())?;
    let trained = Ddim::for_pipeline(json, "s.json").map_err(|error| error.to_string())?;
    let sampler = open(kind, &settings, &trained, steps).map_err(|error| error.to_string())?;
    Ok(sampler.timesteps().len())
}

#[test]
fn what_a_sampler_cannot_follow_is_refused_by_name() {
    for (kind, field) in [
        (SamplerKind::Dpmpp2m, r#""algorithm_type": "sde-dpmsolver++""#),
        (SamplerKind::Dpmpp2m, r#""solver_order": 3"#),
        (SamplerKind::Dpmpp2mKarras, r#""solver_type": "heun""#),
        (SamplerKind::Unipc, r#""predict_x0": false"#),
        (SamplerKind::Unipc, r#""use_flow_sigmas": true"#),
        (SamplerKind::Euler, r#""use_beta_sigmas": true"#),
        (SamplerKind::Euler, r#""interpolation_type": "log_linear""#),
        (SamplerKind::Euler, r#""final_sigmas_type": 4"#),
        (SamplerKind::Lcm, r#""original_inference_steps": 0"#),
        (SamplerKind::Lcm, r#""original_inference_steps": 1001"#),
    ] {
        let error = opened(&format!("{{{field}}}"), kind, 4).unwrap_err();
        let name = field.split('"').nth(1).unwrap();
        assert!(error.contains(name) && error.contains("s.json"), "{error}");
        // Another sampler never reads it.
        assert_eq!(opened(&format!("{{{field}}}"), SamplerKind::Pndm, 4), Ok(5));
    }
}

#[test]
fn numbers_of_steps_that_a_sampler_cannot_take_are_refused() {
    for &kind in SamplerKind::ALL {
        for steps in [0, 1_001] {
            assert!(opened("{}", kind, steps).unwrap_err().contains("steps"), "{kind:?}");
        }
        for steps in [1, 2, 3, 25, 50] {
            opened("{}", kind, steps).unwrap();
        }
    }
    let most = |kind| opened("{}", kind, 1_000);
    assert!(most(SamplerKind::Dpmpp2m).unwrap_err().contains("fewer steps"));
    assert!(most(SamplerKind::Lcm).unwrap_err().contains("original_inference_steps"));
    assert_eq!(most(SamplerKind::Euler), Ok(1_000));
    let offset = r#"{"_class_name": "PNDMScheduler"}"#;
    assert!(opened(offset, SamplerKind::Pndm, 1_000).unwrap_err().contains("fewer steps"));
}

#[test]
fn a_folder_names_its_own_sampler() {
    let own = |json: &str| SamplerConfig::parse(json, "s.json").unwrap().own();
    for (class, kind) in [
        ("DDIMScheduler", SamplerKind::Ddim),
        ("PNDMScheduler", SamplerKind::Pndm),
        ("EulerDiscreteScheduler", SamplerKind::Euler),
        ("EulerAncestralDiscreteScheduler", SamplerKind::EulerAncestral),
        ("DPMSolverMultistepScheduler", SamplerKind::Dpmpp2m),
        ("UniPCMultistepScheduler", SamplerKind::Unipc),
        ("LCMScheduler", SamplerKind::Lcm),
    ] {
        assert_eq!(own(&format!(r#"{{"_class_name": "{class}"}}"#)), Some(kind));
    }
    let karras = r#"{"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": true}"#;
    assert_eq!(own(karras), Some(SamplerKind::Dpmpp2mKarras));
    assert_eq!(own(r#"{"_class_name": "HeunDiscreteScheduler"}"#), None);
    assert_eq!(own("{}"), None);
}
