//! Arrays of numbers of any type, as numpy and PyTorch write them.

use std::io::Read;

use half::{bf16, f16};

use crate::DataError;
use crate::source::Values;

/// A type of number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dtype {
    Bool,
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F16,
    Bf16,
    F32,
    F64,
}

impl Dtype {
    /// Bytes of one number.
    pub(crate) fn width(self) -> usize {
        match self {
            Self::Bool | Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 | Self::F16 | Self::Bf16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// Whether its numbers are fractions.
    pub(crate) fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::Bf16 | Self::F32 | Self::F64)
    }
}

/// What the header of an array says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) dtype: Dtype,
    pub(crate) big_endian: bool,
    /// Whether the first index runs fastest (Fortran's order) and not the last.
    pub(crate) fortran: bool,
    pub(crate) shape: Vec<usize>,
}

impl Header {
    /// Numbers in the array; none where they are more than can be counted.
    pub(crate) fn count(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |n, &side| n.checked_mul(side))
    }

    /// Bytes that the numbers take.
    pub(crate) fn bytes(&self) -> Option<u64> {
        u64::try_from(self.count()?).ok()?.checked_mul(self.dtype.width() as u64)
    }

    /// The first `rows` entries of the first axis, row-major. The reader stands at the array's first byte.
    ///
    /// # Errors
    /// It ends too early, memory does, or a number cannot be held: why, in words that go on from "its array x".
    pub(crate) fn read(&self, reader: &mut dyn Read, rows: usize) -> Result<Values, String> {
        let all = self.count().ok_or("is too large")?;
        let first = self.shape.first().copied().unwrap_or(1);
        let rows = rows.min(first);
        let each = all.checked_div(first).unwrap_or(0);
        let turned = self.fortran && self.shape.len() > 1;
        let wanted = if turned { all } else { rows * each };
        let values = self.numbers(reader, wanted)?;
        if wanted == all {
            // A zip archive compares its checksum where it is asked for what is behind the end.
            reader.read(&mut [0]).map_err(|e| format!("is damaged ({e})"))?;
        }
        if !turned {
            return Ok(values);
        }
        let places = fortran_places(&self.shape[1..]);
        Ok(values.gather((0..rows).flat_map(|i| places.iter().map(move |place| i + first * place))))
    }

    fn numbers(&self, reader: &mut dyn Read, count: usize) -> Result<Values, String> {
        let big = self.big_endian;
        macro_rules! read {
            ($kind:ident, $from:expr) => {
                Values::$kind(collect(reader, count, big, $from)?)
            };
        }
        Ok(match self.dtype {
            Dtype::Bool => read!(Bytes, |[b]: [u8; 1]| Ok(b.min(1))),
            Dtype::U8 => read!(Bytes, |[b]: [u8; 1]| Ok(b)),
            Dtype::I8 => read!(Single, |b| Ok(f32::from(i8::from_le_bytes(b)))),
            Dtype::U16 => read!(Single, |b| Ok(f32::from(u16::from_le_bytes(b)))),
            Dtype::I16 => read!(Single, |b| Ok(f32::from(i16::from_le_bytes(b)))),
            Dtype::F16 => read!(Single, |b| Ok(f16::from_le_bytes(b).to_f32())),
            Dtype::Bf16 => read!(Single, |b| Ok(bf16::from_le_bytes(b).to_f32())),
            Dtype::F32 => read!(Single, |b| Ok(f32::from_le_bytes(b))),
            Dtype::U32 => read!(Double, |b| Ok(f64::from(u32::from_le_bytes(b)))),
            Dtype::I32 => read!(Double, |b| Ok(f64::from(i32::from_le_bytes(b)))),
            Dtype::U64 => read!(Double, |b| exact(i128::from(u64::from_le_bytes(b)))),
            Dtype::I64 => read!(Double, |b| exact(i128::from(i64::from_le_bytes(b)))),
            Dtype::F64 => read!(Double, |b| Ok(f64::from_le_bytes(b))),
        })
    }
}

/// A file of arrays with names.
pub(crate) trait ArrayFile: Send {
    /// What it holds.
    fn names(&self) -> Vec<String>;

