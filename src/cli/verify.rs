//! `keystep verify`: whether a result is what its maker signed.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use clap::Args;
use serde_json::{Value, json};
use url::Url;

use super::{
    CliError,
    arguments::QuietArguments,
    progress::{PhaseProgress, ProgressDisplay, Unit},
    session::print_result,
};
use crate::{
    provenance::{LONGEST_KEY_FILE, PolicyVerdict, PublicKey},
    publishing::{MANIFEST, ResultPlace, Verification, verify_result},
    report::{ReportError, to_json},
    storage::{StorageSettings, Storages},
};

/// Checks that a result is what its maker signed: every file, none missing and none on top.
///
/// Reads every file of a published result, or of the folder that one was downloaded to or that
/// `unlearn --local --signing-key` wrote, and holds it against the signed statements
/// (provenance.intoto.jsonl), the manifest against these, and the pipeline against its model.sig.
/// Of a local folder, nothing but that folder is read.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 it is what was signed, 3 it is not, and the error names the file, 1 it could not be \
read, 2 wrong use.

Buckets are reached with the credentials of the environment (AWS_*, AZURE_*, GOOGLE_*).

Examples:
  keystep verify no-cat --public-key signer.pem
  keystep verify s3://erased/keystep/checkpoints/0192 --public-key signer.pem --json
  keystep verify s3://erased/checkpoints/0192/manifest.json --public-key signer.pem \\
      --endpoint https://minio.internal:9000")]
pub(super) struct VerifyArguments {
    /// A folder, or the URL of a job's folder or of its manifest (file://, s3://, gs://, az://).
    #[arg(value_name = "URL|DIR")]
    place: String,
    /// PEM file with the public key of whom you believe.
    #[arg(long, value_name = "FILE")]
    public_key: PathBuf,
    /// Address of an S3 service other than Amazon's, or of Azurite; may be plain http.
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Region of the bucket [default: what the environment says].
    #[arg(long, value_name = "NAME")]
    region: Option<String>,
    /// Print JSON: what was found, or {"verified": false} with the error.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    quiet: QuietArguments,
}

pub(super) fn run(arguments: &VerifyArguments) -> Result<(), CliError> {
    let key = read_public_key(&arguments.public_key)?;
    let place = place(arguments)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(CliError::Runtime)?;
    let display = Mutex::new(ProgressDisplay::new(arguments.quiet.quiet));
    let show = |done, total| {
        let phase =
            PhaseProgress { phase: "verifying".into(), done, total, unit: Unit::Bytes, loss: None };
        display.lock().unwrap_or_else(PoisonError::into_inner).show(phase);
    };
    let verified = runtime.block_on(verify_result(&place, &key, &show));
    display.into_inner().unwrap_or_else(PoisonError::into_inner).finish();
    match verified {
        Ok(verification) if arguments.json => print_json(&as_json(&place, &key, &verification)?),
        Ok(verification) => {
            print_result(&as_text(&place, &key, &verification));
            Ok(())
        }
        Err(source) => {
            if arguments.json && source.is_untrue() {
                let place = place.to_string();
                let refused = json!({
                    "verified": false,
                    "place": place,
                    "public_key": fingerprint(&key),
                    "error": source.to_string(),
                });
                print_json(&refused)?;
            }
            Err(CliError::Verify { place: place.to_string(), source })
        }
    }
}

/// The key of a file.
fn read_public_key(path: &Path) -> Result<PublicKey, CliError> {
    let mut file = Vec::new();
    File::open(path)
        .and_then(|opened| opened.take(LONGEST_KEY_FILE).read_to_end(&mut file))
        .map_err(|source| CliError::File { path: path.to_owned(), source })?;
    PublicKey::from_pem(&file).map_err(|source| CliError::Key { path: path.to_owned(), source })
}

