//! Which of a cluster's servers has which keys.

use crate::redis_url::Address;
use crate::redis_value::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Keys are spread over so many slots, and slots over servers.
pub const SLOTS: u16 = 16384;

/// The polynomial of the specification. <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>
const CRC: crc::Crc<u16> = crc::Crc::<u16>::new(&crc::CRC_16_XMODEM);

/// Stands for the index of a shard in place of one that nobody has.
const NOBODY: u16 = u16::MAX;

/// The slot of a key: that of its `{tag}`, if it has one that is not empty.
pub fn slot(key: &[u8]) -> u16 {
    CRC.checksum(tag(key).unwrap_or(key)) % SLOTS
}

fn tag(key: &[u8]) -> Option<&[u8]> {
    let begin = key.iter().position(|byte| *byte == b'{')? + 1;
    let length = key[begin..].iter().position(|byte| *byte == b'}')?;
    (length > 0).then(|| &key[begin..begin + length])
}

/// A primary that has slots, and who copies it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shard {
    primary: Address,
    /// In the order of addresses.
    replicas: Vec<Address>,
}

/// Who has which slot, as one server of the cluster sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotMap {
    /// Those that have slots, in the order of their addresses, so that equal maps are the same.
    shards: Vec<Shard>,
    /// Of each slot, the index of its shard.
    owners: Box<[u16]>,
}

impl SlotMap {
    /// Reads the reply to `CLUSTER SLOTS` of the server at `asked`; `None` if it is something else.
    ///
    /// A server that is asked may leave out its own host, and one of unknown host (`?`), or without a port for this way to
    /// connect, is none that could be talked to.
    pub fn read(reply: &Value, asked: &Address) -> Option<Self> {
        let mut shards: BTreeMap<Address, BTreeSet<Address>> = BTreeMap::new();
        let mut ranges = Vec::new();
        for range in reply.as_array()? {
            let [Value::Int(first), Value::Int(last), primary, replicas @ ..] = range.as_array()? else { return None };
            let (first, last) = (slot_number(*first)?, slot_number(*last)?);
            let Node::At(primary) = node(primary, asked)? else { continue };
            let known = shards.entry(primary.clone()).or_default();
            for replica in replicas {
                if let Node::At(replica) = node(replica, asked)? {
                    known.insert(replica);
                }
            }
            ranges.push((first, last, primary));
        }
        let shards: Vec<_> = shards
            .into_iter()
            .map(|(primary, replicas)| Shard { primary, replicas: replicas.into_iter().collect() })
            .collect();
        let mut owners = vec![NOBODY; usize::from(SLOTS)].into_boxed_slice();
        for (first, last, primary) in ranges {
            let index = u16::try_from(place(&shards, &primary).ok()?).ok()?;
            let part = owners.get_mut(usize::from(first)..=usize::from(last))?;
            if part.iter().any(|owner| *owner != NOBODY) {
                return None;
            }
            part.fill(index);
        }
        Some(Self { shards, owners })
    }

    /// Who has a slot.
    pub fn primary(&self, slot: u16) -> Option<&Address> {
        let index = self.owners.get(usize::from(slot))?;
        Some(&self.shards.get(usize::from(*index))?.primary)
    }

    /// The replicas of a primary, in the order of their addresses.
    pub fn replicas(&self, of: &Address) -> &[Address] {
        place(&self.shards, of).map_or(&[], |index| &self.shards[index].replicas)
    }

    /// All that have slots, in the order of their addresses.
    pub fn primaries(&self) -> impl Iterator<Item = &Address> {
        self.shards.iter().map(|shard| &shard.primary)
    }

    /// Whether a server is one of them, in whatever part.
    pub fn has(&self, address: &Address) -> bool {
        self.shards.iter().any(|shard| shard.primary == *address || shard.replicas.contains(address))
    }

    /// A slot has moved, as its old owner says.
    pub fn moved(&mut self, slot: u16, to: Address) {
        if slot >= SLOTS || self.primary(slot) == Some(&to) {
            return;
        }
        // Who was somebody's replica and has taken over is nobody's any more.
        for shard in &mut self.shards {
            shard.replicas.retain(|replica| *replica != to);
        }
        let index = place(&self.shards, &to).unwrap_or_else(|index| {
            self.shards.insert(index, Shard { primary: to, replicas: Vec::new() });
            self.renumber(index, |owner| owner + 1);
            index
        });
        let owner = u16::try_from(index).unwrap_or(NOBODY);
        let old = std::mem::replace(&mut self.owners[usize::from(slot)], owner);
        if old != NOBODY && !self.owners.contains(&old) {
            self.shards.remove(usize::from(old));
            self.renumber(usize::from(old), |owner| owner - 1);
        }
    }

