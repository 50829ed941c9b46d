//! The other halves of the standard: a plain client of ours, and plain servers of others.

use std::{
    convert::Infallible,
    fs,
    future::{Ready, ready},
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    time::{Duration, Instant},
};

use futures::{Stream, StreamExt as _, stream};
use guidevane::{
    agent::{
        message::{METHOD, OrcaLoadReport, OrcaLoadReportRequest},
        subscriber::Terms,
    },
    config::Identity,
};
use http::uri::PathAndQuery;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tonic::{
    Code, Request, Response, Status, Streaming,
    server::ServerStreamingService,
    transport::{Certificate, Channel, ClientTlsConfig},
};
use tonic_prost::ProstCodec;

use crate::support::{Agent, INTERVAL, Metrics, Pki, Remote, observed, remote_at, until};

/// tonic as others use it.
async fn channel(address: SocketAddr, identity: &Identity) -> Channel {
    let pem = |path| fs::read_to_string(path).unwrap();
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(pem(&identity.ca)))
        .identity(tonic::transport::Identity::from_pem(pem(&identity.cert), pem(&identity.key)));
    let endpoint = Channel::from_shared(format!("https://{address}")).unwrap().tls_config(tls).unwrap();
    endpoint.connect().await.unwrap()
}

async fn stream_core_metrics(
    channel: Channel,
    path: &'static str,
    request: Request<OrcaLoadReportRequest>,
) -> Result<Response<Streaming<OrcaLoadReport>>, Status> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    grpc.server_streaming(request, PathAndQuery::from_static(path), ProstCodec::default()).await
}

#[tokio::test]
async fn a_plain_client_reads_the_first_backend_and_may_name_another() {
    let (pki, first, second) = (Pki::new(), Metrics::start(1).await, Metrics::start(2).await);
    let backends = [("gpu-0", Some(first.address)), ("gpu-1", Some(second.address))];
    let agent = Agent::start(pki.room.path(), &pki.agent("127.0.0.1", &["gpu-0", "gpu-1"]), &backends);
    let channel = channel(agent.address, &pki.balancer()).await;
    let asked = |millis| OrcaLoadReportRequest {
        report_interval: Some(Duration::from_millis(millis).into()),
        request_cost_names: vec!["tokens".to_owned()],
    };
    for (name, millis, expected_name, expected_millis, running) in
        [(None, 1, "gpu-0", "5", 1.0), (None, 20, "gpu-0", "20", 1.0), (Some("gpu-1"), 7, "gpu-1", "7", 2.0)]
    {
        let mut request = Request::new(asked(millis));
        if let Some(name) = name {
            request.metadata_mut().insert("guidevane-backend", name.parse().unwrap());
        }
        let response = stream_core_metrics(channel.clone(), METHOD, request).await.unwrap();
        let header = |name| response.metadata().get(name).and_then(|value| value.to_str().ok());
        assert_eq!(header("guidevane-backend"), Some(expected_name), "{name:?}");
        assert_eq!(header("guidevane-interval-ms"), Some(expected_millis), "{name:?}");
        let mut reports = response.into_inner();
        let report = loop {
            let report = reports.message().await.unwrap().expect("reports do not end");
            if report.named_metrics.contains_key("num_requests_running") {
                break report;
            }
        };
        assert_eq!(report.named_metrics["num_requests_running"], running, "{report:?}");
        assert_eq!(report.named_metrics["kv_cache_usage_perc"], 0.5);
        assert_eq!(report.application_utilization, 0.5, "the cache, since no batch size is known");
    }
    let mut unknown = Request::new(asked(5));
    unknown.metadata_mut().insert("guidevane-backend", "gpu-9".parse().unwrap());
    let refused = stream_core_metrics(channel.clone(), METHOD, unknown).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
    let refused = stream_core_metrics(channel, "/a.b/C", Request::new(asked(5))).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented, "{refused}");
}

type Reports = Pin<Box<dyn Stream<Item = Result<OrcaLoadReport, Status>> + Send>>;

/// A server of others: it sends what it has, and then nothing more for a long time.
#[derive(Clone)]
struct Plain(Vec<OrcaLoadReport>);

impl ServerStreamingService<OrcaLoadReportRequest> for Plain {
    type Response = OrcaLoadReport;
    type ResponseStream = Reports;
    type Future = Ready<Result<Response<Reports>, Status>>;

    fn call(&mut self, _request: Request<OrcaLoadReportRequest>) -> Self::Future {
        let reports = self.0.clone().into_iter().map(Ok);
        ready(Ok(Response::new(Box::pin(stream::iter(reports).chain(stream::pending())))))
    }
}

impl Plain {
    /// In the clear, with HTTP/2 from the start.
    async fn start(self) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let plain = self.clone();
                let service = service_fn(move |request: http::Request<Incoming>| {
                    let plain = plain.clone();
                    async move {
                        assert_eq!(request.uri().path(), METHOD);
                        let codec = ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec);
                        Ok::<_, Infallible>(grpc.server_streaming(plain, request).await)
                    }
                });
                let builder = http2::Builder::new(TokioExecutor::new());
                tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
            }
        });
        address
    }
}

fn in_the_clear(address: SocketAddr) -> Remote {
    let terms = Terms { tls: None, interval: INTERVAL };
    remote_at(&format!("http://{address}"), "gpu-0", terms)
}

#[tokio::test]
async fn a_server_of_others_is_understood_as_far_as_it_goes() {
    let named = [("num_requests_running", 4.0), ("num_requests_waiting", 3.0), ("kv_cache_usage_perc", 0.4)];
    let counts = OrcaLoadReport {
        named_metrics: named.map(|(name, value)| (name.to_owned(), value)).into(),
        application_utilization: 0.9,
        ..OrcaLoadReport::default()
    };
    let asked = Instant::now();
    let remote = in_the_clear(Plain(vec![counts]).start().await);
    let read = observed(&remote, "the report", |_| true).await;
    assert_eq!((read.running, read.waiting, read.kv_usage), (Some(4.0), Some(3.0), Some(0.4)));
    assert!(asked <= read.taken_start && read.taken_end <= Instant::now(), "sent since it was asked for");

    let plain = OrcaLoadReport {
        cpu_utilization: 0.5,
        application_utilization: 0.9,
        rps_fractional: 12.0,
        ..OrcaLoadReport::default()
    };
    let remote = in_the_clear(Plain(vec![plain.clone(), plain]).start().await);
    let scrape = until(&remote, "reports", |scrape| scrape.successes == 2).await;
    assert_eq!(scrape.last, None, "a utilization is no count");
}

#[tokio::test]
async fn an_answer_that_is_no_report_is_an_error_and_no_observation() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ =
                tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let remote = in_the_clear(address);
    let scrape = until(&remote, "failures", |scrape| scrape.failures.http > 1).await;
    assert_eq!((scrape.last, scrape.successes), (None, 0));

    let huge = OrcaLoadReport {
        named_metrics: (0..10_000).map(|number| (format!("number {number}"), 1.0)).collect(),
        ..OrcaLoadReport::default()
    };
    let remote = in_the_clear(Plain(vec![huge]).start().await);
    let scrape = until(&remote, "failures", |scrape| scrape.failures.total() > 0).await;
    assert_eq!((scrape.last, scrape.successes), (None, 0));
}
