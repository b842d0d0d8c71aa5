//! Judges that a user gives: held to what their references answer, and to refusing what is no judge.

mod hostile;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use candle_nn::{VarBuilder, VarMap};
use candle_transformers::models::resnet;
use safetensors::Dtype;
use serde_json::json;

use super::{
    JudgeParts, Judges, classifier::ClassifierPart, detections::detections, folder::JudgeFolder,
    given::GivenJudge, letterbox::letterbox, naming::Domain, nudity::NudityPart, pixels::pixels,
    preprocessor::Preprocessor, preprocessor::Processor,
};
use crate::{
    engine::{
        EngineError,
        checkpoint::{testing::MemoryModel, write_safetensors},
    },
    outcome::Picture,
    spec::{Concept, ConceptKind, JudgeSpec, ModelFiles, Vocabulary},
};

/// `Tolerance::NETWORK` of `tests/engine/golden`: the relative error of a network's output.
const NETWORK: f64 = 1e-5;
/// `Tolerance::FORMULA`, of a formula.
const FORMULA: f64 = 1e-6;

/// The golden tensors of a judge.
struct Golden(HashMap<String, Tensor>);

fn golden_folder(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/judges").join(folder)
}

impl Golden {
    fn read(folder: &str) -> Self {
        let file = golden_folder(folder).join("expected.safetensors");
        Self(candle_core::safetensors::load(file, &Device::Cpu).unwrap())
    }

    fn pictures(&self) -> Vec<Picture> {
        ["picture0", "picture1"].map(|key| picture(&self.0[key])).into()
    }
}

fn picture(tensor: &Tensor) -> Picture {
    let (height, width, _) = tensor.dims3().unwrap();
    let rgb = tensor.flatten_all().unwrap().to_vec1::<u8>().unwrap();
    Picture { width, height, rgb }
}

fn assert_close(got: &Tensor, want: &Tensor, tolerance: f64) {
    assert_eq!(got.dims(), want.dims());
    let norm = |x: &Tensor| {
        let squares = x.to_dtype(DType::F64).unwrap().sqr().unwrap().sum_all().unwrap();
        squares.to_scalar::<f64>().unwrap().sqrt()
    };
    let error = norm(&(got - want).unwrap()) / norm(want);
    println!("relative error {error:.1e}");
    assert!(error <= tolerance, "relative error {error:.1e} above {tolerance:.0e}");
}

/// The files of a golden judge, some of them replaced.
fn files_with(folder: &str, replaced: impl IntoIterator<Item = (&'static str, Vec<u8>)>) -> Files {
    let there = fs::read_dir(golden_folder(folder)).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Files = there
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read(path).unwrap())
        })
        .collect();
    files.extend(replaced.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)));
    files
}

type Files = BTreeMap<String, Vec<u8>>;

fn vocabulary() -> Vocabulary {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    Vocabulary {
        objects: words(&["rocket", "dog", "cat"]),
        styles: words(&["comic", "neon"]),
        ..Vocabulary::default()
    }
}

fn none() -> Judges {
    let empty = MemoryModel::new([("README.md", Vec::new())]);
    let parts = JudgeParts::find(&empty, &Vocabulary::default(), &mut Vec::new()).unwrap();
    parts.read(&Device::Cpu).unwrap()
}

/// The judge of some files, called "given".
fn judges_of(files: Files) -> Result<Judges, EngineError> {
    let files = MemoryModel::new(files);
    none().with(&[GivenJudge { name: "given", files: &files }], &Device::Cpu, &mut Vec::new())
}

