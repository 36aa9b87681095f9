//! Convolutions fused with the pools behind them, and those done in tiles, against the operations one by one, whatever
//! their sizes.

mod common;

use common::{conv, linear, product, tangents, theta, with};
use proptest::prelude::*;
use qn_curvature::{Operator, Options};
use qn_model::{Architecture, Graph, Layer};

/// A convolution with what may stand between it and the next.
#[derive(Clone, Debug)]
struct Block {
    channels: usize,
    kernel: usize,
    padding: usize,
    relu: bool,
    pool: usize,
}

fn blocks() -> impl Strategy<Value = Vec<Block>> {
    let block = (1..30usize, prop::sample::select(vec![1, 3, 5]), 0..3usize, any::<bool>(), 1..4usize);
    let of = |(channels, kernel, padding, relu, pool)| Block { channels, kernel, padding, relu, pool };
    prop::collection::vec(block.prop_map(of), 1..4)
}

fn network(channels: usize, blocks: &[Block]) -> Architecture {
    let mut layers = Vec::new();
    for (i, block) in blocks.iter().enumerate() {
        layers.push(conv(&format!("conv{i}"), block.channels, block.kernel, 1, block.padding));
        layers.extend(block.relu.then_some(Layer::Relu));
        layers.extend((block.pool > 1).then(|| Layer::max_pool2d(block.pool)));
    }
    layers.extend([Layer::Flatten, linear("last", 3)]);
    Architecture { name: "random".into(), input: vec![channels, 9, 8], classes: 3, layers }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn rewritten_networks_have_the_derivatives_of_the_plain_ones(
        channels in 1..30usize, blocks in blocks(), microbatch in prop::sample::select(vec![1, 5, 16])
    ) {
        let Ok(graph) = Graph::new(&network(channels, &blocks)) else { return Ok(()) };
        let theta = theta(&graph);
        let p = theta.len();
        // Microbatches of three do not fill the lanes, so that nothing is done in lanes or tiles.
        let options = |fuse, microbatch| Options { fuse, microbatch: Some(microbatch), ..Options::default() };
        let [plain, rewritten] =
            [options(false, 3), options(true, microbatch)].map(|options| with::<f64>(&graph, &theta, &options));
        let gradients = [&plain, &rewritten].map(|c| c.loss_and_gradient().unwrap().gradient);
        prop_assert!(common::relative_error(&gradients[1], &gradients[0]) < 1e-11);
        for operator in [Operator::Hessian, Operator::Ggn] {
            let x = tangents(p, 2);
            let [expected, found] = [&plain, &rewritten].map(|c| product(c, operator, x.as_ref()));
            let error = (&found - &expected).norm_l2();
            prop_assert!(error <= 1e-10 * expected.norm_l2().max(1e-10), "{operator:?}: {error}");
        }
    }
}
