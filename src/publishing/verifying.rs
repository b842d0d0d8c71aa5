//! Whether a published result, or the folder of one, is what its maker signed. Trusts nothing that lies
//! there but what the key's signatures cover.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicU64, Ordering},
};

use serde::Serialize;
use serde_json::Value;

use super::{MANIFEST, Manifest, ManifestError, ResultPlace, VerifyError};
use crate::{
    artifacts::digest::digest_bytes,
    outcome::{
        ConceptVerdict, PublishedFile,
        result_layout::{MODEL_SIGNATURE, STATEMENTS},
    },
    provenance::{FoundResult, LONGEST_ENVELOPE, PublicKey, Verified, is_plain_name, verify},
};

/// A manifest is small: what is larger is something else.
const LONGEST_MANIFEST: u64 = 16 << 20;
/// The files that sign the others, and are no subject of a statement.
const SIGNING: [&str; 2] = [STATEMENTS, MODEL_SIGNATURE];

/// Where a manifest and what was signed must say the same: members of the manifest, and JSON pointers
/// into the statement of how it was made.
const SAID_TWICE: [(&str, &str); 11] = [
    ("/job", "/runDetails/metadata/invocationId"),
    ("/base_model/name", "/buildDefinition/resolvedDependencies/0/name"),
    ("/base_model/digest", "/buildDefinition/resolvedDependencies/0/digest/sha256"),
    ("/ancestors", "/buildDefinition/resolvedDependencies/0/annotations/ancestors"),
    ("/spec", "/buildDefinition/externalParameters/spec"),
    ("/formats", "/buildDefinition/externalParameters/formats"),
    ("/seeds", "/buildDefinition/internalParameters/seeds"),
    ("/window", "/buildDefinition/internalParameters/window"),
    ("/key_steps", "/buildDefinition/internalParameters/key_steps"),
    ("/updates", "/buildDefinition/internalParameters/updates"),
    ("/left_out", "/buildDefinition/internalParameters/left_out"),
];

/// A result that is what was signed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verification {
    /// Files that were read and compared.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// The job that the manifest names; none where a folder without a manifest was checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// What the statements say.
    #[serde(flatten)]
    pub verified: Verified,
}

/// Checks a result by the public key of its maker: reads its manifest where it has one, digests every
/// file, and holds them against what was signed and the manifest against that. `progress` receives the
/// bytes that were read and the bytes in all.
pub async fn verify_result(
    place: &ResultPlace,
    key: &PublicKey,
    progress: &(dyn Fn(u64, u64) + Send + Sync),
) -> Result<Verification, VerifyError> {
    let manifest = place.read(MANIFEST, LONGEST_MANIFEST).await?;
    let manifest = manifest.map(|bytes| Manifest::from_json(&bytes)).transpose()?;
    let folder = match &manifest {
        Some(manifest) => place.within(content_folder(manifest)?)?,
        None => place.clone(),
    };
    let listed = folder.list().await?;
    if listed.is_empty() {
        return Err(VerifyError::Nothing { place: folder.to_string() });
    }
    let bytes = listed.iter().map(|(_, size)| size).sum();
    let done = AtomicU64::new(0);
    let mut digests = BTreeMap::new();
    for (name, size) in &listed {
        let before = done.fetch_add(*size, Ordering::Relaxed);
        let report = |read: u64| progress(before + read, bytes);
        digests.insert(name.clone(), folder.digest(name, &report).await?);
    }
    let signing = Signing::read(&folder, &digests).await?;
    let files: BTreeMap<_, _> = (digests.iter())
        .filter(|(name, _)| !SIGNING.contains(&name.as_str()))
        .map(|(name, digest)| (name.clone(), digest.clone()))
        .collect();
    let found = FoundResult {
        files: &files,
        statements: &signing.statements,
        model_signature: signing.model.as_deref(),
    };
    let verified = verify(found, key)?;
    if let Some(manifest) = &manifest {
        check_files(manifest, &listed, &digests)?;
        check_facts(manifest, &verified)?;
    }
    let job = manifest.map(|manifest| manifest.job.to_string());
    Ok(Verification { files: listed.len(), bytes, job, verified })
}

/// The files that sign the others.
struct Signing {
    statements: Vec<u8>,
    model: Option<Vec<u8>>,
}