/// Pixels and logits of a classifier, and what the judge makes of them.
fn answers_as_the_reference(folder: &str, files: Files) {
    let golden = Golden::read(folder);
    let pictures = golden.pictures();
    let memory = MemoryModel::new(files.clone());
    let view = JudgeFolder::new(&memory);
    let mut warnings = Vec::new();
    let part = ClassifierPart::find(&view, view.component(), &mut warnings).unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    let classifier = part.read(&Device::Cpu).unwrap();
    let Preprocessor { fit, normalisation } = classifier.preprocessor;
    let got = pixels(&pictures, fit, normalisation, &Device::Cpu).unwrap();
    assert_close(&got, &golden.0["pixels"], FORMULA);
    let logits = classifier.network.forward(&golden.0["pixels"]).unwrap();
    assert_close(&logits, &golden.0["logits"], NETWORK);

    let judges = judges_of(files).unwrap();
    let [judge] = judges.all().unwrap() else { panic!("one judge") };
    assert_eq!(judge.name(), "given");
    assert!(judge.working_numbers() > 0 && judges.parameters > 0);
    let logits = golden.0["logits"].to_vec2::<f32>().unwrap();
    for (domain, classes) in [(Domain::Objects, vec![5, 2, 0]), (Domain::Styles, vec![4, 1])] {
        let got = judge.probabilities(&pictures, domain, &vocabulary()).unwrap();
        for (got, logits) in got.iter().zip(&logits) {
            let shares: Vec<f64> = classes.iter().map(|it| f64::from(logits[*it]).exp()).collect();
            let sum: f64 = shares.iter().sum();
            for (got, share) in got.iter().zip(&shares) {
                assert!((got - share / sum).abs() < 1e-5, "{domain:?}: {got}, {}", share / sum);
            }
        }
    }
}

#[test]
fn a_vit_of_transformers_answers_as_transformers_does() {
    answers_as_the_reference("vit", files_with("vit", []));
}

#[test]
fn a_vit_of_timm_answers_as_timm_does() {
    answers_as_the_reference("vit_timm", files_with("vit_timm", []));
}

/// `by_rule` of `tests/golden/judges.py`.
fn by_rule(name: &str, shape: &[usize]) -> Vec<f32> {
    let start = name.bytes().zip(1..).map(|(byte, place)| u64::from(byte) * place).sum::<u64>();
    let fraction = |index: u64| {
        let hashed = ((index + start % 65_536 * 7_919) * 2_654_435_761) % (1 << 32);
        (hashed >> 16) as f32 / 65_536.0 - 0.5
    };
    let count = shape.iter().product::<usize>() as u64;
    let is_scale =
        (name.contains("bn") || name.contains("downsample.1")) && name.ends_with(".weight");
    let (factor, offset) = match shape {
        _ if is_scale || name.ends_with("running_var") => (0.25, 1.0),
        [_, inputs, height, width] => {
            let fan = (inputs * height * width) as f64;
            (2.0_f32.powi(-((fan / 24.0).log2() / 2.0).round() as i32), 0.0)
        }
        _ => (0.125, 0.0),
    };
    (0..count).map(|index| fraction(index) * factor + offset).collect()
}

/// `of_transformers` of `tests/golden/judges.py`.
fn of_transformers(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    let stage = |layer: &str| layer.trim_start_matches("layer").parse::<usize>().unwrap() - 1;
    let number = |part: &str| part[part.len() - 1..].parse::<usize>().unwrap() - 1;
    match parts.as_slice() {
        ["fc", end] => format!("classifier.1.{end}"),
        ["conv1", end] => format!("resnet.embedder.embedder.convolution.{end}"),
        ["bn1", end] => format!("resnet.embedder.embedder.normalization.{end}"),
        [layer, block, "downsample", at, end] => {
            let module = if *at == "0" { "convolution" } else { "normalization" };
            let stage = stage(layer);
            format!("resnet.encoder.stages.{stage}.layers.{block}.shortcut.{module}.{end}")
        }
        [layer, block, part, end] => {
            let module = if part.starts_with("conv") { "convolution" } else { "normalization" };
            let (stage, at) = (stage(layer), number(part));
            format!("resnet.encoder.stages.{stage}.layers.{block}.layer.{at}.{module}.{end}")
        }
        _ => panic!("{name}"),
    }
}

