//! The wire's field names as the flags that set them.

/// The flag that sets a field, with the field's path where that says more; or the path alone.
pub(super) fn flag_and_path(path: &str) -> String {
    let name = path.split(['.', '[']).next().unwrap_or(path);
    match flag(name) {
        None => path.to_owned(),
        Some(flag) if flag[2..].replace('-', "_") == path => flag.to_owned(),
        Some(flag) => format!("{flag} ({path})"),
    }
}

/// No two verbs give one name to different flags.
fn flag(name: &str) -> Option<&'static str> {
    Some(match name {
        "base_model" => "--base-model",
        "model" | "edited_model" => "--model",
        "concept" | "concepts" => "--concept",
        "concept_kind" => "--kind",
        "replacements" => "--replace-with",
        "preserve" => "--preserve",
        "vocabulary" => "--vocabulary",
        "method" => "--method",
        "scope" | "scope_name_contains" => "--scope",
        "updates" => "--updates",
        "learning_rate" => "--learning-rate",
        "window" => "--window",
        "score_digest" => "--score-digest",
        "seed" | "seeds" => "--seed",
        "count" => "--count",
        "steps" => "--steps",
        "trajectories" => "--trajectories",
        "measures" => "--no-switch-curve",
        "guidance_scale" => "--guidance-scale",
        "width" => "--width",
        "height" => "--height",
        "prompt" => "--prompt",
        "negative_prompt" => "--negative-prompt",
        "preview_every_steps" => "--preview-every",
        "target_seeds" => "--target-seeds",
        "retain_seeds" => "--retain-seeds",
        "output_formats" => "--output-format",
        "destination" => "--destination",
        "labels" => "--label",
        "deadline" => "--deadline",
        "priority" => "--priority",
        "evaluate" => "--evaluate",
        "request_id" => "--request-id",
        "after_sequence" => "--after-sequence",
        "filter" => "--filter",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_is_told_with_the_path_where_that_says_more() {
        for (path, told) in [
            ("updates", "--updates"),
            ("learning_rate", "--learning-rate"),
            ("concepts[2]", "--concept (concepts[2])"),
            ("window.low", "--window (window.low)"),
            ("concept_kind", "--kind (concept_kind)"),
            ("page_size", "page_size"),
            ("", ""),
        ] {
            assert_eq!(flag_and_path(path), told);
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
            let unset = ["key_steps", "auto", "sampler", "validate_only", "force"];
            for field in message.field.iter().filter(|field| !unset.contains(&field.name())) {
                assert!(flag(field.name()).is_some(), "{}.{}", message.name(), field.name());
            }
        }
        assert_eq!(seen, 4);
    }
}
