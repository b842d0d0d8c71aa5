//! Signed results and the verifiers of others: `model_signing`, securesystemslib, `OpenSSL`, `CycloneDX`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};

use super::{
    BUCKET, Bucket, file_url, files_below, local, manifests_below, output,
    processes::{Daemon, Server, Setup},
    short_work, state, submit,
    tools::{SCRIPTS, python, signing_tools, skip, tail},
};

/// A key pair as `OpenSSL` makes it, in PKCS#8.
fn key_pair(folder: &Path) -> Option<(PathBuf, PathBuf)> {
    let (key, public) = (folder.join("key.pem"), folder.join("public.pem"));
    let made = Command::new("openssl")
        .args(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out"])
        .arg(&key)
        .output();
    let Ok(made) = made else {
        skip("there is no openssl");
        return None;
    };
    assert!(made.status.success(), "{}", tail(&made));
    output(
        Command::new("openssl").args(["pkey", "-pubout", "-in"]).arg(&key).arg("-out").arg(&public),
        None,
    );
    Some((key, public))
}

fn signed(tools: &Path, verb: &str, arguments: &[&Path]) -> Value {
    let mut command = local(tools.join("python"));
    command.arg(Path::new(SCRIPTS).join("signed.py")).arg(verb).args(arguments);
    serde_json::from_str(&output(&mut command, None)).unwrap()
}

/// The stock verifier on a pipeline folder.
fn model_signing(tools: &Path, pipeline: &Path, public: &Path) -> Output {
    let mut command = local(tools.join("model_signing"));
    command.args(["verify", "key", "--signature"]).arg(pipeline.join("model.sig"));
    command.arg("--public_key").arg(public).arg(pipeline).output().unwrap()
}

fn keystep_verify(place: &str, public: &Path) -> Command {
    let mut command = local(env!("CARGO_BIN_EXE_keystep"));
    command.args(["verify", place, "--json", "--public-key"]).arg(public);
    command
}

#[test]
fn a_signed_result_is_believed_by_the_verifiers_of_others() {
    let (Some(python), Some(tools)) = (python(), signing_tools()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let Some((key, public)) = key_pair(folder.path()) else { return };
    let published = folder.path().join("published");
    let url = file_url(&published);
    let setup = Setup::new(folder.path(), &url)
        .set("KEYSTEP__SIGNING__KEY_FILE", &key.display())
        .set("KEYSTEP__SIGNING__BUILDER_ID", &"https://models.example/interop");
    let daemon = Daemon::start(&setup);
    let formats = ["OUTPUT_FORMAT_PIPELINE", "OUTPUT_FORMAT_DELTA", "OUTPUT_FORMAT_UNET"];
    let operation = submit(python, &daemon, &short_work("emoji-canvas", &formats), &[]);
    assert_eq!(state(&operation), "JOB_STATE_SUCCEEDED", "{operation:#}");

    daemon.stop();

    let manifests = manifests_below(&published);
    assert_eq!(manifests.len(), 1);
    for manifest in &manifests {
        let verified = output(&mut keystep_verify(manifest.to_str().unwrap(), &public), None);
        let verified: Value = serde_json::from_str(&verified).unwrap();
        assert_eq!(verified["verified"], true, "{verified:#}");
        assert_eq!(verified["builder_id"], "https://models.example/interop");
        let content = content_of(manifest);
        let scratch = tempfile::tempdir().unwrap();
        let seen = signed(tools, "statements", &[&content, &public, scratch.path()]);
        let predicates = seen["predicates"].as_array().unwrap();
        assert_eq!(predicates[0], "https://slsa.dev/provenance/v1");
        for number in 0..predicates.len() {
            let file = |kind: &str| scratch.path().join(format!("{number}.{kind}"));
            let mut openssl = Command::new("openssl");
            openssl.args(["dgst", "-sha256", "-verify"]).arg(&public).arg("-signature");
            let said = output(openssl.arg(file("sig")).arg(file("pae")), None);
            assert!(said.contains("Verified OK"), "{said}");
        }
        let bill = signed(tools, "bill", &[&content]);
        assert_eq!(
            (&bill["version"], &bill["type"]),
            (&json!("1.6"), &json!("machine-learning-model"))
        );
    }
    let whole = &manifests[0];
    let pipeline = content_of(whole).join("pipeline");
    let believed = model_signing(tools, &pipeline, &public);
    assert!(believed.status.success(), "{}", tail(&believed));
    let path = pipeline.join("unet/config.json");
    let config = fs::read(&path).unwrap();
    fs::write(&path, [config.as_slice(), b" "].concat()).unwrap();
    let refused = model_signing(tools, &pipeline, &public);
    assert!(!refused.status.success(), "{}", tail(&refused));
    assert!(tail(&refused).contains("unet/config.json"), "{}", tail(&refused));
    let refused = keystep_verify(&file_url(whole), &public).output().unwrap();
    assert_eq!(refused.status.code(), Some(3), "{}", tail(&refused));
    assert!(tail(&refused).contains("pipeline/unet/config.json was changed"), "{}", tail(&refused));
    fs::write(&path, config).unwrap();

    // The same from a bucket.
    let moto = Server::moto(python, folder.path());
    let bucket = Bucket { python, kind: "s3", endpoint: moto.url() };
    bucket.run(&["make", BUCKET]);
    bucket.run(&["upload", BUCKET, "signed", published.to_str().unwrap()]);
    let below = whole.parent().unwrap().strip_prefix(&published).unwrap();
    let mut afar = keystep_verify(&format!("s3://{BUCKET}/signed/{}", below.display()), &public);
    afar.args(["--endpoint", &moto.url(), "--region", "us-east-1"])
        .env("AWS_ACCESS_KEY_ID", "interop")
        .env("AWS_SECRET_ACCESS_KEY", "interop");
    let verified: Value = serde_json::from_str(&output(&mut afar, None)).unwrap();
    assert_eq!(verified["verified"], true, "{verified:#}");
    assert_eq!(verified["files"].as_u64().unwrap() as usize, files_below(&content_of(whole)).len());
}

/// The folder of the files that a manifest lists.
fn content_of(manifest: &Path) -> PathBuf {
    let told: Value = serde_json::from_slice(&fs::read(manifest).unwrap()).unwrap();
    let name = told["files"][0]["name"].as_str().unwrap();
    manifest.with_file_name(name.split_once('/').unwrap().0)
}
