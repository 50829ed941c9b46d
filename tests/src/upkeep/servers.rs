//! Servers that cost little: each port answers for a vLLM of its own, with numbers that move, and streams to whoever asks.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::bed::{Background, Namespace, Topology};

/// The first server's port; the others follow.
pub const FIRST_PORT: u16 = 10_000;

/// What a real server exposes: 52 KB.
const EXPOSITION: &str = include_str!("../../../lb-userspace/tests/signals/expositions/vllm-0.32.0.txt");

/// Lines of it that hold numbers which move, up to these.
const RUNNING: &str = "vllm:num_requests_running{";
const TOKENS: &str = "vllm:generation_tokens_total{";
const PROMPTS: &str = "vllm:prompt_tokens_total{";

/// What a server claims: requests in its batch, and tokens a second of answers and prompts.
const BATCH: f64 = 12.0;
const TOKENS_A_SECOND: f64 = 600.0;
const PROMPTS_A_SECOND: f64 = 2000.0;

/// A stream gets some bytes this often.
const CHUNK: [u8; 200] = [b'x'; 200];
const CHUNK_GAP: Duration = Duration::from_millis(500);

/// How much a server tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// All that a real one does.
    Whole,
    /// What is read of it alone, so that a thousand servers fit one machine.
    Brief,
}

/// An exposition in pieces, between which the numbers that move go.
struct Exposition(Vec<(String, Option<f64>)>);

impl Exposition {
    fn new(detail: Detail) -> Self {
        let mut pieces = vec![(String::new(), None)];
        for line in EXPOSITION.lines() {
            let (name, value) = line.rsplit_once(' ').unwrap_or((line, ""));
            let rate = match line {
                line if line.starts_with(RUNNING) => Some(0.0),
                line if line.starts_with(TOKENS) => Some(TOKENS_A_SECOND),
                line if line.starts_with(PROMPTS) => Some(PROMPTS_A_SECOND),
                _ => None,
            };
            let last = pieces.last_mut().expect("there is always one");
            if rate.is_some() {
                last.0 += name;
                last.1 = rate;
                pieces.push((String::new(), None));
            } else if detail == Detail::Whole {
                last.0 += &format!("{name} {value}\n");
            }
        }
        Self(pieces)
    }

    fn render(&self, seconds: f64) -> String {
        let mut text = String::with_capacity(EXPOSITION.len() + 64);
        for (piece, rate) in &self.0 {
            text += piece;
            match rate {
                Some(rate) if *rate > 0.0 => text += &format!(" {:.1}\n", rate * seconds),
                Some(_) => text += &format!(" {BATCH:.1}\n"),
                None => {}
            }
        }
        text
    }
}

/// Starts `count` servers in a namespace.
///
/// # Errors
/// A port is taken, or there are too few file descriptors.
pub fn start(namespace: &Namespace, count: usize, detail: Detail) -> Result<Background<()>> {
    let bind = |number: usize| {
        let port = FIRST_PORT + number as u16;
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).context("listen")?;
        listener.set_nonblocking(true)?;
        anyhow::Ok(listener)
    };
    let listeners = namespace.run(|| (0..count).map(bind).collect::<Result<Vec<_>>>())?;
    let exposition = Arc::new(Exposition::new(detail));
    Ok(namespace.spawn_runtime(move || async move {
        let begun = Instant::now();
        for listener in listeners {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a runtime runs");
            let exposition = Arc::clone(&exposition);
            tokio::spawn(async move {
                loop {
                    let Ok((socket, _)) = listener.accept().await else { continue };
                    let exposition = Arc::clone(&exposition);
                    // Probes and clients go away as they like.
                    tokio::spawn(async move { serve(socket, &exposition, begun).await.ok() });
                }
            });
        }
        std::future::pending::<()>().await;
    }))
}

async fn serve(mut socket: TcpStream, exposition: &Exposition, begun: Instant) -> io::Result<()> {
    let mut request = Vec::new();
    loop {
        let read = socket.read_buf(&mut request).await?;
        if read == 0 {
            return Ok(());
        }
        if !request.ends_with(b"\r\n\r\n") {
            continue;
        }
        if !request.starts_with(b"GET /metrics ") {
            break;
        }
        request.clear();
        let body = exposition.render(begun.elapsed().as_secs_f64());
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n\r\n");
        socket.write_all(head.as_bytes()).await?;
        socket.write_all(body.as_bytes()).await?;
    }
    socket.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").await?;
    loop {
        tokio::time::sleep(CHUNK_GAP).await;
        socket.write_all(&CHUNK).await?;
    }
}

/// Opens `count` streams from the client to `vip`, which last until this is dropped.
pub fn stream(bed: &Topology, vip: SocketAddr, count: usize) -> Background<()> {
    bed.client.namespace.spawn_runtime(move || async move {
        for _ in 0..count {
            tokio::spawn(async move {
                let mut socket = TcpStream::connect(vip).await?;
                socket.write_all(b"GET /stream HTTP/1.1\r\nhost: vip\r\n\r\n").await?;
                let mut bytes = [0; 4096];
                while socket.read(&mut bytes).await? > 0 {}
                io::Result::Ok(())
            });
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        std::future::pending::<()>().await;
    })
}

#[cfg(test)]
mod tests {
    use super::{Detail, Exposition};

    #[test]
    fn servers_tell_as_much_as_real_ones_with_numbers_that_move() {
        let whole = Exposition::new(Detail::Whole);
        let (first, later) = (whole.render(1.0), whole.render(2.0));
        assert!((52_000..54_000).contains(&first.len()), "{} bytes", first.len());
        assert!(first.contains("vllm:generation_tokens_total{engine=\"0\",model_name=\"tiny\"} 600.0\n"));
        assert!(later.contains("vllm:generation_tokens_total{engine=\"0\",model_name=\"tiny\"} 1200.0\n"));
        let brief = Exposition::new(Detail::Brief).render(1.0);
        assert_eq!(brief.lines().count(), 3, "{brief}");
    }
}
