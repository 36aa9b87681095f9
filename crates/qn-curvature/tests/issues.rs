//! One named test for each fault that use has shown, with the right outcome as its expectation.

use faer::{Col, Mat};
use qn_curvature::{Curvature, CurvatureError, Entries, Operator, Options, Real, Samples};
use qn_model::{Architecture, Graph, Layer};

/// tanh(W₁ x + b₁) → W₂ h + b₂, or W₂ x + b₂ alone, and its derivatives written out in double precision without a
/// difference from one: p from differences of logits, diag p − p pᵀ entry by entry, second derivatives by hand.
struct Model {
    inputs: usize,
    /// Absent without a first layer.
    hidden: Option<usize>,
    classes: usize,
    theta: Vec<f64>,
    images: Vec<Vec<f64>>,
    labels: Vec<u32>,
}

/// What is compared.
struct Reference {
    loss: f64,
    gradient: Vec<f64>,
    ggn: Mat<f64>,
    residual: Mat<f64>,
    lambda: Vec<f64>,
}

/// Numbers in (−1, 1) that single precision holds, always the same.
fn numbers(count: usize, seed: usize) -> impl Iterator<Item = f64> {
    (0..count).map(move |i| ((i * 7919 + seed * 104_729 + 12_345) * 48_271 % 65_521) as f64 / 32_768.0 - 1.0)
}

impl Model {
    /// A network whose labels are the classes that it finds, at samples that it tells apart clearly.
    fn new(hidden: Option<usize>, classes: usize, samples: usize) -> Self {
        let inputs = 3;
        let first = hidden.map_or(0, |h| h * (inputs + 1));
        let width = hidden.unwrap_or(inputs);
        let theta = numbers(first + classes * (width + 1), 3).collect();
        let mut model = Self { inputs, hidden, classes, theta, images: Vec::new(), labels: Vec::new() };
        for seed in 17.. {
            model.images.push(numbers(inputs, seed).collect());
            let last = model.images.len() - 1;
            let (mut z, top) = (model.logits(last), model.top(last));
            z.sort_by(f64::total_cmp);
            if z[classes - 1] - z[classes - 2] > 0.4 * z[classes - 1].max(-z[0]) {
                model.labels.push(top as u32);
            } else {
                model.images.pop();
            }
            if model.images.len() == samples {
                break;
            }
        }
        model
    }

    fn first_len(&self) -> usize {
        self.hidden.map_or(0, |h| h * (self.inputs + 1))
    }

    /// With a last layer such that the loss is within a factor of two of `loss`, rounded to single precision.
    fn with_loss(mut self, loss: f64) -> Self {
        let (first, original) = (self.first_len(), self.theta.clone());
        let (mut low, mut high) = (0.0, 1e5);
        for _ in 0..60 {
            let scale = 0.5 * (low + high);
            for (x, y) in self.theta[first..].iter_mut().zip(&original[first..]) {
                *x = f64::from((scale * y) as f32);
            }
            let found = self.loss();
            if found > 2.0 * loss {
                low = scale;
            } else if found < 0.5 * loss {
                high = scale;
            } else {
                return self;
            }
        }
        panic!("no scale gives the loss {loss:e}")
    }

    /// What the last layer reads, h, with φ′ and φ″; of the input itself without a first layer.
    fn hidden(&self, sample: usize) -> Vec<[f64; 3]> {
        let x = &self.images[sample];
        let Some(hidden) = self.hidden else { return x.iter().map(|&x| [x, 0.0, 0.0]).collect() };
        let value = |j: usize| {
            let row = &self.theta[j * self.inputs..(j + 1) * self.inputs];
            let s: f64 = row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
            let h = (s + self.theta[hidden * self.inputs + j]).tanh();
            [h, 1.0 - h * h, -2.0 * h * (1.0 - h * h)]
        };
        (0..hidden).map(value).collect()
    }