    /// Changes the numbers of shards from `first` on.
    fn renumber(&mut self, first: usize, number: impl Fn(u16) -> u16) {
        for owner in &mut self.owners {
            if *owner != NOBODY && usize::from(*owner) >= first {
                *owner = number(*owner);
            }
        }
    }
}

/// Where a primary is among the shards, or would be.
fn place(shards: &[Shard], primary: &Address) -> Result<usize, usize> {
    shards.binary_search_by(|shard| shard.primary.cmp(primary))
}

fn slot_number(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|slot| *slot < SLOTS)
}

enum Node {
    At(Address),
    Unknown,
}

/// Reads host, port and what else is said of a server.
fn node(node: &Value, asked: &Address) -> Option<Node> {
    let [host, Value::Int(port), ..] = node.as_array()? else { return None };
    let port = u16::try_from(*port).ok()?;
    let host = match host {
        Value::Null => "",
        host => host.as_str()?,
    };
    Some(at(host, port, asked).map_or(Node::Unknown, Node::At))
}

/// The address of a server that the one at `asked` names; without a host it means itself. `None` if it does not know where
/// that is.
pub fn at(host: &str, port: u16, asked: &Address) -> Option<Address> {
    let host = match (host, asked) {
        ("?", _) | ("", Address::Unix { .. }) => return None,
        ("", Address::Tcp { host, .. }) if host.is_empty() => return None,
        ("", Address::Tcp { host, .. }) => host.clone(),
        (host, _) => host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase(),
    };
    (port != 0).then_some(Address::Tcp { host, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers_all(map: &SlotMap) -> bool {
        (0..SLOTS).all(|slot| map.primary(slot).is_some())
    }

    fn changed_owners(map: &SlotMap, old: &SlotMap) -> Vec<u16> {
        (0..SLOTS).filter(|slot| map.primary(*slot) != old.primary(*slot)).collect()
    }
    use bytes::Bytes;
    use proptest::prelude::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp { host: host.to_owned(), port }
    }

    fn text(text: &str) -> Value {
        Value::Text(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn server(host: Value, port: i64) -> Value {
        Value::Array(vec![host, Value::Int(port), text("id"), Value::Array(vec![])])
    }

    fn range(first: i64, last: i64, servers: &[(&str, i64)]) -> Value {
        let servers = servers.iter().map(|(host, port)| server(text(host), *port));
        Value::Array([Value::Int(first), Value::Int(last)].into_iter().chain(servers).collect())
    }

    fn read(ranges: Vec<Value>) -> Option<SlotMap> {
        SlotMap::read(&Value::Array(ranges), &tcp("seed", 1))
    }

    fn three() -> SlotMap {
        read(vec![
            range(10923, 16383, &[("a", 3), ("a", 13)]),
            range(0, 5460, &[("a", 1), ("a", 12), ("a", 11)]),
            range(5461, 10922, &[("a", 2)]),
        ])
        .unwrap()
    }

    #[test]
    fn slots_are_those_of_the_specification() {
        for (key, expected) in [
            ("123456789", 12739),
            ("foo", 12182),
            ("bar", 5061),
            ("hello", 866),
            ("", 0),
            ("{user1000}.following", 3443),
            ("user1000", 3443),
            ("{foo}{bar}", 12182),
            ("x}{foo}", 12182),
        ] {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
        // An empty tag is none, and neither is one that does not end.
        assert_eq!(slot(b"foo{}{bar}"), CRC.checksum(b"foo{}{bar}") % SLOTS);
        assert_eq!(slot(b"foo{bar"), CRC.checksum(b"foo{bar") % SLOTS);
        assert_eq!(slot(b"foo{{bar}}"), CRC.checksum(b"{bar") % SLOTS);
    }

    #[test]
    fn every_slot_has_its_owner() {
        let map = three();
        assert!(covers_all(&map));
        assert_eq!(map.primary(0), Some(&tcp("a", 1)));
        assert_eq!(map.primary(5461), Some(&tcp("a", 2)));
        assert_eq!(map.primary(16383), Some(&tcp("a", 3)));
        assert_eq!(map.primary(SLOTS), None);
        assert_eq!(map.primaries().cloned().collect::<Vec<_>>(), [tcp("a", 1), tcp("a", 2), tcp("a", 3)]);
        assert_eq!(map.replicas(&tcp("a", 1)), [tcp("a", 11), tcp("a", 12)]);
        assert!(map.replicas(&tcp("a", 2)).is_empty() && map.replicas(&tcp("b", 2)).is_empty());
    }

    #[test]
    fn who_cannot_be_reached_is_left_out() {
        let map = read(vec![
            Value::Array(vec![Value::Int(0), Value::Int(9), server(Value::Null, 5), server(text("?"), 6)]),
            range(10, 19, &[("?", 5), ("b", 6)]),
            range(20, 29, &[("b", 0)]),
            range(30, 39, &[("B", 7), ("", 8), ("b", 0)]),
        ])
        .unwrap();
        assert!(!covers_all(&map));
        assert_eq!(map.primary(0), Some(&tcp("seed", 5)));
        assert!(map.replicas(&tcp("seed", 5)).is_empty());
        assert!(map.primary(10).is_none() && map.primary(20).is_none() && map.primary(40).is_none());
        assert_eq!(map.replicas(map.primary(30).unwrap()), [tcp("seed", 8)]);
        assert_eq!(map.primaries().count(), 2);
        let by_socket = Address::Unix { path: "/s".to_owned() };
        assert_eq!(SlotMap::read(&Value::Array(vec![range(0, 9, &[("", 5)])]), &by_socket).unwrap().primary(0), None);
    }

    #[test]
    fn something_else_is_no_map() {
        for other in [
            text("OK"),
            Value::Null,
            Value::Array(vec![text("a")]),
            Value::Array(vec![Value::Array(vec![])]),
            Value::Array(vec![range(0, 16384, &[("a", 1)])]),
            Value::Array(vec![range(-1, 1, &[("a", 1)])]),
            Value::Array(vec![range(9, 1, &[("a", 1)])]),
            Value::Array(vec![range(0, 1, &[("a", 65536)])]),
            Value::Array(vec![range(0, 1, &[])]),
            Value::Array(vec![range(0, 9, &[("a", 1)]), range(9, 10, &[("a", 2)])]),
            Value::Array(vec![Value::Array(vec![Value::Int(0), Value::Int(1), Value::Array(vec![text("a")])])]),
        ] {
            assert_eq!(SlotMap::read(&other, &tcp("seed", 1)), None, "{other:?}");
        }
        assert!(!covers_all(&read(vec![]).unwrap()));
    }

    #[test]
    fn a_slot_moves_alone() {
        let (old, mut map) = (three(), three());
        map.moved(7, tcp("a", 1));
        assert_eq!(map, old);
        map.moved(7, tcp("a", 2));
        assert_eq!(changed_owners(&map, &old), [7]);
        // A newcomer, and a replica that has taken over.
        map.moved(8, tcp("a", 0));
        map.moved(9, tcp("a", 11));
        assert_eq!(changed_owners(&map, &old), [7, 8, 9]);
        assert_eq!(map.primary(6), Some(&tcp("a", 1)));
        assert_eq!(map.primary(16383), Some(&tcp("a", 3)));
        assert_eq!(map.replicas(&tcp("a", 1)), [tcp("a", 12)]);
        assert_eq!(map.primaries().count(), 5);
        map.moved(8, tcp("a", 1));
        map.moved(SLOTS, tcp("a", 99));
        assert_eq!(map.primaries().count(), 4);
        assert!(covers_all(&map));
    }

    proptest! {
        #[test]
        fn moves_one_by_one_make_the_map_that_a_server_tells(moves in prop::collection::vec((0u16..20, 1u16..6), 0..60)) {
            let mut map = read(vec![range(0, 9, &[("a", 3)]), range(10, 18, &[("a", 4)])]).unwrap();
            let mut owners: Vec<u16> = (0..20).map(|slot| match slot { 0..=9 => 3, 10..=18 => 4, _ => 0 }).collect();
            for (slot, port) in moves {
                map.moved(slot, tcp("a", port));
                owners[usize::from(slot)] = port;
            }
            let told = owners.iter().enumerate().filter(|(_, port)| **port != 0);
            let told = told.map(|(slot, port)| range(slot as i64, slot as i64, &[("a", i64::from(*port))]));
            prop_assert_eq!(map, read(told.collect()).unwrap());
        }

        #[test]
        fn a_tag_alone_decides(tag in "[^{}]{1,9}", before in "[^{]{0,9}", after in ".{0,9}") {
            prop_assert_eq!(slot(format!("{before}{{{tag}}}{after}").as_bytes()), slot(tag.as_bytes()));
        }
    }
}
