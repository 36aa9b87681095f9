use std::path::Path;

use qn_model::ParamLayout;
use serde_json::json;

use crate::{RunError, StateDict, Tensor, TensorFile, state_dict};

const MOMENTUM: &str = "optimizer.momentum";
const SECOND_MOMENTS: &str = "optimizer.second_moments";
const CLASS_GRADIENTS: &str = "optimizer.class_gradients";
const SUBSPACE: &str = "optimizer.subspace";
const LAMBDA_SQUARES: &str = "optimizer.lambda_squares";

/// What an optimiser remembers between steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OptimizerState {
    /// Momentum buffer, [P]; Adam's m.
    pub momentum: Vec<f32>,
    /// Adam's v, [P], before its correction; empty for others.
    pub second_moments: Vec<f32>,
    /// Uncorrected running averages of c_k, [C, P]; empty for SGD.
    pub class_gradients: Vec<f32>,
    /// Uncorrected running averages of λ_k², [C]; empty for SGD.
    pub lambda_squares: Vec<f64>,
    /// Steps t_k in which class k was seen, [C]; empty for SGD.
    pub class_steps: Vec<u64>,
    /// Orthonormal rows of the subspace that a projection is about, [k, P]; empty where there is none.
    pub subspace: Vec<f32>,
}

/// A network's parameters by PyTorch's names, and what is needed to go on training it.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Steps taken so far. With the seed it decides the order of the data from here on.
    pub step: u64,
    /// Seconds of training so far.
    pub seconds: f64,
    /// θ in layout order, [P].
    pub parameters: Vec<f32>,
    /// Running statistics, in the layout's order of buffers.
    pub buffers: Vec<Vec<f32>>,
    /// The optimiser's memory.
    pub optimizer: OptimizerState,
}

