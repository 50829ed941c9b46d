//! What the rows of `VIPS` say: of services, of their addresses, and of the addresses that packets come from.

use std::collections::BTreeMap;

use lb_common::{
    address::{Address, Endpoint},
    checksum::sum_endpoint,
    layout::{Meta, Vip, vip_flags},
};

use super::{
    adoption::first_port_set,
    spec::{Sources, VipSpec},
    steering::Service,
};

/// The rows that services and source addresses call for: their own, and one for each address of a service. Those of
/// addresses have no id yet.
pub fn wanted(
    services: &[Service],
    meta: &Meta,
    nat_sources: &[Address],
    sources: &Sources,
) -> Vec<(Endpoint, Vip)> {
    let services_own = services.iter().map(|service| with_ports(service_row(service), meta, nat_sources));
    let addresses = address_rows(services.iter().map(|service| &service.spec));
    let own = (0..nat_sources.len()).map(|number| source_row(number, meta, nat_sources, sources));
    services_own.chain(addresses).chain(own).map(|row| (row.endpoint, row)).collect()
}

fn service_row(service: &Service) -> Vip {
    let (spec, table) = (&service.spec, &service.table);
    Vip {
        endpoint: spec.endpoint,
        mode: spec.mode as u8,
        flags: flag(spec.client_affinity, vip_flags::CLIENT_AFFINITY)
            | flag(spec.gue, vip_flags::GUE)
            | flag(spec.source_nat, vip_flags::SOURCE_NAT),
        quic: spec.quic.map_or(0, |ids| ids.config << 4 | ids.length),
        id: service.id,
        table: table.first_entry(),
        table_size: table.size,
        members: table.first_member(),
        member_count: table.members.len() as u16,
        skip_bytes: spec.skip_bytes,
        rule: spec.rule,
        checksum: sum_endpoint(&spec.endpoint.address, spec.endpoint.port_be),
        ..Vip::default()
    }
}

/// The row of a VIP, with the ports of its family's source addresses if it uses them.
fn with_ports(row: Vip, meta: &Meta, nat_sources: &[Address]) -> Vip {
    if row.flags & vip_flags::SOURCE_NAT == 0 {
        return row;
    }
    let v4 = nat_sources.iter().filter(|address| address.is_v4()).count();
    let (first, count) = if row.endpoint.address.is_v4() { (0, v4) } else { (v4, nat_sources.len() - v4) };
    Vip { ports: first_port_set(meta, first), sources: count as u8, ..row }
}

fn address_rows<'a>(specs: impl Iterator<Item = &'a VipSpec>) -> impl Iterator<Item = Vip> {
    let mut rows = BTreeMap::new();
    for spec in specs {
        let endpoint = Endpoint::address_only(spec.endpoint.address);
        let row: &mut Vip =
            rows.entry(endpoint.address).or_insert_with(|| Vip { endpoint, ..Vip::default() });
        row.flags |= flag(spec.endpoint.port_be == 0, vip_flags::ANY_PORT);
        if let Some((interface, mac)) = spec.answers {
            *row = Vip { flags: row.flags | vip_flags::ANSWER_NEIGHBOURS, mac, interface, ..*row };
        }
    }
    rows.into_values()
}

/// The row of a source address, by which answers to it are found.
fn source_row(number: usize, meta: &Meta, nat_sources: &[Address], sources: &Sources) -> Vip {
    let endpoint = Endpoint::address_only(nat_sources[number]);
    let row = Vip {
        endpoint,
        flags: vip_flags::SOURCE_ADDRESS,
        ports: first_port_set(meta, number),
        sources: 1,
        checksum: sum_endpoint(&endpoint.address, 0),
        ..Vip::default()
    };
    let Some((interface, mac)) = sources.answers else { return row };
    Vip { flags: row.flags | vip_flags::ANSWER_NEIGHBOURS, mac, interface, ..row }
}

const fn flag(set: bool, flag: u8) -> u8 {
    if set { flag } else { 0 }
}
