//! Public request traces: Azure's CSV (`TIMESTAMP,ContextTokens,GeneratedTokens`) and Mooncake's JSON lines
//! (`timestamp` in ms, `input_length`, `output_length`), told apart by their content.

use std::{fs, io, path::Path, time::Duration};

use serde::Deserialize;

/// The first line of Azure's files.
const AZURE_HEADER: &str = "TIMESTAMP,ContextTokens,GeneratedTokens";

/// One request of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Time since the first request.
    pub at: Duration,
    /// Prompt tokens, at least 1.
    pub prompt_tokens: u32,
    /// Output tokens, at least 1.
    pub output_tokens: u32,
}

/// Why a trace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file cannot be read.
    #[error("cannot read trace {file}: {source}")]
    Read {
        /// The file.
        file: String,
        /// Why not.
        source: io::Error,
    },
    /// A line is not what the format asks for.
    #[error("{file}:{line}: {problem}")]
    Line {
        /// The file.
        file: String,
        /// Its line, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// The file holds no request.
    #[error("trace {0} holds no request")]
    Empty(String),
}

/// Reads a trace file, with its times divided by `compress`.
///
/// # Errors
/// [`TraceError`] names the file and the line.
pub fn read(path: &Path, compress: f64) -> Result<Vec<Arrival>, TraceError> {
    let file = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|source| TraceError::Read { file: file.clone(), source })?;
    parse(&file, &text, compress)
}

/// Reads the text of a trace; `file` is its name in errors. Arrivals come out in order of time.
///
/// # Errors
/// [`TraceError`] names the line.
pub fn parse(file: &str, text: &str, compress: f64) -> Result<Vec<Arrival>, TraceError> {
    let numbered = || text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let Some((first, header)) = numbered().next() else {
        return Err(TraceError::Empty(file.to_owned()));
    };
    let (skip, row): (usize, RowReader) = match header.trim() {
        AZURE_HEADER => (1, azure_row),
        line if line.starts_with('{') => (0, mooncake_row),
        _ => {
            let problem = format!("neither `{AZURE_HEADER}` nor a JSON object");
            return Err(TraceError::Line { file: file.to_owned(), line: first + 1, problem });
        }
    };
    let mut rows = numbered()
        .skip(skip)
        .map(|(index, line)| {
            row(line.trim()).map_err(|problem| TraceError::Line {
                file: file.to_owned(),
                line: index + 1,
                problem,
            })
        })
        .collect::<Result<Vec<Row>, _>>()?;
    rows.sort_by(|one, other| one.seconds.total_cmp(&other.seconds));
    let start = rows.first().ok_or_else(|| TraceError::Empty(file.to_owned()))?.seconds;
    let arrival = |row: &Row| Arrival {
        at: Duration::from_secs_f64((row.seconds - start) / compress),
        prompt_tokens: row.prompt_tokens.max(1),
        output_tokens: row.output_tokens.max(1),
    };
    Ok(rows.iter().map(arrival).collect())
}

/// Reads one line, or says what is wrong with it.
type RowReader = fn(&str) -> Result<Row, String>;

struct Row {
    seconds: f64,
    prompt_tokens: u32,
    output_tokens: u32,
}

fn azure_row(line: &str) -> Result<Row, String> {
    let [timestamp, prompt, output] = line.split(',').collect::<Vec<_>>()[..] else {
        return Err("not three columns".to_owned());
    };
    // Later Azure traces carry an offset, always that of UTC.
    let utc = timestamp.strip_suffix("+00:00").unwrap_or(timestamp);
    let time = humantime::parse_rfc3339_weak(utc).map_err(|error| format!("time {timestamp:?}: {error}"))?;
    let since_epoch = time
        .duration_since(std::time::UNIX_EPOCH)
        .map_err(|_before| format!("time {timestamp:?} is before 1970"))?;
    let tokens = |text: &str| text.parse().map_err(|error| format!("token count {text:?}: {error}"));
    Ok(Row {
        seconds: since_epoch.as_secs_f64(),
        prompt_tokens: tokens(prompt)?,
        output_tokens: tokens(output)?,
    })
}

#[derive(Deserialize)]
struct MooncakeLine {
    timestamp: f64,
    input_length: u32,
    output_length: u32,
}