fn written(tensors: BTreeMap<String, Tensor>) -> Vec<u8> {
    let tensors = tensors.into_iter().map(|(name, tensor)| (name, (tensor, Dtype::F32)));
    let mut file = Vec::new();
    write_safetensors(&tensors.collect(), &BTreeMap::new(), &mut file).unwrap();
    file
}

/// A ResNet-50 whose weights follow the rule.
fn resnet_file(rename: impl Fn(&str) -> String) -> Vec<u8> {
    let (map, cpu) = (VarMap::new(), &Device::Cpu);
    resnet::resnet50(6, VarBuilder::from_varmap(&map, DType::F32, cpu)).unwrap();
    let shapes = map.data().lock().unwrap();
    let by_rule = |(name, shape): (&String, &candle_core::Var)| {
        let values = by_rule(name, shape.dims());
        (rename(name), Tensor::from_vec(values, shape.shape(), cpu).unwrap())
    };
    written(shapes.iter().map(by_rule).collect())
}

#[test]
fn a_resnet_answers_as_transformers_and_torchvision_do() {
    let weights = resnet_file(of_transformers);
    answers_as_the_reference("resnet", files_with("resnet", [("model.safetensors", weights)]));
    let config = json!({ "architecture": "resnet50" }).to_string().into_bytes();
    let weights = resnet_file(|name| format!("module.{name}"));
    let files = [("model.safetensors", weights), ("config.json", config)];
    answers_as_the_reference("resnet", files_with("resnet", files));
}

#[test]
fn clip_reads_pictures_as_its_processor_does() {
    let files = MemoryModel::new(files_with("clip_pixels", []));
    let view = JudgeFolder::new(&files);
    let processor = Preprocessor::read(&view, view.component(), Processor::Clip, Some(24)).unwrap();
    let golden = Golden::read("clip_pixels");
    let Preprocessor { fit, normalisation } = processor;
    let got = pixels(&golden.pictures(), fit, normalisation, &Device::Cpu).unwrap();
    assert_close(&got, &golden.0["pixels"], FORMULA);
}

/// A file of the built-in model's own CLIP.
fn clip_files() -> Files {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/emoji-canvas/model/clip");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files
        .map(|path| {
            (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap())
        })
        .collect()
}

#[test]
fn a_clip_folder_answers_as_it_does_within_a_model() {
    let inside = clip_files().into_iter().map(|(name, bytes)| (format!("clip/{name}"), bytes));
    let model = MemoryModel::new(inside);
    let parts = JudgeParts::find(&model, &Vocabulary::default(), &mut Vec::new()).unwrap();
    let own = parts.read(&Device::Cpu).unwrap();
    let folder = MemoryModel::new(clip_files());
    let given = GivenJudge { name: "other", files: &folder };
    let judges = own.with(&[given], &Device::Cpu, &mut Vec::new()).unwrap();
    assert_eq!(judges.parameters, 2 * own.parameters);
    let [own, other] = judges.all().unwrap() else { panic!("two judges") };
    assert_eq!([own.name(), other.name()], ["clip", "other"]);
    // The curve of a measurement stays the model's own judge's.
    assert_eq!(judges.sharpest().unwrap().name(), "clip");
    let pictures = Golden::read("vit").pictures();
    for domain in [Domain::Objects, Domain::Styles] {
        let answers = |judge: &dyn super::Judge| {
            judge.probabilities(&pictures, domain, &vocabulary()).unwrap()
        };
        assert_eq!(answers(own.as_ref()), answers(other.as_ref()));
    }
    // One name for two judges would hide which one spoke.
    let same = GivenJudge { name: "clip", ..given };
    let error = judges.with(&[same], &Device::Cpu, &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("two judges called \"clip\""), "{error}");
}

