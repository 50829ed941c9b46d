//! A reader of the Prometheus text exposition format that allocates nothing.
//!
//! Format: <https://prometheus.io/docs/instrumenting/exposition_formats/>, version 0.0.4, and the
//! sample lines of OpenMetrics. It keeps samples only: `HELP`, `TYPE` and other comments are skipped.

use std::{fmt, iter};

use memchr::memchr;

/// One sample line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample<'a> {
    /// Name of the series, `vllm:num_requests_running`.
    pub name: &'a str,
    /// What stands between the braces, escapes and all; empty where there are none.
    pub labels: &'a str,
    /// Any value the format knows: NaN and the infinities included.
    pub value: f64,
}

/// A line that is none the format knows, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Number of the line.
    pub line: usize,
    /// What is wrong with it.
    pub what: &'static str,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl std::error::Error for Malformed {}

/// The value of one label, escapes and all.
pub fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = labels;
    loop {
        let (key, after) = rest.split_once('=')?;
        let after = after.trim_start_matches(BLANKS).strip_prefix('"')?;
        let (value, behind) = after.split_at(value_length(after)?);
        if key.trim_start_matches([',', ' ', '\t']).trim_end_matches(BLANKS) == name {
            return Some(value);
        }
        rest = &behind[1..];
    }
}

/// The samples of `text`, in order. A malformed line costs only itself. The last line must be ended
/// like every other: one that is not was cut off, and half a number is a wrong number.
pub fn samples(text: &[u8]) -> impl Iterator<Item = Result<Sample<'_>, Malformed>> {
    samples_of(text, |_| true)
}

/// The same of those alone whose name is `wanted`; of the others nothing but the name is looked at, and
/// only once where lines in a row share it.
pub fn samples_of(
    text: &[u8],
    wanted: impl Fn(&str) -> bool,
) -> impl Iterator<Item = Result<Sample<'_>, Malformed>> {
    let mut unwanted: &[u8] = &[];
    lines(text).enumerate().filter_map(move |(index, line)| {
        let result = line.ok_or("not ended by a line feed").and_then(|line| {
            let Some((name, rest)) = name_of(line, unwanted)? else { return Ok(None) };
            if wanted(name) {
                return sample(name, rest).map(Some);
            }
            unwanted = name.as_bytes();
            Ok(None)
        });
        result.map_err(|what| Malformed { line: index + 1, what }).transpose()
    })
}

/// The lines, each none if it is not ended.
fn lines(text: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    let mut rest = text;
    iter::from_fn(move || {
        let end = memchr(b'\n', rest);
        let line = end.map(|end| &rest[..end]);
        let is_over = rest.is_empty();
        rest = end.map_or(&[], |end| &rest[end + 1..]);
        (!is_over).then_some(line)
    })
}

/// The name in a line of a sample, and what is behind it; none where the name is `unwanted`.
fn name_of<'a>(line: &'a [u8], unwanted: &[u8]) -> Result<Option<(&'a str, &'a [u8])>, &'static str> {
    let line = line.trim_ascii_start();
    if line.is_empty() || line[0] == b'#' {
        return Ok(None);
    }
    if let Some(behind) = line.strip_prefix(unwanted)
        && !unwanted.is_empty()
        && matches!(behind.first(), Some(b'{' | b' '))
    {
        return Ok(None);
    }
    let (name, rest) = line.split_at(name_length(line));
    if name.is_empty() {
        return Err("no metric name");
    }
    let name = str::from_utf8(name).map_err(|_invalid| "not UTF-8")?;
    Ok(Some((name, rest)))
}

fn sample<'a>(name: &'a str, rest: &'a [u8]) -> Result<Sample<'a>, &'static str> {
    let rest = str::from_utf8(rest).map_err(|_invalid| "not UTF-8")?;
    let (labels, rest) = match rest.trim_start_matches(BLANKS).strip_prefix('{') {
        Some(rest) => {
            let end = labels_length(rest).ok_or("the labels are not closed")?;
            (&rest[..end], &rest[end + 1..])
        }
        None if rest.starts_with(BLANKS) => ("", rest),
        None => return Err("no value"),
    };
    let mut fields = rest.split(BLANKS).filter(|field| !field.is_empty());
    let value = fields.next().ok_or("no value")?;
    let value = value.parse().map_err(|_invalid| "the value is not a number")?;
    match fields.next() {
        // What follows a '#' is an exemplar.
        None | Some("#") => {}
        Some(timestamp) => {
            timestamp.parse::<f64>().map_err(|_invalid| "the timestamp is not a number")?;
            if !matches!(fields.next(), None | Some("#")) {
                return Err("text after the timestamp");
            }
        }
    }
    Ok(Sample { name, labels, value })
}

