//! CIFAR-10's binary batches: records of a label byte and 3 × 1024 pixels.

use std::path::Path;

use crate::source::{MAX_BYTES, find, found_instead, read, without_packing};
use crate::{DataError, Split};

pub(crate) const PIXELS: usize = 3 * 32 * 32;
pub(crate) const RECORD: usize = PIXELS + 1;
pub(crate) const PER_FILE: usize = 10_000;

/// The files, with the SHA-1 of each as published with the data set.
pub(crate) const FILES: [(&str, &str); 6] = [
    ("data_batch_1.bin", "aadd24acce27caa71bf4b10992e9e7b2d74c2540"),
    ("data_batch_2.bin", "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795"),
    ("data_batch_3.bin", "1dd00a74ab1d17a6e7d73e185b69dbf31242f295"),
    ("data_batch_4.bin", "aab85764eb3584312d3c7f65fd2fd016e36a258e"),
    ("data_batch_5.bin", "26e2849e66a845b7f1e4614ae70f4889ae604628"),
    ("test_batch.bin", "67eb016db431130d61cd03c7ad570b013799c88c"),
];

/// The official name of one of the files, whether it is packed or not.
pub(crate) fn naming(name: &str) -> Option<String> {
    let name = without_packing(name);
    FILES.iter().any(|(file, _)| *file == name).then(|| name.to_owned())
}

/// Pixels and labels of as many files as hold `wanted` pictures, or of all, from `DATA/cifar10` or the official archive's
/// `DATA/cifar-10-batches-bin`.
pub(crate) fn load(data_dir: &Path, split: Split, wanted: usize) -> Result<(Vec<u8>, Vec<u8>), DataError> {
    let files = match split {
        Split::Train => &FILES[..5],
        Split::Test => &FILES[5..],
    };
    let files = &files[..wanted.div_ceil(PER_FILE).clamp(1, files.len())];
    let mut pixels = Vec::with_capacity(files.len() * PER_FILE * PIXELS);
    let mut labels = Vec::with_capacity(files.len() * PER_FILE);
    let folders =
        ["cifar10", "cifar-10-batches-bin", "cifar-10-batches-py"].map(|folder| data_dir.join(folder));
    for (name, _) in files {
        let path = find(&folders, name, naming)?.ok_or_else(|| DataError::Missing {
            path: folders[0].join(name),
            dataset: "cifar10",
            dir: data_dir.to_owned(),
            instead: found_instead(&folders),
        })?;
        let bytes = read(&path)?;
        if bytes.len() != RECORD * PER_FILE {
            return Err(DataError::invalid(&path, other_size(&bytes)));
        }
        for (i, record) in bytes.chunks_exact(RECORD).enumerate() {
            if record[0] > 9 {
                return Err(DataError::invalid(
                    &path,
                    format!("label {} of record {i} is not 0 to 9", record[0]),
                ));
            }
            labels.push(record[0]);
            pixels.extend_from_slice(&record[1..]);
        }
    }
    Ok((pixels, labels))
}

/// Why a file is none of the binary batches.
fn other_size(bytes: &[u8]) -> String {
    let what = if bytes.starts_with(b"\x80") {
        "; it is a Python pickle, as in cifar-10-python.tar.gz: take cifar-10-binary.tar.gz"
    } else if bytes.len().is_multiple_of(RECORD + 1) && !bytes.is_empty() {
        "; its records may be CIFAR-100's, which is none of the data sets"
    } else {
        ""
    };
    format!("it has {} bytes where {} are expected{what}", bytes.len(), RECORD * PER_FILE)
}

/// Makes binary batches from a picture with one sample a row (1024 RGB pixels) and its labels.
pub(crate) fn batch_from_png(png: &[u8], labels: &[u8]) -> Result<Vec<u8>, String> {
    let limits = png::Limits { bytes: MAX_BYTES as usize };
    let mut reader = png::Decoder::new_with_limits(std::io::Cursor::new(png), limits)
        .read_info()
        .map_err(|e| e.to_string())?;
    let info = reader.info();
    let size = (info.width as usize, info.height as usize);
    if size != (1024, PER_FILE)
        || info.color_type != png::ColorType::Rgb
        || info.bit_depth != png::BitDepth::Eight
    {
        return Err(format!("it is {} x {}, not 1024 x {PER_FILE} of 8-bit RGB", size.0, size.1));
    }
    let mut rows = vec![0; PIXELS * PER_FILE];
    reader.next_frame(&mut rows).map_err(|e| e.to_string())?;
    let mut batch = Vec::with_capacity(RECORD * PER_FILE);
    for (row, &label) in rows.chunks_exact(PIXELS).zip(labels) {
        batch.push(label);
        for channel in 0..3 {
            batch.extend(row.iter().skip(channel).step_by(3));
        }
    }
    Ok(batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_becomes_a_batch() {
        let mut png = Vec::new();
        let mut encoder = png::Encoder::new(&mut png, 1024, PER_FILE as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_compression(png::Compression::Fastest);
        let rows: Vec<u8> = (0..PIXELS * PER_FILE).map(|i| (i % 3) as u8 + (i / PIXELS % 7) as u8).collect();
        encoder.write_header().unwrap().write_image_data(&rows).unwrap();
        let labels: Vec<u8> = (0..PER_FILE).map(|i| (i % 10) as u8).collect();
        let batch = batch_from_png(&png, &labels).unwrap();
        assert_eq!(batch.len(), RECORD * PER_FILE);
        let record = &batch[12 * RECORD..13 * RECORD];
        assert_eq!(record[0], 2);
        let planes: Vec<_> = record[1..].chunks(1024).map(|p| (p[0], p.iter().all(|&x| x == p[0]))).collect();
        assert_eq!(planes, [(5, true), (6, true), (7, true)]);
        assert!(batch_from_png(&png[..500], &labels).is_err());
        assert!(batch_from_png(b"not a picture", &labels).is_err());
        // A flipped bit of the head, or of the first lines: an error or a picture, no panic.
        for at in 0..150 {
            let mut damaged = png.clone();
            damaged[at] ^= 1 << (at % 8);
            if let Ok(batch) = batch_from_png(&damaged, &labels) {
                assert_eq!(batch.len(), RECORD * PER_FILE);
            }
        }
    }

    #[test]
    fn damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let load = || load(dir.path(), Split::Test, 1).unwrap_err().to_string();
        assert!(load().contains("qn-train fetch cifar10"));
        std::fs::create_dir(dir.path().join("cifar10")).unwrap();
        let file = dir.path().join("cifar10/test_batch.bin");
        std::fs::write(&file, [0; 100]).unwrap();
        assert!(load().contains("100 bytes"));
        let mut bytes = vec![0; RECORD * PER_FILE];
        bytes[RECORD * 4] = 10;
        std::fs::write(&file, bytes).unwrap();
        assert!(load().contains("label 10 of record 4"));
    }
}
