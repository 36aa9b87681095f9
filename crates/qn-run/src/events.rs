//! The log as TensorBoard reads it: TFRecords of `Event` messages.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

use crate::{Metric, RunError, write_whole};

/// tensorflow/core/util/event.proto, as far as scalars need it.
#[derive(Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

/// tensorflow/core/framework/summary.proto.
#[derive(Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

#[derive(Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, tag = "2")]
    simple_value: f32,
}

/// Appends events.
#[derive(Debug)]
pub(crate) struct EventLog {
    path: PathBuf,
    file: File,
    /// When training began, had it never paused: seconds since 1970.
    began: f64,
}

impl EventLog {
    /// Writes the file anew with what the log has so far, and keeps it open.
    pub(crate) fn open(path: &Path, so_far: &[Metric]) -> Result<Self, RunError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |t| t.as_secs_f64());
        let began = now - so_far.last().map_or(0.0, |m| m.seconds);
        let head =
            Event { wall_time: began, step: 0, file_version: Some("brain.Event:2".into()), summary: None };
        let events = so_far.iter().flat_map(|metric| record(&event(metric, began)));
        let bytes: Vec<u8> = record(&head).into_iter().chain(events).collect();
        write_whole(path, &bytes)?;
        let file = OpenOptions::new().append(true).open(path).map_err(RunError::io(path))?;
        Ok(Self { path: path.to_owned(), file, began })
    }

    pub(crate) fn append(&mut self, metric: &Metric) -> Result<(), RunError> {
        self.file.write_all(&record(&event(metric, self.began))).map_err(RunError::io(&self.path))
    }
}

fn event(metric: &Metric, began: f64) -> Event {
    let mut value = Vec::new();
    let mut add = |tag: String, number: f64| value.push(Scalar { tag, simple_value: number as f32 });
    for (tag, number) in [
        ("loss/train", metric.loss),
        ("loss/test", metric.val_loss),
        ("accuracy/train", metric.accuracy),
        ("accuracy/test", metric.val_accuracy),
        ("lr", metric.lr),
        ("max_coherence", metric.max_coherence),
    ] {
        number.into_iter().for_each(|number| add(tag.into(), number));
    }
    for (name, numbers) in [("lambda", &metric.lambda), ("class_gradient_norm", &metric.class_gradient_norms)]
    {
        for (class, &number) in numbers.iter().flatten().enumerate() {
            add(format!("{name}/class_{class}"), number);
        }
    }
    Event {
        wall_time: began + metric.seconds,
        step: metric.step as i64,
        file_version: None,
        summary: Some(Summary { value }),
    }
}

/// One TFRecord: length, its checksum, the message, its checksum.
fn record(event: &Event) -> Vec<u8> {
    let message = event.encode_to_vec();
    let length = (message.len() as u64).to_le_bytes();
    let (of_length, of_message) = (masked_crc(&length), masked_crc(&message));
    [&length[..], &of_length, &message, &of_message].concat()
}

/// CRC-32C, rotated and shifted as the format wants it (tensorflow/core/lib/hash/crc32c.h).
fn masked_crc(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_framed_and_checked() {
        let head =
            Event { wall_time: 0.0, step: 0, file_version: Some("brain.Event:2".into()), summary: None };
        let bytes = record(&head);
        assert_eq!(bytes[..8], 15u64.to_le_bytes());
        assert_eq!(bytes[12..14], [0x1a, 13]);
        assert_eq!(&bytes[14..27], b"brain.Event:2");
        // CRC-32C of "123456789" is e3069283 (RFC 3720's polynomial); masked by hand.
        assert_eq!(masked_crc(b"123456789"), 0xc78a_b0e5_u32.to_le_bytes());
    }
}
