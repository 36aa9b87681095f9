use qn_kernels::Packed;

use crate::operation::Operation;

/// A node of the tape.
#[derive(Debug)]
pub(crate) struct Step<T> {
    pub(crate) operation: Box<dyn Operation<T>>,
    /// The values that it reads, and the one that it gives.
    pub(crate) inputs: Vec<usize>,
    pub(crate) output: usize,
    /// Which of the graph's nodes it is, of several the last; none for a copy into another layout.
    pub(crate) node: Option<usize>,
    /// Its parameters, as indices of the layout's tensors, and what it has made of them.
    pub(crate) params: Vec<usize>,
    pub(crate) packed: Vec<Packed<T>>,
}
