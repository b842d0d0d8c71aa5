//! What an attack is tried on: words, contexts and seeds, split into those that it may use and those
//! that it is judged on.

use crate::{
    engine::schedule::NoiseSource,
    spec::{AttackSpec, ConceptKind, JudgeSpec, Prompt, find_word},
};

/// Letters that make no word of any language that a model was trained on.
const CONSONANTS: &[u8] = b"bcdfghjklmnpqrstvwxz";
/// Letters of a word that nothing is called by.
const NONSENSE: usize = 5;

/// Words, contexts and seeds of one attack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ground {
    kind: ConceptKind,
    anything: String,
    /// The concept's word.
    pub(super) concept: String,
    /// Its place among its domain's words.
    pub(super) place: usize,
    /// The domain's other words.
    pub(super) others: Vec<String>,
    /// Another word of the domain, or nonsense where there is none.
    pub(super) decoy: String,
    /// A word that nothing is called by.
    pub(super) nonsense: String,
    /// Contexts that the attack may use; none stands for the bare word.
    search_contexts: Vec<Option<String>>,
    judged_contexts: Vec<Option<String>>,
    seed: u64,
}

/// What a prompt is drawn for, each with seeds of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The attack's search or training.
    Search,
    /// The attack's choice of the best that it found.
    Choose,
    /// Counting its success.
    Judge,
    /// Whether the training spoils the base model.
    Retain,
}

/// A prompt's context, and the seed that it is drawn with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) context: Option<String>,
    pub(super) seed: u64,
}

impl Ground {
    /// Of a judgement that is valid.
    pub(super) fn new(spec: &JudgeSpec, attack: &AttackSpec) -> Self {
        let kind = spec.concept.kind;
        let (domain, others) = (spec.vocabulary.domain(kind), spec.vocabulary.other_domain(kind));
        let mut noise = NoiseSource::new(attack.seed ^ 0x0a77_ac45);
        let place = find_word(domain, &spec.concept.text).unwrap_or(0);
        let not_concept = domain.iter().enumerate().filter(|(index, _)| *index != place);
        let domains_others: Vec<String> = not_concept.map(|(_, word)| word.clone()).collect();
        let mut contexts: Vec<_> = others.iter().cloned().map(Some).collect();
        noise.shuffle(&mut contexts);
        let (search, judged) = match contexts.len() {
            0 => (vec![None], vec![None]),
            1 => (contexts.clone(), contexts),
            count => {
                let judged = contexts.split_off(count / 2);
                (contexts, judged)
            }
        };
        let nonsense = nonsense(&mut noise);
        let decoy = domains_others.get(noise.index(domains_others.len()));
        Self {
            kind,
            anything: spec.vocabulary.anything.clone(),
            concept: spec.concept.text.clone(),
            place,
            decoy: decoy.unwrap_or(&nonsense).clone(),
            others: domains_others,
            nonsense,
            search_contexts: search,
            judged_contexts: judged,
            seed: attack.seed,
        }
    }

    /// So many contexts and seeds for a purpose.
    pub(super) fn places(&self, purpose: Purpose, count: usize) -> Vec<Place> {
        // Seeds far apart, so that no two purposes share a picture's noise.
        let (start, contexts) = match purpose {
            Purpose::Search => (100_000_000, &self.search_contexts),
            Purpose::Choose => (200_000_000, &self.search_contexts),
            Purpose::Judge => (300_000_000, &self.judged_contexts),
            Purpose::Retain => (400_000_000, &self.judged_contexts),
        };
        let places = contexts.iter().cycle().take(count).enumerate();
        places
            .map(|(index, context)| Place {
                context: context.clone(),
                seed: self.seed.wrapping_add(start).wrapping_add(7_919 * index as u64),
            })
            .collect()
    }

    /// A sentence of a word in a context.
    pub(super) fn sentence(&self, word: &str, context: Option<&str>) -> String {
        self.in_context(Prompt::of(word, self.kind), context)
    }

