//! Networks, gradients and whole pictures against diffusers and transformers.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]
#![allow(clippy::print_stdout, reason = "measured errors are worth reading when a test fails")]

use std::{collections::BTreeMap, fs::File, path::PathBuf};

use candle_core::{DType, Device, Tensor};
use keystep::{
    engine::{
        CandleEngine, Compute, RunContext,
        checkpoint::{StoredTensors, read_component},
        family::{
            ClipConfig, ClipModel, ClipTextConfig, ClipTextModel, Conditioning, Denoiser, Unet,
            UnetConfig, Vae, VaeConfig,
        },
        judge::Domain,
        nn::{Scoped, Weights},
        ops::{Adam, AdamSettings},
        schedule::NoiseSource,
    },
    outcome::Picture,
    spec::{FileError, GenerateSpec, ModelFiles, ReadSeek, SamplerKind, Scope},
};

use super::{Golden, Tolerance, assert_close, on_each_device, path};

on_each_device! {
    the_unet_is_diffusers,
    the_gradients_and_adam_are_pytorchs,
    nothing_outside_the_scope_moves_and_everything_inside_gets_a_gradient,
    the_autoencoder_is_diffusers,
    the_text_encoders_are_transformers,
    both_clip_towers_are_transformers,
    the_emoji_canvas_networks_are_diffusers,
    guided_latents_are_diffusers,
    the_emoji_canvas_draws_what_diffusers_draws,
    both_judges_are_as_sure_as_the_reference,
}

/// One folder that holds a component's files flat, as the golden folders do.
#[derive(Debug)]
struct Component {
    folder: PathBuf,
    prefix: String,
    names: Vec<String>,
}

impl Component {
    fn new(folder: &str, component: &str) -> Self {
        let folder = path(folder);
        let mut names: Vec<String> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|entry| format!("{component}/{}", entry.unwrap().file_name().to_str().unwrap()))
            .collect();
        names.sort();
        Self { folder, prefix: format!("{component}/"), names }
    }

    fn config(&self) -> String {
        std::fs::read_to_string(self.folder.join("config.json")).unwrap()
    }
}

impl ModelFiles for Component {
    fn location(&self) -> &'static str {
        "golden"
    }

    fn names(&self) -> &[String] {
        &self.names
    }

    fn open(&self, name: &str) -> Result<(Box<dyn ReadSeek>, u64), FileError> {
        let file = name.strip_prefix(&self.prefix).unwrap();
        let file = File::open(self.folder.join(file)).unwrap();
        let length = file.metadata().unwrap().len();
        Ok((Box::new(file), length))
    }
}

fn ids(golden: &Golden, key: &str) -> Vec<Vec<u32>> {
    golden.get(key).to_dtype(DType::U32).unwrap().to_vec2().unwrap()
}

fn the_unet_is_diffusers(compute: &Compute) {
    for folder in ["unet_sd1", "unet_sd2"] {
        let files = Component::new(folder, "unet");
        let config = UnetConfig::parse(&files.config(), folder).unwrap();
        let tensors = read_component(&files, "unet", None, &compute.device).unwrap();
        let unet = Unet::new(&Weights::frozen(&tensors), &config).unwrap();
        let golden = Golden::read_on(&format!("{folder}/expected.safetensors"), &compute.device);
        for batch in [1, 2] {
            let sample = golden.get(&format!("batch{batch}.sample"));
            let text = golden.get(&format!("batch{batch}.context")).into();
            for timestep in [1, 500, 981] {
                let key = format!("batch{batch}.t{timestep}");
                let got = unet.forward(&sample, &vec![f64::from(timestep); batch], &text).unwrap();
                assert_close(
                    &format!("{folder} {key}"),
                    &got,
                    &golden.get(&key),
                    Tolerance::NETWORK,
                );
            }
        }
        let (sample, text) = (golden.get("batch2.sample"), golden.get("batch2.context").into());
        let got = unet.forward(&sample, &[981.0, 1.0], &text).unwrap();
        assert_close(folder, &got, &golden.get("batch2.mixed"), Tolerance::NETWORK);
    }
}

