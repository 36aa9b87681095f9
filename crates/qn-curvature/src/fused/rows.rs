//! The two passes of a direct convolution over a sample and a tangent.
//!
//! A row of a window's taps is contiguous in a padded value and fills one group or a few; lanes beyond its
//! end meet a weight of zero, or give sums that nobody reads.

use pulp::Simd;
use qn_kernels::{self as lanes, Group, Kernel, LANES, Real, Registers};

use crate::fused::conv_pool::{Back, Entry, Work};

/// R{output} of a sample: at active entries V x + v + W R{x}, zero elsewhere. `partial` is scratch.
pub(crate) fn tangent_forward<T: Real>(work: &Work<'_, T>, out: &mut [T], partial: &mut Vec<Group<T>>) {
    out.fill(T::of(0.0));
    let positions = work.conv.pool.output.positions();
    partial.resize(positions.max(partial.len()), Group::zero());
    match work.conv.patches.window.kernel[0] {
        3 => lanes::run::<T>(Forward::<_, 3> { work, out, partial }),
        _ => lanes::run::<T>(Forward::<_, 5> { work, out, partial }),
    }
}

/// From R{δ} of the output: adds R{dW} and R{db} to the sums, and gives R{δ} of the input.
pub(crate) fn backward<T: Real>(work: &Work<'_, T>, back: Back<'_, T>) {
    match work.conv.patches.window.kernel[0] {
        3 => lanes::run::<T>(Backward::<_, 3> { work, back }),
        _ => lanes::run::<T>(Backward::<_, 5> { work, back }),
    }
}

/// The rows of a window, sixteen taps of each: in entries [row · `row_len`, row · `row_len` + 16) of a part
/// of a padded value. All parts are of the same length, so that one check serves them all.
#[derive(Clone, Copy)]
struct Rows {
    row_len: usize,
    len: usize,
}

impl Rows {
    fn of<T>(work: &Work<'_, T>) -> Self {
        let row_len = work.conv.input.row_len();
        Self { row_len, len: (work.conv.patches.window.kernel[0] - 1) * row_len + LANES }
    }

    /// The part from `at`.
    #[inline(always)]
    fn part<T>(self, value: &[T], at: usize) -> &[T] {
        &value[at..at + self.len]
    }

    #[inline(always)]
    fn load<T: Real, S: Simd, const R: usize>(self, part: &[T], row: usize) -> Registers<T, S, R> {
        match part[row * self.row_len..].first_chunk() {
            Some(taps) => Registers::from_array(taps),
            None => unreachable!("a part ends with sixteen taps of its last row"),
        }
    }

    /// The products of taps with a filter, summed over rows and not over lanes. Two sums are under way at
    /// once, so that an addition need not wait for the one before.
    #[inline(always)]
    fn product<T: Real, S: Simd, const R: usize, const H: usize>(
        self,
        simd: S,
        filter: &[Registers<T, S, R>; H],
        value: &[T],
        at: usize,
    ) -> Registers<T, S, R> {
        let part = self.part(value, at);
        let mut even = filter[0].product(simd, self.load(part, 0));
        let mut odd = filter[1].product(simd, self.load(part, 1));
        for row in (2..H).step_by(2) {
            even = even.add_product(simd, filter[row], self.load(part, row));
        }
        for row in (3..H).step_by(2) {
            odd = odd.add_product(simd, filter[row], self.load(part, row));
        }
        even.add(simd, odd)
    }
}

struct Forward<'a, T, const H: usize> {
    work: &'a Work<'a, T>,
    out: &'a mut [T],
    /// For each entry of a channel, what the groups of taps so far add up to, lane by lane.
    partial: &'a mut [Group<T>],
}

impl<T: Real, const H: usize> Kernel for Forward<'_, T, H> {
    #[inline(always)]
    fn run<S: Simd, const R: usize>(self, simd: S) {
        let Self { work, out, partial } = self;
        let (groups, rows, image) = (work.conv.row_groups(), Rows::of(work), work.image());
        let biases = &work.tangent[work.conv.channels() * H * groups..];
        for (channel, entries) in work.channels().enumerate() {
            let filter = channel * H * groups..(channel + 1) * H * groups;
            let (tangent, weight) = (&work.tangent[filter.clone()], &work.weight[filter]);
            let bias = biases.get(channel).map_or(T::of(0.0), |group| group[0]);
            for group in 0..groups {
                let mut v = [Registers::<T, S, R>::splat(simd, T::of(0.0)); H];
                let mut w = v;
                for row in 0..H {
                    (v[row], w[row]) =
                        (tangent[row * groups + group].load(), weight[row * groups + group].load());
                }
                for (entry, partial) in entries.iter().zip(&mut *partial) {
                    let at = entry.origin as usize + group * LANES;
                    let mut total = rows.product(simd, &v, image, at);
                    if let Some(input) = work.input {
                        total = total.add(simd, rows.product(simd, &w, input, at));
                    }
                    if group > 0 {
                        total = total.add(simd, partial.load());
                    }
                    if group + 1 == groups {
                        out[entry.slot as usize] = bias + total.sum(simd);
                    } else {
                        total.store(partial);
                    }
                }
            }
        }
    }
}

