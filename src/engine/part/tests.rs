//! Files with other tensors than their network needs, and variants that only some parts have.

use std::{
    fs,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde_json::{Value, json};

use super::*;
use crate::{
    engine::{
        checkpoint::testing::MemoryModel,
        family::{ClipTextConfig, ClipTextModel, Vae, VaeConfig},
        judge::JudgeParts,
    },
    spec::{FileError, ReadSeek, Vocabulary},
};

const TEXT: &str = "text_encoder/model.safetensors";
const VAE: &str = "vae/diffusion_pytorch_model.safetensors";

/// A file of the built-in model.
fn builtin(name: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/emoji-canvas/model");
    fs::read(root.join(name)).unwrap()
}

/// A safetensors file with its header changed, and with more data at its end.
fn edited(file: &[u8], edit: impl Fn(&mut Value, usize), more: &[u8]) -> Vec<u8> {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&file[8..8 + length]).unwrap();
    let data = &file[8 + length..];
    edit(&mut header, data.len());
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data, more].concat()
}

/// One more tensor of so many bytes, all ones: not a number as f32.
fn with_tensor(file: &[u8], name: &str, dtype: &str, shape: &Value, bytes: usize) -> Vec<u8> {
    let add = |header: &mut Value, end: usize| {
        let offsets = [end, end + bytes];
        header[name] = json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets });
    };
    edited(file, add, &vec![0xff; bytes])
}

fn text_config(fields: &Value) -> ClipTextConfig {
    let mut config: Value = serde_json::from_slice(&builtin("text_encoder/config.json")).unwrap();
    config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    ClipTextConfig::parse(&config.to_string(), "config.json").unwrap()
}

fn find_text<'a>(
    files: &'a MemoryModel,
    config: &ClipTextConfig,
    warnings: &mut Vec<String>,
) -> Result<Part<'a>, EngineError> {
    let build = |w: &Weights| ClipTextModel::new(w, config).map(drop);
    Part::find(files, ("text_encoder", None), build, warnings)
}

fn find_vae<'a>(
    files: &'a MemoryModel,
    warnings: &mut Vec<String>,
) -> Result<Part<'a>, EngineError> {
    let json = String::from_utf8(builtin("vae/config.json")).unwrap();
    let config = VaeConfig::parse(&json, "config.json").unwrap();
    let build = |w: &Weights| Vae::new(w, &config).map(drop);
    Part::find(files, ("vae", None), build, warnings)
}

#[test]
fn a_file_of_its_network_alone_is_read_whole_and_without_a_word() {
    let files = MemoryModel::new([(TEXT, builtin(TEXT)), (VAE, builtin(VAE))]);
    let mut warnings = Vec::new();
    let part = find_text(&files, &text_config(&json!({})), &mut warnings).unwrap();
    let stored = part.read(&Device::Cpu).unwrap();
    assert_eq!(part.count() * 4, stored.bytes());
    assert_eq!(part.large_bytes().unwrap(), stored.bytes());
    assert_eq!(
        stored.tensors.keys().collect::<Vec<_>>(),
        part.into_outline().tensors.keys().collect::<Vec<_>>()
    );
    find_vae(&files, &mut warnings).unwrap();
    assert_eq!(warnings, Vec::<String>::new());
}

