//! Suites and probes of `EvaluateErasure`, against the conversions.

use super::{
    requests::{entry, limits},
    world::{NOW, erase_cat, settings},
};
use crate::{
    api::{ApiError, ApiSettings, convert::EvaluateDraft},
    catalogue::{BUILTIN, ErasedOrigin, ModelEntry, ModelOrigin},
    proto::keystep::v1::{
        ConceptKind, EvaluateErasureRequest, Probes, Suite, SuiteExpectation, SuitePrompt,
    },
    spec::{Expectation, ProbesSpec},
};

fn request(suites: Vec<Suite>, probes: Option<Probes>) -> EvaluateErasureRequest {
    EvaluateErasureRequest {
        base_model: BUILTIN.to_owned(),
        edited_model: "edited".to_owned(),
        concept: "cat".to_owned(),
        concept_kind: ConceptKind::ObjectClass.into(),
        destination: erase_cat().destination,
        suites,
        probes,
        ..EvaluateErasureRequest::default()
    }
}

fn suite(name: &str, expects: SuiteExpectation, object: &str) -> Suite {
    let prompt = SuitePrompt {
        prompt: "a picture".to_owned(),
        seed: 4,
        object: object.to_owned(),
        ..SuitePrompt::default()
    };
    Suite {
        name: name.to_owned(),
        expects: expects.into(),
        prompts: vec![prompt],
        columns: Vec::new(),
    }
}

/// Fields and messages.
fn violations<T: std::fmt::Debug>(read: Result<T, ApiError>) -> Vec<String> {
    match read {
        Err(ApiError::Invalid(violations)) => violations.iter().map(ToString::to_string).collect(),
        other => panic!("{other:?}"),
    }
}

fn read(request: EvaluateErasureRequest) -> Result<EvaluateDraft, Vec<String>> {
    EvaluateDraft::read(request, limits(&settings())).map_err(|error| violations::<()>(Err(error)))
}

fn edited() -> ModelEntry {
    let origin = ErasedOrigin {
        base_model: BUILTIN.to_owned(),
        concepts: vec!["cat".to_owned()],
        manifest_uri: String::new(),
        published_at: NOW,
        verdicts: Vec::new(),
    };
    ModelEntry { origin: ModelOrigin::Erased(Box::new(origin)), ..entry() }
}

#[test]
fn suites_and_probes_reach_the_work() {
    let probes =
        Probes { synonyms: vec![" Kitty".to_owned()], seeds: Some(3), ..Probes::default() };
    let suites = vec![
        suite("found", SuiteExpectation::Unspecified, ""),
        suite("dogs", SuiteExpectation::Kept, "dog"),
    ];
    let draft = read(request(suites, Some(probes))).unwrap();
    let spec = draft.complete(&entry(), &edited()).unwrap().spec;
    assert_eq!(
        (spec.suites[0].expects, &spec.suites[0].prompts[0].object),
        (Expectation::Gone, &None)
    );
    assert_eq!((spec.suites[1].expects, spec.suites[1].prompts[0].seed), (Expectation::Kept, 4));
    let probes =
        ProbesSpec { synonyms: vec!["kitty".to_owned()], seeds: 3, ..ProbesSpec::default() };
    assert_eq!(spec.probes, Some(probes));
    let draft = read(request(Vec::new(), None)).unwrap();
    let spec = draft.complete(&entry(), &edited()).unwrap().spec;
    assert!(spec.suites.is_empty() && spec.probes.is_none());
}

#[test]
fn what_should_be_kept_is_a_word_of_the_model_that_comes_later() {
    // The draft does not know the model's words.
    let draft = read(request(vec![suite("zebus", SuiteExpectation::Kept, "zebu")], None)).unwrap();
    let found = violations(draft.complete(&entry(), &edited()));
    assert!(found.iter().any(|it| it.contains("suites[0]")), "{found:?}");
}

#[test]
fn violations_name_the_suite() {
    let broken = |change: fn(&mut Suite)| {
        let mut broken = suite("b", SuiteExpectation::Gone, "");
        change(&mut broken);
        let first = suite("a", SuiteExpectation::Gone, "");
        read(request(vec![first, broken], None)).unwrap_err()
    };
    for change in [
        (|it| it.name = "a".to_owned()) as fn(&mut Suite),
        |it| it.name.clear(),
        |it| it.expects = 7,
        |it| it.expects = SuiteExpectation::Kept.into(),
        |it| it.prompts.clear(),
        |it| it.prompts[0].prompt.clear(),
        |it| it.prompts[0].guidance_scale = Some(f64::NAN),
        |it| it.prompts = vec![it.prompts[0].clone(); 10_001],
    ] {
        let found = broken(change);
        assert!(found.iter().any(|it| it.contains("suites[1]")), "{found:?}");
    }
    let many = (0..33).map(|index| suite(&index.to_string(), SuiteExpectation::Gone, ""));
    let found = read(request(many.collect(), None)).unwrap_err();
    assert!(found.iter().any(|it| it.contains("33 entries")), "{found:?}");

    let probes = |probes| read(request(Vec::new(), Some(probes))).unwrap_err();
    let found = probes(Probes { translations: vec!["Cat".to_owned()], ..Probes::default() });
    assert!(found.iter().any(|it| it.contains("probes.translations[0]")), "{found:?}");
    let found = probes(Probes { seeds: Some(0), ..Probes::default() });
    assert!(found.iter().any(|it| it.contains("probes.seeds")), "{found:?}");
    let found = probes(Probes { synonyms: vec!["x".to_owned(); 300], ..Probes::default() });
    assert!(found.iter().any(|it| it.contains("300 entries")), "{found:?}");

    // The server's own limit of a prompt holds for those of suites.
    let short = ApiSettings { prompt_characters: 5, ..settings() };
    let asked = request(vec![suite("a", SuiteExpectation::Gone, "")], None);
    let found = violations(EvaluateDraft::read(asked, limits(&short)));
    assert!(found.iter().any(|it| it.contains("this server's limit is 5")), "{found:?}");
}