struct Backward<'a, T, const H: usize> {
    work: &'a Work<'a, T>,
    back: Back<'a, T>,
}

impl<T: Real, const H: usize> Kernel for Backward<'_, T, H> {
    #[inline(always)]
    fn run<S: Simd, const R: usize>(self, simd: S) {
        let Self { work, back: Back { delta_terms, rdelta, mut rdelta_in, sums } } = self;
        let (groups, rows, image) = (work.conv.row_groups(), Rows::of(work), work.image());
        if let Some(rdelta_in) = rdelta_in.as_deref_mut() {
            rdelta_in.fill(T::of(0.0));
        }
        let (sums, bias_sums) = sums.split_at_mut(work.conv.channels() * H * groups);
        for (channel, entries) in work.channels().enumerate() {
            if let Some(sum) = bias_sums.get_mut(channel) {
                sum[0] += entries.iter().map(|entry| rdelta[entry.slot as usize]).sum::<T>();
            }
            let filter = channel * H * groups..(channel + 1) * H * groups;
            let (sums, weight) = (&mut sums[filter.clone()], &work.weight[filter.clone()]);
            let tangent = &work.tangent[filter];
            for group in 0..groups {
                let column = Column { simd, entries, rdelta, offset: group * LANES, rows };
                let mut totals = [Registers::<T, S, R>::splat(simd, T::of(0.0)); H];
                match work.input {
                    Some(ra) if delta_terms => column.second_order_weights(image, ra, &mut totals),
                    _ => column.first_order_weights(image, &mut totals),
                }
                let (mut v, mut w) = (totals, totals);
                for row in 0..H {
                    let at = row * groups + group;
                    sums[at].load::<S, R>().add(simd, totals[row]).store(&mut sums[at]);
                    (v[row], w[row]) = (tangent[at].load(), weight[at].load());
                }
                match rdelta_in.as_deref_mut() {
                    Some(target) if delta_terms => column.inputs::<H, R, true>(&w, &v, target),
                    Some(target) => column.inputs::<H, R, false>(&w, &v, target),
                    None => {}
                }
            }
        }
    }
}

/// Sixteen neighbouring taps in each row of the windows of an output channel.
struct Column<'a, T, S> {
    simd: S,
    entries: &'a [Entry<T>],
    rdelta: &'a [T],
    offset: usize,
    rows: Rows,
}

impl<T: Real, S: Simd> Column<'_, T, S> {
    /// The part of a padded value that an entry's window lies in.
    #[inline(always)]
    fn part<'p>(&self, value: &'p [T], entry: &Entry<T>) -> &'p [T] {
        self.rows.part(value, entry.origin as usize + self.offset)
    }

    /// R{dW} = Σ R{δ} x.
    #[inline(always)]
    fn first_order_weights<const H: usize, const R: usize>(
        &self,
        image: &[T],
        totals: &mut [Registers<T, S, R>; H],
    ) {
        for entry in self.entries {
            let g = Registers::splat(self.simd, self.rdelta[entry.slot as usize]);
            let x = self.part(image, entry);
            for (row, total) in totals.iter_mut().enumerate() {
                *total = total.add_product(self.simd, g, self.rows.load(x, row));
            }
        }
    }

    /// R{dW} = Σ R{δ} x + δ R{x}.
    #[inline(always)]
    fn second_order_weights<const H: usize, const R: usize>(
        &self,
        image: &[T],
        ra: &[T],
        totals: &mut [Registers<T, S, R>; H],
    ) {
        for entry in self.entries {
            let g = Registers::splat(self.simd, self.rdelta[entry.slot as usize]);
            let d = Registers::splat(self.simd, entry.delta);
            let (x, rx) = (self.part(image, entry), self.part(ra, entry));
            for (row, total) in totals.iter_mut().enumerate() {
                *total = total.add_product(self.simd, g, self.rows.load(x, row));
            }
            for (row, total) in totals.iter_mut().enumerate() {
                *total = total.add_product(self.simd, d, self.rows.load(rx, row));
            }
        }
    }

    /// R{δ_x} += Wᵀ R{δ} (+ Vᵀ δ).
    #[inline(always)]
    fn inputs<const H: usize, const R: usize, const DELTA: bool>(
        &self,
        w: &[Registers<T, S, R>; H],
        v: &[Registers<T, S, R>; H],
        target: &mut [T],
    ) {
        for entry in self.entries {
            let g = Registers::splat(self.simd, self.rdelta[entry.slot as usize]);
            let d = Registers::splat(self.simd, entry.delta);
            let at = entry.origin as usize + self.offset;
            let target = &mut target[at..at + self.rows.len];
            for row in 0..H {
                let at = row * self.rows.row_len;
                let Some(target) = target[at..].first_chunk_mut::<LANES>() else { return };
                let mut sum = w[row].product(self.simd, g);
                if DELTA {
                    sum = sum.add_product(self.simd, v[row], d);
                }
                Registers::from_array(target).add(self.simd, sum).store_array(target);
            }
        }
    }
}
