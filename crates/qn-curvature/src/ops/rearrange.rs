//! Operations that move entries: each entry of the output is one of the input or a constant.

use qn_kernels::Real;
use qn_model::{Op, Shape};

use super::stretched::places;
use crate::layout::{Layout, strided, strides};
use crate::operation::{At, Cotangents, Operation, Saved, Tangents};
use crate::scratch::Scratch;

/// Permute, Expand, Slice, IndexSelect, Pad, Where, and Reshape, which leaves every entry where it is.
#[derive(Clone, Debug)]
pub(crate) struct Rearrange {
    /// Entries of the output that come from the input, in order.
    runs: Vec<Run>,
    /// Entries of the output that are the constant: first and behind last.
    constants: Vec<[usize; 2]>,
    constant: f64,
    /// Entries of the input and of the output.
    lens: [usize; 2],
    /// Whether every entry of the input is read once.
    bijective: bool,
}

/// Entries that follow each other in the input as in the output.
#[derive(Clone, Copy, Debug)]
struct Run {
    from: usize,
    to: usize,
    len: usize,
}

/// The operation that does in memory what another does in a graph, to an input that lies so.
pub(super) fn in_memory(op: &Op, input: &Layout) -> Op {
    match op {
        Op::Slice { axis, start, end, step } => {
            Op::Slice { axis: input.place(*axis), start: *start, end: *end, step: *step }
        }
        Op::IndexSelect { axis, index } => Op::IndexSelect { axis: input.place(*axis), index: index.clone() },
        Op::Pad { amounts, value } => {
            let mut moved = amounts.clone();
            amounts.iter().enumerate().for_each(|(axis, amount)| moved[input.place(axis)] = *amount);
            Op::Pad { amounts: moved, value: *value }
        }
        Op::Where { mask, otherwise } => {
            let mask = input.entries().into_iter().map(|entry| mask[entry]).collect();
            Op::Where { mask, otherwise: *otherwise }
        }
        other => other.clone(),
    }
}

/// Where each entry of the output comes from, and the constant elsewhere.
fn entries(op: &Op, x: &Shape, y: &Shape) -> (Vec<Option<usize>>, f64) {
    let mut steps = strides(x);
    let found: Vec<usize> = match op {
        Op::Permute(axes) => strided(y.dims(), &axes.iter().map(|&a| steps[a]).collect::<Vec<_>>(), 0),
        Op::Expand(_) => places(x, y).unwrap_or_else(|| (0..x.len()).collect()),
        Op::Slice { axis, start, step, .. } => {
            let first = start * steps[*axis];
            steps[*axis] *= step;
            strided(y.dims(), &steps, first)
        }
        Op::IndexSelect { axis, index } => {
            let [before, len, behind] = x.around(*axis);
            let row = |b: usize, i: usize| (0..behind).map(move |k| (b * len + i) * behind + k);
            (0..before).flat_map(|b| index.iter().flat_map(move |&i| row(b, i))).collect()
        }
        Op::Pad { amounts, value } => {
            let mut found = vec![Some(0)];
            for ((&n, stride), [front, behind]) in x.dims().iter().zip(steps).zip(amounts) {
                let inside = (0..n).map(|i| Some(i * stride));
                let line: Vec<Option<usize>> = std::iter::repeat_n(None, *front)
                    .chain(inside)
                    .chain(std::iter::repeat_n(None, *behind))
                    .collect();
                let all = found.iter().flat_map(|e| line.iter().map(move |i| Some((*e)? + (*i)?)));
                found = all.collect();
            }
            return (found, *value);
        }
        Op::Where { mask, otherwise } => {
            let own = mask.iter().enumerate().map(|(i, taken)| taken.then_some(i));
            return (own.collect(), *otherwise);
        }
        _ => (0..x.len()).collect(),
    };
    (found.into_iter().map(Some).collect(), 0.0)
}

impl Rearrange {
    /// Of an input and an output of these shapes; operations that do something else leave every entry where it is.
    pub(crate) fn new(op: &Op, x: &Shape, y: &Shape) -> Self {
        let (entries, constant) = entries(op, x, y);
        let (mut runs, mut constants): (Vec<Run>, Vec<[usize; 2]>) = (Vec::new(), Vec::new());
        let mut reads = vec![0; x.len()];
        for (to, from) in entries.iter().enumerate() {
            match (from, runs.last_mut(), constants.last_mut()) {
                (Some(from), Some(run), _) if run.to + run.len == to && run.from + run.len == *from => {
                    run.len += 1;
                }
                (Some(from), ..) => runs.push(Run { from: *from, to, len: 1 }),
                (None, _, Some(last)) if last[1] == to => last[1] += 1,
                (None, ..) => constants.push([to, to + 1]),
            }
            from.iter().for_each(|&from| reads[from] += 1);
        }
        let bijective = reads.iter().all(|&n| n == 1);
        Self { runs, constants, constant, lens: [x.len(), y.len()], bijective }
    }

