//! Reading a recording. Nothing in a file is believed that the lines before it do not bear out.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader},
    path::{Path, PathBuf},
};

use super::{FORMAT, Header, Line, Sample};

/// A recording, by what it is of.
#[derive(Debug, Clone, PartialEq)]
pub struct Recording {
    /// In order of time; a new one begins where VIPs or backends change.
    pub segments: Vec<Segment>,
}

/// Samples of the same VIPs and backends.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// Whose they are.
    pub header: Header,
    /// In order of time.
    pub samples: Vec<Sample>,
}

/// Why a file cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The system does not give it.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A line is not one of a recording.
    #[error("{}:{line}: no line of a recording: {reason}; `guidevane sim --record FILE` makes one", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Number of the line.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The last line has no end.
    #[error("{}:{line}: the line is cut off; remove it to replay what is before it", path.display())]
    CutOff {
        /// The file.
        path: PathBuf,
        /// Number of the line.
        line: usize,
    },
    /// Another version wrote it.
    #[error("{}:{line}: format {found} is not known, only {FORMAT}; replay it with guidevane {version}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Number of the line.
        line: usize,
        /// The format it has.
        found: u32,
        /// The version that wrote it.
        version: String,
    },
    /// A line does not go with those before it.
    #[error("{}:{line}: {what}; the file was changed, record anew", path.display())]
    Inconsistent {
        /// The file.
        path: PathBuf,
        /// Number of the line.
        line: usize,
        /// How.
        what: &'static str,
    },
    /// It is too short to say anything.
    #[error("{}: no two samples in a row; record for longer", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// Reads a recording from a file.
///
/// # Errors
///
/// See [`RecordingError`]. A recording whose end is missing is good as far as it goes.
pub fn read(path: &Path) -> Result<Recording, RecordingError> {
    let failed = |source| RecordingError::Read { path: path.to_owned(), source };
    let mut file = BufReader::new(File::open(path).map_err(failed)?);
    let mut reader = Reader { path, line: 0, ended: false, segments: Vec::new() };
    let mut bytes = Vec::new();
    while {
        bytes.clear();
        file.read_until(b'\n', &mut bytes).map_err(failed)? > 0
    } {
        reader.line += 1;
        reader.take(&bytes)?;
    }
    let segments = reader.segments;
    if segments.iter().all(|segment| segment.samples.len() < 2) {
        return Err(RecordingError::Empty { path: path.to_owned() });
    }
    Ok(Recording { segments })
}

struct Reader<'a> {
    path: &'a Path,
    line: usize,
    ended: bool,
    segments: Vec<Segment>,
}

