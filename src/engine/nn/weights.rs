//! How a network takes its weights: by name, shape checked, with the trainable ones as variables.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use candle_core::{DType, Tensor, Var};

use crate::{
    engine::{EngineError, checkpoint::StoredTensors, tape::TapeTensor},
    spec::Scope,
};

/// A place in a component's tensor names, such as `down_blocks.0.resnets.1`.
///
/// Cloning and descending share the tensors; every name that is taken is remembered, so that
/// [`Weights::surplus`] can name what a file holds beyond the architecture.
#[derive(Debug, Clone)]
pub struct Weights<'a> {
    stored: &'a StoredTensors,
    trained: Trained<'a>,
    prefix: String,
    taken: Rc<RefCell<BTreeSet<String>>>,
    passed_over: Rc<RefCell<BTreeSet<String>>>,
}

/// Which of a component's tensors gradients are wanted for.
#[derive(Debug, Clone, Copy)]
enum Trained<'a> {
    Nothing,
    Variables(&'a BTreeMap<String, Var>),
    /// In a dry run, which has no variables: their names.
    Names(&'a BTreeSet<String>),
}

impl<'a> Weights<'a> {
    /// The root of a component, frozen.
    pub fn frozen(stored: &'a StoredTensors) -> Self {
        Self {
            stored,
            trained: Trained::Nothing,
            prefix: String::new(),
            taken: Rc::default(),
            passed_over: Rc::default(),
        }
    }

    /// The root of a component whose tensors in `scoped` are its variables; all others are shared
    /// with the frozen network.
    pub fn scoped(stored: &'a StoredTensors, scoped: &'a Scoped) -> Self {
        Self { trained: Trained::Variables(&scoped.variables), ..Self::frozen(stored) }
    }

    /// The root of a component in a dry run, whose tensors of these names are trained.
    pub fn dry_run(stored: &'a StoredTensors, trained: &'a BTreeSet<String>) -> Self {
        Self { trained: Trained::Names(trained), ..Self::frozen(stored) }
    }

    /// Descends by one name.
    #[must_use]
    pub fn at(&self, name: impl std::fmt::Display) -> Self {
        let prefix = if self.prefix.is_empty() {
            name.to_string()
        } else {
            format!("{}.{name}", self.prefix)
        };
        Self { prefix, ..self.clone() }
    }

    /// Whether the component holds a tensor here.
    pub fn has(&self, name: &str) -> bool {
        self.stored.tensors.contains_key(&self.name(name))
    }

    /// The shape of a tensor here, where there is one.
    pub fn dims(&self, name: &str) -> Option<&'a [usize]> {
        self.stored.tensors.get(&self.name(name)).map(|stored| stored.tensor.dims())
    }

    /// How messages name the component.
    pub fn location(&self) -> &'a str {
        &self.stored.location
    }

    /// Whether any tensor lies below here.
    pub fn has_any_below(&self, name: &str) -> bool {
        let prefix = format!("{}.", self.name(name));
        self.stored
            .tensors
            .range(prefix.clone()..)
            .next()
            .is_some_and(|(n, _)| n.starts_with(&prefix))
    }

    /// What the component computes in: in host memory f32, whatever its tensors are held in; elsewhere
    /// what those of two axes and more are held in, but for variables, which are f32 always.
    pub fn compute_type(&self) -> DType {
        let there = self.stored.tensors.values().filter(|stored| !stored.tensor.device().is_cpu());
        let mut types = there.map(|stored| stored.tensor.dtype());
        types.find(|dtype| *dtype != DType::F32).unwrap_or(DType::F32)
    }

    /// Takes a tensor of a known shape, as a variable where it is one.
    pub fn traced(&self, name: &str, shape: &[usize]) -> Result<TapeTensor, EngineError> {
        let frozen = self.take(name, shape)?;
        let name = self.name(name);
        Ok(match self.trained {
            Trained::Variables(variables) => variables
                .get(&name)
                .map_or_else(|| TapeTensor::constant(&frozen), TapeTensor::variable),
            Trained::Names(names) if names.contains(&name) => TapeTensor::followed(&frozen),
            Trained::Nothing | Trained::Names(_) => TapeTensor::constant(&frozen),
        })
    }

    /// Takes a frozen tensor of a known shape.
    pub fn take(&self, name: &str, shape: &[usize]) -> Result<Tensor, EngineError> {
        let name = self.name(name);
        let Some(stored) = self.stored.tensors.get(&name) else {
            return Err(EngineError::MissingTensor {
                file: self.stored.location.clone(),
                name,
                expected: shape.to_vec(),
            });
        };
        if stored.tensor.dims() != shape {
            return Err(EngineError::MisshapenTensor {
                file: stored.file.clone(),
                name,
                expected: shape.to_vec(),
                found: stored.tensor.dims().to_vec(),
            });
        }
        let tensor = stored.tensor.clone();
        self.taken.borrow_mut().insert(name);
        Ok(tensor)
    }

    /// Tensors of the component whose names are accepted are known to be of no use here: they do not
    /// count as left over.
    pub fn pass_over(&self, accepted: impl Fn(&str) -> bool) {
        let names = self.stored.tensors.keys().filter(|name| accepted(name)).cloned();
        self.passed_over.borrow_mut().extend(names);
    }

    /// The names that were taken so far.
    pub fn taken(&self) -> BTreeSet<String> {
        self.taken.borrow().clone()
    }

    /// The component's tensors that were neither taken nor passed over, so that the architecture has
    /// no place for them.
    pub fn surplus(&self) -> Vec<&'a str> {
        let (taken, passed_over) = (self.taken.borrow(), self.passed_over.borrow());
        let names = self.stored.tensors.keys();
        let surplus = names.filter(|name| !taken.contains(*name) && !passed_over.contains(*name));
        surplus.map(String::as_str).collect()
    }

    fn name(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }
}

