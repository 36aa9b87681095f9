//! ConvPool convolution through ReLU and max-pooling.
//!
//! Behind ReLU and max-pooling most outputs of a convolution s = W x + b reach nothing: of each pooling
//! window one does, and only where it is positive. Which ones depends on the primal pass alone. So R{s} is
//! computed for these *active* outputs only, and R{δ_s} is nonzero at them only: a 2 × 2 pool leaves a
//! quarter of the work, less what ReLU blocks. The pattern differs from sample to sample and from channel
//! to channel, so no matrix product over samples is left: vector lanes hold neighbouring taps of a window.

use qn_kernels::{Group, Im2col, LANES, Real};

use crate::ops::Windows;

/// A value of one sample in `[row][column][channel]` order with zeros around it, so that a row of a
/// window's taps is contiguous.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Padded {
    channels: usize,
    height: usize,
    width: usize,
    padding: usize,
}

impl Padded {
    pub(crate) fn new(shape: qn_model::Image, padding: usize) -> Self {
        Self { channels: shape.channels, height: shape.height, width: shape.width, padding }
    }

    /// Entries of a row.
    pub(crate) fn row_len(&self) -> usize {
        (self.width + 2 * self.padding) * self.channels
    }

    /// Entries with the zeros around, and as many behind as a vector may read past the end.
    pub(crate) fn len(&self) -> usize {
        (self.height + 2 * self.padding) * self.row_len() + LANES
    }

    /// Entries without the zeros.
    pub(crate) fn entries(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// `value[entry][sample]` to `[sample][padded entry]`.
    pub(crate) fn gather<T: Copy>(&self, value: &[T], padded: &mut [T], m: usize) {
        let len = self.len();
        self.each_entry(|entry, at| {
            let samples = value[entry * m..(entry + 1) * m].iter();
            samples.zip(padded[at..].iter_mut().step_by(len)).for_each(|(&x, slot)| *slot = x);
        });
    }

    /// One sample of [`Self::gather`].
    pub(crate) fn gather_one<T: Copy>(&self, value: &[T], padded: &mut [T], (sample, m): (usize, usize)) {
        self.each_entry(|entry, at| padded[at] = value[entry * m + sample]);
    }

    /// Puts one sample back into its value.
    pub(crate) fn scatter_one<T: Copy>(&self, padded: &[T], value: &mut [T], (sample, m): (usize, usize)) {
        self.each_entry(|entry, at| value[entry * m + sample] = padded[at]);
    }

    /// Visits each entry, in order, with its place.
    fn each_entry(&self, mut visit: impl FnMut(usize, usize)) {
        let mut entry = 0;
        for channel in 0..self.channels {
            for row in 0..self.height {
                let first = (row + self.padding) * self.row_len() + self.padding * self.channels + channel;
                for column in 0..self.width {
                    visit(entry, first + column * self.channels);
                    entry += 1;
                }
            }
        }
    }

    /// Where an entry lies, counted in `[channel][row][column]` order without the zeros.
    pub(crate) fn position(&self, entry: usize) -> usize {
        let (channel, at) = (entry / (self.height * self.width), entry % (self.height * self.width));
        (at / self.width + self.padding) * self.row_len()
            + (at % self.width + self.padding) * self.channels
            + channel
    }
}

/// A convolution with the ReLU, if any, and the max-pool behind it.
#[derive(Clone, Debug)]
pub(crate) struct ConvPool {
    pub(crate) patches: Im2col,
    pub(crate) has_bias: bool,
    pub(crate) pool: Windows,
    /// Whether there is a ReLU between them.
    pub(crate) relu: bool,
    pub(crate) input: Padded,
    pub(crate) output: Padded,
}

/// An output of the convolution that reaches the loss.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<T> {
    /// Its window's first tap in the padded input.
    pub(crate) origin: u32,
    /// Its place in the padded output.
    pub(crate) slot: u32,
    /// The primal delta there.
    pub(crate) delta: T,
}

/// The primal part of a direct convolution over a microbatch.
#[derive(Clone, Debug)]
pub(crate) struct Active<T> {
    /// The padded input, sample after sample.
    input: Vec<T>,
    /// Where the entries of `[sample][channel]` begin, and the end.
    starts: Vec<u32>,
    entries: Vec<Entry<T>>,
}

/// What a forward pass has found, in values of m samples.
pub(crate) struct Found<'a, T> {
    pub(crate) input: &'a [T],
    /// The pooled outputs.
    pub(crate) pooled: &'a [T],
    /// For each pooled output, which output of the convolution it is.
    pub(crate) picked: &'a [u32],
}

/// Kernel sizes that have compiled kernels.
pub(crate) const SIZES: [usize; 2] = [3, 5];

/// Streams in which a channel's entries are interleaved: windows that overlap are then not updated one
/// right after the other, which would stall on the stores before.
const STREAMS: usize = 4;

