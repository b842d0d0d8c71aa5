//! Noise, sampler and tokenizer against torch, diffusers and transformers.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{fs::File, path::PathBuf};

use candle_core::{Device, Tensor};
use keystep::{
    engine::{
        EngineError,
        family::ClipTokenizer,
        schedule::{Ddim, NoiseSource},
    },
    spec::{FileError, ModelFiles, ReadSeek, StepIndex, Timestep},
};

use super::{Golden, Tolerance, assert_close, elements};

const SIZES: [usize; 11] = [1, 2, 5, 15, 16, 17, 24, 31, 32, 100, 1024];
const MIXED: [usize; 8] = [3, 16, 1, 17, 5, 2, 40, 7];

#[test]
fn noise_is_that_of_torch_bit_for_bit() {
    let golden = Golden::read("noise/expected.safetensors");
    let check = |got: &[f32], key: &str| {
        let want: Vec<f32> = golden.get(key).to_vec1().unwrap();
        assert_eq!(got, want, "{key}");
    };
    for seed in [0_u64, 1, 1234] {
        for size in SIZES {
            check(&NoiseSource::new(seed).randn(size), &format!("seed{seed}.randn{size}"));
        }
    }
    for seed in [0_u64, 1, 1234, (1 << 32) - 1, (1 << 32) + 1, (1 << 63) + 11] {
        let mut source = NoiseSource::new(seed);
        for (call, size) in MIXED.into_iter().enumerate() {
            check(&source.randn(size), &format!("seed{seed}.mixed{call}"));
        }
    }
    let million = NoiseSource::new(3).randn(1 << 20);
    let bits: i64 = million.iter().map(|value| i64::from(value.to_bits())).sum();
    assert_eq!(vec![bits], golden.integers("seed3.bits"));
}

#[test]
fn a_noise_tensor_holds_the_same_values() {
    let tensor = NoiseSource::new(1).randn_tensor((2, 4, 4), &Device::Cpu).unwrap();
    assert_eq!(tensor.dims(), [2, 4, 4]);
    let flat: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(flat, NoiseSource::new(1).randn(32));
}

const SCHEDULERS: [&str; 7] =
    ["leading", "trailing", "linspace", "velocity", "cosine", "linear", "trained"];

fn scheduler(name: &str) -> Ddim {
    let json = std::fs::read_to_string(super::path(&format!("ddim/{name}.json"))).unwrap();
    Ddim::from_config(&json, name).unwrap()
}

#[test]
fn timesteps_and_signal_shares_are_those_of_diffusers() {
    let golden = Golden::read("ddim/expected.safetensors");
    for name in SCHEDULERS {
        let ddim = scheduler(name);
        let want = elements(&golden.get(&format!("{name}.alphas_cumprod")));
        assert_eq!(ddim.training_timesteps(), want.len());
        let worst = (0..want.len())
            .map(|t| (ddim.alpha_bar(Timestep(t)).unwrap() / want[t] - 1.0).abs())
            .fold(0.0, f64::max);
        println!("{name}: alphas_cumprod off by {worst:.1e}");
        assert!(worst <= 1.3e-7, "{name}: alphas_cumprod off by {worst:.1e}");
        let prefix = format!("{name}.timesteps");
        let mut runs = 0;
        for key in golden.keys().into_iter().filter(|key| key.starts_with(&prefix)) {
            let schedule = ddim.schedule(key[prefix.len()..].parse().unwrap()).unwrap();
            let got: Vec<i64> =
                schedule.timesteps().iter().map(|t| t.0.try_into().unwrap()).collect();
            assert_eq!(got, golden.integers(key), "{key}");
            runs += 1;
        }
        assert!(runs >= 9, "{name}: only {runs} runs");
    }
}