#[test]
fn tensors_without_a_place_are_named_and_never_read() {
    // A scalar that is not a number, an empty one, a type that is not supported.
    let file = with_tensor(&builtin(VAE), "ema_decay", "F32", &json!([]), 4);
    let file = with_tensor(&file, "nothing", "F32", &json!([0]), 0);
    let file = with_tensor(&file, "small", "F8_E4M3", &json!([3]), 3);
    let file = with_tensor(&file, "x\n".repeat(500).as_str(), "F16", &json!([2]), 4);
    let counter = with_tensor(&file, "num_updates", "I64", &json!([]), 8);
    let files = MemoryModel::new([(VAE, counter)]);
    let mut warnings = Vec::new();
    let part = find_vae(&files, &mut warnings).unwrap();
    let stored = part.read(&Device::Cpu).unwrap();
    assert!(!stored.tensors.contains_key("ema_decay"));
    assert_eq!(part.count() * 4, stored.bytes());
    assert_eq!(
        warnings,
        ["memory/vae holds tensors that the network has no place for, which are left out: \
          \"ema_decay\", \"nothing\", \"small\" and 1 more"]
    );
    let only = with_tensor(&builtin(VAE), &"x\n".repeat(500), "F16", &json!([2]), 4);
    let mut warnings = Vec::new();
    find_vae(&MemoryModel::new([(VAE, only)]), &mut warnings).unwrap();
    assert!(warnings[0].contains("a tensor") && warnings[0].contains("\"x\\nx"), "{warnings:?}");
    assert!(warnings[0].len() < 250 && !warnings[0].contains('\n'), "{warnings:?}");
}

#[test]
fn the_first_layers_count_where_there_are_more() {
    let files = MemoryModel::new([(TEXT, builtin(TEXT))]);
    let mut warnings = Vec::new();
    let layers = text_config(&json!({})).tower.num_hidden_layers - 1;
    let fewer = text_config(&json!({ "num_hidden_layers": layers }));
    let part = find_text(&files, &fewer, &mut warnings).unwrap();
    let stored = part.read(&Device::Cpu).unwrap();
    let has = |layer: usize| {
        let infix = format!("layers.{layer}.");
        stored.tensors.keys().any(|name| name.contains(&infix))
    };
    assert!(has(layers - 1) && !has(layers));
    assert_eq!(warnings.len(), 1);
    let last = format!("layers.{layers}.");
    assert!(warnings[0].contains(&last) && warnings[0].ends_with("and 13 more"), "{warnings:?}");
    // What is missing is no matter of opinion.
    let more = text_config(&json!({ "num_hidden_layers": layers + 2 }));
    let error = find_text(&files, &more, &mut warnings).err().unwrap();
    assert!(matches!(error, EngineError::MissingTensor { .. }), "{error}");
}

#[test]
fn a_whole_clip_model_holds_a_text_encoder() {
    let name = "clip/model.safetensors";
    let files = MemoryModel::new([(TEXT, builtin(name))]);
    let json = String::from_utf8(builtin("clip/config.json")).unwrap();
    let config = ClipTextConfig::parse(&json, "config.json").unwrap();
    let mut warnings = Vec::new();
    let part = find_text(&files, &config, &mut warnings).unwrap();
    let stored = part.read(&Device::Cpu).unwrap();
    assert!(stored.tensors.keys().all(|name| name.starts_with("text_model.")));
    assert!(warnings[0].contains("\"logit_scale\""), "{warnings:?}");
}

#[test]
fn a_missing_or_misshapen_tensor_is_told_before_any_is_read() {
    let renamed = edited(
        &builtin(VAE),
        |header, _| {
            let tensor = header.as_object_mut().unwrap().remove("encoder.conv_in.bias").unwrap();
            header["encoder.conv_in.bias_"] = tensor;
        },
        &[],
    );
    let error = find_vae(&MemoryModel::new([(VAE, renamed)]), &mut Vec::new()).err().unwrap();
    let text = error.to_string();
    assert!(text.contains("lacks the tensor \"encoder.conv_in.bias\""), "{text}");
    let files = MemoryModel::new([(TEXT, builtin(TEXT))]);
    let config = text_config(&json!({ "vocab_size": 876 }));
    let error = find_text(&files, &config, &mut Vec::new()).err().unwrap();
    assert!(matches!(error, EngineError::MisshapenTensor { .. }), "{error}");
    assert!(error.to_string().starts_with(&format!("memory/{TEXT}")), "{error}");
}

