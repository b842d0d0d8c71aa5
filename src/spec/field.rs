//! The fields of specs and requests: one table of how specs, the wire and the command line name them.

use std::fmt;

macro_rules! fields {
    ($($field:ident $spec:literal $wire:ident $flag:literal;)*) => {
        /// A field of a spec or a request, wherever in a list it stands.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Field {
            $($field,)*
        }

        impl Field {
            #[cfg(feature = "client")]
            const ALL: &[Self] = &[$(Self::$field,)*];

            /// Its name in specs, in which `[]` is the place in a list; the field of the request
            /// that holds it; and the flag that sets it, empty where none does.
            const fn row(self) -> (&'static str, Self, &'static str) {
                match self {
                    $(Self::$field => ($spec, Self::$wire, $flag),)*
                }
            }
        }
    };
}

fields! {
    // Here                      in specs                        on the wire         flag
    AfterSequence                "after_sequence"                AfterSequence       "--after-sequence";
    Attacks                      "attacks"                       Attacks             "--attack";
    Auto                         "auto"                          Auto                "";
    BaseModel                    "base_model"                    BaseModel           "--base-model";
    Concept                      "concept"                       Concept             "--concept";
    ConceptText                  "concept.text"                  Concept             "--concept";
    ConceptReplacement           "concept.replacement"           Concept             "--replace-with";
    ConceptKind                  "concept_kind"                  ConceptKind         "--kind";
    Concepts                     "concepts"                      Concepts            "--concept";
    ConceptsText                 "concepts[].text"               Concepts            "--concept";
    ConceptsReplacement          "concepts[].replacement"        Replacements        "--replace-with";
    Count                        "count"                         Count               "--count";
    Deadline                     "deadline"                      Deadline            "--deadline";
    Destination                  "destination"                   Destination         "--destination";
    Distances                    "distances"                     Distances           "--distances";
    EditedModel                  "edited_model"                  EditedModel         "--model";
    Evaluate                     "evaluate"                      Evaluate            "--evaluate";
    EvaluateSampler              "evaluate_sampler"              EvaluateSampler     "--sampler";
    Filter                       "filter"                        Filter              "--filter";
    GuidanceScale                "guidance_scale"                GuidanceScale       "--guidance-scale";
    Height                       "height"                        Height              "--height";
    HeldOut                      "held_out"                      HeldOut             "--hold-out";
    InitImage                    "init_image"                    InitImage           "--init-image";
    Judges                       "judges"                        Judges              "--judge";
    KeySteps                     "key_steps"                     KeySteps            "";
    KeyStepsEndStep              "key_steps.end_step"            KeyStepsEndStep     "";
    KeyStepsIterations           "key_steps.iterations"          KeyStepsIterations  "";
    KeyStepsStartStep            "key_steps.start_step"          KeyStepsStartStep   "";
    Kind                         "kind"                          ConceptKind         "--kind";
    Labels                       "labels"                        Labels              "--label";
    LearningRate                 "learning_rate"                 LearningRate        "--learning-rate";
    Measures                     "measures"                      Measures            "--no-switch-curve";
    Method                       "method"                        Method              "--method";
    MethodAnchorTrajectories     "method.anchor_trajectories"    Method              "--method";
    MethodAugmentedShare         "method.augmented_share"        Method              "--method";
    MethodBareShare              "method.bare_share"             Method              "--method";
    MethodConceptTrajectories    "method.concept_trajectories"   Method              "--method";
    MethodEffectExponent         "method.effect_exponent"        Method              "--method";
    MethodEmbeddingNoise         "method.embedding_noise"        Method              "--method";
    MethodEmptyShare             "method.empty_share"            Method              "--method";
    MethodEraseBatch             "method.erase_batch"            Method              "--method";
    MethodFirstKeyStep           "method.first_key_step"         KeyStepsStartStep   "--method";
    MethodGuidanceScale          "method.guidance_scale"         Method              "--method";
    MethodKeySteps               "method.key_steps"              Window              "--window";
    MethodLearningRate           "method.learning_rate"          LearningRate        "--learning-rate";
    MethodLoopN                  "method.loop_n"                 Method              "--method";
    MethodNegativeGuidance       "method.negative_guidance"      Method              "--method";
    MethodPreserveBatch          "method.preserve_batch"         Method              "--method";
    MethodPreserveInside         "method.preserve_inside"        Method              "--method";
    MethodPreserveTrajectories   "method.preserve_trajectories"  Method              "--method";
    MethodPreserveWeight         "method.preserve_weight"        Method              "--method";
    MethodRelativeRate           "method.relative_rate"          LearningRate        "--learning-rate";
    MethodScheduleSteps          "method.schedule_steps"         KeyStepsEndStep     "--method";
    MethodStopBelow              "method.stop_below"             Method              "--method";
    MethodTimestepSlope          "method.timestep_slope"         Method              "--method";
    MethodUnconditionalWeight    "method.unconditional_weight"   Method              "--method";
    MethodUpdates                "method.updates"                Updates             "--updates";
    Model                        "model"                         Model               "--model";
    Name                         "name"                          Name                "";
    NegativePrompt               "negative_prompt"               NegativePrompt      "--negative-prompt";
    OutputFormats                "output_formats"                OutputFormats       "--output-format";
    PageSize                     "page_size"                     PageSize            "";
    PageToken                    "page_token"                    PageToken           "";
    Pictures                     "pictures"                      Prompt              "--prompt";
    PicturesPrompt               "pictures[].prompt"             Prompt              "--prompt";
    Preserve                     "preserve"                      Preserve            "--preserve";
    PreviewEverySteps            "preview_every_steps"           PreviewEverySteps   "--preview-every";
    Priority                     "priority"                      Priority            "--priority";
    Probes                       "probes"                        Probes              "--probes";
    ProbesDescriptions           "probes.descriptions"           ProbesDescriptions  "--description";
    ProbesNeighbours             "probes.neighbours"             ProbesNeighbours    "";
    ProbesSeeds                  "probes.seeds"                  ProbesSeeds         "--probe-seeds";
    ProbesSynonyms               "probes.synonyms"               ProbesSynonyms      "--synonym";
    ProbesTranslations           "probes.translations"           ProbesTranslations  "--translation";
    Prompt                       "prompt"                        Prompt              "--prompt";
    Replacements                 "replacements"                  Replacements        "--replace-with";
    RequestId                    "request_id"                    RequestId           "--request-id";
    RetainSeeds                  "retain_seeds"                  RetainSeeds         "--retain-seeds";
    Sampler                      "sampler"                       Sampler             "--sampler";
    Scope                        "scope"                         Scope               "--scope";
    ScopeNameContains            "scope_name_contains"           ScopeNameContains   "--scope";
    ScoreDigest                  "score_digest"                  ScoreDigest         "--score-digest";
    Seed                         "seed"                          Seed                "--seed";
    Seeds                        "seeds"                         Seeds               "--seed";
    Show                         "show"                          Show                "--show";
    Steps                        "steps"                         Steps               "--steps";
    Strength                     "strength"                      Strength            "--strength";
    Suites                       "suites"                        Suites              "--suite";
    TargetSeeds                  "target_seeds"                  TargetSeeds         "--target-seeds";
    Timeout                      "timeout"                       Timeout             "";
    Timestep                     "timestep"                      Timestep            "";
    Trajectories                 "trajectories"                  Trajectories        "--trajectories";
    Updates                      "updates"                       Updates             "--updates";
    Vocabulary                   "vocabulary"                    Vocabulary          "--vocabulary";
    VocabularyAnything           "vocabulary.anything"           VocabularyAnything  "--vocabulary";
    VocabularyObjects            "vocabulary.objects"            VocabularyObjects   "--vocabulary";
    VocabularyStyles             "vocabulary.styles"             VocabularyStyles    "--vocabulary";
    Width                        "width"                         Width               "--width";
    Window                       "window"                        Window              "--window";
}

