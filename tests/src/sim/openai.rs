//! The OpenAI-compatible bodies: what is read of a request, and the bytes of responses in vLLM's shape.
//!
//! It must never fail on fields that it does not know: clients send sampling parameters of all kinds.

use std::time::{SystemTime, UNIX_EPOCH};

use hyper::{StatusCode, body::Bytes};
use serde::Deserialize;
use serde_json::{Value, json};

/// What `max_tokens` is when a request has none (OpenAI's default for completions).
const DEFAULT_MAX_TOKENS: u32 = 16;

/// Bytes of prompt text counted as one token.
const BYTES_PER_TOKEN: usize = 4;

/// The text of every token.
const TOKEN_TEXT: &str = " vane";

/// Which of the two routes a request came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// `/v1/completions`.
    Completions,
    /// `/v1/chat/completions`.
    Chat,
}

/// An error in the form that OpenAI's clients expect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// What is wrong, for people.
    pub message: String,
}

impl ApiError {
    /// A 400 with this message.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into() }
    }

    /// The JSON body.
    pub fn body(&self) -> Bytes {
        let kind = match self.status {
            StatusCode::BAD_REQUEST => "BadRequestError",
            StatusCode::NOT_FOUND => "NotFoundError",
            _ => self.status.canonical_reason().unwrap_or("Error"),
        };
        let code = self.status.as_u16();
        json!({"error": {"message": self.message, "type": kind, "param": null, "code": code}})
            .to_string()
            .into()
    }
}

/// A request as far as it matters to the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// By which route it came.
    pub route: Route,
    /// Tokens to prefill.
    pub prompt_tokens: u32,
    /// Tokens to generate.
    pub max_tokens: u32,
    /// Whether to answer with server-sent events.
    pub stream: bool,
    /// Whether the stream ends with a chunk of usage.
    pub include_usage: bool,
}

#[derive(Deserialize)]
struct Body {
    model: Option<String>,
    prompt: Option<Prompt>,
    messages: Option<Vec<Message>>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    #[serde(default)]
    stream: bool,
    stream_options: Option<StreamOptions>,
    /// An extension: the length of the prompt, whatever its text.
    prompt_tokens: Option<u32>,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
}

#[derive(Deserialize)]
struct Message {
    content: Option<Content>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    text: String,
}

impl Prompt {
    fn tokens(&self) -> usize {
        match self {
            Self::Text(text) => text_tokens(text.len()),
            Self::Tokens(tokens) => tokens.len(),
            Self::Texts(texts) => text_tokens(texts.iter().map(String::len).sum()),
        }
    }
}

impl Message {
    fn bytes(&self) -> usize {
        match &self.content {
            None => 0,
            Some(Content::Text(text)) => text.len(),
            Some(Content::Parts(parts)) => parts.iter().map(|part| part.text.len()).sum(),
        }
    }
}

fn text_tokens(bytes: usize) -> usize {
    bytes.div_ceil(BYTES_PER_TOKEN).max(1)
}

impl Completion {
    /// Reads a request body for a server of `model`.
    ///
    /// # Errors
    /// 400 for a body that is no such request, 404 for another model.
    pub fn parse(route: Route, body: &[u8], model: &str) -> Result<Self, ApiError> {
        let body: Body = serde_json::from_slice(body)
            .map_err(|error| ApiError::bad_request(format!("invalid request body: {error}")))?;
        if let Some(other) = body.model.filter(|asked| asked != model) {
            let message = format!("The model `{other}` does not exist.");
            return Err(ApiError { status: StatusCode::NOT_FOUND, message });
        }
        let prompt_tokens = match (route, body.prompt, body.messages) {
            (Route::Completions, Some(prompt), _) => prompt.tokens(),
            (Route::Chat, _, Some(messages)) => text_tokens(messages.iter().map(Message::bytes).sum()),
            (Route::Completions, None, _) => return Err(ApiError::bad_request("field `prompt` is missing")),
            (Route::Chat, _, None) => return Err(ApiError::bad_request("field `messages` is missing")),
        };
        let prompt_tokens = body.prompt_tokens.unwrap_or(u32::try_from(prompt_tokens).unwrap_or(u32::MAX));
        Ok(Self {
            route,
            prompt_tokens,
            max_tokens: body.max_completion_tokens.or(body.max_tokens).unwrap_or(DEFAULT_MAX_TOKENS),
            stream: body.stream,
            include_usage: body.stream_options.is_some_and(|options| options.include_usage),
        })
    }

    fn usage(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": u64::from(self.prompt_tokens) + u64::from(self.max_tokens),
            "completion_tokens": self.max_tokens,
        })
    }

    fn id(&self, number: u64) -> String {
        match self.route {
            Route::Completions => format!("cmpl-{number:032x}"),
            Route::Chat => format!("chatcmpl-{number:032x}"),
        }
    }

    /// The body of a response that is not streamed.
    pub fn whole(&self, number: u64, model: &str) -> Bytes {
        let text = TOKEN_TEXT.repeat(self.max_tokens as usize);
        let (object, choice) = match self.route {
            Route::Completions => (
                "text_completion",
                json!({"index": 0, "text": text, "logprobs": null, "finish_reason": "length", "stop_reason": null}),
            ),
            Route::Chat => (
                "chat.completion",
                json!({
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "logprobs": null,
                    "finish_reason": "length",
                    "stop_reason": null,
                }),
            ),
        };
        let id = self.id(number);
        let created = unix_time();
        let usage = self.usage();
        json!({"id": id, "object": object, "created": created, "model": model, "choices": [choice], "usage": usage})
            .to_string()
            .into()
    }
}

