//! `sim-server`: a simulated inference server on a socket.

use std::{io::Write as _, net::SocketAddr, path::PathBuf};

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use guidevane_tests::sim::{
    profile::{PROFILES, Profile},
    script::{Change, Script},
    server::{Headers, ServerOptions, SimServer},
    tls,
};

/// A simulated inference server: vLLM's HTTP API over a modelled GPU.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Address and port to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8000")]
    listen: SocketAddr,
    /// GPU profile.
    #[arg(long, default_value = PROFILES[0].name, value_parser = Profile::named)]
    profile: &'static Profile,
    /// Runs this many times faster than the profile.
    #[arg(long, default_value_t = 1.0, value_parser = above_zero)]
    speed: f64,
    /// Batch slots, instead of the profile's.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    max_num_seqs: Option<u32>,
    /// From SECONDS on, run at RATE times the speed; may be repeated.
    #[arg(long = "slow", value_name = "SECONDS:RATE")]
    slow: Vec<Change>,
    /// Foreign sequences that decode for ever beside the requests.
    #[arg(long, default_value_t = 0)]
    foreign: u32,
    /// When the headers of a streamed response leave.
    #[arg(long, value_enum, default_value_t = HeadersArg::AtOnce)]
    headers: HeadersArg,
    /// Tokens gathered before they are written to a stream.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    stream_interval: u32,
    /// Closes the connection after each response.
    #[arg(long)]
    close: bool,
    /// Model name, instead of the profile's.
    #[arg(long)]
    model: Option<String>,
    /// TLS with a self-signed certificate.
    #[arg(long, conflicts_with_all = ["tls_cert", "tls_key"])]
    tls: bool,
    /// TLS certificate chain, PEM.
    #[arg(long, requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// TLS private key, PEM.
    #[arg(long, requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum HeadersArg {
    /// At once, as vLLM.
    AtOnce,
    /// With the first token, as SGLang.
    FirstToken,
}

fn above_zero(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err("not a number above 0".to_owned()),
    }
}

impl Args {
    fn options(self) -> anyhow::Result<ServerOptions> {
        let mut options = ServerOptions::new(self.profile);
        options.driver.speed = self.speed;
        options.driver.script = Script::new(self.slow);
        options.driver.foreign = self.foreign;
        options.driver.stream_interval = self.stream_interval;
        if let Some(slots) = self.max_num_seqs {
            options.driver.engine.max_num_seqs = slots;
        }
        options.headers = match self.headers {
            HeadersArg::AtOnce => Headers::AtOnce,
            HeadersArg::FirstToken => Headers::FirstToken,
        };
        options.close = self.close;
        if let Some(model) = self.model {
            options.model = model;
        }
        options.tls = match (self.tls_cert, self.tls_key) {
            (Some(certificate), Some(key)) => Some(tls::from_files(&certificate, &key)?),
            _ if self.tls => {
                let names = ["localhost".to_owned(), self.listen.ip().to_string()];
                Some(tls::self_signed(&names)?.0)
            }
            _ => None,
        };
        Ok(options)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let listen = args.listen;
    let listener =
        std::net::TcpListener::bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
    let server = SimServer::spawn(listener, args.options()?)?;
    writeln!(std::io::stdout(), "listening on {}", server.addr())?;
    tokio::signal::ctrl_c().await.context("cannot wait for an interrupt")?;
    let lag = server.stats().lag_seconds;
    server.stop().await;
    if lag > 0.0 {
        eprintln!("this machine was too busy: the server fell {lag:.1} s behind its model");
    }
    Ok(())
}
