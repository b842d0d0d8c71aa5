//! A graph like that of `src/engine/ops/tape.rs`, of tensors that have a size and no values: what
//! it holds at each moment is what the real one holds.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

/// Numbers that are held, and the most that were.
#[derive(Debug, Default)]
pub(super) struct Meter {
    held: Cell<u64>,
    /// Those of them that are gradients of weights.
    of_weights: Cell<u64>,
    peak: Cell<Peak>,
    /// Multiplications that were done.
    work: Cell<u64>,
    /// Numbers of the largest buffer that an operation held for a moment.
    buffer: Cell<u64>,
    steps: Cell<u64>,
}

/// A moment at which the most is held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Peak {
    /// All that is held but gradients of weights.
    pub(super) activations: u64,
    /// Gradients of weights.
    pub(super) gradients: u64,
}

impl Peak {
    pub(super) fn total(self) -> u64 {
        self.activations + self.gradients
    }
}

impl Meter {
    pub(super) fn held(&self) -> u64 {
        self.held.get()
    }

    pub(super) fn peak(&self) -> Peak {
        self.peak.get()
    }

    pub(super) fn work(&self) -> u64 {
        self.work.get()
    }

    pub(super) fn buffer(&self) -> u64 {
        self.buffer.get()
    }

    pub(super) fn buffered(&self, numbers: u64) {
        self.buffer.set(self.buffer.get().max(numbers));
    }

    pub(super) fn worked(&self, multiplications: u64) {
        self.work.set(self.work.get() + multiplications);
    }

    fn note(&self) {
        let (held, gradients) = (self.held.get(), self.of_weights.get());
        if held > self.peak.get().total() {
            self.peak.set(Peak { activations: held - gradients, gradients });
        }
    }
}

/// Memory for so many numbers, until it is dropped.
#[derive(Debug)]
pub(super) struct Memory {
    meter: Rc<Meter>,
    numbers: u64,
    of_weights: bool,
}

impl Memory {
    pub(super) fn new(meter: &Rc<Meter>, numbers: u64) -> Self {
        Self::take(meter, numbers, false)
    }

    fn take(meter: &Rc<Meter>, numbers: u64, of_weights: bool) -> Self {
        meter.held.set(meter.held.get() + numbers);
        if of_weights {
            meter.of_weights.set(meter.of_weights.get() + numbers);
        }
        meter.note();
        Self { meter: Rc::clone(meter), numbers, of_weights }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let Self { meter, numbers, of_weights } = self;
        meter.held.set(meter.held.get() - *numbers);
        if *of_weights {
            meter.of_weights.set(meter.of_weights.get() - *numbers);
        }
    }
}

/// A tensor without its values: its memory, and how variables had a part in it.
#[derive(Debug, Clone)]
pub(super) struct SizedTensor {
    pub(super) memory: Rc<Memory>,
    node: GradNode,
}

#[derive(Debug, Clone)]
enum GradNode {
    NoGrad { by_variables: bool },
    Constant,
    Result(Rc<Step>),
}

struct Step {
    number: u64,
    work: RefCell<Option<Work>>,
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Step").field("number", &self.number).finish_non_exhaustive()
    }
}

enum Work {
    Operation { arguments: Vec<GradNode>, sizes: Vec<u64>, kept: Kept },
    Segment { inputs: Vec<SizedTensor>, segment: Segment },
}

/// From inputs to a result.
type Segment = Box<dyn FnOnce(&[SizedTensor]) -> SizedTensor>;

/// What an operation keeps for its gradients, and what those take.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Arguments.
    pub(super) arguments: Vec<Rc<Memory>>,
    /// Of its own, such as a norm's statistics: numbers.
    pub(super) own: u64,
    /// Whether the gradients of arguments after the first are the result's, in its memory, where they
    /// are of its size.
    pub(super) passes_on: bool,
    /// Numbers of the weights whose gradients are wanted.
    pub(super) weights: u64,
    /// Numbers that the backward pass holds for a moment.
    pub(super) scratch: u64,
}

impl GradNode {
    fn is_followed(&self) -> bool {
        matches!(self, Self::Result(_))
    }

    fn is_no_grad(&self) -> bool {
        matches!(self, Self::NoGrad { .. })
    }

    fn is_by_variables(&self) -> bool {
        matches!(self, Self::NoGrad { by_variables: true }) || self.is_followed()
    }

    fn of(meter: &Meter, work: Work) -> Self {
        let number = meter.steps.get();
        meter.steps.set(number + 1);
        Self::Result(Rc::new(Step { number, work: RefCell::new(Some(work)) }))
    }
}

impl SizedTensor {
    pub(super) fn constant(meter: &Rc<Meter>, numbers: u64) -> Self {
        Self { memory: Rc::new(Memory::new(meter, numbers)), node: GradNode::Constant }
    }