#[test]
fn every_ddim_step_is_that_of_diffusers() {
    let golden = Golden::read("ddim/expected.safetensors");
    let outputs = golden.get("model_outputs");
    for name in SCHEDULERS {
        let ddim = scheduler(name);
        let schedule = ddim.schedule(10).unwrap();
        let mut latents = golden.get("sample");
        let (mut samples, mut x0) = (Vec::new(), Vec::new());
        for step in schedule.steps() {
            let output = outputs.get(step.0).unwrap();
            x0.push(schedule.predict_x0(step, &output, &latents).unwrap());
            latents = schedule.step(step, &output, &latents).unwrap();
            samples.push(latents.clone());
        }
        let stack = |tensors: &[Tensor]| Tensor::stack(tensors, 0).unwrap();
        for (what, got) in [("samples", stack(&samples)), ("x0", stack(&x0))] {
            let key = format!("{name}.{what}");
            assert_close(&key, &got, &golden.get(&key), Tolerance::FORMULA);
        }
        let middle = ddim.training_timesteps() / 2;
        let noised =
            ddim.add_noise(&golden.get("sample"), &golden.get("noise"), Timestep(middle)).unwrap();
        let key = format!("{name}.add_noise{middle}");
        assert_close(&key, &noised, &golden.get(&key), Tolerance::FORMULA);
    }
}

#[test]
fn noise_levels_are_those_of_stable_diffusion() {
    let schedule = scheduler("leading").schedule(50).unwrap();
    assert_eq!(schedule.len(), 50);
    for (step, timestep, log_snr) in [(0, 981, -5.15), (14, 701, -2.42), (40, 181, 1.28)] {
        assert_eq!(schedule.timestep(StepIndex(step)), Timestep(timestep));
        assert!((schedule.log_snr(StepIndex(step)) - log_snr).abs() < 0.01);
    }
    let last = StepIndex(49);
    let alpha_bar = schedule.level(last);
    assert!((schedule.effect_on_x0(last) - ((1.0 - alpha_bar) / alpha_bar).sqrt()).abs() < 1e-12);
    assert!(schedule.next_level(last) > alpha_bar);
}

#[test]
fn a_velocity_turns_into_the_noise_it_stands_for() {
    let ddim = scheduler("velocity");
    let schedule = ddim.schedule(10).unwrap();
    let golden = Golden::read("ddim/expected.safetensors");
    let (x0, noise) = (golden.get("sample"), golden.get("noise"));
    for step in schedule.steps() {
        let alpha_bar = schedule.level(step);
        let sample = ddim.add_noise(&x0, &noise, schedule.timestep(step)).unwrap();
        let velocity = ((&noise * alpha_bar.sqrt()).unwrap()
            - (&x0 * (1.0 - alpha_bar).sqrt()).unwrap())
        .unwrap();
        let epsilon = schedule.epsilon(step, &velocity, &sample).unwrap();
        assert_close("epsilon", &epsilon, &noise, Tolerance::FORMULA);
        let got = schedule.predict_x0(step, &velocity, &sample).unwrap();
        assert_close("x0", &got, &x0, Tolerance::FORMULA);
    }
}

#[test]
fn configs_of_other_samplers_are_sampled_with_ddim() {
    // As Stable Diffusion 1.4 and a distilled 2.1 ship them.
    let pndm = r#"{"_class_name": "PNDMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "beta_start": 0.00085, "num_train_timesteps": 1000, "set_alpha_to_one": false,
        "skip_prk_steps": true, "steps_offset": 1, "trained_betas": null, "clip_sample": false}"#;
    let schedule = Ddim::from_config(pndm, "pndm").unwrap().schedule(50).unwrap();
    assert_eq!(schedule.timestep(StepIndex(0)), Timestep(981));
    let euler = r#"{"_class_name": "EulerDiscreteScheduler", "beta_end": 0.012, "beta_start": 0.00085,
        "beta_schedule": "scaled_linear", "interpolation_type": "linear", "prediction_type": "epsilon",
        "timestep_spacing": "trailing", "use_karras_sigmas": false, "sigma_max": null}"#;
    let schedule = Ddim::from_config(euler, "euler").unwrap().schedule(4).unwrap();
    assert_eq!(schedule.timestep(StepIndex(0)), Timestep(999));
    let far = Tensor::full(50_f32, 1, &Device::Cpu).unwrap();
    let x0 = schedule.predict_x0(StepIndex(3), &far.zeros_like().unwrap(), &far).unwrap();
    assert!(elements(&x0)[0] > 49.0, "an Euler config must not clip latents");
}