    /// The same without any word of the domain.
    pub(super) fn without_word(&self, context: Option<&str>) -> String {
        self.in_context(Prompt::default(), context)
    }

    fn in_context(&self, mut prompt: Prompt, context: Option<&str>) -> String {
        let context = context.map(str::to_owned);
        match self.kind {
            ConceptKind::Style => prompt.object = context,
            ConceptKind::Object | ConceptKind::Instance | ConceptKind::Nudity => {
                prompt.style = context;
            }
        }
        prompt.sentence(&self.anything)
    }

    /// What stands before and after a word in its sentence.
    pub(super) fn around(&self, word: &str, context: Option<&str>) -> (String, String) {
        let sentence = self.sentence(word, context);
        // A word may stand in the context too; in a style's sentence it comes last.
        let at = match self.kind {
            ConceptKind::Style => sentence.rfind(word),
            ConceptKind::Object | ConceptKind::Instance | ConceptKind::Nudity => {
                sentence.find(word)
            }
        };
        let at = at.unwrap_or(0);
        let (before, rest) = sentence.split_at(at);
        (before.to_owned(), rest.get(word.len()..).unwrap_or("").to_owned())
    }
}

fn nonsense(noise: &mut NoiseSource) -> String {
    let letter =
        |_| CONSONANTS.get(noise.index(CONSONANTS.len())).map_or('x', |it| char::from(*it));
    (0..NONSENSE).map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{AttackName, Concept, Vocabulary};

    fn ground(objects: &[&str], styles: &[&str], concept: &str, kind: ConceptKind) -> Ground {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let vocabulary = Vocabulary {
            anything: "emoji".to_owned(),
            objects: words(objects),
            styles: words(styles),
        };
        let spec = JudgeSpec::new(Concept::new(concept, kind), vocabulary);
        Ground::new(&spec, &AttackSpec::new(AttackName::Completion))
    }

    #[test]
    fn what_is_searched_on_is_not_what_is_judged_on() {
        let styles = ["flat", "neon", "pixel", "comic", "sketch"];
        let ground = ground(&["cat", "dog", "car"], &styles, "cat", ConceptKind::Object);
        let places = |purpose| ground.places(purpose, 12);
        let (search, judged) = (places(Purpose::Search), places(Purpose::Judge));
        for place in &judged {
            assert!(search.iter().all(|other| other.context != place.context));
            assert!(search.iter().all(|other| other.seed != place.seed));
            assert!(places(Purpose::Choose).iter().all(|other| other.seed != place.seed));
        }
        assert_eq!(judged.len(), 12);
        assert_eq!(ground.others, ["dog", "car"]);
        assert!(ground.others.contains(&ground.decoy));
        assert_eq!(ground, ground.clone());
    }

    #[test]
    fn without_words_to_spare_the_bare_word_is_attacked() {
        let ground = ground(&["cat"], &[], "cat", ConceptKind::Object);
        let places = ground.places(Purpose::Judge, 2);
        assert_eq!(places[0].context, None);
        assert_ne!(places[0].seed, places[1].seed);
        assert_eq!(ground.decoy, ground.nonsense);
        assert_eq!(ground.sentence("cat", None), "a cat");
    }

    #[test]
    fn sentences_open_where_the_word_stands() {
        let object = ground(&["cat"], &["cat eye"], "cat", ConceptKind::Object);
        assert_eq!(
            object.around("cat", Some("cat eye")),
            ("a ".into(), " in cat eye style".into())
        );
        assert_eq!(object.without_word(Some("cat eye")), "an emoji in cat eye style");
        let style = ground(&["neon lamp"], &["neon"], "neon", ConceptKind::Style);
        assert_eq!(
            style.around("neon", Some("neon lamp")),
            ("a neon lamp in ".into(), " style".into())
        );
        assert_eq!(style.without_word(Some("neon lamp")), "a neon lamp");
    }
}