impl Checkpoint {
    /// Writes the file whole.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &Path, layout: &ParamLayout) -> Result<(), RunError> {
        let mut file = TensorFile {
            meta: json!({
                "kind": "checkpoint",
                "step": self.step,
                "seconds": self.seconds,
                "layout_hash": layout.hash(),
                "class_steps": self.optimizer.class_steps,
            }),
            ..TensorFile::default()
        };
        for p in layout.params() {
            file.tensors.insert(p.name.clone(), Tensor::f32(&p.shape, &self.parameters[p.range()]));
        }
        for (b, values) in layout.buffers().iter().zip(&self.buffers) {
            file.tensors.insert(b.name.clone(), Tensor::f32(&[b.len], values));
        }
        let o = &self.optimizer;
        file.tensors.insert(MOMENTUM.into(), Tensor::f32(&[layout.len()], &o.momentum));
        if !o.second_moments.is_empty() {
            file.tensors.insert(SECOND_MOMENTS.into(), Tensor::f32(&[layout.len()], &o.second_moments));
        }
        if !o.lambda_squares.is_empty() {
            let c = o.lambda_squares.len();
            file.tensors.insert(CLASS_GRADIENTS.into(), Tensor::f32(&[c, layout.len()], &o.class_gradients));
            file.tensors.insert(LAMBDA_SQUARES.into(), Tensor::f64(&[c], &o.lambda_squares));
        }
        if !o.subspace.is_empty() {
            let k = o.subspace.len() / layout.len();
            file.tensors.insert(SUBSPACE.into(), Tensor::f32(&[k, layout.len()], &o.subspace));
        }
        file.write(path)
    }

    /// The first number that is NaN or infinite, and what it is part of; `None` for a state that training can go on from.
    pub fn not_finite(&self) -> Option<(&'static str, f64)> {
        let o = &self.optimizer;
        let first = |values: &[f32]| values.iter().find(|v| !v.is_finite()).map(|&v| f64::from(v));
        let singles: [(&'static str, Option<f64>); 6] = [
            ("a parameter", first(&self.parameters)),
            ("a running statistic", self.buffers.iter().find_map(|b| first(b))),
            ("the momentum", first(&o.momentum)),
            ("a second moment", first(&o.second_moments)),
            ("an average of class gradients", first(&o.class_gradients)),
            ("a vector of the subspace", first(&o.subspace)),
        ];
        let squares = o.lambda_squares.iter().copied().find(|v| !v.is_finite());
        let mut all = singles.into_iter().chain([("an average of lambda_k squared", squares)]);
        all.find_map(|(what, value)| Some((what, value?)))
    }

    /// Reads a checkpoint of ours.
    ///
    /// # Errors
    /// It cannot be read, is damaged, belongs to another layout, or holds a number that is not finite.
    pub fn read(path: &Path, layout: &ParamLayout) -> Result<Self, RunError> {
        let file = TensorFile::read(path)?;
        let found: String = file.meta_field(path, "layout_hash")?;
        if found != layout.hash() {
            return Err(RunError::Layout { path: path.to_owned(), found, expected: layout.hash() });
        }
        let StateDict { parameters, buffers, .. } = state_dict(&file, path, layout)?;
        let class_steps: Vec<u64> = file.meta_field(path, "class_steps")?;
        let (c, p) = (class_steps.len(), layout.len());
        let f32s = |name: &str, shape: &[usize]| -> Result<Vec<f32>, RunError> {
            Ok(file.get(path, name, shape)?.to_f32().unwrap_or_default())
        };
        let mut optimizer = OptimizerState { momentum: f32s(MOMENTUM, &[p])?, ..OptimizerState::default() };
        if c > 0 {
            optimizer.class_gradients = f32s(CLASS_GRADIENTS, &[c, p])?;
            optimizer.lambda_squares = file.get(path, LAMBDA_SQUARES, &[c])?.to_f64().unwrap_or_default();
            optimizer.class_steps = class_steps;
        }
        if file.tensors.contains_key(SECOND_MOMENTS) {
            optimizer.second_moments = f32s(SECOND_MOMENTS, &[p])?;
        }
        if let Some(&[k, _]) = file.tensors.get(SUBSPACE).map(Tensor::shape) {
            optimizer.subspace = f32s(SUBSPACE, &[k, p])?;
        }
        let checkpoint = Self {
            step: file.meta_field(path, "step")?,
            seconds: file.meta_field(path, "seconds")?,
            parameters: parameters.into_iter().map(|v| v as f32).collect(),
            buffers: buffers.into_iter().map(|b| b.into_iter().map(|v| v as f32).collect()).collect(),
            optimizer,
        };
        match checkpoint.not_finite() {
            Some((what, value)) => Err(RunError::invalid(path, format!("{what} is {value}"))),
            None => Ok(checkpoint),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qn_model::{Graph, Preset};

    fn layout() -> ParamLayout {
        Graph::new(&Preset::Resnet9 { width: 1 }.architecture([3, 32, 32], 10)).unwrap().layout().clone()
    }

    fn checkpoint(layout: &ParamLayout) -> Checkpoint {
        let p = layout.len();
        Checkpoint {
            step: 12,
            seconds: 3.5,
            parameters: (0..p).map(|i| i as f32).collect(),
            buffers: layout.buffers().iter().map(|b| vec![b.initial; b.len]).collect(),
            optimizer: OptimizerState {
                momentum: vec![0.5; p],
                second_moments: vec![0.75; p],
                class_gradients: vec![0.25; 10 * p],
                lambda_squares: vec![1e-40; 10],
                class_steps: (0..10).collect(),
                subspace: vec![0.125; 3 * p],
            },
        }
    }

    #[test]
    fn a_checkpoint_comes_back_bit_for_bit() {
        let (dir, layout) = (tempfile::tempdir().unwrap(), layout());
        let path = dir.path().join("c.safetensors");
        let mut saved = checkpoint(&layout);
        saved.write(&path, &layout).unwrap();
        assert_eq!(Checkpoint::read(&path, &layout).unwrap(), saved);
        saved.optimizer = OptimizerState { momentum: vec![1.0; layout.len()], ..OptimizerState::default() };
        saved.write(&path, &layout).unwrap();
        assert_eq!(Checkpoint::read(&path, &layout).unwrap(), saved);
    }

    #[test]
    fn misfits_are_named() {
        let (dir, layout) = (tempfile::tempdir().unwrap(), layout());
        let path = dir.path().join("c.safetensors");
        let mut saved = checkpoint(&layout);
        saved.write(&path, &layout).unwrap();
        let other = Graph::new(&Preset::Lenet.architecture([3, 32, 32], 10)).unwrap().layout().clone();
        assert!(matches!(Checkpoint::read(&path, &other), Err(RunError::Layout { .. })));
        let message = state_dict(&TensorFile::read(&path).unwrap(), &path, &other).unwrap_err().to_string();
        assert!(
            message.contains("missing: conv1.weight") && message.contains("prep.conv.weight"),
            "{message}"
        );
        saved.parameters[3] = f32::NAN;
        saved.write(&path, &layout).unwrap();
        let message = state_dict(&TensorFile::read(&path).unwrap(), &path, &layout).unwrap_err().to_string();
        assert!(message.contains("'prep.conv.weight' holds NaN at entry 3"), "{message}");
    }
}
