/// The axes of a value for one sample, the axis of samples apart: PyTorch's shape without its first entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape(Vec<usize>);

impl Shape {
    /// From the lengths of the axes.
    pub fn new(dims: impl Into<Vec<usize>>) -> Self {
        Self(dims.into())
    }

    /// Lengths of the axes.
    pub fn dims(&self) -> &[usize] {
        &self.0
    }

    /// How many axes there are.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// Number of entries for one sample; one for a scalar, which has no axes; the largest number there is where there
    /// are more.
    pub fn len(&self) -> usize {
        self.0.iter().fold(1, |len: usize, &n| len.saturating_mul(n))
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As channels, rows and columns: [n] is n × 1 × 1 and [c, l] is c × 1 × l; further axes count as columns.
    pub fn image(&self) -> Image {
        let at = |i: usize| self.0.get(i).copied().unwrap_or(1);
        match self.rank() {
            0..=2 => Image { channels: at(0), height: 1, width: at(1) },
            _ => Image {
                channels: at(0),
                height: at(1),
                width: self.0[2..].iter().fold(1, |len: usize, &n| len.saturating_mul(n)),
            },
        }
    }

    /// Entries before, along and behind an axis.
    pub fn around(&self, axis: usize) -> [usize; 3] {
        [self.0[..axis].iter().product(), self.0[axis], self.0[axis + 1..].iter().product()]
    }

    /// The shape that two shapes have when they are stretched to each other: axes are compared from the last, and must
    /// be equal or one of them 1.
    pub fn broadcast(&self, other: &Self) -> Option<Self> {
        let rank = self.rank().max(other.rank());
        let at = |s: &Self, i: usize| (i + s.rank()).checked_sub(rank).map_or(1, |j| s.0[j]);
        let axis = |i: usize| match (at(self, i), at(other, i)) {
            (a, b) if a == b || b == 1 => Some(a),
            (1, b) => Some(b),
            _ => None,
        };
        (0..rank).map(axis).collect::<Option<Vec<_>>>().map(Self)
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dims: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(if dims.is_empty() { "a scalar" } else { "" })?;
        f.write_str(&dims.join(" x "))
    }
}

/// Channels, height and width of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// Number of channels.
    pub channels: usize,
    /// Number of rows.
    pub height: usize,
    /// Number of columns.
    pub width: usize,
}

impl Image {
    /// Number of entries for one sample.
    pub fn len(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Height times width.
    pub fn positions(&self) -> usize {
        self.height * self.width
    }
}

/// Size and placing of a convolution's or pool's windows, rows first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Height and width.
    pub kernel: [usize; 2],
    /// Steps between windows.
    pub stride: [usize; 2],
    /// Zeros on each side of the input.
    pub padding: [usize; 2],
    /// Steps between a window's taps.
    pub dilation: [usize; 2],
}

impl Window {
    /// A square one without dilation.
    pub fn square(kernel: usize, stride: usize, padding: usize) -> Self {
        Self { kernel: [kernel; 2], stride: [stride; 2], padding: [padding; 2], dilation: [1; 2] }
    }

    /// Entries of the kernel.
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Whether windows lie side by side, none on the other's entries nor on padding.
    pub fn is_partition(&self) -> bool {
        self.padding == [0; 2] && self.dilation == [1; 2] && self.stride == self.kernel
    }

    /// That no size is zero.
    pub(crate) fn check(&self) -> Result<(), String> {
        if [self.kernel, self.stride, self.dilation].concat().contains(&0) {
            return Err("kernel, stride and dilation must be at least 1".into());
        }
        Ok(())
    }

    /// What windows on an input give: (n + 2 padding - dilation (kernel - 1) - 1) / stride + 1 on each side.
    ///
    /// # Errors
    /// A size is zero, or the window does not fit.
    pub fn output(&self, input: Image, channels: usize) -> Result<Image, String> {
        self.check()?;
        let side = |n: usize, axis: usize| {
            let span = self.dilation[axis] * (self.kernel[axis] - 1) + 1;
            (n + 2 * self.padding[axis])
                .checked_sub(span)
                .map(|free| free / self.stride[axis] + 1)
                .ok_or_else(|| format!("its {span}-wide window does not fit an input side of {n}"))
        };
        Ok(Image { channels, height: side(input.height, 0)?, width: side(input.width, 1)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_stretched_to_each_other_from_the_last_axis() {
        let shape = |dims: &[usize]| Shape::new(dims);
        let both = |a: &[usize], b: &[usize]| shape(a).broadcast(&shape(b));
        assert_eq!(both(&[4, 3, 2], &[3, 1]), Some(shape(&[4, 3, 2])));
        assert_eq!(both(&[1, 3], &[5, 1]), Some(shape(&[5, 3])));
        assert_eq!(both(&[], &[2]), Some(shape(&[2])));
        assert_eq!(both(&[3], &[2]), None);
        assert_eq!(shape(&[4, 3, 2]).around(1), [4, 3, 2]);
        assert_eq!((shape(&[]).to_string(), shape(&[4, 3]).to_string()), ("a scalar".into(), "4 x 3".into()));
    }

    #[test]
    fn windows_count_as_pytorchs() {
        // torch.nn.Conv2d(1, 1, 3, stride=2, padding=1, dilation=2)(torch.zeros(1, 1, 9, 8)).shape[2:] is (4, 3).
        let window = Window { dilation: [2; 2], ..Window::square(3, 2, 1) };
        let out = window.output(Image { channels: 1, height: 9, width: 8 }, 5).unwrap();
        assert_eq!(out, Image { channels: 5, height: 4, width: 3 });
        assert!(window.output(Image { channels: 1, height: 2, width: 8 }, 1).unwrap_err().contains("5-wide"));
    }
}
