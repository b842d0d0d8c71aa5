//! Fields, as specs and the wire name them, by the flags that set them.

use crate::spec::Field;

/// The flag that sets a field, with the field's path where that is more precise; or the path alone.
pub(in crate::cli) fn flag_and_path(path: &str) -> String {
    match Field::of_path(path).and_then(Field::flag) {
        None => path.to_owned(),
        Some(flag) if flag[2..].replace('-', "_") == path => flag.to_owned(),
        Some(flag) => format!("{flag} ({path})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_is_named_with_the_path_where_that_says_more() {
        for (path, shown) in [
            ("updates", "--updates"),
            ("learning_rate", "--learning-rate"),
            ("concepts[2]", "--concept (concepts[2])"),
            ("window.low", "--window (window.low)"),
            ("concept_kind", "--kind (concept_kind)"),
            ("page_size", "page_size"),
            ("method.updates", "--updates (method.updates)"),
            ("method.relative_rate", "--learning-rate (method.relative_rate)"),
            ("concepts[0].replacement", "--replace-with (concepts[0].replacement)"),
            ("concepts[1].text", "--concept (concepts[1].text)"),
            ("pictures[0].prompt", "--prompt (pictures[0].prompt)"),
            ("", ""),
        ] {
            assert_eq!(flag_and_path(path), shown);
        }
    }

    #[test]
    fn every_field_of_the_requests_has_its_flag() {
        use prost::Message;
        use prost_types::FileDescriptorSet;

        let set = FileDescriptorSet::decode(crate::proto::DESCRIPTOR_SET).unwrap();
        let messages = set.file.iter().flat_map(|file| &file.message_type);
        let mut seen = 0;
        for message in messages {
            let verb = ["UnlearnConcept", "EvaluateErasure", "ScoreTimesteps", "Generate"];
            if !verb.iter().any(|verb| message.name() == format!("{verb}Request")) {
                continue;
            }
            seen += 1;
            // The verbs do not set these: published methods run as published, and flags that only
            // switch something on cannot be wrong.
            let unset = ["key_steps", "auto", "validate_only", "force"];
            for field in message.field.iter().filter(|field| !unset.contains(&field.name())) {
                let flag = Field::of_path(field.name()).and_then(Field::flag);
                assert!(flag.is_some(), "{}.{}", message.name(), field.name());
            }
        }
        assert_eq!(seen, 4);
    }
}
