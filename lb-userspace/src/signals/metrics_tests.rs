use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;
use tokio::sync::watch;

use crate::signals::{
    Board, DcgmTarget, Endpoint, MetricsUrl, Observation, Scrape, ScrapeOptions, Scrapers, ServerKind,
    ServerMetrics, scrape,
    testing::{Site, certificate, until},
};

const VLLM: &str = "vllm:num_requests_running 4\nvllm:num_requests_waiting 1\nvllm:kv_cache_usage_perc 0.5\n\
                    vllm:generation_tokens_total 90\n";
const TRTLLM: &str = "trtllm_num_requests_running 3\n";
const SGLANG: &str = "sglang:num_running_reqs 2\nsglang:num_queue_reqs 0\n";

fn ok(body: &str) -> (u16, String) {
    (200, body.to_owned())
}

fn lost() -> (u16, String) {
    (404, "{\"detail\":\"Not Found\"}".to_owned())
}

fn options() -> ScrapeOptions {
    ScrapeOptions { interval: Duration::from_millis(20), ..ScrapeOptions::default() }
}

fn url(text: &str) -> MetricsUrl {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn asking(
    endpoint: Endpoint,
    server: Option<ServerKind>,
    options: ScrapeOptions,
) -> watch::Receiver<Scrape<Observation>> {
    scrape("metrics".to_owned(), ServerMetrics::new(endpoint, server), options)
}

fn plain(site: &Site, path: &str) -> Endpoint {
    Endpoint::plain(url(&format!("http://{}{path}", site.address)))
}

fn is_get(head: &str, path: &str) -> bool {
    head.starts_with(&format!("GET {path} "))
}

#[tokio::test]
async fn without_a_path_the_usual_ones_are_tried_and_the_one_that_answers_is_kept() {
    let site = Site::start(|head| match head {
        // What a TensorRT-LLM server has there is JSON.
        _ if is_get(head, "/metrics") => ok("[{\"numActiveRequests\":3}]"),
        _ if is_get(head, "/prometheus/metrics") => ok(TRTLLM),
        _ => lost(),
    })
    .await;
    let mut scrapes = asking(plain(&site, ""), None, options());
    let found = until(&mut scrapes, |s| s.successes >= 3).await;
    assert_eq!(found.failures.total(), 0, "{:?}", found.last_error);
    assert_eq!(found.last.and_then(|last| last.server), Some(ServerKind::TrtllmServe));
    let asked = site.asked();
    assert_eq!(asked.iter().filter(|head| is_get(head, "/metrics")).count(), 1, "{asked:?}");
    assert!(!asked.iter().any(|head| is_get(head, "/v1/metrics")), "{asked:?}");
}

#[tokio::test]
async fn a_named_server_is_asked_only_where_it_answers_and_a_path_is_never_left() {
    let site = Site::start(|head| if is_get(head, "/v1/metrics") { ok(VLLM) } else { lost() }).await;
    let mut nim = asking(plain(&site, "/"), Some(ServerKind::Nim), options());
    // It answers, but not as the server that it was said to be.
    let failing = until(&mut nim, |s| s.failures.content >= 2).await;
    assert_eq!(failing.failures.total(), failing.failures.content, "{:?}", failing.last_error);
    drop(nim);
    let before = site.asked().len();
    assert!(site.asked().iter().all(|head| is_get(head, "/v1/metrics")), "{:?}", site.asked());

    let mut pathed = asking(plain(&site, "/elsewhere"), None, options());
    let failing = until(&mut pathed, |s| s.failures.status >= 2).await;
    assert_eq!(failing.last_error.as_deref(), Some("status 404"));
    let asked = site.asked().split_off(before);
    assert!(asked.iter().filter(|head| is_get(head, "/elsewhere")).count() >= 2, "{asked:?}");
    assert!(asked.iter().all(|head| !is_get(head, "/metrics")), "{asked:?}");
}

#[tokio::test]
async fn a_server_that_another_took_the_place_of_is_found_again() {
    let phase = Arc::new(AtomicU32::new(0));
    let now = Arc::clone(&phase);
    let site = Site::start(move |head| match (now.load(Ordering::Relaxed), head) {
        (0, head) if is_get(head, "/metrics") => ok(VLLM),
        (1, head) if is_get(head, "/prometheus/metrics") => ok(TRTLLM),
        _ => lost(),
    })
    .await;
    let mut scrapes = asking(plain(&site, ""), None, options());
    until(&mut scrapes, |s| s.successes >= 1).await;
    phase.store(1, Ordering::Relaxed);
    let kind = |s: &Scrape| s.last.as_ref().and_then(|last| last.server);
    let moved = until(&mut scrapes, |s| kind(s) == Some(ServerKind::TrtllmServe)).await;
    assert_eq!(moved.failures.total(), 1, "{moved:?}");
}

fn glancing() -> ScrapeOptions {
    ScrapeOptions {
        interval: Duration::from_millis(100),
        light_interval: Some(Duration::from_millis(10)),
        ..ScrapeOptions::default()
    }
}

#[tokio::test]
async fn the_small_answer_is_taken_between_two_scrapes_and_holds_no_totals() {
    let vllm = Site::start(|head| match head {
        _ if is_get(head, "/a/metrics") => ok(VLLM),
        _ if is_get(head, "/a/load") => ok("{\"server_load\":9}"),
        _ => lost(),
    })
    .await;
    let loads = "{\"loads\":[{\"num_running_reqs\":5,\"num_waiting_reqs\":4,\"token_usage\":0.25}]}";
    let sglang = Site::start(move |head| match head {
        _ if is_get(head, "/metrics") => ok(SGLANG),
        _ if is_get(head, "/v1/loads") => ok(loads),
        _ => lost(),
    })
    .await;
    for (site, path, running, waiting, kv_usage) in
        [(&vllm, "/a/metrics", 4.0, 5.0, None), (&sglang, "/metrics", 5.0, 4.0, Some(0.25))]
    {
        let mut scrapes = asking(plain(site, path), None, glancing());
        let seen = until(&mut scrapes, |s| s.glance.is_some()).await;
        let newest = seen.newest().expect("an answer");
        assert_eq!(
            (newest.running, newest.waiting, newest.kv_usage),
            (Some(running), Some(waiting), kv_usage),
            "{path}"
        );
        assert_eq!((newest.generation_tokens, newest.ttft), (None, None), "{path}");
        let after = until(&mut scrapes, |s| s.successes > seen.successes).await;
        assert_eq!(after.newest(), after.last.as_ref(), "{path}: a whole scrape is newer");
        assert_eq!(after.failures.total(), 0, "{path}");
    }
}

#[tokio::test]
async fn a_small_answer_that_is_missing_or_counts_nothing_changes_nothing() {
    for (what, load) in [("not there", lost()), ("not counting", ok("{\"server_load\":0}"))] {
        let missing = load.0 != 200;
        let site =
            Site::start(move |head| if is_get(head, "/metrics") { ok(VLLM) } else { load.clone() }).await;
        let mut scrapes = asking(plain(&site, ""), None, glancing());
        let seen = until(&mut scrapes, |s| s.successes >= 4).await;
        assert_eq!((seen.glance.clone(), seen.failures.total()), (None, 0), "{what}");
        assert_eq!(seen.newest().and_then(|newest| newest.running), Some(4.0), "{what}");
        let glances = site.asked().iter().filter(|head| is_get(head, "/load")).count();
        assert_eq!(glances == 1, missing, "{what}: asked {glances} times");
    }
}

#[tokio::test]
async fn without_a_light_interval_no_small_question_is_asked() {
    let site = Site::start(|head| if is_get(head, "/metrics") { ok(VLLM) } else { lost() }).await;
    let mut scrapes = asking(plain(&site, ""), None, options());
    until(&mut scrapes, |s| s.successes >= 3).await;
    assert!(site.asked().iter().all(|head| is_get(head, "/metrics")), "{:?}", site.asked());
}

#[tokio::test]
async fn a_token_goes_along_and_is_read_again_when_it_changes() {
    let site = Site::start(|head| match head {
        _ if head.contains("\r\nauthorization: Bearer first\r\n") => ok(VLLM),
        _ if head.contains("\r\nauthorization: Bearer second\r\n") => ok(TRTLLM),
        _ => (401, String::new()),
    })
    .await;
    let folder = TempDir::new().expect("a folder");
    let token = folder.path().join("token");
    let endpoint = Endpoint { token_file: Some(token.clone()), ..plain(&site, "/metrics") };
    let mut scrapes = asking(endpoint, None, options());
    let failing = until(&mut scrapes, |s| s.failures.file >= 1).await;
    let error = failing.last_error.unwrap_or_default();
    assert!(error.starts_with(&format!("read {}: ", token.display())), "{error}");
    assert!(site.asked().is_empty(), "asked without the token");

    fs::write(&token, "first\n").expect("write");
    until(&mut scrapes, |s| s.successes >= 1).await;
    fs::write(folder.path().join("new"), "second\n").expect("write");
    fs::rename(folder.path().join("new"), &token).expect("rename");
    let kind = |s: &Scrape| s.last.as_ref().and_then(|last| last.server);
    until(&mut scrapes, |s| kind(s) == Some(ServerKind::TrtllmServe)).await;
}

fn pem(folder: &TempDir, name: &str, content: &str) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, content).expect("write");
    path
}

