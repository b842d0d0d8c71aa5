//! Drawings that begin with a picture, held to diffusers' `StableDiffusionImg2ImgPipeline`.
#![allow(clippy::unwrap_used, reason = "helpers of tests, which clippy does not take for tests")]
#![allow(clippy::print_stdout, reason = "measured errors are worth reading when a test fails")]

use candle_core::{DType, Tensor};
use keystep::{
    engine::{CandleEngine, EngineError, RunContext},
    outcome::Picture,
    report::{PictureLimits, read_png},
    spec::{GenerateSpec, InitImage, SamplerKind},
};
use serde_json::Value;

use crate::{
    altered_model::AlteredModel,
    golden::{Golden, Tolerance, assert_close, path},
};

fn predicting(prediction: &str) -> CandleEngine {
    let change = |config: &mut Value| config["prediction_type"] = prediction.into();
    AlteredModel::builtin().with_json("scheduler/scheduler_config.json", change).load()
}

fn small_picture() -> Picture {
    let png = std::fs::read(path("image_to_image/picture.png")).unwrap();
    read_png(&png, &PictureLimits { sides: 8..=64, pixels: 64 * 64 }).unwrap()
}

fn image(picture: Picture, strength: f64) -> InitImage {
    let Picture { width, height, rgb } = picture;
    InitImage { width, height, rgb, strength }
}

/// What `image_to_image.py` asks for.
fn drawing(sampler: SamplerKind, strength: f64) -> GenerateSpec {
    GenerateSpec {
        pictures: vec![
            ("a cat in neon style".to_owned(), 11),
            ("a rocket".to_owned(), u64::from(u32::MAX)),
        ],
        negative_prompt: "blueprint style".to_owned(),
        steps: 6,
        guidance_scale: 3.0,
        size: None,
        sampler: Some(sampler),
        init_image: Some(image(small_picture(), strength)),
    }
}

/// The pictures, and how many evaluations each took.
fn draw(engine: &CandleEngine, spec: &GenerateSpec) -> Result<(Vec<Picture>, usize), EngineError> {
    let mut total = 0;
    let mut report = |progress: keystep::outcome::Progress| total = progress.total;
    let mut context = RunContext::reporting(&mut report);
    let pictures = engine.generate(spec, &mut context)?;
    Ok((pictures, total / spec.pictures.len()))
}

#[test]
fn every_sampler_begins_with_a_picture_as_diffusers_does() {
    let golden = Golden::read("image_to_image/expected.safetensors");
    for prediction in ["epsilon", "v_prediction"] {
        let engine = predicting(prediction);
        for &sampler in SamplerKind::ALL {
            for (strength, evaluations) in [(0.5, 3), (0.9, 5)] {
                let key = format!("{prediction}.{}.{strength}", sampler.name());
                let (drawn, taken) = draw(&engine, &drawing(sampler, strength)).unwrap();
                // Pseudo linear multistep evaluates once more.
                let more = usize::from(sampler == SamplerKind::Pndm);
                assert_eq!(taken, evaluations + more, "{key}");
                let want = golden.get(&key);
                let (_, height, width, _) = want.dims4().unwrap();
                assert!(drawn.iter().all(|one| (one.width, one.height) == (width, height)));
                let want: Vec<u8> = want.flatten_all().unwrap().to_vec1().unwrap();
                let got: Vec<u8> = drawn.into_iter().flat_map(|picture| picture.rgb).collect();
                assert_eq!(got.len(), want.len(), "{key}");
                let off: Vec<u8> = got.iter().zip(&want).map(|(a, b)| a.abs_diff(*b)).collect();
                let worst = off.iter().max().unwrap();
                let differ = off.iter().filter(|&&off| off > 0).count();
                println!("{key}: {differ} of {} values differ, by {worst}/255 at most", off.len());
                // A value halfway between two may round to either.
                assert!(*worst <= 1 && differ < off.len() / 100, "{key}: {differ}, {worst}");
                // Neither all black nor all white, which would hide anything.
                let grey = want.iter().filter(|&&value| (8..248).contains(&value)).count();
                assert!(grey > want.len() / 20, "{key}: {grey}");
            }
        }
    }
}

