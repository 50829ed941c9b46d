//! `guidevane agent`: from its configuration to a running server.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use super::server::{self, Served};
use crate::{
    config::{AgentBackend, AgentConfig},
    gpu::{self, Gpus},
    service,
    signals::{Board, Hardware, Key, Scrape, Scrapers},
};

/// Serves reports until SIGTERM or SIGINT.
///
/// # Errors
///
/// When it cannot start.
pub fn run(config: &AgentConfig) -> anyhow::Result<()> {
    crate::log::start();
    // Scrapes and reports are small; the CPUs of this host have better things to do.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(serve(config))
}

async fn serve(config: &AgentConfig) -> anyhow::Result<()> {
    let listen = config.listen;
    let tls = config.identity.server().context("prepare TLS")?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listener = TcpListener::bind(listen).await.with_context(|| format!("listen on {listen}"))?;
    let board = Arc::new(Board::default());
    let gpus = read_gpus(config, &board)?;
    let backends = watched(config, &board);
    let names: Vec<&str> = backends.iter().map(|served| &*served.name).collect();
    let speaking = format!("speaking for {} on {}", names.join(", "), listener.local_addr()?);
    tracing::info!("{speaking}");
    service::ready(&speaking);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        never = service::give_signs_of_life() => match never {},
        never = server::serve(listener, tls, backends) => match never {},
    }
    service::stopping();
    drop(gpus);
    Ok(())
}

/// Starts to read the servers that the configuration names, by the same scrapers as the daemon.
fn watched(config: &AgentConfig, board: &Arc<Board>) -> Vec<Served> {
    let mut scrapers = Scrapers::new(Arc::clone(board));
    let target = |backend: &AgentBackend| Some((Key::from(backend.name.as_str()), backend.metrics.clone()?));
    scrapers.set_targets(config.backends.iter().filter_map(target));
    let served = config.backends.iter().map(|backend| Served {
        name: backend.name.as_str().into(),
        scrape: scrapers.subscribe(&backend.name).unwrap_or_else(|| watch::channel(Scrape::default()).1),
        hardware: hardware_of(board, backend),
    });
    served.collect()
}

/// Starts to read GPUs, of which the readings go to `board`, until it is dropped.
fn read_gpus(config: &AgentConfig, board: &Arc<Board>) -> anyhow::Result<Gpus> {
    let options = gpu::Options { library: config.nvml.library.clone(), interval: config.nvml.interval };
    let gpus = Gpus::new(options, Arc::clone(board));
    let wanted = config.backends.iter().filter(|backend| match &backend.gpus {
        Some(gpus) => !gpus.is_empty(),
        None => config.nvml.discover && address_of(backend).is_some(),
    });
    let targets: Vec<_> = wanted
        .map(|backend| gpu::Target {
            key: backend.name.as_str().into(),
            addresses: address_of(backend).into_iter().collect(),
            gpus: backend.gpus.clone(),
        })
        .collect();
    targets.iter().for_each(|target| board.enter(&target.key));
    gpus.set_targets(targets).context("start to read GPUs")?;
    Ok(gpus)
}

/// Where a backend's process listens, as far as it shows: most servers have their metrics in the same process.
fn address_of(backend: &AgentBackend) -> Option<SocketAddr> {
    backend.metrics.as_ref()?.endpoint.url.authority().parse().ok()
}

/// What is read of a backend's GPUs; nothing ever, where it has none.
fn hardware_of(board: &Board, backend: &AgentBackend) -> watch::Receiver<Option<Hardware>> {
    board.subscribe(&backend.name).unwrap_or_else(|| watch::channel(None).1)
}
