//! Model folders as users have them: the built-in model with one thing changed, each held to the
//! picture that diffusers draws from the same folder, or to the refusal that names the fault.
#![allow(clippy::unwrap_used, reason = "helpers of tests, which clippy does not take for tests")]
#![allow(clippy::print_stdout, reason = "each case is printed with its verdict")]

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::Write,
    path::PathBuf,
};

use candle_core::{DType, Device, Tensor, safetensors};
use keystep::{
    artifacts::{
        StagedFolder,
        diffusers::{UNET_WEIGHTS, write_checkpoint},
        open_model, refuse_erased_weights,
    },
    engine::{CandleEngine, ErasedCheckpoint, plan},
    outcome::{Picture, TimestepScores},
    spec::{
        Concept, ConceptKind, EsdSettings, GenerateSpec, KeySteps, KeystepSettings, KscuSettings,
        LogSnrWindow, Method, SamplerKind, Scope, ScoreSpec, UnlearnSpec,
    },
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{golden::Golden, unwatched};

const PROMPT: &str = "a cat in neon style";
const SCHEDULER: &str = "scheduler/scheduler_config.json";
const UNET_CONFIG: &str = "unet/config.json";
const TEXT_CONFIG: &str = "text_encoder/config.json";
const TEXT_WEIGHTS: &str = "text_encoder/model.safetensors";

/// A copy of the built-in model without judges, with the scheduler of Stable Diffusion 1.x.
struct Folder {
    place: TempDir,
}

impl Folder {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let base = open_model("builtin:emoji-canvas").unwrap();
        let mut staged = StagedFolder::create(&place.path().join("model"), &[]).unwrap();
        for name in base.names() {
            if !name.starts_with("clip/") && !name.starts_with("judge/") {
                staged.copy(base.as_ref(), name, name).unwrap();
            }
        }
        staged.commit().unwrap();
        let folder = Self { place };
        folder.scheduler(&json!({
            "_class_name": "PNDMScheduler", "set_alpha_to_one": false, "skip_prk_steps": true,
            "steps_offset": 1, "clip_sample": false,
        }));
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join("model").join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn copy(&self, from: &str, to: &str) {
        self.write(to, fs::read(self.path(from)).unwrap());
    }

    /// Sets fields of a config; `null` takes one away.
    fn edit(&self, name: &str, fields: &Value) {
        let mut config: Value =
            serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap();
        let config_fields = config.as_object_mut().unwrap();
        for (key, value) in fields.as_object().unwrap() {
            if value.is_null() {
                config_fields.remove(key);
            } else {
                config_fields.insert(key.clone(), value.clone());
            }
        }
        self.write(name, config.to_string());
    }

    fn scheduler(&self, fields: &Value) {
        let mut config = json!({
            "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.000_85,
            "num_train_timesteps": 1000,
        });
        let all = config.as_object_mut().unwrap();
        all.extend(fields.as_object().unwrap().clone());
        self.write(SCHEDULER, config.to_string());
    }

    fn tensors(&self, name: &str) -> HashMap<String, Tensor> {
        safetensors::load(self.path(name), &Device::Cpu).unwrap()
    }

    fn save(&self, name: &str, tensors: &HashMap<String, Tensor>) {
        safetensors::save(tensors, self.path(name)).unwrap();
    }

    /// A tokenizer without tokenizer.json whose `added_tokens.json` knows one more token, and a row for
    /// it, which is the one of "rocket".
    fn add_token(&self, token: &str) {
        fs::remove_file(self.path("tokenizer/tokenizer.json")).unwrap();
        let vocabulary = fs::read(self.path("tokenizer/vocab.json")).unwrap();
        let vocabulary: Value = serde_json::from_slice(&vocabulary).unwrap();
        let row = vocabulary["rocket</w>"].as_u64().unwrap() as usize;
        let mut tensors = self.tensors(TEXT_WEIGHTS);
        let name = tensors.keys().find(|name| name.ends_with("token_embedding.weight"));
        let name = name.unwrap().clone();
        let weight = &tensors[&name];
        let rows = weight.dim(0).unwrap();
        let weight = Tensor::cat(&[weight, &weight.narrow(0, row, 1).unwrap()], 0).unwrap();
        tensors.insert(name, weight);
        self.save(TEXT_WEIGHTS, &tensors);
        self.edit(TEXT_CONFIG, &json!({ "vocab_size": rows + 1 }));
        self.write("tokenizer/added_tokens.json", json!({ token: rows }).to_string());
    }

    fn load(&self) -> Result<CandleEngine, String> {
        self.load_variant(None)
    }

    fn load_variant(&self, variant: Option<&str>) -> Result<CandleEngine, String> {
        let files = open_model(self.path("").to_str().unwrap()).map_err(|e| e.to_string())?;
        CandleEngine::load(files.as_ref(), variant).map_err(|error| error.to_string())
    }

    fn draw(&self) -> Result<Picture, String> {
        draw(&self.load()?, PROMPT)
    }
}

fn draw(engine: &CandleEngine, prompt: &str) -> Result<Picture, String> {
    draw_at(engine, prompt, None)
}

/// Of a width and a height in pixels.
fn draw_at(
    engine: &CandleEngine,
    prompt: &str,
    size: Option<(usize, usize)>,
) -> Result<Picture, String> {
    let spec = GenerateSpec {
        size,
        sampler: Some(SamplerKind::Ddim),
        ..GenerateSpec::new(vec![(prompt.to_owned(), 1)], 10, 5.0)
    };
    let drawn = unwatched(|context| engine.generate(&spec, context));
    let mut pictures = drawn.map_err(|error| error.to_string())?;
    Ok(pictures.remove(0))
}

/// Holds a picture to diffusers': within 1 of 255 everywhere.
fn assert_drawn(case: &str, got: &Picture) {
    let golden = Golden::read("faults/expected.safetensors");
    let want = golden.get(case);
    let (height, width, _) = want.dims3().unwrap();
    assert_eq!((got.width, got.height), (width, height), "{case}: size");
    let want: Vec<u8> = want.flatten_all().unwrap().to_vec1().unwrap();
    let largest = got.rgb.iter().zip(&want).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    println!("{case}: drawn as diffusers draws it, {largest} of 255 off at most");
    assert!(largest <= 1, "{case}: {largest} of 255 off");
}

/// A model that loads with these warnings and no others.
fn assert_warnings(case: &str, engine: &CandleEngine, parts: &[&str]) {
    let warnings = &engine.pipeline().warnings;
    assert_eq!(warnings.len(), parts.len(), "{case}: {warnings:?}");
    for (warning, part) in warnings.iter().zip(parts) {
        assert!(warning.contains(part), "{case}: {warning}");
        println!("{case}: warned: {warning}");
    }
}

/// What the schedulers of Stable Diffusion's folders say besides their class.
fn ddim(fields: &Value) -> Value {
    let mut config = json!({ "_class_name": "DDIMScheduler" });
    config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    config
}

#[test]
fn schedulers_are_repaired_as_the_pipeline_repairs_them() {
    let offset = json!({ "clip_sample": false, "set_alpha_to_one": false, "steps_offset": 0 });
    let clip = json!({ "clip_sample": true, "set_alpha_to_one": false, "steps_offset": 1 });
    for (case, config, parts) in [
        ("offset0", offset, &["steps_offset is 0; 1 is used"][..]),
        ("clip", clip, &["clip_sample is true; false is used"]),
        ("bare", json!({}), &["clip_sample is absent", "steps_offset is absent"]),
    ] {
        let folder = Folder::new();
        folder.scheduler(&ddim(&config));
        let engine = folder.load().unwrap();
        assert_warnings(case, &engine, parts);
        assert_drawn(case, &draw(&engine, PROMPT).unwrap());
    }
}

#[test]
fn numbers_as_python_writes_them_are_read() {
    let folder = Folder::new();
    folder.scheduler(&json!({
        "_class_name": "DPMSolverMultistepScheduler", "clip_sample": false,
        "lambda_min_clipped": "INFINITY", "prediction_type": "epsilon", "steps_offset": 1,
        "timestep_spacing": "linspace",
    }));
    let text = fs::read_to_string(folder.path(SCHEDULER)).unwrap();
    folder.write(SCHEDULER, text.replace("\"INFINITY\"", "-Infinity"));
    assert_drawn("infinity", &folder.draw().unwrap());
}

#[test]
fn line_breaks_and_tabs_are_white_space() {
    let engine = Folder::new().load().unwrap();
    for prompt in
        ["a cat\nin neon style", "a cat\r\n in\tneon style\u{85}", " a cat in neon style "]
    {
        assert_drawn("line-feed", &draw(&engine, prompt).unwrap());
    }
    let empty = draw(&engine, "").unwrap();
    assert_eq!(draw(&engine, " \n\t").unwrap().rgb, empty.rgb);
}

#[test]
fn sizes_of_early_conversions_are_the_pipelines() {
    let folder = Folder::new();
    folder.edit(UNET_CONFIG, &json!({ "sample_size": 16, "_diffusers_version": "0.6.0" }));
    let engine = folder.load().unwrap();
    assert_eq!(engine.pipeline().latent_shape(None).unwrap(), [4, 64, 64]);
    assert_warnings("diffusers 0.6.0", &engine, &["unet/config.json: sample_size is 16"]);
    println!("sample_size 16 of diffusers 0.6.0: 64");
}

#[test]
fn a_schedule_may_start_from_noise_alone() {
    let folder = Folder::new();
    let zero_snr = json!({
        "clip_sample": false, "set_alpha_to_one": false, "steps_offset": 1,
        "prediction_type": "v_prediction", "rescale_betas_zero_snr": true,
        "timestep_spacing": "trailing",
    });
    folder.scheduler(&ddim(&zero_snr));
    let engine = folder.load().unwrap();
    assert_drawn("zero-snr", &draw(&engine, PROMPT).unwrap());

    // What follows does not depend on the size, but for its time.
    folder.edit(UNET_CONFIG, &json!({ "sample_size": 8 }));
    let engine = folder.load().unwrap();
    let concept = Concept::new("cat", ConceptKind::Object);
    let spec = ScoreSpec {
        steps: 4,
        trajectories: 2,
        gradient_share: true,
        switch_curve: false,
        ..ScoreSpec::new(concept, engine.vocabulary().clone())
    };
    let scores = unwatched(|context| engine.score_timesteps(&spec, context)).unwrap();
    let steps: Vec<_> = scores.steps.iter().map(|score| score.step.0).collect();
    assert_eq!(steps, [1, 2, 3], "the step without signal is left out");
    for score in &scores.steps {
        let estimates = [score.guidance_energy, score.guidance_effect];
        let all = estimates.into_iter().chain(score.gradient_share);
        assert!(score.log_snr.is_finite() && all.clone().count() == 3);
        assert!(all.into_iter().all(|each| each.mean.is_finite() && each.mean > 0.0), "{score:?}");
    }
    assert!(scores.window.low.is_finite() && scores.window_steps.0.0 > 0);
    let json = serde_json::to_string(&scores).unwrap();
    assert_eq!(serde_json::from_str::<TimestepScores>(&json).unwrap(), scores);

    // Training takes what was planned, and no sample of the last timestep.
    let files = open_model(folder.path("").to_str().unwrap()).unwrap();
    let esd = EsdSettings {
        updates: 6,
        schedule_steps: 2,
        learning_rate: 5e-4,
        ..EsdSettings::default()
    };
    let kscu = KscuSettings {
        updates: 6,
        first_key_step: 0,
        schedule_steps: 4,
        learning_rate: 5e-4,
        ..KscuSettings::preset(ConceptKind::Object, false).0
    };
    let mut keystep = unlearn_spec(&engine);
    if let Method::Keystep(settings) = &mut keystep.method {
        settings.updates = 6;
    }
    for method in [keystep.method.clone(), Method::Esd(esd), Method::Kscu(kscu)] {
        let spec = UnlearnSpec { method, ..keystep.clone() };
        let planned = plan(files.as_ref(), &spec, None).unwrap();
        let erased = unwatched(|context| engine.unlearn(&spec, context)).unwrap();
        let log = &erased.log;
        assert!(
            log.updates.iter().all(|update| update.timestep.0 < 999 && update.loss.is_finite())
        );
        println!("{:?}: {} updates, none at timestep 999", spec.method.name(), log.updates.len());
        assert_eq!(log.unet_evaluations, planned.unet_evaluations);
        assert_eq!(log.check_evaluations, planned.check_evaluations);
    }

    let mut epsilon = zero_snr.clone();
    epsilon["prediction_type"] = json!("epsilon");
    folder.scheduler(&ddim(&epsilon));
    let refused = folder.load().unwrap_err();
    assert!(refused.contains("rescale_betas_zero_snr") && refused.contains("prediction_type"));
}

#[test]
fn sizes_need_not_halve_evenly() {
    let engine = Folder::new().load().unwrap();
    for (case, size) in [("size72x64", (72, 64)), ("size40x40", (40, 40))] {
        assert_drawn(case, &draw_at(&engine, PROMPT, Some(size)).unwrap());
    }
    let refused = draw_at(&engine, PROMPT, Some((72, 60))).unwrap_err();
    assert!(refused.contains("60 is not a multiple of 8"), "{refused}");
}

#[test]
fn the_size_that_a_model_was_trained_at_may_be_any_or_none() {
    let folder = Folder::new();
    folder.edit(UNET_CONFIG, &json!({ "sample_size": 18 }));
    let engine = folder.load().unwrap();
    assert_drawn("sample18", &draw(&engine, PROMPT).unwrap());
    // Of height and width, of which one does not halve evenly.
    folder.edit(UNET_CONFIG, &json!({ "sample_size": [16, 18] }));
    let pair = folder.load().unwrap();
    let (drawn, asked) = (draw(&pair, PROMPT), draw_at(&engine, PROMPT, Some((72, 64))));
    assert_drawn("size72x64", &drawn.unwrap());
    assert_drawn("size72x64", &asked.unwrap());
    let erased = erase(&pair);
    assert!(!erased.edited.is_empty());
    println!("sample_size [16, 18]: trained, {} tensors edited", erased.edited.len());

    folder.edit(UNET_CONFIG, &json!({ "sample_size": null }));
    let none = folder.load().unwrap();
    assert_drawn("absent-sample", &draw_at(&none, PROMPT, Some((64, 64))).unwrap());
    let spec = unlearn_spec(&none);
    let files = open_model(folder.path("").to_str().unwrap()).unwrap();
    for refused in [
        draw(&none, PROMPT).unwrap_err(),
        unwatched(|context| none.unlearn(&spec, context)).unwrap_err().to_string(),
        plan(files.as_ref(), &spec, None).unwrap_err().to_string(),
    ] {
        for part in ["unet/config.json: sample_size is absent", "--width and --height"] {
            assert!(refused.contains(part), "{refused}");
        }
    }
}

#[test]
fn added_tokens_are_the_tokenizers() {
    for (case, token, prompt) in [
        ("added", "<my-cat>", "a <my-cat> in neon style"),
        ("added-word", "sks", "a photo of sks cat"),
    ] {
        let folder = Folder::new();
        folder.add_token(token);
        assert_drawn(case, &draw(&folder.load().unwrap(), prompt).unwrap());
        folder.edit(TEXT_CONFIG, &json!({ "vocab_size": 875 }));
        let error = folder.load().unwrap_err();
        assert!(error.contains("vocab_size is 875") && error.contains(token), "{error}");
        println!("{token} without a row: refused: {error}");
    }
}

#[test]
fn a_tokenizer_for_longer_texts_than_the_encoder_reads_is_refused() {
    const CONFIG: &str = "tokenizer/tokenizer_config.json";
    let folder = Folder::new();
    folder.edit(CONFIG, &json!({ "model_max_length": 77 }));
    let error = folder.load().unwrap_err();
    for part in [CONFIG, "model_max_length is 77", "max_position_embeddings", "is 32"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    println!("model_max_length 77 of 32: refused: {error}");
    // What transformers writes where it knows no limit.
    folder.edit(CONFIG, &json!({ "model_max_length": 1e30 }));
    let engine = folder.load().unwrap();
    assert_warnings(
        "line-feed",
        &engine,
        &["model_max_length is 1e30, which stands for no limit; 32"],
    );
    assert_drawn("line-feed", &draw(&engine, PROMPT).unwrap());
}

/// A model that loads with one warning, which names the part and the tensor, and draws as ever.
fn assert_warned(case: &str, folder: &Folder, part: &str, tensor: &str) -> CandleEngine {
    let engine = folder.load().unwrap();
    let warnings = &engine.pipeline().warnings;
    assert_eq!(warnings.len(), 1, "{case}: {warnings:?}");
    assert!(warnings[0].contains(part) && warnings[0].contains(tensor), "{case}: {warnings:?}");
    println!("{case}: warned: {}", warnings[0]);
    assert_drawn(case, &draw(&engine, PROMPT).unwrap());
    engine
}

#[test]
fn layers_beyond_the_config_are_left_out() {
    let folder = Folder::new();
    folder.edit(TEXT_CONFIG, &json!({ "num_hidden_layers": 3 }));
    assert_warned("layers3", &folder, "text_encoder", "layers.3.");
    folder.edit(TEXT_CONFIG, &json!({ "num_hidden_layers": 5 }));
    let error = folder.load().unwrap_err();
    assert!(error.contains("lacks the tensor") && error.contains("layers.4."), "{error}");
}

#[test]
fn a_whole_clip_model_is_read_as_a_text_encoder() {
    let folder = Folder::new();
    let number = Tensor::new(&[[1.0_f32]], &Device::Cpu).unwrap();
    let name = |name: String| format!("text_model.{}", name.trim_start_matches("text_model."));
    let mut tensors: HashMap<_, _> =
        folder.tensors(TEXT_WEIGHTS).into_iter().map(|(key, tensor)| (name(key), tensor)).collect();
    for surplus in [
        "logit_scale",
        "text_projection.weight",
        "vision_model.post_layernorm.weight",
        "visual_projection.weight",
    ] {
        tensors.insert(surplus.to_owned(), number.clone());
    }
    folder.save(TEXT_WEIGHTS, &tensors);
    let text: Value = serde_json::from_slice(&fs::read(folder.path(TEXT_CONFIG)).unwrap()).unwrap();
    let config = json!({
        "architectures": ["CLIPModel"], "model_type": "clip", "text_config": text,
        "vision_config": { "hidden_size": 48 }, "projection_dim": 64,
    });
    folder.write(TEXT_CONFIG, config.to_string());
    assert_warned("line-feed", &folder, "text_encoder", "vision_model.post_layernorm.weight");
}

#[test]
fn bookkeeping_in_a_network_is_left_out_of_it_and_of_the_result() {
    let folder = Folder::new();
    let mut tensors = folder.tensors(UNET_WEIGHTS);
    let weights = tensors.len();
    tensors.insert("ema_decay".to_owned(), Tensor::new(0.9999_f32, &Device::Cpu).unwrap());
    let empty = Tensor::zeros((0, 3), DType::F32, &Device::Cpu).unwrap();
    tensors.insert("nothing".to_owned(), empty);
    folder.save(UNET_WEIGHTS, &tensors);
    let engine = assert_warned("line-feed", &folder, "unet", "\"ema_decay\", \"nothing\"");
    let mut written = Vec::new();
    erase(&engine).write_unet(&mut written).unwrap();
    let written = safetensors::load_buffer(&written, &Device::Cpu).unwrap();
    assert_eq!(written.len(), weights);
    assert!(!written.contains_key("ema_decay"));
}

#[test]
fn a_variant_that_only_some_parts_have_is_read_where_it_is() {
    let folder = Folder::new();
    let halves = UNET_WEIGHTS.replace(".safetensors", ".fp16.safetensors");
    folder.copy(UNET_WEIGHTS, &halves);
    folder.write(UNET_WEIGHTS, b"not to be opened");
    let error = folder.load_variant(Some("bf16")).unwrap_err();
    assert!(error.contains("bf16") && error.contains("\"fp16\""), "{error}");
    let engine = folder.load_variant(Some("fp16")).unwrap();
    let warnings = engine.pipeline().warnings.join("\n");
    assert!(warnings.contains("vae has no weights of the variant \"fp16\""), "{warnings}");
    assert!(warnings.contains("text_encoder has no"), "{warnings}");
    assert_drawn("line-feed", &draw(&engine, PROMPT).unwrap());
}

/// Two updates, which is enough to change every tensor in scope.
fn erase(engine: &CandleEngine) -> ErasedCheckpoint {
    let spec = unlearn_spec(engine);
    unwatched(|context| engine.unlearn(&spec, context)).unwrap()
}

fn unlearn_spec(engine: &CandleEngine) -> UnlearnSpec {
    let settings = KeystepSettings {
        key_steps: KeySteps::Window(LogSnrWindow { low: -9.0, high: -1.0 }),
        updates: 2,
        schedule_steps: 4,
        concept_trajectories: 1,
        anchor_trajectories: 1,
        preserve_trajectories: 1,
        erase_batch: 1,
        preserve_batch: 1,
        ..KeystepSettings::default()
    };
    UnlearnSpec {
        concepts: vec![Concept::new("cat", ConceptKind::Object)],
        method: Method::Keystep(settings),
        scope: Scope::CrossAttention,
        preserve: Vec::new(),
        vocabulary: engine.vocabulary().clone(),
        seed: 7,
    }
}

#[test]
fn a_result_holds_no_copy_of_the_unet_as_it_was() {
    let folder = Folder::new();
    let copies = [
        "checkpoint-500/model.safetensors",
        "checkpoint-500/unet/diffusion_pytorch_model.safetensors",
        "fp16/unet/diffusion_pytorch_model.safetensors",
        "model.safetensors.part",
        "unet_ema/diffusion_pytorch_model.safetensors",
        "v1-5.CKPT",
        "weights.zip",
    ];
    for name in copies {
        folder.copy(UNET_WEIGHTS, name);
    }
    let erased = erase(&folder.load().unwrap());
    let stretches = erased.erased_stretches().unwrap();
    // Every edited matrix of this model tells itself apart.
    assert!(stretches.len() >= erased.edited.len(), "{}", stretches.len());

    let write = |target: &str| {
        let base = open_model(folder.path("").to_str().unwrap()).unwrap();
        let target = folder.place.path().join(target);
        let mut staged = StagedFolder::create(&target, &[UNET_WEIGHTS]).unwrap();
        let left_out = write_checkpoint(&mut staged, base.as_ref(), |out| {
            erased.write_unet(out).map_err(Into::into)
        })
        .unwrap();
        staged
            .write("delta.safetensors", |out| {
                erased.write_delta(&BTreeMap::new(), out).map_err(Into::into)
            })
            .unwrap();
        let edited = ["delta.safetensors", UNET_WEIGHTS];
        let checked = refuse_erased_weights(staged.unfinished(), &stretches, &edited);
        (left_out, checked)
    };
    let (left_out, checked) = write("plain");
    assert_eq!(left_out, copies);
    checked.unwrap();
    println!("copies of the U-Net: left out and named");

    // Under a name that a pipeline may have, in a format that nobody here opens, as halves.
    folder.edit(
        "model_index.json",
        &json!({ "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"] }),
    );
    let name = &erased.edited[0];
    let tensor = folder.tensors(UNET_WEIGHTS)[name].clone();
    let values = tensor.to_dtype(DType::F16).unwrap().flatten_all().unwrap();
    let mut hidden = b"PK\x03\x04 archive/data/0".to_vec();
    for value in values.to_vec1::<half::f16>().unwrap() {
        hidden.write_all(&value.to_le_bytes()).unwrap();
    }
    folder.write("safety_checker/pytorch_model.bin", hidden);
    let error = write("hidden").1.unwrap_err().to_string();
    assert!(error.contains("safety_checker/pytorch_model.bin"), "{error}");
    println!("the U-Net as a safety checker: refused: {error}");
}

#[test]
fn weights_that_overflow_end_in_an_error_that_names_their_part() {
    for (part, name, computed) in [
        ("unet", "unet/diffusion_pytorch_model.safetensors", "a prediction"),
        ("vae", "vae/diffusion_pytorch_model.safetensors", "a picture"),
        ("text_encoder", TEXT_WEIGHTS, "a text's states"),
    ] {
        let folder = Folder::new();
        // As large as they may be, and numbers all the same.
        let tensors = folder.tensors(name).into_iter().map(|(name, tensor)| {
            let tensor = tensor.to_dtype(DType::F32).unwrap();
            let largest = tensor.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            let unit = if largest > 0.0 { (tensor / f64::from(largest)).unwrap() } else { tensor };
            (name, (unit * 3e38).unwrap())
        });
        folder.save(name, &tensors.collect());
        let engine = folder.load().unwrap();
        let error = draw(&engine, PROMPT).unwrap_err();
        assert!(error.contains(&format!("/{part} computed {computed}")), "{error}");
        if part == "vae" {
            continue;
        }
        let concept = Concept::new("cat", ConceptKind::Object);
        let spec = ScoreSpec::new(concept, engine.vocabulary().clone());
        let spec = ScoreSpec { steps: 4, switch_curve: false, ..spec };
        let error = unwatched(|context| engine.score_timesteps(&spec, context)).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(&format!("/{part} computed")), "{error}");
        let spec = unlearn_spec(&engine);
        let error = unwatched(|context| engine.unlearn(&spec, context)).unwrap_err().to_string();
        assert!(error.contains(&format!("/{part} computed")), "{error}");
    }
}
