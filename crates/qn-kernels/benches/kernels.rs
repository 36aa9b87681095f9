//! Kernels of a convolution of 64 channels to 64, 3 × 3, on 32 × 32 images: `cargo bench -p qn-kernels`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use faer::Accum;
use qn_kernels::{Correlation, Im2col, POINTS, Tiles, Winograd, gemm, view};
use qn_model::{Image, Window};

const CHANNELS: usize = 64;
const M: usize = 16;

fn numbers(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 7919 % 101) as f32 / 50.0 - 1.0).collect()
}

fn convolution(c: &mut Criterion) {
    let image = Image { channels: CHANNELS, height: 32, width: 32 };
    let window = Window::square(3, 1, 1);
    let w = numbers(CHANNELS * CHANNELS * 9);
    let (x, mut y) = (numbers(image.len() * M), vec![0.0; image.len() * M]);
    let mut group = c.benchmark_group("conv 64-64 3x3, 32x32, f32, 16 samples");
    // Elements are the multiply-adds of the definition.
    group.throughput(Throughput::Elements((image.positions() * M * w.len()) as u64));
    group.sample_size(10);

    let lanes = Correlation::new(image, image, window, 1);
    let packed = lanes.pack(|_, o, c, tap| w[(o * CHANNELS + c) * 9 + tap]);
    group.bench_function("samples in the lanes", |b| b.iter(|| lanes.run(&[(&packed, &x)], None, &mut y, M)));

    let patches = Im2col { input: image, output: image, window };
    let (rows, inner) = (16 * M, patches.patch_len());
    let mut columns = vec![0.0; rows * inner];
    group.bench_function("patches", |b| {
        b.iter(|| {
            for first in (0..image.positions()).step_by(16) {
                patches.gather(&x, &mut columns, M, first..first + 16);
                let (patches, weights) = (view(&columns, rows, inner), view(&w, inner, CHANNELS));
                gemm(&mut y, (rows, CHANNELS), Accum::Replace, patches, weights);
            }
        });
    });

    let tiled = Winograd::new(image, image, window);
    let points = Winograd::weights(&w);
    let plane = 12 * M * CHANNELS;
    let [mut p, mut q] = [(); 2].map(|()| vec![0.0; POINTS * plane]);
    group.bench_function("Winograd", |b| {
        b.iter(|| {
            for first in (0..tiled.tiles()).step_by(12) {
                let tiles = Tiles { range: first..tiled.tiles().min(first + 12), m: M };
                tiled.inputs(&x, &mut p, &tiles);
                tiled.push_forward(points.numbers(), &p, &mut q, (Accum::Replace, tiles.rows()));
                tiled.add_outputs(&q, &mut y, &tiles);
            }
        });
    });
    group.finish();
}

criterion_group!(benches, convolution);
criterion_main!(benches);
