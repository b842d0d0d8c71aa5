//! Writes the README of a published result: a model card as Hugging Face reads them. Equal work
//! gives equal bytes, so it names no time, job or address.

use std::{fmt, fmt::Write as _};

use super::{
    MANIFEST,
    markup::{address, plain, quoted},
};
use crate::{
    artifacts::diffusers::UNET_WEIGHTS,
    jobs::{EvaluateWork, UnlearnWork, Work},
    outcome::{ConceptVerdict, Figures, FinishedResult, result_layout::DELTA},
    spec::{Concept, Scope},
};

/// The model card's name in a result's folder.
pub(super) const MODEL_CARD: &str = "README.md";

/// What a card is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct ModelCard<'a> {
    pub(super) work: &'a Work,
    pub(super) result: &'a FinishedResult,
    /// The base model's licence, as Hugging Face names it, where it is known.
    pub(super) license: Option<&'a str>,
}

impl ModelCard<'_> {
    /// The card's text.
    pub(super) fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = match self.work {
            Work::Unlearn(work) => self.write_erasure(&mut text, work),
            Work::Evaluate(work) => self.write_judgement(&mut text, work),
        };
        text
    }

    fn write_erasure(&self, out: &mut String, work: &UnlearnWork) -> fmt::Result {
        let method = work.spec.method.name().name();
        writeln!(out, "---")?;
        if let Some(license) = self.license {
            writeln!(out, "license: {}", quoted(license))?;
        }
        writeln!(out, "base_model: {}", quoted(&work.base_model))?;
        writeln!(out, "base_model_relation: finetune")?;
        writeln!(out, "library_name: diffusers")?;
        writeln!(out, "pipeline_tag: text-to-image")?;
        writeln!(out, "tags:\n  - concept-erasure\n  - keystep")?;
        if method != "keystep" {
            writeln!(out, "  - {method}")?;
        }
        writeln!(out, "erased_concepts:")?;
        for concept in &work.spec.concepts {
            writeln!(out, "  - {}", quoted(&concept.text))?;
        }
        writeln!(out, "---\n")?;

        let names: Vec<_> = work.spec.concepts.iter().map(|concept| plain(&concept.text)).collect();
        let base = plain(&work.base_model);
        writeln!(out, "# {base} without {}\n", names.join(", "))?;
        writeln!(
            out,
            "This is {base}, fine-tuned by Keystep so that it does \
             not draw the following any more:\n",
        )?;
        for concept in &work.spec.concepts {
            write_concept(out, concept)?;
        }
        self.write_training(out, work, method)?;
        self.write_figures(out)?;
        self.write_sheets(out)?;
        self.write_loading(out, &work.base_model)?;
        write_origin(out, &work.base_digest)
    }

    fn write_judgement(&self, out: &mut String, work: &EvaluateWork) -> fmt::Result {
        let (edited, base) = (plain(&work.edited_model), plain(&work.base_model));
        writeln!(out, "# {edited} judged against {base}\n")?;
        writeln!(out, "Whether the edited model still draws this, and what else it draws:\n")?;
        write_concept(out, &work.spec.concept)?;
        self.write_figures(out)?;
        self.write_sheets(out)?;
        write_origin(out, &work.base_digest)
    }

    fn write_training(&self, out: &mut String, work: &UnlearnWork, method: &str) -> fmt::Result {
        let result = self.result;
        writeln!(out, "\n## How\n")?;
        writeln!(out, "| | |\n| --- | --- |")?;
        writeln!(out, "| method | {method} |")?;
        writeln!(out, "| tensors trained | {} |", scope(&work.spec.scope))?;
        writeln!(out, "| updates | {} |", result.updates)?;
        if let (Some(first), Some(last)) = (result.key_steps.first(), result.key_steps.last()) {
            let count = result.key_steps.len();
            writeln!(out, "| key steps | {count}, from {} to {} |", first.0, last.0)?;
        }
        if let Some(window) = result.window {
            let (low, high) = (number(window.low), number(window.high));
            writeln!(out, "| window | log SNR {low} to {high} |")?;
        }
        writeln!(out, "| seed | {} |", work.spec.seed)?;
        writeln!(out, "| U-Net evaluations | {} |", result.unet_evaluations)?;
        if let Some(training) = &result.training {
            let (erase, damage) = (training.erase_measure, training.damage_measure);
            writeln!(out, "| guidance left (1 untouched, 0 neutral) | {} |", number(erase))?;
            writeln!(out, "| change of unrelated predictions | {} |", number(damage))?;
            writeln!(out, "| relative change of weights | {} |", number(training.weight_change))?;
        }
        Ok(())
    }

    fn write_figures(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "\n## Figures\n")?;
        if self.result.verdicts.is_empty() {
            return writeln!(out, "The result was not judged.");
        }
        writeln!(out, "| Concept | Judge | Model | UA | IRA | CRA |")?;
        writeln!(out, "| --- | --- | --- | --- | --- | --- |")?;
        for ConceptVerdict { concept, verdict } in &self.result.verdicts {
            let (concept, judge) = (plain(concept), plain(&verdict.judge));
            for (model, figures) in [("edited", verdict.edited), ("base", verdict.base)] {
                let Figures { ua, ira, cra } = figures;
                let (ua, ira, cra) = (number(ua), number(ira), number(cra));
                writeln!(out, "| {concept} | {judge} | {model} | {ua} | {ira} | {cra} |")?;
            }
        }
        let mut samplers = Vec::new();
        for ConceptVerdict { verdict, .. } in &self.result.verdicts {
            if !samplers.contains(&verdict.sampler.name()) {
                samplers.push(verdict.sampler.name());
            }
        }
        writeln!(
            out,
            "\nThe pictures were drawn with {}. UA is the share of the concept's pictures that the judge does not take for it; IRA \
             and CRA are its accuracies on the other concepts of the same kind and of the other \
             kind (UnlearnCanvas, arXiv 2402.11846). Higher is better.",
            samplers.join(" and ")
        )
    }

    fn write_sheets(&self, out: &mut String) -> fmt::Result {
        let sheets = self.result.files.iter().map(|file| file.name.as_str()).filter(|name| {
            let number =
                name.strip_prefix("before-after").and_then(|rest| rest.strip_suffix(".png"));
            number.is_some_and(|number| !number.contains('/'))
        });
        for (index, sheet) in sheets.enumerate() {
            if index == 0 {
                writeln!(out, "\n## Before and after\n")?;
            }
            writeln!(out, "![Pictures before and after]({})", address(sheet))?;
        }
        Ok(())
    }

    fn write_loading(&self, out: &mut String, base_model: &str) -> fmt::Result {
        let has = |name: &str| self.result.files.iter().any(|file| file.name == name);
        let base = quoted(base_model);
        writeln!(out, "\n## Use\n")?;
        let named = plain(base_model);
        writeln!(out, "With the files of this folder, and {named} as diffusers knows it:")?;
        if has("pipeline/model_index.json") {
            write_code(
                out,
                "The whole pipeline",
                &[
                    "from diffusers import DiffusionPipeline",
                    "",
                    "pipeline = DiffusionPipeline.from_pretrained(\"pipeline\")",
                ],
            )?;
        }
        if has(UNET_WEIGHTS) && has("unet/config.json") {
            write_code(
                out,
                "The U-Net, in the base model's pipeline",
                &[
                    "from diffusers import DiffusionPipeline, UNet2DConditionModel",
                    "",
                    "unet = UNet2DConditionModel.from_pretrained(\"unet\")",
                    &format!("pipeline = DiffusionPipeline.from_pretrained({base}, unet=unet)"),
                ],
            )?;
        }
        if has(DELTA) {
            write_code(
                out,
                "The edited tensors alone, over the base model's",
                &[
                    "from diffusers import DiffusionPipeline",
                    "from safetensors.torch import load_file",
                    "",
                    &format!("pipeline = DiffusionPipeline.from_pretrained({base})"),
                    "edited = load_file(\"delta.safetensors\")",
                    "loaded = pipeline.unet.load_state_dict(edited, strict=False)",
                    "assert not loaded.unexpected_keys",
                ],
            )?;
        }
        Ok(())
    }
}

