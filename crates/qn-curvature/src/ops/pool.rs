//! What max- and average-pooling share: which entries a window covers.

use qn_model::{Image, Window};

/// Windows on every channel of an image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Windows {
    pub(crate) input: Image,
    pub(crate) output: Image,
    pub(crate) window: Window,
}

impl Windows {
    /// Those on one of the channels.
    pub(crate) fn of_one_channel(self) -> Self {
        let one = |image: Image| Image { channels: 1, ..image };
        Self { input: one(self.input), output: one(self.output), ..self }
    }

    /// Visits the output's entries in order, with the entries of the input that lie under the window: in row order,
    /// padding left out.
    #[inline(always)]
    pub(crate) fn visit(&self, mut each: impl FnMut(usize, &[usize])) {
        let (i, o, w) = (self.input, self.output, self.window);
        let mut covered = Vec::with_capacity(w.taps());
        let mut entry = 0;
        for channel in 0..o.channels {
            for y in 0..o.height {
                for x in 0..o.width {
                    covered.clear();
                    for ky in 0..w.kernel[0] {
                        let row = (y * w.stride[0] + ky * w.dilation[0]).wrapping_sub(w.padding[0]);
                        if row >= i.height {
                            continue;
                        }
                        let first = (channel * i.height + row) * i.width;
                        let columns = (0..w.kernel[1])
                            .map(|kx| (x * w.stride[1] + kx * w.dilation[1]).wrapping_sub(w.padding[1]));
                        covered
                            .extend(columns.filter(|column| *column < i.width).map(|column| first + column));
                    }
                    each(entry, &covered);
                    entry += 1;
                }
            }
        }
    }
}