impl Signing {
    /// Reads them; those that changed since they were digested are refused.
    async fn read(
        folder: &ResultPlace,
        digests: &BTreeMap<String, String>,
    ) -> Result<Self, VerifyError> {
        let mut read = Vec::new();
        for name in SIGNING {
            let Some(digest) = digests.get(name) else {
                read.push(None);
                continue;
            };
            let bytes = folder.read(name, LONGEST_ENVELOPE as u64).await?;
            let bytes = bytes.filter(|bytes| digest_bytes(bytes) == *digest);
            let bytes = bytes.ok_or_else(|| VerifyError::Vanished { name: name.to_owned() })?;
            read.push(Some(bytes));
        }
        let model = read.pop().flatten();
        Ok(Self { statements: read.pop().flatten().unwrap_or_default(), model })
    }
}

/// The one folder that all files of a manifest lie in.
fn content_folder(manifest: &Manifest) -> Result<&str, VerifyError> {
    let mut folders = BTreeSet::new();
    for PublishedFile { name, .. } in &manifest.files {
        match name.split_once('/') {
            Some((folder, rest)) if is_plain_name(folder) && is_plain_name(rest) => {
                folders.insert(folder);
            }
            _ => return Err(VerifyError::BadName { name: name.clone() }),
        }
    }
    match (folders.first(), folders.len()) {
        (Some(folder), 1) => Ok(folder),
        (_, count) => {
            let what = format!("its files lie in {count} folders, and those of a result in one");
            Err(VerifyError::SaysOtherwise { what })
        }
    }
}

/// Whether the manifest lists what is there, all of it and nothing else.
fn check_files(
    manifest: &Manifest,
    listed: &[(String, u64)],
    digests: &BTreeMap<String, String>,
) -> Result<(), VerifyError> {
    let otherwise = |what: String| Err(VerifyError::SaysOtherwise { what });
    let mut sizes: BTreeMap<&str, u64> =
        listed.iter().map(|(name, size)| (name.as_str(), *size)).collect();
    for PublishedFile { name, size, sha256, .. } in &manifest.files {
        let name = name.split_once('/').map_or(name.as_str(), |(_, rest)| rest);
        let Some(found) = sizes.remove(name) else {
            return otherwise(format!("it lists {name}, which is not there or listed twice"));
        };
        let digest = digests.get(name).map(String::as_str).unwrap_or_default();
        if found != *size || !digest.eq_ignore_ascii_case(sha256) {
            return otherwise(format!(
                "{name} has {size} bytes with the SHA-256 {sha256} there, and {found} bytes with \
                 {digest} here"
            ));
        }
    }
    match sizes.keys().next() {
        Some(name) => otherwise(format!("it does not list {name}")),
        None => Ok(()),
    }
}

/// Whether the manifest tells the same story as what was signed.
fn check_facts(manifest: &Manifest, verified: &Verified) -> Result<(), VerifyError> {
    let otherwise = |what: &str| Err(VerifyError::SaysOtherwise { what: what.to_owned() });
    let told = serde_json::to_value(manifest).map_err(ManifestError::from)?;
    for (member, pointer) in SAID_TWICE {
        if !is_same(told.pointer(member), verified.build.pointer(pointer)) {
            return otherwise(&format!("its {}", member.trim_start_matches('/').replace('/', ".")));
        }
    }
    let signed =
        verified.evaluation.get("verdicts").cloned().unwrap_or_else(|| Value::Array(vec![]));
    let signed: Result<Vec<ConceptVerdict>, _> = serde_json::from_value(signed);
    let same = signed.is_ok_and(|signed| {
        // As JSON: what is not finite equals itself there.
        serde_json::to_value(signed).ok() == serde_json::to_value(&manifest.verdicts).ok()
    });
    if same { Ok(()) } else { otherwise("its verdicts") }
}

/// Whether two members are equal; one that is absent is as good as an empty one.
fn is_same(left: Option<&Value>, right: Option<&Value>) -> bool {
    let filled = |value: Option<&Value>| {
        value
            .filter(|value| !(value.is_null() || value.as_array().is_some_and(Vec::is_empty)))
            .cloned()
    };
    filled(left) == filled(right)
}