#[test]
fn a_picture_is_encoded_to_the_latents_of_diffusers() {
    let golden = Golden::read("image_to_image/expected.safetensors");
    let engine = AlteredModel::builtin().load();
    let rows = |key: &str| {
        let bytes = golden.get(key).to_dtype(DType::F32).unwrap();
        let rows = ((bytes / 127.5).unwrap() - 1.0).unwrap();
        let (height, width, _) = rows.dims3().unwrap();
        rows.reshape((1, height, width, 3)).unwrap().permute((0, 3, 1, 2)).unwrap()
    };
    for (name, key) in [("whole", "whole.u8"), ("small", "resized.40x32")] {
        let pixels: Tensor = rows(key).contiguous().unwrap();
        let latents = engine.pipeline().vae.encode(&pixels).unwrap();
        let want = golden.get(&format!("{name}.mean"));
        assert_close(&format!("{name}: mean"), &latents.mean, &want, Tolerance::NETWORK);
        let want = golden.get(&format!("{name}.logvar"));
        let got = &latents.log_variance;
        assert_close(&format!("{name}: logvar"), got, &want, Tolerance::NETWORK);
    }
}

#[test]
fn a_picture_depends_on_its_seed_alone() {
    let engine = AlteredModel::builtin().load();
    let spec = drawing(SamplerKind::EulerAncestral, 0.5);
    let (both, _) = draw(&engine, &spec).unwrap();
    assert_eq!(draw(&engine, &spec).unwrap().0, both);
    let mut alone = spec.clone();
    alone.pictures.remove(0);
    assert_eq!(draw(&engine, &alone).unwrap().0, both[1..]);
    let json = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<GenerateSpec>(&json).unwrap(), spec);
    // As written before drawings could begin with a picture.
    let from_noise = GenerateSpec { init_image: None, ..spec };
    let mut json = serde_json::to_value(&from_noise).unwrap();
    assert!(json.as_object_mut().unwrap().remove("init_image").is_some());
    assert_eq!(serde_json::from_value::<GenerateSpec>(json).unwrap(), from_noise);
    let other = GenerateSpec { pictures: vec![("a rocket".to_owned(), 12)], ..alone };
    assert_ne!(draw(&engine, &other).unwrap().0, both[1..]);
}

#[test]
fn what_does_not_fit_is_refused_with_the_remedy() {
    let engine = AlteredModel::builtin().load();
    let refused = |spec: &GenerateSpec| draw(&engine, spec).unwrap_err().to_string();
    let spec = drawing(SamplerKind::Ddim, 0.1);
    let text = refused(&spec);
    assert!(text.contains("0.1 of 6 steps") && text.contains("make it 0.167"), "{text}");
    let text = refused(&GenerateSpec { size: Some((64, 64)), ..drawing(SamplerKind::Ddim, 0.5) });
    assert!(text.contains("width") && text.contains("leave out"), "{text}");
    let torn = InitImage { height: 34, ..image(small_picture(), 0.5) };
    let text = refused(&GenerateSpec { init_image: Some(torn), ..spec });
    assert!(text.contains("init_image") && text.contains("42 by 34"), "{text}");
}

#[test]
fn a_model_without_an_encoder_draws_from_noise_alone() {
    let without_encoder = |bytes: Vec<u8>| {
        let device = candle_core::Device::Cpu;
        let mut tensors = candle_core::safetensors::load_buffer(&bytes, &device).unwrap();
        let before = tensors.len();
        tensors.retain(|name, _| !name.starts_with("encoder.") && !name.starts_with("quant_conv."));
        assert!(tensors.len() < before);
        safetensors::serialize(&tensors, None).unwrap()
    };
    let weights = "vae/diffusion_pytorch_model.safetensors";
    let engine = AlteredModel::builtin().with(weights, without_encoder).load();
    assert!(engine.pipeline().warnings.is_empty(), "{:?}", engine.pipeline().warnings);
    let spec = drawing(SamplerKind::Ddim, 0.5);
    let error = draw(&engine, &spec).unwrap_err();
    assert!(matches!(error, EngineError::NoEncoder), "{error}");
    let text = error.to_string();
    assert!(text.contains("vae") && text.contains("fetch the whole autoencoder"), "{text}");
    let from_noise = GenerateSpec { init_image: None, size: Some((40, 32)), steps: 2, ..spec };
    let whole = AlteredModel::builtin().load();
    assert_eq!(draw(&engine, &from_noise).unwrap().0, draw(&whole, &from_noise).unwrap().0);
}
