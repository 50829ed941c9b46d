//! Reasons: numbers, names and room.

use std::collections::HashSet;

use lb_common::reason::{Action, REASONS, Reason};

#[test]
fn a_reasons_number_is_its_place_in_the_list() {
    for (number, &reason) in Reason::ALL.iter().enumerate() {
        assert_eq!(reason as usize, number, "{}", reason.name());
    }
    assert!(Reason::ALL.len() <= REASONS);
}

#[test]
fn names_are_unique_and_fit_a_metric_label() {
    let names: HashSet<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(names.len(), Reason::ALL.len());
    for name in names {
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{name}");
    }
}

#[test]
fn what_is_not_ours_passes_and_what_cannot_be_served_drops() {
    for (reason, action) in [
        (Reason::Established, Action::Forward),
        (Reason::Untracked, Action::Forward),
        (Reason::Arp, Action::Answer),
        (Reason::NotOurs, Action::Pass),
        (Reason::Unreadable, Action::Pass),
        (Reason::NoBackend, Action::Drop),
        (Reason::UnknownNat, Action::Drop),
        (Reason::Internal, Action::Drop),
    ] {
        assert_eq!(reason.action(), action, "{}", reason.name());
    }
}
