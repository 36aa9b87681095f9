use crate::error::{check_finite, check_len};
use crate::losses::Targets;
use crate::{CurvatureError, Real};

/// Inputs and targets in the order in which they are summed.
#[derive(Clone, Debug)]
pub struct Samples<T> {
    features: usize,
    n: usize,
    inputs: Vec<T>,
    targets: Targets,
}

impl<T: Real> Samples<T> {
    /// From N · `features` numbers, sample after sample, and N labels: one class a sample.
    ///
    /// # Errors
    /// The numbers are not finite or not as many as there must be.
    pub fn new(
        features: usize,
        inputs: impl Iterator<Item = f64>,
        labels: Vec<u32>,
    ) -> Result<Self, CurvatureError> {
        Self::with_targets([features, labels.len()], inputs, Targets::Classes(labels))
    }

    /// From N · `features` numbers, sample after sample, and the targets of N samples: several labels a sample, classes'
    /// probabilities, or values. Inputs that are integers, as tokens, are given as numbers. Whether the targets fit the
    /// network and the loss is seen by [`Curvature::new`](crate::Curvature::new).
    ///
    /// # Examples
    /// Two samples of three numbers each, first with probabilities of four classes, then with a label at each of two
    /// positions, of which the last is ignored:
    /// ```
    /// use qn_curvature::Samples;
    /// use qn_curvature::losses::{IGNORED, Targets};
    ///
    /// let inputs = || (0..6).map(f64::from);
    /// let soft = Targets::Values(vec![0.1, 0.2, 0.3, 0.4, 1.0, 0.0, 0.0, 0.0]);
    /// let samples = Samples::<f32>::with_targets([3, 2], inputs(), soft)?;
    /// assert_eq!(samples.len(), 2);
    /// let positions = Targets::Classes(vec![3, 1, 0, IGNORED]);
    /// let samples = Samples::<f32>::with_targets([3, 2], inputs(), positions)?;
    /// assert_eq!(samples.len(), 2);
    /// # Ok::<(), qn_curvature::CurvatureError>(())
    /// ```
    ///
    /// # Errors
    /// The numbers are not finite or not as many as there must be.
    pub fn with_targets(
        [features, n]: [usize; 2],
        inputs: impl Iterator<Item = f64>,
        targets: Targets,
    ) -> Result<Self, CurvatureError> {
        let (given, mut inputs) = (inputs, Vec::with_capacity(features * n));
        inputs.extend(given.map(T::of));
        check_len("the input", inputs.len(), features * n)?;
        check_len("the input", inputs.len().min(1), 1)?;
        check_finite("the input", "look at the data files", inputs.iter().map(|x| x.f64()))?;
        Ok(Self { features, n, inputs, targets })
    }

    /// Number of samples N.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Whether there are no samples (never).
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// Numbers in one sample.
    pub fn features(&self) -> usize {
        self.features
    }

    /// What the outputs ought to be.
    pub fn targets(&self) -> &Targets {
        &self.targets
    }

    /// Puts the value `[feature][sample]` of some samples into `value`, a few features of all samples at a time, which stay
    /// in the cache.
    pub(crate) fn gather(&self, indices: &[usize], value: &mut [T]) {
        let m = indices.len();
        for (strip, value) in value.chunks_mut(16 * m).enumerate() {
            let features = 16 * strip..16 * strip + value.len() / m;
            for (sample, &index) in indices.iter().enumerate() {
                let input = &self.inputs[index * self.features..][features.clone()];
                for (slot, &x) in value[sample..].iter_mut().step_by(m).zip(input) {
                    *slot = x;
                }
            }
        }
    }
}
