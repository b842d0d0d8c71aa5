//! Decides when two texts are the same words to a tokenizer.

use unicode_normalization_alignments::UnicodeNormalization;

/// A text as CLIP's tokenizer reads it (transformers: `CLIPTokenizer`, its normalizer): composed to
/// Unicode's NFC, white space run to one space and trimmed, in lower case. Texts with one canonical
/// form give one and the same picture, so that `" Cat "` and `cat` are one concept; the form of a
/// canonical text is the text itself.
///
/// What stands in angle brackets keeps its case: it may be a token that was added to a tokenizer,
/// such as `<S1>` of a textual inversion, which is matched as it is written.
pub fn canonical(text: &str) -> String {
    let composed: String = text.nfc().map(|(c, _)| c).collect();
    let words: Vec<&str> = composed.split_whitespace().collect();
    let spaced = words.join(" ");
    let mut lowered = String::with_capacity(spaced.len());
    let mut rest = spaced.as_str();
    while let Some(start) = rest.find('<') {
        let (before, token) = rest.split_at(start);
        lower(before, &mut lowered);
        // Up to the bracket that closes; one that none closes is a sign like any other.
        let inside = &token[1..];
        let end = inside.find(['<', '>', ' ']).filter(|end| inside[*end..].starts_with('>'));
        let (token, after) = token.split_at(end.map_or(1, |end| end + 2));
        lowered.push_str(token);
        rest = after;
    }
    lower(rest, &mut lowered);
    lowered
}

/// Character by character, as the tokenizer does it; `str::to_lowercase` looks around.
fn lower(text: &str, into: &mut String) {
    into.extend(text.chars().flat_map(char::to_lowercase));
}

/// Whether two texts are the same words to a tokenizer, as far as that is known without one.
pub fn same_words(one: &str, other: &str) -> bool {
    one == other || canonical(one) == canonical(other)
}

/// Whether a prompt names a word, or several in a row: "a dog on a mat" names "dog", and "mat", but not
/// "do".
pub fn names_word(prompt: &str, word: &str) -> bool {
    let letter = |c: char| c.is_alphanumeric();
    let parts = |text: &str| -> Vec<String> {
        let text = canonical(text);
        text.split(|c| !letter(c)).filter(|part| !part.is_empty()).map(str::to_owned).collect()
    };
    let (prompt, word) = (parts(prompt), parts(word));
    !word.is_empty() && prompt.windows(word.len()).any(|parts| parts == word)
}

/// The place of the first of these words that a word is, if it is one of them.
pub fn find_word(words: &[String], word: &str) -> Option<usize> {
    let wanted = canonical(word);
    words.iter().position(|other| *other == wanted || canonical(other) == wanted)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn writings_of_one_word_are_one_word() {
        for text in ["cat", "Cat", "CAT", " cat ", "\tcat\r\n", "\u{a0}Cat\u{3000}"] {
            assert_eq!(canonical(text), "cat", "{text:?}");
        }
        assert_eq!(canonical("Van \n Gogh"), "van gogh");
        // Composed or not, and signs that Unicode holds twice.
        assert_eq!(canonical("Cafe\u{301}"), "caf\u{e9}");
        assert_eq!(canonical("\u{212b}\u{212a}"), "\u{e5}k");
        // No word's end is looked for.
        assert_eq!(canonical("ΟΔΟΣ"), "οδοσ");
        assert!(same_words("Cat", " cat") && !same_words("cat", "cats"));
        // Not what NFC joins: these are other tokens.
        assert!(!same_words("ﬁsh", "fish") && !same_words("t-shirt", "t shirt"));
        assert_eq!(find_word(&["dog".to_owned(), "Cat".to_owned()], "cat "), Some(1));
        assert_eq!(canonical("  \t"), "");
    }

    #[test]
    fn added_tokens_are_left_as_they_are_written() {
        assert_eq!(canonical("A  <S1> Toy"), "a <S1> toy");
        assert_eq!(canonical("<S1><S2>"), "<S1><S2>");
        for (text, lowered) in [("A <B", "a <b"), ("<A <B>", "<a <B>"), ("<A B>", "<a b>")] {
            assert_eq!(canonical(text), lowered);
        }
        assert_eq!(canonical("I <3 CATS >"), "i <3 cats >");
    }

    #[test]
    fn a_prompt_names_whole_words() {
        for word in ["dog", "mat", "Red  Mat", "dog's"] {
            assert!(names_word("a Dog\u{2019}s, a dog's red mat.", word), "{word}");
        }
        for word in ["do", "ma", "mat red", "", "!"] {
            assert!(!names_word("a dog's red mat.", word), "{word}");
        }
    }

    proptest! {
        #[test]
        fn a_canonical_text_stays(text in "\\PC{0,24}") {
            let once = canonical(&text);
            prop_assert_eq!(canonical(&once), once);
        }
    }
}
