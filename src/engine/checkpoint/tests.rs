//! Reading and writing against each other, and every kind of damage.

use std::{
    collections::BTreeMap,
    io::{Cursor, Read},
};

use candle_core::{Device, Tensor};
use proptest::prelude::*;
use safetensors::Dtype;

use super::{testing::MemoryModel, *};
use crate::{
    engine::EngineError,
    spec::{FileError, ModelFiles, ReadSeek},
};

const WEIGHTS: &str = "unet/diffusion_pytorch_model.safetensors";
const INDEX: &str = "unet/diffusion_pytorch_model.safetensors.index.json";

fn written(tensors: &[(&str, &[f32], Dtype)]) -> Vec<u8> {
    let tensors = tensors
        .iter()
        .map(|(name, values, dtype)| {
            let tensor = Tensor::new(*values, &Device::Cpu).unwrap();
            ((*name).to_owned(), (tensor, *dtype))
        })
        .collect();
    let mut bytes = Vec::new();
    write_safetensors(&tensors, &BTreeMap::new(), &mut bytes).unwrap();
    bytes
}

/// A file with any header at all.
fn forged(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

fn read_unet(files: &MemoryModel) -> Result<StoredTensors, EngineError> {
    read_component(files, "unet", None, &Device::Cpu)
}

fn refusal(bytes: Vec<u8>) -> String {
    let error = read_unet(&MemoryModel::new([(WEIGHTS, bytes)])).unwrap_err();
    assert!(matches!(error, EngineError::DamagedWeights { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("memory/{WEIGHTS} is not a whole safetensors file")),
        "{text}"
    );
    text
}

#[test]
fn the_builtin_models_files_survive_reading_and_writing_byte_for_byte() {
    let model = crate_model();
    for (component, name) in [
        ("vae", "vae/diffusion_pytorch_model.safetensors"),
        ("text_encoder", "text_encoder/model.safetensors"),
    ] {
        let stored = read_component(&model, component, None, &Device::Cpu).unwrap();
        let tensors =
            stored.tensors.into_iter().map(|(name, t)| (name, (t.tensor, t.dtype))).collect();
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        let mut bytes = Vec::new();
        write_safetensors(&tensors, &metadata, &mut bytes).unwrap();
        assert!(bytes == model.bytes(name), "{name}");
    }
}

/// The model in the repository, read by hand: the engine may not use `artifacts`.
fn crate_model() -> MemoryModel {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/emoji-canvas/model");
    MemoryModel::new(
        [
            "vae/diffusion_pytorch_model.safetensors",
            "text_encoder/model.safetensors",
            "judge/judge.safetensors",
        ]
        .map(|name| (name, std::fs::read(root.join(name)).unwrap())),
    )
}

#[test]
fn a_judges_counters_are_left_out() {
    let stored = read_single(&crate_model(), "judge/judge.safetensors", &Device::Cpu).unwrap();
    assert_eq!(stored.tensors.len(), 29);
    assert!(!stored.tensors.keys().any(|name| name.ends_with("num_batches_tracked")));
}

proptest! {
    #[test]
    fn what_is_written_is_read_as_the_stored_type_rounds_it(
        values in proptest::collection::vec(-6e4_f32..6e4, 0..200),
        dtype in prop_oneof![
            Just(Dtype::F64), Just(Dtype::F32), Just(Dtype::F16), Just(Dtype::BF16)
        ],
    ) {
        let bytes = written(&[("b", &values, dtype), ("a", &[1.0], Dtype::F32)]);
        // The reference reader agrees.
        let reference = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        prop_assert_eq!(reference.tensor("b").unwrap().shape().to_vec(), [values.len()]);
        let stored = read_unet(&MemoryModel::new([(WEIGHTS, bytes.clone())])).unwrap();
        prop_assert_eq!(stored.tensors["b"].dtype, dtype);
        let read = stored.tensors["b"].tensor.to_vec1::<f32>().unwrap();
        let expected: Vec<f32> = values.iter().map(|&value| match dtype {
            Dtype::F16 => half::f16::from_f32(value).to_f32(),
            Dtype::BF16 => half::bf16::from_f32(value).to_f32(),
            _ => value,
        }).collect();
        prop_assert_eq!(&read, &expected);
        // Rounding twice is rounding once.
        prop_assert_eq!(written(&[("a", &[1.0], Dtype::F32), ("b", &read, dtype)]), bytes);
    }

    #[test]
    fn no_damage_panics(position in 0_usize..160, bit in 0_u8..8, cut in 0_usize..160) {
        let mut bytes = written(&[("a", &[1.0, 2.0], Dtype::F32), ("b", &[3.0], Dtype::F16)]);
        let position = position % bytes.len();
        bytes[position] ^= 1 << bit;
        let _ = read_unet(&MemoryModel::new([(WEIGHTS, bytes.clone())]));
        bytes.truncate(cut);
        let _ = read_unet(&MemoryModel::new([(WEIGHTS, bytes)]));
    }
}

#[test]
fn halves_round_to_the_nearest_even() {
    // Halfway between 2048 and 2050, then between 2050 and 2052.
    let bytes = written(&[("a", &[2049.0, 2051.0], Dtype::F16)]);
    let stored = read_unet(&MemoryModel::new([(WEIGHTS, bytes)])).unwrap();
    assert_eq!(stored.tensors["a"].tensor.to_vec1::<f32>().unwrap(), [2048.0, 2052.0]);
}

#[test]
fn halves_are_kept_in_matrices_alone_and_hold_the_same_numbers() {
    let matrix = Tensor::new(&[[0.1_f32, 2049.0], [-7.5, 1e-7]], &Device::Cpu).unwrap();
    let vector = Tensor::new(&[0.3_f32, 4.0], &Device::Cpu).unwrap();
    let tensors = [
        ("half", &matrix, Dtype::F16),
        ("brain", &matrix, Dtype::BF16),
        ("single", &matrix, Dtype::F32),
        ("bias", &vector, Dtype::F16),
    ];
    let tensors = tensors.map(|(name, tensor, dtype)| (name.to_owned(), (tensor.clone(), dtype)));
    let mut bytes = Vec::new();
    write_safetensors(&BTreeMap::from(tensors), &BTreeMap::new(), &mut bytes).unwrap();
    let files = MemoryModel::new([(WEIGHTS, bytes)]);
    let read = |halves| {
        let located = locate::locate(&files, "unet", None).unwrap();
        read::read_located(&files, "unet", located, None, halves, &Device::Cpu).unwrap()
    };
    let (kept, widened) = (read(read::Halves::Kept), read(read::Halves::Widened));
    let dtypes: Vec<_> = kept.tensors.values().map(|stored| stored.tensor.dtype()).collect();
    assert_eq!(dtypes, [DType::F32, DType::BF16, DType::F16, DType::F32]);
    assert!(widened.tensors.values().all(|stored| stored.tensor.dtype() == DType::F32));
    assert_eq!(kept.digest().unwrap(), widened.digest().unwrap());
    // A small component is widened whatever reads it.
    let small = read_large(&files, "unet", None, None, &Device::Cpu).unwrap();
    assert!(small.tensors.values().all(|stored| stored.tensor.dtype() == DType::F32));
}

#[test]
fn a_weight_beyond_its_type_is_not_written_as_infinity() {
    let tensor = Tensor::new(&[1.0_f32, 7e4], &Device::Cpu).unwrap();
    let tensors = BTreeMap::from([("a".to_owned(), (tensor, Dtype::F16))]);
    let error = write_safetensors(&tensors, &BTreeMap::new(), &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("\"a\" holds 70000 at element 1"), "{error}");
}

#[test]
fn a_sinks_error_keeps_its_kind() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let error = write_safetensors(&BTreeMap::new(), &BTreeMap::new(), &mut Full).unwrap_err();
    assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::StorageFull);
}

