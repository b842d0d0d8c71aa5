//! The tensors of a judge's file under the names that candle's networks look for.

use std::collections::HashMap;

use candle_core::Tensor;

use crate::engine::{EngineError, nn::Weights};

/// What a classifier takes of its file.
pub(super) struct Taken {
    /// By candle's names.
    pub(super) tensors: HashMap<String, Tensor>,
    /// Rows of its head.
    pub(super) classes: usize,
}

/// Takes tensors of a network that lies anywhere in a file, such as below `model_state_dict`.
pub(super) struct Taking<'a> {
    w: Weights<'a>,
    prefix: String,
    tensors: HashMap<String, Tensor>,
}

impl<'a> Taking<'a> {
    /// Finds the network by one of its tensors, whose name `landmark` is or ends in.
    pub(super) fn below(w: &Weights<'a>, landmark: &str) -> Result<Self, EngineError> {
        let prefixes: Vec<&str> =
            w.surplus().into_iter().filter_map(|name| before(name, landmark)).collect();
        let prefix = match prefixes.as_slice() {
            [prefix] => (*prefix).to_owned(),
            [] => {
                return Err(EngineError::MissingTensor {
                    file: w.location().to_owned(),
                    name: landmark.to_owned(),
                    expected: Vec::new(),
                });
            }
            [first, second, ..] => {
                return Err(EngineError::Config {
                    file: w.location().to_owned(),
                    message: format!(
                        "holds the network twice, below \"{first}\" and \"{second}\"; save the one \
                         that is to judge"
                    ),
                });
            }
        };
        let w = if prefix.is_empty() { w.clone() } else { w.at(&prefix) };
        Ok(Self { w, prefix, tensors: HashMap::new() })
    }

    /// Where in the file the network lies.
    pub(super) fn weights(&self) -> &Weights<'a> {
        &self.w
    }

    /// What stands before its names, without the dot.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Rows of a tensor, as far as the file says; what is not there is refused when it is taken.
    pub(super) fn rows(&self, name: &str) -> usize {
        self.w.dims(name).and_then(|dims| dims.first().copied()).unwrap_or(1)
    }

    /// A tensor that is not used as it is.
    pub(super) fn take(&self, name: &str, shape: &[usize]) -> Result<Tensor, EngineError> {
        self.w.take(name, shape)
    }

    /// Gives a tensor a name.
    pub(super) fn insert(&mut self, to: String, tensor: Tensor) {
        self.tensors.insert(to, tensor);
    }

    /// Takes a tensor under another name.
    pub(super) fn tensor(
        &mut self,
        to: &str,
        from: &str,
        shape: &[usize],
    ) -> Result<(), EngineError> {
        let tensor = self.take(from, shape)?;
        self.insert(to.to_owned(), tensor);
        Ok(())
    }

    /// A module's weight, and a bias as long as the weight has rows.
    pub(super) fn module(
        &mut self,
        to: &str,
        from: &str,
        shape: &[usize],
    ) -> Result<(), EngineError> {
        self.tensor(&format!("{to}.weight"), &format!("{from}.weight"), shape)?;
        let rows = shape.first().copied().unwrap_or(1);
        self.tensor(&format!("{to}.bias"), &format!("{from}.bias"), &[rows])
    }

    /// What was taken of a network whose head has this name in the file. Tensors of the network that
    /// were not taken are refused: it would compute something else with them.
    pub(super) fn finish(self, head: &str) -> Result<Taken, EngineError> {
        let classes = self.rows(&format!("{head}.weight"));
        refuse_surplus(&self.w, &self.prefix)?;
        Ok(Taken { tensors: self.tensors, classes })
    }
}

/// Refuses tensors below a prefix that were not taken.
pub(super) fn refuse_surplus(w: &Weights, prefix: &str) -> Result<(), EngineError> {
    let surplus = w.surplus();
    let below = |name: &&&str| {
        prefix.is_empty() || name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'))
    };
    let Some(name) = surplus.iter().find(below) else { return Ok(()) };
    let relative = name.strip_prefix(prefix).map_or(*name, |rest| rest.trim_start_matches('.'));
    Err(EngineError::SurplusTensor {
        file: w.location().to_owned(),
        name: name.chars().take(200).collect(),
        found: w.dims(relative).unwrap_or_default().to_vec(),
        count: surplus.iter().filter(below).count(),
    })
}

/// What stands before a name's last parts, without the dot; empty where nothing does.
pub(super) fn before<'a>(name: &'a str, end: &str) -> Option<&'a str> {
    let before = name.strip_suffix(end)?;
    if before.is_empty() { Some("") } else { before.strip_suffix('.') }
}
