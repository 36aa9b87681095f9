//! Convolutions of any geometry: three ways to do them agree, and each map's transpose is its transpose.

use proptest::prelude::*;
use qn_kernels::{Correlation, Im2col, POINTS, Packed, Tiles, Winograd};
use qn_model::{Image, Window};

const M: usize = 16;

/// Whole numbers, whose sums of products are exact.
fn numbers(len: usize, seed: usize) -> Vec<f64> {
    (0..len).map(|i| ((i * 7919 + seed * 104_729) % 19) as f64 - 9.0).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn geometry() -> impl Strategy<Value = (Image, Image, Window)> {
    let image = (1..5usize, 1..9usize, 1..9usize);
    let pair = |range: std::ops::Range<usize>| [range.clone(), range];
    (image, pair(1..4), pair(1..4), pair(0..4), pair(1..4), 1..7usize).prop_filter_map(
        "the window does not fit",
        |((channels, height, width), kernel, stride, padding, dilation, outputs)| {
            let input = Image { channels, height, width };
            let window = Window { kernel, stride, padding, dilation };
            Some((input, window.output(input, outputs).ok()?, window))
        },
    )
}

fn forward(map: &Correlation, [w, x]: [&[f64]; 2], (taps, inner): (usize, usize), len: usize) -> Vec<f64> {
    let mut y = vec![f64::NAN; len];
    let packed: Packed<f64> = map.pack(|_, o, c, tap| w[(o * inner + c) * taps + tap]);
    map.run(&[(&packed, x)], None, &mut y, M);
    y
}

proptest! {
    #[test]
    fn patches_and_lanes_agree_and_transposes_are_transposes((input, output, window) in geometry()) {
        let (taps, inner) = (window.taps(), input.channels);
        let w = numbers(output.channels * inner * taps, 1);
        let (x, ybar) = (numbers(input.len() * M, 2), numbers(output.len() * M, 3));
        let map = Correlation::new(input, output, window, 1);
        let y = forward(&map, [&w, &x], (taps, inner), output.len() * M);

        let patches = Im2col { input, output, window };
        let positions = output.positions();
        let mut columns = vec![f64::NAN; patches.patch_len() * positions * M];
        patches.gather(&x, &mut columns, M, 0..positions);
        for (o, y) in y.chunks_exact(positions * M).enumerate() {
            for (i, y) in y.iter().enumerate() {
                let terms = (0..patches.patch_len()).map(|k| w[o * patches.patch_len() + k] * columns[k * positions * M + i]);
                prop_assert_eq!(*y, terms.sum::<f64>());
            }
        }

        let back = Correlation::transposed(input, output, window, 1);
        let packed = back.pack(|_, c, o, tap| w[(o * inner + c) * taps + tap]);
        let mut xbar = vec![f64::NAN; x.len()];
        back.run(&[(&packed, &ybar)], None, &mut xbar, M);
        let mut wbar = vec![0.0; w.len()];
        map.weight_gradient(&[(&ybar, &x)], &mut wbar, M);
        prop_assert_eq!(dot(&ybar, &y), dot(&xbar, &x));
        prop_assert_eq!(dot(&ybar, &y), dot(&wbar, &w));
    }

    /// Sums of halves and quarters of whole numbers are exact as well.
    #[test]
    fn winograds_transforms_are_transposes_and_multiply_like_the_convolution(
        (height, width, padding) in (1..9usize, 1..9usize, [0..4usize, 0..4usize])
    ) {
        let window = Window { padding, ..Window::square(3, 1, 0) };
        let input = Image { channels: 1, height, width };
        let Ok(output) = window.output(input, 1) else { return Ok(()) };
        let map = Winograd::new(input, output, window);
        let tiles = Tiles { range: 0..map.tiles(), m: M };
        let [w, x, ybar] = [(9, 1), (input.len() * M, 2), (output.len() * M, 3)].map(|(n, seed)| numbers(n, seed));
        let plane = tiles.rows();
        let [mut p, mut q] = [(); 2].map(|()| vec![f64::NAN; POINTS * plane]);
        map.inputs(&x, &mut p, &tiles);
        map.outputs(&ybar, &mut q, &tiles);
        let u = Winograd::weights(&w);
        let product: Vec<f64> =
            p.chunks_exact(plane).zip(u.numbers()).flat_map(|(p, u)| p.iter().map(move |p| p * u)).collect();
        let mut y = vec![0.0; ybar.len()];
        map.add_outputs(&product, &mut y, &tiles);
        prop_assert_eq!(dot(&q, &product), dot(&ybar, &y));
        let expected = forward(&Correlation::new(input, output, window, 1), [&w, &x], (9, 1), y.len());
        prop_assert_eq!(&y, &expected);

        let mut xbar = vec![0.0; x.len()];
        map.add_inputs(&q, &mut xbar, &tiles);
        prop_assert_eq!(dot(&xbar, &x), dot(&q, &p));
        let mut wbar = vec![0.0; 9];
        Winograd::add_weights(&numbers(POINTS, 4), &mut wbar);
        prop_assert_eq!(dot(&wbar, &w), dot(&numbers(POINTS, 4), u.numbers()));
    }
}
