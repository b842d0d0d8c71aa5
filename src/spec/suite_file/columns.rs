//! Which columns of a file mean what.

use super::error::SuiteFileError;
use crate::spec::Expectation;

// Names in files, those that are preferred first.
/// I2P and most attack sets; MMA-Diffusion has what its attack found beside the prompt it started from.
const PROMPT: &[&str] = &["adv_prompt", "prompt"];
/// Attack sets and some copies of I2P; I2P; "When Are Concepts Erased".
const SEED: &[&str] = &["evaluation_seed", "sd_seed", "seed"];
/// Attack sets and some copies of I2P; I2P; diffusers' own name.
const GUIDANCE: &[&str] =
    &["evaluation_guidance", "sd_guidance_scale", "guidance_scale", "guidance"];
const OBJECT: &[&str] = &["object", "class"];
/// UnlearnCanvas's scripts call a style a theme.
const STYLE: &[&str] = &["style", "theme"];
/// Names that are no prompt, so that a first line with them is a header.
const OTHERS: &[&str] = &[
    "case_number", "categories", "hard", "text", "caption", "prompts", "clean_prompt",
    "target_prompt", "sd_model", "lexica_url",
];

/// Places of the columns that are read.
#[derive(Debug, Default)]
pub(super) struct Columns {
    /// None where object and style make the prompt.
    pub(super) prompt: Option<usize>,
    pub(super) seed: Option<usize>,
    pub(super) guidance: Option<usize>,
    pub(super) object: Option<usize>,
    pub(super) style: Option<usize>,
}

impl Columns {
    /// Of a file without a header.
    pub(super) const PROMPT_ALONE: Self =
        Self { prompt: Some(0), seed: None, guidance: None, object: None, style: None };

    /// Whether a first line names columns: one name that is known is enough.
    pub(super) fn are_named_by(cells: &[String]) -> bool {
        let known = [PROMPT, SEED, GUIDANCE, OBJECT, STYLE, OTHERS];
        cells.iter().any(|cell| known.iter().any(|names| names.contains(&plain(cell).as_str())))
    }

    /// Finds what is read; an error names what is there and what is missing.
    pub(super) fn find(header: &[String], expects: Expectation) -> Result<Self, SuiteFileError> {
        let prompt = find(header, PROMPT)?;
        let mut columns = Self {
            prompt,
            seed: find(header, SEED)?,
            guidance: find(header, GUIDANCE)?,
            ..Self::default()
        };
        // Nobody asks what pictures of the concept show: the concept or not.
        if prompt.is_none() || expects == Expectation::Kept {
            columns.object = find(header, OBJECT)?;
            columns.style = find(header, STYLE)?;
        }
        let missing = |wanted: &str| SuiteFileError::MissingColumn {
            wanted: wanted.to_owned(),
            found: listed(header),
        };
        match (columns.prompt, columns.object, columns.style) {
            (None, None, _) | (None, _, None) => Err(missing(
                "\"prompt\" or \"adv_prompt\", and not both \"object\" and \"style\" either; name \
                 its prompts so, or its file .txt if it has one prompt a line",
            )),
            (Some(_), None, None) if expects == Expectation::Kept => Err(missing(
                "\"object\" (or \"class\") or \"style\" (or \"theme\"), which says what should be \
                 kept",
            )),
            _ => Ok(columns),
        }
    }

    /// Names of the columns that are read, as the file has them.
    pub(super) fn names(&self, header: &[String]) -> Vec<String> {
        let read = [self.prompt, self.seed, self.guidance, self.object, self.style];
        let name = |column: usize| header.get(column).map(|name| name.trim().to_owned());
        read.into_iter().flatten().filter_map(name).collect()
    }
}

fn find(header: &[String], names: &[&str]) -> Result<Option<usize>, SuiteFileError> {
    for wanted in names {
        let mut found =
            header.iter().enumerate().filter(|(_, name)| plain(name) == *wanted).map(|(at, _)| at);
        match (found.next(), found.next()) {
            (None, _) => {}
            (place, None) => return Ok(place),
            _ => return Err(SuiteFileError::DuplicateColumn { column: (*wanted).to_owned() }),
        }
    }
    Ok(None)
}

fn plain(name: &str) -> String {
    name.trim().to_ascii_lowercase()
}

/// Names as a message shows them, however many and long they are.
fn listed(header: &[String]) -> String {
    const MOST: usize = 16;
    const MOST_CHARACTERS: usize = 40;
    let shown = header.iter().take(MOST).map(|name| {
        let short: String = name.chars().take(MOST_CHARACTERS).collect();
        format!("{short:?}")
    });
    let shown = shown.collect::<Vec<_>>().join(", ");
    match header.len().saturating_sub(MOST) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