fn the_gradients_and_adam_are_pytorchs(compute: &Compute) {
    let files = Component::new("unet_sd1", "unet");
    let config = UnetConfig::parse(&files.config(), "unet_sd1").unwrap();
    let tensors = read_component(&files, "unet", None, &compute.device).unwrap();
    let golden = Golden::read_on("unet_sd1/training.safetensors", &compute.device);
    let timesteps: Vec<f64> = golden.integers("timesteps").iter().map(|t| *t as f64).collect();
    let (sample, text) = (golden.get("sample"), golden.get("context").into());
    let target = golden.get("target");
    // The mean squared error, and its gradients.
    let loss_of = |unet: &Unet| {
        let output = unet.trace(&sample, &timesteps, &text).unwrap();
        let errors = (output.tensor() - &target).unwrap();
        let loss = errors.sqr().unwrap().mean_all().unwrap();
        let gradient = (&errors * (2.0 / errors.elem_count() as f64)).unwrap();
        (loss, output.backward(gradient).unwrap())
    };

    // Every gradient of every tensor at once: a wider scope may not change a narrower one's.
    let scoped = Scoped::new(&tensors, &Scope::All).unwrap();
    let unet = Unet::new(&Weights::scoped(&tensors, &scoped), &config).unwrap();
    let (loss, mut gradients) = loss_of(&unet);
    assert_close("loss", &loss, &golden.get("loss"), Tolerance::LIMIT);
    let mut compared = 0;
    for (name, variable) in &scoped.variables {
        let gradient = gradients.take(variable).unwrap_or_else(|| panic!("{name} has no gradient"));
        let key = format!("gradient.{name}");
        if golden.keys().contains(&key.as_str()) {
            assert_close(&key, &gradient, &golden.get(&key), Tolerance::LIMIT);
            compared += 1;
        }
    }
    assert_eq!(compared, golden.keys().iter().filter(|key| key.starts_with("gradient.")).count());

    let scoped = Scoped::new(&tensors, &Scope::CrossAttention).unwrap();
    let unet = Unet::new(&Weights::scoped(&tensors, &scoped), &config).unwrap();
    let mut adam = Adam::new(&scoped.variables, AdamSettings::default()).unwrap();
    let want: Vec<f32> = golden.get("adam.losses").to_vec1().unwrap();
    let mut losses = Vec::new();
    for _ in 0..want.len() - 1 {
        let (loss, mut gradients) = loss_of(&unet);
        losses.push(loss.to_scalar::<f32>().unwrap());
        let gradients: BTreeMap<String, Tensor> = scoped
            .variables
            .iter()
            .map(|(name, variable)| (name.clone(), gradients.take(variable).unwrap()))
            .collect();
        adam.step(&scoped.variables, &gradients, |_| 1e-3).unwrap();
    }
    losses.push(loss_of(&unet).0.to_scalar::<f32>().unwrap());
    let losses = Tensor::new(losses, &compute.device).unwrap();
    assert_close("losses", &losses, &golden.get("adam.losses"), Tolerance::LIMIT);
    for key in golden.keys() {
        if let Some(name) = key.strip_prefix("adam.final.") {
            assert_close(
                key,
                scoped.variables[name].as_tensor(),
                &golden.get(key),
                Tolerance::LIMIT,
            );
        }
    }
}

/// A large model's matrices stay in memory in the half precision of their file.
#[test]
fn a_unet_of_halves_computes_as_one_that_was_widened() {
    let files = Component::new("unet_sd2", "unet");
    let config = UnetConfig::parse(&files.config(), "unet_sd2").unwrap();
    let wide = read_component(&files, "unet", None, &Device::Cpu).unwrap();
    let golden = Golden::read("unet_sd2/expected.safetensors");
    let (sample, text) = (golden.get("batch2.sample"), golden.get("batch2.context").into());
    let outcome = |stored: &StoredTensors, scope: &Scope| {
        let scoped = Scoped::new(stored, scope).unwrap();
        let unet = Unet::new(&Weights::scoped(stored, &scoped), &config).unwrap();
        let prediction = unet.trace(&sample, &[981.0, 1.0], &text).unwrap();
        let forward = unet.forward(&sample, &[981.0, 1.0], &text).unwrap();
        let output = prediction.tensor().clone();
        let mut gradients = prediction.backward(output.clone()).unwrap();
        let gradients = scoped.variables.iter().map(|(name, variable)| {
            (name.clone(), gradients.take(variable).unwrap_or_else(|| panic!("{name}")))
        });
        (output, forward, gradients.collect::<BTreeMap<_, _>>())
    };
    for dtype in [DType::F16, DType::BF16] {
        let mut halves = wide.clone();
        for stored in halves.tensors.values_mut().filter(|stored| stored.tensor.rank() > 1) {
            stored.tensor = stored.tensor.to_dtype(dtype).unwrap();
        }
        let mut widened = halves.clone();
        for stored in widened.tensors.values_mut() {
            stored.tensor = stored.tensor.to_dtype(DType::F32).unwrap();
        }
        for scope in [Scope::CrossAttentionKeyValue, Scope::NonCrossAttention] {
            let (got, expected) = (outcome(&halves, &scope), outcome(&widened, &scope));
            assert_close("a prediction", &got.0, &expected.0, Tolerance::NETWORK);
            assert_close("a prediction alone", &got.1, &expected.1, Tolerance::NETWORK);
            assert_eq!(got.2.len(), expected.2.len());
            for (name, gradient) in &got.2 {
                assert_close(name, gradient, &expected.2[name], Tolerance::LIMIT);
            }
        }
    }
}

