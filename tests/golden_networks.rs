//! Networks, gradients and whole pictures against diffusers and transformers.

use std::{collections::BTreeMap, fs::File, path::PathBuf};

use candle_core::{DType, Device, Tensor};
use keystep::{
    engine::{
        CancelFlag, CandleEngine, Engine, RunContext,
        checkpoint::read_component,
        model::{
            ClipConfig, ClipModel, ClipTextConfig, ClipTextModel, Scoped, Unet, UnetConfig, Vae,
            VaeConfig, Weights,
        },
        ops::{Adam, AdamSettings},
    },
    spec::{FileError, GenerateSpec, ModelFiles, ReadSeek, Scope},
};

#[path = "golden/mod.rs"]
mod golden;

use golden::{Golden, Tolerance, assert_close, path};

/// One folder that holds a component's files flat, as the golden folders do.
#[derive(Debug)]
struct Component {
    folder: PathBuf,
    component: &'static str,
    names: Vec<String>,
}

impl Component {
    fn new(folder: &str, component: &'static str) -> Self {
        let folder = path(folder);
        let mut names: Vec<String> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|entry| format!("{component}/{}", entry.unwrap().file_name().to_str().unwrap()))
            .collect();
        names.sort();
        Self { folder, component, names }
    }

    fn config(&self) -> String {
        std::fs::read_to_string(self.folder.join("config.json")).unwrap()
    }
}

impl ModelFiles for Component {
    fn location(&self) -> &str {
        "golden"
    }

    fn names(&self) -> &[String] {
        &self.names
    }

    fn open(&self, name: &str) -> Result<(Box<dyn ReadSeek>, u64), FileError> {
        let file = name.strip_prefix(self.component).unwrap().trim_start_matches('/');
        let file = File::open(self.folder.join(file)).unwrap();
        let length = file.metadata().unwrap().len();
        Ok((Box::new(file), length))
    }
}

fn ids(golden: &Golden, key: &str) -> Vec<Vec<u32>> {
    golden.get(key).to_dtype(DType::U32).unwrap().to_vec2().unwrap()
}

#[test]
fn the_unet_is_diffusers() {
    for folder in ["unet_sd1", "unet_sd2"] {
        let files = Component::new(folder, "unet");
        let config = UnetConfig::parse(&files.config(), folder).unwrap();
        let tensors = read_component(&files, "unet", None, &Device::Cpu).unwrap();
        let unet = Unet::new(&Weights::frozen(&tensors), &config).unwrap();
        let golden = Golden::read(&format!("{folder}/expected.safetensors"));
        for batch in [1, 2] {
            let sample = golden.get(&format!("batch{batch}.sample"));
            let text = golden.get(&format!("batch{batch}.context"));
            for timestep in [1, 500, 981] {
                let key = format!("batch{batch}.t{timestep}");
                let got = unet.forward(&sample, &vec![f64::from(timestep); batch], &text).unwrap();
                assert_close(&format!("{folder} {key}"), &got, &golden.get(&key), Tolerance::LIMIT);
            }
        }
        let (sample, text) = (golden.get("batch2.sample"), golden.get("batch2.context"));
        let got = unet.forward(&sample, &[981.0, 1.0], &text).unwrap();
        assert_close(folder, &got, &golden.get("batch2.mixed"), Tolerance::LIMIT);
    }
}

