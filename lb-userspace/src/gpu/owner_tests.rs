use std::{
    collections::{HashMap, HashSet},
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::symlink,
    path::Path,
    process::{self, Command},
};

use super::{Processes, parse_fib_trie, parse_if_inet6, parse_ip, parse_listeners};
use crate::signals::Key;

const TCP: &str =
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

/// A line of `/proc/net/tcp` for a listener on port 8000.
fn listener(address: &str, inode: u64) -> String {
    format!(
        "{TCP}   0: {address}:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0  0 {inode} 1 0\n"
    )
}

/// An address as the kernel prints it on this machine.
fn words(address: Ipv4Addr) -> String {
    format!("{:08X}", u32::from_ne_bytes(address.octets()))
}

struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    /// A process in a namespace that has the address 10.0.0.`host`, with open sockets.
    fn process(&self, pid: u32, parent: u32, host: u8, tcp: &str, sockets: &[u64]) {
        let folder = self.root().join(pid.to_string());
        fs::create_dir_all(folder.join("net")).expect("make a folder");
        fs::create_dir_all(folder.join("ns")).expect("make a folder");
        fs::create_dir_all(folder.join("fd")).expect("make a folder");
        let write = |file: &str, text: &str| fs::write(folder.join(file), text).expect("write a file");
        write("stat", &format!("{pid} (a) name) S {parent} 1 1"));
        write("net/tcp", tcp);
        write(
            "net/fib_trie",
            &format!("Local:\n  |-- 10.0.0.{host}\n     /32 host LOCAL\n  |-- 10.0.0.255\n"),
        );
        symlink(format!("net:[{host}]"), folder.join("ns/net")).expect("make a link");
        for (number, inode) in sockets.iter().enumerate() {
            symlink(format!("socket:[{inode}]"), folder.join(format!("fd/{number}"))).expect("make a link");
        }
    }
}

fn owners(processes: &mut Processes, servers: &[(&str, &str)]) -> HashMap<String, HashSet<u32>> {
    let addresses: Vec<(Key, [SocketAddr; 1])> = servers
        .iter()
        .map(|(name, address)| (Key::from(*name), [address.parse().expect("an address")]))
        .collect();
    let servers: Vec<(Key, &[SocketAddr])> =
        addresses.iter().map(|(key, address)| (Key::clone(key), &address[..])).collect();
    processes.owners(&servers).into_iter().map(|(key, pids)| (key.to_string(), pids)).collect()
}

#[test]
fn a_server_is_found_in_its_own_namespace_with_all_it_started() {
    let host = Host::new();
    let any = |inode| listener("00000000", inode);
    host.process(10, 1, 1, &any(100), &[100, 7]);
    host.process(11, 10, 1, &any(100), &[]);
    host.process(12, 11, 1, &any(100), &[]);
    host.process(20, 1, 2, &any(200), &[200]);
    host.process(30, 1, 2, &any(200), &[8]);
    let mut processes = Processes::under(host.root());
    let servers =
        [("a", "10.0.0.1:8000"), ("b", "10.0.0.2:8000"), ("far", "10.0.0.3:8000"), ("c", "10.0.0.1:80")];
    let found = owners(&mut processes, &servers);
    let expected = [("a".to_owned(), HashSet::from([10, 11, 12])), ("b".to_owned(), HashSet::from([20]))];
    assert_eq!(found, HashMap::from(expected));

    // A child more: nobody looks at open files again.
    host.process(21, 20, 2, &any(200), &[]);
    fs::remove_dir_all(host.root().join("20/fd")).expect("remove a folder");
    assert_eq!(owners(&mut processes, &servers)["b"], HashSet::from([20, 21]));
    // Another socket: it belongs to another process.
    host.process(40, 1, 2, "", &[300]);
    for pid in [20, 21, 30] {
        fs::write(host.root().join(format!("{pid}/net/tcp")), any(300)).expect("write a file");
    }
    fs::write(host.root().join("40/net/tcp"), any(300)).expect("write a file");
    assert_eq!(owners(&mut processes, &servers)["b"], HashSet::from([40]));
}

#[test]
fn a_listener_on_one_address_goes_before_one_on_all() {
    let host = Host::new();
    let own = listener(&words(Ipv4Addr::new(10, 0, 0, 1)), 101);
    let all = own.clone() + listener("00000000", 102).strip_prefix(TCP).expect("a header");
    host.process(10, 1, 1, &all, &[101]);
    host.process(20, 1, 1, &all, &[102]);
    let found = owners(&mut Processes::under(host.root()), &[("a", "10.0.0.1:8000")]);
    assert_eq!(found["a"], HashSet::from([10]));
}

#[test]
fn the_kernels_own_files_are_understood() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind loopback");
    let address = listener.local_addr().expect("bound").to_string();
    let mut child = Command::new("sleep").arg("60").spawn().expect("start a child");
    let found = owners(&mut Processes::here(), &[("own", &address)]);
    child.kill().expect("end the child");
    child.wait().expect("the child ends");
    let own = found.get("own").unwrap_or_else(|| panic!("nobody listens on {address}"));
    assert!(own.contains(&process::id()) && own.contains(&child.id()), "{own:?}");
}

#[test]
fn addresses_are_read_as_the_kernel_writes_them() {
    let line = listener(&words(Ipv4Addr::new(127, 0, 0, 1)), 42);
    let found = parse_listeners(&line);
    assert_eq!((found[0].address, found[0].inode), ("127.0.0.1:8000".parse().unwrap(), 42));
    assert_eq!(parse_listeners(&line.replace(" 0A ", " 01 ")), [], "an open connection");
    for junk in ["", "x", "0: junk", "0: 0100007F:XX 0:0 0A 0 0 0 0 0 1", "0: 0100:1F40 0:0 0A 0 0 0 0 0 1"] {
        assert_eq!(parse_listeners(&format!("{TCP}{junk}\n")), [], "{junk}");
    }
    let mapped = ["0000000000000000", "0000FFFF", "0100007F"].concat();
    if cfg!(target_endian = "little") {
        let mapped = mapped.replace("0000FFFF", "FFFF0000");
        assert_eq!(parse_ip(&mapped), Some(IpAddr::from([127, 0, 0, 1])));
    }
    assert_eq!(
        parse_if_inet6("fe800000000000000000000000000001 02 40 20 80 eth0\n"),
        ["fe80::1".parse::<IpAddr>().unwrap()]
    );
    let trie = "Main:\n  |-- 10.0.0.0\n     /24 link UNICAST\n  |-- 10.0.0.7\n     /32 host LOCAL\n";
    assert_eq!(parse_fib_trie(trie), ["10.0.0.7".parse::<IpAddr>().unwrap()]);
}