fn write_origin(out: &mut String, base_digest: &str) -> fmt::Result {
    writeln!(out, "\n## Where it comes from\n")?;
    writeln!(
        out,
        "Made by Keystep {} from a base model with the digest `{}`. The \
         [manifest](../{MANIFEST}) holds the whole spec, and the size and SHA-256 of every \
         file.",
        env!("CARGO_PKG_VERSION"),
        base_digest.replace('`', ""),
    )
}

fn write_concept(out: &mut String, concept: &Concept) -> fmt::Result {
    write!(out, "- {} ({})", plain(&concept.text), concept.kind)?;
    match &concept.replacement {
        Some(replacement) => writeln!(out, ", with {} in its place", plain(replacement)),
        None => writeln!(out),
    }
}

fn write_code(out: &mut String, title: &str, lines: &[&str]) -> fmt::Result {
    writeln!(out, "\n{title}:\n\n```python\n{}\n```", lines.join("\n"))
}

fn scope(scope: &Scope) -> String {
    match scope {
        Scope::CrossAttention => "cross-attention".to_owned(),
        Scope::CrossAttentionKeyValue => "cross-attention, keys and values".to_owned(),
        Scope::NonCrossAttention => "all but cross-attention".to_owned(),
        Scope::All => "all".to_owned(),
        Scope::NameContains(text) => format!("those whose name contains {}", plain(text)),
    }
}

/// A figure, or a dash where it is not finite.
fn number(figure: f64) -> String {
    if figure.is_finite() { format!("{figure:.3}") } else { "–".to_owned() }
}
