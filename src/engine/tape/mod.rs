//! Which results depend on variables, and how gradients flow back to them.
//!
//! Every operation of `ops` has a gradient of its own, so that a graph only has to call them
//! in turn. Other than candle's, this one keeps nothing for an operation that no variable has a part
//! in, lets each operation say which of its arguments it must keep, frees them as the gradient
//! passes, and starts no sum with a tensor of zeros.

mod checkpointed;
pub(in crate::engine) mod dry_run;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use candle_core::{Result, Shape, Tensor, TensorId, Var, bail};

pub use checkpointed::checkpointed;
use dry_run::{Footprint, Value};
pub use dry_run::{Memory, Meter, Peak};

/// A tensor, and how variables had a part in it.
///
/// In a dry run ([`Meter`]) it has a shape and no values.
#[derive(Debug, Clone)]
pub struct TapeTensor {
    value: Value,
    node: GradNode,
}

#[derive(Debug, Clone)]
enum GradNode {
    /// Nothing is kept of what comes of it, though variables may have a part in that.
    NoGrad {
        /// Whether one has had a part in this.
        by_variables: bool,
    },
    /// No variable had a part in it.
    Constant,
    Variable(TensorId),
    Result(Arc<Step>),
}

/// An operation that was done.
struct Step {
    /// Later steps have larger numbers.
    number: u64,
    /// Taken when the gradient passes, so that what it keeps is freed.
    work: Mutex<Option<Work>>,
}

enum Work {
    Operation {
        arguments: Vec<GradNode>,
        gradients: Backward,
    },
    /// Operations of which nothing was kept but what they start from: they are done again.
    Segment {
        inputs: Vec<TapeTensor>,
        segment: Segment,
    },
}

/// From the result's gradient to those of the arguments, of those alone that are followed.
type Backward = Box<dyn FnOnce(Value) -> Result<Vec<Option<Value>>> + Send>;

/// From inputs to a result.
type Segment = Box<dyn FnOnce(&[TapeTensor]) -> Result<TapeTensor> + Send>;

static STEPS: AtomicU64 = AtomicU64::new(0);

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step").field("number", &self.number).finish_non_exhaustive()
    }
}

impl GradNode {
    fn is_followed(&self) -> bool {
        matches!(self, Self::Variable(_) | Self::Result(_))
    }

    fn is_no_grad(&self) -> bool {
        matches!(self, Self::NoGrad { .. })
    }

    /// Whether a variable had a part in it.
    fn is_by_variables(&self) -> bool {
        matches!(self, Self::NoGrad { by_variables: true }) || self.is_followed()
    }

    /// Of the result of an operation on `arguments`.
    fn of_operation(
        arguments: &[&TapeTensor],
        gradients: impl FnOnce(Value) -> Result<Vec<Option<Value>>> + Send + 'static,
    ) -> Self {
        let any = |like: fn(&Self) -> bool| arguments.iter().any(|a| like(&a.node));
        if any(Self::is_no_grad) {
            Self::NoGrad { by_variables: any(Self::is_by_variables) }
        } else if any(Self::is_followed) {
            let arguments = arguments.iter().map(|argument| argument.node.clone()).collect();
            Self::of(Work::Operation { arguments, gradients: Box::new(gradients) })
        } else {
            Self::Constant
        }
    }

    fn of(work: Work) -> Self {
        let number = STEPS.fetch_add(1, Ordering::Relaxed);
        Self::Result(Arc::new(Step { number, work: Mutex::new(Some(work)) }))
    }
}

impl TapeTensor {
    /// A tensor that no variable has a part in, such as a frozen weight.
    pub fn constant(tensor: &Tensor) -> Self {
        Self { value: Value::real(tensor.detach()), node: GradNode::Constant }
    }

    /// A variable: a tensor that a gradient is wanted for.
    pub fn variable(variable: &Var) -> Self {
        Self {
            value: Value::real(variable.as_detached_tensor()),
            node: GradNode::Variable(variable.as_tensor().id()),
        }
    }

    /// A tensor that a gradient is wanted for, such as a latent or a prompt's states;
    /// [`Gradients::take_of`] has it by the same tensor.
    pub fn followed(tensor: &Tensor) -> Self {
        Self { value: Value::real(tensor.detach()), node: GradNode::Variable(tensor.id()) }
    }

