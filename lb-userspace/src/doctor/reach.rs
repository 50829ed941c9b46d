//! Findings on backends: the way there, and what of theirs listens.

use super::{
    Finding,
    facts::{Backend, Facts, Role, Service},
};

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    facts.backends.iter().flat_map(backend).collect()
}

fn backend(backend: &Backend) -> Vec<Finding> {
    let subject = format!("backend {}", backend.name);
    let address = backend.address;
    let mut findings = Vec::new();
    match &backend.hop {
        None => findings.push(Finding::warn(
            &subject,
            format!("the way to {address} could not be looked up"),
            "run doctor as root",
        )),
        Some(Ok(())) => findings.push(Finding::ok(&subject, format!("the way to {address} is known"))),
        Some(Err(reason)) => findings.push(Finding::fail(
            &subject,
            format!("packets cannot be sent to {address}: {reason}"),
            format!("correct its address, or the route: ip route get {address}"),
        )),
    }
    findings.extend(backend.services.iter().map(|it| service(&subject, it)));
    findings
}

/// Nothing here keeps connections from being steered but a server that is down, and that may come up.
fn service(subject: &str, service: &Service) -> Finding {
    let Service { role, authority, answer } = service;
    let (what, remedy) = match role {
        Role::Server => ("the server", "start the server, or correct its address and port"),
        Role::Metrics => ("its metrics", "correct `metrics`; without them the kernel's own counts steer"),
        Role::Exporter => ("its DCGM exporter", "correct `dcgm`, or start the exporter"),
        Role::Agent => ("its agent", "correct `agent`, or start guidevane agent there"),
    };
    match answer {
        Ok(()) => Finding::ok(subject, format!("{what} at {authority} can be reached")),
        Err(reason) => Finding::warn(subject, format!("{what} at {authority}: {reason}"), remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::{Backend, Role, Service, backend};
    use crate::doctor::Verdict::{self, Fail, Ok as Good, Warn};

    #[test]
    fn only_a_backend_that_packets_cannot_be_sent_to_fails() {
        type Case = (Option<Result<(), String>>, Vec<(Role, bool)>, Vec<Verdict>);
        let cases: [Case; 5] = [
            (Some(Ok(())), vec![], vec![Good]),
            (Some(Err("no route".to_owned())), vec![], vec![Fail]),
            (None, vec![], vec![Warn]),
            (Some(Ok(())), vec![(Role::Server, false)], vec![Good, Warn]),
            (
                Some(Ok(())),
                vec![
                    (Role::Server, true),
                    (Role::Metrics, false),
                    (Role::Exporter, false),
                    (Role::Agent, false),
                ],
                vec![Good, Good, Warn, Warn, Warn],
            ),
        ];
        for (hop, services, expected) in cases {
            let service = |(role, answers): &(Role, bool)| Service {
                role: *role,
                authority: "10.0.0.21:8000".to_owned(),
                answer: answers.then_some(()).ok_or_else(|| "connection refused".to_owned()),
            };
            let subject = Backend {
                name: "gpu-0".to_owned(),
                address: [10, 0, 0, 21].into(),
                hop: hop.clone(),
                services: services.iter().map(service).collect(),
            };
            let found = backend(&subject);
            let verdicts: Vec<Verdict> = found.iter().map(|finding| finding.verdict).collect();
            assert_eq!(verdicts, expected, "{hop:?}, {services:?}: {found:?}");
            let told = |finding: &super::Finding| (finding.verdict == Good) == finding.remedy.is_none();
            assert!(found.iter().all(told), "what is not good has a remedy: {found:?}");
        }
    }
}