fn nothing_outside_the_scope_moves_and_everything_inside_gets_a_gradient(compute: &Compute) {
    let files = Component::new("unet_sd1", "unet");
    let config = UnetConfig::parse(&files.config(), "unet_sd1").unwrap();
    let tensors = read_component(&files, "unet", None, &compute.device).unwrap();
    let golden = Golden::read_on("unet_sd1/training.safetensors", &compute.device);
    for scope in [
        Scope::CrossAttention,
        Scope::CrossAttentionKeyValue,
        Scope::NonCrossAttention,
        Scope::NameContains("mid_block".into()),
    ] {
        let scoped = Scoped::new(&tensors, &scope).unwrap();
        assert!(scoped.variables.keys().all(|name| scope.contains(name)));
        let unet = Unet::new(&Weights::scoped(&tensors, &scoped), &config).unwrap();
        let output = unet
            .trace(&golden.get("sample"), &[500.0, 20.0], &golden.get("context").into())
            .unwrap();
        let of_the_output = (output.tensor() * 2.0).unwrap();
        let mut gradients = output.backward(of_the_output).unwrap();
        for (name, variable) in &scoped.variables {
            let gradient = gradients.take(variable).unwrap_or_else(|| panic!("{scope:?}: {name}"));
            let norm = gradient.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(norm.is_finite() && norm > 0.0, "{scope:?}: {name} has gradient {norm}");
        }
        assert!(gradients.is_empty(), "{scope:?}: a frozen tensor got a gradient");
    }
}

fn the_autoencoder_is_diffusers(compute: &Compute) {
    let files = Component::new("vae", "vae");
    let config = VaeConfig::parse(&files.config(), "vae").unwrap();
    let tensors = read_component(&files, "vae", None, &compute.device).unwrap();
    let vae = Vae::new(&Weights::frozen(&tensors), &config).unwrap();
    let golden = Golden::read_on("vae/expected.safetensors", &compute.device);
    let encoded = vae.encode(&golden.get("image")).unwrap();
    assert_close("mean", &encoded.mean, &golden.get("encode.mean"), Tolerance::NETWORK);
    assert_close("logvar", &encoded.log_variance, &golden.get("encode.logvar"), Tolerance::NETWORK);
    let decoded = vae.decode(&golden.get("latents")).unwrap();
    assert_close("decode", &decoded, &golden.get("decode"), Tolerance::NETWORK);
}

fn the_text_encoders_are_transformers(compute: &Compute) {
    for folder in ["text_encoder_quick_gelu", "text_encoder_gelu"] {
        let files = Component::new(folder, "text_encoder");
        let config = ClipTextConfig::parse(&files.config(), folder).unwrap();
        let tensors = read_component(&files, "text_encoder", None, &compute.device).unwrap();
        let model = ClipTextModel::new(&Weights::frozen(&tensors), &config).unwrap();
        let golden = Golden::read_on(&format!("{folder}/expected.safetensors"), &compute.device);
        let got = model.forward(&ids(&golden, "input_ids")).unwrap();
        assert_close(folder, &got, &golden.get("last_hidden_state"), Tolerance::NETWORK);
    }
}

fn unit(x: &Tensor) -> Tensor {
    x.broadcast_div(&x.sqr().unwrap().sum_keepdim(1).unwrap().sqrt().unwrap()).unwrap()
}

fn both_clip_towers_are_transformers(compute: &Compute) {
    let files = Component::new("clip", "clip");
    let config = ClipConfig::parse(&files.config(), "clip").unwrap();
    let tensors = read_component(&files, "clip", None, &compute.device).unwrap();
    let clip = ClipModel::new(&Weights::frozen(&tensors), &config).unwrap();
    let golden = Golden::read_on("clip/expected.safetensors", &compute.device);
    let text = clip.text_features(&ids(&golden, "input_ids")).unwrap();
    assert_close("text", &text, &unit(&golden.get("text_features")), Tolerance::NETWORK);
    let image = clip.image_features(&golden.get("pixel_values")).unwrap();
    assert_close("image", &image, &unit(&golden.get("image_features")), Tolerance::NETWORK);
    let logits = (image.matmul(&text.t().unwrap()).unwrap() * clip.logit_scale()).unwrap();
    assert_close("logits", &logits, &golden.get("logits_per_image"), Tolerance::NETWORK);
}