/// The bytes of one streamed response, made once: every token but the last looks the same.
#[derive(Debug)]
pub struct Chunks {
    first: Bytes,
    token: Bytes,
    end: Bytes,
}

impl Chunks {
    /// The chunks of the request that has this number on its server.
    pub fn new(completion: &Completion, number: u64, model: &str) -> Self {
        let id = completion.id(number);
        let created = unix_time();
        let object = match completion.route {
            Route::Completions => "text_completion",
            Route::Chat => "chat.completion.chunk",
        };
        let model = Value::from(model);
        // In vLLM's order of fields, which serde_json's maps would sort.
        let event = |choices: &str, usage: &str| {
            let head = format!(r#""id":"{id}","object":"{object}","created":{created},"model":{model}"#);
            format!("data: {{{head},\"choices\":[{choices}]{usage}}}\n\n")
        };
        let choice = |content: &str, finish: &str| {
            format!(r#"{{"index":0,{content},"logprobs":null,"finish_reason":{finish}}}"#)
        };
        let token = match completion.route {
            Route::Completions => format!(r#""text":"{TOKEN_TEXT}""#),
            Route::Chat => format!(r#""delta":{{"content":"{TOKEN_TEXT}"}}"#),
        };
        let role = choice(r#""delta":{"role":"assistant","content":""}"#, "null");
        let mut end = event(&choice(&token, "\"length\""), "");
        if completion.include_usage {
            end += &event("", &format!(",\"usage\":{}", completion.usage()));
        }
        end += "data: [DONE]\n\n";
        Self {
            first: if completion.route == Route::Chat { event(&role, "").into() } else { Bytes::new() },
            token: event(&choice(&token, "null"), "").into(),
            end: end.into(),
        }
    }

    /// The bytes of `count` new tokens; `first` if none came before, `last` if none will come.
    pub fn tokens(&self, count: u32, first: bool, last: bool) -> Bytes {
        let plain = (count - u32::from(last)) as usize;
        let lead: &[u8] = if first { &self.first } else { &[] };
        if plain == 1 && lead.is_empty() && !last {
            return self.token.clone();
        }
        if plain == 0 && lead.is_empty() {
            return self.end.clone();
        }
        let end: &[u8] = if last { &self.end } else { &[] };
        [lead, &self.token.repeat(plain), end].concat().into()
    }
}

/// The answer to `/v1/models`.
pub fn models(model: &str, max_model_len: u64) -> Bytes {
    let entry = json!({
        "id": model,
        "object": "model",
        "created": unix_time(),
        "owned_by": "vllm",
        "root": model,
        "parent": null,
        "max_model_len": max_model_len,
    });
    json!({"object": "list", "data": [entry]}).to_string().into()
}

fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::{Completion, Route};

    #[test]
    fn prompts_of_every_form_are_counted() {
        let cases = [
            (Route::Completions, r#"{"prompt": "12345678"}"#, 2),
            (Route::Completions, r#"{"prompt": ""}"#, 1),
            (Route::Completions, r#"{"prompt": [1, 2, 3]}"#, 3),
            (Route::Completions, r#"{"prompt": ["1234", "5678"]}"#, 2),
            (Route::Completions, r#"{"prompt": "x", "prompt_tokens": 900}"#, 900),
            (Route::Chat, r#"{"messages": [{"role": "user", "content": "123456789"}]}"#, 3),
            (Route::Chat, r#"{"messages": [{"content": [{"type": "text", "text": "12345678"}]}]}"#, 2),
            (Route::Chat, r#"{"messages": [{"role": "assistant", "content": null}]}"#, 1),
        ];
        for (route, body, tokens) in cases {
            let completion =
                Completion::parse(route, body.as_bytes(), "m").unwrap_or_else(|e| panic!("{body}: {e:?}"));
            assert_eq!(completion.prompt_tokens, tokens, "{body}");
        }
    }

    #[test]
    fn what_is_no_request_is_refused_with_its_status() {
        let cases = [
            (Route::Completions, "", 400),
            (Route::Completions, "{", 400),
            (Route::Completions, "[]", 400),
            (Route::Completions, "{}", 400),
            (Route::Completions, r#"{"prompt": 3}"#, 400),
            (Route::Completions, r#"{"prompt": "x", "max_tokens": -1}"#, 400),
            (Route::Completions, r#"{"prompt": "x", "model": "other"}"#, 404),
            (Route::Chat, r#"{"prompt": "x"}"#, 400),
        ];
        for (route, body, status) in cases {
            let error = Completion::parse(route, body.as_bytes(), "m").expect_err(body);
            assert_eq!(error.status.as_u16(), status, "{body}");
        }
    }
}
