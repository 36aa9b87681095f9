//! What the Jacobian of a network's outputs tells, on ten of the embedded digits and an untrained network:
//!
//!     cargo run --release -p qn-curvature --example jacobian
//!
//! how a step changes the outputs, which samples pull against the mean gradient, and the eigenvalues of the empirical
//! neural tangent kernel J Jᵀ, which are those of Jᵀ J that are not zero.

use std::error::Error;
use std::path::Path;

use faer::{Mat, Side};
use qn_curvature::{Curvature, Options, Samples, norm_l2};
use qn_data::{DataName, Dataset, Split};
use qn_model::{Graph, Preset, initial_parameters};

/// Number of samples.
const N: usize = 10;

fn curvature(graph: &Graph, theta: &[f64], data: &Dataset) -> Result<Curvature<f64>, Box<dyn Error>> {
    let images = (0..N).flat_map(|i| data.sample(i));
    let labels = data.labels().unwrap_or_default()[..N].to_vec();
    let samples = Samples::new(data.sample_len(), images, labels)?;
    Ok(Curvature::new(graph, theta, &[], samples, &Options::default())?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let data = Dataset::load(&DataName::Digits, Split::Train, Path::new(""), None)?;
    let graph = Graph::new(&Preset::Digits.architecture([1, 8, 8], 10))?;
    let theta: Vec<f64> = initial_parameters(graph.layout(), 0).into_iter().map(f64::from).collect();
    let here = curvature(&graph, &theta, &data)?;
    let (p, k) = (here.dim(), here.outputs_per_sample());
    println!("{N} samples, {k} outputs each, {p} parameters");

    // A step against the gradient, to first order and in truth.
    let gradient = here.loss_and_gradient()?.gradient;
    let step = Mat::from_fn(p, 1, |i, _| -1e-3 * gradient[i]);
    let mut predicted = Mat::zeros(N * k, 1);
    here.jvp(step.as_ref(), predicted.as_mut())?;
    let moved: Vec<f64> = theta.iter().enumerate().map(|(i, t)| t + step[(i, 0)]).collect();
    let (before, after) = (here.outputs()?, curvature(&graph, &moved, &data)?.outputs()?);
    let error: Vec<f64> = (0..N * k).map(|i| after[i] - before[i] - predicted[(i, 0)]).collect();
    println!(
        "a step of 1e-3 gradients changes the outputs by {:.2e}; J says so but for {:.1e}",
        predicted.norm_l2(),
        norm_l2(&error)
    );

    // Which samples would rather go another way.
    let all: Vec<usize> = (0..N).collect();
    let gradients = here.sample_gradients(&all)?;
    for (i, g) in gradients.col_iter().enumerate() {
        let along: f64 = g.iter().zip(&gradient).map(|(a, b)| a * b).sum();
        let cosine = along / (g.norm_l2() * norm_l2(&gradient));
        println!(
            "sample {i}, a {}: |gradient| {:.3}, cosine with the mean {cosine:+.3}",
            data.labels().unwrap_or_default()[i],
            g.norm_l2()
        );
    }

    // The kernel, (N K) × (N K), from the rows.
    let rows = here.jacobian_rows(&all)?;
    let kernel = rows.transpose() * &rows;
    let ascending = kernel.self_adjoint_eigenvalues(Side::Lower).map_err(|e| format!("{e:?}"))?;
    let largest: Vec<String> = ascending.iter().rev().take(5).map(|v| format!("{v:.3}")).collect();
    println!("largest eigenvalues of the tangent kernel: {}", largest.join(", "));

    // Jᵀ J has them too: its trace is the squared length of J's rows, one product each way.
    let mut back = Mat::<f64>::zeros(p, N * k);
    here.vjp(Mat::identity(N * k, N * k).as_ref(), back.as_mut())?;
    let (trace, sum) = (back.squared_norm_l2(), ascending.iter().sum::<f64>());
    println!("trace of J J^T {trace:.6}, sum of its eigenvalues {sum:.6}");
    Ok(())
}
