//! The processes behind a backend's port, read from `/proc`: whoever listens there, and its children.
//!
//! Servers mostly run in containers, so every network namespace that a process lives in is looked at.

use std::{
    collections::{HashMap, HashSet},
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    str::FromStr as _,
};

use crate::signals::Key;

/// State of a listening socket in `/proc/net/tcp`: `TCP_LISTEN`.
const LISTEN: &str = "0A";

/// The processes of a host.
#[derive(Debug)]
pub struct Processes {
    root: PathBuf,
    /// Who holds the listening sockets that were found last, by inode: finding them means looking at every open file.
    holders: HashMap<u64, Vec<u32>>,
}

/// A socket that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Listener {
    address: SocketAddr,
    inode: u64,
}

#[derive(Clone, Copy, Debug)]
struct Process {
    pid: u32,
    parent: u32,
}

impl Processes {
    /// Of this host.
    pub fn here() -> Self {
        Self::under("/proc")
    }

    /// As a directory says that is laid out like `/proc`.
    pub fn under(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), holders: HashMap::new() }
    }

    /// The processes of each server that is found: what listens on one of its addresses, or on all of a host that has
    /// the first of them, and everything that it started.
    pub fn owners(&mut self, servers: &[(Key, &[SocketAddr])]) -> HashMap<Key, HashSet<u32>> {
        let processes = self.processes();
        let found = self.listeners(&processes, servers);
        let inodes: HashSet<u64> = found.values().flatten().copied().collect();
        let alive: HashSet<u32> = processes.iter().map(|process| process.pid).collect();
        let left = |pids: &Vec<u32>| pids.iter().any(|pid| !alive.contains(pid));
        if inodes != self.holders.keys().copied().collect() || self.holders.values().any(left) {
            self.holders = self.find_holders(&processes, &inodes);
        }
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for process in &processes {
            children.entry(process.parent).or_default().push(process.pid);
        }
        let owner = |inodes: Vec<u64>| {
            let holders = inodes.iter().filter_map(|inode| self.holders.get(inode)).flatten();
            with_descendants(holders.copied(), &children)
        };
        let owners = found.into_iter().map(|(key, inodes)| (key, owner(inodes)));
        owners.filter(|(_, pids)| !pids.is_empty()).collect()
    }

    fn processes(&self) -> Vec<Process> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter_map(|pid| Some(Process { pid, parent: self.parent(pid)? })).collect()
    }

    fn parent(&self, pid: u32) -> Option<u32> {
        // The name of the program, in parentheses, may hold anything.
        let stat = self.read(pid, "stat");
        let (_, after_name) = stat.rsplit_once(')')?;
        after_name.split_whitespace().nth(1)?.parse().ok()
    }

    /// Listening sockets of each server, by inode.
    fn listeners(&self, processes: &[Process], servers: &[(Key, &[SocketAddr])]) -> HashMap<Key, Vec<u64>> {
        let ports: HashSet<u16> =
            servers.iter().flat_map(|(_, addresses)| addresses.iter().map(SocketAddr::port)).collect();
        let (mut exact, mut wildcard): (HashMap<Key, Vec<u64>>, HashMap<Key, Vec<u64>>) = Default::default();
        for pid in self.namespaces(processes) {
            let listeners: Vec<Listener> = ["net/tcp", "net/tcp6"]
                .iter()
                .flat_map(|file| parse_listeners(&self.read(pid, file)))
                .filter(|listener| ports.contains(&listener.address.port()))
                .collect();
            if listeners.is_empty() {
                continue;
            }
            let local = self.local_addresses(pid);
            for (key, addresses) in servers {
                for listener in &listeners {
                    let on_all = listener.address.ip().is_unspecified()
                        && addresses.first().is_some_and(|own| {
                            own.port() == listener.address.port() && local.contains(&own.ip())
                        });
                    let place = match (addresses.contains(&listener.address), on_all) {
                        (true, _) if local.contains(&listener.address.ip()) => &mut exact,
                        (_, true) => &mut wildcard,
                        _ => continue,
                    };
                    place.entry(Key::clone(key)).or_default().push(listener.inode);
                }
            }
        }
        // Who listens on all addresses gets no connection for one that somebody else listens on.
        wildcard.extend(exact);
        wildcard
    }

    /// A process in each network namespace.
    fn namespaces(&self, processes: &[Process]) -> Vec<u32> {
        let mut seen = HashSet::new();
        let link = |pid: u32| fs::read_link(self.root.join(format!("{pid}/ns/net"))).ok();
        let first = |pid: &u32| link(*pid).is_some_and(|namespace| seen.insert(namespace));
        processes.iter().map(|process| process.pid).filter(first).collect()
    }

    fn local_addresses(&self, pid: u32) -> HashSet<IpAddr> {
        let v4 = parse_fib_trie(&self.read(pid, "net/fib_trie"));
        v4.into_iter().chain(parse_if_inet6(&self.read(pid, "net/if_inet6"))).collect()
    }

    fn find_holders(&self, processes: &[Process], inodes: &HashSet<u64>) -> HashMap<u64, Vec<u32>> {
        let mut holders: HashMap<u64, Vec<u32>> = inodes.iter().map(|inode| (*inode, Vec::new())).collect();
        for Process { pid, .. } in processes {
            let files = fs::read_dir(self.root.join(format!("{pid}/fd"))).into_iter().flatten().flatten();
            for link in files.filter_map(|file| fs::read_link(file.path()).ok()) {
                let inode = link.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']'));
                let inode = inode.and_then(|number| number.parse().ok());
                if let Some(pids) = inode.and_then(|inode: u64| holders.get_mut(&inode)) {
                    pids.push(*pid);
                }
            }
        }
        holders
    }

    fn read(&self, pid: u32, file: &str) -> String {
        // Processes end at any moment, and not all may be looked at.
        fs::read_to_string(self.root.join(format!("{pid}/{file}"))).unwrap_or_default()
    }
}

