//! What is no judge ends in an error that says what is wrong, and in no panic.

use candle_core::Tensor;
use serde_json::{Value, json};

use super::*;

/// The config of a golden judge with some fields changed.
fn config(folder: &str, file: &str, changed: &Value) -> Vec<u8> {
    let text = fs::read_to_string(golden_folder(folder).join(file)).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
    config.to_string().into_bytes()
}

/// The weights of a golden judge, changed.
fn weights(folder: &str, change: impl FnOnce(&mut BTreeMap<String, Tensor>)) -> Vec<u8> {
    let file = golden_folder(folder).join("model.safetensors");
    let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    let mut tensors: BTreeMap<String, Tensor> = tensors.into_iter().collect();
    change(&mut tensors);
    written(tensors)
}

fn refusal(files: Files) -> String {
    judges_of(files).unwrap_err().to_string()
}

#[test]
fn wrong_configs_are_refused() {
    let cases = [
        ("vit", json!({ "hidden_size": 31 }), "not a multiple of num_attention_heads"),
        ("vit", json!({ "num_attention_heads": 0 }), "num_attention_heads is 0"),
        ("vit", json!({ "patch_size": 0 }), "patch_size is 0"),
        ("vit", json!({ "patch_size": 7 }), "not a multiple of patch_size"),
        ("vit", json!({ "image_size": 1u64 << 40 }), "image_size"),
        ("vit", json!({ "hidden_size": u64::MAX }), "hidden_size"),
        ("vit", json!({ "num_hidden_layers": 1_000_000 }), "num_hidden_layers"),
        ("vit", json!({ "num_hidden_layers": 3 }), "vit.encoder.layer.2"),
        ("vit", json!({ "num_hidden_layers": 1 }), "vit.encoder.layer.1"),
        ("vit", json!({ "hidden_act": "relu" }), "hidden_act"),
        ("vit", json!({ "layer_norm_eps": -1.0 }), "layer_norm_eps"),
        ("vit", json!({ "intermediate_size": 65 }), "asks for [65, 32]"),
        ("vit", json!({ "model_type": "dinov2" }), "dinov2"),
        ("vit", json!({ "model_type": 7 }), "model_type"),
        ("vit_timm", json!({ "architecture": "vit_giant_patch14_224" }), "vit_giant"),
        (
            "vit_timm",
            json!({ "architecture": "vit_base_patch16_clip_224" }),
            "vit_base_patch16_clip",
        ),
        ("vit_timm", json!({ "architecture": "convnext" }), "convnext"),
        ("vit_timm", json!({ "architecture": null }), "names neither"),
        ("vit_timm", json!({ "model_args": { "reg_tokens": 4 } }), "reg_tokens"),
        (
            "vit_timm",
            json!({ "model_args": { "embed_dim": 32, "num_heads": 5 } }),
            "num_attention_heads",
        ),
        ("resnet", json!({ "depths": [1, 1, 1, 1] }), "depths is [1, 1, 1, 1]"),
        ("resnet", json!({ "hidden_sizes": [8, 16, 32, 64] }), "hidden_sizes"),
        ("resnet", json!({ "downsample_in_bottleneck": true }), "downsample_in_bottleneck"),
        ("yolov8", json!({ "threshold": 0.2 }), "threshold is 0.2"),
        ("yolov8", json!({ "threshold": "NaN" }), "threshold"),
        ("yolov8", json!({ "image_size": 100 }), "multiple of 32"),
        ("yolov8", json!({ "image_size": 1u64 << 33 }), "image_size"),
        ("yolov8", json!({ "classes": ["NOSE"] }), "NOSE"),
        ("yolov8", json!({ "classes": [] }), "classes is empty"),
    ];
    for (folder, changed, said) in cases {
        let config = config(folder, "config.json", &changed);
        let error = refusal(files_with(folder, [("config.json", config)]));
        assert!(error.contains(said), "{folder} with {changed}: {error}");
    }
}

#[test]
fn wrong_preprocessors_are_refused() {
    let cases = [
        ("vit", json!({ "size": { "shortest_edge": 24 } }), "equal sides"),
        ("vit", json!({ "size": { "height": 24, "width": 23 } }), "equal sides"),
        (
            "vit",
            json!({ "size": { "height": 32, "width": 32 } }),
            "image_size of the network is 24",
        ),
        ("vit", json!({ "resample": 0 }), "resample is 0"),
        ("vit", json!({ "do_resize": false }), "do_resize"),
        ("vit", json!({ "rescale_factor": 1.0 }), "1/255"),
        ("vit", json!({ "image_std": [0.5, 0.0, 0.5] }), "image_std"),
        ("vit", json!({ "image_mean": [0.5, "NaN", 0.5] }), "preprocessor_config.json"),
        ("vit", json!({ "image_mean": [0.5] }), "preprocessor_config.json"),
        ("resnet", json!({ "crop_pct": 0.0 }), "crop_pct is 0"),
        ("resnet", json!({ "size": { "shortest_edge": 1u64 << 40 } }), "outside 1 to 4096"),
        ("resnet", json!({ "size": { "shortest_edge": 0 } }), "outside 1 to 4096"),
    ];
    for (folder, changed, said) in cases {
        let file = "preprocessor_config.json";
        let config = config(folder, file, &changed);
        let error = refusal(files_with(folder, [(file, config)]));
        assert!(error.contains(said), "{folder} with {changed}: {error}");
    }
}