impl Field {
    /// An entry of the list.
    pub(crate) fn at(self, index: usize) -> FieldPath {
        FieldPath { field: self, place: Some(PathSegment::Index(index)) }
    }

    /// An entry of the map, such as `labels["team"]`.
    #[cfg(feature = "server")]
    pub(crate) fn key(self, key: &str) -> FieldPath {
        const MOST_CHARACTERS: usize = 60;
        let shown = key.chars().take(MOST_CHARACTERS).collect();
        FieldPath { field: self, place: Some(PathSegment::Key(shown)) }
    }

    /// The flag of the command line that sets it, if any does.
    #[cfg(feature = "client")]
    pub(crate) fn flag(self) -> Option<&'static str> {
        Some(self.row().2).filter(|flag| !flag.is_empty())
    }

    /// The field of a path, as specs or requests name it; that of its first segment where the rest
    /// is not known, as of a newer server.
    #[cfg(feature = "client")]
    pub(crate) fn of_path(path: &str) -> Option<Self> {
        let known = FieldPath::parse(path).map(|path| path.field);
        known.or_else(|| Self::named(path.split(['.', '[']).next()?))
    }

    #[cfg(feature = "client")]
    fn named(spec: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|field| field.row().0 == spec)
    }
}

/// Which entry of a list or a map.
#[derive(Debug, Clone, PartialEq, Eq)]
enum PathSegment {
    /// From 0.
    Index(usize),
    #[cfg(feature = "server")]
    Key(String),
}

