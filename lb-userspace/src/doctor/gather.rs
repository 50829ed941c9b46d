//! The facts, from the running system and the configuration.

use std::{fs, net::IpAddr, path::Path, sync::Arc, thread::available_parallelism, time::Duration};

use anyhow::Context as _;
use nix::{
    sys::{
        statfs::{BPF_FS_MAGIC, statfs},
        utsname::uname,
    },
    unistd::{AccessFlags, SysconfVar, access, sysconf},
};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};

use super::{
    ethtool,
    facts::{Backend, Facts, Link, Peer, Pin, Port, Role, Service},
};
use crate::{
    config::{self, Announce, Config, Encap, ForwardMode, Nvml, Vip},
    dataplane::loader::{Kernel, Options},
    gpu::{Cost, nvml::Library},
    net::{
        Netlink,
        interface::{self, Interface},
        neighbour::{Neighbours, Reason, Resolution, Table},
    },
};

/// A neighbour that is there answers within milliseconds; the kernel gives up after three requests a second apart.
const NEIGHBOUR_PATIENCE: Duration = Duration::from_secs(4);
/// The farthest server answers within that.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
/// The least flow table: it is only tried.
const TRIAL_FLOWS: u32 = 4096;
/// The verdict that leaves a packet to the host: `enum xdp_action` in `linux/bpf.h`.
const XDP_PASS: u32 = 2;
/// Outer headers without options, and GUE's own.
const IPV4_HEADER: u32 = 20;
const IPV6_HEADER: u32 = 40;
const GUE_HEADERS: u32 = 8;

/// Looks at the host, and without a configuration at nothing else.
///
/// # Errors
///
/// When there is no runtime or no netlink socket to be had.
pub fn gather(config: Option<&Config>) -> anyhow::Result<Facts> {
    let mut facts = host();
    let Some(config) = config else { return Ok(facts) };
    wishes(&mut facts, config);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let netlink = Netlink::open().context("open netlink")?;
        let interfaces = interface::list(&netlink).await.context("list the interfaces")?;
        facts.ports = config.interfaces.iter().map(|port| look_at(port, &interfaces)).collect();
        facts.backends = backends(config).await;
        Ok(facts)
    })
}

fn host() -> Facts {
    Facts {
        release: uname().map(|names| names.release().to_string_lossy().into_owned()).unwrap_or_default(),
        kernel_types: Path::new("/sys/kernel/btf/vmlinux").exists(),
        jit: number("/proc/sys/net/core/bpf_jit_enable"),
        capabilities: capabilities(&fs::read_to_string("/proc/self/status").unwrap_or_default()),
        page_size: sysconf(SysconfVar::PAGE_SIZE).ok().flatten().map_or(0, i64::cast_unsigned),
        cpus: available_parallelism().map_or(1, usize::from),
        trial: Some(trial()),
        dpu: dpu(),
        nvml: Some(nvml(Path::new(Nvml::LIBRARY))),
        ..Facts::default()
    }
}

/// What the configuration wants of the host.
fn wishes(facts: &mut Facts, config: &Config) {
    let backends = || config.vips.iter().flat_map(|vip| &vip.backends);
    facts.pin = config.daemon.pin.as_deref().map(pin);
    facts.wants_gpus = config.nvml.discover || backends().any(|backend| backend.gpus.is_some());
    facts.announces = config.vips.iter().any(|vip| vip.announce != Announce::None);
    facts.routes = config.vips.iter().any(|vip| matches!(vip.mode, ForwardMode::Nat { .. }));
    facts.overhead = config.vips.iter().map(overhead).max().unwrap_or(0);
    if config.nvml.library != Path::new(Nvml::LIBRARY) {
        facts.nvml = Some(nvml(&config.nvml.library));
    }
}