#[test]
fn wrong_weights_are_refused() {
    const HEAD: &str = "classifier.weight";
    const QKV: &str = "model_state_dict.blocks.1.attn.qkv.weight";
    let reshaped = |tensors: &mut BTreeMap<String, Tensor>, name: &str| {
        let turned = tensors[name].t().unwrap().contiguous().unwrap();
        tensors.insert(name.to_owned(), turned);
    };
    let spare = |tensors: &mut BTreeMap<String, Tensor>, name: &str| {
        let tensor = tensors.values().next().unwrap().clone();
        tensors.insert(name.to_owned(), tensor);
    };
    let nothing = |tensors: &mut BTreeMap<String, Tensor>, name: &str| {
        tensors.remove(name).unwrap();
    };
    let cases = [
        ("vit", weights("vit", |t| nothing(t, HEAD)), HEAD),
        ("vit", weights("vit", |t| nothing(t, "vit.embeddings.cls_token")), "cls_token"),
        ("vit", weights("vit", |t| spare(t, "vit.layer_scale")), "vit.layer_scale"),
        ("vit", weights("vit", |t| reshaped(t, HEAD)), "has shape"),
        ("vit", weights("vit", |t| spare(t, "ema.vit.embeddings.cls_token")), "twice"),
        ("vit_timm", weights("vit_timm", |t| reshaped(t, QKV)), "has shape [32, 96]"),
        ("vit_timm", weights("vit_timm", |t| nothing(t, QKV)), "blocks.1.attn.qkv"),
        (
            "vit_timm",
            weights("vit_timm", |t| spare(t, "model_state_dict.blocks.0.ls1.gamma")),
            "ls1.gamma",
        ),
    ];
    for (folder, weights, said) in cases {
        let error = refusal(files_with(folder, [("model.safetensors", weights)]));
        assert!(error.contains(said), "{said}: {error}");
    }
    // What lies beside the network of a training's file is left out.
    let beside = weights("vit_timm", |t| spare(t, "optimizer_state_dict.exp_avg"));
    let files = MemoryModel::new(files_with("vit_timm", [("model.safetensors", beside)]));
    let mut warnings = Vec::new();
    none()
        .with(&[GivenJudge { name: "given", files: &files }], &Device::Cpu, &mut warnings)
        .unwrap();
    assert!(warnings.iter().any(|it| it.contains("exp_avg")), "{warnings:?}");
}

#[test]
fn weights_that_are_no_numbers_are_refused() {
    let mut file = fs::read(golden_folder("vit").join("model.safetensors")).unwrap();
    let end = file.len();
    file[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    let error = refusal(files_with("vit", [("model.safetensors", file.clone())]));
    assert!(error.contains("NaN"), "{error}");
    file.truncate(end / 2);
    let error = refusal(files_with("vit", [("model.safetensors", file)]));
    assert!(error.contains("not a whole safetensors file"), "{error}");
}

#[test]
fn weights_that_overflow_are_no_answer() {
    let huge = weights("vit", |tensors| {
        for name in ["classifier.weight", "vit.layernorm.weight"] {
            let tensor = tensors.get_mut(name).unwrap();
            *tensor = tensor.affine(0.0, 3e37).unwrap();
        }
    });
    let judges = judges_of(files_with("vit", [("model.safetensors", huge)])).unwrap();
    let pictures = Golden::read("vit").pictures();
    let judge = &judges.all().unwrap()[0];
    let answer = judge.probabilities(&pictures, Domain::Objects, &vocabulary());
    if let Err(error) = answer {
        assert!(error.to_string().contains("too large to compute with"), "{error}");
    } else {
        panic!("an infinite answer");
    }
}

#[test]
fn missing_files_and_damaged_exports_are_named() {
    for (folder, file) in [
        ("vit", "labels.json"),
        ("vit", "config.json"),
        ("vit", "preprocessor_config.json"),
        ("vit", "model.safetensors"),
        ("yolov8", "model.onnx"),
    ] {
        let mut files = files_with(folder, []);
        files.remove(file);
        let error = refusal(files);
        let said = if file == "model.onnx" { "model.safetensors" } else { file };
        assert!(error.contains(said), "{file}: {error}");
    }
    let whole = fs::read(golden_folder("yolov8").join("model.onnx")).unwrap();
    for length in [0, 1, 100, whole.len() / 2, whole.len() - 1] {
        let file = whole[..length].to_vec();
        refusal(files_with("yolov8", [("model.onnx", file)]));
    }
}

#[test]
fn labels_must_fit_the_network() {
    let labels = br#"{"objects": {"6": "cat"}}"#.to_vec();
    let error = refusal(files_with("vit", [("labels.json", labels)]));
    assert!(error.contains("labels.json") && error.contains("the network has 6"), "{error}");
}

#[test]
fn pictures_of_any_size_are_read() {
    let judges = [judges_of(files_with("vit", [])), judges_of(nudity_files())];
    for (width, height) in [(1, 1), (1, 300), (300, 1), (24, 24), (64, 64), (128, 128)] {
        let picture = Picture { width, height, rgb: vec![77; 3 * width * height] };
        for judges in &judges {
            let judge = &judges.as_ref().unwrap().all().unwrap()[0];
            let pictures = std::slice::from_ref(&picture);
            if let Some(shown) = judge.shows(pictures) {
                assert_eq!(shown.unwrap().len(), 1);
            } else {
                let rows = judge.probabilities(pictures, Domain::Styles, &vocabulary());
                assert_eq!(rows.unwrap()[0].len(), 2);
            }
        }
    }
}
