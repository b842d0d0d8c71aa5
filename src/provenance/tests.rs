//! A result, sealed, then tampered with in every way that a stranger could.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    sealing::digest_named,
    testing::{contents, ed25519_key, facts, other_key, p256_key, result, signer},
    *,
};
use crate::outcome::{
    FileDigest,
    result_layout::{BILL_OF_MATERIALS, MODEL_SIGNATURE, STATEMENTS, is_seal},
};

/// A sealed result as somebody finds it.
#[derive(Clone)]
struct Found {
    files: BTreeMap<String, Vec<u8>>,
    key: PublicKey,
}

impl Found {
    fn sealed_by(key: SigningKey, test: Option<TestResult>) -> Self {
        let mut files = contents();
        let result = result(&files);
        let facts = Facts { test, ..facts(&result) };
        let public = key.public_key();
        let sealed = seal(&facts, &signer(key.clone())).unwrap();
        assert_eq!(sealed, seal(&facts, &signer(key)).unwrap(), "equal bytes each time");
        for SealedFile { name, bytes } in sealed {
            assert!(is_seal(name));
            files.insert(name.to_owned(), bytes);
        }
        Self { files, key: public }
    }

    fn new() -> Self {
        Self::sealed_by(p256_key(), None)
    }

    fn verify(&self) -> Result<Verified, Untrue> {
        let sealing = [STATEMENTS, MODEL_SIGNATURE];
        let files = (self.files.iter())
            .filter(|(name, _)| !sealing.contains(&name.as_str()))
            .map(|(name, bytes)| (name.clone(), digest_named(name, bytes).sha256))
            .collect();
        let statements = self.files.get(STATEMENTS).map_or(&[][..], Vec::as_slice);
        let model_signature = self.files.get(MODEL_SIGNATURE).map(Vec::as_slice);
        verify(FoundResult { files: &files, statements, model_signature }, &self.key)
    }

    fn refused(&self) -> String {
        self.verify().unwrap_err().to_string()
    }

