//! What shape each operation gives, and what it refuses.

use crate::{Image, Op, ParamId, ParamLayout, Shape, Window};

/// The shape of an operation's output.
pub(crate) fn output(op: &Op, inputs: &[&Shape], layout: &ParamLayout) -> Result<Shape, String> {
    if let Op::Custom(op) = op {
        return op.output(inputs, layout);
    }
    let wanted = match op {
        Op::Parameter(_) | Op::Constant { .. } => Some(0),
        Op::Binary(_) | Op::Compare(_) | Op::MatMul | Op::Gather { .. } => Some(2),
        Op::Choose => Some(3),
        Op::Concat { .. } => None,
        _ => Some(1),
    };
    if wanted.is_some_and(|n| n != inputs.len()) || (wanted.is_none() && inputs.is_empty()) {
        return Err(format!("it is given {} inputs", inputs.len()));
    }
    let rules = Rules { inputs, layout };
    match op {
        Op::Linear { weight, bias } => rules.linear(*weight, *bias),
        Op::Conv { weight, bias, window, groups } => rules.conv(*weight, *bias, *window, *groups),
        Op::ConvTranspose { weight, bias, window, output_padding, groups } => {
            rules.conv_transpose((*weight, *bias), *window, *output_padding, *groups)
        }
        Op::BatchNorm { affine, .. } => rules.channels(*affine, 1),
        Op::GroupNorm { affine, groups, .. } => rules.channels(*affine, *groups),
        Op::LayerNorm { weight, bias, axes, .. } => rules.last_axes(&[*weight, *bias], *axes),
        Op::RmsNorm { weight, axes, .. } => rules.last_axes(&[*weight], *axes),
        Op::Activation(_) | Op::Scale(_) | Op::Shift(_) => Ok(inputs[0].clone()),
        Op::Binary(_) | Op::Compare(_) | Op::Choose => rules.stretched(),
        Op::MatMul => rules.matmul(),
        Op::Softmax { axis } | Op::LogSoftmax { axis } => rules.has(*axis).map(|()| inputs[0].clone()),
        Op::Reduce { axes, keep, .. } => rules.reduce(axes, *keep),
        Op::MaxPool(window) | Op::AvgPool { window, .. } => rules.pool(*window),
        Op::AdaptiveAvgPool(size) => rules.adaptive(*size),
        Op::Embedding { weight, .. } => {
            let width = rules.dims(*weight).get(1).copied().unwrap_or(1);
            Ok(Shape::new([inputs[0].dims(), &[width]].concat()))
        }
        _ => rules.rearranged(op),
    }
}

struct Rules<'a> {
    inputs: &'a [&'a Shape],
    layout: &'a ParamLayout,
}

