//! The names of fields, on the wire and in specs, as the flags that set them.

/// The flag that sets a field, with the field's path where that is more precise; or the path alone.
pub(in crate::cli) fn flag_and_path(path: &str) -> String {
    let name = path.split(['.', '[']).next().unwrap_or(path);
    match of_spec(path).or_else(|| flag(name)) {
        None => path.to_owned(),
        Some(flag) if flag[2..].replace('-', "_") == path => flag.to_owned(),
        Some(flag) => format!("{flag} ({path})"),
    }
}

/// The flag of a field that has none of its own name in a spec, since it lies deeper there.
fn of_spec(path: &str) -> Option<&'static str> {
    match path.rsplit('.').next()? {
        "updates" => Some("--updates"),
        "learning_rate" | "relative_rate" => Some("--learning-rate"),
        "replacement" => Some("--replace-with"),
        _ if path.starts_with("method.key_steps") => Some("--window"),
        _ => None,
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
        "init_image" => "--init-image",
        "strength" => "--strength",
        "sampler" | "evaluate_sampler" => "--sampler",
        "width" => "--width",
        "height" => "--height",
        "prompt" | "pictures" => "--prompt",
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
                assert!(flag(field.name()).is_some(), "{}.{}", message.name(), field.name());
            }
        }
        assert_eq!(seen, 4);
    }
}