#[tokio::test]
async fn tls_is_spoken_with_servers_that_prove_their_name_alone() {
    let folder = TempDir::new().expect("a folder");
    let (right, right_pem) = certificate("localhost");
    let (_, stranger_pem) = certificate("localhost");
    let (wrong, wrong_pem) = certificate("gpu-1.example");
    let (right, wrong) =
        (Site::start_tls(right, |_| ok(VLLM)).await, Site::start_tls(wrong, |_| ok(VLLM)).await);
    let plain = Site::start(|_| ok(VLLM)).await;
    let asking = |site: &Site, ca: &PathBuf| {
        let url = url(&format!("https://localhost:{}/metrics", site.address.port()));
        let endpoint = Endpoint { ca: Some(ca.clone()), ..Endpoint::plain(url) };
        asking(endpoint, None, options())
    };
    let trusted = pem(&folder, "right.pem", &right_pem);
    until(&mut asking(&right, &trusted), |s| s.successes >= 2).await;

    let strangers = pem(&folder, "stranger.pem", &stranger_pem);
    let misnamed = pem(&folder, "wrong.pem", &wrong_pem);
    for (what, site, ca, words) in [
        ("another authority", &right, &strangers, "invalid peer certificate"),
        ("another name", &wrong, &misnamed, "not valid for name"),
        ("no tls", &plain, &trusted, "tls with localhost:"),
    ] {
        let failing = until(&mut asking(site, ca), |s| s.failures.tls >= 2).await;
        let error = failing.last_error.unwrap_or_default();
        assert!(error.contains(words), "{what}: {error}");
        assert_eq!(failing.last, None, "{what}");
    }
    assert_eq!(wrong.asked(), Vec::<String>::new());

    let empty = pem(&folder, "empty.pem", "nothing\n");
    let mut scrapes = asking(&right, &empty);
    let failing = until(&mut scrapes, |s| s.failures.file >= 1).await;
    let error = failing.last_error.unwrap_or_default();
    assert!(error.ends_with("it holds no certificate in PEM form"), "{error}");
    pem(&folder, "empty.pem", &right_pem);
    until(&mut scrapes, |s| s.successes >= 1).await;
}

