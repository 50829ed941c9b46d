//! The server end to end over loopback sockets.

use std::{
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1::{SendRequest, handshake},
    header::{CONNECTION, CONTENT_TYPE},
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::sim::{
    metrics::Stats,
    profile::H100_8B,
    script::Script,
    server::{Headers, ServerOptions, SimServer, serve},
};

/// Long enough for any loaded machine; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Long enough that something immediate would have happened; a passing test waits for it.
const GLANCE: Duration = Duration::from_millis(200);

fn options() -> ServerOptions {
    let mut options = ServerOptions::new(&H100_8B);
    options.driver.speed = 50.0;
    options
}

fn start(options: ServerOptions) -> SimServer {
    SimServer::spawn(TcpListener::bind("127.0.0.1:0").unwrap(), options).unwrap()
}

async fn open(address: SocketAddr) -> SendRequest<Full<Bytes>> {
    let socket = TcpStream::connect(address).await.unwrap();
    let (sender, driver) = handshake(TokioIo::new(socket)).await.unwrap();
    tokio::spawn(driver);
    sender
}

async fn send(
    sender: &mut SendRequest<Full<Bytes>>,
    method: Method,
    path: &str,
    body: &str,
) -> Response<Incoming> {
    let request = Request::builder().method(method).uri(path).header("host", "sim");
    let request = request.body(Full::from(body.to_owned())).unwrap();
    timeout(PATIENCE, sender.send_request(request)).await.expect("a response in time").unwrap()
}

async fn text(response: Response<Incoming>) -> String {
    let body =
        timeout(PATIENCE, response.into_body().collect()).await.expect("a whole body in time").unwrap();
    String::from_utf8(body.to_bytes().to_vec()).unwrap()
}

async fn call(server: &SimServer, method: Method, path: &str, body: &str) -> (StatusCode, String) {
    let response = send(&mut open(server.addr()).await, method, path, body).await;
    (response.status(), text(response).await)
}

async fn post(server: &SimServer, path: &str, body: &Value) -> String {
    let (status, text) = call(server, Method::POST, path, &body.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    text
}

/// The JSON of every event but `[DONE]`, which must be the last.
fn events(stream: &str) -> Vec<Value> {
    let mut data: Vec<&str> =
        stream.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap()).collect();
    assert_eq!(data.pop(), Some("[DONE]"), "{stream}");
    data.into_iter().map(|event| serde_json::from_str(event).unwrap()).collect()
}

async fn wait_until(server: &SimServer, what: &str, condition: impl Fn(&Stats) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition(&server.stats()) {
        assert!(Instant::now() < deadline, "not {what}: {:?}", server.stats());
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_streamed_completion_has_a_chunk_per_token_usage_and_done() {
    let server = start(options());
    let body = json!({
        "model": "h100-8b", "prompt": "x".repeat(400), "max_tokens": 5, "stream": true,
        "stream_options": {"include_usage": true}, "temperature": 0.7, "ignore_eos": true,
    });
    let response =
        send(&mut open(server.addr()).await, Method::POST, "/v1/completions", &body.to_string()).await;
    assert_eq!(response.headers()[CONTENT_TYPE], "text/event-stream; charset=utf-8");
    let events = events(&text(response).await);
    assert_eq!(events.len(), 6);
    for (index, event) in events[..5].iter().enumerate() {
        assert_eq!(event["object"], "text_completion");
        assert_eq!(event["id"], events[0]["id"]);
        let choice = &event["choices"][0];
        assert!(!choice["text"].as_str().unwrap().is_empty());
        assert_eq!(choice["finish_reason"], if index == 4 { json!("length") } else { Value::Null });
    }
    assert_eq!(events[5]["choices"], json!([]));
    assert_eq!(
        events[5]["usage"],
        json!({"prompt_tokens": 100, "total_tokens": 105, "completion_tokens": 5})
    );
}

#[tokio::test]
async fn a_streamed_chat_begins_with_the_role() {
    let server = start(options());
    let body = json!({"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3, "stream": true});
    let events = events(&post(&server, "/v1/chat/completions", &body).await);
    assert_eq!(events.len(), 4);
    assert_eq!(events[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    assert!(events.iter().all(|event| event["object"] == "chat.completion.chunk"));
    assert_eq!(events[3]["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn tokens_gathered_by_an_interval_all_arrive() {
    let mut options = options();
    options.driver.stream_interval = 4;
    let server = start(options);
    let body = json!({"prompt": "x", "max_tokens": 11, "stream": true});
    assert_eq!(events(&post(&server, "/v1/completions", &body).await).len(), 11);
}

#[tokio::test]
async fn answers_that_are_not_streamed_carry_usage() {
    let server = start(options());
    let body = json!({"prompt": "hello", "prompt_tokens": 700, "max_tokens": 9});
    let whole: Value = serde_json::from_str(&post(&server, "/v1/completions", &body).await).unwrap();
    assert_eq!(whole["usage"], json!({"prompt_tokens": 700, "total_tokens": 709, "completion_tokens": 9}));
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    let body = json!({"messages": [{"role": "user", "content": "hello"}], "max_completion_tokens": 2});
    let whole: Value = serde_json::from_str(&post(&server, "/v1/chat/completions", &body).await).unwrap();
    assert_eq!(whole["choices"][0]["message"]["role"], "assistant");
    assert_eq!(whole["usage"]["completion_tokens"], 2);
}

#[tokio::test]
async fn bad_requests_are_refused_in_the_form_of_openai() {
    let server = start(options());
    let huge = format!(r#"{{"prompt": "x", "prompt_tokens": {}}}"#, u32::MAX);
    let cases = [
        (Method::POST, "/v1/completions", "{\"prompt\"", 400),
        (Method::POST, "/v1/completions", "", 400),
        (Method::POST, "/v1/completions", &huge, 400),
        (Method::POST, "/v1/completions", r#"{"prompt": "x", "max_tokens": 0}"#, 400),
        (Method::POST, "/v1/chat/completions", r#"{"messages": 1}"#, 400),
        (Method::POST, "/v1/completions", r#"{"prompt": "x", "model": "gpt-0"}"#, 404),
        (Method::GET, "/", "", 404),
        (Method::GET, "/v1/completions", "", 405),
        (Method::DELETE, "/metrics", "", 405),
    ];
    for (method, path, body, status) in cases {
        let (have, text) = call(&server, method.clone(), path, body).await;
        assert_eq!(have.as_u16(), status, "{method} {path} {body}: {text}");
        let error = &serde_json::from_str::<Value>(&text).unwrap()["error"];
        assert_eq!(error["code"], status, "{text}");
        assert!(error["message"].is_string() && error["type"].is_string(), "{text}");
    }
    assert_eq!(server.stats().counters.generation_tokens, 0);
}

#[tokio::test]
async fn headers_leave_at_once_or_with_the_first_token() {
    for (headers, at_once) in [(Headers::AtOnce, true), (Headers::FirstToken, false)] {
        let mut options = ServerOptions { headers, ..options() };
        options.driver.engine.max_num_seqs = 1;
        let server = start(options);
        let endless = json!({"prompt": "x", "max_tokens": 300_000, "stream": true}).to_string();
        let mut blocker = open(server.addr()).await;
        let blocked = send(&mut blocker, Method::POST, "/v1/completions", &endless).await;
        wait_until(&server, "blocked", |stats| stats.running == 1).await;

        let mut sender = open(server.addr()).await;
        let request = Request::post("/v1/completions").header("host", "sim");
        let request =
            request.body(Full::from(r#"{"prompt": "x", "max_tokens": 3, "stream": true}"#)).unwrap();
        let mut response = Box::pin(sender.send_request(request));
        wait_until(&server, "queued", |stats| stats.waiting == 1).await;
        let early = timeout(if at_once { PATIENCE } else { GLANCE }, &mut response).await;
        assert_eq!(early.is_ok(), at_once, "{headers:?}");
        drop((blocked, blocker));
        let response = match early {
            Ok(response) => response.unwrap(),
            Err(_) => timeout(PATIENCE, response).await.expect("headers after the queue").unwrap(),
        };
        assert_eq!(events(&text(response).await).len(), 3);
    }
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_slot_wherever_its_request_is() {
    let mut options = options();
    options.driver.engine.max_num_seqs = 2;
    let server = start(options);
    let endless = |stream: bool| json!({"prompt": "x", "max_tokens": 300_000, "stream": stream}).to_string();
    let mut clients = Vec::new();
    // One streams, one waits for a whole answer, one is still in the queue.
    for (stream, running, waiting) in [(true, 1, 0), (false, 2, 0), (false, 2, 1)] {
        let mut socket = TcpStream::connect(server.addr()).await.unwrap();
        let body = endless(stream);
        let head =
            format!("POST /v1/completions HTTP/1.1\r\nhost: sim\r\ncontent-length: {}\r\n\r\n", body.len());
        socket.write_all((head + &body).as_bytes()).await.unwrap();
        clients.push(socket);
        wait_until(&server, "taken", |stats| (stats.running, stats.waiting) == (running, waiting)).await;
    }
    drop(clients);
    wait_until(&server, "free", |stats| (stats.running, stats.waiting, stats.counters.aborted) == (0, 0, 3))
        .await;
    assert_eq!(server.stats().kv_usage, 0.0);
    assert!(
        post(&server, "/v1/completions", &json!({"prompt": "x", "max_tokens": 1})).await.contains("length")
    );
}

#[tokio::test]
async fn metrics_tell_what_was_served_and_what_is_under_way() {
    let mut options = options();
    options.driver.foreign = 3;
    let server = start(options);
    for tokens in [4, 6] {
        post(&server, "/v1/completions", &json!({"prompt": "x", "prompt_tokens": 50, "max_tokens": tokens}))
            .await;
    }
    let (_, text) = call(&server, Method::GET, "/metrics", "").await;
    for line in [
        r#"vllm:num_requests_running{engine="0",model_name="h100-8b"} 3.0"#,
        r#"vllm:num_requests_waiting{engine="0",model_name="h100-8b"} 0.0"#,
        r#"vllm:num_preemptions_total{engine="0",model_name="h100-8b"} 0.0"#,
        r#"vllm:request_success_total{engine="0",finished_reason="length",model_name="h100-8b"} 2.0"#,
        r#"vllm:time_to_first_token_seconds_count{engine="0",model_name="h100-8b"} 2.0"#,
        r#"vllm:inter_token_latency_seconds_count{engine="0",model_name="h100-8b"} 8.0"#,
    ] {
        assert!(text.lines().any(|have| have == line), "no line {line} in\n{text}");
    }
    assert!(text.contains("num_gpu_blocks=\"25625\""), "{text}");
    let value = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}"));
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    };
    // Foreign work counts too, as it does on a server that others use.
    assert!(value("vllm:generation_tokens_total") > 10.0);
    assert_eq!(value("vllm:prompt_tokens_total") % 512.0, 100.0);
    assert!(value("vllm:kv_cache_usage_perc") > 0.0);
    assert!(server.set_foreign(0).is_ok());
    wait_until(&server, "idle", |stats| stats.running == 0).await;
}

#[tokio::test]
async fn health_and_models_answer() {
    let server = start(options());
    assert_eq!(call(&server, Method::GET, "/health", "").await, (StatusCode::OK, String::new()));
    let (_, text) = call(&server, Method::GET, "/v1/models", "").await;
    let models: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&models["data"][0]["id"], &models["data"][0]["max_model_len"]),
        (&json!("h100-8b"), &json!(410_000))
    );
}

#[tokio::test]
async fn connections_are_kept_open_unless_told_otherwise() {
    let server = start(options());
    let mut sender = open(server.addr()).await;
    for _ in 0..3 {
        assert_eq!(text(send(&mut sender, Method::GET, "/health", "").await).await, "");
        sender.ready().await.expect("still open");
    }
    let server = start(ServerOptions { close: true, ..options() });
    let response = send(&mut open(server.addr()).await, Method::GET, "/health", "").await;
    assert_eq!(response.headers()[CONNECTION], "close");
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let server = start(ServerOptions { idle_timeout: Duration::from_millis(500), ..options() });
    let mut socket = TcpStream::connect(server.addr()).await.unwrap();
    socket.write_all(b"GET /health HTTP/1.1\r\nhost: sim\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("the server closes").unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn a_server_is_never_faster_than_its_model() {
    // Twenty decodes of 6.4 ms at a tenth of the rate, which script and throttle make together.
    let mut options = ServerOptions::new(&H100_8B);
    options.driver.script = Script::new(vec!["0:0.2".parse().unwrap()]);
    let server = start(options);
    server.set_rate(0.5);
    let begin = Instant::now();
    post(&server, "/v1/completions", &json!({"prompt": "x", "max_tokens": 21})).await;
    assert!(begin.elapsed() >= Duration::from_millis(20 * 64), "{:?}", begin.elapsed());
    assert!((server.stats().rate - 0.1).abs() < 1e-9, "{:?}", server.stats());
}

#[tokio::test]
async fn stopping_breaks_streams_off_and_closes_the_port() {
    let server = start(options());
    let body = json!({"prompt": "x", "max_tokens": 300_000, "stream": true}).to_string();
    let mut sender = open(server.addr()).await;
    let response = send(&mut sender, Method::POST, "/v1/completions", &body).await;
    let address = server.addr();
    server.stop().await;
    let cut = timeout(PATIENCE, response.into_body().collect()).await.expect("an end in time");
    assert!(cut.is_err(), "the stream ended as if it were whole");
    assert!(TcpStream::connect(address).await.is_err(), "the port is still open");
}

#[tokio::test]
async fn serve_runs_until_its_shutdown() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(serve(listener, options(), async { drop(stopped.await) }));
    let response = send(&mut open(address).await, Method::GET, "/health", "").await;
    assert_eq!(response.status(), StatusCode::OK);
    drop(stop);
    timeout(PATIENCE, server).await.expect("an end in time").unwrap().unwrap();
}

#[tokio::test]
async fn a_foreign_load_without_room_is_refused_at_start() {
    let mut options = options();
    options.driver.engine.max_num_seqs = 4;
    options.driver.foreign = 4;
    let error = SimServer::spawn(TcpListener::bind("127.0.0.1:0").unwrap(), options).unwrap_err().to_string();
    assert!(error.contains("4 foreign sequences"), "{error}");
}
