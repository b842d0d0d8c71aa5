//! Dry runs: measures what a network holds in memory by running it on tensors that have a shape and
//! no values.
//!
//! The operations of this folder take such tensors as they take others. Each states its
//! [`Footprint`] beside its arithmetic: what it makes, what it keeps for its gradients, and what it
//! holds for a moment. The tape frees that as it frees the values of a real run, so that a meter reads
//! at each moment what the real run would hold.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Result, Shape, Tensor};

/// Counts what the tensors of a dry run hold.
#[derive(Debug, Clone, Default)]
pub struct Meter(Arc<Mutex<Counts>>);

/// In numbers, whatever their type.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    held: u64,
    /// Those of `held` that are gradients of variables.
    gradients: u64,
    peak: Peak,
    multiplications: u64,
    largest_buffer: u64,
}

/// The moment at which the most is held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Peak {
    /// Numbers that are held but for gradients of variables.
    pub activations: u64,
    /// Numbers of the gradients of variables.
    pub gradients: u64,
}

impl Peak {
    /// Numbers in all.
    pub fn total(self) -> u64 {
        self.activations + self.gradients
    }
}

impl Meter {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Numbers that are held now.
    pub fn held(&self) -> u64 {
        self.counts().held
    }

    /// The most that was held so far.
    pub fn peak(&self) -> Peak {
        self.counts().peak
    }

    /// Multiplications of forward passes so far, those of repeated segments among them.
    pub fn multiplications(&self) -> u64 {
        self.counts().multiplications
    }

    /// Numbers of the largest buffer that an operation held for a moment.
    pub fn largest_buffer(&self) -> u64 {
        self.counts().largest_buffer
    }

    /// Memory for some numbers, held until it is dropped.
    pub fn hold(&self, numbers: u64) -> Memory {
        self.take(numbers, false)
    }

    fn take(&self, numbers: u64, is_gradient: bool) -> Memory {
        let mut counts = self.counts();
        counts.held += numbers;
        if is_gradient {
            counts.gradients += numbers;
        }
        if counts.held > counts.peak.total() {
            let gradients = counts.gradients;
            counts.peak = Peak { activations: counts.held - gradients, gradients };
        }
        drop(counts);
        Memory { meter: self.clone(), numbers, is_gradient }
    }
}

/// Memory that a dry run holds.
#[derive(Debug)]
pub struct Memory {
    meter: Meter,
    numbers: u64,
    is_gradient: bool,
}

impl Drop for Memory {
    fn drop(&mut self) {
        let mut counts = self.meter.counts();
        counts.held -= self.numbers;
        if self.is_gradient {
            counts.gradients -= self.numbers;
        }
    }
}

/// A tensor's values; in a dry run its shape and the memory that its values would take.
#[derive(Debug, Clone)]
pub(in crate::engine) struct Value {
    /// In a dry run one zero, repeated to the shape.
    pub(in crate::engine) tensor: Tensor,
    pub(in crate::engine) memory: Option<Arc<Memory>>,
}

impl Value {
    pub(in crate::engine) fn real(tensor: Tensor) -> Self {
        Self { tensor, memory: None }
    }

    /// In memory of its own.
    pub(in crate::engine) fn sized(meter: &Meter, shape: impl Into<Shape>) -> Result<Self> {
        let shape = shape.into();
        let memory = meter.hold(shape.elem_count() as u64);
        Self::in_memory(Arc::new(memory), shape)
    }

    /// A variable's gradient.
    pub(in crate::engine) fn gradient(meter: &Meter, shape: &Shape) -> Result<Self> {
        let memory = meter.take(shape.elem_count() as u64, true);
        Self::in_memory(Arc::new(memory), shape.clone())
    }

    pub(in crate::engine) fn in_memory(memory: Arc<Memory>, shape: Shape) -> Result<Self> {
        let tensor = Tensor::zeros((), DType::F32, &Device::Cpu)?.broadcast_as(shape)?;
        Ok(Self { tensor, memory: Some(memory) })
    }

    /// The same memory in another shape, in a dry run.
    pub(in crate::engine) fn reshaped(&self, shape: Shape) -> Result<Self> {
        match &self.memory {
            Some(memory) => Self::in_memory(Arc::clone(memory), shape),
            None => Ok(Self::real(self.tensor.reshape(shape)?)),
        }
    }

    pub(in crate::engine) fn meter(&self) -> Option<&Meter> {
        self.memory.as_deref().map(|memory| &memory.meter)
    }

    /// The sum of two of the same shape.
    pub(in crate::engine) fn plus(&self, other: &Self) -> Result<Self> {
        match self.meter() {
            Some(meter) => Self::sized(meter, self.tensor.shape()),
            None => {
                Ok(Self::real(crate::engine::kernels::sums::plus(&self.tensor, &other.tensor)?))
            }
        }
    }
}

/// What an operation does to memory, beside what its arguments take already.
#[derive(Debug)]
pub(in crate::engine) struct Footprint {
    /// Of the result.
    pub(in crate::engine) shape: Shape,
    /// The argument whose memory the result shares: the same values in another shape.
    pub(in crate::engine) shares: Option<usize>,
    /// Of the forward pass.
    pub(in crate::engine) multiplications: u64,
    /// Numbers of the largest buffer that the forward pass holds for a moment.
    pub(in crate::engine) buffer: u64,
    /// Arguments that are kept for the gradients.
    pub(in crate::engine) keeps: Vec<usize>,
    pub(in crate::engine) keeps_result: bool,
    /// Further numbers that are kept, such as a norm's statistics.
    pub(in crate::engine) statistics: u64,
    /// Numbers that the backward pass holds for a moment.
    pub(in crate::engine) backward_buffer: u64,
    /// Arguments from here on are only added: where they have the result's shape, their gradient is
    /// the result's, in its memory.
    pub(in crate::engine) added_from: usize,
}

impl Footprint {
    /// An operation that keeps and holds nothing.
    pub(in crate::engine) fn of(shape: impl Into<Shape>) -> Self {
        Self {
            shape: shape.into(),
            shares: None,
            multiplications: 0,
            buffer: 0,
            keeps: Vec::new(),
            keeps_result: false,
            statistics: 0,
            backward_buffer: 0,
            added_from: usize::MAX,
        }
    }

    /// The result, once the forward pass is over.
    pub(in crate::engine) fn forward(&self, meter: &Meter, arguments: &[&Value]) -> Result<Value> {
        {
            let mut counts = meter.counts();
            counts.multiplications += self.multiplications;
            counts.largest_buffer = counts.largest_buffer.max(self.buffer);
        }
        let shared = self.shares.and_then(|index| arguments.get(index)?.memory.clone());
        if let Some(memory) = shared {
            return Value::in_memory(memory, self.shape.clone());
        }
        let _buffer = meter.hold(self.buffer);
        Value::sized(meter, self.shape.clone())
    }
}