impl Rules<'_> {
    fn dims(&self, param: ParamId) -> &[usize] {
        &self.layout.param(param).shape
    }

    /// The shape that all inputs have when they are stretched to each other.
    fn stretched(&self) -> Result<Shape, String> {
        let all = self.inputs[1..].iter().try_fold(self.inputs[0].clone(), |all, x| all.broadcast(x));
        all.ok_or_else(|| {
            let shapes: Vec<String> = self.inputs.iter().map(ToString::to_string).collect();
            format!("its inputs are {}", shapes.join(" and "))
        })
    }

    fn has(&self, axis: usize) -> Result<(), String> {
        let x = self.inputs[0];
        if axis < x.rank() { Ok(()) } else { Err(format!("its input, {x}, has no axis {axis}")) }
    }

    fn expect(&self, param: ParamId, dims: &[usize]) -> Result<(), String> {
        let (found, wanted) = (Shape::new(self.dims(param)), Shape::new(dims));
        let name = &self.layout.param(param).name;
        if found == wanted { Ok(()) } else { Err(format!("'{name}' is {found}, and {wanted} is needed")) }
    }

    fn linear(&self, weight: ParamId, bias: Option<ParamId>) -> Result<Shape, String> {
        let x = self.inputs[0];
        let (&inner, rest) = x.dims().split_last().ok_or("its input is a scalar")?;
        let out = self.dims(weight)[0];
        self.expect(weight, &[out, inner])?;
        bias.map_or(Ok(()), |b| self.expect(b, &[out]))?;
        Ok(Shape::new([rest, &[out]].concat()))
    }

    /// Two axes of space or one, as the input has them.
    fn like_input(&self, image: Image) -> Shape {
        match self.inputs[0].rank() {
            2 => Shape::new([image.channels, image.width]),
            _ => Shape::new([image.channels, image.height, image.width]),
        }
    }

    fn image(&self) -> Result<Image, String> {
        let x = self.inputs[0];
        match x.rank() {
            2 | 3 => Ok(x.image()),
            _ => Err(format!("its input is {x} instead of channels x rows x columns or channels x length")),
        }
    }

    fn conv(
        &self,
        weight: ParamId,
        bias: Option<ParamId>,
        window: Window,
        groups: usize,
    ) -> Result<Shape, String> {
        let (input, dims) = (self.image()?, self.dims(weight).to_vec());
        let out = dims[0];
        if groups == 0 || !input.channels.is_multiple_of(groups) || !out.is_multiple_of(groups) {
            return Err(format!("{} input and {out} output channels in {groups} groups", input.channels));
        }
        if dims.len() == 3 && window.kernel[0] != 1 {
            let name = &self.layout.param(weight).name;
            return Err(format!("'{name}' has one axis of space, its window {} rows", window.kernel[0]));
        }
        let space = if dims.len() == 3 { vec![window.kernel[1]] } else { window.kernel.to_vec() };
        self.expect(weight, &[vec![out, input.channels / groups], space].concat())?;
        bias.map_or(Ok(()), |b| self.expect(b, &[out]))?;
        Ok(self.like_input(window.output(input, out)?))
    }

    fn conv_transpose(
        &self,
        (weight, bias): (ParamId, Option<ParamId>),
        window: Window,
        output_padding: [usize; 2],
        groups: usize,
    ) -> Result<Shape, String> {
        let (input, dims) = (self.image()?, self.dims(weight).to_vec());
        if groups == 0 || !input.channels.is_multiple_of(groups) {
            return Err(format!("{} input channels in {groups} groups", input.channels));
        }
        window.check()?;
        if (0..2).any(|axis| output_padding[axis] >= window.stride[axis].max(window.dilation[axis])) {
            return Err("its output_padding is not smaller than its stride or dilation".into());
        }
        let space = if dims.len() == 3 { vec![window.kernel[1]] } else { window.kernel.to_vec() };
        self.expect(weight, &[vec![input.channels, dims[1]], space].concat())?;
        let out = dims[1] * groups;
        bias.map_or(Ok(()), |b| self.expect(b, &[out]))?;
        let side = |n: usize, axis: usize| {
            let span = window.dilation[axis] * (window.kernel[axis] - 1) + 1;
            ((n - 1) * window.stride[axis] + span + output_padding[axis])
                .checked_sub(2 * window.padding[axis])
                .filter(|&side| side > 0)
                .ok_or_else(|| "its padding takes away the whole output".to_owned())
        };
        let [height, width] = [side(input.height, 0)?, side(input.width, 1)?];
        Ok(self.like_input(Image { channels: out, height, width }))
    }

    /// A normalisation of the channels of axis 0.
    fn channels(&self, affine: Option<[ParamId; 2]>, groups: usize) -> Result<Shape, String> {
        let x = self.inputs[0];
        let &channels = x.dims().first().ok_or("its input is a scalar")?;
        if groups == 0 || !channels.is_multiple_of(groups) {
            return Err(format!("{channels} channels in {groups} groups"));
        }
        affine.iter().flatten().try_for_each(|&p| self.expect(p, &[channels]))?;
        Ok(x.clone())
    }

    /// A normalisation over the last axes.
    fn last_axes(&self, params: &[Option<ParamId>], axes: usize) -> Result<Shape, String> {
        let x = self.inputs[0];
        if axes == 0 || axes > x.rank() {
            return Err(format!("{axes} last axes of {x}"));
        }
        let normalised = &x.dims()[x.rank() - axes..];
        params.iter().flatten().try_for_each(|&p| self.expect(p, normalised))?;
        Ok(x.clone())
    }

    fn matmul(&self) -> Result<Shape, String> {
        let [a, b] = [self.inputs[0], self.inputs[1]];
        let misfit = || format!("its inputs are {a} and {b}");
        let ([a_before @ .., i, k], [b_before @ .., l, j]) = (a.dims(), b.dims()) else {
            return Err(misfit());
        };
        let before =
            Shape::new(a_before).broadcast(&Shape::new(b_before)).filter(|_| k == l).ok_or_else(misfit)?;
        Ok(Shape::new([before.dims(), &[*i, *j]].concat()))
    }

    fn reduce(&self, axes: &[usize], keep: bool) -> Result<Shape, String> {
        axes.iter().try_for_each(|&axis| self.has(axis))?;
        if !axes.is_sorted_by(|a, b| a < b) {
            return Err("its axes are not in ascending order".into());
        }
        let dims = self.inputs[0].dims().iter().enumerate();
        let left = dims.filter_map(|(i, &n)| match axes.contains(&i) {
            true => keep.then_some(1),
            false => Some(n),
        });
        Ok(Shape::new(left.collect::<Vec<_>>()))
    }

    fn pool(&self, window: Window) -> Result<Shape, String> {
        let input = self.image()?;
        if (0..2).any(|axis| 2 * window.padding[axis] > window.kernel[axis]) {
            return Err("its padding is more than half of its window".into());
        }
        Ok(self.like_input(window.output(input, input.channels)?))
    }

    fn adaptive(&self, [height, width]: [usize; 2]) -> Result<Shape, String> {
        let input = self.image()?;
        if height == 0 || width == 0 {
            return Err("its output is empty".into());
        }
        if self.inputs[0].rank() == 2 && height != 1 {
            return Err(format!(
                "{height} rows of an input that has channels and a length, {}",
                self.inputs[0]
            ));
        }
        Ok(self.like_input(Image { channels: input.channels, height, width }))
    }

    /// Operations that only move entries.
    fn rearranged(&self, op: &Op) -> Result<Shape, String> {
        let x = self.inputs.first().copied();
        let dims = x.map_or(&[][..], Shape::dims);
        let with = |axis: usize, n: usize| {
            let mut dims = dims.to_vec();
            dims[axis] = n;
            Ok(Shape::new(dims))
        };
        match op {
            Op::Parameter(id) => Ok(Shape::new(self.dims(*id))),
            Op::Constant { shape, values } => match Shape::new(shape.as_slice()) {
                shape if shape.len() == values.len() => Ok(shape),
                shape => Err(format!("{} numbers for {shape}", values.len())),
            },
            Op::Reshape(new) => match Shape::new(new.as_slice()) {
                shape if Some(shape.len()) == x.map(Shape::len) => Ok(shape),
                shape => Err(format!("{} entries cannot become {shape}", dims.iter().product::<usize>())),
            },
            Op::Permute(axes) => {
                let mut sorted = axes.clone();
                sorted.sort_unstable();
                if !sorted.into_iter().eq(0..dims.len()) {
                    return Err(format!("{axes:?} is no order of {} axes", dims.len()));
                }
                Ok(Shape::new(axes.iter().map(|&a| dims[a]).collect::<Vec<_>>()))
            }
            Op::Expand(new) => {
                let shape = Shape::new(new.as_slice());
                let fits = x.and_then(|x| x.broadcast(&shape)).is_some_and(|both| both == shape);
                if fits {
                    Ok(shape)
                } else {
                    Err(format!("{} cannot be stretched to {shape}", Shape::new(dims)))
                }
            }
            Op::Gather { axis } => {
                self.has(*axis)?;
                let index = self.inputs[1];
                let fits = index.rank() == dims.len()
                    && (0..dims.len()).all(|i| i == *axis || index.dims()[i] <= dims[i]);
                if fits {
                    Ok(index.clone())
                } else {
                    Err(format!("its places are {index} for {}", Shape::new(dims)))
                }
            }
            Op::IndexSelect { axis, index } => {
                self.has(*axis)?;
                if index.iter().any(|&i| i >= dims[*axis]) {
                    return Err(format!("a place beyond the {} of axis {axis}", dims[*axis]));
                }
                with(*axis, index.len())
            }
            Op::Slice { axis, start, end, step } => {
                self.has(*axis)?;
                if *step == 0 || start >= end || *end > dims[*axis] {
                    return Err(format!(
                        "entries {start}..{end} by {step} of the {} of axis {axis}",
                        dims[*axis]
                    ));
                }
                with(*axis, (end - start).div_ceil(*step))
            }
            Op::Concat { axis } => self.concat(*axis),
            Op::Pad { amounts, .. } if amounts.len() == dims.len() => {
                let sides = dims.iter().zip(amounts).map(|(n, [before, behind])| n + before + behind);
                Ok(Shape::new(sides.collect::<Vec<_>>()))
            }
            Op::Where { mask, .. } if Some(mask.len()) == x.map(Shape::len) => Ok(Shape::new(dims)),
            _ => Err(format!("it does not fit its input, {}", Shape::new(dims))),
        }
    }

    fn concat(&self, axis: usize) -> Result<Shape, String> {
        self.has(axis)?;
        let mut dims = self.inputs[0].dims().to_vec();
        for other in &self.inputs[1..] {
            let fits = other.rank() == dims.len()
                && (0..dims.len()).all(|i| i == axis || other.dims()[i] == dims[i]);
            if !fits {
                return Err(format!(
                    "{} and {other} cannot be put together along axis {axis}",
                    self.inputs[0]
                ));
            }
            dims[axis] += other.dims()[axis];
        }
        Ok(Shape::new(dims))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ParamKind, Reduction};

    fn of(op: &Op, inputs: &[&[usize]]) -> Result<Vec<usize>, String> {
        let shapes: Vec<Shape> = inputs.iter().map(|d| Shape::new(*d)).collect();
        let mut layout = ParamLayout::default();
        layout.push("w".into(), vec![6, 2, 3, 3], ParamKind::NormScale);
        layout.push("t".into(), vec![4, 3, 3, 3], ParamKind::NormScale);
        layout.push("line".into(), vec![4, 3, 3], ParamKind::NormScale);
        output(op, &shapes.iter().collect::<Vec<_>>(), &layout).map(|s| s.dims().to_vec())
    }

    #[test]
    fn shapes_are_pytorchs() {
        // torch.nn.functional.conv2d(zeros(1, 4, 9, 8), zeros(6, 2, 3, 3), groups=2, stride=2, padding=1).shape
        let window = Window::square(3, 2, 1);
        let conv = Op::Conv { weight: ParamId(0), bias: None, window, groups: 2 };
        assert_eq!(of(&conv, &[&[4, 9, 8]]), Ok(vec![6, 5, 4]));
        // conv_transpose2d(zeros(1, 4, 5, 4), zeros(4, 3, 3, 3), stride=2, padding=1, output_padding=1, groups=2)
        let back =
            Op::ConvTranspose { weight: ParamId(1), bias: None, window, output_padding: [1, 1], groups: 2 };
        assert_eq!(of(&back, &[&[4, 5, 4]]), Ok(vec![6, 10, 8]));
        assert_eq!(of(&Op::MatMul, &[&[5, 1, 2, 3], &[4, 3, 7]]), Ok(vec![5, 4, 2, 7]));
        let mean = |keep| Op::Reduce { kind: Reduction::Mean, axes: vec![0, 2], keep };
        assert_eq!(of(&mean(false), &[&[4, 5, 6]]), Ok(vec![5]));
        assert_eq!(of(&mean(true), &[&[4, 5, 6]]), Ok(vec![1, 5, 1]));
        assert_eq!(of(&Op::Permute(vec![2, 0, 1]), &[&[4, 5, 6]]), Ok(vec![6, 4, 5]));
        assert_eq!(of(&Op::Slice { axis: 1, start: 1, end: 6, step: 2 }, &[&[4, 6]]), Ok(vec![4, 3]));
        assert_eq!(of(&Op::Concat { axis: 0 }, &[&[4, 6], &[1, 6]]), Ok(vec![5, 6]));
        assert_eq!(of(&Op::Expand(vec![3, 4, 6]), &[&[4, 1]]), Ok(vec![3, 4, 6]));
    }

    #[test]
    fn misfits_are_refused() {
        let conv = |window| Op::Conv { weight: ParamId(2), bias: None, window, groups: 1 };
        let line = Window { kernel: [1, 3], padding: [0, 1], ..Window::square(1, 1, 0) };
        assert_eq!(of(&conv(line), &[&[3, 8]]), Ok(vec![4, 8]));
        assert_eq!(of(&Op::AdaptiveAvgPool([1, 2]), &[&[3, 8]]), Ok(vec![3, 2]));
        let refused = [
            (Op::MatMul, vec![&[2, 3][..], &[2, 3]]),
            (Op::Permute(vec![0, 0]), vec![&[2, 3]]),
            (Op::Slice { axis: 0, start: 1, end: 3, step: 1 }, vec![&[2, 3]]),
            (Op::Concat { axis: 0 }, vec![&[2, 3], &[2, 4]]),
            (Op::Expand(vec![4]), vec![&[3]]),
            (Op::Reshape(vec![4]), vec![&[3]]),
            (Op::Softmax { axis: 2 }, vec![&[3, 4]]),
            (Op::Binary(crate::Binary::Add), vec![&[3]]),
            (Op::MaxPool(Window::square(2, 2, 2)), vec![&[1, 4, 4]]),
            (Op::IndexSelect { axis: 0, index: vec![3] }, vec![&[3]]),
            (Op::AdaptiveAvgPool([2, 2]), vec![&[3, 8]]),
            (conv(Window::square(3, 1, 1)), vec![&[3, 8]]),
        ];
        for (op, inputs) in refused {
            assert!(of(&op, &inputs).is_err(), "{op:?}");
        }
    }
}