    fn logits(&self, sample: usize) -> Vec<f64> {
        let h = self.hidden(sample);
        let last = &self.theta[self.first_len()..];
        let row = |c: usize| h.iter().zip(&last[c * h.len()..]).map(|(h, w)| h[0] * w).sum::<f64>();
        (0..self.classes).map(|c| row(c) + last[self.classes * h.len() + c]).collect()
    }

    fn top(&self, sample: usize) -> usize {
        let z = self.logits(sample);
        (0..z.len()).fold(0, |best, c| if z[c] > z[best] { c } else { best })
    }

    fn probabilities(&self, sample: usize) -> Vec<f64> {
        let z = self.logits(sample);
        (0..z.len()).map(|c| 1.0 / z.iter().map(|other| (other - z[c]).exp()).sum::<f64>()).collect()
    }

    /// Mean of ln(1 + Σ exp(z_k − z_y)).
    fn loss(&self) -> f64 {
        let one = |(sample, &label): (usize, &u32)| {
            let (z, y) = (self.logits(sample), label as usize);
            (0..z.len()).filter(|&c| c != y).map(|c| (z[c] - z[y]).exp()).sum::<f64>().ln_1p()
        };
        self.labels.iter().enumerate().map(one).sum::<f64>() / self.labels.len() as f64
    }

    /// J = dz/dθ of a sample, C × P.
    fn jacobian(&self, sample: usize) -> Mat<f64> {
        let (h, first, x) = (self.hidden(sample), self.first_len(), &self.images[sample]);
        let mut j = Mat::zeros(self.classes, self.theta.len());
        for c in 0..self.classes {
            for (q, &[value, slope, _]) in h.iter().enumerate() {
                j[(c, first + c * h.len() + q)] = value;
                if self.hidden.is_some() {
                    let along = self.theta[first + c * h.len() + q] * slope;
                    x.iter().enumerate().for_each(|(i, x)| j[(c, q * self.inputs + i)] = along * x);
                    j[(c, h.len() * self.inputs + q)] = along;
                }
            }
            j[(c, first + self.classes * h.len() + c)] = 1.0;
        }
        j
    }

    /// Σ_c δ_c d²z_c/dθ² of a sample is added to `f`.
    fn add_bends(&self, sample: usize, delta: &[f64], f: &mut Mat<f64>) {
        let Some(hidden) = self.hidden else { return };
        let (h, first) = (self.hidden(sample), self.first_len());
        let x: Vec<f64> = self.images[sample].iter().copied().chain([1.0]).collect();
        let of =
            |q: usize, i: usize| if i < self.inputs { q * self.inputs + i } else { hidden * self.inputs + q };
        for (c, delta) in delta.iter().enumerate() {
            for (q, &[_, slope, second]) in h.iter().enumerate() {
                let last = first + c * hidden + q;
                for i in 0..x.len() {
                    f[(last, of(q, i))] += delta * slope * x[i];
                    f[(of(q, i), last)] += delta * slope * x[i];
                    for k in 0..x.len() {
                        f[(of(q, i), of(q, k))] += delta * self.theta[last] * second * x[i] * x[k];
                    }
                }
            }
        }
    }

    /// What single precision can give: the relative error of a probability is the error of its logits.
    fn single(&self) -> f64 {
        let largest = |sample| self.logits(sample).into_iter().fold(0.0f64, |a, z| a.max(z.abs()));
        let largest = (0..self.labels.len()).map(largest).fold(0.0, f64::max);
        f64::from(f32::EPSILON) * largest.max(10.0)
    }

