use crate::error::{check_finite, check_len};
use crate::{CurvatureError, Real};

/// Inputs and labels in the order in which they are summed.
#[derive(Clone, Debug)]
pub struct Samples<T> {
    features: usize,
    images: Vec<T>,
    labels: Vec<u8>,
}

impl<T: Real> Samples<T> {
    /// From N · `features` numbers, sample after sample, and N labels.
    ///
    /// # Errors
    /// The numbers are not finite or not as many as there must be.
    pub fn new(
        features: usize,
        images: impl Iterator<Item = f64>,
        labels: Vec<u8>,
    ) -> Result<Self, CurvatureError> {
        let (given, mut images) = (images, Vec::with_capacity(features * labels.len()));
        images.extend(given.map(T::of));
        check_len("the input", images.len(), features * labels.len())?;
        check_len("the input", images.len().min(1), 1)?;
        check_finite("the input", "look at the data files", images.iter().map(|x| x.f64()))?;
        Ok(Self { features, images, labels })
    }

    /// N.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no samples (never).
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Numbers in one sample.
    pub fn features(&self) -> usize {
        self.features
    }

    /// Labels.
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    /// Puts the plane `[feature][sample]` of some samples into `plane`; gives their labels.
    pub(crate) fn gather(&self, indices: &[usize], plane: &mut [T]) -> Vec<u8> {
        for (sample, &index) in indices.iter().enumerate() {
            let image = &self.images[index * self.features..(index + 1) * self.features];
            for (slot, &x) in plane[sample..].iter_mut().step_by(indices.len()).zip(image) {
                *slot = x;
            }
        }
        indices.iter().map(|&i| self.labels[i]).collect()
    }
}