fn with_descendants(roots: impl Iterator<Item = u32>, children: &HashMap<u32, Vec<u32>>) -> HashSet<u32> {
    let (mut found, mut open) = (HashSet::new(), roots.collect::<Vec<_>>());
    while let Some(pid) = open.pop() {
        if found.insert(pid) {
            open.extend(children.get(&pid).into_iter().flatten());
        }
    }
    found
}

/// The listening sockets in `/proc/net/tcp` or `tcp6`.
fn parse_listeners(text: &str) -> Vec<Listener> {
    let listener = |line: &str| {
        let mut fields = line.split_whitespace();
        let (local, state) = (fields.nth(1)?, fields.nth(1)?);
        let inode = fields.nth(5)?.parse().ok()?;
        let (ip, port) = local.split_once(':')?;
        let address = SocketAddr::new(parse_ip(ip)?, u16::from_str_radix(port, 16).ok()?);
        (state == LISTEN).then_some(Listener { address, inode })
    };
    text.lines().skip(1).filter_map(listener).collect()
}

/// An address as these files have it: 32-bit words in the host's order.
fn parse_ip(text: &str) -> Option<IpAddr> {
    let words = text.as_bytes().chunks(8).map(|word| {
        let word = str::from_utf8(word).ok().filter(|word| word.len() == 8)?;
        u32::from_str_radix(word, 16).ok().map(u32::to_ne_bytes)
    });
    let words: Vec<[u8; 4]> = words.collect::<Option<_>>()?;
    match words.as_slice() {
        [v4] => Some(Ipv4Addr::from(*v4).into()),
        [a, b, c, d] => {
            let mut octets = [0; 16];
            for (place, word) in octets.chunks_mut(4).zip([a, b, c, d]) {
                place.copy_from_slice(word);
            }
            Some(Ipv6Addr::from(octets).to_canonical())
        }
        _ => None,
    }
}

/// The namespace's own IPv4 addresses, from its routing table.
fn parse_fib_trie(text: &str) -> Vec<IpAddr> {
    let (mut local, mut last) = (Vec::new(), None);
    for line in text.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = IpAddr::from_str(address).ok();
        } else if line.starts_with("/32 host LOCAL") {
            local.extend(last);
        }
    }
    local
}

/// The namespace's own IPv6 addresses.
fn parse_if_inet6(text: &str) -> Vec<IpAddr> {
    let address = |line: &str| u128::from_str_radix(line.split_whitespace().next()?, 16).ok();
    text.lines().filter_map(|line| Some(Ipv6Addr::from(address(line)?).into())).collect()
}

#[cfg(test)]
#[path = "owner_tests.rs"]
mod tests;