    fn reference(&self) -> Reference {
        let (n, params, classes) = (self.labels.len() as f64, self.theta.len(), self.classes);
        let mut gradient = vec![0.0; params];
        let (mut ggn, mut residual) = (Mat::zeros(params, params), Mat::zeros(params, params));
        let mut rows = Mat::<f64>::zeros(classes, params);
        let mut spread = vec![0.0; classes];
        for (sample, &label) in self.labels.iter().enumerate() {
            let (p, j, y) = (self.probabilities(sample), self.jacobian(sample), label as usize);
            let others = |c: usize| (0..classes).filter(|&k| k != c).map(|k| p[k]).sum::<f64>();
            let a =
                Mat::from_fn(
                    classes,
                    classes,
                    |i, k| {
                        if i == k { p[i] * others(i) / n } else { -p[i] * p[k] / n }
                    },
                );
            let delta: Vec<f64> =
                (0..classes).map(|c| if c == y { -others(c) / n } else { p[c] / n }).collect();
            ggn += j.transpose() * &a * &j;
            self.add_bends(sample, &delta, &mut residual);
            for (i, g) in gradient.iter_mut().enumerate() {
                *g += (0..classes).map(|c| delta[c] * j[(c, i)]).sum::<f64>();
            }
            let members = self.labels.iter().filter(|&&l| l == label).count() as f64;
            (0..params).for_each(|i| rows[(y, i)] += j[(y, i)] / members);
            spread[y] += p[y] * others(y) / n;
        }
        let lambda = (0..classes).map(|c| spread[c] * rows.row(c).squared_norm_l2()).collect();
        Reference { loss: self.loss(), gradient, ggn, residual, lambda }
    }

    fn curvature<T: Real>(&self) -> Curvature<T> {
        let linear = |name: &str, out_features| Layer::Linear { name: name.into(), out_features, bias: true };
        let mut layers = vec![Layer::Flatten];
        layers.extend(self.hidden.into_iter().flat_map(|h| [linear("first", h), Layer::Tanh]));
        layers.push(linear("last", self.classes));
        let input = [1, 1, self.inputs];
        let graph = Graph::new(&Architecture {
            name: "m".into(),
            input: input.to_vec(),
            classes: self.classes,
            layers,
        })
        .unwrap();
        let images = self.images.iter().flatten().copied();
        let samples = Samples::new(self.inputs, images, self.labels.clone()).unwrap();
        let options = Options { threads: 2, microbatch: Some(3), ..Options::default() };
        Curvature::new(&graph, &self.theta, &[], samples, &options).unwrap()
    }

    /// Compares everything with the reference; `allowed` is relative, to the largest entry.
    fn check<T: Real>(&self, allowed: f64) {
        let (reference, here, params) = (self.reference(), self.curvature::<T>(), self.theta.len());
        let what = format!("loss {:e}, {params} parameters", reference.loss);
        let near = |name: &str, found: &[f64], expected: &[f64]| {
            let largest = expected.iter().fold(0.0f64, |a, x| a.max(x.abs()));
            for (i, (f, e)) in found.iter().zip(expected).enumerate() {
                assert!((f - e).abs() <= allowed * largest, "{what}: {name} {i}: {f:e}, not {e:e}");
            }
        };
        let point = here.loss_and_gradient().unwrap();
        near("loss", &[point.loss], &[reference.loss]);
        near("gradient", &point.gradient, &reference.gradient);
        let classes = here.class_gradients().unwrap();
        for (found, expected) in classes.lambda.iter().zip(&reference.lambda) {
            near("lambda", &[*found], &[*expected]);
        }
        let hessian = &reference.ggn + &reference.residual;
        let v = Mat::from_fn(params, 3, |i, j| numbers(params, 40 + j).nth(i).unwrap());
        for (operator, expected) in [
            (Operator::Hessian, &hessian),
            (Operator::Ggn, &reference.ggn),
            (Operator::Residual, &reference.residual),
        ] {
            let mut found = Mat::zeros(params, 3);
            here.product(operator, v.as_ref(), found.as_mut()).unwrap();
            let product = expected * &v;
            for j in 0..3 {
                let name = format!("product with {operator:?}");
                near(&name, found.col_as_slice(j), product.col_as_slice(j));
            }
            let mut matrix = Lower(Mat::zeros(params, params));
            here.assemble(operator, 0, &mut matrix).unwrap();
            let lower = |m: &Mat<f64>| -> Vec<f64> {
                (0..params).flat_map(|j| (j..params).map(move |i| (i, j))).map(|at| m[at]).collect()
            };
            near(&format!("assembly of {operator:?}"), &lower(&matrix.0), &lower(expected));
        }
    }
}