#[test]
fn a_variant_that_only_some_parts_have_is_read_where_it_is() {
    let parts = ["unet", "vae", "text_encoder"];
    let files = MemoryModel::new([
        ("unet/diffusion_pytorch_model.fp16.safetensors", Vec::new()),
        (VAE, Vec::new()),
        (TEXT, Vec::new()),
        ("text_encoder/model.bf16.safetensors", Vec::new()),
    ]);
    let choose = |variant| {
        let mut warnings = Vec::new();
        let chosen = variants(&files, &parts, variant, &mut warnings);
        (chosen.map(|chosen| parts.map(|part| chosen.get(part).copied())), warnings)
    };
    let (chosen, warnings) = choose(None);
    assert_eq!((chosen.unwrap(), warnings.len()), ([None; 3], 0));
    let (chosen, warnings) = choose(Some("fp16"));
    assert_eq!(chosen.unwrap(), [Some("fp16"), None, None]);
    assert_eq!(
        warnings,
        ["vae", "text_encoder"].map(|part| format!(
            "memory/{part} has no weights of the variant \"fp16\"; those without one are read"
        ))
    );
    let (chosen, warnings) = choose(Some("bf16"));
    assert_eq!((chosen.unwrap(), warnings.len()), ([None, None, Some("bf16")], 2));
    let text = choose(Some("fp32")).0.unwrap_err().to_string();
    assert!(text.contains("fp32") && text.contains("\"fp16\""), "{text}");
    // A part of no weights at all stays an error of its own.
    let bare = MemoryModel::new([("unet/diffusion_pytorch_model.fp16.safetensors", Vec::new())]);
    let chosen = variants(&bare, &parts, Some("fp16"), &mut Vec::new()).unwrap();
    let vae = outline_component(&bare, "vae", chosen.get("vae").copied());
    let text = vae.unwrap_err().to_string();
    assert!(text.contains("vae/diffusion_pytorch_model.safetensors"), "{text}");
}

/// A model's files, with the bytes that were read of them.
#[derive(Debug)]
struct CountingModel {
    model: MemoryModel,
    /// Zeros that follow each file, as in a sparse file.
    hole: u64,
    read: Arc<AtomicU64>,
}

/// A file with a hole at its end.
#[derive(Debug)]
struct Sparse {
    bytes: Vec<u8>,
    length: u64,
    position: u64,
    read: Arc<AtomicU64>,
}

impl Read for Sparse {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.length.saturating_sub(self.position);
        let count = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        for (index, byte) in buffer[..count].iter_mut().enumerate() {
            let at = usize::try_from(self.position).unwrap() + index;
            *byte = self.bytes.get(at).copied().unwrap_or(0);
        }
        self.position += count as u64;
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

impl Seek for Sparse {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let SeekFrom::Start(position) = to else { return Err(io::ErrorKind::Unsupported.into()) };
        self.position = position;
        Ok(position)
    }
}

impl ModelFiles for CountingModel {
    fn location(&self) -> &'static str {
        "memory"
    }

    fn names(&self) -> &[String] {
        self.model.names()
    }

    fn open(&self, name: &str) -> Result<(Box<dyn ReadSeek>, u64), FileError> {
        let bytes = self.model.bytes(name).to_vec();
        let length = bytes.len() as u64 + self.hole;
        let read = self.read.clone();
        Ok((Box::new(Sparse { bytes, length, position: 0, read }), length))
    }
}

