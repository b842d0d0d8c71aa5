//! Requests checked against tokenizers: the same words, sentences that are too long, added tokens.

use std::{fs::File, path::PathBuf, sync::LazyLock};

use super::*;
use crate::{
    engine::plan,
    spec::{FileError, Method, ReadSeek},
};

/// The built-in model, whose text encoder reads 32 tokens.
#[derive(Debug)]
struct Canvas;

static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let files = ["unet", "vae", "text_encoder"].iter().map(|part| root().join(part));
    let names = files.flat_map(|part| std::fs::read_dir(part).unwrap()).map(|file| {
        let path = file.unwrap().path();
        path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned()
    });
    names.collect()
});

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("assets/emoji-canvas/model")
}

impl ModelFiles for Canvas {
    fn location(&self) -> &'static str {
        "canvas"
    }

    fn names(&self) -> &[String] {
        &NAMES
    }

    fn open(&self, name: &str) -> Result<(Box<dyn ReadSeek>, u64), FileError> {
        let missing =
            |_| FileError::Missing { location: "canvas".to_owned(), name: name.to_owned() };
        let file = File::open(root().join(name)).map_err(missing)?;
        let length = file.metadata().map_err(missing)?.len();
        Ok((Box::new(file), length))
    }
}

fn list(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn spec(method: MethodName, concepts: &[&str]) -> UnlearnSpec {
    let (method, scope) = Method::preset(method, ConceptKind::Object, concepts.len() > 1);
    UnlearnSpec {
        concepts: (concepts.iter()).map(|text| Concept::new(*text, ConceptKind::Object)).collect(),
        method,
        scope,
        preserve: Vec::new(),
        vocabulary: Vocabulary {
            anything: "emoji".to_owned(),
            objects: list(&["cat", "dog", "star"]),
            styles: list(&["flat", "neon"]),
        },
        seed: 0,
    }
}

fn violations(checked: Result<(), EngineError>) -> Vec<(String, String)> {
    match checked {
        Ok(()) => Vec::new(),
        Err(EngineError::Spec(error)) => {
            error.violations.into_iter().map(|it| (it.field.to_string(), it.message)).collect()
        }
        Err(other) => panic!("{other:?}"),
    }
}

fn fields(spec: &UnlearnSpec) -> Vec<String> {
    violations(check_erasure_words(&Canvas, spec)).into_iter().map(|(field, _)| field).collect()
}

#[test]
fn a_concept_whose_sentences_are_too_long_is_refused_by_a_plan() {
    // Thirty tokens fit by themselves, and in no sentence.
    let long = "cat ".repeat(28);
    for method in [MethodName::Keystep, MethodName::Kscu, MethodName::Esd] {
        let asked = spec(method, &[&long]);
        let tokenizer = ClipTokenizer::from_files(&Canvas, "tokenizer").unwrap();
        assert!(tokenizer.encode(&long).is_ok());
        let found = violations(plan(&Canvas, &asked, None).map(drop));
        let [(field, message)] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(field, "concepts[0].text");
        for part in ["cat cat", "said as", "tokens", "reads 32", "shorten"] {
            assert!(message.contains(part), "no {part} in {message}");
        }
        assert!(message.len() < 400, "{message}");
        assert!(plan(&Canvas, &spec(method, &["cat"]), None).is_ok());
    }
}

#[test]
fn the_longest_words_beside_a_concept_count() {
    let mut asked = spec(MethodName::Esd, &["cat"]);
    assert_eq!(fields(&asked), Vec::<String>::new());
    // The concept fits in its own sentences, and not in the style of many words.
    asked.concepts[0].text = "cat ".repeat(14);
    assert_eq!(fields(&asked), Vec::<String>::new());
    asked.vocabulary.styles.push("neon flat ".repeat(6));
    assert_eq!(fields(&asked), ["concepts[0].text"]);
    // Kscu's own sentences are longer than all others.
    let asked = spec(MethodName::Esd, &[&"cat ".repeat(22)]);
    assert_eq!(fields(&asked), Vec::<String>::new());
    let asked = spec(MethodName::Kscu, &[&"cat ".repeat(22)]);
    assert_eq!(fields(&asked), ["concepts[0].text"]);
}

#[test]
fn whatever_does_not_fit_is_named() {
    let long = "star ".repeat(40);
    let mut asked = spec(MethodName::Keystep, &["cat", "dog"]);
    asked.concepts[1].replacement = Some(long.clone());
    asked.preserve = vec!["a star".to_owned(), long.clone()];
    asked.vocabulary.objects.push(long);
    let expected = ["preserve[1]", "vocabulary.objects[3]", "concepts[1].replacement"];
    assert_eq!(fields(&asked), expected);
    // Two that fit alone and not together; the style may be the shorter of them.
    let mut asked = spec(MethodName::Keystep, &["cat"]);
    asked.vocabulary.objects.push("star ".repeat(15));
    asked.vocabulary.styles.push("flat ".repeat(12));
    assert_eq!(fields(&asked), ["vocabulary.styles[2]"]);
}

#[test]
fn words_with_the_same_tokens_are_one_word() {
    // Digits and signs stand alone to CLIP, with or without space.
    let mut asked = spec(MethodName::Keystep, &["cat 3d", "cat 3 d", "cat!", "cat !"]);
    asked.concepts[2].replacement = Some("cat  !".to_owned());
    asked.preserve = list(&["a cat3 d", "a cat"]);
    asked.vocabulary.objects = list(&["dog 1 2", "dog", "dog 12"]);
    let expected = [
        "concepts[1].text", "concepts[2].replacement", "concepts[3].text", "vocabulary.objects[2]",
        "preserve[0]",
    ];
    assert_eq!(fields(&asked), expected);
    // The mark of an end is no text: erasing it would erase nothing.
    assert_eq!(fields(&spec(MethodName::Keystep, &["<|endoftext|>"])), ["concepts[0].text"]);
}

#[test]
fn a_concept_is_found_among_words_by_its_tokens() {
    let tokenizer = ClipTokenizer::from_files(&Canvas, "tokenizer").unwrap();
    let erased = names_one_of(&tokenizer, &spec(MethodName::Esd, &["Cat", "star 12"]).concepts);
    for word in ["cat", "CAT", " cat ", "star 1 2", "Star\n12"] {
        assert!(erased(word), "{word:?}");
    }
    for word in ["", "cats", "star", "star 21", &"cat ".repeat(50)] {
        assert!(!erased(word), "{word:?}");
    }
}

#[test]
fn scores_and_judgements_are_checked_alike() {
    let UnlearnSpec { vocabulary, .. } = spec(MethodName::Esd, &["cat"]);
    let (tokenizer, encoder) = open(&Canvas).unwrap();
    let reader = Reader::new(&tokenizer, encoder);
    let of = |text: &str| Concept::new(text, ConceptKind::Object);
    let scored = |text: &str| reader.check_score(&ScoreSpec::new(of(text), vocabulary.clone()));
    assert!(scored("cat").is_ok());
    let found = violations(scored(&"cat ".repeat(28)));
    assert_eq!(found[0].0, "concept.text");

    let mut words = vocabulary.clone();
    assert!(reader.check_judge(&JudgeSpec::new(of("cat"), words.clone())).is_ok());
    words.styles.push("flat ".repeat(27));
    let found = violations(reader.check_judge(&JudgeSpec::new(of("cat"), words)));
    assert_eq!(found[0].0, "vocabulary.styles[2]");

    // Tokens are counted with begin and end, whatever a text is padded with.
    for (text, tokens) in [("", 2), ("cat", 3), ("cat cat", 4)] {
        assert_eq!(reader.tokens(text).unwrap(), tokens);
    }
    assert_eq!(reader.tokens(&"cat ".repeat(30)).unwrap(), 32);
    assert_eq!(reader.tokens(&"cat ".repeat(31)).unwrap(), 33);
}