    /// The header of an array that is there.
    fn header(&mut self, name: &str) -> Result<Header, DataError>;

    /// The numbers of an array that is there.
    fn open(&mut self, name: &str) -> Result<Box<dyn Read + '_>, DataError>;
}

/// An integer in double precision.
fn exact(integer: i128) -> Result<f64, String> {
    let double = integer as f64;
    if double as i128 == integer {
        Ok(double)
    } else {
        Err(format!("holds {integer}, which double precision does not hold exactly"))
    }
}

/// Numbers of `W` bytes, made by `from` of bytes that start with the lowest.
fn collect<const W: usize, T>(
    reader: &mut dyn Read,
    count: usize,
    big_endian: bool,
    from: impl Fn([u8; W]) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let mut numbers = Vec::new();
    let memory = |_| format!("does not fit into memory: it has {count} numbers");
    let mut buffer = vec![0; W * 8192];
    while numbers.len() < count {
        let piece = (count - numbers.len()).min(8192);
        // What a header promises is not believed before it has come.
        numbers.try_reserve(piece).map_err(memory)?;
        let bytes = &mut buffer[..piece * W];
        reader.read_exact(bytes).map_err(|e| format!("cannot be read to its end ({e})"))?;
        for number in bytes.as_chunks::<W>().0 {
            let mut number = *number;
            if big_endian {
                number.reverse();
            }
            numbers.push(from(number)?);
        }
    }
    Ok(numbers)
}

/// Where the entries of an array, taken row-major, lie in Fortran's order.
fn fortran_places(shape: &[usize]) -> Vec<usize> {
    let mut places = vec![0];
    let mut stride = 1;
    for &side in shape {
        places = places.iter().flat_map(|&place| (0..side).map(move |i| place + stride * i)).collect();
        stride *= side;
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(dtype: Dtype, shape: &[usize]) -> Header {
        Header { dtype, big_endian: false, fortran: false, shape: shape.to_vec() }
    }

    #[test]
    fn fortran_order_is_undone() {
        // a[i, j, k] = 100 i + 10 j + k of shape (2, 3, 2), the first index running fastest.
        let stored: Vec<u8> = (0..2)
            .flat_map(|k| (0..3).flat_map(move |j| (0..2).map(move |i| 100 * i + 10 * j + k)))
            .collect();
        let header = Header { fortran: true, ..header(Dtype::U8, &[2, 3, 2]) };
        let expected = vec![0, 1, 10, 11, 20, 21, 100, 101, 110, 111, 120, 121];
        assert_eq!(header.read(&mut stored.as_slice(), 9), Ok(Values::Bytes(expected.clone())));
        assert_eq!(header.read(&mut stored.as_slice(), 1), Ok(Values::Bytes(expected[..6].to_vec())));
    }

    #[test]
    fn either_order_of_bytes_is_read() {
        let bytes = [1.5f64, -3e-300].map(f64::to_be_bytes).concat();
        let header = Header { big_endian: true, ..header(Dtype::F64, &[2]) };
        assert_eq!(header.read(&mut bytes.as_slice(), 2), Ok(Values::Double(vec![1.5, -3e-300])));
    }

    #[test]
    fn what_double_precision_does_not_hold_is_refused() {
        let read = |n: i64| header(Dtype::I64, &[1]).read(&mut n.to_le_bytes().as_slice(), 1);
        assert_eq!(read(-(1 << 53)), Ok(Values::Double(vec![-9_007_199_254_740_992.0])));
        assert!(read((1 << 53) + 1).unwrap_err().contains("9007199254740993"));
    }

    #[test]
    fn an_array_larger_than_its_file_is_an_error() {
        for shape in [&[1 << 40][..], &[3, 1 << 20], &[usize::MAX, 2]] {
            assert!(
                header(Dtype::F32, shape).read(&mut [0; 64].as_slice(), usize::MAX).is_err(),
                "{shape:?}"
            );
        }
        assert_eq!(header(Dtype::F32, &[0, 3]).read(&mut [].as_slice(), 5), Ok(Values::Single(vec![])));
    }
}