#[test]
fn nothing_but_headers_is_read_of_what_is_refused_and_nothing_of_what_is_left_over() {
    const HOLE: u64 = 640 << 20;
    // Before all others, so that a reader in order reads it first.
    let surplus = |file: &[u8]| {
        edited(
            file,
            |header, end| {
                let offsets = [end, end + HOLE as usize];
                header["aa_ema"] =
                    json!({ "dtype": "F32", "shape": [HOLE / 4], "data_offsets": offsets });
            },
            &[],
        )
    };
    let counting = |name: &'static str, file: Vec<u8>| CountingModel {
        model: MemoryModel::new([(name, file)]),
        hole: HOLE,
        read: Arc::default(),
    };
    let json = String::from_utf8(builtin("vae/config.json")).unwrap();
    let find = |files: &CountingModel, json: &str| {
        let config = VaeConfig::parse(json, "config.json").unwrap();
        let build = |w: &Weights| Vae::new(w, &config).map(drop);
        let part = Part::find(files, ("vae", None), build, &mut Vec::new())?;
        part.read(&Device::Cpu)
    };
    let whole = builtin(VAE).len() as u64;

    let files = counting(VAE, surplus(&builtin(VAE)));
    find(&files, &json).unwrap();
    let read = files.read.load(Ordering::Relaxed);
    assert!(read < whole + (1 << 20), "{read} bytes of {whole}");

    // A tensor in a type that is not computed with, and one of another shape.
    let integers = edited(
        &builtin(VAE),
        |header, _| {
            let tensor = &mut header["encoder.conv_in.bias"];
            let [start, end] = [0, 1].map(|at| tensor["data_offsets"][at].as_u64().unwrap());
            tensor["shape"] = json!([end - start]);
            tensor["dtype"] = json!("I8");
        },
        &[],
    );
    let retyped = edited(
        &builtin(VAE),
        |header, _| {
            let tensor = &mut header["encoder.conv_in.bias"];
            let channels = tensor["shape"][0].as_u64().unwrap();
            tensor["shape"] = json!([channels]);
            tensor["dtype"] = json!("F8_E4M3");
            let [start, end] = [0, 1].map(|at| tensor["data_offsets"][at].as_u64().unwrap());
            tensor["data_offsets"] = json!([start, start + channels]);
            // What is left of its data, so that there is no gap.
            header["aa_rest"] = json!({
                "dtype": "U8",
                "shape": [end - start - channels],
                "data_offsets": [start + channels, end],
            });
        },
        &[],
    );
    for (file, said) in [(integers, "shape"), (retyped, "F8_E4M3")] {
        let files = counting(VAE, surplus(&file));
        let error = find(&files, &json).unwrap_err().to_string();
        assert!(error.contains(said) && error.contains("encoder.conv_in.bias"), "{error}");
        let read = files.read.load(Ordering::Relaxed);
        assert!(read < 1 << 18, "{read} bytes");
    }
}

#[test]
fn judges_are_checked_by_their_headers() {
    const JUDGE: &str = "judge/judge.safetensors";
    let vocabulary: Vocabulary = serde_json::from_slice(&builtin("vocabulary.json")).unwrap();
    let find = |file: Vec<u8>| {
        let files =
            MemoryModel::new([("judge/config.json", builtin("judge/config.json")), (JUDGE, file)]);
        let parts = JudgeParts::find(&files, &vocabulary, &mut Vec::new())?;
        let parameters = parts.parameters();
        parts.read(&Device::Cpu).map(|judges| {
            assert_eq!(judges.parameters, parameters);
            judges.all().unwrap().len()
        })
    };
    assert_eq!(find(builtin(JUDGE)).unwrap(), 1);
    // All bits set, which is NaN: reading them refuses the file.
    let surplus = with_tensor(&builtin(JUDGE), "aa_ema", "F32", &json!([1]), 4);
    assert_eq!(find(surplus).unwrap(), 1);
    let narrow = edited(
        &builtin(JUDGE),
        |header, _| {
            let shape = header["object.weight"]["shape"].as_array().unwrap().clone();
            let [rows, columns] = [0, 1].map(|axis| shape[axis].as_u64().unwrap());
            header["object.weight"]["shape"] = json!([columns, rows]);
        },
        &[],
    );
    let error = find(narrow).unwrap_err();
    assert!(matches!(error, EngineError::MisshapenTensor { .. }), "{error}");
}
