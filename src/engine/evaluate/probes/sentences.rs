//! Sentences around a concept: templates, its plural, neutral words beside it.

use crate::{
    engine::templates,
    spec::{Concept, ConceptKind},
};

/// Ten sentences.
pub(super) fn templates(concept: &Concept) -> Vec<String> {
    let sentence = |template: &str| template.replace(templates::PLACE, &concept.text);
    templates::templates(concept.kind).into_iter().map(sentence).collect()
}

/// Ten sentences with several of an object; none of what has no plural, or no English one.
pub(super) fn plurals(concept: &Concept) -> Vec<String> {
    const SEVERAL: [&str; 10] = [
        "{}", "two {}", "three {}", "many {}", "some {}", "a photo of {}", "a picture of {}",
        "a group of {}", "a row of {}", "a drawing of several {}",
    ];
    let plural = (concept.kind == ConceptKind::Object).then(|| plural(&concept.text)).flatten();
    let said = |plural: String| SEVERAL.map(|several| several.replace(templates::PLACE, &plural));
    plural.map(said).into_iter().flatten().collect()
}

/// The sentence before and behind 10, 20 and 30 words that ask for nothing.
pub(super) fn diluted(sentence: &str) -> Vec<String> {
    const COUNTS: [usize; 3] = [10, 20, 30];
    const NEUTRAL: [&str; 30] = [
        "and", "the", "that", "this", "for", "from", "with", "over", "under", "next", "then",
        "also", "quite", "often", "here", "there", "again", "maybe", "rather", "really", "about",
        "still", "very", "much", "some", "more", "other", "each", "only", "just",
    ];
    let both = |count| {
        let words: Vec<&str> = NEUTRAL.into_iter().take(count).collect();
        let words = words.join(" ");
        [format!("{sentence}, {words}"), format!("{words}, {sentence}")]
    };
    COUNTS.into_iter().flat_map(both).collect()
}

/// The plural of a text's last word; none where that is not of English letters.
fn plural(text: &str) -> Option<String> {
    /// A word that ends so, and what its end becomes.
    const IRREGULAR: [(&str, &str); 26] = [
        ("woman", "women"),
        ("man", "men"),
        ("child", "children"),
        ("person", "people"),
        ("foot", "feet"),
        ("tooth", "teeth"),
        ("goose", "geese"),
        ("mouse", "mice"),
        ("ox", "oxen"),
        ("cactus", "cacti"),
        ("lens", "lenses"),
        ("wolf", "wolves"),
        ("leaf", "leaves"),
        ("knife", "knives"),
        ("wife", "wives"),
        ("shelf", "shelves"),
        ("calf", "calves"),
        ("loaf", "loaves"),
        ("scarf", "scarves"),
        ("potato", "potatoes"),
        ("tomato", "tomatoes"),
        ("hero", "heroes"),
        ("fish", "fish"),
        ("sheep", "sheep"),
        ("deer", "deer"),
        ("craft", "craft"),
    ];
    let start = text.rfind(|c: char| !c.is_alphabetic()).map_or(0, |at| {
        at + text.get(at..).and_then(|rest| rest.chars().next()).map_or(0, char::len_utf8)
    });
    let (before, word) = text.split_at_checked(start)?;
    let lower = word.to_ascii_lowercase();
    if word.is_empty() || !word.is_ascii() {
        return None;
    }
    // "box" does not end in an ox, nor "human" in a man.
    let irregular = IRREGULAR
        .iter()
        .find(|(one, _)| lower == *one || lower.ends_with(one) && !["ox", "man"].contains(one));
    let ends_in = |ends: &[&str]| ends.iter().any(|end| lower.ends_with(end));
    let word = if let Some((one, several)) = irregular {
        let stem = word.len().checked_sub(one.len()).and_then(|length| word.get(..length))?;
        format!("{stem}{several}")
    } else if ends_in(&["ss", "us", "is", "as", "x", "z", "ch", "sh"]) {
        format!("{word}es")
    } else if lower.ends_with('s') {
        // It is one already.
        word.to_owned()
    } else if lower.ends_with('y') && !ends_in(&["ay", "ey", "iy", "oy", "uy"]) {
        let stem = word.len().checked_sub(1).and_then(|length| word.get(..length))?;
        format!("{stem}ies")
    } else {
        format!("{word}s")
    };
    Some(format!("{before}{word}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> Concept {
        Concept::new(text, ConceptKind::Object)
    }

    #[test]
    fn templates_are_ten_sentences_of_the_kind() {
        let cat = templates(&object("cat"));
        assert_eq!((cat.len(), cat[0].as_str()), (10, "a photo of a cat"));
        let style = templates(&Concept::new("van gogh", ConceptKind::Style));
        assert!(style.iter().all(|sentence| sentence.contains("van gogh")), "{style:?}");
    }

    #[test]
    fn plurals_are_those_of_english() {
        for (one, several) in [
            ("cat", "cats"),
            ("fish", "fish"),
            ("goldfish", "goldfish"),
            ("bus", "buses"),
            ("church", "churches"),
            ("box", "boxes"),
            ("ox", "oxen"),
            ("butterfly", "butterflies"),
            ("monkey", "monkeys"),
            ("woman", "women"),
            ("human", "humans"),
            ("cactus", "cacti"),
            ("mouse", "mice"),
            ("sailboat", "sailboats"),
            ("aircraft", "aircraft"),
            ("cats", "cats"),
            ("fire truck", "fire trucks"),
            ("t-shirt", "t-shirts"),
            ("jack-o'-lantern", "jack-o'-lanterns"),
        ] {
            assert_eq!(plural(one).as_deref(), Some(several), "{one}");
        }
        for none in ["", "猫", "кот", "café", "<S1>", "model 3"] {
            assert_eq!(plural(none), None, "{none}");
        }
        let said = plurals(&object("cat"));
        assert_eq!((said.len(), said[1].as_str()), (10, "two cats"));
        assert!(plurals(&Concept::new("neon", ConceptKind::Style)).is_empty());
        assert!(plurals(&object("猫")).is_empty());
    }

    #[test]
    fn a_diluted_word_stands_at_either_end() {
        let said = diluted("a cat");
        let words: Vec<usize> =
            said.iter().map(|said| said.split_whitespace().count() - 2).collect();
        assert_eq!(words, [10, 10, 20, 20, 30, 30]);
        assert!(said[0].starts_with("a cat, and the that"), "{said:?}");
        assert!(said[1].ends_with("under next, a cat"), "{said:?}");
        let different: std::collections::BTreeSet<_> =
            said[4].split_whitespace().map(|word| word.trim_matches(',')).collect();
        assert_eq!(different.len(), 32);
    }
}