#[test]
fn absurd_scheduler_configs_are_refused_by_field() {
    let cases = [
        ("num_train_timesteps", "0"),
        ("num_train_timesteps", "100001"),
        ("num_train_timesteps", "-1"),
        ("num_train_timesteps", "1.5"),
        ("num_train_timesteps", "1e400"),
        ("beta_start", "0"),
        ("beta_end", "1.0"),
        ("beta_end", "\"0.02\""),
        ("beta_schedule", "\"sigmoid\""),
        ("prediction_type", "\"sample\""),
        ("prediction_type", "3"),
        ("timestep_spacing", "\"random\""),
        ("steps_offset", "1001"),
        ("clip_sample", "\"no\""),
        ("clip_sample_range", "-1"),
        ("thresholding", "true"),
        ("rescale_betas_zero_snr", "true"),
        ("trained_betas", "[]"),
        ("trained_betas", "[0.1, 2]"),
        ("trained_betas", "[0.1, 0.2]"),
    ];
    for (field, value) in cases {
        let json = format!("{{\"{field}\": {value}}}");
        match Ddim::from_config(&json, "folder/scheduler_config.json") {
            Err(EngineError::Config { file, message }) => {
                assert_eq!(file, "folder/scheduler_config.json");
                let unparsable = value == "1e400";
                assert!(unparsable || message.contains(field), "{json}: {message}");
            }
            other => panic!("{json}: {other:?}"),
        }
    }
    for json in ["", "[]", "null", "{", "{\"num_train_timesteps\": 100000, \"beta_end\": 0.9}"] {
        let refused = Ddim::from_config(json, "file");
        assert!(matches!(refused, Err(EngineError::Config { .. })), "{json}: {refused:?}");
    }
    let long = format!("{{\"beta_schedule\": \"{}\"}}", "x".repeat(100_000));
    assert!(Ddim::from_config(&long, "file").unwrap_err().to_string().len() < 300);
    let ddim = scheduler("leading");
    for steps in [0, 1_000, 1_001, usize::MAX] {
        assert!(matches!(ddim.schedule(steps), Err(EngineError::Spec(_))), "{steps} steps");
    }
    assert!(ddim.alpha_bar(Timestep(1_000)).is_err());
}

/// A folder on the disk.
#[derive(Debug)]
struct Disk {
    root: PathBuf,
    location: String,
    hidden: Vec<&'static str>,
}