    /// An input whose results need no gradient: nothing is kept of what is computed from it.
    pub fn no_grad(tensor: &Tensor) -> Self {
        let node = GradNode::NoGrad { by_variables: false };
        Self { value: Value::real(tensor.detach()), node }
    }

    /// A constant of a dry run.
    pub fn sized_constant(meter: &Meter, shape: impl Into<Shape>) -> Result<Self> {
        Ok(Self { value: Value::sized(meter, shape)?, node: GradNode::Constant })
    }

    /// An input of a dry run that a gradient is wanted for.
    pub fn sized_followed(meter: &Meter, shape: impl Into<Shape>) -> Result<Self> {
        let value = Value::sized(meter, shape)?;
        let node = GradNode::Variable(value.tensor.id());
        Ok(Self { value, node })
    }

    /// An input of a dry run whose results need no gradient.
    pub fn sized_no_grad(meter: &Meter, shape: impl Into<Shape>) -> Result<Self> {
        let node = GradNode::NoGrad { by_variables: false };
        Ok(Self { value: Value::sized(meter, shape)?, node })
    }

    /// Another input of the same kind: without gradients beside one that has none, of a dry run in
    /// one, else constant.
    pub fn with_same_tracking(&self, tensor: &Tensor) -> Result<Self> {
        let node = match self.node {
            GradNode::NoGrad { .. } => GradNode::NoGrad { by_variables: false },
            _ => GradNode::Constant,
        };
        let value = match self.value.meter() {
            Some(meter) => Value::sized(meter, tensor.shape())?,
            None => Value::real(tensor.detach()),
        };
        Ok(Self { value, node })
    }

    /// The values; zeros in a dry run.
    pub fn tensor(&self) -> &Tensor {
        &self.value.tensor
    }

    /// The values alone.
    pub fn into_tensor(self) -> Tensor {
        self.value.tensor
    }

    /// Whether a gradient flows to it.
    pub fn is_followed(&self) -> bool {
        self.node.is_followed()
    }

    /// The result of an operation on `arguments`.
    ///
    /// `gradients` turns the result's gradient, which is contiguous, into theirs, in their order; it
    /// gives none for an argument that is not followed. It is dropped at once where nothing is.
    pub(in crate::engine) fn result(
        tensor: Tensor,
        arguments: &[&Self],
        gradients: impl FnOnce(&Tensor) -> Result<Vec<Option<Tensor>>> + Send + 'static,
    ) -> Self {
        let node = GradNode::of_operation(arguments, |gradient: Value| {
            let gradients = gradients(&gradient.tensor.contiguous()?)?;
            Ok(gradients.into_iter().map(|gradient| gradient.map(Value::real)).collect())
        });
        Self { value: Value::real(tensor), node }
    }

    /// The result of an operation in a dry run, which does to memory what `footprint` says; none
    /// where the arguments have values.
    pub(in crate::engine) fn sized(
        arguments: &[&Self],
        footprint: impl FnOnce() -> Result<Footprint>,
    ) -> Result<Option<Self>> {
        let Some(meter) = arguments.iter().find_map(|argument| argument.value.meter()) else {
            return Ok(None);
        };
        let footprint = footprint()?;
        let values: Vec<&Value> = arguments.iter().map(|argument| &argument.value).collect();
        let value = footprint.forward(meter, &values)?;
        if !arguments.iter().any(|argument| argument.is_followed()) {
            let node = GradNode::of_operation(arguments, |_| Ok(Vec::new()));
            return Ok(Some(Self { value, node }));
        }
        let kept = footprint.keeps.iter().filter_map(|index| values.get(*index)?.memory.clone());
        let result = value.memory.clone().filter(|_| footprint.keeps_result);
        let kept: Vec<_> = kept.chain(result).collect();
        let statistics = meter.hold(footprint.statistics);
        let shapes = arguments.iter().map(|argument| {
            let shape = argument.tensor().shape().clone();
            argument.is_followed().then_some((shape, argument.is_variable()))
        });
        let (meter, shapes) = (meter.clone(), shapes.collect::<Vec<_>>());
        let node = GradNode::of_operation(arguments, move |gradient| {
            let _held = (kept, statistics, meter.hold(footprint.backward_buffer));
            let gradients = shapes.into_iter().enumerate().map(|(index, followed)| {
                let Some((shape, is_variable)) = followed else { return Ok(None) };
                let is_added = index >= footprint.added_from && shape == footprint.shape;
                Ok(Some(if is_variable {
                    Value::gradient(&meter, &shape)?
                } else if is_added || footprint.shares == Some(index) {
                    gradient.reshaped(shape)?
                } else {
                    Value::sized(&meter, shape)?
                }))
            });
            gradients.collect()
        });
        Ok(Some(Self { value, node }))
    }

