use std::sync::Arc;

use crate::losses::{CrossEntropy, Loss};
use crate::processes::{Alone, Processes};

/// The loss, and how the work is cut.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads. Results do not depend on it.
    pub threads: usize,
    /// Samples in a microbatch; chosen from the network's size where `None`. Results depend on it
    /// in the last bits.
    pub microbatch: Option<usize>,
    /// Bytes that may be spent on keeping primal passes between products.
    pub memory: usize,
    /// Whether small convolutions that a max-pool follows are fused with it: computed directly, in products at the outputs that the
    /// pool lets through, and not as matrix products. Results differ by rounding.
    pub fuse: bool,
    /// The loss.
    pub loss: Arc<dyn Loss>,
    /// λ of a further term λ/2 |θ|² of the loss.
    pub weight_decay: f64,
    /// The parameters by which there are derivatives, by name or glob pattern as in [`ParamLayout::only`]; all where
    /// there are none. The others are constants: P, everywhere, counts those that are named.
    pub only: Vec<String>,
    /// The processes that share the work. Results do not depend on it.
    pub processes: Arc<dyn Processes>,
}

impl Default for Options {
    /// All processors, a chosen microbatch, 1 GiB; mean cross-entropy without decay, over all parameters.
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        Self {
            threads,
            microbatch: None,
            memory: 1 << 30,
            fuse: true,
            loss: Arc::new(CrossEntropy::default()),
            weight_decay: 0.0,
            only: Vec::new(),
            processes: Arc::new(Alone),
        }
    }
}