/// The shipped model, what was asked of the reference and what it gave.
struct Canvas {
    engine: CandleEngine,
    golden: Golden,
    inputs: serde_json::Value,
}

impl Canvas {
    fn load(compute: &Compute) -> Self {
        let files = keystep::artifacts::open_model("builtin:emoji-canvas").unwrap();
        let inputs = std::fs::read_to_string(path("emoji_canvas/inputs.json")).unwrap();
        Self {
            engine: CandleEngine::load_on(files.as_ref(), None, compute).unwrap(),
            golden: Golden::read_on("emoji_canvas/expected.safetensors", &compute.device),
            inputs: serde_json::from_str(&inputs).unwrap(),
        }
    }

    fn prompts(&self) -> Vec<String> {
        let list = self.inputs["prompts"].as_array().unwrap().iter();
        list.map(|text| text.as_str().unwrap().to_owned()).collect()
    }

    fn drawing(&self) -> GenerateSpec {
        let pictures = self.inputs["pictures"].as_array().unwrap().iter();
        GenerateSpec {
            pictures: pictures
                .map(|picture| {
                    let prompt = picture[0].as_str().unwrap().to_owned();
                    (prompt, picture[1].as_u64().unwrap())
                })
                .collect(),
            negative_prompt: String::new(),
            steps: self.inputs["steps"].as_u64().unwrap() as usize,
            guidance_scale: self.inputs["guidance_scale"].as_f64().unwrap(),
            size: None,
            sampler: Some(SamplerKind::Ddim),
            init_image: None,
        }
    }

    /// The pictures that the reference drew.
    fn pictures(&self) -> Vec<Picture> {
        let all = self.golden.get("pictures.u8");
        let (count, height, width, _) = all.dims4().unwrap();
        (0..count)
            .map(|index| {
                let rgb = all.get(index).unwrap().flatten_all().unwrap().to_vec1().unwrap();
                Picture { width, height, rgb }
            })
            .collect()
    }
}

fn the_emoji_canvas_networks_are_diffusers(compute: &Compute) {
    let canvas = Canvas::load(compute);
    let (pipeline, golden) = (canvas.engine.pipeline(), &canvas.golden);

    let prompts = canvas.prompts();
    for (prompt, want) in prompts.iter().zip(ids(golden, "prompts.input_ids")) {
        assert_eq!(pipeline.tokenizer.encode(prompt).unwrap(), want, "{prompt:?}");
    }
    let hidden = pipeline.encode_prompts(&prompts).unwrap().states;
    assert_close("hidden", &hidden, &golden.get("prompts.hidden_states"), Tolerance::NETWORK);

    let (sample, text) = (golden.get("unet.sample"), golden.get("unet.context"));
    for batch in [1, 2] {
        let (sample, text) = (sample.narrow(0, 0, batch), text.narrow(0, 0, batch));
        let (sample, text) = (sample.unwrap(), text.unwrap().into());
        for timestep in [1, 500, 981] {
            let key = format!("unet.batch{batch}.t{timestep}");
            let timesteps = vec![f64::from(timestep); batch];
            let got = pipeline.denoiser.forward(&sample, &timesteps, &text).unwrap();
            assert_close(&key, &got, &golden.get(&key), Tolerance::NETWORK);
        }
    }
    let got = pipeline.denoiser.forward(&sample, &[981.0, 1.0], &text.into()).unwrap();
    assert_close("mixed", &got, &golden.get("unet.batch2.mixed"), Tolerance::NETWORK);

    let latents = golden.get("pictures.latents").narrow(0, 0, 2).unwrap();
    let scale = pipeline.vae.config().scaling_factor;
    let decoded = pipeline.vae.decode(&(latents / scale).unwrap()).unwrap();
    assert_close("decode", &decoded, &golden.get("vae.decode"), Tolerance::NETWORK);
    let pixels = golden.get("pictures.u8").to_dtype(DType::F32).unwrap();
    let pixels = ((pixels / 127.5).unwrap() - 1.0).unwrap().permute((0, 3, 1, 2)).unwrap();
    let encoded = pipeline.vae.encode(&pixels.narrow(0, 0, 2).unwrap()).unwrap();
    assert_close("mean", &encoded.mean, &golden.get("vae.encode.mean"), Tolerance::NETWORK);
    let want = golden.get("vae.encode.logvar");
    assert_close("logvar", &encoded.log_variance, &want, Tolerance::NETWORK);
}

