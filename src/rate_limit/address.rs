//! Who a request comes from, as far as it cannot choose that itself.
//!
//! Each proxy appends the address that it was asked from to X-Forwarded-For. So the entries that our own proxies wrote are the
//! last ones, and what stands left of them is whatever the client sent.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of an entry; more is no address. A zone has at most 16, a port 5.
const MAX_ENTRY: usize = 128;

/// Which proxies wrote what arrives here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trust {
    /// How many proxies of our own append to X-Forwarded-For; with 0 it is not looked at.
    pub hops: u32,
    /// Whether the proxy in front of us replaces X-Real-IP. It counts before X-Forwarded-For then.
    pub real_ip: bool,
}

/// Whoever shares a count. `Display` is its part of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Client {
    V4(Ipv4Addr),
    /// The first 64 bits: a household has all of the rest, and more addresses than anybody could count.
    V6(u64),
    /// Nobody knows. All of these are one.
    Unknown,
}

/// The client of a request with these headers, which came by a connection from `socket`. Several headers of one name are
/// joined by commas, as `node:http` does it.
///
/// Only the entry that counts is read. One that is no address means the socket's: going on to its left would let the client
/// choose. For the same reason empty entries count as entries, and X-Real-IP, where it is trusted and there, is the only one read.
pub fn client(forwarded: Option<&str>, real_ip: Option<&str>, socket: Option<&str>, trust: Trust) -> Client {
    let entry = match real_ip {
        Some(real_ip) if trust.real_ip => Some(real_ip),
        _ => forwarded.and_then(|forwarded| entry(forwarded, trust.hops)),
    };
    let known = |text: Option<&str>| text.and_then(address).map(Client::of);
    known(entry).or_else(|| known(socket)).unwrap_or(Client::Unknown)
}

/// The entry that the outermost of `hops` proxies wrote. A list splits from its right as far as that, and no further.
fn entry(forwarded: &str, hops: u32) -> Option<&str> {
    let inner = usize::try_from(hops.checked_sub(1)?).ok()?;
    forwarded.rsplit(',').nth(inner)
}

/// `192.0.2.1`, `2001:db8::1`, `[2001:db8::1]`, `fe80::1%eth0`, and each of them with a port behind it.
fn address(entry: &str) -> Option<IpAddr> {
    if entry.len() > MAX_ENTRY {
        return None;
    }
    let entry = entry.trim_ascii();
    if let Some(rest) = entry.strip_prefix('[') {
        let (inside, port) = rest.split_once(']')?;
        return (port.is_empty() || port.strip_prefix(':').is_some_and(is_port)).then(|| v6(inside).map(IpAddr::V6))?;
    }
    // As a whole first: the end of an IPv6 address looks like a port.
    bare(entry).or_else(|| {
        let (address, port) = entry.rsplit_once(':')?;
        is_port(port).then(|| bare(address))?
    })
}

fn bare(text: &str) -> Option<IpAddr> {
    text.parse().ok().map(IpAddr::V4).or_else(|| v6(text).map(IpAddr::V6))
}

