//! Keys as OpenSSL made them, for the tests alone: they sign nothing that matters.

use std::collections::BTreeMap;

use serde_json::json;

use super::{Facts, Signer, SigningKey, Task, sealing::digest_named};
use crate::outcome::{
    Ancestor, ConceptVerdict, DeviceKind, EvaluationResults, Figures, FinishedResult, Measures,
    TrainingFigures, Verdict,
};

/// PKCS#8: `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`.
pub(super) const P256: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgtd2s315CXwse97S6
Mt0wmqktM5Uwg4OHbnwcoazvK6GhRANCAASTHsM5c7XSxcCE2+ET5BhzaSUxRRQn
WgQpX6b0+7NPMgesrrne1S4oeVvMe8wKmUpYBaoEsL8LiBypqp92TYWi
-----END PRIVATE KEY-----
";
/// The same key in SEC1: `openssl ec`.
pub(super) const P256_SEC1: &str = "\
-----BEGIN EC PRIVATE KEY-----
MHcCAQEEILXdrN9eQl8LHve0ujLdMJqpLTOVMIODh258HKGs7yuhoAoGCCqGSM49
AwEHoUQDQgAEkx7DOXO10sXAhNvhE+QYc2klMUUUJ1oEKV+m9PuzTzIHrK653tUu
KHlbzHvMCplKWAWqBLC/C4gcqaqfdk2Fog==
-----END EC PRIVATE KEY-----
";
/// Its public key.
pub(super) const P256_PUBLIC: &str = "\
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEkx7DOXO10sXAhNvhE+QYc2klMUUU
J1oEKV+m9PuzTzIHrK653tUuKHlbzHvMCplKWAWqBLC/C4gcqaqfdk2Fog==
-----END PUBLIC KEY-----
";
/// Another, as `openssl ecparam -name prime256v1 -genkey` writes it.
pub(super) const P256_WITH_PARAMETERS: &str = "\
-----BEGIN EC PARAMETERS-----
BggqhkjOPQMBBw==
-----END EC PARAMETERS-----
-----BEGIN EC PRIVATE KEY-----
MHcCAQEEINw3fsNl7bSF6D+ndZlwdK+kmUv0jUeJH8d8+xBjVyeOoAoGCCqGSM49
AwEHoUQDQgAE0jDvzGRibL/58gER/BKKg5K/qZGkTjlWGM/QNBmwII7FHSx/iurq
JeemOuJjuEfeFV9dvSixC3FB0Q4qbp/NOA==
-----END EC PRIVATE KEY-----
";
/// One that signed nothing else.
pub(super) const OTHER: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgDlKRNRyXeTVGeHb6
l6iAa0FzgR6QTcDFy6v5k7H/BuShRANCAATTa7GNOwzUGSTTPVHq9cpvwlY4NZed
SDu6Xjy9JgZ0ECT9vSQlAi1weNsvNDsZmrbEwTcBZGAaEcXNQwwoL8Bi
-----END PRIVATE KEY-----
";
/// PKCS#8 version 1: `openssl genpkey -algorithm ED25519`.
pub(super) const ED25519: &str = "\
-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIMHVkO0V8nB0ecT3YipaXbHeuvaiHcCiDkhz01BnAGQM
-----END PRIVATE KEY-----
";
/// The same key in version 2, which has the public key too.
pub(super) const ED25519_V2: &str = "\
-----BEGIN PRIVATE KEY-----
MFECAQEwBQYDK2VwBCIEIMHVkO0V8nB0ecT3YipaXbHeuvaiHcCiDkhz01BnAGQM
gSEANsMKoE6amZumc+S4eKctctUhxNIp7kJ+MrwBrnCogVQ=
-----END PRIVATE KEY-----
";
/// Its public key.
pub(super) const ED25519_PUBLIC: &str = "\
-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEANsMKoE6amZumc+S4eKctctUhxNIp7kJ+MrwBrnCogVQ=
-----END PUBLIC KEY-----
";
/// A curve that is not signed with.
pub(super) const P384: &str = "\
-----BEGIN PRIVATE KEY-----
MIG2AgEAMBAGByqGSM49AgEGBSuBBAAiBIGeMIGbAgEBBDAg91LTsIIYNlStIDNj
/zUJdPotiw5P8KpVvTVsrMgPFUoDfkLju2NnYGq1N3JLG5KhZANiAARqv7AAevuh
qNVoHkz8r1uC8RCA6px7LYxxUYORBIxqzJa1Q+5aVB3i+5Eb1V2j8K2zk78csLVU
go/ErfT8Lfry/GHiZ9fT4zHIfjvO8BLhWBRz5LUALMMDkunl+BA9cO0=
-----END PRIVATE KEY-----
";
/// The same in SEC1.
pub(super) const P384_SEC1: &str = "\
-----BEGIN EC PRIVATE KEY-----
MIGkAgEBBDAg91LTsIIYNlStIDNj/zUJdPotiw5P8KpVvTVsrMgPFUoDfkLju2Nn
YGq1N3JLG5KgBwYFK4EEACKhZANiAARqv7AAevuhqNVoHkz8r1uC8RCA6px7LYxx
UYORBIxqzJa1Q+5aVB3i+5Eb1V2j8K2zk78csLVUgo/ErfT8Lfry/GHiZ9fT4zHI
fjvO8BLhWBRz5LUALMMDkunl+BA9cO0=
-----END EC PRIVATE KEY-----
";
/// A key that signs nothing.
pub(super) const X25519: &str = "\
-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VuBCIEIFA9W7H5vzmwi7slQYV9Tf9T5UnnXhjFS/WNFcUKOsZ2
-----END PRIVATE KEY-----
";