    fn statements(&self) -> Vec<String> {
        let text = String::from_utf8(self.files[STATEMENTS].clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn set_statements(&mut self, lines: &[String]) {
        self.files.insert(STATEMENTS.to_owned(), (lines.join("\n") + "\n").into_bytes());
    }

    /// What the first statement says, signed anew by the right key after a change.
    fn resign(&mut self, change: impl FnOnce(&mut Value)) {
        let mut lines = self.statements();
        let payload = Envelope::from_json(lines[0].as_bytes()).unwrap().open(&self.key).unwrap();
        let mut statement: Value = serde_json::from_slice(&payload).unwrap();
        change(&mut statement);
        let signed = Envelope::seal(&serde_json::to_vec(&statement).unwrap(), &p256_key());
        lines[0] = serde_json::to_string(&signed).unwrap();
        self.set_statements(&lines);
    }

    fn statement(&self, line: usize) -> Value {
        let line = self.statements().swap_remove(line);
        let payload = Envelope::from_json(line.as_bytes()).unwrap().open(&self.key).unwrap();
        serde_json::from_slice(&payload).unwrap()
    }
}

#[test]
fn what_is_as_it_was_signed_is_believed() {
    let verified = Found::new().verify().unwrap();
    assert_eq!(verified.predicate_types, [BUILD.to_owned(), evaluation_type()]);
    assert_eq!(verified.builder_id.as_deref(), Some("https://models.example/keystep"));
    assert!(verified.model_signature && verified.policy.is_none());

    let policy = ResourceDescriptor::new("policy.toml", &"ab".repeat(32));
    let rules = [("forgets", RuleOutcome::Passed), ("keeps", RuleOutcome::Undecided)];
    let test = TestResult::new(policy, Vec::new(), rules);
    let found = Found::sealed_by(ed25519_key(), Some(test));
    // The stock verifiers of models know no Ed25519.
    assert!(!found.files.contains_key(MODEL_SIGNATURE));
    let verified = found.verify().unwrap();
    let policy = verified.policy.unwrap();
    assert_eq!((policy.sha256, policy.result), ("ab".repeat(32), TestVerdict::Failed));
    assert_eq!(policy.failed, ["keeps"]);
    let parameters = &found.statement(0)["predicate"]["buildDefinition"]["externalParameters"];
    assert_eq!(parameters["policy_sha256"], "ab".repeat(32));
}

#[test]
fn the_statement_of_the_making_has_what_it_is_asked_for() {
    let statement = Found::new().statement(0);
    assert_eq!(statement["_type"], STATEMENT);
    let names: Vec<_> =
        statement["subject"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert!(names.contains(&&json!(BILL_OF_MATERIALS)) && names.contains(&&json!("README.md")));
    assert!(!names.contains(&&json!(STATEMENTS)) && !names.contains(&&json!(MODEL_SIGNATURE)));
    let definition = &statement["predicate"]["buildDefinition"];
    assert_eq!(definition["buildType"], "https://keystep.example/docs/provenance.md#erasure-v1");
    assert_eq!(definition["externalParameters"]["spec"]["concepts"][0]["text"], "cat");
    assert_eq!(definition["internalParameters"]["seeds"]["unlearn"], 7);
    let parent = &definition["resolvedDependencies"][0];
    assert_eq!(
        (&parent["name"], &parent["digest"]["sha256"]),
        (&json!("checkpoints/1"), &json!("1a".repeat(32)))
    );
    assert_eq!(parent["annotations"]["ancestors"][0]["concepts"][0], "dog");
    assert_eq!(definition["resolvedDependencies"][1]["digest"]["sha256"], "4d".repeat(32));
    let run = &statement["predicate"]["runDetails"];
    assert_eq!(run["metadata"]["invocationId"], "00000000-0000-0000-0000-000000000001");
    assert_eq!(run["metadata"]["startedOn"], "2026-03-01T12:00:00Z");
    let byproducts: Vec<_> =
        run["byproducts"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(byproducts, ["report.json", "scores.json"]);
}

#[test]
fn a_changed_missing_or_added_file_is_named() {
    let found = Found::new();
    for name in contents().keys().map(String::as_str).chain([BILL_OF_MATERIALS]) {
        let mut changed = found.clone();
        changed.files.get_mut(name).unwrap().push(b' ');
        let said = changed.refused();
        assert!(said.starts_with(&format!("{name} was changed")), "{said}");
        let mut without = found.clone();
        without.files.remove(name);
        assert_eq!(without.refused(), format!("{name} was signed and is missing"));
    }
    for name in ["pipeline/unet/extra.bin", "z"] {
        let mut more = found.clone();
        more.files.insert(name.to_owned(), Vec::new());
        assert_eq!(more.refused(), format!("{name} is there and was not signed"));
    }
    let mut without = found.clone();
    without.files.remove(MODEL_SIGNATURE);
    assert_eq!(without.refused(), "pipeline/model.sig was signed and is missing");
    let mut without = found;
    without.files.remove(STATEMENTS);
    assert_eq!(without.verify(), Err(Untrue::Unsigned));
}

#[test]
fn another_key_a_changed_byte_and_a_swapped_signature_are_refused() {
    let found = Found::new();
    let other = Found { key: other_key().public_key(), ..found.clone() };
    assert!(other.refused().contains("line 1: no signature of it is by this key"));
    let ed25519 = Found { key: ed25519_key().public_key(), ..found.clone() };
    assert!(ed25519.refused().contains("line 1: no signature of it is by this key"));

    let lines = found.statements();
    let mut envelopes: Vec<Value> =
        lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let written = |envelopes: &[Value]| {
        let mut changed = found.clone();
        let lines: Vec<_> = envelopes.iter().map(Value::to_string).collect();
        changed.set_statements(&lines);
        changed.refused()
    };
    let whole = envelopes.clone();
    let (first, second) = envelopes.split_at_mut(1);
    std::mem::swap(&mut first[0]["signatures"], &mut second[0]["signatures"]);
    assert!(written(&envelopes).contains("line 1: no signature of it is by this key"));

    let mut envelopes = whole.clone();
    let payload = whole[1]["payload"].as_str().unwrap();
    let flipped = payload.replacen(|c: char| c.is_ascii_lowercase(), "A", 1);
    envelopes[1]["payload"] = json!(flipped);
    let said = written(&envelopes);
    assert!(said.contains("line 2: no signature of it is by this key"), "{said}");

    let mut envelopes = whole.clone();
    envelopes[0]["payloadType"] = json!("application/vnd.cyclonedx+json");
    let said = written(&envelopes);
    assert!(said.contains("line 1: its payload is of the type \"application/vnd.cyclo"), "{said}");
    let mut envelopes = whole.clone();
    envelopes[0]["payload"] = json!("no base64!");
    assert!(written(&envelopes).contains("its payload is no base64"));
    let mut envelopes = whole;
    envelopes[0]["signatures"] = json!([]);
    assert!(written(&envelopes).contains("it has no signature"));
}

#[test]
fn what_is_signed_must_be_statements_of_these_files() {
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut found = Found::new();
        found.resign(change);
        found.refused()
    };
    let said = refused(&|statement| {
        let extra = json!({ "name": "x.bin", "digest": { "sha256": "0".repeat(64) } });
        statement["subject"].as_array_mut().unwrap().push(extra);
    });
    assert_eq!(said, "x.bin was signed and is missing");
    let said = refused(&|statement| {
        statement["subject"].as_array_mut().unwrap().pop();
    });
    assert_eq!(said, "scores.json is there and was not signed");
    for name in ["../outside", "/etc/passwd", "a//b", "a\\b", "", "pipeline/./x"] {
        let said = refused(&|statement| statement["subject"][0]["name"] = json!(name));
        assert_eq!(said, format!("{name:?} is no name of a file in the result's folder"));
    }
    let said = refused(&|statement| {
        let twice = statement["subject"][0].clone();
        statement["subject"].as_array_mut().unwrap().push(twice);
    });
    assert!(said.contains("line 1: README.md is named twice"), "{said}");
    let said = refused(&|statement| {
        statement["subject"][0]["digest"] = json!({ "md5": "0" });
    });
    assert!(said.contains("without a SHA-256"), "{said}");
    let said =
        refused(&|statement| statement["_type"] = json!("https://in-toto.io/Statement/v0.1"));
    assert!(said.contains("its _type is"), "{said}");
    let said = refused(&|statement| statement["subject"] = json!(1));
    assert!(said.contains("no in-toto statement"), "{said}");
    let said = refused(&|statement| statement["predicateType"] = json!("https://else.example/1"));
    assert!(said.contains("does not say how the result was made"), "{said}");
    let said = refused(&|statement| {
        statement["predicateType"] = json!(TEST_RESULT);
        statement["predicate"] = json!({ "result": "PASSED", "configuration": [], "note": 1 });
    });
    assert!(said.contains("its test result: unknown field"), "{said}");
}

#[test]
fn broken_and_huge_statements_are_refused() {
    let found = Found::new();
    for text in ["{", "[]", "null", "\u{0}", &"[".repeat(200_000), "{\"payload\": 3}"] {
        let mut broken = found.clone();
        broken.set_statements(&[text.to_owned()]);
        assert!(broken.refused().contains("line 1: it is no DSSE envelope"), "{text:.20}");
    }
    let mut empty = found.clone();
    empty.set_statements(&["  ".to_owned()]);
    assert_eq!(empty.verify(), Err(Untrue::Unsigned));
    let mut many = found.clone();
    many.set_statements(&vec![found.statements().swap_remove(0); 257]);
    assert_eq!(many.verify(), Err(Untrue::TooManyStatements));
    let mut latin = found;
    latin.files.insert(STATEMENTS.to_owned(), vec![0xff, 0xfe]);
    assert!(latin.refused().contains("no DSSE envelope"));
}

#[test]
fn a_model_signature_of_something_else_is_refused() {
    let found = Found::new();
    let bundle: Value = serde_json::from_slice(&found.files[MODEL_SIGNATURE]).unwrap();
    let refused = |bundle: &Value| {
        let mut changed = found.clone();
        changed.files.insert(MODEL_SIGNATURE.to_owned(), bundle.to_string().into_bytes());
        changed.refused()
    };
    let with = |pointer: &str, value: Value| {
        let mut bundle = bundle.clone();
        *bundle.pointer_mut(pointer).unwrap() = value;
        refused(&bundle)
    };
    assert!(with("/mediaType", json!("x")).contains("its media type is"));
    let mut more = bundle.clone();
    more["further"] = json!(1);
    assert!(refused(&more).contains("unknown field"));
    assert!(with("/dsseEnvelope/payload", json!("e30=")).contains("no signature of it is by this"));
    // The hint decides nothing.
    let mut other = found.clone();
    let mut hinted = bundle.clone();
    hinted["verificationMaterial"]["publicKey"]["hint"] = json!("0");
    other.files.insert(MODEL_SIGNATURE.to_owned(), hinted.to_string().into_bytes());
    other.verify().unwrap();

    let signed = |change: &dyn Fn(&mut Value)| {
        let payload = bundle["dsseEnvelope"].to_string();
        let payload = Envelope::from_json(payload.as_bytes()).unwrap().open(&found.key).unwrap();
        let mut statement: Value = serde_json::from_slice(&payload).unwrap();
        change(&mut statement);
        let envelope = Envelope::seal(statement.to_string().as_bytes(), &p256_key());
        let mut bundle = bundle.clone();
        bundle["dsseEnvelope"] = serde_json::to_value(envelope).unwrap();
        refused(&bundle)
    };
    let said = signed(&|statement| statement["subject"][0]["digest"]["sha256"] = json!("0"));
    assert!(said.contains("not the digest of its resources"), "{said}");
    let said = signed(&|statement| {
        let serialization = &mut statement["predicate"]["serialization"];
        serialization["ignore_paths"] = json!(["model.sig", "unet"]);
    });
    assert!(said.contains("leaves out \"unet\""), "{said}");
    let said = signed(&|statement| {
        statement["predicate"]["serialization"]["allow_symlinks"] = json!(true);
    });
    assert!(said.contains("not over whole files"), "{said}");
    let said = signed(&|statement| {
        let subject = statement["subject"][0].clone();
        statement["subject"].as_array_mut().unwrap().push(subject);
    });
    assert!(said.contains("2 subjects"), "{said}");
    let said = signed(&|statement| statement["predicate"]["resources"][0]["digest"] = json!("zz"));
    assert!(said.contains("no SHA-256"), "{said}");
}

#[test]
fn a_model_folder_is_signed_as_the_text_has_it() {
    let file = |name: &str, digit: &str| FileDigest {
        name: name.to_owned(),
        size: 1,
        sha256: digit.repeat(64),
    };
    let files = [file("a/b.txt", "1"), file("a-b.txt", "2")];
    let signature = sign_model("folder", &files, &p256_key()).unwrap();
    let bundle: Value = serde_json::from_slice(&signature).unwrap();
    // As `openssl pkey -pubin | sha256sum` has it.
    let hint = bundle["verificationMaterial"]["publicKey"]["hint"].as_str().unwrap();
    assert_eq!(hint, p256_key().public_key().fingerprint());
    let envelope = bundle["dsseEnvelope"].to_string();
    let payload = Envelope::from_json(envelope.as_bytes()).unwrap();
    let payload = payload.open(&p256_key().public_key()).unwrap();
    let statement: Value = serde_json::from_slice(&payload).unwrap();
    let resources = statement["predicate"]["resources"].as_array().unwrap().iter();
    let names: Vec<_> = resources.map(|resource| resource["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a-b.txt", "a/b.txt"], "by code points");
    // `printf '22…2211…11' | xxd -r -p | sha256sum`.
    let root = "adfafc05aac733fe9509f43bd1d158c882890351c7f343634c8ef9ea42cdb505";
    assert_eq!(statement["subject"], json!([{ "name": "folder", "digest": { "sha256": root } }]));
    let known: BTreeMap<&str, &str> =
        files.iter().map(|file| (file.name.as_str(), file.sha256.as_str())).collect();
    verify_model(&signature, &known, &p256_key().public_key()).unwrap();
    let algorithm = KeyAlgorithm::Ed25519;
    let refused = Err(ModelSignatureError::OtherKey { algorithm });
    assert_eq!(sign_model("folder", &files, &ed25519_key()), refused);
    for (name, error) in [
        ("a-b.txt", ModelSignatureError::Missing { name: "a-b.txt".to_owned() }),
        ("a/b.txt", ModelSignatureError::Missing { name: "a/b.txt".to_owned() }),
    ] {
        let mut fewer = known.clone();
        fewer.remove(name);
        assert_eq!(verify_model(&signature, &fewer, &p256_key().public_key()), Err(error));
    }
    let mut more = known.clone();
    more.insert("c", "1");
    let error = ModelSignatureError::Unsigned { name: "c".to_owned() };
    assert_eq!(verify_model(&signature, &more, &p256_key().public_key()), Err(error));
    let mut changed = known;
    changed.insert("a-b.txt", "1");
    let error = ModelSignatureError::Changed { name: "a-b.txt".to_owned() };
    assert_eq!(verify_model(&signature, &changed, &p256_key().public_key()), Err(error));
}

/// Model cards on what is no model: the schema allows them, and tools do not read them.
fn cards_elsewhere(value: &Value) -> usize {
    let nested = match value {
        Value::Array(items) => items.iter().map(cards_elsewhere).sum(),
        Value::Object(members) => members.values().map(cards_elsewhere).sum(),
        _ => 0,
    };
    let is_model = value["type"] == "machine-learning-model";
    nested + usize::from(value.get("modelCard").is_some() && !is_model)
}

#[test]
fn the_bill_has_texts_for_figures_and_a_card_for_models_alone() {
    let found = Found::new();
    let bill: Value = serde_json::from_slice(&found.files[BILL_OF_MATERIALS]).unwrap();
    let model = &bill["metadata"]["component"];
    assert_eq!(model["type"], "machine-learning-model");
    let weights = "pipeline/unet/diffusion_pytorch_model.safetensors";
    let digest = digest_named(weights, &found.files[weights]).sha256;
    assert_eq!(model["hashes"][0]["content"], digest);
    assert_eq!(model["pedigree"]["ancestors"][0]["properties"][0]["value"], "dog");
    assert_eq!(model["pedigree"]["ancestors"][1]["name"], "emoji-canvas");
    let metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"].as_array();
    let metrics = metrics.unwrap();
    // CRA is over no pictures here.
    assert_eq!(metrics.len(), 4);
    assert!(metrics.iter().all(|metric| metric["value"].is_string()), "{metrics:?}");
    let interval = &metrics[0]["confidenceInterval"];
    assert!(
        interval["lowerBound"].is_string() && interval["upperBound"].is_string(),
        "{metrics:?}"
    );
    assert_eq!(bill["components"].as_array().unwrap().len(), contents().len());
    assert_eq!(cards_elsewhere(&bill), 0);
    let serial = bill["serialNumber"].as_str().unwrap();
    let uuid = serial.strip_prefix("urn:uuid:").unwrap();
    assert!(uuid.len() == 36 && uuid.as_bytes()[14] == b'8' && uuid.as_bytes()[19] == b'8');
}

#[test]
fn a_builder_is_a_uri() {
    for wrong in ["", "models", "1a:b", "https:", "https://a b", "https://ä"] {
        let error = Signer::new(p256_key(), wrong).unwrap_err();
        assert!(error.to_string().contains("is no URI"), "{wrong}: {error}");
    }
    for right in ["https://models.example/keystep", "urn:example:keystep", "spiffe://a/b"] {
        assert_eq!(Signer::new(p256_key(), right).unwrap().builder_id(), right);
    }
    // No key shows.
    let shown = format!("{:?}", signer(p256_key()));
    assert!(shown.contains("EcdsaP256") && shown.len() < 150, "{shown}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Whatever becomes of the bytes: nothing else is believed than what was signed, and nothing
    /// panics.
    #[test]
    fn no_change_of_a_byte_changes_what_is_believed(
        file in 0_usize..32, place: prop::sample::Index, flip in 1_u8..=255,
    ) {
        let whole = Found::new();
        let mut changed = whole.clone();
        let name = changed.files.keys().nth(file % changed.files.len()).unwrap().clone();
        let bytes = changed.files.get_mut(&name).unwrap();
        let place = place.index(bytes.len());
        bytes[place] ^= flip;
        match changed.verify() {
            Err(_) => {}
            // What is no part of a signature, such as its hint at a key, may differ.
            Ok(verified) => {
                prop_assert!([STATEMENTS, MODEL_SIGNATURE].contains(&name.as_str()), "{name}");
                prop_assert_eq!(verified, whole.verify().unwrap());
            }
        }
    }

    #[test]
    fn no_bytes_are_a_key_or_an_envelope_by_chance(bytes: Vec<u8>, text: String) {
        for bytes in [bytes.as_slice(), text.as_bytes()] {
            prop_assert!(SigningKey::from_pem(bytes).is_err());
            prop_assert!(PublicKey::from_pem(bytes).is_err());
            prop_assert!(Envelope::from_json(bytes).is_err());
        }
    }
}