#[tokio::test]
async fn a_dcgm_exporter_tells_of_the_gpus_that_were_named() {
    let broken = Arc::new(AtomicU32::new(0));
    let now = Arc::clone(&broken);
    let site = Site::start(move |head| match now.load(Ordering::Relaxed) {
        0 if is_get(head, "/metrics") => {
            ok("DCGM_FI_DEV_GPU_UTIL{gpu=\"0\"} 10\nDCGM_FI_DEV_GPU_UTIL{gpu=\"1\"} 90\n")
        }
        _ => (500, String::new()),
    })
    .await;
    let target = |gpus: &[&str]| DcgmTarget {
        endpoint: plain(&site, ""),
        gpus: gpus.iter().map(ToString::to_string).collect(),
        options: options(),
    };
    let board = Arc::new(Board::default());
    ["all", "first"].iter().for_each(|key| board.enter(&(*key).into()));
    let mut scrapers = Scrapers::new(Arc::clone(&board));
    scrapers.set_exporters([("all".into(), target(&[])), ("first".into(), target(&["0"]))]);
    for (key, utilization) in [("all", 0.9), ("first", 0.1)] {
        let mut readings = board.subscribe(key).expect("a place");
        let read = readings.wait_for(Option::is_some).await.expect("it runs").clone();
        assert_eq!(read.and_then(|hardware| hardware.utilization), Some(utilization), "{key}");
    }
    // What was read last stays, and ages.
    broken.store(1, Ordering::Relaxed);
    let asked = site.asked().len();
    while site.asked().len() < asked + 6 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let readings = board.subscribe("all").expect("a place");
    assert!(readings.borrow().is_some());
}