#[test]
fn two_classifiers_are_one_judge() {
    let labels = |text: &str| vec![("labels.json", text.as_bytes().to_vec())];
    let objects = labels(r#"{"objects": {"0": "cat", "2": "dog", "5": "rocket"}}"#);
    let styles = labels(r#"{"styles": {"1": "neon", "4": "comic"}}"#);
    let pair = |objects, styles| {
        let inside = |folder: &'static str, files: Files| {
            files.into_iter().map(move |(name, bytes)| (format!("{folder}/{name}"), bytes))
        };
        let objects = inside("objects", files_with("vit", objects));
        judges_of(objects.chain(inside("styles", files_with("vit_timm", styles))).collect())
    };
    let judges = pair(objects.clone(), styles.clone()).unwrap();
    let [judge] = judges.all().unwrap() else { panic!("one judge") };
    let spec = JudgeSpec::new(Concept::new("cat", ConceptKind::Object), vocabulary());
    judges.check(&spec).unwrap();
    let whole = judges_of(files_with("vit_timm", [])).unwrap();
    let pictures = Golden::read("vit").pictures();
    let styles_of = |judge: &dyn super::Judge| {
        judge.probabilities(&pictures, Domain::Styles, &vocabulary()).unwrap()
    };
    assert_eq!(styles_of(judge.as_ref()), styles_of(whole.all().unwrap()[0].as_ref()));
    let error = pair(objects, Vec::new()).unwrap_err().to_string();
    assert!(error.contains("styles/labels.json") && error.contains("styles alone"), "{error}");

    // One of the two alone knows its own domain, and is asked for no other.
    let alone = judges_of(files_with("vit", styles)).unwrap();
    let judge = &alone.all().unwrap()[0];
    assert!(judge.knows(Domain::Styles) && !judge.knows(Domain::Objects));
    let error = alone.check(&spec).unwrap_err().to_string();
    assert!(error.contains("knows no objects"), "{error}");
    let style = JudgeSpec { concept: Concept::new("neon", ConceptKind::Style), ..spec };
    alone.check(&style).unwrap();
}

#[test]
fn unknown_words_are_named_before_any_work() {
    let judges = judges_of(files_with("vit", [])).unwrap();
    let mut words = vocabulary();
    words.objects.extend(["zebra".to_owned(), "Hound".to_owned(), "yak".to_owned()]);
    let spec = JudgeSpec::new(Concept::new("cat", ConceptKind::Object), words);
    let error = judges.check(&spec).unwrap_err().to_string();
    // A hound is a dog by the labels.
    assert!(error.contains("\"zebra\", \"yak\"") && error.contains("given"), "{error}");
}

fn nudity_files() -> Files {
    files_with("yolov8", [])
}

#[test]
fn a_detector_answers_as_the_reference_does() {
    let golden = Golden::read("yolov8");
    let pictures = golden.pictures();
    let cpu = &Device::Cpu;
    // To the bit where a picture shrinks; where it grows, a few are off by one.
    for side in [21, 32] {
        let got = letterbox(&pictures[..1], side, cpu).unwrap().squeeze(0).unwrap();
        assert_close(&got, &golden.0[&format!("resized{side}")], FORMULA);
    }
    let got = letterbox(&pictures, 64, cpu).unwrap();
    let off = (got - &golden.0["pixels"]).unwrap().abs().unwrap().flatten_all().unwrap();
    let off = off.to_vec1::<f32>().unwrap();
    assert!(off.iter().all(|off| *off < 1.01 / 255.0));
    let some = off.iter().filter(|off| **off > 0.5 / 255.0).count();
    assert!(some * 200 < off.len(), "{some} of {}", off.len());

    let files = MemoryModel::new(nudity_files());
    let view = JudgeFolder::new(&files);
    let part = NudityPart::find(&view, view.component(), &mut Vec::new()).unwrap();
    let judge = part.read("detector", cpu).unwrap();
    let rows = judge.network.forward(&golden.0["pixels"]).unwrap();
    assert_close(&rows, &golden.0["rows"], NETWORK);
    for (index, picture) in pictures.iter().enumerate() {
        let scale = 64.0 / picture.width.max(picture.height) as f32;
        let bounds = [picture.width, picture.height].map(|side| side as f32 * scale);
        let rows = golden.0["rows"].get(index).unwrap().to_vec2::<f32>().unwrap();
        let found = detections(&rows, bounds);
        let got = found.iter().map(|it| (it.class as f32, it.score));
        let want = golden.0[&format!("found{index}")].to_vec2::<f32>().unwrap();
        assert_eq!(
            got.collect::<Vec<_>>(),
            want.iter().map(|it| (it[0], it[1])).collect::<Vec<_>>()
        );
    }
}

#[test]
fn a_detector_says_what_its_threshold_lets_through() {
    let shows = |config: serde_json::Value| {
        let config = config.to_string().into_bytes();
        let judges = judges_of(files_with("yolov8", [("config.json", config)])).unwrap();
        let judge = judges.all().unwrap()[0].clone();
        let shown = judge.shows(&Golden::read("yolov8").pictures()).unwrap().unwrap();
        (judge.name().to_owned(), shown)
    };
    // Found are the classes 17, 11, 14 and 4 in one picture, 14 and 11 in the other.
    let yolo = |rest: serde_json::Value| {
        let mut config = json!({ "architecture": "yolov8n", "image_size": 64 });
        config.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        config
    };
    assert_eq!(shows(yolo(json!({}))), ("given@0.45/9".to_owned(), vec![true, true]));
    let genitalia = json!({ "classes": ["FEMALE_GENITALIA_EXPOSED"], "threshold": 0.6 });
    assert_eq!(shows(yolo(genitalia)), ("given@0.6/1".to_owned(), vec![true, false]));
    let surer = json!({ "classes": ["FEMALE_GENITALIA_EXPOSED"], "threshold": 0.9 });
    assert_eq!(shows(yolo(surer)).1, [false, false]);
    let faces = json!({ "classes": ["FACE_MALE", "FACE_FEMALE"] });
    assert_eq!(shows(yolo(faces)).1, [false, false]);
}

#[test]
fn a_detector_is_asked_about_nudity_alone() {
    let judges = judges_of(nudity_files()).unwrap();
    let spec = |kind| JudgeSpec::new(Concept::new("cat", kind), vocabulary());
    judges.check(&spec(ConceptKind::Nudity)).unwrap();
    let error = judges.check(&spec(ConceptKind::Object)).unwrap_err().to_string();
    assert!(error.contains("nudity alone"), "{error}");
    let judge = &judges.all().unwrap()[0];
    assert!(!judge.knows(Domain::Objects) && !judge.knows(Domain::Styles));
    assert!(judge.probabilities(&[], Domain::Objects, &vocabulary()).is_err());
}

#[test]
fn a_detectors_weights_may_be_safetensors() {
    let files = MemoryModel::new(nudity_files());
    let tensors = super::onnx::read_initializers(&files, "model.onnx", &Device::Cpu).unwrap();
    let tensors = tensors.tensors.into_iter().filter(|(name, _)| name.starts_with("model."));
    let weights = written(tensors.map(|(name, stored)| (name, stored.tensor)).collect());
    let mut files = files_with("yolov8", [("model.safetensors", weights)]);
    let pictures = Golden::read("yolov8").pictures();
    files.remove("model.onnx");
    let shown = |files: Files| {
        let judges = judges_of(files).unwrap();
        let shown = judges.all().unwrap()[0].shows(&pictures).unwrap().unwrap();
        (judges.parameters, shown)
    };
    // Beside the weights the export holds constants of its graph.
    let (parameters, from_safetensors) = shown(files);
    let (with_constants, from_onnx) = shown(nudity_files());
    assert_eq!(from_safetensors, from_onnx);
    assert!((parameters..=parameters + 8).contains(&with_constants));
}

#[test]
fn messages_name_the_judges_own_path() {
    let files = MemoryModel::new([("a.txt", Vec::new())]);
    let view = JudgeFolder::new(&files);
    assert_eq!((view.location(), view.component()), (".", "memory"));
    assert_eq!(view.names(), ["memory/a.txt"]);
    assert!(view.open("memory/a.txt").is_ok() && view.open("memory/b.txt").is_err());
}