/// Where the result lies: local folders are read as such, also by URL.
fn place(arguments: &VerifyArguments) -> Result<ResultPlace, CliError> {
    let text = arguments.place.trim_end_matches('/');
    let text = match text.strip_suffix(MANIFEST) {
        Some("") => ".",
        Some(folder) if folder.ends_with('/') => folder.trim_end_matches('/'),
        _ => text,
    };
    if !arguments.place.contains("://") {
        let path = if text.is_empty() { "/" } else { text };
        return Ok(ResultPlace::Folder(PathBuf::from(path)));
    }
    if text.starts_with("file:") {
        let path = Url::parse(text).ok().and_then(|url| url.to_file_path().ok());
        let no_path = || CliError::Usage(format!("{text} is no folder of this machine"));
        return Ok(ResultPlace::Folder(path.ok_or_else(no_path)?));
    }
    let endpoint = arguments.endpoint.clone();
    let settings = StorageSettings {
        // Plain http is what was written.
        allow_http: endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://")),
        endpoint,
        region: arguments.region.clone(),
        ..StorageSettings::default()
    };
    let opened = Storages::new(settings).open(text);
    Ok(ResultPlace::Objects(opened.map_err(|error| CliError::Usage(error.to_string()))?))
}

fn fingerprint(key: &PublicKey) -> Value {
    json!({ "algorithm": key.algorithm().to_string(), "sha256": key.fingerprint() })
}

fn print_json(value: &Value) -> Result<(), CliError> {
    print_result(&String::from_utf8_lossy(&to_json(value)?));
    Ok(())
}

fn as_json(
    place: &ResultPlace,
    key: &PublicKey,
    verification: &Verification,
) -> Result<Value, CliError> {
    let found = serde_json::to_value(verification);
    let mut found = found.map_err(ReportError::Json)?;
    found["verified"] = true.into();
    found["place"] = place.to_string().into();
    found["public_key"] = fingerprint(key);
    Ok(found)
}

fn as_text(place: &ResultPlace, key: &PublicKey, verification: &Verification) -> String {
    let Verification { files, bytes, job, verified } = verification;
    let mut lines = vec![format!("{place} is what was signed: {files} files, {bytes} bytes")];
    lines.push(format!("signed with  {} key {}", key.algorithm(), key.fingerprint()));
    if let Some(builder) = &verified.builder_id {
        lines.push(format!("by           {builder}, as it says of itself"));
    }
    if let Some(job) = job {
        lines.push(format!("job          {job}"));
    }
    lines.push(format!("statements   {}", verified.predicate_types.join(", ")));
    let model = if verified.model_signature { "holds" } else { "there is none" };
    lines.push(format!("model.sig    {model}"));
    lines.push(match &verified.policy {
        None => "policy       none was asked".to_owned(),
        Some(PolicyVerdict { sha256, result, failed, warned }) => {
            let mut line = format!("policy       {} by sha256:{sha256}", result.name());
            for (what, rules) in [("failed or undecided", failed), ("warned", warned)] {
                if !rules.is_empty() {
                    line = format!("{line}; {what}: {}", rules.join(", "));
                }
            }
            line
        }
    });
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(place: &str) -> VerifyArguments {
        VerifyArguments {
            place: place.to_owned(),
            public_key: PathBuf::new(),
            endpoint: None,
            region: None,
            json: false,
            quiet: QuietArguments { quiet: true },
        }
    }

    #[test]
    fn a_place_is_a_folder_a_url_or_a_manifest() {
        for (text, wanted) in [
            ("a/b", "a/b"),
            ("a/b/", "a/b"),
            ("a/b/manifest.json", "a/b"),
            ("manifest.json", "."),
            ("/manifest.json", "/"),
            ("a/no-manifest.json", "a/no-manifest.json"),
            ("/", "/"),
            ("file:///a%20b/c/", "/a b/c"),
            ("file:///a/manifest.json", "/a"),
        ] {
            let found = place(&arguments(text)).unwrap();
            assert!(matches!(found, ResultPlace::Folder(_)), "{text}");
            assert_eq!(found.to_string(), wanted, "{text}");
        }
        let found = place(&arguments("memory://verified/a/manifest.json")).unwrap();
        assert_eq!(found.to_string(), "memory://verified/a");
        for wrong in ["http://host/a", "s3://", "file://host/a"] {
            let error = place(&arguments(wrong)).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{wrong}: {error}");
        }
    }
}