impl ConvPool {
    /// Lists the active outputs.
    pub(crate) fn activate<T: Real>(&self, found: &Found<'_, T>, m: usize) -> Active<T> {
        let zero = T::of(0.0);
        let mut input = vec![zero; self.input.len() * m];
        self.input.gather(found.input, &mut input, m);
        let (width, stride) = (self.patches.output.width, self.patches.window.stride[0]);
        let (positions, channels) = (self.patches.output.positions(), self.patches.output.channels);
        // Where the window of each position begins, and where each output goes.
        let origin = |p: usize| {
            (p / width * stride * self.input.row_len() + p % width * stride * self.input.channels) as u32
        };
        let origins: Vec<u32> = (0..positions).map(origin).collect();
        let places: Vec<u32> =
            (0..self.pool.output.len()).map(|slot| self.output.position(slot) as u32).collect();
        let outputs = self.pool.output.positions();
        let (mut starts, mut entries) = (vec![0], Vec::new());
        let mut channel_entries = Vec::with_capacity(outputs);
        for sample in 0..m {
            for channel in 0..channels {
                channel_entries.clear();
                for (i, &place) in places[channel * outputs..][..outputs].iter().enumerate() {
                    let slot = channel * outputs + i;
                    let at = found.picked[slot * m + sample] as usize;
                    if self.relu && found.pooled[slot * m + sample] <= zero {
                        continue;
                    }
                    channel_entries.push(Entry {
                        origin: origins[at / m - channel * positions],
                        slot: place,
                        delta: zero,
                    });
                }
                let stride = channel_entries.len().div_ceil(STREAMS).max(1);
                for first in 0..stride {
                    entries.extend(channel_entries.iter().skip(first).step_by(stride));
                }
                starts.push(entries.len() as u32);
            }
        }
        Active { input, starts, entries }
    }

    /// Sizes of its parameters: weights and then the bias, if there is one.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = usize> {
        let channels = self.channels();
        std::iter::once(self.patches.patch_len() * channels).chain(self.has_bias.then_some(channels))
    }

    /// Groups that hold a row of a window's taps.
    pub(crate) fn row_groups(&self) -> usize {
        (self.patches.window.kernel[1] * self.input.channels).div_ceil(LANES)
    }

    /// The group and lane of a weight or bias, counted in layout order: `[out][row][tap]`, rows of taps
    /// beginning with a new group, and behind them each bias in a group of its own.
    pub(crate) fn place(&self, entry: usize) -> (usize, usize) {
        let (window, groups, inner) = (self.patches.window, self.row_groups(), self.patches.patch_len());
        let ([height, width], weights) = (window.kernel, inner * self.channels());
        if entry >= weights {
            return (self.channels() * height * groups + entry - weights, 0);
        }
        let (filter, k) = (entry / inner, entry % inner);
        let (channel, position) = (k / window.taps(), k % window.taps());
        let (row, column) = (position / width, position % width);
        let tap = column * self.input.channels + channel;
        ((filter * height + row) * groups + tap / LANES, tap % LANES)
    }

    /// Groups of weights and biases.
    pub(crate) fn groups(&self) -> usize {
        let biases = if self.has_bias { self.channels() } else { 0 };
        self.channels() * self.patches.window.kernel[0] * self.row_groups() + biases
    }

    /// Output channels.
    pub(crate) fn channels(&self) -> usize {
        self.patches.output.channels
    }
}

impl<T: Real> Active<T> {
    /// What a padded value of a sample holds at its entries, in order.
    pub(crate) fn read(&self, sample: usize, channels: usize, delta: &[T]) -> Vec<T> {
        self.entries[self.range(sample, channels)].iter().map(|entry| delta[entry.slot as usize]).collect()
    }

    /// Sets the deltas of a sample's entries.
    pub(crate) fn set(&mut self, sample: usize, channels: usize, deltas: Vec<T>) {
        let range = self.range(sample, channels);
        self.entries[range].iter_mut().zip(deltas).for_each(|(entry, delta)| entry.delta = delta);
    }

    fn range(&self, sample: usize, channels: usize) -> std::ops::Range<usize> {
        self.starts[sample * channels] as usize..self.starts[(sample + 1) * channels] as usize
    }
}

/// What both passes of a direct convolution over one sample read.
pub(crate) struct Work<'a, T> {
    pub(crate) conv: &'a ConvPool,
    /// W and b.
    pub(crate) weight: &'a [Group<T>],
    pub(crate) active: &'a Active<T>,
    pub(crate) sample: usize,
    /// V and v.
    pub(crate) tangent: &'a [Group<T>],
    /// R{input}; `None` where it is zero, at the network's input.
    pub(crate) input: Option<&'a [T]>,
}

impl<'a, T> Work<'a, T> {
    /// The entries of each output channel.
    #[inline(always)]
    pub(crate) fn channels(&self) -> impl Iterator<Item = &'a [Entry<T>]> + use<'a, T> {
        let (active, out) = (self.active, self.conv.channels());
        active.starts[self.sample * out..=(self.sample + 1) * out]
            .array_windows::<2>()
            .map(move |&[from, to]| &active.entries[from as usize..to as usize])
    }

    /// The primal input.
    #[inline(always)]
    pub(crate) fn image(&self) -> &'a [T] {
        let len = self.conv.input.len();
        &self.active.input[self.sample * len..(self.sample + 1) * len]
    }
}

/// Where a backward pass through a direct convolution reads and writes.
pub(crate) struct Back<'a, T> {
    /// Whether the terms with the primal delta take part.
    pub(crate) delta_terms: bool,
    /// R{δ} at the output.
    pub(crate) rdelta: &'a [T],
    /// R{δ} at the input; `None` at the network's input.
    pub(crate) rdelta_in: Option<&'a mut [T]>,
    /// What R{dW} and R{db} are added to, placed as V and v.
    pub(crate) sums: &'a mut [Group<T>],
}
