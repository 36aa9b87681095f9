//! The two passes of a direct convolution over a sample and a tangent.
//!
//! A row of a window's taps is contiguous in a padded value and fills one group or a few; lanes beyond its
//! end meet a weight of zero, or give sums that nobody reads.

use pulp::Simd;

use crate::Real;
use crate::direct::{Back, Entry, Work, taps};
use crate::lanes::{self, Group, Kernel, LANES, Registers};

/// R{output} of a sample: at active entries V x + v + W R{x}, zero elsewhere.
pub(crate) fn tangent_forward<T: Real>(work: &Work<'_, T>, out: &mut [T]) {
    out.fill(T::of(0.0));
    match work.direct.patches.window.height {
        3 => lanes::run::<T>(Forward::<_, 3> { work, out }),
        _ => lanes::run::<T>(Forward::<_, 5> { work, out }),
    }
}

/// From R{δ} of the output: adds R{dW} and R{db} to the sums, and gives R{δ} of the input.
pub(crate) fn backward<T: Real>(work: &Work<'_, T>, back: Back<'_, T>) {
    match work.direct.patches.window.height {
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
        let row_len = work.direct.input.row_len();
        Self { row_len, len: (work.direct.patches.window.height - 1) * row_len + LANES }
    }

    /// The part from `at`.
    #[inline(always)]
    fn part<T>(self, value: &[T], at: usize) -> &[T] {
        &value[at..at + self.len]
    }

    #[inline(always)]
    fn load<T: Real, S: Simd, const R: usize>(self, part: &[T], row: usize) -> Registers<T, S, R> {
        Registers::from_array(taps::<T, LANES>(part, row * self.row_len))
    }
}

struct Forward<'a, T, const H: usize> {
    work: &'a Work<'a, T>,
    out: &'a mut [T],
}

impl<T: Real, const H: usize> Kernel for Forward<'_, T, H> {
    #[inline(always)]
    fn run<S: Simd, const R: usize>(self, simd: S) {
        let Self { work, out } = self;
        let groups = work.direct.row_groups();
        let biases = &work.tangent[work.direct.conv.out * H * groups..];
        for (channel, entries) in work.channels().enumerate() {
            let filter = channel * H * groups..(channel + 1) * H * groups;
            let filter = Filter {
                simd,
                rows: Rows::of(work),
                groups,
                image: work.image(),
                input: work.input,
                weight: &work.direct.weight[filter.clone()],
                tangent: &work.tangent[filter],
                bias: biases.get(channel).map_or(T::of(0.0), |group| group[0]),
            };
            let (fours, rest) = entries.as_chunks::<4>();
            for entries in fours {
                filter.outputs::<H, 4, R>(entries, out);
            }
            for entry in rest {
                filter.outputs::<H, 1, R>(std::array::from_ref(entry), out);
            }
        }
    }
}

/// An output channel.
struct Filter<'a, T, S> {
    simd: S,
    rows: Rows,
    groups: usize,
    image: &'a [T],
    input: Option<&'a [T]>,
    weight: &'a [Group<T>],
    tangent: &'a [Group<T>],
    bias: T,
}

impl<T: Real, S: Simd> Filter<'_, T, S> {
    #[inline(always)]
    fn outputs<const H: usize, const P: usize, const R: usize>(
        &self,
        entries: &[Entry<T>; P],
        out: &mut [T],
    ) {
        let (simd, groups) = (self.simd, self.groups);
        let mut totals = [Registers::<T, S, R>::splat(simd, T::of(0.0)); P];
        for group in 0..groups {
            for p in 0..P {
                let at = entries[p].origin as usize + group * LANES;
                let image = self.rows.part(self.image, at);
                for row in 0..H {
                    let v = self.tangent[row * groups + group].load();
                    totals[p] = totals[p].add_product(simd, v, self.rows.load(image, row));
                }
                let Some(input) = self.input else { continue };
                let input = self.rows.part(input, at);
                for row in 0..H {
                    let w = self.weight[row * groups + group].load();
                    totals[p] = totals[p].add_product(simd, w, self.rows.load(input, row));
                }
            }
        }
        for p in 0..P {
            out[entries[p].slot as usize] = self.bias + totals[p].sum(simd);
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
        let (groups, rows, image) = (work.direct.row_groups(), Rows::of(work), work.image());
        if let Some(rdelta_in) = rdelta_in.as_deref_mut() {
            rdelta_in.fill(T::of(0.0));
        }
        let (sums, bias_sums) = sums.split_at_mut(work.direct.conv.out * H * groups);
        for (channel, entries) in work.channels().enumerate() {
            if let Some(sum) = bias_sums.get_mut(channel) {
                sum[0] += entries.iter().map(|entry| rdelta[entry.slot as usize]).sum::<T>();
            }
            let filter = channel * H * groups..(channel + 1) * H * groups;
            let (sums, weight) = (&mut sums[filter.clone()], &work.direct.weight[filter.clone()]);
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