/// A network's tensors as they were read, and as it computes with them.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// f32 in host memory.
    pub read: &'a StoredTensors,
    /// On the device, made of `read` by `StoredTensors::placed`.
    pub placed: &'a StoredTensors,
}

impl<'a> Origin<'a> {
    /// Of tensors that are computed with as they were read.
    pub fn plain(stored: &'a StoredTensors) -> Self {
        Self { read: stored, placed: stored }
    }
}

/// The trainable copies of the tensors in a scope: f32 masters, in name order.
#[derive(Debug)]
pub struct Scoped {
    /// By name in the checkpoint.
    pub variables: BTreeMap<String, Var>,
}

impl Scoped {
    /// Copies every tensor whose name a scope contains into a variable of its own, where it lies.
    pub fn new(stored: &StoredTensors, scope: &Scope) -> Result<Self, EngineError> {
        Self::of(Origin::plain(stored), scope, |name| scope.contains(name))
    }

    /// Copies every tensor that a family trains in a scope, as it was read, into a variable on the
    /// device.
    pub(in crate::engine) fn of(
        origin: Origin<'_>,
        scope: &Scope,
        trains: impl Fn(&str) -> bool,
    ) -> Result<Self, EngineError> {
        let mut variables = BTreeMap::new();
        for (name, stored) in &origin.read.tensors {
            if trains(name) {
                let device = origin.placed.tensors.get(name).map(|placed| placed.tensor.device());
                let there = stored.tensor.to_device(device.unwrap_or(stored.tensor.device()))?;
                // Copies, though its name does not say so.
                let variable = Var::from_tensor(&there.to_dtype(DType::F32)?)?;
                variables.insert(name.clone(), variable);
            }
        }
        if variables.is_empty() {
            return Err(EngineError::EmptyScope { scope: scope.to_string() });
        }
        Ok(Self { variables })
    }
}