/// An IPv6 address. Its zone only means something on the machine that wrote it.
fn v6(text: &str) -> Option<Ipv6Addr> {
    let address = text.split_once('%').map_or(text, |(address, _zone)| address);
    address.parse().ok()
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

impl Client {
    /// An IPv4 client stays the same however it is written: mapped (RFC 4291, 2.5.5.2) by a socket that listens for both,
    /// embedded (RFC 6052, 2.1) by NAT64, which would otherwise put the whole of IPv4 into one /64.
    fn of(address: IpAddr) -> Self {
        let address = match address {
            IpAddr::V4(address) => return Self::V4(address),
            IpAddr::V6(address) => address,
        };
        let embedded = match address.octets() {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4 @ ..] => v4,
            [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, v4 @ ..] => v4,
            [a, b, c, d, e, f, g, h, ..] => return Self::V6(u64::from_be_bytes([a, b, c, d, e, f, g, h])),
        };
        Self::V4(embedded.into())
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ip:")?;
        match self {
            Self::V4(address) => address.fmt(f),
            Self::V6(network) => write!(f, "{}/64", Ipv6Addr::from_bits(u128::from(*network) << 64)),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SOCKET: &str = "192.0.2.200";
    const SOCKET_KEY: &str = "ip:192.0.2.200";

    fn hops(hops: u32) -> Trust {
        Trust { hops, real_ip: false }
    }

    fn key(forwarded: &str, trust: Trust) -> String {
        client(Some(forwarded), None, Some(SOCKET), trust).to_string()
    }

    #[test]
    fn each_way_to_write_an_address() {
        for (written, expected) in [
            ("192.0.2.1", "ip:192.0.2.1"),
            (" \t192.0.2.1 ", "ip:192.0.2.1"),
            ("192.0.2.1:5678", "ip:192.0.2.1"),
            ("192.0.2.1:0", "ip:192.0.2.1"),
            ("2001:db8:0:1::1", "ip:2001:db8:0:1::/64"),
            ("2001:DB8:0000:0001:ffff:ffff:ffff:ffff", "ip:2001:db8:0:1::/64"),
            ("2001:db8::1", "ip:2001:db8::/64"),
            ("[2001:db8:0:1::1]", "ip:2001:db8:0:1::/64"),
            ("[2001:db8:0:1::1]:443", "ip:2001:db8:0:1::/64"),
            ("2001:db8:0:1:2:3:4:5:443", "ip:2001:db8:0:1::/64"),
            ("fe80::1%eth0", "ip:fe80::/64"),
            ("[fe80::1%eth0]:443", "ip:fe80::/64"),
            ("::1", "ip:::/64"),
            ("::ffff:192.0.2.1", "ip:192.0.2.1"),
            ("::ffff:c000:201", "ip:192.0.2.1"),
            ("::FFFF:192.0.2.1:5678", "ip:192.0.2.1"),
            ("[::ffff:192.0.2.1]:5678", "ip:192.0.2.1"),
            ("64:ff9b::192.0.2.1", "ip:192.0.2.1"),
            ("64:ff9b::c000:201", "ip:192.0.2.1"),
            ("64:ff9b:0:0:1::c000:201", "ip:64:ff9b::/64"),
        ] {
            assert_eq!(key(written, hops(1)), expected, "{written}");
            let by_socket = client(None, None, Some(written), hops(1));
            assert_eq!(by_socket.to_string(), expected, "{written}");
        }
    }

    #[test]
    fn what_is_no_address_is_the_sockets() {
        let long = "1".repeat(70_000);
        let padded = format!("192.0.2.1{}", " ".repeat(MAX_ENTRY));
        for garbage in [
            "",
            " ",
            "unknown",
            "_hidden",
            "unix:",
            "localhost",
            "192.0.2",
            "192.0.2.256",
            "192.0.02.1",
            "192.0.2.1:",
            "192.0.2.1:+80",
            "192.0.2.1:65536",
            "192.0.2.1:x",
            "192.0.2.1%eth0",
            "[192.0.2.1]",
            "[2001:db8::1",
            "2001:db8::1]",
            "[2001:db8::1]443",
            "[2001:db8::1]:",
            "[]",
            "[",
            ":",
            "::1::",
            "%",
            "1:2:3:4:5:6:7:8:9:10",
            "\"192.0.2.1\"",
            "192.0.2.1;",
            "192.0.2.1 198.51.100.1",
            "1.1.1.1\u{a0}",
            "\0",
            "１.1.1.1",
            long.as_str(),
            padded.as_str(),
        ] {
            assert_eq!(key(garbage, hops(1)), SOCKET_KEY, "{garbage:.40}");
            assert_eq!(key(&format!("198.51.100.1,{garbage}"), hops(1)), SOCKET_KEY, "{garbage:.40}");
            assert_eq!(key(&format!("198.51.100.1,{garbage},198.51.100.2"), hops(2)), SOCKET_KEY, "{garbage:.40}");
        }
    }

    #[test]
    fn the_entry_is_counted_from_the_right() {
        let list = "198.51.100.1, 198.51.100.2,198.51.100.3";
        for (trusted, expected) in [(1, "ip:198.51.100.3"), (2, "ip:198.51.100.2"), (3, "ip:198.51.100.1")] {
            assert_eq!(key(list, hops(trusted)), expected);
        }
        for trusted in [0, 4, u32::MAX] {
            assert_eq!(key(list, hops(trusted)), SOCKET_KEY, "{trusted} hops");
        }
        assert_eq!(key("198.51.100.1,,", hops(3)), "ip:198.51.100.1", "an empty entry is an entry");
    }

    #[test]
    fn without_any_address_all_share_one_key() {
        let nobody = |forwarded, socket, trusted| client(forwarded, None, socket, hops(trusted)).to_string();
        assert_eq!(nobody(None, None, 1), "ip:unknown");
        assert_eq!(nobody(Some("198.51.100.1"), None, 0), "ip:unknown");
        assert_eq!(nobody(Some("unknown"), Some("@"), 1), "ip:unknown");
        assert_eq!(nobody(None, Some("::ffff:192.0.2.200"), 1), SOCKET_KEY);
    }

    #[test]
    fn the_real_ip_counts_only_where_it_is_trusted() {
        let both = |real_ip, trust| client(Some("198.51.100.1"), real_ip, Some(SOCKET), trust).to_string();
        let trusted = Trust { hops: 1, real_ip: true };
        assert_eq!(both(Some("203.0.113.1"), hops(1)), "ip:198.51.100.1");
        assert_eq!(both(Some("203.0.113.1"), hops(0)), SOCKET_KEY);
        assert_eq!(both(Some("203.0.113.1"), trusted), "ip:203.0.113.1");
        assert_eq!(both(Some("203.0.113.1"), Trust { hops: 0, real_ip: true }), "ip:203.0.113.1");
        assert_eq!(both(None, trusted), "ip:198.51.100.1");
        for unreadable in ["", "unknown", "203.0.113.2, 203.0.113.1"] {
            assert_eq!(both(Some(unreadable), trusted), SOCKET_KEY, "nobody else is asked: {unreadable}");
        }
    }

    #[test]
    fn two_mapped_clients_are_two() {
        assert_ne!(key("::ffff:192.0.2.1", hops(1)), key("::ffff:192.0.2.2", hops(1)));
        assert_ne!(key("64:ff9b::192.0.2.1", hops(1)), key("64:ff9b::192.0.2.2", hops(1)));
    }

    /// In time that grows with the square this would take minutes.
    #[test]
    fn a_huge_header_is_read_once_at_most() {
        let (commas, text) = (",".repeat(65_536), "x".repeat(65_536));
        for _ in 0..100 {
            for trusted in [1, 2, 3, 40_000, 65_537, u32::MAX] {
                assert_eq!(key(&commas, hops(trusted)), SOCKET_KEY);
                assert_eq!(key(&text, hops(trusted)), SOCKET_KEY);
            }
            assert_eq!(key(&format!("{commas}198.51.100.1"), hops(1)), "ip:198.51.100.1");
            assert_eq!(key(&format!("{text},198.51.100.1,192.0.2.3"), hops(2)), "ip:198.51.100.1");
        }
    }

    /// Any text, or one that is nearly a header: separators and pieces of addresses in any order.
    fn forged() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just(","),
            Just(", "),
            Just(" "),
            Just(":"),
            Just("::"),
            Just("["),
            Just("]"),
            Just("%"),
            Just("."),
            Just("\""),
            Just(";"),
            Just("\r\n"),
            Just("\0"),
            Just("unknown"),
            Just("_hidden"),
            Just("198.51.100.1"),
            Just("2001:db8::1"),
            Just("::ffff:198.51.100.1"),
            Just("64:ff9b::1.2.3.4"),
            Just("[2001:db8::1]:443"),
            Just(":443"),
            Just("%eth0"),
        ];
        prop_oneof![
            any::<String>(),
            prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat()),
            "[0-9a-f:.,\\[\\]% ]{0,60}",
        ]
    }

    fn any_address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())),
            any::<u128>().prop_map(|bits| IpAddr::V6(bits.into())),
            any::<u32>().prop_map(|bits| IpAddr::V6(Ipv4Addr::from(bits).to_ipv6_mapped())),
        ]
    }

    /// What proxies write, of the address that they were asked from.
    fn written(address: IpAddr, way: u8) -> String {
        match (address, way % 4) {
            (_, 0) => address.to_string(),
            (IpAddr::V4(_), _) => format!("{address}:{}", 1024 + u16::from(way)),
            (IpAddr::V6(_), 1) => format!("[{address}]"),
            (IpAddr::V6(_), 2) => format!("[{address}]:{}", 1024 + u16::from(way)),
            (IpAddr::V6(_), _) => format!("{address}%eth{way}").to_uppercase(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn what_the_client_sends_never_moves_its_key(
            forged in forged(),
            real_ip in prop::option::of(forged()),
            address in any_address(),
            proxies in prop::collection::vec(any_address(), 3),
            way in any::<u8>(),
            trusted in 1..=3_usize,
            space in any::<bool>(),
        ) {
            // Each proxy appends who asked it; the last one is the socket that we see.
            let separator = if space { ", " } else { "," };
            let asked = std::iter::once(address).chain(proxies.iter().copied()).take(trusted);
            let appended: Vec<_> = asked.map(|address| written(address, way)).collect();
            let honest = appended.join(separator);
            let forged = [forged, honest.clone()].join(separator);
            let socket = proxies[trusted - 1].to_string();
            let trust = hops(u32::try_from(trusted).unwrap());
            let found = client(Some(&forged), real_ip.as_deref(), Some(&socket), trust);
            prop_assert_eq!(found, Client::of(address));
            prop_assert_eq!(found, client(Some(&honest), None, Some(&socket), trust));
            let direct = client(Some(&forged), real_ip.as_deref(), Some(&written(address, way)), hops(0));
            prop_assert_eq!(direct, Client::of(address));
        }

        #[test]
        fn whoever_rotates_within_a_64_stays_one(network in any::<u64>(), hosts in prop::array::uniform2(any::<u64>())) {
            let network = network | 0x2000_0000_0000_0000; // where addresses are given out, far from those that hold IPv4
            let keys = hosts.map(|host| key(&Ipv6Addr::from_bits(u128::from(network) << 64 | u128::from(host)).to_string(), hops(1)));
            prop_assert_eq!(&keys[0], &keys[1]);
            let neighbour = Ipv6Addr::from_bits(u128::from(network ^ 1) << 64 | u128::from(hosts[0]));
            prop_assert_ne!(&keys[0], &key(&neighbour.to_string(), hops(1)));
        }

        #[test]
        fn different_ipv4_clients_have_different_keys(a in any::<u32>(), b in any::<u32>(), ways in any::<[bool; 2]>()) {
            let written = |bits: u32, mapped| {
                let address = Ipv4Addr::from(bits);
                if mapped { address.to_ipv6_mapped().to_string() } else { address.to_string() }
            };
            let keys = [key(&written(a, ways[0]), hops(1)), key(&written(b, ways[1]), hops(1))];
            prop_assert_eq!(a == b, keys[0] == keys[1]);
        }

        #[test]
        fn anything_gives_one_short_canonical_key(
            headers in prop::array::uniform3(prop::option::of(forged())),
            trusted in prop_oneof![0..5_u32, any::<u32>()],
            real_ip in any::<bool>(),
        ) {
            let [forwarded, real, socket] = headers.each_ref().map(Option::as_deref);
            let found = client(forwarded, real, socket, Trust { hops: trusted, real_ip });
            let text = found.to_string();
            prop_assert!(text.len() <= 3 + 39 + 3);
            let address = text.strip_prefix("ip:").unwrap();
            match found {
                Client::V4(v4) => prop_assert_eq!(address.parse::<Ipv4Addr>().unwrap(), v4),
                Client::V6(network) => {
                    let first = address.strip_suffix("/64").unwrap().parse::<Ipv6Addr>().unwrap();
                    prop_assert_eq!(first.to_bits(), u128::from(network) << 64);
                }
                Client::Unknown => prop_assert_eq!(address, "unknown"),
            }
        }
    }
}
