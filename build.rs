//! Generates the wire types and their descriptor set from `proto/`; nothing else.

use std::{env, error::Error, fs, path::PathBuf};

const FILES: [&str; 4] = [
    "keystep/v1/operation.proto",
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
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true);
    for file in FILES {
        compiler.open_file(file)?;
    }
    println!("cargo::rerun-if-changed=proto");
    fs::write(out.join("descriptor.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .build_server(env::var_os("CARGO_FEATURE_SERVER").is_some())
        .extern_path(".google.rpc", "::tonic_types::pb")
        // Maps in one order, so that equal requests have equal bytes.
        .btree_map(".")
        .bytes(".keystep.v1.GenerateResponse")
        .include_file("mod.rs")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