impl Disk {
    fn new(root: PathBuf, hidden: &[&'static str]) -> Self {
        Self { location: root.display().to_string(), root, hidden: hidden.to_vec() }
    }

    fn canvas(hidden: &[&'static str]) -> Self {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("assets/emoji-canvas/model");
        Self::new(root, hidden)
    }
}

impl ModelFiles for Disk {
    fn location(&self) -> &str {
        &self.location
    }

    fn names(&self) -> &[String] {
        &[]
    }

    fn open(&self, name: &str) -> Result<(Box<dyn ReadSeek>, u64), FileError> {
        let missing =
            || FileError::Missing { location: self.location.clone(), name: name.to_owned() };
        if self.hidden.iter().any(|hidden| name.ends_with(hidden)) {
            return Err(missing());
        }
        let file = File::open(self.root.join(name)).map_err(|_| missing())?;
        let bytes = file.metadata().map_err(|_| missing())?.len();
        Ok((Box::new(file), bytes))
    }
}

fn texts() -> Vec<String> {
    let json = std::fs::read_to_string(super::path("tokenizer/texts.json")).unwrap();
    serde_json::from_str(&json).unwrap()
}

#[test]
fn odd_texts_get_the_ids_of_transformers() {
    let golden = Golden::read("tokenizer/expected.safetensors");
    let texts = texts();
    let folders = [
        ("emoji", Disk::canvas(&[]), "tokenizer"),
        ("emoji", Disk::canvas(&["tokenizer.json"]), "tokenizer"),
        ("sd1", Disk::new(super::path("tokenizer_sd1"), &[]), ""),
        ("sd2", Disk::new(super::path(""), &[]), "tokenizer_sd2"),
    ];
    for (key, files, folder) in folders {
        let tokenizer = ClipTokenizer::from_files(&files, folder).unwrap();
        assert_eq!((tokenizer.length(), tokenizer.vocabulary_size()), (32, 875));
        let want = golden.integers(key);
        assert_eq!(want.len(), 32 * texts.len());
        let mut wrong = Vec::new();
        for (text, want) in texts.iter().zip(want.chunks(32)) {
            let got: Vec<i64> =
                tokenizer.encode(text).unwrap().into_iter().map(i64::from).collect();
            if got != want {
                wrong.push(format!("{text:?}\n  got  {got:?}\n  want {want:?}"));
            }
        }
        assert!(wrong.is_empty(), "{key} {files:?}:\n{}", wrong.join("\n"));
    }
}

#[test]
fn a_long_text_is_refused_with_its_length() {
    let tokenizer = ClipTokenizer::from_files(&Disk::canvas(&[]), "tokenizer").unwrap();
    assert!(tokenizer.encode(&"cat ".repeat(30)).is_ok());
    for (text, tokens) in [("cat ".repeat(31), 33), ("1".repeat(1_000), 1_002)] {
        match tokenizer.encode(&text) {
            Err(EngineError::PromptTooLong { tokens: found, limit: 32 }) => {
                assert_eq!(found, tokens);
            }
            other => panic!("{other:?}"),
        }
    }
}

proptest::proptest! {
    #[test]
    fn any_text_encodes_or_is_too_long(text in "\\PC{0,40}|.{0,40}|(?s:.){0,200}") {
        thread_local! {
            static TOKENIZER: ClipTokenizer =
                ClipTokenizer::from_files(&Disk::canvas(&[]), "tokenizer").unwrap();
        }
        TOKENIZER.with(|tokenizer| match tokenizer.encode(&text) {
            Ok(ids) => {
                assert_eq!((ids.len(), ids[0]), (32, 873));
                assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocabulary_size()));
            }
            Err(EngineError::PromptTooLong { .. }) => {}
            Err(other) => panic!("{other}"),
        });
    }
}

#[test]
fn broken_tokenizer_folders_are_refused_by_file() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let read = || {
        let files = Disk::new(folder.path().to_owned(), &[]);
        ClipTokenizer::from_files(&files, "").unwrap_err().to_string()
    };
    assert!(read().contains("vocab.json"), "{}", read());
    write("vocab.json", "[]");
    write("merges.txt", "#version: 0.2\n");
    assert!(read().contains("not a JSON object"), "{}", read());
    write("vocab.json", "{}");
    assert!(read().contains("vocabulary"), "{}", read());
    write("vocab.json", r#"{"a": 4294967296}"#);
    assert!(read().contains("4294967296"), "{}", read());
    write("vocab.json", r#"{"a": 0, "b": 1}"#);
    write("merges.txt", "a b\n");
    assert!(read().contains("the merge"), "{}", read());
    write("merges.txt", "#version: 0.2\n");
    assert!(read().contains("<|endoftext|>"), "{}", read());
    write("vocab.json", r#"{"a": 0, "<|endoftext|>": 0}"#);
    assert!(read().contains("each once"), "{}", read());
    write("vocab.json", r#"{"a": 0, "<|endoftext|>": 1}"#);
    write("tokenizer_config.json", r#"{"model_max_length": 2}"#);
    assert!(read().contains("model_max_length is 2"), "{}", read());
    write("tokenizer_config.json", r#"{"added_tokens_decoder": {"7": {"content": "<new>"}}}"#);
    assert!(read().contains("<new>"), "{}", read());
    write("tokenizer.json", r#"{"model": {"vocab": {"a": 0}}}"#);
    assert!(read().contains("merges"), "{}", read());
}