impl fmt::Display for PathSegment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => write!(f, "{index}"),
            #[cfg(feature = "server")]
            Self::Key(key) => write!(f, "{key:?}"),
        }
    }
}

/// A field of a spec or a request, with its place where it is one of several; written as
/// `concepts[2].text`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldPath {
    pub(crate) field: Field,
    place: Option<PathSegment>,
}

impl FieldPath {
    /// Whether it is a word of the vocabulary, or all of it.
    #[cfg(feature = "server")]
    pub(crate) fn is_of_vocabulary(&self) -> bool {
        self.field.row().0.starts_with(Field::Vocabulary.row().0)
    }

    /// Where it is in its list.
    #[cfg(feature = "server")]
    pub(crate) fn index(&self) -> Option<usize> {
        match self.place {
            Some(PathSegment::Index(index)) => Some(index),
            _ => None,
        }
    }

    /// Reads what is written so, but for the keys of maps; none where there is no such field.
    #[cfg(feature = "client")]
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let Some((list, rest)) = path.split_once('[') else {
            return Field::named(path).map(Self::from);
        };
        match rest.split_once(']')? {
            ("", _) => Field::named(path).map(Self::from),
            (place, rest) => {
                let name =
                    if rest.is_empty() { list.to_owned() } else { format!("{list}[]{rest}") };
                Some(Field::named(&name)?.at(place.parse().ok()?))
            }
        }
    }

    /// The text of the concept that this path names.
    pub(crate) fn text(&self) -> Self {
        self.of_concept(Field::ConceptText, Field::ConceptsText)
    }

    /// The replacement of the concept that this path names.
    pub(crate) fn replacement(&self) -> Self {
        self.of_concept(Field::ConceptReplacement, Field::ConceptsReplacement)
    }

    fn of_concept(&self, alone: Field, listed: Field) -> Self {
        let field = if self.field == Field::Concept { alone } else { listed };
        Self { field, place: self.place.clone() }
    }

    /// The same as requests name it, where the request itself is not at hand.
    #[cfg(feature = "server")]
    pub(crate) fn on_wire(self) -> Self {
        let field = self.field.row().1;
        // All pictures have one prompt, and replacements go by the concepts' texts.
        let is_one = matches!(field, Field::Prompt) || self.field == Field::ConceptsReplacement;
        Self { field, place: self.place.filter(|_| !is_one) }
    }
}

impl From<Field> for FieldPath {
    fn from(field: Field) -> Self {
        Self { field, place: None }
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.field.row().0;
        match (&self.place, name.split_once("[]")) {
            (None, _) => f.write_str(name),
            (Some(place), None) => write!(f, "{name}[{place}]"),
            (Some(place), Some((list, rest))) => write!(f, "{list}[{place}]{rest}"),
        }
    }
}

#[cfg(all(test, feature = "server"))]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_as_it_is_written() {
        for (path, text) in [
            (Field::Steps.into(), "steps"),
            (Field::Preserve.at(3), "preserve[3]"),
            (Field::ConceptsText.at(2), "concepts[2].text"),
            (Field::ConceptsReplacement.into(), "concepts[].replacement"),
            (Field::VocabularyStyles.at(0), "vocabulary.styles[0]"),
        ] {
            assert_eq!(path.to_string(), text);
            assert_eq!(FieldPath::parse(text), Some(path));
        }
        for field in Field::ALL {
            assert_eq!(FieldPath::parse(field.row().0), Some(FieldPath::from(*field)));
        }
        for unknown in ["", "step", "concepts[x].text", "concepts[1", "steps[0].odd"] {
            assert_eq!(FieldPath::parse(unknown), None, "{unknown}");
        }
        assert_eq!(Field::Labels.key("a\"b").to_string(), r#"labels["a\"b"]"#);
    }

    #[test]
    fn fields_of_specs_are_named_as_on_the_wire() {
        for (field, wire) in [
            ("method.updates", "updates"),
            ("method.key_steps", "window"),
            ("method.bare_share", "method"),
            ("concept.text", "concept"),
            ("concepts[3].text", "concepts[3]"),
            ("concepts[3].replacement", "replacements"),
            ("pictures[0].prompt", "prompt"),
            ("vocabulary.styles[1]", "vocabulary.styles[1]"),
            ("width", "width"),
        ] {
            let path = FieldPath::parse(field).unwrap();
            assert_eq!(path.on_wire().to_string(), wire);
        }
    }
}