const BLANKS: [char; 3] = [' ', '\t', '\r'];

fn name_length(line: &[u8]) -> usize {
    let is_name = |byte: &u8| matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'_' | b':' | b'0'..=b'9');
    match line.first() {
        Some(b'0'..=b'9') => 0,
        _ => line.iter().position(|byte| !is_name(byte)).unwrap_or(line.len()),
    }
}

/// Where the closing brace is; one within a quoted value closes nothing.
fn labels_length(labels: &str) -> Option<usize> {
    let mut quoted = false;
    let mut escaped = false;
    for (index, byte) in labels.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return Some(index),
            _ => {}
        }
    }
    None
}

/// Where the closing quote of a label's value is.
fn value_length(value: &str) -> Option<usize> {
    let mut escaped = false;
    value.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    use super::{Sample, label, samples};

    fn only(line: &str) -> Result<Option<Sample<'_>>, &'static str> {
        samples(line.as_bytes()).next().transpose().map_err(|malformed| malformed.what)
    }

    #[test]
    fn well_formed_lines_give_name_labels_and_value() {
        for (line, name, labels, value) in [
            ("up 1\n", "up", "", 1.0),
            ("up\t1\r\n", "up", "", 1.0),
            ("  up   1  \n", "up", "", 1.0),
            (
                "vllm:num_requests_running{engine=\"0\"} 7.0\n",
                "vllm:num_requests_running",
                "engine=\"0\"",
                7.0,
            ),
            ("a{} 1\n", "a", "", 1.0),
            ("a {b=\"c\"}1\n", "a", "b=\"c\"", 1.0),
            ("a{b=\"}\"} 1\n", "a", "b=\"}\"", 1.0),
            ("a{b=\"\\\"}\"} 1\n", "a", "b=\"\\\"}\"", 1.0),
            ("a{b=\"\\\\\"} 1\n", "a", "b=\"\\\\\"", 1.0),
            ("a{b=\"\\n\",} 1\n", "a", "b=\"\\n\",", 1.0),
            ("a{b=\"\u{e9}\u{4e2d}\"} 1\n", "a", "b=\"\u{e9}\u{4e2d}\"", 1.0),
            ("a 1.7954708330997648e+09\n", "a", "", 1_795_470_833.099_764_8),
            ("a 5e-324\n", "a", "", 5e-324),
            ("a -1\n", "a", "", -1.0),
            ("a +Inf\n", "a", "", f64::INFINITY),
            ("a -Inf\n", "a", "", f64::NEG_INFINITY),
            ("a 1 1395066363000\n", "a", "", 1.0),
            ("a 1 -3982045\n", "a", "", 1.0),
            ("a_bucket{le=\"1\"} 8 # {trace=\"x\"} 0.67\n", "a_bucket", "le=\"1\"", 8.0),
            ("a 1 1520879607.789 # {trace=\"x\"} 0.67\n", "a", "", 1.0),
        ] {
            assert_eq!(only(line), Ok(Some(Sample { name, labels, value })), "{line:?}");
        }
        assert!(matches!(only("a NaN\n"), Ok(Some(sample)) if sample.value.is_nan()));
    }

    #[test]
    fn a_label_is_found_wherever_it_stands() {
        for (labels, expected) in [
            ("le=\"1\"", Some("1")),
            ("a=\"x\",le=\"1\"", Some("1")),
            ("a=\"x\", le=\"1\",", Some("1")),
            (" le = \"1\" ", Some("1")),
            ("a=\",le=\\\"2\\\"\",le=\"1\"", Some("1")),
            ("a=\"\\\\\",le=\"1\"", Some("1")),
            ("le=\"\"", Some("")),
            ("le=\"\u{4e2d}\"", Some("\u{4e2d}")),
            ("ale=\"1\",lea=\"1\"", None),
            ("a=\"le=1\"", None),
            ("le=1", None),
            ("le=\"1", None),
            ("le", None),
            ("", None),
        ] {
            assert_eq!(label(labels, "le"), expected, "{labels}");
        }
    }

    #[test]
    fn comments_and_empty_lines_give_nothing() {
        for line in
            ["\n", " \t\r\n", "# HELP a about } a\n", "# TYPE a gauge\n", "#\n", "  # x\n", "# EOF\n", ""]
        {
            assert_eq!(only(line), Ok(None), "{line:?}");
        }
    }

    #[test]
    fn malformed_lines_say_what_is_wrong() {
        for (line, what) in [
            ("a 1", "not ended by a line feed"),
            ("a\n", "no value"),
            ("a \n", "no value"),
            ("a{b=\"c\"}\n", "no value"),
            ("a{b=\"c\n", "the labels are not closed"),
            ("a{b=\"c} 1\n", "the labels are not closed"),
            ("a{b=\"c\\\"} 1\n", "the labels are not closed"),
            ("a=1\n", "no value"),
            ("1a 1\n", "no metric name"),
            ("{b=\"c\"} 1\n", "no metric name"),
            ("<html>\n", "no metric name"),
            ("a one\n", "the value is not a number"),
            ("a 0x1p3\n", "the value is not a number"),
            ("a 1,5\n", "the value is not a number"),
            ("a 1 soon\n", "the timestamp is not a number"),
            ("a 1 2 3\n", "text after the timestamp"),
        ] {
            assert_eq!(only(line), Err(what), "{line:?}");
        }
        let malformed = samples(b"a \xff\n").next();
        assert!(matches!(malformed, Some(Err(m)) if m.what == "not UTF-8"), "{malformed:?}");
    }

    #[test]
    fn what_is_not_wanted_is_left_out_however_it_goes_on() {
        let text = b"a 1\nb x\nb{l=\"1\"} 2\nbc 3\nb\t4\nb\n\nc{ 5\na{} 6\nb 7";
        let found: Vec<_> =
            super::samples_of(text, |name| name == "a" || name == "bc" || name == "c").collect();
        let values: Vec<f64> = found.iter().flatten().map(|sample| sample.value).collect();
        let lines: Vec<usize> = found.iter().filter_map(|r| r.err()).map(|m| m.line).collect();
        assert_eq!((values, lines), (vec![1.0, 3.0, 6.0], vec![8, 10]));
    }

    #[test]
    fn a_malformed_line_costs_only_itself_and_is_numbered() {
        let found: Vec<_> = samples(b"a 1\n# c\nb x\n\nc 3\nd 4").collect();
        let values: Vec<f64> = found.iter().flatten().map(|sample| sample.value).collect();
        let lines: Vec<usize> = found.iter().filter_map(|r| r.err()).map(|m| m.line).collect();
        assert_eq!((values, lines), (vec![1.0, 3.0], vec![3, 6]));
    }

    proptest! {
        #[test]
        fn no_input_makes_it_panic(text in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(samples(&text).count() <= text.len());
        }

        #[test]
        fn no_input_made_of_the_formats_own_characters_makes_it_panic(
            text in r#"[a1:_{}"\\=,# \t\r\n.eE+-]{0,120}"#,
        ) {
            prop_assert!(samples(text.as_bytes()).count() <= text.len());
            prop_assert!(label(&text, "a").is_none_or(|value| text.contains(value)));
        }

        #[test]
        fn what_is_written_is_read_back(
            name in "[a-zA-Z_:][a-zA-Z0-9_:]{0,20}",
            value_of_l in r#"([^"\\\n]|\\["\\n]){0,20}"#,
            value in any::<f64>(),
        ) {
            let line = format!("{name}{{l=\"{value_of_l}\"}} {value:e}\n");
            let sample = samples(line.as_bytes()).next().expect("a line").expect("well-formed");
            prop_assert_eq!(sample.name, name);
            prop_assert_eq!(sample.labels, format!("l=\"{value_of_l}\""));
            prop_assert_eq!(label(sample.labels, "l"), Some(value_of_l.as_str()));
            prop_assert!(sample.value == value || (sample.value.is_nan() && value.is_nan()));
        }

        #[test]
        fn a_truncated_text_never_yields_a_value_that_was_not_written(cut in 0usize..60) {
            let text = "running{e=\"0\"} 1234.5\nwaiting{e=\"0\"} 67890 1700000000\n";
            let truncated = &text.as_bytes()[..cut.min(text.len())];
            for sample in samples(truncated).flatten() {
                prop_assert!([1234.5, 67890.0].contains(&sample.value), "{sample:?} at {cut}");
            }
        }
    }
}
