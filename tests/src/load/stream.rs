//! Reads the server-sent events of a streamed completion, from bytes that may be split anywhere.

use serde::Deserialize;

/// What a stretch of the stream held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Chunks with content: one token each on servers that write token by token.
    pub tokens: u32,
    /// Whether the stream said that it is complete.
    pub done: bool,
}

/// The stream is not what the API promises.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a completion chunk: {0}")]
pub struct BadEvent(String);

/// The reader of one stream.
#[derive(Debug, Default)]
pub struct EventReader {
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
    /// Tokens according to the usage that the server reported, if it did.
    reported_tokens: Option<u32>,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Choice {
    text: Option<String>,
    delta: Option<Delta>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    completion_tokens: u32,
}

impl Choice {
    fn has_content(&self) -> bool {
        let content = self.text.as_ref().or(self.delta.as_ref().and_then(|delta| delta.content.as_ref()));
        content.is_some_and(|content| !content.is_empty())
    }
}

impl EventReader {
    /// Takes the next bytes of the stream.
    ///
    /// # Errors
    /// [`BadEvent`] for an event that is no chunk, or that reports an error.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Progress, BadEvent> {
        let mut progress = Progress::default();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.partial.is_empty() && piece.ends_with(b"\n") {
                self.line(piece, &mut progress)?;
                continue;
            }
            self.partial.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.partial);
                self.line(&line, &mut progress)?;
            }
        }
        Ok(progress)
    }

    /// Tokens of the whole response as the server counted them.
    pub fn reported_tokens(&self) -> Option<u32> {
        self.reported_tokens
    }

    fn line(&mut self, line: &[u8], progress: &mut Progress) -> Result<(), BadEvent> {
        let Some(data) = line.strip_prefix(b"data:") else { return Ok(()) };
        let data = data.trim_ascii();
        if data == b"[DONE]" {
            progress.done = true;
            return Ok(());
        }
        let chunk: Chunk = serde_json::from_slice(data).map_err(|error| BadEvent(error.to_string()))?;
        if let Some(error) = chunk.error {
            return Err(BadEvent(error.to_string()));
        }
        progress.tokens += chunk.choices.iter().filter(|choice| choice.has_content()).count() as u32;
        self.reported_tokens = chunk.usage.map(|usage| usage.completion_tokens).or(self.reported_tokens);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{EventReader, Progress};

    const STREAM: &str = concat!(
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
        ": a comment\r\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"caf\u{e9}\"}}]}\n\n",
        "data: {\"choices\":[{\"text\":\" x\",\"finish_reason\":\"length\"}],\"usage\":null}\r\n\r\n",
        "data: {\"choices\":[],\"usage\":{\"completion_tokens\":2}}\n\n",
        "data: [DONE]\n\n",
    );

    #[test]
    fn a_stream_reads_the_same_wherever_it_is_split() {
        let bytes = STREAM.as_bytes();
        for size in 1..=bytes.len() {
            let mut reader = EventReader::default();
            let mut total = Progress::default();
            for piece in bytes.chunks(size) {
                let progress = reader.read(piece).unwrap_or_else(|error| panic!("pieces of {size}: {error}"));
                total.tokens += progress.tokens;
                total.done |= progress.done;
            }
            assert_eq!(total, Progress { tokens: 2, done: true }, "pieces of {size}");
            assert_eq!(reader.reported_tokens(), Some(2), "pieces of {size}");
        }
    }

    #[test]
    fn an_error_event_or_garbage_is_refused() {
        for event in [
            "data: {\"error\": {\"message\": \"engine died\"}}\n",
            "data: hello\n",
            "data: {\"choices\": 3}\n",
        ] {
            assert!(EventReader::default().read(event.as_bytes()).is_err(), "{event} was taken");
        }
    }
}