impl Reader<'_> {
    fn take(&mut self, bytes: &[u8]) -> Result<(), RecordingError> {
        let (path, line) = (self.path.to_owned(), self.line);
        let parsed = serde_json::from_slice(bytes).map_err(|error| {
            if bytes.ends_with(b"\n") || !error.is_eof() {
                // Its own line number is always 1.
                let reason = error.to_string().replace(" at line 1 column ", " at column ");
                RecordingError::Foreign { path: path.clone(), line, reason }
            } else {
                RecordingError::CutOff { path: path.clone(), line }
            }
        })?;
        if self.ended {
            return Err(self.inconsistent("there is more after the recording's end"));
        }
        match parsed {
            Line::Recording(header) if header.format != FORMAT => {
                let Header { format: found, version, .. } = header;
                return Err(RecordingError::Format { path, line, found, version });
            }
            Line::Recording(header) => self.segments.push(Segment { header, samples: Vec::new() }),
            Line::Sample(sample) => self.sample(sample)?,
            Line::Recorded(_) if self.segments.is_empty() => {
                return Err(self.inconsistent("the recording ends before it begins"));
            }
            Line::Recorded(_) => self.ended = true,
        }
        Ok(())
    }

    fn sample(&mut self, sample: Sample) -> Result<(), RecordingError> {
        let last = self.segments.iter().rev().find_map(|segment| segment.samples.last());
        if last.is_some_and(|last| last.at_us > sample.at_us) {
            return Err(self.inconsistent("the time goes back"));
        }
        let Some(segment) = self.segments.last_mut() else {
            return Err(self.inconsistent("a sample comes before the line that says whose it is"));
        };
        let (named, sampled) = (&segment.header.vips, &sample.vips);
        let fits = named.len() == sampled.len()
            && named.iter().zip(sampled).all(|(vip, sample)| vip.backends.len() == sample.backends.len());
        if !fits {
            return Err(self.inconsistent("the sample has other VIPs or backends than are named above"));
        }
        segment.samples.push(sample);
        Ok(())
    }

    fn inconsistent(&self, what: &'static str) -> RecordingError {
        RecordingError::Inconsistent { path: self.path.to_owned(), line: self.line, what }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{super::FORMAT, read};

    const SAMPLE: &str = r#"{"sample":{"at_us":5,"vips":[]}}"#;

    fn header(format: u32) -> String {
        format!(r#"{{"recording":{{"format":{format},"version":"9.8.7","vips":[]}}}}"#)
    }

    fn refusal(text: &str) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("it");
        fs::write(&path, text).expect("write a file");
        let error = read(&path).expect_err(text).to_string();
        error.replace(&path.display().to_string(), "it")
    }

    #[test]
    fn a_file_that_is_no_recording_is_refused_with_line_and_remedy() {
        let header = header(FORMAT);
        let vips = r#"{"sample":{"at_us":6,"vips":[{"opening_cap":1,"duty":1,"prompt":1,"backends":[]}]}}"#;
        for (text, expected) in [
            (String::new(), "it: no two samples in a row; record for longer"),
            (format!("{header}\n{SAMPLE}\n"), "it: no two samples in a row; record for longer"),
            (
                "TIMESTAMP,Tokens\n".into(),
                "it:1: no line of a recording: expected value at column 1; `guidevane",
            ),
            (
                format!("{header}\n{{\"status\":{{}}}}\n"),
                "it:2: no line of a recording: unknown variant `status`",
            ),
            (
                format!("{header}\n{SAMPLE}\n{}", &SAMPLE[..20]),
                "it:3: the line is cut off; remove it to replay",
            ),
            (format!("{header}\n{}\n", &SAMPLE[..20]), "it:2: no line of a recording: EOF"),
            (format!("{SAMPLE}\n"), "it:1: a sample comes before the line that says whose it is"),
            (
                format!("{header}\n{vips}\n"),
                "it:2: the sample has other VIPs or backends than are named above",
            ),
            (
                format!("{header}\n{}\n{SAMPLE}\n", SAMPLE.replace('5', "6")),
                "it:3: the time goes back; the file",
            ),
            (
                format!("{header}\n{{\"recorded\":{{\"samples\":0,\"lost\":0}}}}\n{SAMPLE}\n"),
                "it:3: there is more after the recording's end",
            ),
            (
                format!("{}\n", self::header(FORMAT + 1)),
                "it:1: format 3 is not known, only 2; replay it with guidevane 9.8.7",
            ),
            (
                format!("{}\n{{\"sample\":{{\"a\":1}}}}\n", self::header(1)),
                "it:1: format 1 is not known, only 2; replay it with guidevane 9.8.7",
            ),
            ("\u{0}\u{1}\n".into(), "it:1: no line of a recording: "),
        ] {
            let message = refusal(&text);
            assert!(message.starts_with(expected), "{text:?}\n  {message}\n  {expected}");
        }
    }

    #[test]
    fn a_recording_without_its_end_is_good_and_a_new_header_begins_a_segment() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("it");
        let header = header(FORMAT);
        fs::write(&path, format!("{header}\n{SAMPLE}\n{SAMPLE}\n{header}\n{SAMPLE}\n"))
            .expect("write a file");
        let samples: Vec<usize> =
            read(&path).expect("good").segments.iter().map(|segment| segment.samples.len()).collect();
        assert_eq!(samples, [2, 1]);
    }
}