/// Sharper than pictures in 8 bits, which round away what is below 1/255.
fn guided_latents_are_diffusers(compute: &Compute) {
    let canvas = Canvas::load(compute);
    let (pipeline, spec) = (canvas.engine.pipeline(), canvas.drawing());
    let prompts: Vec<&String> = spec.pictures.iter().map(|(prompt, _)| prompt).collect();
    let text = pipeline.encode_prompts(&prompts).unwrap();
    let nothing = pipeline.encode_prompts(&vec![""; prompts.len()]).unwrap();
    let shape = pipeline.latent_shape(None).unwrap();
    let noise: Vec<Tensor> = spec
        .pictures
        .iter()
        .map(|(_, seed)| NoiseSource::new(*seed).randn_tensor(&shape, &compute.device).unwrap())
        .collect();
    let mut latents = Tensor::stack(&noise, 0).unwrap();
    let schedule = pipeline.scheduler.schedule(spec.steps).unwrap();
    for step in schedule.steps() {
        let timesteps = vec![schedule.timestep(step).0 as f64; prompts.len()];
        let predict =
            |text: &Conditioning| pipeline.denoiser.forward(&latents, &timesteps, text).unwrap();
        let (with, without) = (predict(&text), predict(&nothing));
        let towards = ((with - &without).unwrap() * spec.guidance_scale).unwrap();
        latents = schedule.step(step, &(without + towards).unwrap(), &latents).unwrap();
    }
    let want = canvas.golden.get("pictures.latents");
    assert_close("latents after every step", &latents, &want, Tolerance::LIMIT);
}

fn the_emoji_canvas_draws_what_diffusers_draws(compute: &Compute) {
    let canvas = Canvas::load(compute);
    let mut ignore = |_| {};
    let mut context = RunContext::reporting(&mut ignore);
    let drawn = canvas.engine.generate(&canvas.drawing(), &mut context).unwrap();
    let pictures = canvas.pictures();
    assert_eq!(drawn.len(), pictures.len());
    for (index, (got, want)) in drawn.iter().zip(&pictures).enumerate() {
        assert_eq!((got.width, got.height), (want.width, want.height), "picture {index}");
        let distance = |(got, want): (&u8, &u8)| got.abs_diff(*want);
        let worst = got.rgb.iter().zip(&want.rgb).map(distance).max().unwrap();
        println!("picture {index}: at most {worst}/255 from diffusers");
        assert!(worst <= 2, "picture {index} is {worst}/255 away");
    }
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exponentials: Vec<f64> = logits.iter().map(|logit| (logit - largest).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.iter().map(|exponential| exponential / sum).collect()
}

fn most_likely(row: &[f64]) -> usize {
    (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap()
}

fn both_judges_are_as_sure_as_the_reference(compute: &Compute) {
    let canvas = Canvas::load(compute);
    let (pipeline, golden) = (canvas.engine.pipeline(), &canvas.golden);
    let (vocabulary, pictures) = (&pipeline.vocabulary, canvas.pictures());
    let prompts = canvas.drawing().pictures.len();
    let clip = golden.get("clip.logits_per_image");
    let columns = |start, count| clip.narrow(1, start, count).unwrap();
    let (objects, styles) = (vocabulary.objects.len(), vocabulary.styles.len());
    let expected = [
        ("clip", Domain::Objects, columns(prompts, objects)),
        ("clip", Domain::Styles, columns(prompts + objects, styles)),
        ("cnn", Domain::Objects, golden.get("judge.object_logits")),
        ("cnn", Domain::Styles, golden.get("judge.style_logits")),
    ];
    let judges = pipeline.judges.all().unwrap();
    assert_eq!(judges.iter().map(|judge| judge.name()).collect::<Vec<_>>(), ["clip", "cnn"]);
    for (name, domain, logits) in expected {
        let judge = judges.iter().find(|judge| judge.name() == name).unwrap();
        let got = judge.probabilities(&pictures, domain, vocabulary).unwrap();
        let logits: Vec<Vec<f64>> = logits.to_dtype(DType::F64).unwrap().to_vec2().unwrap();
        assert_eq!(got.len(), logits.len());
        let mut worst = 0.0_f64;
        for (got, logits) in got.iter().zip(&logits) {
            let want = softmax(logits);
            assert_eq!(got.len(), want.len());
            assert_eq!(most_likely(got), most_likely(&want), "{name} {domain:?}");
            worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(worst, f64::max);
        }
        println!("{name} {domain:?}: probabilities off by {worst:.1e}");
        assert!(worst <= 1e-3, "{name} {domain:?}: probabilities off by {worst:.1e}");
    }
}
