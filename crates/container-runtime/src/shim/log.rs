//! Container logs in the CRI format: `TIME STREAM TAG TEXT\n`, with tag `F` for a whole line and `P` for part of one.
//! <https://github.com/kubernetes/design-proposals-archive/blob/main/node/kubelet-cri-logging.md>

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Longest text in one record; longer lines become several records, all but the last tagged `P`. containerd's number.
const LINE_MAX: usize = 16 * 1024;

/// The log file of a container. Both streams write to it.
pub(super) struct Log {
    path: PathBuf,
    /// `None` when the file could not be opened: output is then read and dropped, so that the container does not block.
    file: Option<File>,
}

impl Log {
    pub(super) fn open(path: &Path) -> Self {
        Self { path: path.to_owned(), file: open(path) }
    }

    /// Opens the path anew, after the kubelet has renamed the file.
    pub(super) fn reopen(&mut self) -> std::io::Result<()> {
        let file = open(&self.path)
            .ok_or_else(|| std::io::Error::new(std::io::ErrorKind::NotFound, format!("cannot open {}", self.path.display())))?;
        self.file = Some(file);
        Ok(())
    }
}

fn open(path: &Path) -> Option<File> {
    File::options().append(true).create(true).mode(0o640).open(path).ok()
}

/// Cuts one output stream of a container into records.
pub(super) struct Lines {
    stream: &'static str,
    partial: Vec<u8>,
}

impl Lines {
    pub(super) fn new(stream: &'static str) -> Self {
        Self { stream, partial: Vec::new() }
    }

    /// Writes the whole lines in `bytes`, and keeps the rest for later.
    pub(super) fn write(&mut self, log: &mut Log, mut bytes: &[u8]) {
        let stamp = format!("{} {} ", timestamp(), self.stream);
        let mut records = Vec::with_capacity(bytes.len() + stamp.len() + 3);
        loop {
            let room = LINE_MAX - self.partial.len();
            match bytes.iter().take(room + 1).position(|byte| *byte == b'\n') {
                Some(end) => {
                    self.record(&mut records, &stamp, "F ", &bytes[..end]);
                    bytes = &bytes[end + 1..];
                }
                None if bytes.len() > room => {
                    self.record(&mut records, &stamp, "P ", &bytes[..room]);
                    bytes = &bytes[room..];
                }
                None => break,
            }
        }
        self.partial.extend_from_slice(bytes);
        flush(log, &records);
    }

    /// At the end of the stream: a last line without its newline is a part of one (containerd has it so too), and is shown as it was.
    pub(super) fn finish(&mut self, log: &mut Log) {
        if !self.partial.is_empty() {
            let stamp = format!("{} {} ", timestamp(), self.stream);
            let mut records = Vec::new();
            self.record(&mut records, &stamp, "P ", &[]);
            flush(log, &records);
        }
    }

    fn record(&mut self, records: &mut Vec<u8>, stamp: &str, tag: &str, text: &[u8]) {
        records.extend_from_slice(stamp.as_bytes());
        records.extend_from_slice(tag.as_bytes());
        records.append(&mut self.partial);
        records.extend_from_slice(text);
        records.push(b'\n');
        self.partial = Vec::new();
    }
}

/// A full disk costs log records, never the container.
fn flush(log: &mut Log, records: &[u8]) {
    if let Some(file) = &mut log.file
        && !records.is_empty()
    {
        let _ = file.write_all(records);
    }
}

/// Now, in UTC, RFC 3339 with nine digits.
fn timestamp() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format_timestamp(now.as_secs(), now.subsec_nanos())
}

/// Civil date from days since the epoch: Howard Hinnant's `civil_from_days`.
fn format_timestamp(seconds: u64, nanos: u32) -> String {
    let days = seconds / 86_400 + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let second_of_day = seconds % 86_400;
    let (hour, minute, second) = (second_of_day / 3_600, second_of_day / 60 % 60, second_of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps() {
        let check = |seconds, nanos, expected: &str| assert_eq!(format_timestamp(seconds, nanos), expected);
        check(0, 0, "1970-01-01T00:00:00.000000000Z");
        check(951_827_696, 5, "2000-02-29T12:34:56.000000005Z");
        check(1_735_689_599, 999_999_999, "2024-12-31T23:59:59.999999999Z");
        check(4_102_444_800, 1, "2100-01-01T00:00:00.000000001Z");
    }

    fn records(chunks: &[&[u8]]) -> Vec<(String, String, usize)> {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("0.log");
        let mut log = Log::open(&path);
        let mut lines = Lines::new("stdout");
        chunks.iter().for_each(|chunk| lines.write(&mut log, chunk));
        lines.finish(&mut log);
        std::fs::read_to_string(&path)
            .expect("log")
            .lines()
            .map(|line| {
                let fields: Vec<&str> = line.splitn(4, ' ').collect();
                assert!(fields[0].ends_with('Z') && fields[1] == "stdout", "{line}");
                let text = fields[3];
                (fields[2].to_owned(), text.chars().take(5).collect(), text.len())
            })
            .collect()
    }

    #[test]
    fn lines_are_joined_and_split() {
        let record = |tag: &str, text: &str, length| (tag.to_owned(), text.to_owned(), length);
        assert_eq!(records(&[b"ab", b"c\n\nd"]), [record("F", "abc", 3), record("F", "", 0), record("P", "d", 1)]);
        let long = [vec![b'x'; LINE_MAX + 3], b"\n".to_vec()].concat();
        assert_eq!(records(&[&long]), [record("P", "xxxxx", LINE_MAX), record("F", "xxx", 3)]);
        let exact = [vec![b'x'; LINE_MAX], b"\n".to_vec()].concat();
        assert_eq!(records(&[&exact]), [record("F", "xxxxx", LINE_MAX)]);
    }
}