    pub(super) fn no_grad(meter: &Rc<Meter>, numbers: u64) -> Self {
        let node = GradNode::NoGrad { by_variables: false };
        Self { memory: Rc::new(Memory::new(meter, numbers)), node }
    }

    /// Another input of the same kind.
    pub(super) fn with_same_tracking(&self, numbers: u64) -> Self {
        let meter = &self.memory.meter;
        if self.node.is_no_grad() {
            Self::no_grad(meter, numbers)
        } else {
            Self::constant(meter, numbers)
        }
    }

    pub(super) fn numbers(&self) -> u64 {
        self.memory.numbers
    }

    pub(super) fn meter(&self) -> &Rc<Meter> {
        &self.memory.meter
    }

    /// The result of an operation that is in `memory`.
    pub(super) fn result(memory: Rc<Memory>, arguments: &[&Self], kept: Kept) -> Self {
        let any = |like: fn(&GradNode) -> bool| arguments.iter().any(|a| like(&a.node));
        let meter = Rc::clone(&memory.meter);
        let node = if any(GradNode::is_no_grad) {
            GradNode::NoGrad { by_variables: any(GradNode::is_by_variables) || kept.weights > 0 }
        } else if any(GradNode::is_followed) || kept.weights > 0 {
            let own = Rc::new(Memory::new(&meter, kept.own));
            let mut kept = kept;
            kept.arguments.push(own);
            let sizes = arguments.iter().map(|argument| argument.numbers()).collect();
            let arguments = arguments.iter().map(|argument| argument.node.clone()).collect();
            GradNode::of(&meter, Work::Operation { arguments, sizes, kept })
        } else {
            GradNode::Constant
        };
        Self { memory, node }
    }

    /// [`crate::engine::ops::checkpointed`].
    pub(super) fn of_segment(
        inputs: &[&Self],
        segment: impl Fn(&[Self]) -> Self + 'static,
    ) -> Self {
        let no_grad = |input: &&Self| Self {
            memory: Rc::clone(&input.memory),
            node: GradNode::NoGrad { by_variables: input.node.is_by_variables() },
        };
        let Self { memory, node } = segment(&inputs.iter().map(no_grad).collect::<Vec<_>>());
        let node = if inputs.iter().any(|input| input.node.is_no_grad()) {
            node
        } else if node.is_by_variables() {
            let inputs = inputs.iter().map(|input| (*input).clone()).collect();
            let meter = Rc::clone(&memory.meter);
            GradNode::of(&meter, Work::Segment { inputs, segment: Box::new(segment) })
        } else {
            GradNode::Constant
        };
        Self { memory, node }
    }

    /// Sends a gradient back; gives the gradients of the weights.
    pub(super) fn backward(self, gradient: Memory) -> Vec<Memory> {
        let meter = Rc::clone(&self.memory.meter);
        let mut pending: BTreeMap<u64, (Rc<Step>, Rc<Memory>)> = BTreeMap::new();
        let mut of_weights = Vec::new();
        add(&mut pending, self.node, Rc::new(gradient));
        drop(self.memory);
        while let Some((_, (step, gradient))) = pending.pop_last() {
            let work = step.work.borrow_mut().take();
            match work {
                None => {}
                Some(Work::Operation { arguments, sizes, kept }) => {
                    let scratch = Memory::new(&meter, kept.scratch);
                    let gradients: Vec<_> = arguments
                        .into_iter()
                        .zip(sizes)
                        .enumerate()
                        .filter(|(_, (node, _))| node.is_followed())
                        .map(|(index, (node, numbers))| {
                            let is_added = kept.passes_on && index > 0;
                            let gradient = if is_added && numbers == gradient.numbers {
                                Rc::clone(&gradient)
                            } else {
                                Rc::new(Memory::new(&meter, numbers))
                            };
                            (node, gradient)
                        })
                        .collect();
                    if kept.weights > 0 {
                        of_weights.push(Memory::take(&meter, kept.weights, true));
                    }
                    drop((scratch, kept, gradient));
                    for (node, gradient) in gradients {
                        add(&mut pending, node, gradient);
                    }
                }
                Some(Work::Segment { inputs, segment }) => {
                    let node = segment(&inputs).node;
                    add(&mut pending, node, gradient);
                }
            }
        }
        of_weights
    }
}

fn add(pending: &mut BTreeMap<u64, (Rc<Step>, Rc<Memory>)>, node: GradNode, gradient: Rc<Memory>) {
    let GradNode::Result(step) = node else { return };
    let sum = match pending.remove(&step.number) {
        Some((_, sum)) => Rc::new(Memory::new(&sum.meter, sum.numbers)),
        None => gradient,
    };
    pending.insert(step.number, (step, sum));
}
