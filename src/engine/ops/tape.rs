//! Which results depend on variables, and how gradients flow back to them.
//!
//! Every operation of this folder has a gradient of its own, so that a graph only has to call them
//! in turn. Other than candle's, this one keeps nothing for an operation that no variable has a part
//! in, lets each operation say which of its arguments it must keep, frees them as the gradient
//! passes, and starts no sum with a tensor of zeros.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use candle_core::{Result, Tensor, TensorId, Var, bail};

use super::arrangement::plus;

/// A tensor, and how variables had a part in it.
#[derive(Debug, Clone)]
pub struct TapeTensor {
    tensor: Tensor,
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
type Backward = Box<dyn FnOnce(&Tensor) -> Result<Vec<Option<Tensor>>> + Send>;

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

    fn of(work: Work) -> Self {
        let number = STEPS.fetch_add(1, Ordering::Relaxed);
        Self::Result(Arc::new(Step { number, work: Mutex::new(Some(work)) }))
    }
}

impl TapeTensor {
    /// A tensor that no variable has a part in, such as a frozen weight.
    pub fn constant(tensor: &Tensor) -> Self {
        Self { tensor: tensor.detach(), node: GradNode::Constant }
    }

    /// A tensor that a gradient is wanted for.
    pub fn variable(variable: &Var) -> Self {
        let tensor = variable.as_detached_tensor();
        Self { tensor, node: GradNode::Variable(variable.as_tensor().id()) }
    }

    /// An input whose results need no gradient: nothing is kept of what is computed from it.
    pub fn no_grad(tensor: &Tensor) -> Self {
        Self { tensor: tensor.detach(), node: GradNode::NoGrad { by_variables: false } }
    }

    /// Another input of the same kind: forgotten beside one that is, else constant.
    #[must_use]
    pub fn with_same_tracking(&self, tensor: &Tensor) -> Self {
        match self.node {
            GradNode::NoGrad { .. } => Self::no_grad(tensor),
            _ => Self::constant(tensor),
        }
    }

    /// The values.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// The values alone.
    pub fn into_tensor(self) -> Tensor {
        self.tensor
    }

    /// Whether a gradient flows to it.
    pub fn is_followed(&self) -> bool {
        self.node.is_followed()
    }

    /// The result of an operation on `arguments`.
    ///
    /// `gradients` turns the result's gradient, which is contiguous, into theirs, in their order; it
    /// gives none for an argument that is not followed. It is dropped at once where nothing is.
    pub(super) fn result(
        tensor: Tensor,
        arguments: &[&Self],
        gradients: impl FnOnce(&Tensor) -> Result<Vec<Option<Tensor>>> + Send + 'static,
    ) -> Self {
        let any = |like: fn(&GradNode) -> bool| arguments.iter().any(|a| like(&a.node));
        let node = if any(GradNode::is_no_grad) {
            GradNode::NoGrad { by_variables: any(GradNode::is_by_variables) }
        } else if any(GradNode::is_followed) {
            let arguments = arguments.iter().map(|argument| argument.node.clone()).collect();
            GradNode::of(Work::Operation { arguments, gradients: Box::new(gradients) })
        } else {
            GradNode::Constant
        };
        Self { tensor, node }
    }

    /// The result of a function of tensors that candle can differentiate: computed again, with a
    /// graph, once its gradient is wanted.
    pub(super) fn via_candle_autograd(
        arguments: &[&Self],
        function: impl Fn(&[Tensor]) -> Result<Tensor> + Send + 'static,
    ) -> Result<Self> {
        let tensors: Vec<Tensor> = arguments.iter().map(|a| a.tensor.clone()).collect();
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
    pub(super) fn of_segment(
        inputs: &[&Self],
        segment: impl Fn(&[Self]) -> Result<Self> + Send + 'static,
    ) -> Result<Self> {
        let no_grad = |input: &&Self| Self {
            tensor: input.tensor.clone(),
            node: GradNode::NoGrad { by_variables: input.node.is_by_variables() },
        };
        let Self { tensor, node } = segment(&inputs.iter().map(no_grad).collect::<Vec<_>>())?;
        let node = if inputs.iter().any(|input| input.node.is_no_grad()) {
            node
        } else if node.is_by_variables() {
            let inputs = inputs.iter().map(|input| (*input).clone()).collect();
            GradNode::of(Work::Segment { inputs, segment: Box::new(segment) })
        } else {
            GradNode::Constant
        };
        Ok(Self { tensor, node })
    }

    /// Sends the gradient of some loss with regard to this result back to the variables.
    pub fn backward(self, gradient: Tensor) -> Result<Gradients> {
        if gradient.shape() != self.tensor.shape() {
            bail!("a gradient of {:?} for {:?}", gradient.shape(), self.tensor.shape());
        }
        let mut flow = Flow::default();
        flow.add(self.node, gradient)?;
        drop(self.tensor);
        while let Some((_, (step, gradient))) = flow.pending.pop_last() {
            let work = step.work.lock().unwrap_or_else(PoisonError::into_inner).take();
            match work {
                None => bail!("a gradient has passed here before"),
                Some(Work::Operation { arguments, gradients }) => {
                    let gradients = gradients(&gradient.contiguous()?)?;
                    drop(gradient);
                    for (argument, gradient) in arguments.into_iter().zip(gradients) {
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
pub struct Gradients(HashMap<TensorId, Tensor>);

impl Gradients {
    /// Takes a variable's.
    pub fn take(&mut self, variable: &Var) -> Option<Tensor> {
        self.0.remove(&variable.as_tensor().id())
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
    pending: BTreeMap<u64, (Arc<Step>, Tensor)>,
}

impl Flow {
    fn add(&mut self, node: GradNode, gradient: Tensor) -> Result<()> {
        match node {
            GradNode::NoGrad { .. } | GradNode::Constant => (),
            GradNode::Variable(id) => {
                let sum = match self.gradients.0.remove(&id) {
                    Some(sum) => plus(&sum, &gradient)?,
                    None => gradient,
                };
                self.gradients.0.insert(id, sum);
            }
            GradNode::Result(step) => {
                let sum = match self.pending.remove(&step.number) {
                    Some((_, sum)) => plus(&sum, &gradient)?,
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
