use sha2::{Digest, Sha256};

use crate::ModelError;
use crate::patterns::matching;

/// Index of a parameter tensor in its [`ParamLayout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ParamId(pub usize);

/// What a parameter tensor does, which decides how it is initialised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ParamKind {
    /// Weight or bias of a linear or convolution layer with this fan-in.
    Affine {
        /// Inputs that each output sums over.
        fan_in: usize,
    },
    /// Scale of a normalisation layer: starts at one.
    NormScale,
    /// Shift of a normalisation layer: starts at zero.
    NormShift,
    /// A table or a learnt position: starts as normal numbers.
    Normal {
        /// Their standard deviation.
        std: f32,
    },
}

/// One trainable tensor: a contiguous, row-major stretch of θ.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// PyTorch's state_dict name, like `conv1.weight`.
    pub name: String,
    /// PyTorch's shape.
    pub shape: Vec<usize>,
    /// Where the tensor starts in θ.
    pub offset: usize,
    /// What it does.
    pub kind: ParamKind,
}

impl Parameter {
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the tensor has no entries (it never does in a valid network).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The layer that it belongs to: its name up to the last dot, all of it where there is none.
    pub fn layer(&self) -> &str {
        self.name.rsplit_once('.').map_or(&self.name, |(layer, _)| layer)
    }

    /// The stretch of θ that the tensor takes.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.len()
    }
}

/// A tensor that is saved with the network but not trained (running statistics).
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    /// PyTorch's state_dict name, like `bn1.running_mean`.
    pub name: String,
    /// Number of entries (buffers are vectors).
    pub len: usize,
    /// Value before training.
    pub initial: f32,
}

/// The order of the parameters in θ ∈ R^P: the architecture's order, never a hash map's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ParamLayout {
    params: Vec<Parameter>,
    buffers: Vec<Buffer>,
    len: usize,
}

impl ParamLayout {
    /// P, the number of trainable parameters.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing to train.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The tensors, in order.
    pub fn params(&self) -> &[Parameter] {
        &self.params
    }

    /// The untrained tensors, in order.
    pub fn buffers(&self) -> &[Buffer] {
        &self.buffers
    }

    /// One tensor.
    pub fn param(&self, id: ParamId) -> &Parameter {
        &self.params[id.0]
    }

    /// Name for hashing and messages: the first 32 hexadecimal digits of the SHA-256 of the lines
    /// `name shape` in order. Two vectors in R^P may be compared only if their hashes agree.
    pub fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        for p in &self.params {
            hasher.update(format!("{} {:?}\n", p.name, p.shape));
        }
        hasher.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect()
    }

    /// The layout of some of the tensors, in this order: those whose names match one of the glob patterns, in which `*`
    /// stands for any characters, `?` for one and `[ab]` for one of several.
    ///
    /// # Errors
    /// A pattern cannot be read, or matches no name.
    ///
    /// # Examples
    /// ```
    /// use qn_model::{Graph, Preset};
    ///
    /// let graph = Graph::new(&Preset::Lenet.architecture([3, 32, 32], 10))?;
    /// let part = graph.layout().only(&["conv1.*", "fc?.bias"])?;
    /// let names: Vec<&str> = part.params().iter().map(|p| p.name.as_str()).collect();
    /// assert_eq!(names, ["conv1.weight", "conv1.bias", "fc1.bias", "fc2.bias", "fc3.bias"]);
    /// assert_eq!(part.params()[2].range(), 456..576);
    /// # Ok::<(), qn_model::ModelError>(())
    /// ```
    pub fn only<S: AsRef<str>>(&self, patterns: &[S]) -> Result<Self, ModelError> {
        let names: Vec<&str> = self.params.iter().map(|p| p.name.as_str()).collect();
        let taken = matching("parameter", &names, patterns)?;
        let mut part = Self::default();
        for (p, _) in self.params.iter().zip(taken).filter(|(_, taken)| *taken) {
            part.push(p.name.clone(), p.shape.clone(), p.kind);
        }
        Ok(part)
    }

    pub(crate) fn push(&mut self, name: String, shape: Vec<usize>, kind: ParamKind) -> ParamId {
        let parameter = Parameter { name, shape, offset: self.len, kind };
        self.len += parameter.len();
        self.params.push(parameter);
        ParamId(self.params.len() - 1)
    }

    pub(crate) fn push_buffer(&mut self, name: String, len: usize, initial: f32) {
        self.buffers.push(Buffer { name, len, initial });
    }

    pub(crate) fn duplicate_name(&self) -> Option<&str> {
        let mut names: Vec<&str> = self.params.iter().map(|p| p.name.as_str()).collect();
        names.sort_unstable();
        names.windows(2).find(|w| w[0] == w[1]).map(|w| w[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> ParamLayout {
        let mut layout = ParamLayout::default();
        for name in ["layer1.0.weight", "layer1.0.bias", "layer10.weight", "head.bias"] {
            layout.push(name.into(), vec![2, 3], ParamKind::NormScale);
        }
        layout
    }

    #[test]
    fn patterns_choose_tensors_in_layout_order() {
        let names = |patterns: &[&str]| -> Vec<String> {
            let part = layout().only(patterns).unwrap();
            assert_eq!(part.len(), 6 * part.params().len());
            part.params().iter().map(|p| p.name.clone()).collect()
        };
        assert_eq!(names(&["head.bias", "layer1.*"]), ["layer1.0.weight", "layer1.0.bias", "head.bias"]);
        assert_eq!(names(&["*.bias", "layer1.0.bias"]), ["layer1.0.bias", "head.bias"]);
        assert_eq!(names(&["*"]).len(), 4);
        assert_eq!(layout().only(&["*"]).unwrap().hash(), layout().hash());
        assert_ne!(layout().only(&["head.*"]).unwrap().hash(), layout().hash());
    }

    #[test]
    fn a_pattern_without_a_name_is_refused_with_all_names() {
        let message = layout().only(&["head.*", "layer2.*"]).unwrap_err().to_string();
        assert!(message.contains("'layer2.*'") && message.contains("layer10.weight, head.bias"), "{message}");
        let message = layout().only(&["head.[ab"]).unwrap_err().to_string();
        assert!(message.contains("'head.[ab' is no pattern"), "{message}");
    }
}