    fn is_variable(&self) -> bool {
        matches!(self.node, GradNode::Variable(_))
    }

    /// The result of a function of tensors that candle can differentiate: computed again, with a
    /// graph, once its gradient is wanted.
    pub(in crate::engine) fn via_candle_autograd(
        arguments: &[&Self],
        function: impl Fn(&[Tensor]) -> Result<Tensor> + Send + 'static,
    ) -> Result<Self> {
        let tensors: Vec<Tensor> = arguments.iter().map(|a| a.tensor().clone()).collect();
        let followed: Vec<bool> = arguments.iter().map(|a| a.is_followed()).collect();
        let y = function(&tensors)?;
        Ok(Self::result(y, arguments, move |gradient| {
            let leaves = tensors.iter().zip(&followed).map(|(tensor, followed)| {
                if *followed {
                    Ok(Var::from_tensor(tensor)?.as_tensor().clone())
                } else {
                    Ok(tensor.clone())
                }
            });
            let leaves = leaves.collect::<Result<Vec<_>>>()?;
            let store = (function(&leaves)? * gradient)?.sum_all()?.backward()?;
            Ok(leaves.iter().map(|leaf| store.get(leaf).cloned()).collect())
        }))
    }

    /// The result of a segment of the graph, of which nothing is kept but `inputs` where variables
    /// had a part in it: for its gradient, the segment is done again.
    ///
    /// Where the gradient arrives, the segment's steps take its place in the flow: they come after
    /// all that came before the segment, as they would have without this, and gradients are summed
    /// in the same order.
    pub(in crate::engine) fn of_segment(
        inputs: &[&Self],
        segment: impl Fn(&[Self]) -> Result<Self> + Send + 'static,
    ) -> Result<Self> {
        let no_grad = |input: &&Self| Self {
            value: input.value.clone(),
            node: GradNode::NoGrad { by_variables: input.node.is_by_variables() },
        };
        let Self { value, node } = segment(&inputs.iter().map(no_grad).collect::<Vec<_>>())?;
        let node = if inputs.iter().any(|input| input.node.is_no_grad()) {
            node
        } else if node.is_by_variables() {
            let inputs = inputs.iter().map(|input| (*input).clone()).collect();
            GradNode::of(Work::Segment { inputs, segment: Box::new(segment) })
        } else {
            GradNode::Constant
        };
        Ok(Self { value, node })
    }

    /// Sends the gradient of some loss with regard to this result back to the variables.
    pub fn backward(self, gradient: Tensor) -> Result<Gradients> {
        if gradient.shape() != self.tensor().shape() {
            bail!("a gradient of {:?} for {:?}", gradient.shape(), self.tensor().shape());
        }
        self.send_back(Value::real(gradient))
    }

    /// [`TapeTensor::backward`] in a dry run: what it gives holds the gradients' memory.
    pub fn dry_backward(self) -> Result<Gradients> {
        let Some(meter) = self.value.meter() else {
            bail!("a dry run's backward pass of a tensor with values");
        };
        let gradient = Value::sized(meter, self.tensor().shape())?;
        self.send_back(gradient)
    }

