use anyhow::Result;
use candle_core::{DType, Device, Tensor};

use crate::rows::weighted_sum;

/// Running averages of the class gradients, eq. (16), and of λ, eq. (17). Each class counts its own
/// steps: one that is absent from a batch is left as it is.
#[derive(Clone, Debug)]
pub struct Averages {
    gamma: f64,
    /// Σ (1 − γ) γ^(t−s) c_k(s), not bias-corrected: [C, P].
    gradients: Tensor,
    /// Σ (1 − γ) γ^(t−s) λ_k(s)², not bias-corrected: [C], f64.
    squares: Tensor,
    /// Steps t_k that each class has been seen in.
    steps: Vec<u64>,
}

impl Averages {
    /// Nothing seen yet: c^(0) = 0 and λ^(0) = 1.
    ///
    /// # Errors
    /// The device refuses.
    pub fn new(gamma: f64, classes: usize, params: usize, dtype: DType, device: &Device) -> Result<Self> {
        Ok(Self {
            gamma,
            gradients: Tensor::zeros((classes, params), dtype, device)?,
            squares: Tensor::zeros(classes, DType::F64, device)?,
            steps: vec![0; classes],
        })
    }

    /// The averages that a checkpoint holds.
    pub fn restore(gamma: f64, gradients: Tensor, squares: Tensor, steps: Vec<u64>) -> Self {
        Self { gamma, gradients, squares, steps }
    }

    /// Uncorrected averages [C, P], of squares [C], and steps seen, for saving.
    pub fn parts(&self) -> (&Tensor, &Tensor, &[u64]) {
        (&self.gradients, &self.squares, &self.steps)
    }

    /// Takes in a batch: c_k [C, P], λ_k [C] and the number of samples of each class.
    ///
    /// # Errors
    /// The device refuses.
    pub fn update(&mut self, gradients: &Tensor, lambda: &Tensor, counts: &[usize]) -> Result<()> {
        let seen: Vec<bool> = counts.iter().map(|&n| n > 0).collect();
        let keep = |yes: bool| if yes { self.gamma } else { 1.0 };
        let keep: Vec<f64> = seen.iter().map(|&s| keep(s)).collect();
        let take: Vec<f64> = keep.iter().map(|k| 1.0 - k).collect();
        self.gradients = weighted_sum(&self.gradients, &keep, gradients, &take)?.detach();
        let device = self.squares.device();
        let (keep, take) = (Tensor::new(keep, device)?, Tensor::new(take, device)?);
        self.squares = ((&self.squares * keep)? + (lambda.sqr()? * take)?)?.detach();
        self.steps.iter_mut().zip(seen).for_each(|(t, s)| *t += u64::from(s));
        Ok(())
    }

    /// Bias-corrected averages ĉ_k, [C, P]; zero rows for classes never seen.
    ///
    /// # Errors
    /// The device refuses.
    pub fn gradients(&self) -> Result<Tensor> {
        let correction = self.corrections(0.0);
        Ok(self.gradients.broadcast_mul(&self.column(&correction)?)?)
    }

    /// Bias-corrected root mean squares λ̂_k, [C], f64; 1 for classes never seen.
    ///
    /// # Errors
    /// The device refuses.
    pub fn lambda(&self) -> Result<Tensor> {
        let device = self.squares.device();
        let root = (&self.squares * Tensor::new(self.corrections(0.0), device)?)?.sqrt()?;
        let unseen: Vec<f64> = self.steps.iter().map(|&t| f64::from(u8::from(t == 0))).collect();
        Ok((root + Tensor::new(unseen, device)?)?)
    }

    /// 1/(1 − γ^t) for each class, `unseen` where t = 0.
    pub(crate) fn corrections(&self, unseen: f64) -> Vec<f64> {
        let of = |t: u64| if t == 0 { unseen } else { 1.0 / (1.0 - self.gamma.powf(t as f64)) };
        self.steps.iter().map(|&t| of(t)).collect()
    }

    fn column(&self, values: &[f64]) -> Result<Tensor> {
        let t = Tensor::from_slice(values, (values.len(), 1), self.gradients.device())?;
        Ok(t.to_dtype(self.gradients.dtype())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hand_computed_sequence_with_absent_classes() {
        let cpu = Device::Cpu;
        let mut a = Averages::new(0.9, 3, 2, DType::F64, &cpu).unwrap();
        let gradient = |rows: [[f64; 2]; 3]| Tensor::new(&rows, &cpu).unwrap();
        let lambda = |v: [f64; 3]| Tensor::new(&v, &cpu).unwrap();
        let read = |a: &Averages| {
            (a.gradients().unwrap().to_vec2::<f64>().unwrap(), a.lambda().unwrap().to_vec1::<f64>().unwrap())
        };
        assert_eq!(read(&a), (vec![vec![0.0, 0.0]; 3], vec![1.0; 3]));

        // Class 1 is absent: what the batch says of it must not matter.
        a.update(&gradient([[1.0, 2.0], [99.0, 99.0], [-4.0, 0.0]]), &lambda([2.0, 99.0, 0.5]), &[3, 0, 1])
            .unwrap();
        let close = |(c, l): (Vec<Vec<f64>>, Vec<f64>), ec: [[f64; 2]; 3], el: [f64; 3]| {
            let flat = c.concat().into_iter().chain(l);
            let expected = ec.concat().into_iter().chain(el);
            for (f, e) in flat.zip(expected) {
                assert!((f - e).abs() < 1e-14, "{f} {e}");
            }
        };
        // With bias correction the first average is the first value.
        close(read(&a), [[1.0, 2.0], [0.0, 0.0], [-4.0, 0.0]], [2.0, 1.0, 0.5]);

        a.update(&gradient([[3.0, 0.0], [5.0, 6.0], [9.0, 9.0]]), &lambda([4.0, 3.0, 9.0]), &[1, 2, 0])
            .unwrap();
        // Class 0: (0.9 * 0.1 * 1 + 0.1 * 3) / (1 - 0.81) = 0.39 / 0.19; λ: sqrt((0.09*4 + 0.1*16) / 0.19).
        close(
            read(&a),
            [[0.39 / 0.19, 0.18 / 0.19], [5.0, 6.0], [-4.0, 0.0]],
            [(1.96f64 / 0.19).sqrt(), 3.0, 0.5],
        );
        assert_eq!(a.parts().2, [2, 1, 1]);
    }
}