struct Lower(Mat<f64>);

impl Entries<CurvatureError> for Lower {
    fn add(&mut self, rows: std::ops::Range<usize>, j: usize, x: impl Iterator<Item = f64>) {
        rows.zip(x).for_each(|(i, x)| self.0[(i.max(j), i.min(j))] += x);
    }

    fn reached(&mut self, _: usize, _: f64) -> Result<(), CurvatureError> {
        Ok(())
    }
}

#[test]
fn derivatives_keep_their_accuracy_as_the_loss_goes_to_zero() {
    for hidden in [None, Some(4)] {
        for loss in [1e-1, 1e-3, 1e-6, 1e-9, 1e-12, 1e-16, 1e-20, 1e-25, 1e-30] {
            let model = Model::new(hidden, 4, 7).with_loss(loss);
            model.check::<f64>(1e-10);
            model.check::<f32>(model.single());
        }
    }
}

#[test]
fn deltas_below_the_range_of_single_precision_are_not_lost() {
    for hidden in [None, Some(4)] {
        for loss in [1e-36, 1e-42, 1e-60] {
            let model = Model::new(hidden, 3, 5).with_loss(loss);
            model.check::<f64>(1e-10);
            model.check::<f32>(model.single());
        }
    }
}

#[test]
fn samples_sure_of_the_wrong_class_have_accurate_curvature() {
    for hidden in [None, Some(4)] {
        for loss in [1e-3, 1e-12, 1e-30] {
            let mut model = Model::new(hidden, 4, 6).with_loss(loss);
            model.labels.iter_mut().for_each(|label| *label = (*label + 1) % 4);
            model.check::<f64>(1e-10);
            model.check::<f32>(model.single());
        }
    }
}

#[test]
fn one_sample_of_two_classes_has_a_hessian_of_rank_one() {
    for loss in [0.5, 1e-8, 1e-30] {
        let model = Model::new(None, 2, 1).with_loss(loss);
        model.check::<f64>(1e-10);
        model.check::<f32>(model.single());
        let h = model.reference().ggn;
        let mut matrix = Lower(Mat::zeros(8, 8));
        model.curvature::<f64>().assemble(Operator::Hessian, 0, &mut matrix).unwrap();
        let full = Mat::from_fn(8, 8, |i, j| matrix.0[(i.max(j), i.min(j))]);
        let values = full.self_adjoint_eigenvalues(faer::Side::Lower).unwrap();
        assert!(values[..7].iter().all(|v| v.abs() < 1e-14 * values[7]), "{values:?}");
        let trace: f64 = (0..8).map(|i| h[(i, i)]).sum();
        assert!((values[7] / trace - 1.0).abs() < 1e-10, "{values:?}");
    }
}

#[test]
fn equal_probabilities_and_absent_classes_are_cases_like_any_other() {
    for hidden in [None, Some(4)] {
        let mut model = Model::new(hidden, 4, 6);
        let first = model.first_len();
        model.theta[first..].fill(0.0);
        model.labels = vec![0, 1, 1, 0, 3, 3];
        assert!((model.loss() - 4f64.ln()).abs() < 1e-15);
        model.check::<f64>(1e-10);
        model.check::<f32>(model.single());
        let found = model.curvature::<f32>().class_gradients().unwrap();
        let params = model.theta.len();
        assert_eq!(found.lambda[2], 0.0);
        assert!(found.rows[2 * params..3 * params].iter().all(|&x| x == 0.0));
        assert!(Col::from_fn(params, |i| found.rows[params + i]).norm_l2() > 0.0);
    }
}