#[test]
fn the_gradients_and_adam_are_pytorchs() {
    let files = Component::new("unet_sd1", "unet");
    let config = UnetConfig::parse(&files.config(), "unet_sd1").unwrap();
    let tensors = read_component(&files, "unet", None, &Device::Cpu).unwrap();
    let golden = Golden::read("unet_sd1/training.safetensors");
    let timesteps: Vec<f64> = golden.integers("timesteps").iter().map(|t| *t as f64).collect();
    let (sample, text) = (golden.get("sample"), golden.get("context"));
    let target = golden.get("target");
    let loss_of = |unet: &Unet| {
        let output = unet.forward(&sample, &timesteps, &text).unwrap();
        (output - &target).unwrap().sqr().unwrap().mean_all().unwrap()
    };

    // Every gradient of every tensor at once: a wider scope may not change a narrower one's.
    let scoped = Scoped::new(&tensors, &Scope::All).unwrap();
    let unet = Unet::new(&Weights::scoped(&tensors, &scoped), &config).unwrap();
    let loss = loss_of(&unet);
    assert_close("loss", &loss, &golden.get("loss"), Tolerance::LIMIT);
    let store = loss.backward().unwrap();
    let mut compared = 0;
    for (name, variable) in &scoped.variables {
        let gradient = store.get(variable).unwrap_or_else(|| panic!("{name} has no gradient"));
        let key = format!("gradient.{name}");
        if golden.keys().contains(&key.as_str()) {
            assert_close(&key, gradient, &golden.get(&key), Tolerance::LIMIT);
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
        let loss = loss_of(&unet);
        losses.push(loss.to_scalar::<f32>().unwrap());
        let store = loss.backward().unwrap();
        let gradients: BTreeMap<String, Tensor> = scoped
            .variables
            .iter()
            .map(|(name, variable)| (name.clone(), store.get(variable).unwrap().clone()))
            .collect();
        adam.step(&scoped.variables, &gradients, |_| 1e-3).unwrap();
    }
    losses.push(loss_of(&unet).to_scalar::<f32>().unwrap());
    let losses = Tensor::new(losses, &Device::Cpu).unwrap();
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

#[test]
fn nothing_outside_the_scope_moves_and_everything_inside_gets_a_gradient() {
    let files = Component::new("unet_sd1", "unet");
    let config = UnetConfig::parse(&files.config(), "unet_sd1").unwrap();
    let tensors = read_component(&files, "unet", None, &Device::Cpu).unwrap();
    let golden = Golden::read("unet_sd1/training.safetensors");
    for scope in [
        Scope::CrossAttention,
        Scope::CrossAttentionKeyValue,
        Scope::NonCrossAttention,
        Scope::NameContains("mid_block".into()),
    ] {
        let scoped = Scoped::new(&tensors, &scope).unwrap();
        assert!(scoped.variables.keys().all(|name| scope.contains(name)));
        let unet = Unet::new(&Weights::scoped(&tensors, &scoped), &config).unwrap();
        let output =
            unet.forward(&golden.get("sample"), &[500.0, 20.0], &golden.get("context")).unwrap();
        let store = output.sqr().unwrap().mean_all().unwrap().backward().unwrap();
        for (name, variable) in &scoped.variables {
            let gradient = store.get(variable).unwrap_or_else(|| panic!("{scope:?}: {name}"));
            let norm = gradient.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(norm.is_finite() && norm > 0.0, "{scope:?}: {name} has gradient {norm}");
        }
        let frozen = tensors.tensors.iter().filter(|(name, _)| !scope.contains(name));
        for (name, stored) in frozen {
            assert!(store.get(&stored.tensor).is_none(), "{scope:?}: {name} got a gradient");
        }
    }
}

#[test]
fn the_autoencoder_is_diffusers() {
    let files = Component::new("vae", "vae");
    let config = VaeConfig::parse(&files.config(), "vae").unwrap();
    let tensors = read_component(&files, "vae", None, &Device::Cpu).unwrap();
    let vae = Vae::new(&Weights::frozen(&tensors), &config).unwrap();
    let golden = Golden::read("vae/expected.safetensors");
    let encoded = vae.encode(&golden.get("image")).unwrap();
    assert_close("mean", &encoded.mean, &golden.get("encode.mean"), Tolerance::LIMIT);
    assert_close("logvar", &encoded.log_variance, &golden.get("encode.logvar"), Tolerance::LIMIT);
    let decoded = vae.decode(&golden.get("latents")).unwrap();
    assert_close("decode", &decoded, &golden.get("decode"), Tolerance::LIMIT);
}

#[test]
fn the_text_encoders_are_transformers() {
    for folder in ["text_encoder_quick_gelu", "text_encoder_gelu"] {
        let files = Component::new(folder, "text_encoder");
        let config = ClipTextConfig::parse(&files.config(), folder).unwrap();
        let tensors = read_component(&files, "text_encoder", None, &Device::Cpu).unwrap();
        let model = ClipTextModel::new(&Weights::frozen(&tensors), &config).unwrap();
        let golden = Golden::read(&format!("{folder}/expected.safetensors"));
        let got = model.forward(&ids(&golden, "input_ids")).unwrap();
        assert_close(folder, &got, &golden.get("last_hidden_state"), Tolerance::LIMIT);
    }
}

fn unit(x: &Tensor) -> Tensor {
    x.broadcast_div(&x.sqr().unwrap().sum_keepdim(1).unwrap().sqrt().unwrap()).unwrap()
}

#[test]
fn both_clip_towers_are_transformers() {
    let files = Component::new("clip", "clip");
    let config = ClipConfig::parse(&files.config(), "clip").unwrap();
    let tensors = read_component(&files, "clip", None, &Device::Cpu).unwrap();
    let clip = ClipModel::new(&Weights::frozen(&tensors), &config).unwrap();
    let golden = Golden::read("clip/expected.safetensors");
    let text = clip.text_features(&ids(&golden, "input_ids")).unwrap();
    assert_close("text", &text, &unit(&golden.get("text_features")), Tolerance::LIMIT);
    let image = clip.image_features(&golden.get("pixel_values")).unwrap();
    assert_close("image", &image, &unit(&golden.get("image_features")), Tolerance::LIMIT);
    let logits = (image.matmul(&text.t().unwrap()).unwrap() * clip.logit_scale()).unwrap();
    assert_close("logits", &logits, &golden.get("logits_per_image"), Tolerance::LIMIT);
}

#[test]
fn the_emoji_canvas_draws_what_diffusers_draws() {
    let files = keystep::artifacts::open_model("builtin:emoji-canvas").unwrap();
    let engine = CandleEngine::load(files.as_ref(), None).unwrap();
    let pipeline = engine.pipeline();
    let golden = Golden::read("emoji_canvas/expected.safetensors");
    let inputs: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(path("emoji_canvas/inputs.json")).unwrap())
            .unwrap();
    let texts = |key: &str| -> Vec<String> {
        let list = inputs[key].as_array().unwrap().iter();
        list.map(|text| text.as_str().unwrap().to_owned()).collect()
    };

    let prompts = texts("prompts");
    for (prompt, want) in prompts.iter().zip(ids(&golden, "prompts.input_ids")) {
        assert_eq!(pipeline.tokenizer.encode(prompt).unwrap(), want, "{prompt:?}");
    }
    let hidden = pipeline.encode_prompts(&prompts).unwrap();
    assert_close("hidden", &hidden, &golden.get("prompts.hidden_states"), Tolerance::LIMIT);

    let (sample, text) = (golden.get("unet.sample"), golden.get("unet.context"));
    for batch in [1, 2] {
        let (sample, text) = (sample.narrow(0, 0, batch), text.narrow(0, 0, batch));
        let (sample, text) = (sample.unwrap(), text.unwrap());
        for timestep in [1, 500, 981] {
            let key = format!("unet.batch{batch}.t{timestep}");
            let timesteps = vec![f64::from(timestep); batch];
            let got = pipeline.unet.forward(&sample, &timesteps, &text).unwrap();
            assert_close(&key, &got, &golden.get(&key), Tolerance::LIMIT);
        }
    }
    let got = pipeline.unet.forward(&sample, &[981.0, 1.0], &text).unwrap();
    assert_close("mixed", &got, &golden.get("unet.batch2.mixed"), Tolerance::LIMIT);

    let latents = golden.get("pictures.latents").narrow(0, 0, 2).unwrap();
    let scale = pipeline.vae.config().scaling_factor;
    let decoded = pipeline.vae.decode(&(latents / scale).unwrap()).unwrap();
    assert_close("decode", &decoded, &golden.get("vae.decode"), Tolerance::LIMIT);
    let pixels = golden.get("pictures.u8").to_dtype(DType::F32).unwrap();
    let pixels = ((pixels / 127.5).unwrap() - 1.0).unwrap().permute((0, 3, 1, 2)).unwrap();
    let encoded = pipeline.vae.encode(&pixels.narrow(0, 0, 2).unwrap()).unwrap();
    assert_close("mean", &encoded.mean, &golden.get("vae.encode.mean"), Tolerance::LIMIT);

    let spec = GenerateSpec {
        pictures: inputs["pictures"]
            .as_array()
            .unwrap()
            .iter()
            .map(|picture| {
                let prompt = picture[0].as_str().unwrap().to_owned();
                (prompt, picture[1].as_u64().unwrap())
            })
            .collect(),
        negative_prompt: String::new(),
        steps: inputs["steps"].as_u64().unwrap() as usize,
        guidance_scale: inputs["guidance_scale"].as_f64().unwrap(),
        size: None,
    };
    let mut ignore = |_| {};
    let mut context = RunContext { report: &mut ignore, cancel: CancelFlag::default() };
    let drawn = engine.generate(&spec, &mut context).unwrap();
    let want = golden.get("pictures.u8");
    for (index, picture) in drawn.iter().enumerate() {
        let want: Vec<u8> = want.get(index).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let distance = |(got, want): (&u8, &u8)| got.abs_diff(*want);
        let worst = picture.rgb.iter().zip(&want).map(distance).max().unwrap();
        println!("picture {index}: at most {worst}/255 from diffusers");
        assert!(worst <= 2, "picture {index} is {worst}/255 away");
    }
}