    fn send_back(self, gradient: Value) -> Result<Gradients> {
        let mut flow = Flow::default();
        flow.add(self.node, gradient)?;
        drop(self.value);
        while let Some((_, (step, gradient))) = flow.pending.pop_last() {
            let work = step.work.lock().unwrap_or_else(PoisonError::into_inner).take();
            match work {
                None => bail!("a gradient has passed here before"),
                Some(Work::Operation { arguments, gradients }) => {
                    for (argument, gradient) in arguments.into_iter().zip(gradients(gradient)?) {
                        if let Some(gradient) = gradient {
                            flow.add(argument, gradient)?;
                        }
                    }
                }
                Some(Work::Segment { inputs, segment }) => {
                    let node = segment(&inputs)?.node;
                    flow.add(node, gradient)?;
                }
            }
        }
        Ok(flow.gradients)
    }
}

/// The gradients of variables.
#[derive(Debug, Default)]
pub struct Gradients(HashMap<TensorId, Value>);

impl Gradients {
    /// Takes a variable's.
    pub fn take(&mut self, variable: &Var) -> Option<Tensor> {
        self.take_of(variable.as_tensor())
    }

    /// Takes that of a tensor that [`TapeTensor::followed`] was made of.
    pub fn take_of(&mut self, tensor: &Tensor) -> Option<Tensor> {
        self.0.remove(&tensor.id()).map(|gradient| gradient.tensor)
    }

    /// Whether all have been taken.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[derive(Default)]
struct Flow {
    gradients: Gradients,
    /// By number: a step's gradient is complete once those of all later ones have passed.
    pending: BTreeMap<u64, (Arc<Step>, Value)>,
}

impl Flow {
    fn add(&mut self, node: GradNode, gradient: Value) -> Result<()> {
        match node {
            GradNode::NoGrad { .. } | GradNode::Constant => (),
            GradNode::Variable(id) => {
                let sum = match self.gradients.0.remove(&id) {
                    Some(sum) => sum.plus(&gradient)?,
                    None => gradient,
                };
                self.gradients.0.insert(id, sum);
            }
            GradNode::Result(step) => {
                let sum = match self.pending.remove(&step.number) {
                    Some((_, sum)) => sum.plus(&gradient)?,
                    None => gradient,
                };
                self.pending.insert(step.number, (step, sum));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::float_cmp, reason = "products of small whole numbers are exact")]

    use candle_core::Device;

    use super::*;

    fn variable(value: f32) -> (Var, TapeTensor) {
        let variable = Var::new(&[value], &Device::Cpu).unwrap();
        let traced = TapeTensor::variable(&variable);
        (variable, traced)
    }

    fn product(a: &TapeTensor, b: &TapeTensor) -> TapeTensor {
        TapeTensor::via_candle_autograd(&[a, b], |t| &t[0] * &t[1]).unwrap()
    }

    fn number(tensor: Option<Tensor>) -> f32 {
        tensor.unwrap().to_vec1::<f32>().unwrap()[0]
    }

    fn one() -> Tensor {
        Tensor::new(&[1_f32], &Device::Cpu).unwrap()
    }

    #[test]
    fn gradients_of_all_paths_are_summed() {
        let (x_variable, x) = variable(3.0);
        let (y_variable, y) = variable(5.0);
        // x² y · x = x³ y
        let z = product(&product(&product(&x, &x), &y), &x);
        let mut gradients = z.backward(one()).unwrap();
        assert_eq!(number(gradients.take(&x_variable)), 3.0 * 9.0 * 5.0);
        assert_eq!(number(gradients.take(&y_variable)), 27.0);
        assert!(gradients.take(&y_variable).is_none());
    }

    #[test]
    fn what_no_variable_has_a_part_in_is_not_followed() {
        let (x_variable, x) = variable(3.0);
        let constant = TapeTensor::constant(&one());
        assert!(!product(&constant, &constant).is_followed());
        assert!(product(&constant, &x).is_followed());
        let no_grad = product(&TapeTensor::no_grad(&one()), &x);
        assert!(!no_grad.is_followed());
        assert!(!product(&no_grad, &x).is_followed());
        assert!(no_grad.backward(one()).unwrap().take(&x_variable).is_none());
    }

    #[test]
    fn a_gradient_passes_once_and_must_fit() {
        let (_, x) = variable(3.0);
        let y = product(&x, &x);
        y.clone().backward(one()).unwrap();
        assert!(y.clone().backward(one()).is_err());
        assert!(y.backward(Tensor::new(&[1_f32, 2.0], &Device::Cpu).unwrap()).is_err());
    }
}