fn mooncake_row(line: &str) -> Result<Row, String> {
    let MooncakeLine { timestamp, input_length, output_length } =
        serde_json::from_str(line).map_err(|error| error.to_string())?;
    if !(0.0..1e15).contains(&timestamp) {
        return Err(format!("timestamp {timestamp} is not a time in ms"));
    }
    Ok(Row { seconds: timestamp / 1e3, prompt_tokens: input_length, output_tokens: output_length })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Arrival, parse};

    fn arrival(milliseconds: u64, prompt_tokens: u32, output_tokens: u32) -> Arrival {
        Arrival { at: Duration::from_millis(milliseconds), prompt_tokens, output_tokens }
    }

    #[test]
    fn both_formats_are_told_apart_and_read() {
        let cases = [
            (
                "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9800000,4808,10\n\
                 2023-11-16 18:18:04.0000000,110,27\n",
                1.0,
                vec![arrival(0, 4808, 10), arrival(60_020, 110, 27)],
            ),
            (
                "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2024-05-10 23:59:59.500000+00:00,1,2\r\n\
                 2024-05-11 00:00:00.500000+00:00,3,0\r\n\r\n",
                2.0,
                vec![arrival(0, 1, 2), arrival(500, 3, 1)],
            ),
            (
                "{\"timestamp\": 27482, \"input_length\": 6955, \"output_length\": 52, \"hash_ids\": [46, 47]}\n\
                 {\"timestamp\": 30535, \"input_length\": 6472, \"output_length\": 26}\n",
                1.0,
                vec![arrival(0, 6955, 52), arrival(3053, 6472, 26)],
            ),
            (
                "{\"timestamp\": 2000, \"input_length\": 2, \"output_length\": 2}\n\
                 {\"timestamp\": 1000, \"input_length\": 1, \"output_length\": 1}",
                10.0,
                vec![arrival(0, 1, 1), arrival(100, 2, 2)],
            ),
        ];
        for (text, compress, expected) in cases {
            let mut arrivals = parse("t", text, compress).unwrap_or_else(|error| panic!("{text}: {error}"));
            for arrival in &mut arrivals {
                // Seconds since 1970 as a float are exact to some 0.2 µs.
                arrival.at = Duration::from_micros((arrival.at.as_nanos() as u64 + 500) / 1000);
            }
            assert_eq!(arrivals, expected, "{text}");
        }
    }

    #[test]
    fn a_malformed_line_is_refused_with_file_and_line() {
        let azure = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.98,1,2\n";
        let cases = [
            (format!("{azure}2023-11-16 18:17:03.98,1\n"), "t.csv:3: not three columns"),
            (format!("{azure}2023-11-16 18:17:03.98,1,2,3\n"), "t.csv:3: not three columns"),
            (format!("{azure}\nyesterday,1,2\n"), "t.csv:4: time \"yesterday\""),
            (format!("{azure}2023-13-16 18:17:03,1,2\n"), "t.csv:3: time"),
            (format!("{azure}2023-11-16 18:17:03.98,x,2\n"), "t.csv:3: token count \"x\""),
            (format!("{azure}2023-11-16 18:17:03.98,1,-2\n"), "t.csv:3: token count \"-2\""),
            (format!("{azure}2023-11-16 18:17:03.98,1,99999999999\n"), "t.csv:3: token count"),
            (
                "{\"timestamp\": 1, \"input_length\": 2}\n".to_owned(),
                "t.csv:1: missing field `output_length`",
            ),
            (
                "{\"timestamp\": -1, \"input_length\": 2, \"output_length\": 2}".to_owned(),
                "t.csv:1: timestamp -1",
            ),
            ("{\"timestamp\"\n".to_owned(), "t.csv:1: "),
            ("\n\nhello\n".to_owned(), "t.csv:3: neither"),
            (String::new(), "trace t.csv holds no request"),
            ("TIMESTAMP,ContextTokens,GeneratedTokens\n".to_owned(), "trace t.csv holds no request"),
        ];
        for (text, expected) in cases {
            let error = parse("t.csv", &text, 1.0).expect_err(&text).to_string();
            assert!(error.starts_with(expected), "{text:?}: {error:?} is not {expected:?}");
        }
    }
}
