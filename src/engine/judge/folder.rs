//! The folder of a judge that a user gives, as a component of a model's folder: all that reads a
//! component then reads it.

use crate::spec::{FileError, ModelFiles, ReadSeek};

/// A judge's folder as one component of the folder that it lies in.
#[derive(Debug)]
pub(super) struct JudgeFolder<'a> {
    inside: &'a dyn ModelFiles,
    /// How messages name the folder that the judge's folder lies in.
    parent: String,
    /// The component's name, and with a slash.
    component: String,
    prefix: String,
    names: Vec<String>,
}

impl<'a> JudgeFolder<'a> {
    pub(super) fn new(inside: &'a dyn ModelFiles) -> Self {
        let location = inside.location().trim_end_matches('/');
        let (parent, component) = match location.rsplit_once('/') {
            Some((parent, component)) if !component.is_empty() => (parent, component),
            _ => (".", if location.is_empty() { "judge" } else { location }),
        };
        let prefix = format!("{component}/");
        Self {
            inside,
            parent: parent.to_owned(),
            component: component.to_owned(),
            names: inside.names().iter().map(|name| format!("{prefix}{name}")).collect(),
            prefix,
        }
    }

    /// The component's name.
    pub(super) fn component(&self) -> &str {
        &self.component
    }

    /// Whether the judge's folder holds a file of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.inside.names().iter().any(|file| file == name)
    }
}

impl ModelFiles for JudgeFolder<'_> {
    fn location(&self) -> &str {
        &self.parent
    }

    fn names(&self) -> &[String] {
        &self.names
    }

    fn open(&self, name: &str) -> Result<(Box<dyn ReadSeek>, u64), FileError> {
        self.inside.open(name.strip_prefix(&self.prefix).unwrap_or(name))
    }
}