pub(super) fn p256_key() -> SigningKey {
    SigningKey::from_pem(P256.as_bytes()).unwrap()
}

pub(super) fn other_key() -> SigningKey {
    SigningKey::from_pem(OTHER.as_bytes()).unwrap()
}

pub(super) fn ed25519_key() -> SigningKey {
    SigningKey::from_pem(ED25519.as_bytes()).unwrap()
}

pub(super) fn signer(key: SigningKey) -> Signer {
    Signer::new(key, "https://models.example/keystep").unwrap()
}

/// The files of an erasure, by name.
pub(super) fn contents() -> BTreeMap<String, Vec<u8>> {
    let names = [
        "README.md",
        "delta.safetensors",
        "pipeline/model_index.json",
        "pipeline/unet-b/config.json",
        "pipeline/unet/config.json",
        "pipeline/unet/diffusion_pytorch_model.safetensors",
        "report.json",
        "scores.json",
    ];
    names.into_iter().map(|name| (name.to_owned(), name.repeat(3).into_bytes())).collect()
}

/// 32 pictures, of which the edited model's show the cat once.
fn counted() -> Measures {
    let mut measures = Measures::default();
    for at in 0..32 {
        measures.ua.add(false, at > 0);
    }
    measures
}

/// An erasure of a cat from a model that a dog was erased from.
pub(super) fn result(contents: &BTreeMap<String, Vec<u8>>) -> FinishedResult {
    let figures = |ua| Figures { ua, ira: 0.95, cra: f64::NAN };
    FinishedResult {
        work_digest: "3c".repeat(32),
        files: contents.iter().map(|(name, bytes)| digest_named(name, bytes)).collect(),
        verdicts: vec![ConceptVerdict {
            concept: "cat".to_owned(),
            verdict: Verdict {
                judge: "cnn".to_owned(),
                sampler: crate::spec::SamplerKind::Ddim,
                edited: figures(0.97),
                base: figures(0.02),
                measures: Some(counted()),
            },
        }],
        key_steps: vec![crate::spec::StepIndex(2)],
        window: None,
        updates: 40,
        unet_evaluations: 1_234,
        training: None::<TrainingFigures>,
        seeds: BTreeMap::from([("unlearn".to_owned(), 7)]),
        device: DeviceKind::Cpu,
        left_out: Vec::new(),
        evaluation: EvaluationResults::default(),
        ancestors: vec![
            Ancestor {
                model: "checkpoints/1".to_owned(),
                digest: "1a".repeat(32),
                concepts: vec!["dog".to_owned()],
            },
            Ancestor {
                model: "emoji-canvas".to_owned(),
                digest: "2b".repeat(32),
                concepts: Vec::new(),
            },
        ],
    }
}

pub(super) fn facts(result: &FinishedResult) -> Facts<'_> {
    let parameters = json!({
        "base_model": "checkpoints/1",
        "spec": { "concepts": [{ "text": "cat", "kind": "object" }] },
        "formats": ["pipeline", "delta"],
    });
    Facts {
        task: Task::Erasure,
        parameters: parameters.as_object().cloned().unwrap(),
        base_model: "checkpoints/1",
        base_digest: "1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a",
        license: Some("apache-2.0"),
        inputs: vec![("scores", "cited".to_owned(), "4d".repeat(32))],
        result,
        test: None,
        invocation: "00000000-0000-0000-0000-000000000001",
        started_on: Some("2026-03-01T12:00:00Z".to_owned()),
        finished_on: None,
    }
}
