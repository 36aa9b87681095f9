use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::events::EventLog;
use crate::{Metric, RunError, write_whole};

/// Appends lines.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    file: File,
    events: Option<EventLog>,
}

impl MetricsLog {
    /// Begins the log of a new run. TensorBoard's events are kept beside it where a file is named.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn create(path: &Path, events: Option<&Path>) -> Result<Self, RunError> {
        Self::start(path, Vec::new(), events)
    }

    /// Opens the log of a run that has taken `step` steps, dropping what a broken sitting wrote after them, and a last
    /// line that was cut short. TensorBoard's events, where a file is named, are written anew from what is kept.
    ///
    /// # Errors
    /// A line cannot be read, which leaves the file as it is; a file cannot be read or written.
    pub fn resume(path: &Path, step: u64, events: Option<&Path>) -> Result<Self, RunError> {
        let mut kept = if path.exists() { lines(path)? } else { Vec::new() };
        kept.retain(|(_, m)| m.step < step || (m.val_loss.is_some() && m.step == step));
        Self::start(path, kept, events)
    }

    fn start(path: &Path, kept: Vec<(String, Metric)>, events: Option<&Path>) -> Result<Self, RunError> {
        let (text, so_far): (Vec<String>, Vec<Metric>) =
            kept.into_iter().map(|(line, metric)| (line + "\n", metric)).unzip();
        write_whole(path, text.concat().as_bytes())?;
        let file = OpenOptions::new().append(true).open(path).map_err(RunError::io(path))?;
        let events = events.map(|events| EventLog::open(events, &so_far)).transpose()?;
        Ok(Self { path: path.to_owned(), file, events })
    }

    /// Adds one line.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn append(&mut self, metric: &Metric) -> Result<(), RunError> {
        let mut line =
            serde_json::to_string(metric).map_err(|e| RunError::invalid(&self.path, e.to_string()))?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(RunError::io(&self.path))?;
        self.events.as_mut().map_or(Ok(()), |events| events.append(metric))
    }

    /// Makes sure that the lines so far are on disk.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn sync(&self) -> Result<(), RunError> {
        self.file.sync_data().map_err(RunError::io(&self.path))
    }
}

/// All lines of a log.
///
/// # Errors
/// The file cannot be read, or one of its lines; the last may be cut short and is left out then.
pub fn read_metrics(path: &Path) -> Result<Vec<Metric>, RunError> {
    Ok(lines(path)?.into_iter().map(|(_, metric)| metric).collect())
}

/// All lines, but for a last one that was being written when the process or the machine stopped: it has no newline at its
/// end, or its JSON is cut.
fn lines(path: &Path) -> Result<Vec<(String, Metric)>, RunError> {
    let bytes = std::fs::read(path).map_err(RunError::io(path))?;
    let mut pieces: Vec<&[u8]> = bytes.split(|&b| b == b'\n').collect();
    // What follows the last newline: nothing, where the last line is whole.
    let ended = pieces.last().is_some_and(|rest| rest.is_empty());
    if ended {
        pieces.pop();
    }
    let mut found = Vec::with_capacity(pieces.len());
    for (i, piece) in pieces.iter().enumerate() {
        match serde_json::from_slice(piece) {
            Ok(metric) => found.push((String::from_utf8_lossy(piece).into_owned(), metric)),
            Err(e) if i + 1 == pieces.len() && (!ended || e.is_eof()) => {}
            Err(e) => {
                return Err(RunError::Line { path: path.to_owned(), line: i + 1, reason: e.to_string() });
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resuming_drops_what_came_after_the_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut log = MetricsLog::create(&path, None).unwrap();
        let line = |step, loss, val_loss| Metric { step, loss, val_loss, ..Metric::default() };
        for step in 0..4 {
            log.append(&line(step, Some(1.0), None)).unwrap();
            if step == 1 {
                log.append(&line(2, None, Some(2.0))).unwrap();
            }
        }
        log.file.write_all(b"{\"step\":4,\"ep").unwrap();
        let mut log = MetricsLog::resume(&path, 2, None).unwrap();
        log.append(&line(2, Some(3.0), None)).unwrap();
        let steps: Vec<_> = read_metrics(&path).unwrap().iter().map(|m| (m.step, m.loss)).collect();
        assert_eq!(steps, [(0, Some(1.0)), (1, Some(1.0)), (2, None), (2, Some(3.0))]);
    }

    #[test]
    fn only_a_last_line_may_be_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let line = r#"{"step":0,"epoch":0,"loss":1.0,"seconds":0.1}"#;
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_metrics(&path).map(|m| m.len())
        };
        for torn in ["", &line[..20], "\0\0\0", "{\"step\":1,\n", "\n", line, "{\"step\":1\0"] {
            let whole = usize::from(torn == line);
            assert_eq!(read(&format!("{line}\n{torn}")).unwrap(), 1 + whole, "{torn:?}");
        }
        for wrong in ["nothing\n", "{}\n", &format!("{}\n{line}", &line[..20]), &format!("x\n{line}\n")] {
            let error = read(&format!("{line}\n{wrong}")).unwrap_err();
            assert!(matches!(&error, RunError::Line { line: 2, .. }), "{wrong:?}: {error}");
        }
    }
}
