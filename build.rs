//! Generates the wire types and their descriptor set from `proto/`, and for the CUDA build the PTX of
//! our kernels; nothing else.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Messages that the client prints as JSON, and which of their fields take a form from `as_json` in
/// `src/proto.rs`; a field with the form "" is left out.
const PRINTED: [(&str, &[(&str, &str)]); 28] = [
    ("AttackResult", &[]),
    ("Compared", &[]),
    ("CurvePoint", &[]),
    ("Distances", &[]),
    ("Estimate", &[]),
    ("EvaluateErasureMetadata", &METADATA),
    ("EvaluateErasureResponse", &[]),
    ("Figures", &[]),
    ("LogSnrWindow", &[]),
    ("Measures", &[]),
    ("Model", &[("kind", "model_kind"), ("create_time", "text")]),
    ("Named", &[]),
    ("PairedDrop", &[]),
    ("PictureDistance", &[]),
    ("Plan", &[("estimated_duration", "text")]),
    ("Progress", &[("phase", "work_phase")]),
    ("PublishedFile", &[]),
    ("ScorePair", &[]),
    ("ScoreSummary", &[]),
    ("ScoreTimestepsResponse", &[("update", "")]),
    ("Share", &[]),
    ("Spread", &[]),
    ("SuiteResult", &[("expects", "suite_expectation")]),
    ("UnlearnConceptMetadata", &METADATA),
    ("UnlearnConceptResponse", &[]),
    ("Verdict", &[("sampler", "sampler")]),
    ("Vocabulary", &[]),
    ("WordRow", &[("domain", "domain")]),
];
/// The fields of both kinds of metadata.
const METADATA: [(&str, &str); 6] = [
    ("state", "job_state"),
    ("create_time", "text"),
    ("update_time", "text"),
    ("expire_time", "text"),
    ("deadline", "text"),
    ("result_expire_time", "text"),
];

const FILES: [&str; 6] = [
    "keystep/v1/evaluation.proto",
    "keystep/v1/operation.proto",
    "keystep/v1/suite.proto",
    "keystep/v1/unlearning_service.proto",
    "google/longrunning/operations.proto",
    // Read by nothing here: reflection hands it to clients that show an error's details.
    "google/rpc/error_details.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    // The bare library speaks no wire.
    if env::var_os("CARGO_FEATURE_CLIENT").is_none() {
        return Ok(());
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        compile_kernels(&out)?;
    }
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true);
    for file in FILES {
        compiler.open_file(file)?;
    }
    println!("cargo::rerun-if-changed=proto");
    fs::write(out.join("descriptor.bin"), compiler.encode_file_descriptor_set())?;
    // The indented examples in Google's comments are no Rust, and would be run as doctests.
    let mut config = tonic_prost_build::Config::new();
    config.disable_comments([".google"]);
    config.enable_type_names().type_name_domain(["."], "type.googleapis.com");
    for (message, fields) in PRINTED {
        let message = format!(".keystep.v1.{message}");
        config.type_attribute(&message, "#[derive(serde::Serialize)]");
        for (field, form) in fields {
            let attribute = match *form {
                "" => "#[serde(skip)]".to_owned(),
                form => format!("#[serde(serialize_with = \"crate::proto::as_json::{form}\")]"),
            };
            config.field_attribute(format!("{message}.{field}"), attribute);
        }
    }
    tonic_prost_build::configure()
        .build_server(env::var_os("CARGO_FEATURE_SERVER").is_some())
        .extern_path(".google.rpc", "::tonic_types::pb")
        // Maps in one order, so that equal requests have equal bytes.
        .btree_map(".")
        .bytes(".keystep.v1.GenerateResponse")
        .include_file("mod.rs")
        .compile_fds_with_config(compiler.file_descriptor_set(), config)?;
    Ok(())
}

/// By the nvcc and for the compute capability that candle-kernels is compiled with
/// (`deploy/cuda/environment` sets both).
fn compile_kernels(out: &Path) -> Result<(), Box<dyn Error>> {
    const KERNELS: &str = "src/engine/ops/cuda/kernels.cu";
    let setting = |name: &str, default: &str| {
        println!("cargo::rerun-if-env-changed={name}");
        env::var(name).unwrap_or_else(|_| default.to_owned())
    };
    println!("cargo::rerun-if-changed={KERNELS}");
    let nvcc = setting("NVCC", "nvcc");
    let capability = setting("CUDA_COMPUTE_CAP", "80");
    let done = Command::new(&nvcc)
        .args(["--ptx", "-O3", "-std=c++17"])
        .arg(format!("-arch=compute_{capability}"))
        .arg("-o")
        .arg(out.join("kernels.ptx"))
        .arg(KERNELS)
        .status()
        .map_err(|error| format!("cannot run {nvcc}: {error}; build with deploy/cuda/build"))?;
    if done.success() { Ok(()) } else { Err(format!("{nvcc} on {KERNELS}: {done}").into()) }
}