    /// One value, with a constant where the input is not read.
    fn push<T: Real>(&self, x: &[T], y: &mut [T], constant: T, m: usize) {
        for &Run { from, to, len } in &self.runs {
            y[to * m..(to + len) * m].copy_from_slice(&x[from * m..(from + len) * m]);
        }
        for &[first, end] in &self.constants {
            y[first * m..end * m].fill(constant);
        }
    }

    /// The transpose.
    fn pull<T: Real>(&self, y: &[T], x: &mut [T], m: usize) {
        if !self.bijective {
            x.fill(T::of(0.0));
        }
        for &Run { from, to, len } in &self.runs {
            let (y, x) = (&y[to * m..(to + len) * m], &mut x[from * m..(from + len) * m]);
            match self.bijective {
                true => x.copy_from_slice(y),
                false => x.iter_mut().zip(y).for_each(|(x, &y)| *x += y),
            }
        }
    }
}

impl<T: Real> Operation<T> for Rearrange {
    fn forward(&self, at: &At<'_, T>, y: &mut [T], _: &mut Scratch<T>) -> Saved<T> {
        self.push(at.x[0], y, T::of(self.constant), at.m);
        Saved::none()
    }

    fn jvp(
        &self,
        at: &At<'_, T>,
        _: &Saved<T>,
        tangents: &Tangents<'_, T>,
        ydot: &mut [T],
        _: &mut Scratch<T>,
    ) {
        let Some(xdot) = tangents.x[0] else { return ydot.fill(T::of(0.0)) };
        let [x, y] = self.lens.map(|len| len * at.m);
        let pairs = xdot.chunks_exact(x).zip(ydot.chunks_exact_mut(y));
        pairs.for_each(|(xdot, ydot)| self.push(xdot, ydot, T::of(0.0), at.m));
    }

    fn vjp(
        &self,
        at: &At<'_, T>,
        _: &Saved<T>,
        (ybar, _): (&[T], usize),
        to: &mut Cotangents<'_, T>,
        _: &mut Scratch<T>,
    ) {
        let Some(xbar) = &mut to.x[0] else { return };
        let [x, y] = self.lens.map(|len| len * at.m);
        let pairs = ybar.chunks_exact(y).zip(xbar.chunks_exact_mut(x));
        pairs.for_each(|(ybar, xbar)| self.pull(ybar, xbar, at.m));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::Check;

    #[test]
    fn entries_come_from_where_they_should() {
        let of = |op: &Op, x: &[usize], y: &[usize]| {
            let found = entries(op, &Shape::new(x), &Shape::new(y)).0;
            found.into_iter().map(|e| e.map_or(-1, |e| e as isize)).collect::<Vec<_>>()
        };
        assert_eq!(of(&Op::Permute(vec![1, 0]), &[2, 3], &[3, 2]), [0, 3, 1, 4, 2, 5]);
        assert_eq!(of(&Op::Expand(vec![2, 2, 2]), &[2, 1], &[2, 2, 2]), [0, 0, 1, 1, 0, 0, 1, 1]);
        assert_eq!(of(&Op::Slice { axis: 1, start: 1, end: 4, step: 2 }, &[2, 4], &[2, 2]), [1, 3, 5, 7]);
        assert_eq!(of(&Op::IndexSelect { axis: 0, index: vec![1, 1] }, &[2, 2], &[2, 2]), [2, 3, 2, 3]);
        let pad = Op::Pad { amounts: vec![[0, 1], [1, 0]], value: 2.0 };
        assert_eq!(of(&pad, &[1, 2], &[2, 3]), [-1, 0, 1, -1, -1, -1]);
    }

    #[test]
    fn derivatives_agree_with_differences() {
        let mask = (0..24).map(|i| i % 3 != 1).collect();
        let all = [
            Op::Permute(vec![2, 0, 1]),
            Op::Expand(vec![5, 2, 3, 4]),
            Op::Slice { axis: 1, start: 0, end: 3, step: 2 },
            Op::IndexSelect { axis: 2, index: vec![3, 0, 3, 3] },
            Op::Pad { amounts: vec![[0, 1], [2, 0], [1, 1]], value: 0.5 },
            Op::Where { mask, otherwise: -3.0 },
        ];
        for op in all {
            Check::new(op, &[&[2, 3, 4]]).run();
        }
        Check::new(Op::Expand(vec![3, 5]), &[&[3, 1]]).run();
    }
}
