//! A `CycloneDX` 1.6 bill of materials of an erased model: what it is, what it was made of, its files and
//! its figures.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::Facts;
use crate::outcome::{
    Compared, ConceptVerdict, Confidence, FileDigest, Interval, Measures,
    result_layout::{DELTA, PIPELINE},
};

/// The weights that the model is known by, the first of which a result holds.
const WEIGHTS: [&str; 3] = [
    "pipeline/unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    DELTA,
];

/// A bill of materials.
#[derive(Debug, Clone, PartialEq)]
pub struct BillOfMaterials(Value);

impl BillOfMaterials {
    /// Of an erasure's result. It has no time: equal results have equal bills.
    pub fn new(facts: &Facts<'_>) -> Self {
        let files = &facts.result.files;
        let concepts = erased(&facts.parameters);
        let without = if concepts.is_empty() { "something" } else { &concepts.join(", ") };
        let mut component = json!({
            "type": "machine-learning-model",
            "bom-ref": "model",
            "name": format!("{} without {without}", facts.base_model),
            "version": facts.result.work_digest,
            "description": format!(
                "{}, fine-tuned by Keystep so that it does not draw {without} any more",
                facts.base_model
            ),
            "pedigree": { "ancestors": ancestors(facts) },
            "modelCard": model_card(facts),
            "properties": concepts.iter().map(|concept| property("erased", concept)).collect::<Vec<_>>(),
        });
        if facts.result.work_digest.is_empty() {
            component["version"] = env!("CARGO_PKG_VERSION").into();
        }
        let weights = WEIGHTS.iter().find_map(|name| files.iter().find(|file| file.name == *name));
        if let Some(weights) = weights {
            component["hashes"] = hashes(&weights.sha256);
        }
        if let Some(license) = facts.license {
            // By name: the hub's identifiers are not SPDX's.
            component["licenses"] = json!([{ "license": { "name": license } }]);
        }
        Self(json!({
            "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "serialNumber": serial_number(facts),
            "version": 1,
            "metadata": {
                "tools": { "components": [{
                    "type": "application",
                    "name": "keystep",
                    "version": env!("CARGO_PKG_VERSION"),
                }] },
                "component": component,
            },
            "components": files.iter().map(file_component).collect::<Vec<_>>(),
        }))
    }

    /// As it is written.
    pub fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(&self.0)?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

fn file_component(file: &FileDigest) -> Value {
    json!({
        "type": "file",
        "bom-ref": format!("file:{}", file.name),
        "name": file.name,
        "hashes": hashes(&file.sha256),
    })
}

/// The base model, and where that was erased itself what lies before it.
fn ancestors(facts: &Facts<'_>) -> Vec<Value> {
    let model = |name: &str, digest: &str, concepts: Vec<Value>| {
        let mut component =
            json!({ "type": "machine-learning-model", "name": name, "properties": concepts });
        // Files of models are named by digests of digests; one that is no SHA-256 names nothing here.
        if digest.len() == 64 && digest.chars().all(|c| c.is_ascii_hexdigit()) {
            component["hashes"] = hashes(digest);
        }
        component
    };
    if facts.result.ancestors.is_empty() {
        return vec![model(facts.base_model, facts.base_digest, Vec::new())];
    }
    let known = facts.result.ancestors.iter().map(|ancestor| {
        let concepts = ancestor.concepts.iter().map(|concept| property("erased", concept));
        model(&ancestor.model, &ancestor.digest, concepts.collect())
    });
    known.collect()
}

fn property(name: &str, value: &str) -> Value {
    json!({ "name": format!("keystep:{name}"), "value": value })
}

fn hashes(sha256: &str) -> Value {
    json!([{ "alg": "SHA-256", "content": sha256.to_ascii_lowercase() }])
}

/// The erased concepts, as the caller set them.
fn erased(parameters: &serde_json::Map<String, Value>) -> Vec<String> {
    let concepts = parameters.get("spec").and_then(|spec| spec["concepts"].as_array());
    let texts = concepts.into_iter().flatten().filter_map(|concept| concept["text"].as_str());
    texts.map(str::to_owned).collect()
}

fn model_card(facts: &Facts<'_>) -> Value {
    let metrics: Vec<Value> = facts.result.verdicts.iter().flat_map(metrics).collect();
    let whole = facts.result.files.iter().any(|file| file.name.starts_with(PIPELINE));
    json!({
        "modelParameters": {
            "approach": { "type": "supervised" },
            "task": "text-to-image",
            "architectureFamily": "diffusion",
            "modelArchitecture": if whole { "diffusers pipeline" } else { "diffusers U-Net" },
            "inputs": [{ "format": "text" }],
            "outputs": [{ "format": "image" }],
        },
        "quantitativeAnalysis": { "performanceMetrics": metrics },
        "considerations": {
            "useCases": ["drawing pictures from texts, without the erased concepts"],
            "technicalLimitations": [
                "An erased concept may come back: by other words, by further training, from a \
                 picture that is half drawn.",
            ],
        },
    })
}

/// A judge's figures; one over no pictures is none.
fn metrics(verdict: &ConceptVerdict) -> Vec<Value> {
    let ConceptVerdict { concept, verdict } = verdict;
    let measures = verdict.measures.as_ref();
    let counted = |of: fn(&Measures) -> Compared| measures.map(of);
    let (ua, ira, cra) =
        (counted(|found| found.ua), counted(|found| found.ira), counted(|found| found.cra));
    let (edited, base) = (verdict.edited, verdict.base);
    let mut metrics = Vec::new();
    for (measure, counted, edited, base) in [
        ("ua", ua, edited.ua, base.ua),
        ("ira", ira, edited.ira, base.ira),
        ("cra", cra, edited.cra, base.cra),
    ] {
        let shares = counted.map(|counted| (counted.edited, counted.base)).unzip();
        for (model, value, share) in [("edited", edited, shares.0), ("base", base, shares.1)] {
            if !value.is_finite() {
                continue;
            }
            let mut metric = json!({
                "type": measure,
                // Figures are texts in this format.
                "value": value.to_string(),
                "slice": format!("{model} model, {concept}, judge {}", verdict.judge),
            });
            if let Some(share) = share {
                let Interval { low, high } = share.interval(Confidence::DEFAULT);
                metric["confidenceInterval"] =
                    json!({ "lowerBound": low.to_string(), "upperBound": high.to_string() });
            }
            metrics.push(metric);
        }
    }
    metrics
}

/// A UUID of version 8 (RFC 9562), of what the bill is about.
fn serial_number(facts: &Facts<'_>) -> String {
    let mut hash = Sha256::new();
    hash.update(facts.invocation);
    for file in &facts.result.files {
        hash.update(format!("\n{} {:?}", file.sha256, file.name));
    }
    let mut digits: Vec<char> = hex::encode(hash.finalize()).chars().take(32).collect();
    for (place, digit) in [(12, '8'), (16, '8')] {
        if let Some(found) = digits.get_mut(place) {
            *found = digit;
        }
    }
    let text: String = digits.into_iter().collect();
    let part = |from, to| text.get(from..to).unwrap_or_default();
    format!(
        "urn:uuid:{}-{}-{}-{}-{}",
        part(0, 8),
        part(8, 12),
        part(12, 16),
        part(16, 20),
        part(20, 32)
    )
}