/// Loads the program as the daemon does, unpinned, and runs it on an empty frame, which is none of a VIP's.
fn trial() -> Result<String, String> {
    /// The least that Ethernet carries.
    const FRAME: [u8; 60] = [0; 60];
    let options = Options { pin: None, flow_slots: TRIAL_FLOWS, nat_sources: Vec::new() };
    let (kernel, _) = Kernel::load(&options).map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
    let (result, _) =
        kernel.test_run(&FRAME, 1).map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
    match result.return_value {
        XDP_PASS => Ok(kernel.build.name().to_owned()),
        verdict => Err(format!("a packet that is not ours got the verdict {verdict} in place of a pass")),
    }
}

/// The capabilities in effect, as `/proc/self/status` has them.
fn capabilities(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn nvml(library: &Path) -> Result<String, String> {
    let library = Library::open(library, Arc::new(Cost::default())).map_err(|error| error.to_string())?;
    Ok(library.versions().0.unwrap_or_else(|| "of unknown version".to_owned()))
}

/// What the machine is called, if it is a BlueField.
fn dpu() -> Option<String> {
    let names = ["/sys/class/dmi/id/product_name", "/proc/device-tree/model"];
    let names = names.into_iter().filter_map(|path| fs::read_to_string(path).ok());
    let trim = |name: String| name.trim_matches(['\0', '\n', ' ']).to_owned();
    names.map(trim).find(|name| name.contains("BlueField"))
}

fn pin(path: &Path) -> Pin {
    // What is not there yet is made in the nearest folder that is.
    let there = path.ancestors().find(|folder| folder.exists()).unwrap_or(path);
    Pin {
        path: path.display().to_string(),
        on_bpffs: statfs(there).is_ok_and(|system| system.filesystem_type() == BPF_FS_MAGIC),
        writable: access(there, AccessFlags::W_OK).is_ok(),
    }
}

fn overhead(vip: &Vip) -> u32 {
    let ForwardMode::Tunnel { encap } = vip.mode else { return 0 };
    let outer = |backend: &config::Backend| if backend.address.is_ipv4() { IPV4_HEADER } else { IPV6_HEADER };
    let gue = if encap == Encap::Gue { GUE_HEADERS } else { 0 };
    vip.backends.iter().map(outer).max().unwrap_or(0) + gue
}

fn look_at(port: &config::Interface, interfaces: &[Interface]) -> Port {
    let name = &port.name;
    let link = match interfaces.iter().find(|it| it.name == *name) {
        Some(found) => Ok(link(found, interfaces)),
        None => {
            let here: Vec<&str> = interfaces.iter().map(|it| it.name.as_str()).collect();
            Err(format!("it does not exist; interfaces here: {}", here.join(", ")))
        }
    };
    Port { name: name.clone(), mode: port.mode, link }
}

fn link(found: &Interface, all: &[Interface]) -> Link {
    let name = &found.name;
    let peer = found.peer.and_then(|index| all.iter().find(|other| other.index == index));
    Link {
        running: found.running,
        mtu: found.mtu,
        driver: found.driver.clone().or_else(|| found.kind.clone()).or_else(|| ethtool::driver(name)),
        queues: ethtool::queues(name),
        offloads: ethtool::offloads(name),
        rp_filter: rp_filter("all").max(rp_filter(name)),
        port_name: port_name(name),
        peer: peer.map(|peer| Peer {
            name: peer.name.clone(),
            leaves_checksums: ethtool::offloads(&peer.name)
                .map(|on| on.iter().any(|offload| offload == "tx-checksumming")),
        }),
    }
}

fn rp_filter(interface: &str) -> Option<u32> {
    number(&format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter"))
}

fn port_name(interface: &str) -> Option<String> {
    let name = fs::read_to_string(format!("/sys/class/net/{interface}/phys_port_name")).ok()?;
    Some(name.trim().to_owned())
}

fn number(path: &str) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

async fn backends(config: &Config) -> Vec<Backend> {
    let each = || config.vips.iter().flat_map(|vip| vip.backends.iter().map(move |backend| (vip, backend)));
    let table = ways(each().map(|(_, backend)| backend.address).collect()).await;
    let mut tasks = JoinSet::new();
    for (at, (vip, backend)) in each().enumerate() {
        let (name, address) = (backend.name.clone(), backend.address);
        let (hop, asked) = (table.as_ref().and_then(|table| hop(table, address)), services(vip, backend));
        tasks.spawn(async move {
            let mut answers = Vec::with_capacity(asked.len());
            for (role, authority) in asked {
                let answer = connect(&authority).await;
                answers.push(Service { role, authority, answer });
            }
            (at, Backend { name, address, hop, services: answers })
        });
    }
    let mut found = tasks.join_all().await;
    found.sort_by_key(|(at, _)| *at);
    found.into_iter().map(|(_, backend)| backend).collect()
}

/// How backends are reached, once the kernel has asked for each.
async fn ways(targets: Vec<IpAddr>) -> Option<Table> {
    let neighbours = Neighbours::start(targets.iter().copied()).ok()?;
    let mut table = neighbours.subscribe();
    let settled = |table: &Table| targets.iter().all(|target| table.get(target).is_some_and(is_settled));
    // Who has not answered by then is found in the table as it is.
    let _ = timeout(NEIGHBOUR_PATIENCE, table.wait_for(|table| settled(table))).await;
    let table = Table::clone(&table.borrow());
    Some(table)
}

fn is_settled(resolution: &Resolution) -> bool {
    !matches!(resolution, Resolution::Unresolved(Reason::NotLookedUp | Reason::Asking { .. }))
}

fn hop(table: &Table, address: IpAddr) -> Option<Result<(), String>> {
    Some(match table.get(&address)? {
        Resolution::Resolved(_) => Ok(()),
        Resolution::Unresolved(reason) => Err(reason.to_string()),
    })
}

/// What of a backend listens, each with host and port.
fn services(vip: &Vip, backend: &config::Backend) -> Vec<(Role, String)> {
    let own = vip.probe_address(backend).map(|address| (Role::Server, address.to_string()));
    let metrics = backend.metrics.as_ref().map(|target| (Role::Metrics, target.endpoint.url.host_and_port()));
    let exporter = backend.dcgm.as_ref().map(|target| (Role::Exporter, target.endpoint.url.host_and_port()));
    let agent = backend.agent.as_ref().map(|url| (Role::Agent, url.host_and_port()));
    own.into_iter().chain(metrics).chain(exporter).chain(agent).collect()
}

async fn connect(authority: &str) -> Result<(), String> {
    match timeout(CONNECT_PATIENCE, TcpStream::connect(authority)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer in {} s", CONNECT_PATIENCE.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::{capabilities, overhead};
    use crate::config::Config;

    #[test]
    fn the_capabilities_in_effect_are_read() {
        let status = "Name:\tguidevane\nCapPrm:\t0000000000000000\nCapEff:\t000001c000003000\nCapBnd:\t0\n";
        assert_eq!(capabilities(status), 0x1c0_0000_3000);
        assert_eq!(capabilities(""), 0);
    }

    #[test]
    fn a_tunnel_takes_what_its_outer_header_takes() {
        for (encap, address, expected) in [
            ("ip", "10.0.0.21", 20),
            ("gue", "10.0.0.21", 28),
            ("ip", "fd00::21", 40),
            ("gue", "fd00::21", 48),
        ] {
            let text = format!(
                "[tunnel]\nsource_v4 = \"172.16.0.0/16\"\nsource_v6 = \"fd00:1::/64\"\n[[interface]]\nname = \"eth0\"\n\
                 [[vip]]\nname = \"chat\"\naddress = \"10.0.0.10\"\nport = 80\nmode = \"tunnel\"\nencap = \"{encap}\"\n\
                 [[vip.backend]]\nname = \"gpu-0\"\naddress = \"{address}\"\n"
            );
            let config = Config::parse("lb.toml", &text).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(overhead(&config.vips[0]), expected, "{encap} to {address}");
        }
    }
}
