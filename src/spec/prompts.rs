//! Prompts, and the sentences that concepts are put into.

use super::ConceptKind;

/// A prompt made of parts, so that one part can be taken out or replaced.
///
/// The sentences are those of UnlearnCanvas: "a cat in neon style", "a cat",
/// "an emoji in neon style" (where "emoji" is the vocabulary's word for anything at all).
#[derive(Debug, Clone, PartialEq, Eq, Default, PartialOrd, Ord)]
pub struct Prompt {
    /// The object it names, if any.
    pub object: Option<String>,
    /// Whether the object is a name or a mass noun, which takes no article.
    pub proper: bool,
    /// The style it names, if any.
    pub style: Option<String>,
}

impl Prompt {
    /// A prompt that names one concept and nothing else.
    pub fn of(text: &str, kind: ConceptKind) -> Self {
        match kind {
            ConceptKind::Style => Self { style: Some(text.to_owned()), ..Self::default() },
            ConceptKind::Object => Self { object: Some(text.to_owned()), ..Self::default() },
            ConceptKind::Instance | ConceptKind::Nudity => {
                Self { object: Some(text.to_owned()), proper: true, style: None }
            }
        }
    }

    /// The canonical sentence; `anything` is the word for an unnamed object, such as "picture".
    pub fn sentence(&self, anything: &str) -> String {
        self.wording(0, anything)
    }

    /// How many ways there are to word this prompt.
    pub fn wordings(&self) -> usize {
        match (&self.object, &self.style) {
            (Some(_), Some(_)) => 6,
            (Some(_), None) | (None, Some(_)) => 4,
            (None, None) => 1,
        }
    }

    /// One of [`Prompt::wordings`], 0 being canonical.
    pub fn wording(&self, index: usize, anything: &str) -> String {
        let noun = self.object.as_deref().unwrap_or(anything);
        let thing = if self.proper { noun.to_owned() } else { with_article(noun) };
        match (&self.object, &self.style) {
            (Some(_), Some(style)) => match index {
                0 => format!("{thing} in {style} style"),
                1 => format!("a photo of {thing} in {style} style"),
                2 => format!("a picture of {thing} in {style} style"),
                3 => format!("{thing}, {style} style"),
                4 => format!("{style} style {noun}"),
                _ => with_article(&format!("{style} {noun}")),
            },
            (Some(_), None) => match index {
                0 => thing,
                1 => format!("a photo of {thing}"),
                2 => format!("a picture of {thing}"),
                _ => noun.to_owned(),
            },
            (None, Some(style)) => match index {
                0 => format!("{thing} in {style} style"),
                1 => format!("a picture in {style} style"),
                2 => format!("{style} style"),
                _ => format!("something in {style} style"),
            },
            (None, None) => String::new(),
        }
    }
}

/// "a cat", "an apple"; a text that starts with a capital or an article is left alone.
fn with_article(noun: &str) -> String {
    let first = noun.chars().next().unwrap_or(' ');
    let has_article = ["a ", "an ", "the "].iter().any(|article| noun.starts_with(article));
    if has_article || first.is_uppercase() {
        noun.to_owned()
    } else if "aeiou".contains(first) {
        format!("an {noun}")
    } else {
        format!("a {noun}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_those_of_the_grid() {
        let both = Prompt {
            object: Some("apple".into()),
            style: Some("neon".into()),
            ..Prompt::default()
        };
        assert_eq!(both.sentence("emoji"), "an apple in neon style");
        assert_eq!(
            Prompt::of("neon", ConceptKind::Style).sentence("emoji"),
            "an emoji in neon style"
        );
        assert_eq!(Prompt::of("nudity", ConceptKind::Nudity).sentence("picture"), "nudity");
        assert_eq!(Prompt::of("Van Gogh", ConceptKind::Object).sentence("picture"), "Van Gogh");
        assert_eq!(Prompt::default().sentence("picture"), "");
    }

    #[test]
    fn every_wording_names_the_concept() {
        for &kind in ConceptKind::ALL {
            let prompt = Prompt::of("cat", kind);
            for index in 0..prompt.wordings() {
                assert!(prompt.wording(index, "emoji").contains("cat"));
            }
        }
    }
}
