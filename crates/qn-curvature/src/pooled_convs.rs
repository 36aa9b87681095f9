//! Direct convolutions one behind the other, sample by sample, so that what one writes is in the first-level
//! cache when the next reads it.

use crate::direct::{Active, Back, Direct, Padded, Work};
use crate::lanes::Group;
use crate::{Real, window_rows};

/// A chain of direct convolutions.
#[derive(Clone, Debug)]
pub(crate) struct Trunk<T> {
    pub(crate) convs: Vec<Direct<T>>,
    /// Which of the trunks it is.
    pub(crate) index: usize,
    /// Whether the first convolution has an input tangent: it is not the network's first layer.
    pub(crate) has_input: bool,
}

/// A trunk's tangents over a microbatch.
pub(crate) struct Buffers<T> {
    /// For each tangent, R{value} at the input and behind each convolution, `[sample][padded entry]`.
    values: Vec<Vec<Vec<T>>>,
    /// R{delta} there, of one sample.
    deltas: Vec<Vec<T>>,
    scratch: Vec<Group<T>>,
}

impl<T> Buffers<T> {
    pub(crate) fn new() -> Self {
        Self { values: Vec::new(), deltas: Vec::new(), scratch: Vec::new() }
    }
}

impl<T: Real> Trunk<T> {
    fn places(&self) -> Vec<Padded> {
        let first = self.convs.iter().take(1).map(|c| c.input);
        first.chain(self.convs.iter().map(|c| c.output)).collect()
    }

    /// Sizes the buffers for m samples and b tangents.
    pub(crate) fn prepare(&self, buffers: &mut Buffers<T>, (m, b): (usize, usize)) {
        let places = self.places();
        buffers.deltas.resize_with(places.len(), Vec::new);
        for (delta, place) in buffers.deltas.iter_mut().zip(&places) {
            delta.resize(place.len(), T::of(0.0));
        }
        buffers.values.resize_with(b.max(buffers.values.len()), Vec::new);
        for values in &mut buffers.values {
            values.resize_with(places.len(), Vec::new);
            for (i, (value, place)) in values.iter_mut().zip(&places).enumerate() {
                let samples = if i == 0 && !self.has_input { 0 } else { m };
                value.resize(samples * place.len(), T::of(0.0));
            }
        }
    }

    /// A block of b tangents, tensor by tensor as `[tangent][entry]`, as the convolutions want it: tangent
    /// after tangent, and in each one convolution after the other.
    pub(crate) fn pack(&self, tangents: &[T], b: usize) -> Vec<Group<T>> {
        let mut groups = vec![Group::zero(); self.groups() * b];
        self.visit(b, |(group, lane), at| groups[group][lane] = tangents[at]);
        groups
    }

    /// Adds sums placed as by [`Self::pack`] to a total, and clears them.
    pub(crate) fn unpack(&self, sums: &mut [Group<T>], total: &mut [f64], b: usize) {
        self.visit(b, |(group, lane), at| total[at] += sums[group][lane].f64());
        sums.fill(Group::zero());
    }

    /// Groups of a tangent.
    fn groups(&self) -> usize {
        self.convs.iter().map(Direct::groups).sum()
    }

    /// Calls `visit` with the place of every entry of b tangents in groups and in tensors.
    fn visit(&self, b: usize, mut visit: impl FnMut((usize, usize), usize)) {
        let (total, mut offset) = (self.groups(), 0);
        for conv in &self.convs {
            let mut before = 0;
            for range in conv.params() {
                for entry in 0..range.len() {
                    let (group, lane) = conv.place(before + entry);
                    for tangent in 0..b {
                        let at = range.start * b + tangent * range.len() + entry;
                        visit((tangent * total + offset + group, lane), at);
                    }
                }
                before += range.len();
            }
            offset += conv.groups();
        }
    }

    /// R{output} from R{input}, both in planes of m samples and some tangents; V is packed. `first` is the first
    /// convolution that has a tangent.
    pub(crate) fn tangent_forward(
        &self,
        actives: &[Active<T>],
        tangent: &[Group<T>],
        (first, has_input): (usize, bool),
        buffers: &mut Buffers<T>,
        (input, output): (&[T], &mut [T]),
        m: usize,
    ) {
        let (places, last) = (self.places(), self.convs.len());
        let (in_len, out_len) = (places[0].entries() * m, places[last].entries() * m);
        let tangents = tangent.chunks_exact(self.groups()).zip(&mut buffers.values);
        for (t, ((tangent, values), output)) in tangents.zip(output.chunks_exact_mut(out_len)).enumerate() {
            if has_input {
                places[0].gather(&input[t * in_len..(t + 1) * in_len], &mut values[0], m);
            }
            for sample in 0..m {
                let mut rest = tangent;
                for (i, (conv, active)) in self.convs.iter().zip(actives).enumerate() {
                    let (before, after) = values.split_at_mut(i + 1);
                    let (tangent, others) = rest.split_at(conv.groups());
                    rest = others;
                    if i < first {
                        continue;
                    }
                    let input = (i > first || has_input).then(|| self.input(&before[i], i, sample));
                    let work = Work { direct: conv, active, sample, tangent, input };
                    let len = conv.output.len();
                    let out = &mut after[0][sample * len..(sample + 1) * len];
                    window_rows::tangent_forward(&work, out, &mut buffers.scratch);
                }
            }
            places[last].scatter(&values[last], output, m);
        }
    }

    /// The sample's R{input} of convolution i.
    fn input<'a>(&self, values: &'a [T], i: usize, sample: usize) -> &'a [T] {
        let len = self.convs[i].input.len();
        &values[sample * len..(sample + 1) * len]
    }

    /// From R{δ_output} to R{δ_input}, in planes; adds the parameters' part to `sums`, placed as V. Convolutions
    /// before the first one that has a tangent are left out.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn backward(
        &self,
        actives: &[Active<T>],
        (tangent, delta_terms): (&[Group<T>], bool),
        (first, has_input): (usize, bool),
        buffers: &mut Buffers<T>,
        (rdelta, rdelta_in): (&[T], &mut [T]),
        sums: &mut [Group<T>],
        m: usize,
    ) {
        let (places, last, groups) = (self.places(), self.convs.len(), self.groups());
        let (in_len, out_len) = (places[0].entries() * m, places[last].entries() * m);
        let Buffers { values, deltas, .. } = buffers;
        let parts = tangent.chunks_exact(groups).zip(sums.chunks_exact_mut(groups));
        for (t, ((tangent, sums), rdelta)) in parts.zip(rdelta.chunks_exact(out_len)).enumerate() {
            for sample in 0..m {
                places[last].gather_one(rdelta, &mut deltas[last], (sample, m));
                let mut end = groups;
                for (i, (conv, active)) in self.convs.iter().zip(actives).enumerate().skip(first).rev() {
                    let range = end - conv.groups()..end;
                    end = range.start;
                    let reached = i > first || has_input;
                    let input = reached.then(|| self.input(&values[t][i], i, sample));
                    let work = Work { direct: conv, active, sample, tangent: &tangent[range.clone()], input };
                    let (before, after) = deltas.split_at_mut(i + 1);
                    let rdelta_in = reached.then_some(before[i].as_mut_slice());
                    let sums = &mut sums[range];
                    window_rows::backward(&work, Back { delta_terms, rdelta: &after[0], rdelta_in, sums });
                }
                if has_input {
                    places[0].scatter_one(
                        &deltas[0],
                        &mut rdelta_in[t * in_len..(t + 1) * in_len],
                        (sample, m),
                    );
                }
            }
        }
    }
}