#[test]
fn every_truncation_is_refused() {
    let whole = written(&[("a", &[1.0, 2.0], Dtype::F32)]);
    for length in 0..whole.len() {
        refusal(whole[..length].to_vec());
    }
    refusal([whole, vec![0]].concat());
}

#[test]
fn hostile_headers_are_refused() {
    let max = u64::MAX;
    for (header, data, expected) in [
        (r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#.to_owned(), 8, "gap"),
        (
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}"#
                .to_owned(),
            8,
            "overlaps",
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#
                .to_owned(),
            4,
            "stands twice",
        ),
        (
            format!(r#"{{"a":{{"dtype":"F32","shape":[{max},{max}],"data_offsets":[0,4]}}}}"#),
            4,
            "more than a machine can address",
        ),
        (r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#.to_owned(), 4, "shape and type"),
        (
            r#"{"a":{"dtype":"F32","shape":[1000],"data_offsets":[0,4000]}}"#.to_owned(),
            4,
            "its header describes",
        ),
        (
            format!(r#"{{"a":{{"dtype":"U8","shape":[{max}],"data_offsets":[0,{max}]}}}}"#),
            4,
            "fetch it again",
        ),
        (r#"{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}"#.to_owned(), 4, "F99"),
        ("[".repeat(100_000), 0, "header is damaged"),
        (String::new(), 0, "header is damaged"),
    ] {
        let text = refusal(forged(&header, &vec![0; data]));
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let text = refusal(max.to_le_bytes().to_vec());
    assert!(text.contains("the limit is 100000000"), "{text}");
    let text = refusal(b"version https://git-lfs.github.com/spec/v1".to_vec());
    assert!(text.contains("git lfs pull"), "{text}");
}

#[test]
fn a_weight_that_is_not_a_number_is_named() {
    for (dtype, bytes, value) in [
        ("F32", f32::NAN.to_le_bytes().to_vec(), "NaN"),
        ("F16", half::f16::INFINITY.to_le_bytes().to_vec(), "inf"),
        ("BF16", half::bf16::NEG_INFINITY.to_le_bytes().to_vec(), "-inf"),
        ("F64", 1e300_f64.to_le_bytes().to_vec(), "inf"),
    ] {
        let size = bytes.len();
        let header = format!(
            r#"{{"conv.weight":{{"dtype":"{dtype}","shape":[2],"data_offsets":[0,{}]}}}}"#,
            2 * size
        );
        let data = [vec![0; size], bytes].concat();
        let error = read_unet(&MemoryModel::new([(WEIGHTS, forged(&header, &data))])).unwrap_err();
        let text = error.to_string();
        let expected =
            format!("memory/{WEIGHTS}: tensor \"conv.weight\" holds {value} at element 1");
        assert!(text.starts_with(&expected), "{text}");
        assert!(text.contains("fetch it again"), "{text}");
    }
}

#[test]
fn an_eight_bit_type_is_refused_with_a_remedy() {
    let header = r#"{"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}"#;
    let error = read_unet(&MemoryModel::new([(WEIGHTS, forged(header, &[0]))])).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("\"a\" is stored as F8_E4M3") && text.contains("F16"), "{text}");
}

fn shards(weight_map: &str) -> MemoryModel {
    MemoryModel::new([
        (INDEX, format!(r#"{{"metadata":{{}},"weight_map":{weight_map}}}"#).into_bytes()),
        (
            "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
            written(&[("a", &[1.0], Dtype::F32)]),
        ),
        (
            "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
            written(&[("b", &[2.0], Dtype::F16)]),
        ),
    ])
}

#[test]
fn shards_are_read_through_their_index() {
    let model = shards(
        r#"{"a":"diffusion_pytorch_model-00001-of-00002.safetensors","b":"diffusion_pytorch_model-00002-of-00002.safetensors"}"#,
    );
    let stored = read_unet(&model).unwrap();
    assert_eq!(stored.location, "memory/unet");
    assert_eq!(stored.tensors.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert!(stored.tensors["b"].file.ends_with("00002-of-00002.safetensors"));
    assert_eq!(stored.tensors["b"].dtype, Dtype::F16);
}

#[test]
fn an_index_that_does_not_match_its_shards_is_refused() {
    for (weight_map, expected) in [
        (
            r#"{"a":"diffusion_pytorch_model-00002-of-00002.safetensors","b":"diffusion_pytorch_model-00002-of-00002.safetensors"}"#,
            "lacks the tensor \"a\"",
        ),
        (
            r#"{"a":"diffusion_pytorch_model-00001-of-00002.safetensors","b":"diffusion_pytorch_model-00001-of-00002.safetensors"}"#,
            "lacks the tensor \"b\"",
        ),
        (
            r#"{"a":"diffusion_pytorch_model-00003-of-00003.safetensors"}"#,
            "lists this shard; fetch it",
        ),
        (r#"{"a":"../vae/model.safetensors"}"#, "not the name of a .safetensors file beside it"),
        (r#"{"a":"/etc/passwd"}"#, "not the name of a .safetensors file beside it"),
        (r#"{"a":"..\\model.safetensors"}"#, "not the name of a .safetensors file beside it"),
        (r#"{"a":"model.bin"}"#, "not the name of a .safetensors file beside it"),
        (r#"{"a":7}"#, "is not an index of shards"),
        ("{}", "weight_map is empty"),
    ] {
        let text = read_unet(&shards(weight_map)).unwrap_err().to_string();
        assert!(text.contains(expected) && text.contains("unet"), "{expected}: {text}");
    }
}

#[test]
fn the_only_variant_will_do_and_others_must_be_named() {
    let bytes = |value: f32| written(&[("a", &[value], Dtype::F16)]);
    let only = MemoryModel::new([("unet/diffusion_pytorch_model.fp16.safetensors", bytes(1.0))]);
    assert_eq!(read_unet(&only).unwrap().tensors.len(), 1);

    let two = MemoryModel::new([
        ("unet/diffusion_pytorch_model.fp16.safetensors", bytes(1.0)),
        ("unet/diffusion_pytorch_model.non_ema.safetensors", bytes(2.0)),
    ]);
    let text = read_unet(&two).unwrap_err().to_string();
    assert!(text.contains("\"fp16\", \"non_ema\""), "{text}");
    let named = read_component(&two, "unet", Some("non_ema"), &Device::Cpu).unwrap();
    assert_eq!(named.tensors["a"].tensor.to_vec1::<f32>().unwrap(), [2.0]);
    let text = read_component(&two, "unet", Some("bf16"), &Device::Cpu).unwrap_err().to_string();
    assert!(text.contains("model.bf16.safetensors") && text.contains("\"fp16\""), "{text}");
}

#[test]
fn weights_in_other_formats_are_never_opened() {
    for (name, expected) in [
        ("unet/diffusion_pytorch_model.bin", "safe_serialization=True"),
        ("v1-5-pruned.ckpt", "from_single_file"),
        ("v1-5-pruned.safetensors", "from_single_file"),
        ("model_index.json", "there is no folder \"unet\""),
        ("unet/config.json", "fetch the folder again"),
    ] {
        let model = MemoryModel::new([(name, b"\x80\x02".to_vec())]);
        let error = read_unet(&model).unwrap_err();
        assert!(matches!(error, EngineError::MissingWeights { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(expected) && text.contains(WEIGHTS), "{name}: {text}");
    }
}

#[test]
fn reads_shorter_than_promised_are_refused() {
    #[derive(Debug)]
    struct Shrinking(MemoryModel);
    impl ModelFiles for Shrinking {
        fn location(&self) -> &'static str {
            "memory"
        }
        fn names(&self) -> &[String] {
            self.0.names()
        }
        fn open(&self, name: &str) -> Result<(Box<dyn ReadSeek>, u64), FileError> {
            let (mut reader, length) = self.0.open(name)?;
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            bytes.truncate(bytes.len() - 4);
            Ok((Box::new(Cursor::new(bytes)), length))
        }
    }
    let bytes = written(&[("a", &[1.0, 2.0], Dtype::F32)]);
    let model = Shrinking(MemoryModel::new([(WEIGHTS, bytes)]));
    let text = read_component(&model, "unet", None, &Device::Cpu).unwrap_err().to_string();
    assert!(text.contains("ends within the tensor \"a\""), "{text}");
}
