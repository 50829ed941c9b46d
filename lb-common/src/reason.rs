//! What became of a packet: one list of reasons, counted per CPU, named the same in code, CLI and metrics.

/// What the program did with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Sent on to a backend or back to a client.
    Forward,
    /// Answered by the program itself.
    Answer,
    /// Left to the host's own stack, untouched.
    Pass,
    /// Dropped.
    Drop,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $action:ident;)*) => {
        /// Why a packet went where it went. Its number is its place in a VIP's run of `REASONS_SEEN`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// All reasons by their number.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name in the CLI and in metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// From its number; none for other numbers.
            pub fn from_number(number: u8) -> Option<Self> {
                Self::ALL.get(number as usize).copied()
            }

            /// What was done with the packet.
            #[inline(always)]
            pub const fn action(self) -> Action {
                match self { $(Self::$name => Action::$action,)* }
            }
        }
    };
}

reasons! {
    /// A packet of a flow in the table.
    Established = "established", Forward;
    /// A new flow was entered in the table.
    NewFlow = "new_flow", Forward;
    /// A new flow went out, but other CPUs took its place in the table several times over: it is not in there.
    Untracked = "untracked", Forward;
    /// A TCP segment of no known flow, sent where the Maglev table sends it.
    Unknown = "unknown_flow", Forward;
    /// A server's packet on its way back to the client (`nat`).
    Returned = "returned", Forward;
    /// A later fragment, sent after its first.
    Fragment = "fragment", Forward;
    /// A QUIC datagram whose connection ID names its server.
    ConnectionId = "connection_id", Forward;
    /// An ICMP error about a flow's packet, sent to the flow's backend.
    IcmpError = "icmp_error", Forward;
    /// An ICMP error about a packet to a `nat` backend, sent on to the client.
    IcmpErrorReturned = "icmp_error_returned", Forward;
    /// An ARP request for a VIP.
    Arp = "arp", Answer;
    /// A neighbour solicitation for a VIP.
    Neighbour = "neighbour_solicitation", Answer;
    /// An ICMP echo request for a VIP.
    Echo = "echo", Answer;
    /// Too big for the tunnel: the client is told what fits.
    TooBig = "too_big", Answer;
    /// Neither IPv4 nor IPv6, or not for a VIP.
    NotOurs = "not_ours", Pass;
    /// Too short, or not what its EtherType says: there is no telling whom it is for.
    Unreadable = "unreadable", Pass;
    /// For a VIP's address, but neither TCP, UDP nor ICMP that the program has an answer to.
    OtherProtocol = "other_protocol", Pass;
    /// For a VIP, with a header cut short.
    Truncated = "truncated", Drop;
    /// A later fragment for a VIP whose first was not seen in the last two seconds.
    FragmentUnknown = "fragment_unknown", Drop;
    /// Too big for the tunnel, and of a kind that no ICMP error may be sent about (RFC 1122 section 3.2.2).
    TooBigUnanswered = "too_big_unanswered", Drop;
    /// The TTL or hop limit ran out.
    TtlExpired = "ttl_expired", Drop;
    /// No backend can take the flow: all are down, draining or without a next hop.
    NoBackend = "no_backend", Drop;
    /// The flow's backend has no next hop.
    NoNextHop = "no_next_hop", Drop;
    /// A TCP segment of no known flow for a `nat` VIP: nothing could translate the answer.
    UnknownNat = "unknown_flow_nat", Drop;
    /// A new flow of a one-armed `nat` VIP, and none of its source ports is free.
    NoPort = "no_port", Drop;
    /// A map look-up that cannot fail failed.
    Internal = "internal_error", Drop;
}

/// Elements of `REASONS_SEEN` for each VIP; room for reasons to come.
pub const REASONS: usize = 64;
const _: () = assert!(Reason::ALL.len() <= REASONS);
